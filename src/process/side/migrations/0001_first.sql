CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tenants (
    name       TEXT PRIMARY KEY,
    realm      TEXT NOT NULL,
    is_default INTEGER NOT NULL,
    record     TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Position 0 is the tenant's own domain, the others are aliases.
CREATE TABLE domains (
    domain   TEXT PRIMARY KEY,
    tenant   TEXT NOT NULL REFERENCES tenants (name),
    position INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX domains_by_tenant ON domains (tenant, position);

-- The secret is sealed under the node key; digest_realm is the realm that ready-made digests belong to.
CREATE TABLE phones (
    tenant       TEXT NOT NULL REFERENCES tenants (name),
    user         TEXT NOT NULL,
    auth_user    TEXT NOT NULL,
    extension    TEXT NOT NULL,
    name         TEXT NOT NULL,
    record       TEXT NOT NULL,
    external_id  TEXT NOT NULL,
    secret       BLOB NOT NULL,
    digest_realm TEXT,
    PRIMARY KEY (tenant, user)
) STRICT, WITHOUT ROWID;

CREATE TABLE numbers (
    number TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    user   TEXT NOT NULL,
    FOREIGN KEY (tenant, user) REFERENCES phones (tenant, user)
) STRICT, WITHOUT ROWID;
CREATE INDEX numbers_by_phone ON numbers (tenant, user);

-- Times are microseconds since 1970. Position is the order of arrival here, which live readers resume by.
CREATE TABLE events (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id       TEXT NOT NULL,
    node     TEXT NOT NULL,
    boot     INTEGER NOT NULL,
    shard    INTEGER NOT NULL,
    seq      INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    tenant   TEXT NOT NULL,
    call     TEXT,
    leg      INTEGER,
    type     TEXT NOT NULL,
    body     TEXT NOT NULL,
    UNIQUE (node, boot, shard, seq)
) STRICT;
CREATE INDEX events_by_call ON events (call) WHERE call IS NOT NULL;
CREATE INDEX events_by_id ON events (id);
CREATE INDEX events_by_at ON events (at);

-- How far each shard of each boot has been read: the highest seq, and how many below it never came.
CREATE TABLE positions (
    node    TEXT NOT NULL,
    boot    INTEGER NOT NULL,
    shard   INTEGER NOT NULL,
    highest INTEGER NOT NULL,
    missing INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    PRIMARY KEY (node, boot, shard)
) STRICT, WITHOUT ROWID;

-- Calls that began and have no final record yet.
CREATE TABLE open_calls (
    call TEXT PRIMARY KEY,
    node TEXT NOT NULL,
    boot INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Position is the order in which records became final. lost_at: closed here because its boot is dead.
CREATE TABLE cdrs (
    position    INTEGER PRIMARY KEY AUTOINCREMENT,
    call        TEXT NOT NULL UNIQUE,
    sip_call_id TEXT NOT NULL,
    tenant      TEXT NOT NULL,
    from_user   TEXT NOT NULL,
    to_user     TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    lost_at     INTEGER,
    record      TEXT NOT NULL
) STRICT;
CREATE INDEX cdrs_by_sip_call_id ON cdrs (sip_call_id);
CREATE INDEX cdrs_by_start ON cdrs (started_at);
CREATE INDEX cdrs_by_tenant ON cdrs (tenant, call);
CREATE INDEX cdrs_by_from ON cdrs (from_user, call);
CREATE INDEX cdrs_by_to ON cdrs (to_user, call);

CREATE TABLE traces (
    call   TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    at     INTEGER NOT NULL,
    steps  TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX traces_by_at ON traces (at);

-- Of a token only its hash is kept. tenants: a JSON list, or NULL for all of them.
CREATE TABLE tokens (
    hash       BLOB PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    role       TEXT NOT NULL,
    tenants    TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    at       INTEGER NOT NULL,
    actor    TEXT NOT NULL,
    action   TEXT NOT NULL,
    subject  TEXT NOT NULL,
    tenant   TEXT,
    outcome  TEXT NOT NULL,
    source   TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_at ON audit (at);
