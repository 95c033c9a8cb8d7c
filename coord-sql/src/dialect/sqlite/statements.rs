//! The scripts in SQLite's words; what each takes and gives is said at [`Statements`].
//!
//! Every step of a script costs a visit to the connection's thread if it is sent alone, so they are sent together. What a
//! statement sees of its own line is live: the expired claims were purged in the same transaction.

use crate::dialect::Statements;

/// A script of these statements. No statement holds a semicolon.
macro_rules! script {
    ($first:expr $(, $next:expr)* $(,)?) => { concat!($first $(, "; ", $next)*) };
}
pub(super) use script;

/// `$1` line, `$2` now, `$3` bound. Then a change is counted, if there was one.
macro_rules! purge {
    () => {
        script!(
            "DELETE FROM coord_claims WHERE token IN ( \
               SELECT token FROM coord_claims WHERE line = $1 AND expires_at <= $2 \
               UNION ALL \
               SELECT token FROM (SELECT token FROM coord_claims WHERE expires_at <= $2 \
                                  ORDER BY expires_at LIMIT $3)) \
             RETURNING line, id, client",
            count!(),
        )
    };
}

/// Counts a change, if the statement before made one.
macro_rules! count {
    () => {
        "UPDATE coord_counters SET revision = revision + 1 WHERE shard = 0 AND changes() > 0"
    };
}

/// `$1` line. The conditions say whether to look for claims that became eligible, and for watchers.
///
/// The weights add up along the line, so behind the point where their sum exceeds the greatest capacity of all that wait
/// nobody is eligible, and the walk ends: behind the first claim of a lock, however many wait.
macro_rules! notes {
    ($left:expr, $changed:expr) => {
        concat!(
            "WITH RECURSIVE walk (token, id, client, granted_at, capacity, through) AS ( \
               SELECT * FROM (SELECT token, id, client, granted_at, capacity, weight FROM coord_claims \
                              WHERE line = $1 AND ",
            $left,
            "                 ORDER BY token LIMIT 1) \
               UNION ALL \
               SELECT next.token, next.id, next.client, next.granted_at, next.capacity, through + next.weight \
               FROM walk JOIN coord_claims AS next \
                 ON next.token = (SELECT min(token) FROM coord_claims WHERE line = $1 AND token > walk.token) \
               WHERE through <= (SELECT max(capacity) FROM coord_claims \
                                 WHERE line = $1 AND granted_at IS NULL)) \
             SELECT client, id FROM walk WHERE granted_at IS NULL AND through <= capacity \
             UNION ALL \
             SELECT client, NULL FROM coord_watches WHERE line = $1 AND ",
            $changed
        )
    };
}

macro_rules! line {
    () => {
        "SELECT revision, claim.token, id, weight, capacity, priority, granted_at, joined_at, expires_at, ttl_ms, \
                owner, value \
         FROM coord_counters LEFT JOIN coord_claims AS claim ON claim.line = $1 \
         WHERE shard = 0 ORDER BY claim.token"
    };
}

