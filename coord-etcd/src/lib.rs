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
//! # The cluster
//! [`connect`] takes a URL (`etcd://`, `etcds://` with the feature `tls`) or a [`Config`], which lists the parameters. It needs etcd
//! 3.4 or newer. Name all members: a client uses one of them, and goes to the next when that one fails or is silent for a second.
//!
//! What the cluster cannot guarantee is in [`Claims::guarantees`](coord_core::spi::Claims::guarantees) and in
//! [`Store::weaknesses`], which also says how to set it right; with [`Config::with_strict`] such a cluster is refused. Versions with
//! known defects are among them.
//!
//! A user needs a role with `readwrite` on the prefix `coord/`, and with [`Layout::Interop`] on the names too. A transaction of many
//! values or items may have more parts than a member allows as it is installed; `--max-txn-ops=10000` fits everything.
//!
//! # What survives what
//! | event | claims | tokens |
//! | --- | --- | --- |
//! | a process is killed | end with their leases | go on growing |
//! | a member is killed, stopped or started again, a majority is there | stay | go on growing |
//! | the leader is killed | stay; their leases begin anew under the next leader, so dead holders are followed later | go on growing |
//! | no majority is there | holders learn in time that they are lost; nobody is granted anything | |
//! | the database is full | those that hold are prolonged and leave; nobody else is granted anything. Deliveries cannot be acknowledged, given back or extended, so they come again | none are taken |
//! | a leader stands still and goes on after another one was elected | stay from 3.4.31 and 3.5.13 on; older versions may end a lease that is kept (etcd#15247), so that two hold one lock until the first one's next renewal | go on growing |
//! | the cluster is restored from a snapshot | are those of the snapshot | may go back, unless it was restored with `--bump-revision` |
//!
//! A token is the revision at which the claim joined the line, the same for all names; so tokens of one name have gaps.
//!
//! # Clocks and leases
//! Leases are judged by the leader's monotonic clock; nobody's wall clock matters. They last whole seconds: a TTL is rounded up for
//! the holder that dies, and kept exactly for one that lives. The shortest TTL depends on the cluster's election timeout, two
//! seconds as it is installed, and is in the guarantees. A lease that was not renewed ends up to half a second late.
//!
//! All claims of a client that have one TTL share a lease: a renewal of a thousand is one keep-alive and one reading.
//!
//! # Waiting
//! A client has one stream of watches, with one watch for each line in which it waits. Who leaves a line wakes the clients that wait in
//! it, and of their claims the ones that became eligible; nobody polls. A hint may be lost: every wait also looks again by
//! itself.
//!
//! # Names
//! All keys begin with `coord/`. A name that was used leaves nothing. [`Layout::Interop`] is for locks and elections that are shared with
//! `etcdctl` and other clients of etcd.

mod claims;
mod client;
mod config;
mod endings;
mod error;
mod handing_over;
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
/// Cancel safe: nothing is left behind but a lease of a second or two.
///
/// # Errors
/// As [`Store::open`].
pub async fn connect(config: impl IntoConfig) -> Result<Coordinator> {
    let config = config.into_config()?;
    let namespace = config.namespace().clone();
    let store: Arc<Store> = Store::open(config).await?;
    Coordinator::builder(store.clone()).values(store.clone()).jobs(store).namespace(namespace).build()
}
