//! How the driver's errors become ours. Every message says what to do.

use coord_core::{Error, ErrorKind};
use sqlx::migrate::MigrateError;

/// What a condition of the server means to the caller.
///
/// Codes: <https://www.postgresql.org/docs/15/errcodes-appendix.html>. The first two characters are the class.
fn meaning(code: &str) -> (ErrorKind, &'static str) {
    match code {
        "42501" => {
            return (
                ErrorKind::Permission,
                "this role lacks rights; let the owner of the schema coord grant it USAGE on the schema, EXECUTE on its \
                 functions and all rights on its tables and sequences, or give it CREATE on the database",
            );
        }
        "2200H" => {
            return (
                ErrorKind::Exhausted,
                "the numbers for fencing tokens are used up; start with a new database and new resources",
            );
        }
        "25006" => {
            return (ErrorKind::Unsupported, "it is read-only or a standby; connect to the primary");
        }
        "26000" | "42P05" => {
            return (
                ErrorKind::Unsupported,
                "prepared statements are lost or mixed up on the way; a pooler in transaction mode does that, so connect to \
                 the server itself or to a pooler in session mode",
            );
        }
        "08P01" => {
            return (
                ErrorKind::Unsupported,
                "the connection's options are refused, as poolers do; connect to the server itself, or to PgBouncer in session mode \
                 with `ignore_startup_parameters = options, extra_float_digits`",
            );
        }
        "3D000" => {
            return (
                ErrorKind::NotFound,
                "there is no such database; create it, or name another one in the URL",
            );
        }
        "53300" => {
            return (
                ErrorKind::Unavailable,
                "the server has too many connections; allow more (max_connections), or use fewer",
            );
        }
        "55P03" | "57014" => {
            return (
                ErrorKind::Unavailable,
                "it took too long: others hold the lock of this name, or the server is busy; try again",
            );
        }
        "28000" => {
            return (
                ErrorKind::Permission,
                "the server does not let this role in from here this way; correct the URL (does it want TLS? see sslmode), or \
                 the server's pg_hba.conf",
            );
        }
        _ => {}
    }
    match code.get(..2).unwrap_or_default() {
        "08" | "57" | "58" => (ErrorKind::Unavailable, "the server went away or is starting; try again"),
        "28" => (ErrorKind::Permission, "the server refuses this role or its password; correct the URL"),
        "40" => (ErrorKind::Unavailable, "others changed the same rows at the same time; try again"),
        "53" => (ErrorKind::Full, "the server is out of disk or memory; make room, nothing was lost"),
        "54" => (ErrorKind::TooLarge, "a value is larger than the server allows"),
        "3F" | "42" => (
            ErrorKind::Corrupt,
            "its schema coord is not as this library made it; restore it, or drop it when nobody uses it",
        ),
        "XX" => (ErrorKind::Corrupt, "the server reports damaged data; see its log"),
        _ => (ErrorKind::Internal, "the server refused a statement; please report this"),
    }
}

/// An error in a user's own transaction, about the table of marks.
pub(crate) fn of_fence(error: sqlx::Error) -> Error {
    let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
    let advice = match code.as_str() {
        "42501" => {
            "this role may not make the table coord_fences, or write it; make it as the fence's documentation shows, and \
             grant the role SELECT, INSERT and UPDATE on it"
        }
        "3F000" => "there is no schema in the search path to make the table coord_fences in",
        "25P02" => "a statement before this one failed; roll the transaction back",
        "40001" | "40P01" => {
            "others changed the same rows at the same time; roll the transaction back and begin it again"
        }
        code if code.starts_with("42") => {
            "the table coord_fences is not as this library makes it; rename or drop it"
        }
        _ => return from_sqlx("of this transaction", error),
    };
    let kind = if code == "25P02" { ErrorKind::InvalidInput } else { meaning(&code).0 };
    Error::new(kind, format!("the database of this transaction: {advice}")).with_source(error)
}

/// Whether the server undid the step because of others, so that it may be sent again.
pub(super) fn is_conflict(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| code == "40001" || code == "40P01")
}

/// Whether the server refused the statement and the connection goes on.
pub(super) fn is_of_the_statement(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| {
        code == "57014" || !matches!(code.get(..2), Some("08" | "57" | "58" | "XX") | None)
    })
}

/// What an error of TLS means, before which nothing was asked for.
#[cfg(feature = "tls")]
fn of_tls(error: &std::io::Error) -> Option<(ErrorKind, &'static str)> {
    use rustls::Error as Tls;

    Some(match error.get_ref()?.downcast_ref::<Tls>()? {
        Tls::InvalidCertificate(_) => (
            ErrorKind::InvalidInput,
            "its certificate is not trusted or is for another name; name the file of its CA by sslrootcert in the URL, and \
             the host as the certificate does",
        ),
        Tls::AlertReceived(_) => (
            ErrorKind::Permission,
            "it refuses our side of TLS; does it want a certificate of the client (sslcert)?",
        ),
        _ => (ErrorKind::Unavailable, "TLS with it failed; check sslmode in the URL"),
    })
}

