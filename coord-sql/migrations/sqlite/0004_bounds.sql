-- ahead  how many bytes of keys, authors and values went through the log before this change, so that the log is bounded in
--        bytes too, without a walk
ALTER TABLE coord_value_log ADD COLUMN ahead INTEGER NOT NULL DEFAULT 0;

UPDATE coord_value_log SET ahead = sums.ahead
FROM (SELECT place AS at, sum(size) OVER (ORDER BY place) - size AS ahead
      FROM (SELECT place, octet_length(key) + octet_length(author) + coalesce(octet_length(value), 0) AS size
            FROM coord_value_log)) AS sums
WHERE place = sums.at;

CREATE INDEX coord_value_log_ahead ON coord_value_log (ahead);

-- How many items each queue has, the dead ones not counted; a queue without items has no row. So a bounded push counts
-- nothing.
CREATE TABLE coord_queues (
    queue TEXT    NOT NULL PRIMARY KEY,
    items INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO coord_queues (queue, items) SELECT queue, count(*) FROM coord_items GROUP BY queue;

CREATE TRIGGER coord_items_added AFTER INSERT ON coord_items
BEGIN
    INSERT INTO coord_queues (queue, items) VALUES (new.queue, 1)
    ON CONFLICT (queue) DO UPDATE SET items = items + 1;
END;

CREATE TRIGGER coord_items_removed AFTER DELETE ON coord_items
BEGIN
    UPDATE coord_queues SET items = items - 1 WHERE queue = old.queue;
    DELETE FROM coord_queues WHERE queue = old.queue AND items = 0;
END;
