//! Runs: worker processes at work on everything at once, while faults strike; their histories, stored and judged.
//!
//! A run is a history of some seconds. Its file ([`Recording`](crate::history::Recording)) tells the seed, the settings and
//! the versions, and then every event; whoever has it can judge it anew, and draw it.

mod judged;

pub use self::judged::Judged;
