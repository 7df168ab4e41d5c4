-- What a broker between two logs needs: how far a log is published, what of other logs has been seen, what waits for a gap to close.

-- Which replica publishes, and how far it has come. The fence grows with each leader, so that an old one can't move the checkpoint.
CREATE TABLE relay (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    owner BLOB,
    lease_until_us INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    -- Rows up to this position have been published.
    position INTEGER NOT NULL,
    -- The last published position of each topic and partition, as JSON.
    chain TEXT NOT NULL
) STRICT;
INSERT INTO relay (one, owner, lease_until_us, fence, position, chain) VALUES (1, NULL, 0, 0, 0, '{}');

-- From which position on rows belong to an epoch: a log that lost commits goes on in a new one.
CREATE TABLE epochs (
    epoch INTEGER PRIMARY KEY,
    first_position INTEGER NOT NULL
) STRICT;
INSERT INTO epochs (epoch, first_position) VALUES (1, 1);

CREATE TABLE seen (
    consumer TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    source TEXT NOT NULL,
    last_sequence INTEGER NOT NULL,
    PRIMARY KEY (consumer, topic, partition, source)
) STRICT;

-- Messages whose predecessor in the partition has not come yet.
CREATE TABLE parked (
    consumer TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    source TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    previous INTEGER NOT NULL,
    message_offset INTEGER NOT NULL,
    -- As it stood on the topic, as JSON.
    record TEXT NOT NULL,
    time_us INTEGER NOT NULL,
    PRIMARY KEY (consumer, topic, partition, source, sequence)
) STRICT;

ALTER TABLE dead_letters ADD COLUMN cause TEXT NOT NULL DEFAULT 'refused';
