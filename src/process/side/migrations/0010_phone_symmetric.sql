-- Whether media of the phone goes where it comes from: auto, always or never.
ALTER TABLE phones ADD COLUMN symmetric TEXT NOT NULL DEFAULT 'auto';
