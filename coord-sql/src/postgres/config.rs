//! Where the server is and how long to wait for it.

use std::{fmt, str::FromStr, time::Duration};

use coord_core::{Error, ErrorKind, Result};
use sqlx::postgres::PgConnectOptions;

/// Where the server is, who asks, and how long to wait.
///
/// Made of a URL: `postgres://user:password@host:5432/database?sslmode=require`. What it does not say is taken from the usual
/// environment variables (`PGHOST`, `PGUSER`, `PGPASSWORD`, …).
#[derive(Clone)]
#[non_exhaustive]
pub struct PostgresConfig {
    pub(super) options: PgConnectOptions,
    pub(super) connections: u32,
    pub(super) timeout: Duration,
}

impl PostgresConfig {
    /// How long an operation may take where nothing else is said.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
    /// The greatest timeout: every operation answers within about ten seconds.
    pub const MAX_TIMEOUT: Duration = Duration::from_secs(9);

    /// Reads a URL.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for text that is no such URL.
    pub fn parse(url: &str) -> Result<Self> {
        let options = PgConnectOptions::from_str(url).map_err(|_| {
            // The driver's message may show the URL, with the password in it.
            Error::new(
                ErrorKind::InvalidInput,
                "this is no URL of a Postgres server; write postgres://user@host:5432/database",
            )
        })?;
        Ok(Self::new(options))
    }

    /// A server as the driver describes it: for options that a URL has no words for.
    #[must_use]
    pub fn new(options: PgConnectOptions) -> Self {
        Self { options, connections: 8, timeout: Self::DEFAULT_TIMEOUT }
    }

    /// With at most this many connections for statements; one more listens for notifications.
    #[must_use]
    pub fn with_connections(mut self, connections: u32) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// With this much time for an operation, cut at [`PostgresConfig::MAX_TIMEOUT`].
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(Self::MAX_TIMEOUT);
        self
    }

    /// The server and the database, for messages.
    pub(super) fn place(&self) -> String {
        let database = self.options.get_database().unwrap_or_else(|| self.options.get_username());
        match self.options.get_socket() {
            Some(folder) => format!("{database} at {}", folder.display()),
            None => format!("{database} at {}:{}", self.options.get_host(), self.options.get_port()),
        }
    }
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("place", &self.place())
            .field("connections", &self.connections)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl TryFrom<&str> for PostgresConfig {
    type Error = Error;

    fn try_from(url: &str) -> Result<Self> {
        Self::parse(url)
    }
}

impl TryFrom<&String> for PostgresConfig {
    type Error = Error;

    fn try_from(url: &String) -> Result<Self> {
        Self::parse(url)
    }
}

impl TryFrom<String> for PostgresConfig {
    type Error = Error;

    fn try_from(url: String) -> Result<Self> {
        Self::parse(&url)
    }
}

impl TryFrom<&PostgresConfig> for PostgresConfig {
    type Error = Error;

    fn try_from(config: &PostgresConfig) -> Result<Self> {
        Ok(config.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        let config = PostgresConfig::parse("postgres://me:hunter2@db.example:5433/app").unwrap();
        assert_eq!(config.place(), "app at db.example:5433");
        assert!(!format!("{config:?}").contains("hunter2"));
        for url in ["postgres://me:hunter2@[::1/app", "nonsense", "postgres://me:hunter2@host:port/app"] {
            let error = PostgresConfig::parse(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(!format!("{error:?} {error}").contains("hunter2"), "{url}");
        }
    }

    #[test]
    fn timeouts_leave_room_for_the_answer() {
        let config = PostgresConfig::parse("postgres://host/app").unwrap().with_timeout(Duration::MAX);
        assert_eq!(config.timeout, PostgresConfig::MAX_TIMEOUT);
    }
}
