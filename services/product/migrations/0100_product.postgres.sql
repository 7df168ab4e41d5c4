-- The catalogue, the stock and the reservations. All three are folds of the log.
CREATE TABLE products (
    product_id UUID PRIMARY KEY,
    sku TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    category TEXT NOT NULL,
    price_minor BIGINT NOT NULL CHECK (price_minor >= 0),
    currency TEXT NOT NULL,
    removed BIGINT NOT NULL CHECK (removed IN (0, 1)),
    version BIGINT NOT NULL,
    added_us BIGINT NOT NULL,
    -- Title and sku in lower case, so that both databases search alike.
    search TEXT NOT NULL
);
CREATE INDEX products_category ON products (category, product_id);

-- Where the pieces of a product are: free, held for an order, sold. None is ever lost.
CREATE TABLE stock (
    product_id UUID PRIMARY KEY,
    on_hand BIGINT NOT NULL CHECK (on_hand >= 0),
    reserved BIGINT NOT NULL CHECK (reserved >= 0),
    sold BIGINT NOT NULL CHECK (sold >= 0),
    added BIGINT NOT NULL,
    CHECK (on_hand + reserved + sold = added)
);

CREATE TABLE reservations (
    order_id UUID PRIMARY KEY,
    status TEXT NOT NULL CHECK (status IN ('reserved', 'refused', 'released', 'committed')),
    -- JSON: what is held, what was sold, or what went back.
    lines TEXT NOT NULL,
    -- JSON: why ReserveStock was refused, if it was.
    refusal TEXT,
    restocked BIGINT NOT NULL CHECK (restocked IN (0, 1)),
    version BIGINT NOT NULL,
    changed_us BIGINT NOT NULL
);
