-- The sku of a removed product is free again: two products that can be ordered never share one. SQLite can't take the constraint of a
-- column away, so the table is made anew.
CREATE TABLE products_anew (
    product_id BLOB PRIMARY KEY,
    sku TEXT NOT NULL,
    title TEXT NOT NULL,
    category TEXT NOT NULL,
    price_minor INTEGER NOT NULL CHECK (price_minor >= 0),
    currency TEXT NOT NULL,
    removed INTEGER NOT NULL CHECK (removed IN (0, 1)),
    version INTEGER NOT NULL,
    added_us INTEGER NOT NULL,
    -- Title and sku in lower case, so that both databases search alike.
    search TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO products_anew SELECT product_id, sku, title, category, price_minor, currency, removed, version, added_us, search FROM products;
DROP TABLE products;
ALTER TABLE products_anew RENAME TO products;
CREATE INDEX products_category ON products (category, product_id);
CREATE UNIQUE INDEX products_sku ON products (sku) WHERE removed = 0;
