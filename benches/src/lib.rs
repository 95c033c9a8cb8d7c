//! What coordination costs, measured: the same workloads on every backend of coord, on the bare driver of the same server
//! (the **floor**) and on other libraries for it.
//!
//! | what | where |
//! | --- | --- |
//! | `contender`: one workload on a server that runs, one JSON object a line | [`contender`] |
//! | `cargo bench` | `benches/` |
//! | what is measured | [`workloads`] |
//! | on what | [`systems`] |
//!
//! A length of time means little on another machine. Compare what was measured in one run, one beside the other.

pub mod backend;
pub mod contender;
pub mod report;
pub mod row;
pub mod servers;
pub mod systems;
pub mod time;
pub mod workloads;

/// What can go wrong here is shown to a person and not handled.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
