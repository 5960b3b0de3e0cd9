-- stored: folder, then both when the object store has it too, then s3 when the file is removed here; gone when both are.
CREATE INDEX recordings_to_upload ON recordings (id) WHERE state = 'completed' AND stored IN ('folder', 'both');
