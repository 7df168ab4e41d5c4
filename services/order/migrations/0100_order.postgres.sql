-- What was ordered, as it was placed: never changed. How it went stands in its saga's row.
CREATE TABLE orders (
    order_id UUID PRIMARY KEY,
    customer_id UUID NOT NULL,
    lines TEXT NOT NULL,
    total_minor BIGINT NOT NULL,
    currency TEXT NOT NULL,
    placed_us BIGINT NOT NULL
);
CREATE INDEX orders_customer ON orders (customer_id, order_id);
