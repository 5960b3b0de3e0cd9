-- Why no recording could be made of a call's store, which is kept: state 'failed'.
ALTER TABLE recordings ADD COLUMN failure TEXT;

DROP INDEX recordings_to_expire;
CREATE INDEX recordings_to_expire ON recordings (tenant, started_at) WHERE state <> 'absent' AND is_held = 0;
