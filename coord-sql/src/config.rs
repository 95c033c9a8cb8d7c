//! Where the database is and how long to wait for it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use coord_core::{Error, ErrorKind, Result};

/// Where the database is and how long to wait for it.
///
/// Made of a path or of a URL: `sqlite:///var/lib/app/coord.db`, `sqlite:coord.db` (relative to the current folder),
/// or a plain path.
///
/// ```
/// use std::time::Duration;
///
/// let config = coord_sql::Config::parse("sqlite:coord.db")?.with_busy_timeout(Duration::from_secs(2));
/// assert!(config.path().ends_with("coord.db"));
/// assert!(coord_sql::Config::parse("sqlite::memory:").is_err());
/// # Ok::<(), coord_sql::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    path: PathBuf,
    busy_timeout: Duration,
    create_if_missing: bool,
    max_pages: Option<u32>,
}

impl Config {
    /// How long to wait for other processes where nothing else is said.
    pub const DEFAULT_BUSY_TIMEOUT: Duration = Duration::from_secs(5);
    /// The greatest busy timeout: every operation answers within about ten seconds.
    pub const MAX_BUSY_TIMEOUT: Duration = Duration::from_secs(8);

    /// A database file at this path.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            busy_timeout: Self::DEFAULT_BUSY_TIMEOUT,
            create_if_missing: true,
            max_pages: None,
        }
    }

    /// Reads a URL or a path.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for text that is no such URL, [`ErrorKind::Unsupported`] for a database in memory
    /// or a server that this build cannot speak to.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |why: &str| {
            Error::new(
                ErrorKind::InvalidInput,
                format!("{why}; write sqlite:///absolute/path.db, sqlite:relative.db or a path"),
            )
        };
        let path = match text.split_once(':') {
            Some(("sqlite", rest)) => {
                let (path, query) =
                    rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
                if query.is_some_and(|query| !query.is_empty()) {
                    return Err(invalid("an sqlite URL takes no parameters here, use Config"));
                }
                decode(path.strip_prefix("//").unwrap_or(path)).ok_or_else(|| {
                    invalid("a '%' in an sqlite URL must be followed by two hexadecimal digits")
                })?
            }
            Some(("postgres" | "postgresql", rest)) if rest.starts_with("//") => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    if cfg!(feature = "postgres") {
                        "this is the URL of a Postgres server, and here a file is wanted; use connect or PostgresConfig"
                    } else {
                        "this build has no store for Postgres; build coord-sql with its feature `postgres`"
                    },
                ));
            }
            Some((scheme, rest)) if rest.starts_with("//") => {
                let has = if cfg!(feature = "postgres") { "sqlite and postgres" } else { "sqlite" };
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("this build has no store for the URL scheme '{scheme}'; it has {has}"),
                ));
            }
            _ => text.to_owned(),
        };
        if path == ":memory:" {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a database in memory cannot be shared between processes; use coord_core::memory within one process",
            ));
        }
        if path.is_empty() || path.ends_with('/') {
            return Err(invalid("the path of the database file is missing"));
        }
        if path.contains('\0') {
            return Err(invalid("a path holds no NUL"));
        }
        Ok(Self::new(path))
    }

    /// The path as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How long an operation waits while other processes write, at most [`Config::MAX_BUSY_TIMEOUT`].
    #[must_use]
    pub fn busy_timeout(&self) -> Duration {
        self.busy_timeout
    }

    /// With this busy timeout, cut at [`Config::MAX_BUSY_TIMEOUT`].
    #[must_use]
    pub fn with_busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout.min(Self::MAX_BUSY_TIMEOUT);
        self
    }

    /// Whether a file that does not exist is made. Its folder is not.
    #[must_use]
    pub fn create_if_missing(&self) -> bool {
        self.create_if_missing
    }

    /// With or without making a file that does not exist.
    #[must_use]
    pub fn with_create_if_missing(mut self, create: bool) -> Self {
        self.create_if_missing = create;
        self
    }

    /// The greatest size of the database file in pages of 4096 bytes, if there is one.
    #[must_use]
    pub fn max_pages(&self) -> Option<u32> {
        self.max_pages
    }

    /// Lets the database file grow to this many pages and no further. Beyond, operations fail with
    /// [`ErrorKind::Full`] and lose nothing.
    #[must_use]
    pub fn with_max_pages(mut self, pages: u32) -> Self {
        self.max_pages = Some(pages);
        self
    }
}

