//! Coordination between processes of any hosts through an etcd cluster: the etcd backend of `coord`.
//!
//! Locks, elections, membership, barriers, configuration and queues work between all programs that reach the cluster, each
//! grant and each delivery with a fencing token.
//!
//! ```no_run
//! use coord_etcd::prelude::*;
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), coord_etcd::Error> {
//! let coordinator = coord_etcd::connect("etcd://one.example,two.example,three.example").await?;
//! let guard = coordinator.acquire(&Name::new("nightly-report")?, &LockOptions::default()).await?;
//! println!("I hold token {}", guard.token());
//! guard.release().await?;
//! coordinator.shutdown().await
//! # }
//! ```

mod claims;
mod client;
mod config;
mod endings;
mod error;
mod jobs;
mod keys;
mod leases;
mod lines;
mod link;
mod listen;
mod record;
mod registry;
mod renewals;
mod rubbish;
mod server;
mod step;
mod values;
mod waiting;
mod wakeups;

use std::sync::Arc;

pub use coord_core::{Coordinator, Effect, Error, ErrorKind, Report, Result, Weakness, prelude};

pub use self::{
    client::Store,
    config::{Config, IntoConfig, Layout},
};

/// Connects to the cluster that a URL or a [`Config`] names, and makes a client of it.
///
/// It needs a Tokio runtime with time and I/O for as long as it lives, and answers within about ten seconds. For an owner's
/// name or a decorated store, use [`Store::open`] and [`Coordinator::builder`].
///
/// # Cancel safety
/// Cancel safe: nothing is left behind.
///
/// # Errors
/// As [`Store::open`].
pub async fn connect(config: impl IntoConfig) -> Result<Coordinator> {
    let config = config.into_config()?;
    let namespace = config.namespace().clone();
    let store: Arc<Store> = Store::open(config).await?;
    Coordinator::builder(store.clone()).values(store.clone()).jobs(store).namespace(namespace).build()
}
