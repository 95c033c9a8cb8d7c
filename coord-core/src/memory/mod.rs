//! A store in this process's memory: the executable specification of [`crate::spi`], and a backend for tests.
//!
//! It lives on Tokio's clock, so that a test that pauses the clock decides when leases end, and it can be made to
//! [fail](Faults). Clients made from one [`Store`] share its content and fail independently.
//!
//! ```
//! use coord_core::{memory, prelude::*};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), coord_core::Error> {
//! let store = memory::Store::new();
//! let (one, two) = (store.client(), store.client());
//! let name = Name::new("report")?;
//! let guard = one.acquire(&name, &LockOptions::default()).await?;
//! assert!(two.try_acquire(&name, &LockOptions::default()).await.is_err());
//! guard.release().await?;
//! assert!(two.try_acquire(&name, &LockOptions::default()).await?.token() > FencingToken::MIN);
//! # Ok(()) }
//! ```

mod faults;
mod jobs;
mod line;
mod values;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::stream;
use tokio::sync::watch;

pub use self::faults::Faults;
use self::line::Slots;
use crate::{
    ClockAssumption, Coordinator, Durability, Features, FencingToken, Guarantees, Name, Namespace, Result,
    Scope,
    clock::{self, Clock, Moment},
    spi::{
        Claim, ClaimId, Claims, Grant, HandOver, Kind, Line, LineId, Renewal, Standing, Wakeup, Wakeups,
        jobs::QueueId, values::Prefix,
    },
};

/// A store in memory. Cloning it is cheap; clones share the content.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
    features: Features,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: u64,
    revision: u64,
    lines: HashMap<LineId, Slots>,
    values: values::Map,
    queues: HashMap<QueueId, jobs::Line>,
    next_listener: u64,
    listeners: HashMap<Topic, Vec<Listener>>,
}

/// What a hint can be about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Topic {
    Line(LineId, Option<ClaimId>),
    Prefix(Prefix),
    Queue(QueueId),
}

struct Listener {
    number: u64,
    faults: Arc<Faults>,
    hint: watch::Sender<()>,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self { shared: Arc::default(), features: Features::ALL }
    }

    /// The same store promising less, to test how programs fare with that.
    #[must_use]
    pub fn with_features(mut self, features: Features) -> Self {
        self.features = features;
        self
    }

    /// A new client.
    #[must_use]
    pub fn client(&self) -> Coordinator {
        self.client_with_faults().0
    }

    /// A new client and its faults.
    #[must_use]
    pub fn client_with_faults(&self) -> (Coordinator, Arc<Faults>) {
        let client = Arc::new(self.connect());
        let faults = client.faults();
        let builder =
            Coordinator::builder(client.clone()).values(client.clone()).jobs(client).clock(Clock::Tokio);
        // The default owner text is valid.
        (builder.build().unwrap_or_else(|error| panic!("{error}")), faults)
    }

    /// The store as a backend sees it, to wrap it in a decorator or to build a coordinator with other settings. Use
    /// [`Clock::Tokio`] with it.
    #[must_use]
    pub fn connect(&self) -> Client {
        Client { shared: self.shared.clone(), features: self.features, faults: Arc::default() }
    }

    /// Ends the leases of all claims of a name at once, as if their time had passed.
    pub fn expire_now(&self, namespace: &Namespace, kind: Kind, name: &Name) {
        let line = LineId { namespace: namespace.clone(), kind, name: name.clone() };
        let mut state = self.shared.lock();
        if let Some(slots) = state.lines.get_mut(&line) {
            slots.expire_all();
        }
        state.settle(&line);
    }

    /// How many claims and names the store knows, to look for what was left behind.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let mut state = self.shared.lock();
        let now = Clock::Tokio.now();
        for slots in state.lines.values_mut() {
            slots.purge(now);
        }
        state.lines.retain(|_, slots| !slots.is_empty());
        (state.lines.values().map(|slots| slots.entries(now).len()).sum(), state.lines.len())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

