-- What a refresh token was exchanged for, and when: whoever shows it again at once gets the same. Sealed with the token itself, which is kept
-- nowhere.
ALTER TABLE refresh_tokens ADD COLUMN exchanged_us INTEGER;
ALTER TABLE refresh_tokens ADD COLUMN successor BLOB;
