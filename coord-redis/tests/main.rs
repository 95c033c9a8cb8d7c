//! The tests of this crate but for the conformance suite: one program, which is linked once.

mod bounds;
mod claims;
mod common;
mod failover;
mod failures;
mod interop;
#[path = "jobs/main.rs"]
mod jobs;
mod known_bad;
mod stores;
#[cfg(feature = "tls")]
mod tls;
mod values;
mod wrong_clock;
