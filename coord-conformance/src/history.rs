//! What happened, for the [checkers](crate::checkers) to judge afterwards.
//!
//! Every operation is one [`Event`] with the moment before it was called and the moment after it returned. All
//! processes of one host read the same clock, so events of several processes can be put into one history.
//!
//! A client's own belief is recorded as [`Op::Valid`]: its guard said at that moment that it is held. Checkers build on
//! these samples and not on the moment in which a loss was *noticed*: on a busy machine a task may be told late, and
//! that is nobody's fault.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use coord_core::{
    Effect, Error, FencingToken, Guard, Leadership, Name, Namespace, Result,
    clock::Clock,
    spi::{ALL, Kind, LineId},
};
use serde::{Deserialize, Serialize};

/// A moment in a history. Stamps of one process are all different and in the order in which they were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs)]
pub struct Stamp {
    /// Nanoseconds since the start of the clock.
    pub at: u64,
    /// Orders stamps of one process that fall on the same nanosecond, as they do under a paused clock.
    pub tick: u64,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(clippy::exhaustive_enums)]
pub enum Outcome {
    /// It succeeded.
    Ok,
    /// It failed and had no effect, for this reason.
    Fail(String),
    /// It may have had an effect: the reply was lost, or nobody waited for it.
    Unknown(String),
}

/// Which attempt of a client to be granted something.
pub type AttemptId = u64;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Op {
    /// The attempt was seen waiting in the line, which it will not leave before its acquisition ends.
    Queued {
        /// Which attempt.
        attempt: AttemptId,
        /// What is asked for.
        ask: Ask,
    },
    /// A lock, permit or leadership was asked for.
    Acquire {
        /// Which attempt.
        attempt: AttemptId,
        /// What was asked for.
        ask: Ask,
        /// The token, if it was granted.
        token: Option<u64>,
    },
    /// The guard said that it is held.
    Valid {
        /// Which attempt.
        attempt: AttemptId,
    },
    /// The guard said that it is lost.
    Lost {
        /// Which attempt.
        attempt: AttemptId,
    },
    /// The guard was released.
    Release {
        /// Which attempt.
        attempt: AttemptId,
    },
    /// The holders of these tokens were thrown out by force.
    Evict {
        /// Their tokens.
        tokens: Vec<u64>,
    },
    /// The client's process was killed; the moment is one after its end.
    Died,
    /// The present leader was read.
    Leader {
        /// Its id and term.
        leader: Option<(String, u64)>,
        /// The election is at rest: whoever observes it should have seen this one.
        settled: bool,
    },
    /// An observer of an election reported something.
    Observed {
        /// Which observer of this client.
        watcher: u64,
        /// What it reported.
        seen: Seen,
    },
    /// An instance was registered.
    Register {
        /// Which attempt.
        attempt: AttemptId,
        /// The instance's id.
        id: String,
        /// The token.
        token: Option<u64>,
    },
    /// A registration was ended by its owner.
    Deregister {
        /// Which attempt.
        attempt: AttemptId,
        /// The token that it had last.
        token: u64,
    },
    /// The members of a service were read: their ids and tokens.
    Members {
        /// Who was listed.
        members: Vec<(String, u64)>,
        /// The service is at rest: whoever watches it should have seen these.
        settled: bool,
    },
    /// A watcher of a service reported something.
    Watched {
        /// Which watcher of this client.
        watcher: u64,
        /// What it reported.
        change: Change,
    },
    /// A fenced resource was written to.
    Write {
        /// With this token.
        token: u64,
        /// The value that the writer had read before.
        read: u64,
        /// The value that it wrote.
        wrote: u64,
    },
    /// An entry in a fenced resource's own log: what it accepted, in this order.
    Accepted {
        /// The place in the order.
        sequence: u64,
        /// The token.
        token: u64,
        /// The value that the writer had read before; `None` if only the mark was raised.
        write: Option<(u64, u64)>,
    },
    /// A register was read: its value and version. Every write of a history has another value.
    Read {
        /// What was found.
        found: Option<(String, u64)>,
    },
    /// A register was written to, or its value removed.
    Put {
        /// What had to be true.
        given: Given,
        /// The new value; `None` for a removal.
        value: Option<String>,
        /// The new version, if a put was done.
        version: Option<u64>,
    },
    /// An item was pushed. Every item of a history carries another text.
    Push {
        /// What it carries.
        item: String,
        /// Its priority.
        priority: i32,
        /// Its group.
        group: Option<String>,
    },
    /// Items were asked for.
    Receive {
        /// What was delivered: what the items carry, the tokens, and the how-manieth delivery each is.
        items: Vec<(String, u64, u32)>,
    },
    /// The delivery said that the item is still in these hands.
    InHand {
        /// The item.
        item: String,
        /// The delivery's token.
        token: u64,
    },
    /// An item was acknowledged.
    Ack {
        /// The item.
        item: String,
        /// The delivery's token.
        token: u64,
    },
    /// An item was given back.
    Nack {
        /// The item.
        item: String,
        /// The delivery's token.
        token: u64,
    },
    /// Nothing is left in the queue.
    Drained,
}

