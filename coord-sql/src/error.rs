//! How the driver's errors become ours. Every message says what to do.

use std::path::Path;

use coord_core::{Error, ErrorKind};
use sqlx::migrate::MigrateError;

/// What an SQLite result code means to the caller.
///
/// Codes: <https://www.sqlite.org/rescode.html>. Only the primary code, the low byte, is judged, but for a few
/// extended ones that mean something else to a person.
fn meaning(code: i32) -> (ErrorKind, &'static str) {
    const IOERR_SHMOPEN: i32 = 10 | 18 << 8;
    const IOERR_SHMSIZE: i32 = 10 | 19 << 8;
    const CONSTRAINT_CHECK: i32 = 19 | 1 << 8;
    match code {
        // The only check in the schema is on the counter of tokens.
        CONSTRAINT_CHECK => {
            return (
                ErrorKind::Exhausted,
                "the numbers for fencing tokens are used up; start with a new database and new resources",
            );
        }
        IOERR_SHMSIZE => return (ErrorKind::Full, FULL),
        IOERR_SHMOPEN => return (ErrorKind::Permission, PERMISSION),
        _ => {}
    }
    match code & 0xff {
        // BUSY, LOCKED, PROTOCOL
        5 | 6 | 15 => (
            ErrorKind::Unavailable,
            "another process kept it locked for too long; end that process's transaction or allow a longer busy timeout",
        ),
        // PERM, READONLY, CANTOPEN, AUTH
        3 | 8 | 14 | 23 => (ErrorKind::Permission, PERMISSION),
        // FULL
        13 => (ErrorKind::Full, FULL),
        // IOERR
        10 => (ErrorKind::Unavailable, "the disk or the file system failed; see the system's log"),
        // CORRUPT, NOTADB, FORMAT
        11 | 24 | 26 => (
            ErrorKind::Corrupt,
            "it is damaged or not an SQLite database; stop all its users, then restore a backup or move it away: tokens \
             go on growing in a new file",
        ),
        // NOMEM
        7 => (ErrorKind::Unavailable, "there was not enough memory; try again"),
        // ABORT, INTERRUPT, SCHEMA
        4 | 9 | 17 => (ErrorKind::Unavailable, "the statement was interrupted; try again"),
        // TOOBIG
        18 => (ErrorKind::TooLarge, "a value is larger than SQLite allows"),
        // NOLFS
        22 => (ErrorKind::Unsupported, "the file system cannot hold a file of this size; use another one"),
        // ERROR: a statement that does not fit the tables, if it is none of ours that is wrong
        1 => (
            ErrorKind::Corrupt,
            "its tables are not as this library made them; restore them, or use a file of its own",
        ),
        // INTERNAL, NOTFOUND, EMPTY, CONSTRAINT, MISMATCH, MISUSE, RANGE and codes of a later SQLite
        _ => (ErrorKind::Internal, "SQLite refused a statement; please report this"),
    }
}

const PERMISSION: &str = "it cannot be opened for writing; give this user the right to write the file and its folder, or choose another path";
const FULL: &str = "the disk is full, or the file reached its size limit; make room, nothing was lost";

/// Whether the error says that another process holds the lock, so that the same step may be tried again.
pub(crate) fn is_busy(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => {
            sqlite_code(database.as_ref()).is_some_and(|code| code & 0xff == 5)
        }
        sqlx::Error::Migrate(migrate) => match migrate.as_ref() {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => is_busy(error),
            _ => false,
        },
        _ => false,
    }
}

fn sqlite_code(error: &dyn sqlx::error::DatabaseError) -> Option<i32> {
    error.code()?.parse().ok()
}

