-- What was ordered, as it was placed: never changed. How it went stands in its saga's row.
CREATE TABLE orders (
    order_id BLOB PRIMARY KEY,
    customer_id BLOB NOT NULL,
    lines TEXT NOT NULL,
    total_minor INTEGER NOT NULL,
    currency TEXT NOT NULL,
    placed_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX orders_customer ON orders (customer_id, order_id);