/// What has to be true for a write to a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums)]
pub enum Given {
    /// Nothing.
    Anything,
    /// There is no value.
    Absent,
    /// The value has this version.
    Version(u64),
}

/// What an attempt asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Ask {
    /// What it takes.
    pub weight: u32,
    /// What it and all ahead of it may take together.
    pub limit: u32,
    /// Its priority.
    pub priority: i32,
    /// The candidate's id, where there is one.
    pub owner: String,
}

impl Ask {
    /// An exclusive lock.
    #[must_use]
    pub fn lock() -> Self {
        Self::of(ALL, ALL)
    }

    /// A shared lock.
    #[must_use]
    pub fn reader() -> Self {
        Self::of(1, ALL)
    }

    /// Permits of a semaphore.
    #[must_use]
    pub fn permits(permits: u32, of: u32) -> Self {
        Self::of(permits, of)
    }

    /// A candidate of an election.
    #[must_use]
    pub fn candidate(id: impl Into<String>, priority: i32) -> Self {
        Self { priority, owner: id.into(), ..Self::of(1, 1) }
    }

    fn of(weight: u32, limit: u32) -> Self {
        Self { weight, limit, priority: 0, owner: String::new() }
    }
}

/// What an observer of an election reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums)]
pub enum Seen {
    /// A new leader: its id and term.
    Elected(String, u64),
    /// The leader of this id and term changed its value.
    Proclaimed(String, u64),
    /// Nobody leads.
    Vacant,
}

/// What a watcher of a service reported: ids and tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums)]
pub enum Change {
    /// Everyone at the start.
    Snapshot(Vec<(String, u64)>),
    /// A new one, or one that registered anew.
    Joined(String, u64),
    /// One changed its data.
    Updated(String, u64),
    /// One went away.
    Left(String, u64),
}

/// One operation of one client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs)]
pub struct Event {
    /// Before it was called.
    pub from: Stamp,
    /// After it returned.
    pub to: Stamp,
    /// Who called it; unique in the history.
    pub client: String,
    /// On what: a kind and a name, or a resource.
    pub object: String,
    /// What was done.
    pub op: Op,
    /// How it ended.
    pub outcome: Outcome,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |stamp: Stamp| stamp.at as f64 / 1e6;
        let Self { from, to, client, object, op, outcome } = self;
        write!(f, "{:.3}..{:.3} ms  {client}  {object}  {op:?} -> {outcome:?}", millis(*from), millis(*to))
    }
}

/// What an object of the history is called.
#[must_use]
pub fn object(kind: Kind, name: &Name) -> String {
    format!("{kind}/{name}")
}

/// The line of a name, as the suite's coordinators use it.
#[must_use]
pub fn line(kind: Kind, name: &Name) -> LineId {
    LineId { namespace: Namespace::default(), kind, name: name.clone() }
}

type Sink = Box<dyn Fn(&Event) + Send + Sync>;

struct Shared {
    clock: Clock,
    state: Mutex<State>,
    sink: Option<Sink>,
}

#[derive(Default)]
struct State {
    tick: u64,
    next: u64,
    events: Vec<Event>,
}

