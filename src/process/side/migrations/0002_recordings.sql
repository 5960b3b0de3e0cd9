-- boot, block and record: the last place on the tape that the recording has. Key: the recording's, sealed under its tenant's; no key,
-- no audio. Parties and Call-ID are those of the call's record.
CREATE TABLE recordings (
    id          TEXT PRIMARY KEY,
    call        TEXT NOT NULL,
    tenant      TEXT NOT NULL,
    boot        INTEGER NOT NULL,
    block       INTEGER NOT NULL,
    record      INTEGER NOT NULL,
    started_at  INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    state       TEXT NOT NULL,
    verdict     TEXT NOT NULL,
    encoding    TEXT NOT NULL,
    rate        INTEGER NOT NULL,
    samples     INTEGER NOT NULL,
    sha256      TEXT NOT NULL,
    ledger      TEXT NOT NULL,
    detail      TEXT NOT NULL,
    key         BLOB,
    is_held     INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX recordings_by_call ON recordings (call);
CREATE INDEX recordings_by_tenant ON recordings (tenant, id);
CREATE INDEX recordings_by_start ON recordings (started_at);

-- Sealed under the node key.
CREATE TABLE tenant_keys (
    tenant TEXT PRIMARY KEY,
    key    BLOB NOT NULL
) STRICT, WITHOUT ROWID;
