-- forgotten  the version of the last change that the log of values has forgotten. In a new file that is every change
--            before now, and versions begin here too: whoever knows an earlier file of the same path must read anew.
ALTER TABLE coord_counters ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0;

UPDATE coord_counters SET revision = max(revision, unixepoch() * 1000000);
UPDATE coord_counters SET forgotten = revision;

-- The values. A key that was deleted stays only if it has a mark.
--   key      namespace/key
--   version  the revision of the last change; it is the greater of the last revision plus one and the wall clock in
--            microseconds since 1970, so that it is not used twice even when the file is lost
--   mark     the high-water mark of tokens; it never falls
--   at       milliseconds since 1970, for people
CREATE TABLE coord_values (
    key     TEXT    NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    mark    INTEGER,
    at      INTEGER NOT NULL,
    author  TEXT    NOT NULL,
    value   BLOB
) STRICT;

-- The last changes of all values, in their order.
CREATE TABLE coord_value_log (
    place   INTEGER PRIMARY KEY,
    key     TEXT    NOT NULL,
    version INTEGER NOT NULL,
    mark    INTEGER,
    at      INTEGER NOT NULL,
    author  TEXT    NOT NULL,
    value   BLOB
) STRICT;

CREATE INDEX coord_value_log_key ON coord_value_log (key);
CREATE INDEX coord_value_log_version ON coord_value_log (version);

-- The last transactions, so that one whose answer was lost is not done twice.
--   until  milliseconds on the host's clock (time since boot)
CREATE TABLE coord_writes (
    id       BLOB    NOT NULL PRIMARY KEY,
    revision INTEGER NOT NULL,
    until    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX coord_writes_until ON coord_writes (until);
