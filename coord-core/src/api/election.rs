//! Leader election.

use std::{
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::{
    Coordinator, Error, ErrorKind, FencingToken, Name, Result, Watch,
    coordinator::Request,
    engine::{
        attempt,
        hold::Hold,
        trace::{Tokened, traced, traced_holding},
        watch::follow,
    },
    limits,
    spi::{Kind, Line},
};

/// Elections: of all candidates of a name at most one leads at a time, and each leadership has a **term**, its fencing
/// token. Terms grow in the order in which leaders are elected.
#[async_trait]
pub trait Election: Send + Sync {
    /// Stands as a candidate and waits until elected. Candidates of a higher priority are elected first, those of the
    /// same one in the order in which they came. A candidate that is overtaken joins the line again, so that its term
    /// will be greater than that of whoever overtook it.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped at any point, it leaves no claim behind.
    ///
    /// # Errors
    /// [`ErrorKind::NotGranted`] when [`CampaignOptions::wait`] is over; the kinds of bad options;
    /// [`ErrorKind::Unsupported`] for a priority where the backend has none; what the store says.
    async fn campaign(&self, name: &Name, options: &CampaignOptions) -> Result<Leadership>;

    /// Who leads now, by the store's clock. `None` in the moment between two leaders, too.
    ///
    /// # Cancel safety
    /// Cancel safe.
    ///
    /// # Errors
    /// What the store says.
    async fn leader(&self, name: &Name) -> Result<Option<Leader>>;

    /// Follows the leadership: first the present state, then changes. A term is never invented, repeated as new or
    /// followed by a lower one. Leaders in between may be skipped when they change faster than they are read; the
    /// last one is always reported.
    fn observe(&self, name: &Name) -> Watch<ElectionEvent>;
}

/// How to campaign. The default waits for ever with a TTL of [`limits::DEFAULT_TTL`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CampaignOptions {
    /// The candidate's id, by which others know it and can hand over to it; `None` for the coordinator's owner text.
    pub id: Option<String>,
    /// What the leader shows to others, such as its address.
    pub value: Vec<u8>,
    /// Higher goes first. A leader in office is never overtaken.
    pub priority: i32,
    /// How long a crashed leader blocks the next one.
    pub ttl: Duration,
    /// How long to wait; `None` for ever; zero not at all.
    pub wait: Option<Duration>,
}

impl Default for CampaignOptions {
    fn default() -> Self {
        Self { id: None, value: Vec::new(), priority: 0, ttl: limits::DEFAULT_TTL, wait: None }
    }
}

impl CampaignOptions {
    /// With this candidate id.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// With a value that others see.
    #[must_use]
    pub fn with_value(mut self, value: impl Into<Vec<u8>>) -> Self {
        self.value = value.into();
        self
    }

    /// With this priority.
    #[must_use]
    pub fn with_priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// With this TTL.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Waiting for at most this long.
    #[must_use]
    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leader {
    /// The candidate's id.
    pub id: String,
    /// The fencing token of this leadership.
    pub term: FencingToken,
    /// What it last proclaimed.
    pub value: Vec<u8>,
    /// Since when, by the store's wall clock.
    pub since: SystemTime,
}

/// What [`Election::observe`] reports.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ElectionEvent {
    /// A leader, of a greater term than all before.
    Elected(Leader),
    /// The leader in office changed its value.
    Proclaimed(Leader),
    /// Nobody leads.
    Vacant,
}

impl Tokened for Leader {
    fn fencing_token(&self) -> Option<FencingToken> {
        Some(self.term)
    }
}

fn leader_of(line: &Line) -> Option<Leader> {
    line.holders().next().and_then(|entry| {
        let since = entry.granted?;
        Some(Leader { id: entry.owner.clone(), term: entry.token, value: entry.value.clone(), since })
    })
}

#[async_trait]
impl Election for Coordinator {
    async fn campaign(&self, name: &Name, options: &CampaignOptions) -> Result<Leadership> {
        let features = self.engine.guarantees.features;
        self.engine.guarantees.check(options.priority == 0 || features.priority, &"priorities")?;
        let line = self.line_id(Kind::Election, name);
        traced("election.campaign", &line.clone(), async {
            let request = Request {
                weight: 1,
                limit: 1,
                ttl: options.ttl,
                wait: options.wait,
                priority: options.priority,
                owner: options.id.clone(),
                value: options.value.clone(),
            };
            let claim = self.claim(line, request)?;
            let hold = attempt::acquire(&self.engine, claim, options.wait, true).await?;
            Ok(Leadership { hold, coordinator: self.clone() })
        })
        .await
    }