/// An append-only record of events. Cloning it is cheap; clones are one record.
#[derive(Clone)]
pub struct History(Arc<Shared>);

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").field("events", &self.lock().events.len()).finish_non_exhaustive()
    }
}

impl History {
    /// An empty history on this clock.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self(Arc::new(Shared { clock, state: Mutex::default(), sink: None }))
    }

    /// A history that passes every event on at once, as a process does that may be killed.
    pub fn streaming(clock: Clock, sink: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared { clock, state: Mutex::default(), sink: Some(Box::new(sink)) }))
    }

    /// The present moment.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        // Under the lock, so that the order of stamps is the order in which they were taken.
        let mut state = self.lock();
        state.tick += 1;
        let at = u64::try_from(self.0.clock.now().since_start().as_nanos()).unwrap_or(u64::MAX);
        Stamp { at, tick: state.tick }
    }

    /// Appends an event.
    pub fn record(&self, event: Event) {
        if let Some(sink) = &self.0.sink {
            sink(&event);
        }
        self.lock().events.push(event);
    }

    /// All events, in the order in which they ended.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        let mut events = self.lock().events.clone();
        events.sort_by_key(|event| event.to);
        events
    }

    /// What records for one client. The name must be unique in the history.
    #[must_use]
    pub fn client(&self, name: impl Into<String>) -> Recorder {
        Recorder { history: self.clone(), client: name.into() }
    }

    /// A number that is given once.
    pub(crate) fn number(&self) -> u64 {
        let mut state = self.lock();
        state.next += 1;
        state.next
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.events().iter().try_for_each(|event| writeln!(f, "{event}"))
    }
}

/// Records what one client does.
#[derive(Debug, Clone)]
pub struct Recorder {
    history: History,
    client: String,
}

impl Recorder {
    /// The history.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The client's name in the history.
    #[must_use]
    pub fn client(&self) -> &str {
        &self.client
    }

    /// A number for an attempt, an observer or a watcher; unique in the history of this process.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.history.number()
    }

    /// Records something that happened at one moment, now.
    pub fn note(&self, object: &str, op: Op) {
        let now = self.history.stamp();
        self.append(object, op, now, now, Outcome::Ok);
    }

    /// Records that a delivery said, after this moment, that the item is in its hands.
    pub fn in_hand(&self, object: &str, item: &str, token: u64, asked: Stamp) {
        let op = Op::InHand { item: item.to_owned(), token };
        self.append(object, op, asked, self.history.stamp(), Outcome::Ok);
    }

    /// Drives an operation and records it; `op` makes the event of what it returned. If it is dropped, its outcome is
    /// unknown.
    ///
    /// # Errors
    /// What the operation says.
    pub async fn call<T>(
        &self,
        object: &str,
        call: impl Future<Output = Result<T>>,
        op: impl Fn(Option<&T>) -> Op,
    ) -> Result<T> {
        let mut pending =
            Pending { recorder: self, object, from: self.history.stamp(), dropped: Some(op(None)) };
        let result = call.await;
        pending.dropped = None;
        let outcome = match &result {
            Ok(_) => Outcome::Ok,
            Err(error) => outcome_of(error),
        };
        self.append(object, op(result.as_ref().ok()), pending.from, self.history.stamp(), outcome);
        result
    }

    /// A new attempt to be granted something.
    #[must_use]
    pub fn attempt(&self, object: impl Into<String>, ask: Ask) -> Attempt {
        Attempt { recorder: self.clone(), object: object.into(), id: self.number(), ask }
    }

    fn append(&self, object: &str, op: Op, from: Stamp, to: Stamp, outcome: Outcome) {
        let (client, object) = (self.client.clone(), object.to_owned());
        self.history.record(Event { from, to, client, object, op, outcome });
    }
}

/// An operation under way.
struct Pending<'a> {
    recorder: &'a Recorder,
    object: &'a str,
    from: Stamp,
    /// What to record if it is dropped.
    dropped: Option<Op>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(op) = self.dropped.take() {
            let to = self.recorder.history.stamp();
            self.recorder.append(self.object, op, self.from, to, Outcome::Unknown("dropped".into()));
        }
    }
}

