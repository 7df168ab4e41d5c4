-- One row a notification; due_us stands while it has not been delivered or given up.
CREATE TABLE notifications (
    notification_id BLOB PRIMARY KEY,
    order_id BLOB NOT NULL,
    customer_id BLOB NOT NULL,
    template TEXT NOT NULL,
    subject TEXT NOT NULL,
    body TEXT NOT NULL,
    status TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    reason TEXT,
    due_us INTEGER,
    queued_id BLOB NOT NULL,
    traceparent TEXT,
    tracestate TEXT,
    version INTEGER NOT NULL,
    time_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX notifications_outcome ON notifications (order_id, template);
CREATE INDEX notifications_customer ON notifications (customer_id, notification_id);
CREATE INDEX notifications_due ON notifications (due_us) WHERE due_us IS NOT NULL;
