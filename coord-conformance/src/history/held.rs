//! Grants that record what becomes of them.

use coord_core::{FencingToken, Guard, Leadership, Result};

use super::{Ask, AttemptId, Op, Outcome, Recorder};

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
    pub(super) fn new(recorder: Recorder, object: String, ask: Ask) -> Self {
        let id = recorder.number();
        Self { recorder, object, id, ask }
    }

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
        let from = recorder.history().stamp();
        let held = self.guard.is_held();
        let op = if held { Op::Valid { attempt } } else { Op::Lost { attempt } };
        recorder.append(&self.object, op, from, recorder.history().stamp(), Outcome::Ok);
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

    /// Drops the guard and records it. Nobody hears when it is released.
    pub fn abandon(self) {
        let Self { recorder, object, attempt, guard } = self;
        let now = recorder.history().stamp();
        drop(guard);
        recorder.since(now, &object, Op::Release { attempt }, Outcome::Unknown("dropped".into()));
    }

    /// The guard, without further record.
    pub fn into_inner(self) -> G {
        self.guard
    }
}