    async fn leader(&self, name: &Name) -> Result<Option<Leader>> {
        traced("election.leader", &self.line_id(Kind::Election, name), async {
            Ok(leader_of(&self.read_line(Kind::Election, name).await?))
        })
        .await
    }

    fn observe(&self, name: &Name) -> Watch<ElectionEvent> {
        let mut observed = Observed::default();
        let states = follow(self.engine.clone(), self.line_id(Kind::Election, name), None);
        Watch::new(states.filter_map(move |state| {
            let event = match state {
                Ok(line) => observed.event(leader_of(&line)).map(Ok),
                Err(error) => Some(Err(error)),
            };
            async { event }
        }))
    }
}

/// What an observer has reported so far.
#[derive(Default)]
struct Observed {
    started: bool,
    current: Option<Leader>,
    highest: Option<FencingToken>,
}

impl Observed {
    fn event(&mut self, leader: Option<Leader>) -> Option<ElectionEvent> {
        let first = !std::mem::replace(&mut self.started, true);
        match leader {
            None if first || self.current.take().is_some() => Some(ElectionEvent::Vacant),
            None => None,
            Some(leader) if self.highest.is_none_or(|highest| highest < leader.term) => {
                self.highest = Some(leader.term);
                self.current = Some(leader.clone());
                Some(ElectionEvent::Elected(leader))
            }
            Some(leader) => {
                let current = self.current.as_mut()?;
                // A lower term is an old state, read from a replica.
                if current.term != leader.term || current.value == leader.value {
                    return None;
                }
                *current = leader.clone();
                Some(ElectionEvent::Proclaimed(leader))
            }
        }
    }
}

/// A leadership in office. Dropping it resigns in the background.
#[must_use = "the leadership ends as soon as it is dropped"]
#[derive(Debug)]
pub struct Leadership {
    hold: Hold,
    coordinator: Coordinator,
}

impl Tokened for Leadership {
    fn fencing_token(&self) -> Option<FencingToken> {
        Some(self.term())
    }
}

impl Leadership {
    /// The term: the fencing token of this leadership.
    #[must_use]
    pub fn term(&self) -> FencingToken {
        self.hold.token()
    }

    /// Whether this process may still believe that it leads; see [`Guard::is_held`](crate::Guard::is_held).
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.hold.is_held()
    }

    /// How long the leadership lasts unless it is renewed; zero once it is lost.
    #[must_use]
    pub fn valid_for(&self) -> Duration {
        self.hold.valid_for()
    }

    /// Completes when the leadership is lost.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lost(&self) {
        self.hold.lost().await;
    }

    /// Drives `work` while this process leads; see [`Guard::run`](crate::Guard::run).
    ///
    /// # Cancel safety
    /// As `work`.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`].
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output> {
        self.hold.run(work).await
    }

    /// Changes the value that observers see, within the same term.
    ///
    /// # Cancel safety
    /// Dropped halfway, it may or may not be changed.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`], [`ErrorKind::TooLarge`], what the store says.
    pub async fn proclaim(&self, value: impl Into<Vec<u8>>) -> Result<()> {
        let set = self.hold.set_value(value.into());
        traced_holding("election.proclaim", &self.hold.line(), self.term(), set).await
    }

    /// Ends the leadership; the next candidate is elected at once.
    ///
    /// # Cancel safety
    /// Dropped halfway, it goes on in the background.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`] if it was lost before; what the store says, and then it ends with its lease;
    /// [`ErrorKind::Unavailable`] if the store is silent, and then it goes on in the background.
    pub async fn resign(self) -> Result<()> {
        let (line, term) = (self.hold.line(), self.term());
        traced_holding("election.resign", &line, term, self.hold.release()).await
    }

    /// Ends the leadership in favour of the candidate with this id, which is elected next. Those who stood before it
    /// join the line again behind it.
    ///
    /// # Cancel safety
    /// Dropped halfway, this process resigns in any case, in favour of the candidate or not.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if nobody of this id is waiting, [`ErrorKind::Unsupported`], and what the store says:
    /// the leadership comes back with the error if it certainly goes on; after an unknown outcome it is given up.
    /// [`ErrorKind::Lost`] if it was lost before.
    pub async fn hand_over(self, candidate: &str) -> Result<(), HandOverError> {
        let line = self.hold.line();
        let engine = &self.coordinator.engine;
        if let Err(error) = engine.guarantees.check(engine.guarantees.features.hand_over, &"hand-over") {
            return Err(HandOverError { error, leadership: Some(self) });
        }
        let found = self.coordinator.read_line(Kind::Election, &line.name).await.and_then(|line| {
            let waiter = line.waiters().find(|entry| entry.owner == candidate).map(|entry| entry.id);
            waiter.ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    format!("no candidate {candidate:?} is waiting in this election"),
                )
            })
        });
        let to = match found {
            Ok(to) => to,
            Err(error) => return Err(HandOverError { error, leadership: Some(self) }),
        };
        let Self { hold, coordinator } = self;
        let term = hold.token();
        match hold.hand_over(to).await {
            Ok(()) => {
                info!(name = %line.name, token = %term, candidate, outcome = "ok", "election.hand_over");
                Ok(())
            }
            Err((hold, error)) => {
                info!(name = %line.name, token = %term, candidate, outcome = ?error.kind(), %error, "election.hand_over");
                let leadership = hold.map(|hold| Self { hold, coordinator });
                Err(HandOverError { error, leadership })
            }
        }
    }
}

