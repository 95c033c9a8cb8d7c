//! The scripts of the values in SQLite's words; what each takes and gives is said at [`ValueStatements`].

use super::statements::script;
use crate::dialect::ValueStatements;

macro_rules! entry {
    () => {
        "key, version, mark, at, author, value"
    };
}

/// What an entry counts in the log.
macro_rules! size {
    ($entry:literal) => {
        concat!(
            "(octet_length(",
            $entry,
            ".key) + octet_length(",
            $entry,
            ".author) + coalesce(octet_length(",
            $entry,
            ".value), 0))"
        )
    };
}

/// How many bytes ever went through the log.
macro_rules! through {
    () => {
        concat!(
            "coalesce((SELECT ahead + ",
            size!("log"),
            " FROM coord_value_log AS log ORDER BY place DESC LIMIT 1), 0)"
        )
    };
}

/// `$5` how many changes, `$10` how many bytes the log keeps. The place of the last change that is beyond one of them.
macro_rules! beyond {
    () => {
        concat!(
            "(SELECT max((SELECT max(place) FROM coord_value_log) - $5, \
                         coalesce((SELECT place FROM coord_value_log WHERE ahead < ",
            through!(),
            " - $10 ORDER BY ahead DESC LIMIT 1), 0)))"
        )
    };
}

pub(super) const VALUES: ValueStatements = ValueStatements {
    look: script!(
        "SELECT revision FROM coord_writes WHERE id = $1",
        "SELECT key, version, mark, value IS NOT NULL FROM coord_values \
         WHERE key IN (SELECT value FROM json_each($2))",
    ),
    commit: script!(
        "UPDATE coord_counters SET revision = max(revision + 1, $2) WHERE shard = 0",
        "INSERT INTO coord_values (key, version, mark, at, author, value) \
         SELECT value ->> 0, (SELECT revision FROM coord_counters WHERE shard = 0), value ->> 3, $3, $4, \
                unhex(value ->> 2) \
         FROM json_each($1) WHERE NOT value ->> 1 \
         ON CONFLICT (key) DO UPDATE SET version = excluded.version, mark = coalesce(excluded.mark, mark), \
           at = excluded.at, author = excluded.author, value = excluded.value",
        "INSERT INTO coord_values (key, version, mark, at, author, value) \
         SELECT value ->> 0, (SELECT revision FROM coord_counters WHERE shard = 0), value ->> 3, $3, $4, NULL \
         FROM json_each($1) WHERE value ->> 1 \
         ON CONFLICT (key) DO UPDATE SET mark = excluded.mark",
        concat!(
            "INSERT INTO coord_value_log (key, version, mark, at, author, value, ahead) \
             SELECT entry.key, entry.version, entry.mark, entry.at, entry.author, entry.value, ",
            through!(),
            " + sum(",
            size!("entry"),
            ") OVER (ORDER BY write.key) - ",
            size!("entry"),
            " FROM json_each($1) AS write JOIN coord_values AS entry ON entry.key = write.value ->> 0 \
             WHERE NOT write.value ->> 1 ORDER BY write.key"
        ),
        "DELETE FROM coord_values WHERE value IS NULL AND mark IS NULL \
           AND key IN (SELECT value ->> 0 FROM json_each($1))",
        concat!(
            "UPDATE coord_counters SET forgotten = max(forgotten, coalesce(( \
               SELECT max(version) FROM coord_value_log WHERE place <= ",
            beyond!(),
            "), 0)) WHERE shard = 0"
        ),
        concat!("DELETE FROM coord_value_log WHERE place <= ", beyond!()),
        // More than one transaction adds, and not so many that one takes long.
        "DELETE FROM coord_writes WHERE id IN ( \
           SELECT id FROM coord_writes WHERE until <= $6 ORDER BY until LIMIT 100)",
        "INSERT INTO coord_writes (id, revision, until) \
         SELECT $7, revision, $8 FROM coord_counters WHERE shard = 0",
        "SELECT revision FROM coord_counters WHERE shard = 0",
        // The watched prefixes are looked up one by one, so that it does not matter how many there are.
        "SELECT watch.client, watch.line FROM json_each($9) AS prefix \
         CROSS JOIN coord_watches AS watch ON watch.line = prefix.value",
        "COMMIT",
    ),
    get: concat!(
        "SELECT revision, ",
        entry!(),
        " FROM coord_counters LEFT JOIN coord_values ON key = $1 WHERE shard = 0"
    ),
    list: concat!(
        "SELECT revision, entry.* FROM coord_counters LEFT JOIN (SELECT ",
        entry!(),
        "  FROM coord_values WHERE key >= $1 AND key < $2 AND key > $3 AND value IS NOT NULL \
           ORDER BY key LIMIT $4) AS entry \
         WHERE shard = 0 ORDER BY entry.key"
    ),
    changes: concat!(
        "SELECT revision, forgotten, entry.* FROM coord_counters LEFT JOIN (SELECT ",
        entry!(),
        "  FROM coord_value_log WHERE place IN ( \
             SELECT max(place) FROM coord_value_log WHERE version > $3 AND key >= $1 AND key < $2 GROUP BY key) \
         ) AS entry \
         WHERE shard = 0 ORDER BY entry.version, entry.key"
    ),
    history: concat!(
        "SELECT ",
        entry!(),
        " FROM coord_value_log WHERE key = $1 ORDER BY place DESC LIMIT $2"
    ),
};
