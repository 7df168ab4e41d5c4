-- One row an order: the state of its payment, and the call that is open.
CREATE TABLE payments (
    order_id UUID PRIMARY KEY,
    customer_id UUID,
    status TEXT NOT NULL,
    amount_minor BIGINT,
    currency TEXT,
    token TEXT,
    operation TEXT,
    due_us BIGINT,
    opened_us BIGINT,
    intent_id UUID,
    traceparent TEXT,
    tracestate TEXT,
    tries BIGINT NOT NULL,
    stuck BIGINT NOT NULL,
    void_requested BIGINT NOT NULL,
    declined_code TEXT,
    refused_code TEXT,
    captured_minor BIGINT NOT NULL CHECK (captured_minor >= 0),
    refunded_minor BIGINT NOT NULL CHECK (refunded_minor >= 0 AND refunded_minor <= captured_minor),
    version BIGINT NOT NULL,
    time_us BIGINT NOT NULL
);
CREATE INDEX payments_due ON payments (due_us) WHERE due_us IS NOT NULL;

-- The built-in provider's own books: every call by its idempotency key, and what stands against an order.
CREATE TABLE provider_calls (
    key TEXT PRIMARY KEY,
    order_id UUID NOT NULL,
    operation TEXT NOT NULL,
    amount_minor BIGINT NOT NULL,
    currency TEXT NOT NULL,
    answer TEXT,
    code TEXT,
    effective_at_us BIGINT NOT NULL,
    time_us BIGINT NOT NULL
);

CREATE TABLE provider_charges (
    order_id UUID PRIMARY KEY,
    currency TEXT NOT NULL,
    held_minor BIGINT NOT NULL,
    captured_minor BIGINT NOT NULL,
    refunded_minor BIGINT NOT NULL,
    captures BIGINT NOT NULL,
    operations BIGINT NOT NULL
);
