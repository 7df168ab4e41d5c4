-- One row an order: the state of its payment, and the call that is open.
CREATE TABLE payments (
    order_id BLOB PRIMARY KEY,
    customer_id BLOB,
    status TEXT NOT NULL,
    amount_minor INTEGER,
    currency TEXT,
    token TEXT,
    operation TEXT,
    due_us INTEGER,
    opened_us INTEGER,
    intent_id BLOB,
    traceparent TEXT,
    tracestate TEXT,
    tries INTEGER NOT NULL,
    stuck INTEGER NOT NULL,
    void_requested INTEGER NOT NULL,
    declined_code TEXT,
    refused_code TEXT,
    captured_minor INTEGER NOT NULL CHECK (captured_minor >= 0),
    refunded_minor INTEGER NOT NULL CHECK (refunded_minor >= 0 AND refunded_minor <= captured_minor),
    version INTEGER NOT NULL,
    time_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX payments_due ON payments (due_us) WHERE due_us IS NOT NULL;

-- The built-in provider's own books: every call by its idempotency key, and what stands against an order.
CREATE TABLE provider_calls (
    key TEXT PRIMARY KEY,
    order_id BLOB NOT NULL,
    operation TEXT NOT NULL,
    amount_minor INTEGER NOT NULL,
    currency TEXT NOT NULL,
    answer TEXT,
    code TEXT,
    effective_at_us INTEGER NOT NULL,
    time_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE provider_charges (
    order_id BLOB PRIMARY KEY,
    currency TEXT NOT NULL,
    held_minor INTEGER NOT NULL,
    captured_minor INTEGER NOT NULL,
    refunded_minor INTEGER NOT NULL,
    captures INTEGER NOT NULL,
    operations INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
