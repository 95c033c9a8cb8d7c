//! The conformance suite of `coord`, as a library: what every backend must do, shown by named cases.
//!
//! A backend runs it from a test target without the standard harness:
//!
//! ```toml
//! [[test]]
//! name = "conformance"
//! harness = false
//! ```
//!
//! ```no_run
//! use std::{process::ExitCode, sync::Arc};
//!
//! use async_trait::async_trait;
//! use coord_conformance::{Backend, TestStore};
//! use coord_core::{Result, clock::Clock, memory, spi::Claims};
//!
//! #[derive(Debug)]
//! struct Memory;
//!
//! #[async_trait]
//! impl Backend for Memory {
//!     fn name(&self) -> &str { "memory" }
//!     fn virtual_time(&self) -> bool { true }
//!     async fn open(&self) -> Result<Box<dyn TestStore>> { Ok(Box::new(Fresh(memory::Store::new()))) }
//! }
//!
//! #[derive(Debug)]
//! struct Fresh(memory::Store);
//!
//! #[async_trait]
//! impl TestStore for Fresh {
//!     fn clock(&self) -> Clock { Clock::Tokio }
//!     async fn connect(&self) -> Result<Arc<dyn Claims>> { Ok(Arc::new(self.0.connect())) }
//! }
//!
//! fn main() -> ExitCode { coord_conformance::main(Memory) }
//! ```
//!
//! `cargo test -p <crate> --test conformance [FILTER]` then runs the cases whose names contain the filter. A run
//! without a filter also compares the outcomes with `tests/<test target>.expected`, so that a case that stops running
//! fails; `COORD_BLESS=1` writes that file anew.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`backend`] | what a backend's test file implements |
//! | [`context`] | what a case has in hand: clients, names, TTLs, faults, a history |
//! | [`cases`] | the cases, one file a recipe or a kind of trouble |
//! | [`history`], [`checkers`] | what happened, and the rules that it must keep to |
//! | [`faults`] | a decorator that loses, delays and cuts off |
//! | [`worker`] | the program that a case starts, stops and kills |
//! | [`runs`] | histories of processes at work under faults, stored, judged and drawn |
//! | [`report`] | what many histories show together |
//! | [`proxy`] | a way between a client and its server that a test can spoil |
//! | [`servers`] | real servers, started and ended by the tests |
//! | [`harness`] | requirements, deadlines, the expectation, `main` |

pub mod backend;
pub mod cases;
pub mod checkers;
mod client;
pub mod context;
mod expectation;
mod failure;
pub mod faults;
pub mod harness;
pub mod history;
mod nemesis;
#[cfg(unix)]
pub mod proxy;
pub mod report;
pub mod runs;
#[cfg(unix)]
pub mod servers;
mod striking;
mod unavailable;
mod watching;
pub mod worker;
mod working;
mod writing;

pub use backend::{Backend, Stores, TestStore};
pub use client::Client;
pub use context::Ctx;
pub use failure::{Failure, Verdict};
pub use harness::{Outcome, main, main_of_all, run, run_named};
pub use striking::{Apart, Servers};
pub use unavailable::Unavailable;
