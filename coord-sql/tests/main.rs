//! The tests of this crate but for the conformance suite: one program, which is linked once.

mod bounds;
mod claims;
mod common;
mod failures;
mod fence;
mod growth;
mod jobs;
#[cfg(feature = "postgres")]
mod postgres_bounds;
#[cfg(feature = "postgres")]
mod postgres_failures;
#[cfg(feature = "postgres")]
mod postgres_fence;
#[cfg(feature = "postgres")]
mod postgres_pooler;
#[cfg(feature = "postgres")]
mod postgres_rights;
#[cfg(feature = "postgres")]
mod postgres_standby;
#[cfg(all(feature = "postgres", feature = "tls"))]
mod postgres_tls;
mod processes;
mod values;
mod wakeups;
