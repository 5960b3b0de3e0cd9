-- Days that recordings of the tenant are kept; 0: until they are deleted.
ALTER TABLE tenants ADD COLUMN recording_days INTEGER NOT NULL DEFAULT 0;

-- Where a recording's audio lies: folder, or gone.
ALTER TABLE recordings ADD COLUMN stored TEXT NOT NULL DEFAULT 'folder';
CREATE INDEX recordings_to_remove ON recordings (id) WHERE state = 'absent' AND stored <> 'gone';
CREATE INDEX recordings_to_expire ON recordings (tenant, started_at) WHERE state = 'completed' AND is_held = 0;
