//! What a backend promises, and what it refuses before any I/O.

use std::{fmt, time::Duration};

use crate::{Error, ErrorKind, Result};

/// What a backend promises. A store declares it, the engine enforces it before any I/O, [`Guarantees::require`] lets a
/// program insist on it, and the conformance suite checks it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Guarantees {
    /// The backend's name, such as `sqlite`.
    pub backend: &'static str,
    /// Which processes can coordinate through it.
    pub scope: Scope,
    /// What tokens and grants that were answered survive.
    pub durability: Durability,
    /// The clock that mutual exclusion rests on. The order of tokens does not.
    pub clock: ClockAssumption,
    /// What it can do beyond leased, fenced, first-in first-out grants.
    pub features: Features,
    /// The shortest TTL it can keep.
    pub min_ttl: Duration,
    /// The longest TTL it can keep.
    pub max_ttl: Duration,
}

/// Which processes can coordinate through a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Scope {
    /// Tasks and threads of one process.
    Process,
    /// Processes of one host.
    Host,
    /// Processes of any hosts that reach the server.
    Network,
}

/// What an answered grant survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Durability {
    /// Nothing: it ends with the process.
    Process,
    /// A crash of the store's process, but not always a loss of power.
    Crash,
    /// A loss of power: it is on disk before it is answered.
    Power,
    /// The loss of a minority of the servers.
    Quorum,
}

/// The assumption under which at most one holder exists at a time. Fencing needs none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClockAssumption {
    /// Holder and store read the very same clock.
    Same,
    /// The clocks of holder and store differ in *rate* by at most one percent; their settings do not matter.
    BoundedRate,
    /// As [`ClockAssumption::BoundedRate`], and nobody steps the store's wall clock.
    NoSteps,
}

/// What a backend can do beyond leased, fenced, first-in first-out grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Features {
    /// A claim of a higher priority overtakes waiting claims of lower ones.
    pub priority: bool,
    /// A holder can hand its grant over to a named waiter.
    pub hand_over: bool,
    /// A detached grant can be resumed, exactly once, by another process.
    pub resume: bool,
    /// Permits with weights and limits: semaphores, shared locks.
    pub shared: bool,
}

impl Features {
    /// Everything.
    pub const ALL: Self = Self { priority: true, hand_over: true, resume: true, shared: true };

    /// Only what every backend can do.
    pub const NONE: Self = Self { priority: false, hand_over: false, resume: false, shared: false };

    /// With or without priorities.
    #[must_use]
    pub const fn with_priority(mut self, priority: bool) -> Self {
        self.priority = priority;
        self
    }

    /// With or without hand-over.
    #[must_use]
    pub const fn with_hand_over(mut self, hand_over: bool) -> Self {
        self.hand_over = hand_over;
        self
    }

    /// With or without resume.
    #[must_use]
    pub const fn with_resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }

    /// With or without shared locks and semaphores.
    #[must_use]
    pub const fn with_shared(mut self, shared: bool) -> Self {
        self.shared = shared;
        self
    }
}

impl Guarantees {
    /// The guarantees of a backend of this name, with all features, any TTL that [`crate::limits`] allows, and the
    /// weakest of everything else.
    #[must_use]
    pub const fn new(backend: &'static str) -> Self {
        Self {
            backend,
            scope: Scope::Process,
            durability: Durability::Process,
            clock: ClockAssumption::NoSteps,
            features: Features::ALL,
            min_ttl: crate::limits::MIN_TTL,
            max_ttl: crate::limits::MAX_TTL,
        }
    }

    /// With this scope.
    #[must_use]
    pub const fn with_scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// With this durability.
    #[must_use]
    pub const fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// With this clock assumption.
    #[must_use]
    pub const fn with_clock(mut self, clock: ClockAssumption) -> Self {
        self.clock = clock;
        self
    }

    /// With these features.
    #[must_use]
    pub const fn with_features(mut self, features: Features) -> Self {
        self.features = features;
        self
    }

    /// With TTLs between these two only.
    #[must_use]
    pub const fn with_ttls(mut self, min: Duration, max: Duration) -> Self {
        self.min_ttl = min;
        self.max_ttl = max;
        self
    }

    /// Insists on a scope and a durability at least as strong as these.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`], saying which of them the backend does not promise.
    pub fn require(&self, scope: Scope, durability: Durability) -> Result<()> {
        self.check(self.scope >= scope, &format_args!("to coordinate a {scope:?}"))?;
        self.check(self.durability >= durability, &format_args!("durability of grade {durability:?}"))
    }

    pub(crate) fn check(&self, promised: bool, what: &dyn fmt::Display) -> Result<()> {
        if promised { Ok(()) } else { Err(self.lacks(what)) }
    }

    pub(crate) fn lacks(&self, what: &dyn fmt::Display) -> Error {
        Error::new(
            ErrorKind::Unsupported,
            format!("the {} backend does not promise {what}; choose another store", self.backend),
        )
    }
}
