//! Coordination between processes of any hosts through a Redis server: the Redis backend of `coord`.
//!
//! Locks, elections, membership, barriers, configuration and queues work between all programs that reach the server, each
//! grant and each delivery with a fencing token.
//!
//! ```no_run
//! use coord_redis::prelude::*;
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), coord_redis::Error> {
//! let coordinator = coord_redis::connect("redis://localhost").await?;
//! let guard = coordinator.acquire(&Name::new("nightly-report")?, &LockOptions::default()).await?;
//! println!("I hold token {}", guard.token());
//! guard.release().await?;
//! coordinator.shutdown().await
//! # }
//! ```
//!
//! # The server
//! [`connect`] takes a URL (`redis://`, `rediss://` with the feature `tls`, `unix://`) or a [`Config`], which lists the
//! parameters. It needs one standalone server of Redis 6.2 or newer, or one that behaves like it. A replica is refused.
//!
//! On every connection the server's settings are read. What they cannot guarantee is in
//! [`Claims::guarantees`](coord_core::spi::Claims::guarantees) and in [`Store::weaknesses`], which also says how to set it
//! right; with [`Config::with_strict`] such a server is refused. A user who may not ask counts as one of a weak server.
//!
//! A user needs `~coord:* &coord:* +@all -@admin -@dangerous +info`, or less: `+evalsha +script|load +subscribe +unsubscribe
//! +publish +pubsub +hello +client|setinfo +select` and the commands on keys that the scripts call; `+info +role +config|get`
//! to know the settings.
//!
//! # What survives what
//! | event | claims | tokens |
//! | --- | --- | --- |
//! | a process is killed | end with their leases | go on growing |
//! | the server is started again, `appendonly yes` and `appendfsync always` | stay; holders verify theirs at once | go on growing |
//! | the server is started again, its data lost in part or in whole | are gone as far as they are lost; holders learn it at once | go on growing (below) |
//! | `FLUSHALL`, an eviction | are gone; holders learn it at their next renewal | go on growing (below) |
//! | a failover to a replica | what the replica had not received is lost; two may hold for a while | go on growing (below) |
//! | the server's memory is full | those that are there are prolonged and leave; no new ones | none are taken |
//!
//! A token is the greater of the name's last one plus one and the server's clock in microseconds since 1970. So tokens do not
//! repeat or fall even when the server lost the last one, as long as its clock, or that of the server that takes over, does
//! not step back below the moment of the last grant, and fewer than a million tokens are taken a second. The last token of a
//! name is kept for a day at least after its last use, and then left to the clock. Until then the clock does not matter.
//!
//! # Clocks
//! Leases are judged by the server's wall clock. If somebody steps it forward, leases end early and two may hold; if backward,
//! leases of crashed holders end late. Fencing tokens need neither.
//!
//! # Waiting
//! A client has two connections: one for commands, one on which hints are pushed. Who changes a line publishes a hint to the
//! clients of those claims that became eligible, one message a client; nobody else wakes and nobody polls. A hint may be
//! lost: every wait also looks again when the lease of who stands directly ahead ends, and after every loss of a connection.
//!
//! # Names
//! All keys of a name begin with `coord:{<namespace>/<kind>/<name>}:`. When its last claim leaves, the name's last token is
//! left, about 150 bytes, for two days. [`Layout::Interop`] is for locks that are shared with other clients of Redis.

mod claims;
mod client;
mod config;
mod error;
mod jobs;
mod keys;
mod link;
mod listen;
mod packed;
mod reply;
mod script;
mod server;
mod values;
mod wakeups;

use std::sync::Arc;

pub use coord_core::{Coordinator, Effect, Error, ErrorKind, Report, Result, Weakness, prelude};

pub use self::{
    client::Store,
    config::{Config, IntoConfig, Layout},
};

/// Connects to the server that a URL or a [`Config`] names, and makes a client of it.
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
