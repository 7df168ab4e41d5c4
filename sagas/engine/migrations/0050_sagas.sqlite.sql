-- One row an instance: the fold of its stream, so that opening a service replays nothing.
CREATE TABLE sagas (
    id BLOB PRIMARY KEY,
    saga TEXT NOT NULL,
    definition INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    attempt INTEGER NOT NULL,
    stuck INTEGER NOT NULL,
    version INTEGER NOT NULL,
    due_us INTEGER,
    started_us INTEGER NOT NULL,
    ended_us INTEGER,
    context TEXT NOT NULL,
    traceparent TEXT,
    tracestate TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX sagas_due ON sagas (due_us) WHERE due_us IS NOT NULL;
CREATE INDEX sagas_stuck ON sagas (id) WHERE stuck = 1;