/// How an operation that failed with this error ended.
#[must_use]
pub fn outcome_of(error: &Error) -> Outcome {
    match error.effect() {
        Effect::None => Outcome::Fail(format!("{:?}", error.kind())),
        Effect::Unknown => Outcome::Unknown(format!("{:?}", error.kind())),
    }
}

/// What can be held: a lock, a permit, a leadership.
pub trait Holding: Send + Sync {
    /// Its token.
    fn token(&self) -> FencingToken;
    /// Whether it says that it is held.
    fn is_held(&self) -> bool;
    /// Completes when it is lost.
    fn lost(&self) -> impl Future<Output = ()> + Send;
    /// Releases it.
    fn release(self) -> impl Future<Output = Result<()>> + Send;
}

impl Holding for Guard {
    fn token(&self) -> FencingToken {
        self.token()
    }
    fn is_held(&self) -> bool {
        self.is_held()
    }
    async fn lost(&self) {
        self.lost().await;
    }
    async fn release(self) -> Result<()> {
        self.release().await
    }
}

impl Holding for Leadership {
    fn token(&self) -> FencingToken {
        self.term()
    }
    fn is_held(&self) -> bool {
        self.is_leader()
    }
    async fn lost(&self) {
        self.lost().await;
    }
    async fn release(self) -> Result<()> {
        self.resign().await
    }
}

/// One attempt to be granted something.
#[derive(Debug, Clone)]
pub struct Attempt {
    recorder: Recorder,
    object: String,
    id: AttemptId,
    ask: Ask,
}

impl Attempt {
    /// Notes that the attempt was seen waiting in the line, by whom soever. Only for an attempt that cannot lose its place:
    /// one that nothing keeps from the store for longer than its TTL.
    pub fn queued(&self) {
        self.recorder.note(&self.object, Op::Queued { attempt: self.id, ask: self.ask.clone() });
    }

    /// Drives the acquisition, records it, and takes a first sample of the guard.
    ///
    /// # Errors
    /// What the acquisition says.
    pub async fn acquire<G: Holding>(self, call: impl Future<Output = Result<G>>) -> Result<Held<G>> {
        let Self { recorder, object, id: attempt, ask } = self;
        let op = |guard: Option<&G>| {
            let token = guard.map(|guard| guard.token().get());
            Op::Acquire { attempt, ask: ask.clone(), token }
        };
        let guard = recorder.call(&object, call, op).await?;
        let held = Held { recorder, object, attempt, guard };
        held.is_held();
        Ok(held)
    }
}

/// A guard that records what becomes of it.
#[derive(Debug)]
pub struct Held<G> {
    recorder: Recorder,
    object: String,
    attempt: AttemptId,
    guard: G,
}

impl<G: Holding> Held<G> {
    /// The guard.
    pub fn guard(&self) -> &G {
        &self.guard
    }

    /// The token.
    pub fn token(&self) -> FencingToken {
        self.guard.token()
    }

    /// Asks the guard whether it is held, and records the answer.
    pub fn is_held(&self) -> bool {
        let (recorder, attempt) = (&self.recorder, self.attempt);
        let from = recorder.history.stamp();
        let held = self.guard.is_held();
        let op = if held { Op::Valid { attempt } } else { Op::Lost { attempt } };
        recorder.append(&self.object, op, from, recorder.history.stamp(), Outcome::Ok);
        held
    }

    /// Waits for the guard to be lost and records it.
    pub async fn lost(&self) {
        self.guard.lost().await;
        self.recorder.note(&self.object, Op::Lost { attempt: self.attempt });
    }

    /// Takes a sample of the guard every so often, until it is lost.
    pub async fn watch(&self, every: std::time::Duration) {
        while self.is_held() {
            tokio::time::sleep(every).await;
        }
    }

    /// Releases the guard and records it.
    ///
    /// # Errors
    /// What the release says.
    pub async fn release(self) -> Result<()> {
        let Self { recorder, object, attempt, guard } = self;
        recorder.call(&object, guard.release(), |_| Op::Release { attempt }).await
    }

    /// The guard, without further record.
    pub fn into_inner(self) -> G {
        self.guard
    }
}
