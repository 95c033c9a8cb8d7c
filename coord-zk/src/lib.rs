//! Coordination between processes of any hosts through a ZooKeeper ensemble: the ZooKeeper backend of `coord`.
//!
//! Locks, elections, membership, barriers, configuration and queues work between all programs that reach the ensemble, each grant
//! and each delivery with a fencing token.
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
//!
//! # The ensemble
//! [`connect`] takes a URL or a [`Config`], which lists the parameters. It needs ZooKeeper 3.6 or newer; with an ensemble of
//! three servers or more an answered grant survives the loss of a minority of them. [`Store::report`] names versions with known
//! defects and what weakens what is promised.
//!
//! TTLs are limited by the lengths of sessions that the servers allow, 2 to 20 ticks where nobody set them otherwise: with a tick
//! of two seconds, TTLs from 4 seconds (4.5 in an ensemble) to 40 (39). Both are asked for when a store is opened, and are in
//! [`Claims::guarantees`](coord_core::spi::Claims::guarantees). Servers that are to keep longer leases need a greater
//! `maxSessionTimeout`, all of them the same; when it is lowered, or servers join one that stood alone, their clients
//! are to be started again.
//!
//! In an ensemble a lease is shorter than its session by what the leader may not have heard of the client when a server is lost
//! with it: half a tick, or more for ticks under 400 ms. Servers tell their tick by the word `conf`, if their
//! `4lw.commands.whitelist` has it. Of those that do not, `minSessionTimeout` is taken for two ticks, and the tick for two seconds
//! at least; where neither is so, a holder that is cut off together with its server may learn too late that it lost.
//!
//! The leader hears of a sign of life half a tick late at most, and ends sessions that are over at its next tick. So that a dead
//! holder is followed within the TTL that was asked for, a tick and half a second, an ensemble with a tick of more than half a second
//! grants less than that TTL: by the tick less half a second, 1.5 seconds with a tick of two. Who holds has to be heard of within
//! that, which the guard sees to; a longer lease, by `extend`, is kept in full.
//!
//! A client opens one session for each length of TTL that it uses, and one for everything else. Those that keep nothing and were not
//! used for a minute are closed when it opens another one. A server
//! allows 60 connections of one address where nobody set `maxClientCnxns`.
//!
//! With a user and a password, all nodes are made for that digest identity alone. The driver, `zookeeper_client`, logs at the level
//! debug by what a session can be taken over: keep such logs to yourself.
//!
//! # What survives what
//! | event | claims | tokens |
//! | --- | --- | --- |
//! | a process is killed | end with their sessions: within the TTL, a tick and half a second | go on growing |
//! | a process is stopped, or cut off | its guards turn lost before others are granted | go on growing |
//! | a server is killed or stopped | stay, and their clients go over to other servers | go on growing |
//! | all servers are started again | stay, if that takes less than what is left of their leases | go on growing |
//! | the folder of a line is removed | are lost, and their holders learn it at their next renewal | go on growing |
//! | a minority of the servers is cut off | nobody is granted anything there, and who holds there turns lost | go on growing |
//!
//! A token is the number of the transaction that made the claim's node. Such numbers grow as long as the ensemble lives; a new
//! ensemble, or one made of old files, begins anew.
//!
//! # Clocks
//! Leases are judged by the monotonic clocks of servers. Nobody's settings of clocks matter, only that they differ in rate by less
//! than a percent.
//!
//! # Waiting
//! Who waits watches the one node ahead of it that keeps it waiting, so a release wakes who is next and nobody else. A hand-over
//! is three requests and one event, however many wait. A watch outlives a lost connection.
//!
//! # Configuration and fenced storage
//! A commit is two requests, a reading and a conditional write, whatever it changes; it is tried again as long as somebody else
//! is faster, up to its deadline. The version of a key is the number of the transaction that changed it last, and the revision
//! of a namespace that of its last commit. A commit whose reply was lost is found again for two minutes. The last thousand
//! changes are remembered, at most 8 MiB of them. Reads are preceded by a `sync`, so they see what
//! was committed before, but for a moment where a leader answers (`docs/guarantees.md`).
//!
//! Servers drop the connection of who sends more than their `jute.maxbuffer`, a megabyte where nobody set it. What is larger is
//! refused before it is sent ([`ErrorKind::TooLarge`]). A value is sent twice, for the key and for the log, so one commit
//! takes some 500 kB of values. [`Config::with_max_packet`] says that servers take more.
//!
//! # Queues
//! A push is two requests and so is a receive; acknowledging is one, and so is the renewal of all deliveries of one visibility
//! timeout. The order is that of the commits of pushes. A delivery's lease is a node of a session that lasts for the visibility
//! timeout, so it survives what a claim survives, and ends when its consumer was not heard of for so long. What a producer
//! pushes twice, or a consumer acknowledges twice, within ten minutes counts once. Items and counts survive everything that the
//! ensemble's data survive.
//!
//! A queue is listed by every receive: some 30 to 60 bytes an item. From a hundred items on, a client follows it instead, so that
//! a thousand items cost hardly more than ten. With 20,000 the first receive took 32 ms and each later one 3.6 ms (an
//! unoptimised build on one host); split longer queues by name. A push of bounded capacity and counting always list.
//!
//! Delays of items, and how long a commit and an id are remembered, are judged by the wall clock of the servers' leader: a step of
//! it, or another leader with another time, makes them longer or shorter. They are never shorter otherwise.
//!
//! The tokens of deliveries are above the numbers of transactions, and go on growing if somebody removes the nodes of a queue; not if
//! those of the whole namespace are removed, of which queues gave out more tokens than the ensemble made transactions.
//!
//! Of a namespace with values six nodes stay, of a queue eight, and of each transaction and each acknowledged item one, which
//! those that follow remove after two minutes and after eleven.
//!
//! # Names
//! All nodes of a name stand in `/coord/<namespace>/<kind>/<name>` below the chroot; folders of lines are container nodes, which
//! the servers remove some time after they became empty. [`Layout`] lists those that are shared with Curator, kazoo and the
//! client of Go; where kazoo takes part, the folder of a lock stays.
//!
//! # Services shared with Curator
//! In the layouts [`Layout::Curator`] and [`Layout::Interop`] the service `services/shop` is the service `shop` of Curator's service
//! discovery (`curator-x-discovery`) with the base path `/services` below the chroot; a namespace that is not the default is one
//! more folder in front. Each registration is shown there as an instance, as `JsonInstanceSerializer` writes it, and instances of
//! Curator are listed and watched beside our own. Those of other layouts of this library are listed too, and Curator does not
//! see them.
//!
//! | an [`Instance`](prelude::Instance) | Curator's instance |
//! | --- | --- |
//! | `id` | `id`, the name of the node; one that cannot be one is refused ([`ErrorKind::InvalidName`]) |
//! | `address`, such as `10.0.0.7:8080` | `address` and `port`; without a port the whole is the `address` |
//! | metadata `sslPort` | `sslPort` |
//! | metadata | `payload`, a map of texts, or of the class that the entry `@class` names; null if there is none |
//! | metadata with the one entry `payload` | `payload`, a text |
//! | a `weight` of zero | not `enabled`; Curator has no other weights |
//!
//! Java refuses a payload of another class than it expects, so instances that are shared with typed payloads are to have none or
//! one of that class. What of a payload is no text is listed as JSON; `uriSpec` is not listed. How long an instance of Curator
//! lives nobody can tell, and its token is its node's `czxid`.
//!
//! Of two registrations of one id Curator sees the later one, whoever made it: it replaces the node, as Curator does. The earlier
//! one of ours goes on behind it, and is lost and registers anew, with a new token, at the next renewal after the node is gone,
//! also if Curator removed it.
//!
//! With a user and a password, Curator sees our instances with the same identity only, or with `acl=open`.

mod batch;
mod changes;
mod claims;
mod client;
mod config;
mod discovery;
mod error;
mod folders;
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
#[cfg(feature = "tls")]
mod tls;
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
