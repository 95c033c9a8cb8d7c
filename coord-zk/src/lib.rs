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
mod client;
mod config;
mod error;
mod forget;
mod hints;
mod jobs;
mod keys;
mod leases;
mod probe;
mod server;
mod session;
mod values;
mod wakeups;

pub use coord_core::{Coordinator, Effect, Error, ErrorKind, Report, Result, Weakness, prelude};

pub use self::{
    client::Store,
    config::{Config, IntoConfig, Layout},
};
