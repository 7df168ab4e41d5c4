-- The event log and what must move in the same transaction as it.
CREATE TABLE log (
    position BIGINT PRIMARY KEY,
    id UUID NOT NULL,
    stream TEXT NOT NULL,
    version BIGINT NOT NULL,
    topic TEXT,
    key TEXT,
    kind TEXT NOT NULL,
    schema BIGINT NOT NULL,
    data TEXT NOT NULL,
    cause UUID,
    correlation UUID,
    traceparent TEXT,
    tracestate TEXT,
    time_us BIGINT NOT NULL,
    actor TEXT
);
CREATE UNIQUE INDEX log_stream ON log (stream, version);

CREATE TABLE head (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    position BIGINT NOT NULL,
    service TEXT NOT NULL,
    log_id UUID NOT NULL,
    epoch BIGINT NOT NULL,
    -- Keys the hashes of idempotency keys; the same for every replica.
    secret BYTEA NOT NULL
);

CREATE TABLE progress (
    consumer TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition BIGINT NOT NULL,
    next_offset BIGINT NOT NULL,
    PRIMARY KEY (consumer, topic, partition)
);

CREATE TABLE idempotency (
    key BYTEA PRIMARY KEY,
    fingerprint BYTEA NOT NULL,
    status BIGINT NOT NULL,
    location TEXT,
    body TEXT NOT NULL,
    time_us BIGINT NOT NULL
);
CREATE INDEX idempotency_time ON idempotency (time_us);

CREATE TABLE dead_letters (
    stream TEXT PRIMARY KEY,
    consumer TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition BIGINT NOT NULL,
    message_offset BIGINT NOT NULL,
    kind TEXT NOT NULL,
    error TEXT NOT NULL,
    message TEXT NOT NULL,
    replays BIGINT NOT NULL,
    time_us BIGINT NOT NULL,
    solved_us BIGINT
);