/// A hand-over that failed, with the leadership unless it is lost.
#[derive(Debug)]
#[non_exhaustive]
pub struct HandOverError {
    /// What went wrong.
    pub error: Error,
    /// The leadership, to go on with, unless it is lost or given up.
    pub leadership: Option<Leadership>,
}

impl std::fmt::Display for HandOverError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for HandOverError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl From<HandOverError> for Error {
    fn from(failed: HandOverError) -> Self {
        failed.error
    }
}

/// How long to stay away after a store that could not be reached.
const RECOVERY: Duration = Duration::from_secs(1);

/// What is written once on top of [`Election`].
pub trait ElectionExt: Election {
    /// Campaigns, runs `on_elected` while it leads, and campaigns again by itself: after every loss (`on_elected`'s
    /// future is dropped, then `on_lost` is told the term), after a store that was away, and when `on_elected` ends
    /// with [`ControlFlow::Continue`]. With [`ControlFlow::Break`] it resigns and returns the value.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped at any point, it resigns in the background.
    ///
    /// # Errors
    /// Errors of [`Election::campaign`] that waiting cannot mend, and [`ErrorKind::NotGranted`] where
    /// [`CampaignOptions::wait`] says how long to wait.
    fn run<T, F>(
        &self,
        name: &Name,
        options: &CampaignOptions,
        mut on_elected: impl FnMut(Arc<Leadership>) -> F + Send,
        mut on_lost: impl FnMut(FencingToken) + Send,
    ) -> impl Future<Output = Result<T>> + Send
    where
        T: Send,
        F: Future<Output = ControlFlow<T>> + Send,
    {
        async move {
            loop {
                let leadership = match self.campaign(name, options).await {
                    Ok(leadership) => Arc::new(leadership),
                    Err(error) if error.kind() == ErrorKind::Unavailable => {
                        warn!(%name, %error, "campaigning again");
                        sleep(RECOVERY).await;
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                let term = leadership.term();
                let outcome = leadership.run(on_elected(leadership.clone())).await;
                if outcome.is_err() {
                    on_lost(term);
                }
                // If the caller kept a clone, the leadership ends when that is dropped.
                if let Some(leadership) = Arc::into_inner(leadership)
                    && let Err(error) = leadership.resign().await
                    && !error.is_lost()
                {
                    warn!(%name, %error, "not resigned; the lease ends it");
                }
                if let Ok(ControlFlow::Break(value)) = outcome {
                    return Ok(value);
                }
            }
        }
    }
}

impl<T: Election + ?Sized> ElectionExt for T {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn leader(term: u64, value: &[u8]) -> Option<Leader> {
        let term = FencingToken::new(term).unwrap();
        Some(Leader { id: "a".into(), term, value: value.into(), since: clock::wall() })
    }

    #[test]
    fn observed_terms_only_grow() {
        let mut observed = Observed::default();
        assert_eq!(observed.event(None), Some(ElectionEvent::Vacant));
        assert_eq!(observed.event(None), None);
        assert!(matches!(observed.event(leader(5, b"x")), Some(ElectionEvent::Elected(_))));
        assert_eq!(observed.event(leader(5, b"x")), None);
        assert!(matches!(observed.event(leader(5, b"y")), Some(ElectionEvent::Proclaimed(_))));
        assert_eq!(observed.event(leader(4, b"z")), None, "an old state");
        assert_eq!(observed.event(None), Some(ElectionEvent::Vacant));
        assert_eq!(observed.event(leader(5, b"y")), None, "a term does not come back");
        assert!(matches!(observed.event(leader(6, b"")), Some(ElectionEvent::Elected(_))));
    }
}
