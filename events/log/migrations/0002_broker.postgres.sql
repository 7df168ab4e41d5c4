-- What a broker between two logs needs: how far a log is published, what of other logs has been seen, what waits for a gap to close.

-- Which replica publishes, and how far it has come. The fence grows with each leader, so that an old one can't move the checkpoint.
CREATE TABLE relay (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    owner UUID,
    lease_until_us BIGINT NOT NULL,
    fence BIGINT NOT NULL,
    -- Rows up to this position have been published.
    position BIGINT NOT NULL,
    -- The last published position of each topic and partition, as JSON.
    chain TEXT NOT NULL
);
INSERT INTO relay (one, owner, lease_until_us, fence, position, chain) VALUES (1, NULL, 0, 0, 0, '{}');

-- From which position on rows belong to an epoch: a log that lost commits goes on in a new one.
CREATE TABLE epochs (
    epoch BIGINT PRIMARY KEY,
    first_position BIGINT NOT NULL
);
INSERT INTO epochs (epoch, first_position) VALUES (1, 1);

CREATE TABLE seen (
    consumer TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition BIGINT NOT NULL,
    source TEXT NOT NULL,
    last_sequence BIGINT NOT NULL,
    PRIMARY KEY (consumer, topic, partition, source)
);

-- Messages whose predecessor in the partition has not come yet.
CREATE TABLE parked (
    consumer TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition BIGINT NOT NULL,
    source TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    previous BIGINT NOT NULL,
    message_offset BIGINT NOT NULL,
    -- As it stood on the topic, as JSON.
    record TEXT NOT NULL,
    time_us BIGINT NOT NULL,
    PRIMARY KEY (consumer, topic, partition, source, sequence)
);

ALTER TABLE dead_letters ADD COLUMN cause TEXT NOT NULL DEFAULT 'refused';
