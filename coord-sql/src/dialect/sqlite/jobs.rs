//! The scripts of the jobs in SQLite's words; what each takes and gives is said at [`JobStatements`].

use super::statements::script;
use crate::dialect::JobStatements;

/// `$1` queue, `$2` now. Ends the leases that have run out.
macro_rules! expire {
    () => {
        "UPDATE coord_items SET token = NULL, receive = NULL, owner = NULL, expires_at = NULL \
         WHERE queue = $1 AND expires_at IS NOT NULL AND expires_at <= $2"
    };
}

/// `$2` now. Forgets some items that are long gone, more than one transaction adds.
macro_rules! forget {
    () => {
        "DELETE FROM coord_gone_items WHERE (queue, id) IN ( \
           SELECT queue, id FROM coord_gone_items WHERE until <= $2 ORDER BY until LIMIT 2000)"
    };
}

/// `$1` queue, last. Whom to wake.
macro_rules! watchers {
    () => {
        "SELECT client FROM coord_watches WHERE line = 'queue/' || $1"
    };
}

/// `$1` queue, `$3` receive, `$4` attempts. Items that nobody has and that were delivered so often; none if this
/// receive has deliveries already.
macro_rules! spent {
    () => {
        " FROM coord_items INDEXED BY coord_items_tried WHERE queue = $1 AND attempts > 0 AND attempts >= $4 AND token IS NULL \
           AND NOT EXISTS (SELECT 1 FROM coord_items WHERE queue = $1 AND receive = $3)"
    };
}

