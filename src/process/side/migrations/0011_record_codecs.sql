-- What the parties of a call that may be recorded are offered: any, decodable.
ALTER TABLE tenants ADD COLUMN record_codecs TEXT NOT NULL DEFAULT 'any';