/// Joining can take several tokens; each is the next of the store.
fn next(token: &mut u64) -> FencingToken {
    *token += 1;
    // 2^53 joins do not happen in one process.
    FencingToken::new(*token).unwrap_or(FencingToken::MAX)
}

impl State {
    /// The line without what has expired, and the counter.
    fn open(&mut self, line: &LineId, now: Moment) -> (&mut Slots, &mut u64) {
        let slots = self.lines.entry(line.clone()).or_default();
        if slots.purge(now) {
            self.revision += 1;
            self.settle(line);
        }
        (self.lines.entry(line.clone()).or_default(), &mut self.token)
    }

    /// Forgets the line if it is empty; wakes who became eligible, and the line's watchers.
    fn settle(&mut self, line: &LineId) {
        self.revision += 1;
        let Some(slots) = self.lines.get(line) else { return };
        let eligible: Vec<_> = slots.eligible().collect();
        if slots.is_empty() {
            self.lines.remove(line);
        }
        for id in eligible {
            self.wake(&Topic::Line(line.clone(), Some(id)));
        }
        self.wake(&Topic::Line(line.clone(), None));
    }

    /// Forgets a line that was opened and is empty.
    fn tidy(&mut self, line: &LineId) {
        if self.lines.get(line).is_some_and(Slots::is_empty) {
            self.lines.remove(line);
        }
    }

    fn wake(&self, topic: &Topic) {
        for listener in self.listeners.get(topic).into_iter().flatten() {
            if listener.faults.hears() {
                listener.hint.send_replace(());
            }
        }
    }
}

/// One client of a [`Store`].
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    features: Features,
    faults: Arc<Faults>,
}

impl Client {
    /// The faults on this client's way to the store.
    #[must_use]
    pub fn faults(&self) -> Arc<Faults> {
        self.faults.clone()
    }

    /// One round trip about a line, of which nothing is left behind if it is empty.
    async fn on_line<T>(&self, line: &LineId, step: impl FnOnce(&mut State, Moment) -> T) -> Result<T> {
        self.step(|state, now| {
            let answer = step(state, now);
            state.tidy(line);
            answer
        })
        .await
    }

    fn listen(&self, topic: Topic) -> Wakeups {
        let (hint, hints) = watch::channel(());
        let mut state = self.shared.lock();
        state.next_listener += 1;
        let number = state.next_listener;
        let listener = Listener { number, faults: self.faults.clone(), hint };
        state.listeners.entry(topic.clone()).or_default().push(listener);
        let subscription = Subscription { shared: self.shared.clone(), topic, number };
        Wakeups::new(stream::unfold((hints, subscription), async |(mut hints, subscription)| {
            hints.changed().await.ok()?;
            Some((Wakeup::LookAgain, (hints, subscription)))
        }))
    }

    /// One round trip: the request, one atomic step, the reply.
    async fn step<T>(&self, step: impl FnOnce(&mut State, Moment) -> T) -> Result<T> {
        self.faults.request().await?;
        let answer = step(&mut self.shared.lock(), Clock::Tokio.now());
        self.faults.reply().await?;
        Ok(answer)
    }
}

#[async_trait]
impl Claims for Client {
    fn guarantees(&self) -> Guarantees {
        Guarantees::new("memory")
            .with_scope(Scope::Process)
            .with_durability(Durability::Process)
            .with_clock(ClockAssumption::Same)
            .with_features(self.features)
    }

