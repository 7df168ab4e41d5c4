-- Accounts, refresh tokens and signing keys. The only place with personal data: the log has ids.
CREATE TABLE users (
    id BLOB PRIMARY KEY,
    version INTEGER NOT NULL,
    email TEXT NOT NULL,
    name TEXT NOT NULL,
    password TEXT NOT NULL,
    role TEXT NOT NULL,
    registered_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX users_email ON users (email);

CREATE TABLE refresh_tokens (
    hash BLOB PRIMARY KEY,
    family BLOB NOT NULL,
    user_id BLOB NOT NULL,
    expires_us INTEGER NOT NULL,
    used INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX refresh_tokens_family ON refresh_tokens (family);
CREATE INDEX refresh_tokens_user ON refresh_tokens (user_id);
CREATE INDEX refresh_tokens_expires ON refresh_tokens (expires_us);

CREATE TABLE signing_keys (
    kid TEXT PRIMARY KEY,
    seed BLOB NOT NULL,
    made_us INTEGER NOT NULL,
    signs_from_us INTEGER,
    retired_us INTEGER
) STRICT, WITHOUT ROWID;
