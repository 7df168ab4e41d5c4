-- One row a notification; due_us stands while it has not been delivered or given up.
CREATE TABLE notifications (
    notification_id UUID PRIMARY KEY,
    order_id UUID NOT NULL,
    customer_id UUID NOT NULL,
    template TEXT NOT NULL,
    subject TEXT NOT NULL,
    body TEXT NOT NULL,
    status TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    reason TEXT,
    due_us BIGINT,
    queued_id UUID NOT NULL,
    traceparent TEXT,
    tracestate TEXT,
    version BIGINT NOT NULL,
    time_us BIGINT NOT NULL
);
CREATE UNIQUE INDEX notifications_outcome ON notifications (order_id, template);
CREATE INDEX notifications_customer ON notifications (customer_id, notification_id);
CREATE INDEX notifications_due ON notifications (due_us) WHERE due_us IS NOT NULL;