pub(super) const JOBS: JobStatements = JobStatements {
    known: "WITH asked AS (SELECT unhex(value) AS id FROM json_each($2)) \
         SELECT id, NULL FROM asked \
         WHERE EXISTS (SELECT 1 FROM coord_items AS item WHERE item.queue = $1 AND item.id = asked.id) \
            OR EXISTS (SELECT 1 FROM coord_dead_items AS item WHERE item.queue = $1 AND item.id = asked.id) \
            OR EXISTS (SELECT 1 FROM coord_gone_items AS item \
                       WHERE item.queue = $1 AND item.id = asked.id AND item.until > $3) \
         UNION ALL \
         SELECT NULL, coalesce((SELECT items FROM coord_queues WHERE queue = $1), 0)",
    push: script!(
        "INSERT INTO coord_items (queue, id, priority, family, ripe, ready_at, due_at, pushed_at, payload) \
         SELECT $1, unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3 <= $2, value ->> 3, value ->> 4, $4, \
                unhex(value ->> 5) \
         FROM json_each($3) ORDER BY key",
        forget!(),
        watchers!(),
        "COMMIT",
    ),
    receive: script!(
        expire!(),
        "UPDATE coord_items SET ripe = 1 WHERE queue = $1 AND ripe = 0 AND ready_at <= $2",
        concat!(
            "INSERT INTO coord_dead_items (queue, id, attempts, priority, family, died_at, payload) \
             SELECT queue, id, attempts, priority, family, $9, payload",
            spent!(),
            " ORDER BY place"
        ),
        concat!("DELETE FROM coord_items WHERE place IN (SELECT place", spent!(), ")"),
        "UPDATE coord_items \
         SET token = (SELECT max(token + 1, $8) FROM coord_counters WHERE shard = 0) + chosen.number - 1, \
             attempts = attempts + 1, receive = $3, owner = $7, expires_at = $6 \
         FROM (SELECT next, row_number() OVER (ORDER BY urgency DESC, next) AS number \
               FROM (SELECT place AS next, priority AS urgency FROM coord_items INDEXED BY coord_items_ready \
                     WHERE queue = $1 AND token IS NULL AND head = 1 AND ripe = 1 \
                       AND NOT EXISTS (SELECT 1 FROM coord_items WHERE queue = $1 AND receive = $3) \
                     ORDER BY priority DESC, place LIMIT $5)) AS chosen \
         WHERE place = chosen.next",
        "UPDATE coord_counters SET token = max(token + 1, $8) + changes() - 1 WHERE shard = 0 AND changes() > 0",
        "SELECT id, token, attempts, payload, priority, family, pushed_at FROM coord_items \
         WHERE queue = $1 AND receive = $3 ORDER BY token",
        "SELECT (SELECT min(ready_at) FROM coord_items WHERE queue = $1 AND ripe = 0), \
                (SELECT min(expires_at) FROM coord_items WHERE queue = $1 AND expires_at IS NOT NULL)",
        "COMMIT",
    ),
    standing: script!(
        expire!(),
        "WITH asked AS (SELECT unhex(value) AS id FROM json_each($3)) \
         SELECT item.id, 0, token, attempts, returned, expires_at \
         FROM asked CROSS JOIN coord_items AS item ON item.queue = $1 AND item.id = asked.id \
         UNION ALL \
         SELECT item.id, 1, token, NULL, NULL, NULL \
         FROM asked CROSS JOIN coord_gone_items AS item ON item.queue = $1 AND item.id = asked.id AND until > $2 \
         UNION ALL \
         SELECT item.id, 2, token, NULL, NULL, NULL \
         FROM asked CROSS JOIN coord_dead_items AS item ON item.queue = $1 AND item.id = asked.id",
    ),
    settle: script!(
        // The places of what is spoken of are looked up first, one by one; joined by ids, SQLite walks the whole queue.
        "WITH said AS MATERIALIZED ( \
           SELECT item.place AS at, value ->> 1 AS expires_at \
           FROM json_each($3) CROSS JOIN coord_items AS item ON item.queue = $1 AND item.id = unhex(value ->> 0)) \
         UPDATE coord_items SET expires_at = said.expires_at FROM said WHERE place = said.at",
        "WITH said AS MATERIALIZED ( \
           SELECT item.place AS at, value ->> 1 AS attempts, value ->> 2 AS returned, value ->> 3 AS ready_at, \
                  value ->> 4 AS due_at \
           FROM json_each($4) CROSS JOIN coord_items AS item ON item.queue = $1 AND item.id = unhex(value ->> 0)) \
         UPDATE coord_items SET token = NULL, receive = NULL, owner = NULL, expires_at = NULL, \
           attempts = said.attempts, returned = said.returned, ready_at = coalesce(said.ready_at, coord_items.ready_at), \
           due_at = coalesce(said.due_at, coord_items.due_at), \
           ripe = coalesce(said.ready_at, coord_items.ready_at) <= $2 \
         FROM said WHERE place = said.at",
        "INSERT INTO coord_gone_items (queue, id, token, until) \
         SELECT $1, unhex(value ->> 0), value ->> 1, $6 FROM json_each($5) WHERE true \
         ON CONFLICT (queue, id) DO UPDATE SET token = excluded.token, until = excluded.until",
        "DELETE FROM coord_items WHERE queue = $1 AND id IN (SELECT unhex(value ->> 0) FROM json_each($5))",
        "INSERT INTO coord_dead_items (queue, id, attempts, priority, family, died_at, payload, token) \
         SELECT item.queue, item.id, item.attempts, item.priority, item.family, $8, item.payload, item.token \
         FROM json_each($7) AS said CROSS JOIN coord_items AS item \
           ON item.queue = $1 AND item.id = unhex(said.value) \
         ORDER BY said.key",
        "DELETE FROM coord_items WHERE queue = $1 AND id IN (SELECT unhex(value) FROM json_each($7))",
        forget!(),
        watchers!(),
        "COMMIT",
    ),
    dead: "SELECT id, attempts, payload, priority, family, died_at FROM coord_dead_items \
         WHERE queue = $1 \
           AND place > coalesce((SELECT place FROM coord_dead_items WHERE queue = $1 AND id = $2), 0) \
         ORDER BY place LIMIT $3",
    requeue: script!(
        "INSERT INTO coord_items (queue, id, priority, family, ripe, ready_at, due_at, pushed_at, payload) \
         SELECT queue, id, priority, family, 1, $2, $3, $3, payload FROM coord_dead_items \
         WHERE queue = $1 AND id IN (SELECT unhex(value) FROM json_each($4)) ORDER BY place",
        "DELETE FROM coord_dead_items \
         WHERE queue = $1 AND id IN (SELECT unhex(value) FROM json_each($4)) RETURNING 1",
        watchers!(),
        "COMMIT",
    ),
    drop_dead: script!(
        "INSERT INTO coord_gone_items (queue, id, token, until) \
         SELECT queue, id, NULL, $3 FROM coord_dead_items \
         WHERE queue = $1 AND id IN (SELECT unhex(value) FROM json_each($4)) \
         ON CONFLICT (queue, id) DO UPDATE SET token = NULL, until = excluded.until",
        "DELETE FROM coord_dead_items \
         WHERE queue = $1 AND id IN (SELECT unhex(value) FROM json_each($4)) RETURNING 1",
        forget!(),
        "COMMIT",
    ),
    stats: "SELECT coalesce((SELECT items FROM coord_queues WHERE queue = $1), 0), \
                (SELECT count(*) FROM coord_items WHERE queue = $1 AND ripe = 0 AND ready_at > $2), \
                (SELECT count(*) FROM coord_items \
                 WHERE queue = $1 AND expires_at IS NOT NULL AND expires_at > $2), \
                (SELECT count(*) FROM coord_dead_items WHERE queue = $1)",
    purge: script!(
        expire!(),
        "SELECT (SELECT count(*) FROM coord_items WHERE queue = $1 AND token IS NULL) \
              + (SELECT count(*) FROM coord_dead_items WHERE queue = $1)",
        "DELETE FROM coord_items WHERE queue = $1 AND token IS NULL",
        "DELETE FROM coord_dead_items WHERE queue = $1",
        watchers!(),
        "COMMIT",
    ),
};
