//! Opening the file: checks, connection, schema, and claims of an earlier boot.

use std::{
    os::unix::fs::MetadataExt,
    path::Path,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use coord_core::{Error, ErrorKind, Result, clock::Clock, limits};
use sqlx::{
    ConnectOptions, Connection, Row,
    migrate::{Migrate, MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous},
};

use super::host;
use crate::{
    claims::ttl_ms,
    client::wall_micros,
    config::Config,
    error::{from_sqlx, newer_schema},
    migrations::migrator,
};

/// The schema's versions.
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    migrator(&[
        ("claims", include_str!("../../../migrations/sqlite/0001_claims.sql")),
        ("values", include_str!("../../../migrations/sqlite/0002_values.sql")),
        ("jobs", include_str!("../../../migrations/sqlite/0003_jobs.sql")),
        ("bounds", include_str!("../../../migrations/sqlite/0004_bounds.sql")),
        ("burials", include_str!("../../../migrations/sqlite/0005_burials.sql")),
    ])
});

/// A name of our own, so that a user's migrations may live in the same database.
const MIGRATIONS_TABLE: &str = "coord_migrations";

/// SQLite itself waits only this long; the longer wait is ours, so that it can be given up.
const NATIVE_BUSY_TIMEOUT: Duration = Duration::from_millis(4);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Writer,
    Reader,
}

/// Tells a database file from another one at the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
    /// The number of a deleted file is given to another one.
    born: Option<SystemTime>,
}

impl FileId {
    /// The file that is at this path now, if there is one.
    pub(super) fn at(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self { device: metadata.dev(), inode: metadata.ino(), born: metadata.created().ok() })
    }
}

/// A connection to a file.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) connection: SqliteConnection,
    pub(super) file: Option<FileId>,
}

/// Refuses what can be refused before SQLite touches anything.
pub(super) fn check(path: &Path, config: &Config) -> Result<()> {
    let shown = path.display();
    let folder = path.parent().unwrap_or(Path::new("/"));
    if !folder.is_dir() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("the folder of the database {shown} does not exist; create it, or choose another path"),
        ));
    }
    if path.is_dir() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("{shown} is a folder; name the database file in it"),
        ));
    }
    if !path.exists() && !config.create_if_missing() {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("the database {shown} does not exist and is not to be made; check the path"),
        ));
    }
    host::refuse_network(folder)?;
    writable(path, folder)
}

/// SQLite opens a file that it cannot write for reading only, and needs to write the folder too; say so at once.
fn writable(path: &Path, folder: &Path) -> Result<()> {
    use rustix::fs::{Access, access};
    let denied = |what: &Path, errno: rustix::io::Errno| {
        Error::new(
            ErrorKind::Permission,
            format!(
                "{} cannot be written ({errno}); give this user the right to write the database file and its folder, or \
                 choose another path",
                what.display()
            ),
        )
    };
    access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(|errno| denied(folder, errno))?;
    match access(path, Access::READ_OK | Access::WRITE_OK) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(denied(path, errno)),
    }
}

/// Connects. A driver's error may be busy, then the caller tries again.
pub(super) async fn connect(path: &Path, config: &Config, role: Role) -> Result<Opened, sqlx::Error> {
    let mut options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(config.create_if_missing() && role == Role::Writer)
        .busy_timeout(NATIVE_BUSY_TIMEOUT)
        .foreign_keys(false)
        // Also for the schema; later each transaction says what it needs.
        .synchronous(SqliteSynchronous::Full)
        // After a burst the log is cut back.
        .pragma("journal_size_limit", (4 << 20).to_string())
        .thread_name(move |number| format!("coord-{}-{number}", if role == Role::Writer { "w" } else { "r" }))
        .disable_statement_logging();
    if let Some(pages) = config.max_pages() {
        options = options.pragma("max_page_count", pages.to_string());
    }
    if role == Role::Reader {
        options = options.pragma("query_only", "ON");
    }
    let connection = options.connect().await?;
    Ok(Opened { connection, file: FileId::at(path) })
}

