//! What happened, for the [checkers](crate::checkers) to judge afterwards.
//!
//! Every operation is one [`Event`] with the moment before it was called and the moment after it returned. All
//! processes of one host read the same clock, so events of several processes can be put into one history.
//!
//! A client's own belief is recorded as [`Op::Valid`]: its guard said at that moment that it is held. Checkers build on
//! these samples and not on the moment in which a loss was *noticed*: on a busy machine a task may be told late, and
//! that is nobody's fault.

mod file;
mod held;
mod op;
mod recorder;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use coord_core::{
    Name, Namespace,
    clock::Clock,
    spi::{Kind, LineId},
};
use serde::{Deserialize, Serialize};

pub use self::{
    file::{Header, Recording},
    held::{Attempt, Held, Holding},
    op::{Ask, AttemptId, Change, Given, Op, Report, Seen},
    recorder::{Recorder, outcome_of},
};

/// A moment in a history. Stamps of one process are all different and in the order in which they were taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

/// What a streaming history passes on.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::exhaustive_enums)]
pub enum News<'a> {
    /// An operation begins. The event is what is known of it if nothing more is heard: its outcome is [`KILLED`].
    Begun(&'a Event),
    /// An event is complete. If its operation was told of when it began, that had the same [`Event::from`].
    Done(&'a Event),
}

/// Why the outcome of an operation is unknown whose process was killed.
pub const KILLED: &str = "killed";

type Sink = Box<dyn Fn(News<'_>) + Send + Sync>;

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

    /// A history that passes everything on at once, as a process does that may be killed, and keeps nothing.
    pub fn streaming(clock: Clock, sink: impl Fn(News<'_>) + Send + Sync + 'static) -> Self {
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
        match &self.0.sink {
            Some(sink) => sink(News::Done(&event)),
            None => self.lock().events.push(event),
        }
    }

    /// Passes on that an operation begins, if anybody wants to know; `event` makes what is known of it.
    fn begin(&self, event: impl FnOnce() -> Event) {
        if let Some(sink) = &self.0.sink {
            sink(News::Begun(&event()));
        }
    }

    /// All events, in the order in which they ended.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        let mut events = self.lock().events.clone();
        events.sort_by_key(|event| event.to);
        events
    }

    /// All events so far, in the order in which they ended; nothing is left of them.
    #[must_use]
    pub fn take(&self) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.lock().events);
        events.sort_by_key(|event| event.to);
        events
    }

    /// What records for one client. The name must be unique in the history.
    #[must_use]
    pub fn client(&self, name: impl Into<String>) -> Recorder {
        Recorder::new(self.clone(), name.into())
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