#[cfg(not(feature = "tls"))]
fn of_tls(_error: &std::io::Error) -> Option<(ErrorKind, &'static str)> {
    None
}

/// An error on the way to a client, which has asked for nothing yet.
pub(super) fn on_connecting(place: &str, error: sqlx::Error) -> Error {
    told(place, error, true)
}

/// An error of the driver, at this database, in our words. Whether it may have taken effect is not known to an error of the
/// connection; an answer of the server says that it did not, but for a server that ends while it commits.
pub(super) fn from_sqlx(place: &str, error: sqlx::Error) -> Error {
    told(place, error, false)
}

fn told(place: &str, error: sqlx::Error, connecting: bool) -> Error {
    let mut unknown = false;
    let (kind, advice) = match &error {
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            unknown = matches!(code.get(..2), Some("08" | "57")) && code != "57014";
            meaning(&code)
        }
        sqlx::Error::Io(error) => of_tls(error).unwrap_or_else(|| {
            unknown = true;
            (ErrorKind::Unavailable, "the connection failed; is the server running and reachable?")
        }),
        sqlx::Error::WorkerCrashed => {
            unknown = true;
            (ErrorKind::Unavailable, "the connection failed; is the server running and reachable?")
        }
        sqlx::Error::Protocol(_) => {
            unknown = true;
            (
                ErrorKind::Unavailable,
                "the server's answer makes no sense; is it Postgres, and TLS as the URL says?",
            )
        }
        sqlx::Error::Tls(_) => (
            ErrorKind::Unavailable,
            "TLS failed; check sslmode and sslrootcert in the URL, and whether the server offers TLS",
        ),
        sqlx::Error::PoolTimedOut => {
            (ErrorKind::Unavailable, "there is no connection; the server does not answer, or all are busy")
        }
        sqlx::Error::PoolClosed => (ErrorKind::Closed, "this client was shut down; make another one"),
        sqlx::Error::Configuration(_) | sqlx::Error::InvalidArgument(_) | sqlx::Error::ConfigFile(_) => {
            (ErrorKind::InvalidInput, "the URL has an option that cannot be used")
        }
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::RowNotFound => {
            unknown = true;
            (ErrorKind::Corrupt, "its schema coord answers what this library did not write; restore it")
        }
        sqlx::Error::Migrate(migrate) => match migrate.as_ref() {
            MigrateError::Execute(_) | MigrateError::ExecuteMigration(..) => {
                let sqlx::Error::Migrate(migrate) = error else { unreachable!("matched above") };
                return match *migrate {
                    MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                        told(place, error, connecting)
                    }
                    other => told(place, sqlx::Error::Migrate(Box::new(other)), connecting),
                };
            }
            MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..) => {
                (ErrorKind::NewerSchema, NEWER)
            }
            _ => {
                (ErrorKind::Corrupt, "its record of migrations does not fit this library; restore the schema")
            }
        },
        _ => (ErrorKind::Internal, "the driver failed; please report this"),
    };
    let told = Error::new(kind, format!("the database {place}: {advice}")).with_source(error);
    if unknown && !connecting { told.with_unknown_effect() } else { told }
}

pub(super) const NEWER: &str =
    "its schema coord was made by a newer version of this software; upgrade this program";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions() {
        for (code, kind) in [
            ("42501", ErrorKind::Permission),
            ("28P01", ErrorKind::Permission),
            ("28000", ErrorKind::Permission),
            ("2200H", ErrorKind::Exhausted),
            ("25006", ErrorKind::Unsupported),
            ("3D000", ErrorKind::NotFound),
            ("26000", ErrorKind::Unsupported),
            ("42P05", ErrorKind::Unsupported),
            ("08P01", ErrorKind::Unsupported),
            ("53300", ErrorKind::Unavailable),
            ("53100", ErrorKind::Full),
            ("53200", ErrorKind::Full),
            ("57P01", ErrorKind::Unavailable),
            ("57P03", ErrorKind::Unavailable),
            ("57014", ErrorKind::Unavailable),
            ("55P03", ErrorKind::Unavailable),
            ("40001", ErrorKind::Unavailable),
            ("40P01", ErrorKind::Unavailable),
            ("08006", ErrorKind::Unavailable),
            ("54000", ErrorKind::TooLarge),
            ("42883", ErrorKind::Corrupt),
            ("42P01", ErrorKind::Corrupt),
            ("3F000", ErrorKind::Corrupt),
            ("XX001", ErrorKind::Corrupt),
            ("22012", ErrorKind::Internal),
            ("", ErrorKind::Internal),
        ] {
            assert_eq!(meaning(code).0, kind, "{code}");
        }
    }
}