/// What names a database: a URL or a path as text, a path, or a [`Config`].
pub trait IntoConfig {
    /// The configuration that it stands for.
    ///
    /// # Errors
    /// As [`Config::parse`].
    fn into_config(self) -> Result<Config>;
}

impl IntoConfig for Config {
    fn into_config(self) -> Result<Config> {
        Ok(self)
    }
}

impl IntoConfig for &Config {
    fn into_config(self) -> Result<Config> {
        Ok(self.clone())
    }
}

impl IntoConfig for &str {
    fn into_config(self) -> Result<Config> {
        Config::parse(self)
    }
}

impl IntoConfig for &String {
    fn into_config(self) -> Result<Config> {
        Config::parse(self)
    }
}

impl IntoConfig for String {
    fn into_config(self) -> Result<Config> {
        Config::parse(&self)
    }
}

impl IntoConfig for &Path {
    fn into_config(self) -> Result<Config> {
        Ok(Config::new(self))
    }
}

impl IntoConfig for &PathBuf {
    fn into_config(self) -> Result<Config> {
        Ok(Config::new(self))
    }
}

impl IntoConfig for PathBuf {
    fn into_config(self) -> Result<Config> {
        Ok(Config::new(self))
    }
}

/// Undoes `%20` and the like.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let number = digit(rest.next())? * 16 + digit(rest.next())?;
            bytes.push(u8::try_from(number).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, path) in [
            ("sqlite:///a/b.db", "/a/b.db"),
            ("sqlite:b.db", "b.db"),
            ("sqlite://b.db", "b.db"),
            ("sqlite:/a/b.db", "/a/b.db"),
            ("sqlite:a%20b%3F.db", "a b?.db"),
            ("/a/b.db", "/a/b.db"),
            ("b.db", "b.db"),
            ("./a:b.db", "./a:b.db"),
            ("sqlite:b.db?", "b.db"),
        ] {
            assert_eq!(Config::parse(text).unwrap().path(), Path::new(path), "{text}");
        }
        for (text, kind) in [
            ("sqlite::memory:", ErrorKind::Unsupported),
            ("sqlite://:memory:", ErrorKind::Unsupported),
            (":memory:", ErrorKind::Unsupported),
            ("postgres://host/db", ErrorKind::Unsupported),
            ("postgresql://host/db", ErrorKind::Unsupported),
            ("redis://host", ErrorKind::Unsupported),
            ("", ErrorKind::InvalidInput),
            ("sqlite:", ErrorKind::InvalidInput),
            ("sqlite://", ErrorKind::InvalidInput),
            ("sqlite:///a/", ErrorKind::InvalidInput),
            ("sqlite:b.db?mode=ro", ErrorKind::InvalidInput),
            ("sqlite:%zz", ErrorKind::InvalidInput),
            ("sqlite:%f", ErrorKind::InvalidInput),
            ("sqlite:%00", ErrorKind::InvalidInput),
            ("sqlite:%ff", ErrorKind::InvalidInput),
        ] {
            assert_eq!(Config::parse(text).unwrap_err().kind(), kind, "{text}");
        }
    }

    #[test]
    fn busy_timeouts_leave_room_for_the_answer() {
        let config = Config::new("x").with_busy_timeout(Duration::MAX);
        assert_eq!(config.busy_timeout(), Config::MAX_BUSY_TIMEOUT);
    }
}
