//! What a backend writes: single-shot operations on a store.
//!
//! A store has no loops, no retries, no renewal and no `Drop` logic: the engine in this crate does all of that, once
//! for every backend. What a store must do is to make each operation atomic, durable as declared, and idempotent in
//! the claim's id. `coord_core::memory` is the executable specification; the `coord-conformance` crate is the test.
//!
//! # The line of claims
//!
//! All recipes of this crate stand on one structure. A **line** is an ordered list of leased **claims**. A claim joins
//! at the end and gets the store's next number, its [`FencingToken`]. It is *eligible* when its own weight plus the
//! weights of all live claims ahead of it is at most its limit, and **granted** from the moment in which
//! [`Claims::claim`] first finds it eligible until it is withdrawn or its lease ends.
//!
//! | recipe | weight | limit | eligible when |
//! | --- | --- | --- | --- |
//! | lock, writer | [`ALL`] | [`ALL`] | first in line |
//! | election | 1 | 1 | first in line |
//! | semaphore of N, taking k | k | N | k of the N permits are free |
//! | reader | 1 | [`ALL`] | no writer ahead |
//! | member, barrier party | 0 | 0 | at once; the list of claims is what matters |
//!
//! The line is first-in first-out, so tokens grow in the order of grants. Where a claim overtakes others (a higher
//! [`Claim::priority`], [`Claims::hand_over`]), those others *join again behind it*: they keep their ids and get new,
//! greater tokens in the same step. Only claims that are not granted can be overtaken.

pub mod jobs;
pub mod values;

use std::{
    fmt,
    pin::Pin,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{FencingToken, Guarantees, Name, Namespace, Result};

/// The weight and the limit that nothing fits beside.
pub const ALL: u32 = u32::MAX;

/// Which recipe a line serves. Lines of different kinds never meet, even under one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// Locks, exclusive and shared.
    Lock,
    /// Semaphores.
    Semaphore,
    /// Elections.
    Election,
    /// Services of the registry.
    Registry,
    /// Barriers.
    Barrier,
    /// Keys of configuration and fenced storage. They stand in no line of claims.
    Config,
    /// Deliveries of queues. They are leased like claims, and stand in no line of claims.
    Queue,
}

impl Kind {
    /// All kinds of lines of claims.
    pub const ALL: [Self; 5] = [Self::Lock, Self::Semaphore, Self::Election, Self::Registry, Self::Barrier];

    /// A word that is stable in stores and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Semaphore => "semaphore",
            Self::Election => "election",
            Self::Registry => "registry",
            Self::Barrier => "barrier",
            Self::Config => "config",
            Self::Queue => "queue",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which line: a namespace, a kind and a name. A backend maps the three injectively.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs)]
pub struct LineId {
    /// The namespace.
    pub namespace: Namespace,
    /// The kind.
    pub kind: Kind,
    /// The name.
    pub name: Name,
}

impl fmt::Display for LineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// The id of one claim, fresh for every attempt, so that an attempt whose reply was lost is found again and never
/// doubled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClaimId(Uuid);

impl ClaimId {
    /// A fresh random id.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The id's sixteen bytes, for a store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id that a store kept.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an attempt asks for.
#[derive(Debug, Clone)]
#[allow(clippy::exhaustive_structs)]
pub struct Claim {
    /// The line to join.
    pub line: LineId,
    /// This attempt.
    pub id: ClaimId,
    /// What it takes.
    pub weight: u32,
    /// What it and all ahead of it may take together.
    pub limit: u32,
    /// How long the store keeps it without hearing of it again. Whole milliseconds, within the declared range.
    pub ttl: Duration,
    /// Higher overtakes lower among claims that are not granted.
    pub priority: i32,
    /// Whether it stays in the line when it is not granted at once.
    pub wait: bool,
    /// Who asks, for people; the candidate id of an election, the instance id of a registration.
    pub owner: String,
    /// Shown to others; at most [`crate::limits::MAX_VALUE`] bytes.
    pub value: Vec<u8>,
}

/// A granted claim, as it is renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct Grant {
    /// The line it is in.
    pub line: LineId,
    /// The claim.
    pub id: ClaimId,
    /// Its place in the store's order.
    pub token: FencingToken,
    /// The TTL to keep it for. A store may grant another TTL than it was asked for; this is the granted one.
    pub ttl: Duration,
}

/// Where a claim stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Standing {
    /// It is granted, and its lease runs from some moment after the request was sent.
    Granted(Grant),
    /// It is in the line and not granted. Its lease was re-armed.
    Waiting {
        /// How many claims stand ahead of it.
        ahead: u32,
        /// When the line can next change by expiry alone. The engine looks again then, and also early enough to
        /// re-arm the claim's own lease.
        look_again_in: Duration,
    },
    /// It was not granted and left no trace: [`Claim::wait`] was false.
    Refused(Option<Holder>),
}

/// Who stands in the way, for the error message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct Holder {
    /// The owner text of the first claim in the line.
    pub owner: String,
    /// Its token.
    pub token: FencingToken,
}

/// What became of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Renewal {
    /// Its lease starts anew.
    Renewed,
    /// It is still held, but its lease was not prolonged.
    StillHeld,
    /// It is not in the line any more, or its lease had ended. A store never revives an expired claim.
    Lost,
}

/// What became of a hand-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum HandOver {
    /// The holder left the line and the named claim is next.
    Done,
    /// The holder's own claim had ended; nothing was changed.
    Lost,
    /// The named claim is not in the line; nothing was changed.
    NotFound,
}