/// An error of the driver, at this database, in our words.
pub(crate) fn from_sqlx(path: &Path, error: sqlx::Error) -> Error {
    let (kind, advice) = match &error {
        sqlx::Error::Database(database) => {
            sqlite_code(database.as_ref()).map_or((ErrorKind::Internal, "its error has no code"), meaning)
        }
        sqlx::Error::Io(error) => match error.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                (ErrorKind::Permission, PERMISSION)
            }
            std::io::ErrorKind::StorageFull => (ErrorKind::Full, FULL),
            std::io::ErrorKind::InvalidData => {
                (ErrorKind::InvalidInput, "the path must be UTF-8 without NUL")
            }
            _ => (ErrorKind::Unavailable, "the disk or the file system failed; see the system's log"),
        },
        sqlx::Error::WorkerCrashed => (ErrorKind::Unavailable, "the connection ended; try again"),
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => {
            (ErrorKind::Unavailable, "there is no connection; try again")
        }
        sqlx::Error::Configuration(_) | sqlx::Error::InvalidArgument(_) | sqlx::Error::ConfigFile(_) => {
            (ErrorKind::InvalidInput, "the path or an option cannot be used")
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => (
            ErrorKind::Corrupt,
            "it holds what this library did not write; restore a backup or use a file of its own",
        ),
        sqlx::Error::Migrate(migrate) => match migrate.as_ref() {
            MigrateError::Execute(_) | MigrateError::ExecuteMigration(..) => {
                let sqlx::Error::Migrate(migrate) = error else { unreachable!("matched above") };
                return match *migrate {
                    MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                        from_sqlx(path, error)
                    }
                    other => migration(path, other),
                };
            }
            MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..) => {
                (ErrorKind::NewerSchema, NEWER)
            }
            _ => (ErrorKind::Corrupt, "its record of migrations does not fit this library; restore a backup"),
        },
        sqlx::Error::RowNotFound
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::Encode(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::AnyDriverError(_)
        | sqlx::Error::InvalidSavePointStatement
        | sqlx::Error::BeginFailed => (ErrorKind::Internal, "the driver failed; please report this"),
        // The enum may grow.
        _ => (ErrorKind::Internal, "the driver failed in an unknown way; please report this"),
    };
    Error::new(kind, format!("the database {}: {advice}", path.display())).with_source(error)
}

fn migration(path: &Path, error: MigrateError) -> Error {
    from_sqlx(path, sqlx::Error::Migrate(Box::new(error)))
}

const NEWER: &str =
    "it was written by a newer version of this software; upgrade this program, or use another file";

/// The file's schema is of a later version.
pub(crate) fn newer_schema(path: &Path, found: i64, known: i64) -> Error {
    Error::new(
        ErrorKind::NewerSchema,
        format!(
            "the database {}: {NEWER} (its schema is {found}, this program knows {known})",
            path.display()
        ),
    )
}

/// No answer before the operation's own deadline.
pub(crate) fn too_slow(path: &Path, what: &str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "the database {}: {what} took too long; is the disk overloaded, or does a process hold the lock?",
            path.display()
        ),
    )
}

/// The store was closed.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the store was closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_meaning() {
        use ErrorKind::{Corrupt, Exhausted, Full, Internal, Permission, TooLarge, Unavailable, Unsupported};
        let table = [
            (1, Corrupt),
            (2, Internal),
            (3, Permission),
            (4, Unavailable),
            (5, Unavailable),
            (5 | 2 << 8, Unavailable),
            (6, Unavailable),
            (7, Unavailable),
            (8, Permission),
            (8 | 6 << 8, Permission),
            (9, Unavailable),
            (10, Unavailable),
            (10 | 19 << 8, Full),
            (10 | 18 << 8, Permission),
            (11, Corrupt),
            (12, Internal),
            (13, Full),
            (14, Permission),
            (15, Unavailable),
            (16, Internal),
            (17, Unavailable),
            (18, TooLarge),
            (19, Internal),
            (19 | 8 << 8, Internal),
            (19 | 1 << 8, Exhausted),
            (20, Internal),
            (21, Internal),
            (22, Unsupported),
            (23, Permission),
            (24, Corrupt),
            (25, Internal),
            (26, Corrupt),
            (99, Internal),
        ];
        for (code, kind) in table {
            assert_eq!(meaning(code).0, kind, "{code}");
        }
    }

    #[test]
    fn driver_errors() {
        use std::io;
        let path = Path::new("x.db");
        let table = [
            (sqlx::Error::Io(io::ErrorKind::PermissionDenied.into()), ErrorKind::Permission),
            (sqlx::Error::Io(io::ErrorKind::StorageFull.into()), ErrorKind::Full),
            (sqlx::Error::Io(io::ErrorKind::InvalidData.into()), ErrorKind::InvalidInput),
            (sqlx::Error::Io(io::ErrorKind::Other.into()), ErrorKind::Unavailable),
            (sqlx::Error::WorkerCrashed, ErrorKind::Unavailable),
            (sqlx::Error::RowNotFound, ErrorKind::Internal),
            (sqlx::Error::Decode("bad".into()), ErrorKind::Corrupt),
            (sqlx::Error::Migrate(Box::new(MigrateError::VersionMissing(9))), ErrorKind::NewerSchema),
            (sqlx::Error::Migrate(Box::new(MigrateError::VersionMismatch(1))), ErrorKind::Corrupt),
            (
                sqlx::Error::Migrate(Box::new(MigrateError::Execute(sqlx::Error::WorkerCrashed))),
                ErrorKind::Unavailable,
            ),
        ];
        for (error, kind) in table {
            let text = error.to_string();
            let error = from_sqlx(path, error);
            assert_eq!(error.kind(), kind, "{text}");
            assert!(error.to_string().contains("x.db"), "{error}");
        }
    }
}
