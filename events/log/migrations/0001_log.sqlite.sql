-- The event log and what must move in the same transaction as it.
CREATE TABLE log (
    position INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    stream TEXT NOT NULL,
    version INTEGER NOT NULL,
    topic TEXT,
    key TEXT,
    kind TEXT NOT NULL,
    schema INTEGER NOT NULL,
    data TEXT NOT NULL,
    cause BLOB,
    correlation BLOB,
    traceparent TEXT,
    tracestate TEXT,
    time_us INTEGER NOT NULL,
    actor TEXT
) STRICT;
CREATE UNIQUE INDEX log_stream ON log (stream, version);

CREATE TABLE head (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    position INTEGER NOT NULL,
    service TEXT NOT NULL,
    log_id BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    -- Keys the hashes of idempotency keys; the same for every replica.
    secret BLOB NOT NULL
) STRICT;

CREATE TABLE progress (
    consumer TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    PRIMARY KEY (consumer, topic, partition)
) STRICT;

CREATE TABLE idempotency (
    key BLOB PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    status INTEGER NOT NULL,
    location TEXT,
    body TEXT NOT NULL,
    time_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_time ON idempotency (time_us);

CREATE TABLE dead_letters (
    stream TEXT PRIMARY KEY,
    consumer TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    message_offset INTEGER NOT NULL,
    kind TEXT NOT NULL,
    error TEXT NOT NULL,
    message TEXT NOT NULL,
    replays INTEGER NOT NULL,
    time_us INTEGER NOT NULL,
    solved_us INTEGER
) STRICT;