pub(super) const STATEMENTS: Statements = Statements {
    look: script!(
        purge!(),
        "WITH own AS (SELECT token, granted_at FROM coord_claims WHERE id = $4 AND line = $1), \
              first AS (SELECT token, owner FROM coord_claims WHERE line = $1 ORDER BY token LIMIT 1) \
         SELECT (SELECT token FROM own), (SELECT granted_at FROM own), \
                count(*), coalesce(sum(weight), 0), min(expires_at), \
                CASE WHEN EXISTS (SELECT 1 FROM own) THEN 0 ELSE \
                  (SELECT count(*) FROM coord_claims WHERE line = $1 AND granted_at IS NULL AND priority < $5) END, \
                (SELECT token FROM first), (SELECT owner FROM first) \
         FROM coord_claims \
         WHERE line = $1 \
           AND CASE WHEN EXISTS (SELECT 1 FROM own) THEN token < (SELECT token FROM own) \
               ELSE granted_at IS NOT NULL OR priority >= $5 END",
    ),
    join: script!(
        "UPDATE coord_counters SET token = max(token + 1, $5) + $4, revision = revision + 1 WHERE shard = 0",
        "UPDATE coord_claims SET token = (SELECT token FROM coord_counters WHERE shard = 0) - $4 + behind.place \
         FROM (SELECT token AS old, row_number() OVER (ORDER BY token) AS place FROM coord_claims \
               WHERE line = $1 AND granted_at IS NULL AND priority < $10) AS behind \
         WHERE coord_claims.token = behind.old",
        "INSERT INTO coord_claims (token, line, id, client, weight, capacity, priority, ttl_ms, expires_at, \
           granted_at, joined_at, owner, value) \
         SELECT token - $4, $1, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16 \
         FROM coord_counters WHERE shard = 0 \
         RETURNING token",
        notes!("$2", "$3"),
        "COMMIT",
    ),
    rearm: script!(
        "UPDATE coord_claims SET client = $6, ttl_ms = $7, expires_at = $8, granted_at = coalesce(granted_at, $9) \
         WHERE id = $5",
        "UPDATE coord_counters SET revision = revision + 1 WHERE shard = 0 AND $4",
        notes!("$2", "$3"),
        "COMMIT",
    ),
    settle: script!(notes!("$2", "$3"), "COMMIT"),
    leave: script!(
        purge!(),
        "DELETE FROM coord_claims WHERE line = $1 AND id = $4 RETURNING client",
        count!(),
        notes!("true", "true"),
        "COMMIT",
    ),
    renew: script!(
        // One that was under way for long must not undo a later one with a longer TTL.
        "UPDATE coord_claims SET expires_at = max(expires_at, $3 + asked.ttl), \
           ttl_ms = CASE WHEN $3 + asked.ttl < expires_at THEN ttl_ms ELSE asked.ttl END \
         FROM (SELECT unhex(value ->> 0) AS id, value ->> 1 AS token, value ->> 2 AS ttl \
               FROM json_each($1)) AS asked \
         WHERE coord_claims.token = asked.token AND coord_claims.id = asked.id \
           AND granted_at IS NOT NULL AND expires_at > $2 \
         RETURNING coord_claims.id",
        "COMMIT",
    ),
    set_value: script!(
        purge!(),
        "UPDATE coord_claims SET value = $6 \
         WHERE id = $4 AND token = $5 AND line = $1 AND granted_at IS NOT NULL RETURNING id",
        count!(),
        notes!("true", "true"),
        "COMMIT",
    ),
    adopt: script!(
        purge!(),
        "SELECT id, client FROM coord_claims \
         WHERE token = $5 AND line = $1 AND id IN ($4, $6) AND granted_at IS NOT NULL",
        "UPDATE coord_claims SET id = $6, client = $7, expires_at = max(expires_at, $9), \
           ttl_ms = CASE WHEN $9 < expires_at THEN ttl_ms ELSE $8 END \
         WHERE token = $5 AND line = $1 AND id IN ($4, $6) AND granted_at IS NOT NULL",
        count!(),
        notes!("true", "true"),
        "COMMIT",
    ),
    candidate: script!(
        purge!(),
        "SELECT client FROM coord_claims \
         WHERE id = $4 AND token = $5 AND line = $1 AND granted_at IS NOT NULL",
        "SELECT token, granted_at, \
                (SELECT count(*) FROM coord_claims AS ahead \
                 WHERE ahead.line = $1 AND ahead.granted_at IS NULL AND ahead.token < claim.token) \
         FROM coord_claims AS claim WHERE line = $1 AND id = $6",
    ),
    hand_over: script!(
        "DELETE FROM coord_claims WHERE line = $1 AND id = $2 RETURNING client",
        "UPDATE coord_counters \
         SET token = CASE WHEN $4 > 0 THEN max(token + 1, $5) + $4 - 1 ELSE token END, revision = revision + 1 \
         WHERE shard = 0",
        "UPDATE coord_claims SET token = (SELECT token FROM coord_counters WHERE shard = 0) - $4 + behind.place \
         FROM (SELECT token AS old, row_number() OVER (ORDER BY token) AS place FROM coord_claims \
               WHERE line = $1 AND granted_at IS NULL AND token < $3) AS behind \
         WHERE coord_claims.token = behind.old",
        notes!("true", "true"),
        "COMMIT",
    ),
    purge: script!(purge!(), line!(), notes!("true", "true"), "COMMIT"),
    line: line!(),
    notes: notes!("true", "true"),
    watch: "INSERT INTO coord_watches (line, client) VALUES ($1, $2) ON CONFLICT DO NOTHING",
    unwatch: "DELETE FROM coord_watches WHERE line = $1 AND client = $2",
    forget: "DELETE FROM coord_watches WHERE client = $1",
    clients: "SELECT DISTINCT client FROM coord_watches",
    commit: "COMMIT",
    values: super::values::VALUES,
    jobs: super::jobs::JOBS,
};
