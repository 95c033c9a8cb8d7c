-- The store's counters. One row; `shard` leaves room for more.
--   token     the last token given out; it never falls, and 2^53-1 is the last one
--   revision  grows with every change
--   host      the boot of the host on whose clock the leases of this file are judged
CREATE TABLE coord_counters (
    shard    INTEGER PRIMARY KEY,
    token    INTEGER NOT NULL CHECK (token <= 9007199254740991),
    revision INTEGER NOT NULL,
    host     TEXT    NOT NULL
) STRICT;

INSERT INTO coord_counters (shard, token, revision, host) VALUES (0, 0, 0, '');

-- The claims of all lines. A claim's token is its place in the line. When the last claim of a line leaves, nothing of
-- the line remains.
--   line        kind/namespace/name
--   client      whom to wake
--   expires_at  milliseconds on the host's clock (time since boot)
--   granted_at  milliseconds since 1970, for people; null while the claim waits
--   joined_at   milliseconds since 1970, for people
CREATE TABLE coord_claims (
    token      INTEGER PRIMARY KEY,
    line       TEXT    NOT NULL,
    id         BLOB    NOT NULL UNIQUE,
    client     BLOB    NOT NULL,
    weight     INTEGER NOT NULL,
    capacity   INTEGER NOT NULL,
    priority   INTEGER NOT NULL,
    ttl_ms     INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    granted_at INTEGER,
    joined_at  INTEGER NOT NULL,
    owner      TEXT    NOT NULL,
    value      BLOB    NOT NULL
) STRICT;

-- Every index entry ends with the token, so this one lists a line in its order.
CREATE INDEX coord_claims_line ON coord_claims (line);
-- Tells at once whether anybody waits in a line, and the greatest capacity among them.
CREATE INDEX coord_claims_waiting ON coord_claims (line, capacity) WHERE granted_at IS NULL;
CREATE INDEX coord_claims_expiry ON coord_claims (expires_at);

-- The clients that want to hear of every change of a line.
CREATE TABLE coord_watches (
    line   TEXT NOT NULL,
    client BLOB NOT NULL,
    PRIMARY KEY (line, client)
) STRICT, WITHOUT ROWID;
