//! Coordination between processes of any hosts through a ZooKeeper ensemble: the ZooKeeper backend of `coord`.
//!
//! Locks, elections, membership and barriers work between all programs that reach the ensemble, each grant with a fencing
//! token.
//!
//! ```no_run
//! use coord_zk::prelude::*;
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), coord_zk::Error> {
//! let coordinator = coord_zk::connect("zk://one,two,three/apps/shop").await?;
//! let guard = coordinator.acquire(&Name::new("nightly-report")?, &LockOptions::default()).await?;
//! println!("I hold token {}", guard.token());
//! guard.release().await?;
//! coordinator.shutdown().await
//! # }
//! ```

mod batch;
mod claims;
mod client;
mod config;
mod error;
mod forget;
mod hints;
mod inspect;
mod jobs;
mod keys;
mod leases;
mod line;
mod moving;
mod probe;
mod record;
mod renewal;
mod server;
mod session;
mod values;
mod waits;
mod wakeups;

use std::sync::Arc;

pub use coord_core::{Coordinator, Effect, Error, ErrorKind, Report, Result, Weakness, prelude};

pub use self::{
    client::Store,
    config::{Config, IntoConfig, Layout},
};

/// Connects to the ensemble that a URL or a [`Config`] names, and makes a client of it.
///
/// It needs a Tokio runtime with time and I/O for as long as it lives, and answers within about ten seconds. For an owner's
/// name or a decorated store, use [`Store::open`] and [`Coordinator::builder`].
///
/// # Cancel safety
/// Cancel safe: a session that is left behind ends by itself.
///
/// # Errors
/// As [`Store::open`].
pub async fn connect(config: impl IntoConfig) -> Result<Coordinator> {
    let config = config.into_config()?;
    let namespace = config.namespace().clone();
    let store: Arc<Store> = Store::open(config).await?;
    Coordinator::builder(store.clone()).values(store.clone()).jobs(store).namespace(namespace).build()
}
