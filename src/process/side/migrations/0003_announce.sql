-- announce: none, tone or file; announcement: the file's audio, µ-law of 8,000 samples a second.
ALTER TABLE tenants ADD COLUMN announce TEXT NOT NULL DEFAULT 'none';
ALTER TABLE tenants ADD COLUMN announcement BLOB;
