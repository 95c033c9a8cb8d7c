//! The tests of this crate but for the conformance suite: one program, which is linked once.

mod bounds;
mod cluster;
mod common;
mod failures;
#[path = "interop/main.rs"]
mod interop;
#[path = "jobs/main.rs"]
mod jobs;
mod stores;
#[cfg(feature = "tls")]
mod tls;
mod values;
