//! The tests of this crate but for the conformance suite: one program, which is linked once.

mod bounds;
mod claims;
mod cluster;
mod common;
mod failures;
mod halfway;
mod interop;
#[path = "jobs/main.rs"]
mod jobs;
mod known_bad;
mod report;
mod stores;
#[cfg(feature = "tls")]
mod tls;
mod values;
