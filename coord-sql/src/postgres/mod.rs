//! Postgres: locks, elections, membership, barriers, configuration and queues between processes of any hosts that reach the
//! server.
//!
//! Each step is one function in the schema `coord`, so it is one statement, one round trip and one commit. The functions are in
//! `migrations/postgres`; what is here calls them, listens for notifications, and bounds every wait.

mod claims;
mod client;
mod config;
mod error;
mod jobs;
mod listener;
mod pool;
mod report;
mod schema;
mod values;

use std::sync::Arc;

use coord_core::Result;

pub(crate) use self::error::of_fence;
pub use self::{client::PostgresStore, config::PostgresConfig};

/// Postgres.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Postgres;

impl Postgres {
    /// Connects to the server, makes or updates the schema `coord`, and starts a client, which needs a Tokio runtime with
    /// time and I/O for as long as it lives. It answers within about twenty seconds.
    ///
    /// # Cancel safety
    /// Cancel safe: a schema is made whole or not at all.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for a URL that cannot be used,
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if the server does not answer,
    /// [`ErrorKind::Permission`](crate::ErrorKind::Permission) for a wrong password or a role without rights,
    /// [`ErrorKind::NewerSchema`](crate::ErrorKind::NewerSchema), and
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) behind a pooler that passes no notifications on, and on a
    /// server that is a standby.
    pub async fn open<C>(config: C) -> Result<Arc<PostgresStore>>
    where
        C: TryInto<PostgresConfig>,
        coord_core::Error: From<C::Error>,
    {
        PostgresStore::start(config.try_into()?).await
    }
}
