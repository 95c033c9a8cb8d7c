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

mod client;
mod config;
mod error;
mod jobs;
mod keys;
mod link;
mod listen;
mod rubbish;
mod step;
mod values;
mod waiting;
mod wakeups;

pub use coord_core::{Coordinator, Effect, Error, ErrorKind, Report, Result, Weakness, prelude};

pub use self::{
    client::Store,
    config::{Config, IntoConfig, Layout},
};
