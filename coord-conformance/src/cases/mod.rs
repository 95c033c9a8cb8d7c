//! The cases: what every backend must do.

use std::{fmt, pin::Pin};

use coord_core::{Error, ErrorKind, Result};

use crate::{Ctx, Failure, Verdict};

mod barrier;
mod cancel;
mod config;
mod config_troubles;
mod consumer;
mod cost;
mod election;
mod faulty;
mod fenced;
mod inputs;
mod inspect;
mod lease;
mod lock;
mod lock_all;
mod losses;
mod model;
mod names;
mod observe;
mod processes;
mod promises;
mod queue;
mod queue_leases;
mod queue_processes;
mod queue_troubles;
mod registry;
mod runs;
mod rwlock;
mod semaphore;
mod shutdown;
mod store;
mod trace;
mod value_processes;
mod workload;

/// What a case needs of a backend to make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Need {
    /// Priorities in elections.
    Priority,
    /// Hand-over to a named candidate.
    HandOver,
    /// Detached grants can be resumed.
    Resume,
    /// Shared locks and semaphores.
    Shared,
    /// Several processes can use one store, and can be stopped and killed.
    Processes,
    /// A store of values.
    Values,
    /// A store of jobs.
    Jobs,
    /// A store of values that forgets old changes.
    BoundedLog,
    /// A paused clock: what would take days.
    VirtualTime,
    /// The test's store can tell its size.
    Size,
    /// It takes its turn: two such cases at a time would have too little of a machine. Every backend can do that.
    Turn,
}

/// The work of a case.
pub type Work = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// One case.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Case {
    /// Its name, such as `lock::first_in_first_out`. It does not change: expectations and mutants name it.
    pub name: &'static str,
    /// What it needs. It is ignored, with the reason, where one of these is missing.
    pub needs: &'static [Need],
    pub(crate) work: fn(Ctx) -> Work,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).field("needs", &self.needs).finish_non_exhaustive()
    }
}

/// Lists the cases of a file: `cases! { "lock": first_in_first_out, share [Shared] }`. Each is an
/// `async fn(Ctx) -> Verdict`.
macro_rules! cases {
    ($group:literal: $($case:ident $([$($need:ident),+])?),* $(,)?) => {
        /// The cases of this file.
        pub(super) fn cases() -> Vec<$crate::cases::Case> {
            vec![$($crate::cases::Case {
                name: concat!($group, "::", stringify!($case)),
                needs: &[$($($crate::cases::Need::$need),+)?],
                work: |ctx| Box::pin($case(ctx)),
            }),*]
        }
    };
}
pub(crate) use cases;

/// Fails unless the condition holds, by the `NAME` under which the file reports its failures.
macro_rules! demand {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            let message = format!("{}:{}: {}", file!(), line!(), format_args!($($message)+));
            return Err($crate::Failure::by(NAME, message));
        }
    };
}
pub(crate) use demand;

/// Fails by this name unless the result is an error of this kind; the error otherwise.
#[track_caller]
fn refusal<T>(name: &'static str, result: Result<T>, kind: ErrorKind) -> Verdict<Error> {
    let place = std::panic::Location::caller();
    match result {
        Err(error) if error.kind() == kind => Ok(error),
        Err(error) => {
            let message = format!("{place}: {kind:?} was expected, not {:?}: {error}", error.kind());
            Err(Failure::by(name, message))
        }
        Ok(_) => Err(Failure::by(name, format!("{place}: {kind:?} was expected, and it succeeded"))),
    }
}

/// All cases, in the order in which they are listed.
#[must_use]
pub fn all() -> Vec<Case> {
    [
        store::cases(),
        model::cases(),
        lock::cases(),
        lease::cases(),
        lock_all::cases(),
        rwlock::cases(),
        semaphore::cases(),
        election::cases(),
        observe::cases(),
        registry::cases(),
        barrier::cases(),
        inspect::cases(),
        names::cases(),
        inputs::cases(),
        promises::cases(),
        cost::cases(),
        shutdown::cases(),
        trace::cases(),
        cancel::cases(),
        faulty::cases(),
        losses::cases(),
        processes::cases(),
        workload::cases(),
        config::cases(),
        config_troubles::cases(),
        fenced::cases(),
        value_processes::cases(),
        queue::cases(),
        queue_leases::cases(),
        queue_troubles::cases(),
        queue_processes::cases(),
        consumer::cases(),
        runs::cases(),
    ]
    .concat()
}
