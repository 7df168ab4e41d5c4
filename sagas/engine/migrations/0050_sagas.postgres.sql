-- One row an instance: the fold of its stream, so that opening a service replays nothing.
CREATE TABLE sagas (
    id UUID PRIMARY KEY,
    saga TEXT NOT NULL,
    definition BIGINT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    attempt BIGINT NOT NULL,
    stuck BIGINT NOT NULL,
    version BIGINT NOT NULL,
    due_us BIGINT,
    started_us BIGINT NOT NULL,
    ended_us BIGINT,
    context TEXT NOT NULL,
    traceparent TEXT,
    tracestate TEXT
);
CREATE INDEX sagas_due ON sagas (due_us) WHERE due_us IS NOT NULL;
CREATE INDEX sagas_stuck ON sagas (id) WHERE stuck = 1;
