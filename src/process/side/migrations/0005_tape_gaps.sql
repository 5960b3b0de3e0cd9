-- What was to be on a tape and is not: blocks first to last of a boot, shard and track. noted_in: the boot that noted it.
CREATE TABLE tape_gaps (
    node     TEXT NOT NULL,
    boot     INTEGER NOT NULL,
    shard    INTEGER NOT NULL,
    track    TEXT NOT NULL,
    first    INTEGER NOT NULL,
    last     INTEGER NOT NULL,
    since    INTEGER NOT NULL,
    until    INTEGER NOT NULL,
    records  INTEGER NOT NULL,
    bytes    INTEGER NOT NULL,
    cause    TEXT NOT NULL,
    noted_in INTEGER NOT NULL,
    PRIMARY KEY (node, boot, shard, track, first)
) STRICT, WITHOUT ROWID;
CREATE INDEX tape_gaps_by_time ON tape_gaps (until);
