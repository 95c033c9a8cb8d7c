-- The items of all queues. An item's place is its place in the order of commits.
--   queue       namespace/name
--   ready_at    milliseconds on the host's clock; due_at is the same moment since 1970, to find it again after a boot
--   ripe        whether the delay was found to have passed
--   head        whether it is behind no other item of its family (its group)
--   token       of the delivery under way, with `receive` (its attempt), `owner` and `expires_at` (the host's clock)
--   returned    the token of the delivery that was given back last
--   pushed_at   milliseconds since 1970, for people
CREATE TABLE coord_items (
    place      INTEGER PRIMARY KEY,
    queue      TEXT    NOT NULL,
    id         BLOB    NOT NULL,
    priority   INTEGER NOT NULL,
    family     TEXT,
    head       INTEGER NOT NULL DEFAULT 1,
    ripe       INTEGER NOT NULL,
    ready_at   INTEGER NOT NULL,
    due_at     INTEGER NOT NULL,
    attempts   INTEGER NOT NULL DEFAULT 0,
    token      INTEGER,
    receive    BLOB,
    owner      TEXT,
    expires_at INTEGER,
    returned   INTEGER,
    pushed_at  INTEGER NOT NULL,
    payload    BLOB    NOT NULL,
    UNIQUE (queue, id)
) STRICT;

-- What can be delivered, in the order of delivery: a receive reads its first entries, however many items there are.
CREATE INDEX coord_items_ready ON coord_items (queue, priority DESC, place)
    WHERE token IS NULL AND head = 1 AND ripe = 1;
CREATE INDEX coord_items_delayed ON coord_items (queue, ready_at) WHERE ripe = 0;
CREATE INDEX coord_items_leased ON coord_items (queue, expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX coord_items_receive ON coord_items (queue, receive) WHERE receive IS NOT NULL;
CREATE INDEX coord_items_tried ON coord_items (queue, attempts) WHERE attempts > 0;
CREATE INDEX coord_items_family ON coord_items (queue, family, place) WHERE family IS NOT NULL;

CREATE TRIGGER coord_items_behind AFTER INSERT ON coord_items WHEN new.family IS NOT NULL
BEGIN
    UPDATE coord_items SET head = 0
    WHERE place = new.place AND EXISTS (
        SELECT 1 FROM coord_items
        WHERE queue = new.queue AND family = new.family AND place < new.place);
END;

CREATE TRIGGER coord_items_next AFTER DELETE ON coord_items WHEN old.family IS NOT NULL
BEGIN
    UPDATE coord_items SET head = 1
    WHERE head = 0 AND place = (
        SELECT min(place) FROM coord_items WHERE queue = old.queue AND family = old.family);
END;

-- The items that were given up, in the order in which they were.
CREATE TABLE coord_dead_items (
    place    INTEGER PRIMARY KEY,
    queue    TEXT    NOT NULL,
    id       BLOB    NOT NULL,
    attempts INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    family   TEXT,
    died_at  INTEGER NOT NULL,
    payload  BLOB    NOT NULL,
    UNIQUE (queue, id)
) STRICT;

CREATE INDEX coord_dead_items_queue ON coord_dead_items (queue);

-- The items that were acknowledged, with the token, or dropped, for a while: so that a push or an acknowledgement can be
-- sent again.
--   until  milliseconds on the host's clock (time since boot)
CREATE TABLE coord_gone_items (
    queue TEXT    NOT NULL,
    id    BLOB    NOT NULL,
    token INTEGER,
    until INTEGER NOT NULL,
    PRIMARY KEY (queue, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX coord_gone_items_until ON coord_gone_items (until);
