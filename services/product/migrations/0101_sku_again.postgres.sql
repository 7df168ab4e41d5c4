-- The sku of a removed product is free again: two products that can be ordered never share one.
ALTER TABLE products DROP CONSTRAINT products_sku_key;
CREATE UNIQUE INDEX products_sku ON products (sku) WHERE removed = 0;