/// Makes the file ready: write-ahead log, schema, and no claims of an earlier boot. Safe when several processes do it
/// at once.
pub(super) async fn prepare(
    path: &Path,
    connection: &mut SqliteConnection,
    host: &str,
) -> Result<Result<()>, sqlx::Error> {
    let mode: String =
        sqlx::query("PRAGMA journal_mode = WAL").fetch_one(&mut *connection).await?.try_get(0)?;
    if mode != "wal" {
        return Ok(Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the database {}: its file system cannot hold a write-ahead log (journal mode is {mode}); put it on a local \
                 disk",
                path.display()
            ),
        )));
    }
    let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
    let found = version(connection).await?;
    if found > known {
        return Ok(Err(newer_schema(path, found, known)));
    }
    if found < known {
        migrate(connection).await?;
    }
    if judge(connection).await? != host {
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        if judge(&mut transaction).await? != host {
            // The boot id has changed: whoever held a claim then is gone, and its leases are on another clock.
            sqlx::query("DELETE FROM coord_claims").execute(&mut *transaction).await?;
            sqlx::query("DELETE FROM coord_writes").execute(&mut *transaction).await?;
            // Nobody works on these any more. Their attempts count.
            sqlx::query(
                "UPDATE coord_items SET token = NULL, receive = NULL, owner = NULL, expires_at = NULL \
                 WHERE token IS NOT NULL",
            )
            .execute(&mut *transaction)
            .await?;
            let (now, wall) = (super::milliseconds(Clock::System.now()), wall_micros() / 1_000);
            sqlx::query("UPDATE coord_items SET ready_at = $1 + min(max(due_at - $2, 0), $3) WHERE ripe = 0")
                .bind(now)
                .bind(wall)
                .bind(ttl_ms(limits::MAX_TTL))
                .execute(&mut *transaction)
                .await?;
            // A producer that keeps its ids on a disk may push again.
            sqlx::query("UPDATE coord_gone_items SET until = $1")
                .bind(now + ttl_ms(crate::jobs::MEMORY))
                .execute(&mut *transaction)
                .await?;
            sqlx::query("DELETE FROM coord_watches").execute(&mut *transaction).await?;
            sqlx::query("UPDATE coord_counters SET revision = revision + 1, host = $1 WHERE shard = 0")
                .bind(host)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
    }
    Ok(Ok(()))
}

/// Lifts the revision above all that a client can have seen in a file that was at this path before, so that its watchers
/// do not take the state of this one for an older one. Revisions grow more slowly than the wall clock's microseconds.
///
/// If this is `another` file, perhaps an older copy, its log of values does not tell what was undone: whoever watches
/// reads anew.
pub(super) async fn lift_revision(
    connection: &mut SqliteConnection,
    another: bool,
) -> Result<(), sqlx::Error> {
    let statement = "UPDATE coord_counters SET revision = max(revision + 1, $1), \
                       forgotten = CASE WHEN $2 THEN max(revision + 1, $1) ELSE forgotten END \
                     WHERE shard = 0";
    sqlx::query(statement).bind(wall_micros()).bind(another).execute(connection).await.map(|_| ())
}

/// Brings the schema up to date, in one transaction. The migrator's own `run` would begin in a way that fails when two
/// processes meet.
async fn migrate(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let migrated = async {
        transaction.ensure_migrations_table(MIGRATIONS_TABLE).await?;
        let applied = transaction.list_applied_migrations(MIGRATIONS_TABLE).await?;
        for migration in MIGRATIONS.iter() {
            if applied.iter().all(|applied| applied.version != migration.version) {
                transaction.apply(MIGRATIONS_TABLE, migration).await?;
            }
        }
        Ok(())
    };
    migrated.await.map_err(|error: MigrateError| sqlx::Error::Migrate(Box::new(error)))?;
    transaction.commit().await
}

/// The schema's version, 0 in a new file.
async fn version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    let there = sqlx::query("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = $1")
        .bind(MIGRATIONS_TABLE)
        .fetch_optional(&mut *connection)
        .await?;
    if there.is_none() {
        return Ok(0);
    }
    sqlx::query("SELECT coalesce(max(version), 0) FROM coord_migrations")
        .fetch_one(connection)
        .await?
        .try_get(0)
}

/// On whose clock the leases in the file are judged.
async fn judge(connection: &mut SqliteConnection) -> Result<String, sqlx::Error> {
    sqlx::query("SELECT host FROM coord_counters WHERE shard = 0").fetch_one(connection).await?.try_get(0)
}

/// The error of a file whose leases were judged on our clock and now are on another one. A process does not live
/// through a boot, so another host, or a sandbox with a kernel of its own, writes to the same file.
pub(super) fn two_hosts(path: &Path) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "the database {}: another host or sandbox uses the same file, on another clock; let only one of them use it",
            path.display()
        ),
    )
}

/// An error of the driver while opening.
pub(super) fn failed(path: &Path, error: sqlx::Error) -> Error {
    from_sqlx(path, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrations::tests::are_those_of;

    #[test]
    fn every_version_is_known() {
        are_those_of("sqlite", &MIGRATIONS);
    }
}