/// Everyone in a line, in order, at one moment. Reads are linearizable: a change that was answered before the read
/// began is in it. Expired claims are not. A store that cannot promise that declares its lag to the conformance suite.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(clippy::exhaustive_structs)]
pub struct Line {
    /// Grows with every change in the store; equal revisions mean equal content but for `expires_in`.
    pub revision: u64,
    /// The live claims in the order of their tokens.
    pub entries: Vec<Entry>,
}

/// One live claim of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct Entry {
    /// The claim.
    pub id: ClaimId,
    /// Its place in the store's order.
    pub token: FencingToken,
    /// What it takes.
    pub weight: u32,
    /// Its limit.
    pub limit: u32,
    /// Its priority.
    pub priority: i32,
    /// When it was granted, by the store's wall clock, for people. `None`: it is not granted, even if it is eligible
    /// and only has not looked yet.
    pub granted: Option<SystemTime>,
    /// When it joined, by the store's wall clock, for people.
    pub joined: SystemTime,
    /// How long its lease still runs.
    pub expires_in: Duration,
    /// Its owner text.
    pub owner: String,
    /// Its value.
    pub value: Vec<u8>,
}

/// A store of claims. See the [module's text](self) for the model.
///
/// # Contract
/// * Every operation is one atomic step of the store, and one round trip (one commit) where the store allows.
/// * Every operation may be sent again after a lost reply: it finds what its first attempt did.
/// * Expired claims count as absent, at the store's own clock. Durations go in, never instants.
/// * A lease runs from a moment *after* the request was sent: never shorter than asked, seen from the sender.
/// * Errors say whether the operation [may have taken effect](crate::Effect).
/// * Each operation has its own deadline: it answers within about ten seconds, whatever the server does.
/// * The engine drives every returned future to its end; it drops none halfway unless the runtime ends.
/// * Inputs are validated: names, sizes and TTLs are within [`crate::limits`] and the declared guarantees.
#[async_trait]
pub trait Claims: fmt::Debug + Send + Sync + 'static {
    /// What this store promises. Called often; it does no I/O.
    fn guarantees(&self) -> Guarantees;

    /// Joins the line, or looks again if this id is in it, and re-arms the claim's lease either way.
    ///
    /// If the claim's earlier lease ended while it waited, it joins again at the end. With [`Claim::wait`] false, a
    /// claim that is not granted leaves no trace.
    async fn claim(&self, claim: &Claim) -> Result<Standing>;

    /// Renews many grants in one round trip, each for its own TTL. The answers are in the order of `grants`.
    ///
    /// A renewal never shortens a lease: one that was under way for long must not undo a later one with a longer TTL.
    async fn renew(&self, grants: &[Grant]) -> Result<Vec<Renewal>>;

    /// Replaces the value of a granted claim, without prolonging its lease ([`Renewal::StillHeld`]).
    async fn set_value(&self, grant: &Grant, value: &[u8]) -> Result<Renewal>;

    /// Takes the claim out of the line, granted or not, and wakes the claims that became eligible, the watchers of the
    /// line and the claim's own client. Nothing happens if the claim is not there.
    async fn withdraw(&self, line: &LineId, id: ClaimId) -> Result<()>;

    /// Withdraws `from` and puts `to` next: claims that waited ahead of `to` join again behind it.
    /// Behind [`Features::hand_over`](crate::Features).
    async fn hand_over(&self, from: &Grant, to: ClaimId) -> Result<HandOver>;

    /// Gives a granted claim a new id, keeping its token, and renews it; its wake-ups go to this client from now on.
    /// Of several that adopt the same claim exactly one succeeds; sent again with the same `to`, it succeeds again.
    /// Behind [`Features::resume`](crate::Features).
    async fn adopt(&self, from: &Grant, to: ClaimId) -> Result<Renewal>;

    /// Everyone in the line.
    async fn line(&self, line: &LineId) -> Result<Line>;

    /// Hints that it is worth looking again: for one claim of this client (it may have become eligible, or was taken
    /// away by somebody else), or for any change of the line. They may be spurious, late or missing. A change that
    /// happens after this call returned should be hinted at. Dropping the stream ends the subscription.
    fn wakeups(&self, line: &LineId, id: Option<ClaimId>) -> Wakeups;

    /// Ends background work and connections. Called once, after the last operation.
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// A stream of hints. See [`Claims::wakeups`].
pub struct Wakeups(Pin<Box<dyn Stream<Item = Wakeup> + Send>>);

/// One hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wakeup {
    /// Something may have changed.
    LookAgain,
}

impl Wakeups {
    /// Hints from a stream.
    pub fn new(stream: impl Stream<Item = Wakeup> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }

    /// No hints at all: the engine then looks again by time alone.
    #[must_use]
    pub fn none() -> Self {
        Self::new(futures_util::stream::pending())
    }

    /// Waits for the next hint; for ever if the stream has ended.
    ///
    /// # Cancel safety
    /// Cancel safe: no hint is lost.
    pub async fn next(&mut self) -> Wakeup {
        match self.0.next().await {
            Some(wakeup) => wakeup,
            None => std::future::pending().await,
        }
    }
}

impl fmt::Debug for Wakeups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wakeups")
    }
}

impl Line {
    /// The granted claims, in the order of their tokens.
    pub fn holders(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.granted.is_some())
    }

    /// The claims that wait, in the order in which they will be granted.
    pub fn waiters(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.granted.is_none())
    }
}
