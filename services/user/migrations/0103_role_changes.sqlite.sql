-- Roles that were changed a moment ago: tokens that say something else are refused. Rows go once no such token can hold any more.
CREATE TABLE role_changes (
    user_id BLOB PRIMARY KEY,
    role TEXT NOT NULL,
    changed_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX role_changes_changed ON role_changes (changed_us);
CREATE INDEX users_role ON users (role) WHERE role <> 'customer';
