-- Accounts, refresh tokens and signing keys. The only place with personal data: the log has ids.
CREATE TABLE users (
    id UUID PRIMARY KEY,
    version BIGINT NOT NULL,
    email TEXT NOT NULL,
    name TEXT NOT NULL,
    password TEXT NOT NULL,
    role TEXT NOT NULL,
    registered_us BIGINT NOT NULL
);
CREATE UNIQUE INDEX users_email ON users (email);

CREATE TABLE refresh_tokens (
    hash BYTEA PRIMARY KEY,
    family UUID NOT NULL,
    user_id UUID NOT NULL,
    expires_us BIGINT NOT NULL,
    used BIGINT NOT NULL
);
CREATE INDEX refresh_tokens_family ON refresh_tokens (family);
CREATE INDEX refresh_tokens_user ON refresh_tokens (user_id);
CREATE INDEX refresh_tokens_expires ON refresh_tokens (expires_us);

CREATE TABLE signing_keys (
    kid TEXT PRIMARY KEY,
    seed BYTEA NOT NULL,
    made_us BIGINT NOT NULL,
    signs_from_us BIGINT,
    retired_us BIGINT
);
