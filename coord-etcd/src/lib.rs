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
//!
//! # Values
//! A version is the revision at which the cluster changed the key. A write is one transaction; several with tokens, and more than
//! 40 together, are two. A thousand values of 1 MiB together fit a server as it is installed if their keys have up to about 100
//! bytes; what does not fit `--max-request-bytes` is refused whole, as too large. A transaction whose reply was lost is found again
//! for two minutes. Whoever was away finds all changes, compacted or not, and the last thousand deletions of a namespace; if there were
//! more, or older data were restored, it is told of a gap and reads anew. History goes back to the last compaction.
//!
//! # Queues
//! A push and an acknowledgement are one transaction, a receive is a look, a lease and a transaction, however long the queue is. A
//! lease of a delivery and a delay are a whole number of seconds, rounded up, and at least the shortest lease of the cluster; when
//! its leader changes or it is started again, they begin anew, so an item may come late and never early. Tens of thousands of items
//! that are delayed or in flight at the same time slow each receive by some milliseconds. A push of a thousand items with 1 MiB fits a
//! server as it is installed if the names of queue and groups are short. Ids of items that are gone are remembered for ten to twenty
//! minutes, a small key each; like everything in etcd they take room until it compacts, so let it (`--auto-compaction-retention`).
//! A purge is done in steps of some hundred items.

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
