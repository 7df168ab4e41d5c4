-- How often all sessions of an account were ended: a login that began before is not let in after.
ALTER TABLE users ADD COLUMN sessions_ended INTEGER NOT NULL DEFAULT 0;