    async fn claim(&self, claim: &Claim) -> Result<Standing> {
        let wall = clock::wall();
        self.step(|state, now| {
            let expires = now.after(claim.ttl);
            let (slots, token) = state.open(&claim.line, now);
            if let Some(slot) = slots.get(claim.id) {
                slot.expires = expires;
            } else if claim.wait || slots.would_be_eligible(claim) {
                slots.join(claim, expires, wall, || next(token));
            } else {
                return Standing::Refused(slots.first_holder());
            }
            let standing = match slots.grant(claim.id, wall) {
                Some(token) => {
                    Standing::Granted(Grant { line: claim.line.clone(), id: claim.id, token, ttl: claim.ttl })
                }
                None => {
                    let (ahead, look_again_in) = slots.ahead(claim.id, now);
                    Standing::Waiting { ahead, look_again_in: look_again_in + Duration::from_millis(1) }
                }
            };
            state.settle(&claim.line);
            standing
        })
        .await
    }

    async fn renew(&self, grants: &[Grant]) -> Result<Vec<Renewal>> {
        self.step(|state, now| {
            let renew = |grant: &Grant| {
                let (slots, _) = state.open(&grant.line, now);
                let renewal = match slots.granted(grant.id, grant.token) {
                    Some(slot) => {
                        slot.expires = slot.expires.max(now.after(grant.ttl));
                        Renewal::Renewed
                    }
                    None => Renewal::Lost,
                };
                state.tidy(&grant.line);
                renewal
            };
            grants.iter().map(renew).collect()
        })
        .await
    }

    async fn set_value(&self, grant: &Grant, value: &[u8]) -> Result<Renewal> {
        self.on_line(&grant.line, |state, now| {
            let (slots, _) = state.open(&grant.line, now);
            let Some(slot) = slots.granted(grant.id, grant.token) else { return Renewal::Lost };
            slot.claim.value = value.to_vec();
            state.settle(&grant.line);
            Renewal::StillHeld
        })
        .await
    }

    async fn withdraw(&self, line: &LineId, id: ClaimId) -> Result<()> {
        self.on_line(line, |state, now| {
            let (slots, _) = state.open(line, now);
            if slots.remove(id).is_some() {
                state.settle(line);
                // If another client took it away, its own one should know.
                state.wake(&Topic::Line(line.clone(), Some(id)));
            }
        })
        .await
    }

    async fn hand_over(&self, from: &Grant, to: ClaimId) -> Result<HandOver> {
        self.on_line(&from.line, |state, now| {
            let (slots, token) = state.open(&from.line, now);
            if slots.granted(from.id, from.token).is_none() {
                return HandOver::Lost;
            }
            let Some(place) = slots.get(to).filter(|slot| slot.granted.is_none()).map(|slot| slot.token)
            else {
                return HandOver::NotFound;
            };
            slots.overtake(|slot| slot.token < place, || next(token));
            slots.remove(from.id);
            state.settle(&from.line);
            HandOver::Done
        })
        .await
    }

    async fn adopt(&self, from: &Grant, to: ClaimId) -> Result<Renewal> {
        self.on_line(&from.line, |state, now| {
            let (slots, _) = state.open(&from.line, now);
            let known = if slots.granted(to, from.token).is_some() { to } else { from.id };
            let Some(slot) = slots.granted(known, from.token) else { return Renewal::Lost };
            slot.id = to;
            slot.expires = slot.expires.max(now.after(from.ttl));
            state.settle(&from.line);
            Renewal::Renewed
        })
        .await
    }

    async fn line(&self, line: &LineId) -> Result<Line> {
        self.on_line(line, |state, now| {
            let entries = state.open(line, now).0.entries(now);
            Line { revision: state.revision, entries }
        })
        .await
    }

    fn wakeups(&self, line: &LineId, id: Option<ClaimId>) -> Wakeups {
        self.listen(Topic::Line(line.clone(), id))
    }
}

/// Removes its listener when the stream of hints is dropped.
struct Subscription {
    shared: Arc<Shared>,
    topic: Topic,
    number: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(listeners) = state.listeners.get_mut(&self.topic) {
            listeners.retain(|listener| listener.number != self.number);
            if listeners.is_empty() {
                state.listeners.remove(&self.topic);
            }
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("number", &self.number).finish_non_exhaustive()
    }
}
