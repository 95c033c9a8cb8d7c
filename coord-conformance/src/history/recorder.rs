//! Records what one client does.

use coord_core::{Effect, Error, Result};

use super::{Ask, Attempt, Event, History, KILLED, Op, Outcome, Stamp};

/// Records what one client does.
#[derive(Debug, Clone)]
pub struct Recorder {
    history: History,
    client: String,
}

impl Recorder {
    pub(super) fn new(history: History, client: String) -> Self {
        Self { history, client }
    }

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

    /// Records something that went on from this moment to now.
    pub fn since(&self, from: Stamp, object: &str, op: Op, outcome: Outcome) {
        self.append(object, op, from, self.history.stamp(), outcome);
    }

    /// Records that a delivery said, after this moment, that the item is in its hands.
    pub fn in_hand(&self, object: &str, item: &str, token: u64, asked: Stamp) {
        let op = Op::InHand { item: item.to_owned(), token };
        self.append(object, op, asked, self.history.stamp(), Outcome::Ok);
    }

    /// Drives an operation and records it; `op` makes the event of what it returned. If it is dropped, or its process is
    /// killed, its outcome is unknown.
    ///
    /// # Errors
    /// What the operation says.
    pub async fn call<T>(
        &self,
        object: &str,
        call: impl Future<Output = Result<T>>,
        op: impl Fn(Option<&T>) -> Op,
    ) -> Result<T> {
        let from = self.history.stamp();
        self.history.begin(|| self.event(object, op(None), from, from, Outcome::Unknown(KILLED.to_owned())));
        let mut pending = Pending { recorder: self, object, from, dropped: Some(op(None)) };
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
        Attempt::new(self.clone(), object.into(), ask)
    }

    pub(super) fn append(&self, object: &str, op: Op, from: Stamp, to: Stamp, outcome: Outcome) {
        self.history.record(self.event(object, op, from, to, outcome));
    }

    fn event(&self, object: &str, op: Op, from: Stamp, to: Stamp, outcome: Outcome) -> Event {
        Event { from, to, client: self.client.clone(), object: object.to_owned(), op, outcome }
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
