-- The catalogue, the stock and the reservations. All three are folds of the log.
CREATE TABLE products (
    product_id BLOB PRIMARY KEY,
    sku TEXT NOT NULL UNIQUE,
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
CREATE INDEX products_category ON products (category, product_id);

-- Where the pieces of a product are: free, held for an order, sold. None is ever lost.
CREATE TABLE stock (
    product_id BLOB PRIMARY KEY,
    on_hand INTEGER NOT NULL CHECK (on_hand >= 0),
    reserved INTEGER NOT NULL CHECK (reserved >= 0),
    sold INTEGER NOT NULL CHECK (sold >= 0),
    added INTEGER NOT NULL,
    CHECK (on_hand + reserved + sold = added)
) STRICT, WITHOUT ROWID;

CREATE TABLE reservations (
    order_id BLOB PRIMARY KEY,
    status TEXT NOT NULL CHECK (status IN ('reserved', 'refused', 'released', 'committed')),
    -- JSON: what is held, what was sold, or what went back.
    lines TEXT NOT NULL,
    -- JSON: why ReserveStock was refused, if it was.
    refusal TEXT,
    restocked INTEGER NOT NULL CHECK (restocked IN (0, 1)),
    version INTEGER NOT NULL,
    changed_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
