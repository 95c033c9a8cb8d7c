//! What [`connect`](crate::connect) connects to.

use std::path::{Path, PathBuf};

use coord_core::Result;

use crate::Config;
#[cfg(feature = "postgres")]
use crate::PostgresConfig;

/// A database of any kind that this build knows.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "there is one for each client, when it is made")]
#[non_exhaustive]
pub enum Database {
    /// An SQLite file.
    Sqlite(Config),
    /// A Postgres server.
    #[cfg(feature = "postgres")]
    Postgres(PostgresConfig),
}

impl Database {
    /// Reads a URL or a path: `postgres://…` and `postgresql://…` with the feature `postgres`, all else as
    /// [`Config::parse`] does.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for text that is no such URL,
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a scheme that this build has no store for, with the
    /// feature that is missing.
    pub fn parse(text: &str) -> Result<Self> {
        #[cfg(feature = "postgres")]
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(PostgresConfig::parse(text)?));
        }
        Ok(Self::Sqlite(Config::parse(text)?))
    }
}

/// What names a database: a URL or a path as text, a path, a [`Config`], or, with the feature `postgres`, a
/// `PostgresConfig`.
pub trait IntoDatabase {
    /// The database that it stands for.
    ///
    /// # Errors
    /// As [`Database::parse`].
    fn into_database(self) -> Result<Database>;
}

/// Conversions that cannot fail, or fail as `Database::parse` does.
macro_rules! into_database {
    ($($kind:ty: $given:ident => $made:expr;)*) => {$(
        impl IntoDatabase for $kind {
            fn into_database(self) -> Result<Database> {
                let $given = self;
                $made
            }
        }
    )*};
}

into_database! {
    Database: database => Ok(database);
    &Database: database => Ok(database.clone());
    Config: config => Ok(Database::Sqlite(config));
    &Config: config => Ok(Database::Sqlite(config.clone()));
    &str: text => Database::parse(text);
    &String: text => Database::parse(text);
    String: text => Database::parse(&text);
    &Path: path => Ok(Database::Sqlite(Config::new(path)));
    &PathBuf: path => Ok(Database::Sqlite(Config::new(path)));
    PathBuf: path => Ok(Database::Sqlite(Config::new(path)));
}

#[cfg(feature = "postgres")]
into_database! {
    PostgresConfig: config => Ok(Database::Postgres(config));
    &PostgresConfig: config => Ok(Database::Postgres(config.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_either_kind() {
        for text in ["coord.db", "sqlite:coord.db", "./postgres"] {
            assert!(matches!(Database::parse(text), Ok(Database::Sqlite(_))), "{text}");
        }
        for text in ["postgres://host/app", "postgresql://me:hunter2@host:5433/app"] {
            #[cfg(feature = "postgres")]
            assert!(matches!(Database::parse(text), Ok(Database::Postgres(_))), "{text}");
            #[cfg(not(feature = "postgres"))]
            {
                let error = Database::parse(text).unwrap_err();
                assert_eq!(error.kind(), coord_core::ErrorKind::Unsupported);
                assert!(error.to_string().contains("feature `postgres`"), "{error}");
                assert!(!format!("{error:?} {error}").contains("hunter2"));
            }
        }
        let error = Database::parse("redis://host").unwrap_err();
        assert!(error.to_string().contains("sqlite"), "{error}");
    }
}
