//! A store in memory with one bug planted in it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use coord_conformance::{Backend, Stores, TestStore};
use coord_core::{
    CoordinatorBuilder, FencingToken, Guarantees, Mutant, Result,
    clock::Clock,
    memory,
    spi::{Claim, ClaimId, Claims, Grant, HandOver, Kind, Line, LineId, Renewal, Standing, Wakeups},
};

use super::{jobs, values};

/// What is wrong with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Nothing: the control.
    None,
    /// All grants of a line have its first token.
    TokenStuck,
    /// The counter of a line starts anew when nobody is in it.
    TokensRestart,
    /// A claim that was overtaken keeps its token.
    OvertakenKeepsToken,
    /// The line shows other tokens than those that were granted.
    LineShowsOtherTokens,
    /// A renewal brings a claim back that has ended.
    RenewalRevives,
    /// Renewals are answered and not done.
    RenewalDoesNothing,
    /// A renewal with a shorter TTL shortens the lease.
    RenewalShortens,
    /// Leases last half as long as asked.
    LeaseIsShorter,
    /// A withdrawal takes out whoever stands first.
    WithdrawsTheFirst,
    /// A withdrawal is answered and not done.
    WithdrawsNothing,
    /// A lock is granted to two at once.
    GrantsTwo,
    /// The last who came is granted first.
    LastInFirstOut,
    /// Claims that wait never expire.
    WaitersNeverExpire,
    /// Readers pass writers that wait.
    ReadersPassWriters,
    /// Priorities are forgotten.
    IgnoresPriority,
    /// A claim that is sent again joins again.
    ClaimsTwice,
    /// A claim that does not want to wait, waits.
    RefusedStays,
    /// A grant can be adopted any number of times.
    AdoptsTwice,
    /// A hand-over goes to whoever is first in line.
    HandsOverToTheFirst,
    /// A claim that has ended takes a value, so it seems.
    TakesValuesOfTheLost,
    /// Every read shows what was there at the read before.
    ReadsStale,
    /// A conditional write does not look at the version.
    IgnoresVersions,
    /// A fence refuses greater tokens and accepts lower ones.
    FencesTheWrongWay,
    /// A fence is answered and not done.
    FenceDoesNothing,
    /// The first write of a transaction is done whatever becomes of the others.
    DoesHalf,
    /// A transaction that is sent again is done again.
    CommitsTwice,
    /// The newest change is not reported.
    MissesTheLastWrite,
    /// What was forgotten is reported as if nothing had been.
    HidesTheGap,
    /// Every third push is answered and not done.
    LosesPushes,
    /// Every item is pushed twice.
    DoublesPushes,
    /// Groups are forgotten.
    IgnoresGroups,
    /// Queues have no bound.
    IgnoresCapacity,
    /// Priorities of items are forgotten.
    IgnoresItemPriority,
    /// Delays of items are forgotten.
    IgnoresDelays,
    /// Deliveries are leased for a moment, whatever was asked.
    IgnoresVisibility,
    /// Items never die.
    NeverBuries,
    /// A receive that is sent again takes more items.
    ReceivesTwice,
    /// An acknowledgement counts whatever its token is.
    AcksWithoutToken,
    /// An item is given back whatever the token is.
    NacksWithoutToken,
    /// A delivery is extended whatever the token is.
    ExtendsWithoutToken,
    /// The last item that was pushed is delivered first.
    LastPushedFirst,
}

/// A backend with one bug in its store, or one in the engine.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) Bug, pub(crate) Option<Mutant>);

#[async_trait]
impl Backend for Broken {
    fn name(&self) -> &str {
        "broken"
    }

    fn virtual_time(&self) -> bool {
        true
    }

    async fn open(&self) -> Result<Box<dyn TestStore>> {
        let shared = Arc::new(Shared { bug: self.0, state: Mutex::default() });
        let (values, jobs) = (Arc::default(), Arc::default());
        Ok(Box::new(BrokenStore { store: memory::Store::new(), shared, values, jobs }))
    }

    fn configure(&self, builder: CoordinatorBuilder) -> CoordinatorBuilder {
        match self.1 {
            Some(mutant) => builder.mutant(mutant),
            None => builder,
        }
    }
}

#[derive(Debug)]
struct BrokenStore {
    store: memory::Store,
    shared: Arc<Shared>,
    values: Arc<values::State>,
    jobs: Arc<jobs::State>,
}

#[async_trait]
impl TestStore for BrokenStore {
    async fn connect(&self) -> Result<Arc<dyn Claims>> {
        Ok(Arc::new(Client { inner: self.store.connect(), shared: self.shared.clone() }))
    }

    async fn connect_all(&self) -> Result<Stores> {
        let (sound, bug) = (Arc::new(self.store.connect()), self.shared.bug);
        let values = values::over(sound.clone(), bug, self.values.clone());
        let jobs = jobs::over(sound, bug, self.jobs.clone());
        Ok(Stores::new(self.connect().await?).with_values(values).with_jobs(jobs))
    }

    fn remembered_changes(&self) -> Option<u64> {
        Some(1000)
    }

    fn clock(&self) -> Clock {
        Clock::Tokio
    }
}

#[derive(Debug)]
struct Shared {
    bug: Bug,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The claims that were made, by their ids.
    claims: HashMap<ClaimId, Claim>,
    /// The ids by which the sound store knows the claims, where they differ.
    aliases: HashMap<ClaimId, ClaimId>,
    /// The tokens that are shown for claims.
    shown: HashMap<ClaimId, FencingToken>,
    /// The tokens that the sound store gave.
    real: HashMap<ClaimId, FencingToken>,
    /// The next token to be shown, by line.
    counters: HashMap<LineId, u64>,
    priority: i32,
    last_read: HashMap<LineId, Line>,
}

#[derive(Debug)]
struct Client {
    inner: memory::Client,
    shared: Arc<Shared>,
}

fn token(number: u64) -> FencingToken {
    FencingToken::new(number).expect("a small number")
}

impl Client {
    fn bug(&self) -> Bug {
        self.shared.bug
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alias(&self, id: ClaimId) -> ClaimId {
        self.state().aliases.get(&id).copied().unwrap_or(id)
    }

    /// Whether other tokens are shown than the sound store gave.
    fn shows_its_own(&self) -> bool {
        matches!(self.bug(), Bug::TokenStuck | Bug::TokensRestart | Bug::OvertakenKeepsToken)
    }

    /// As the sound store knows it.
    fn real(&self, grant: &Grant) -> Grant {
        let id = self.alias(grant.id);
        let known = self.state().real.get(&id).copied().filter(|_| self.shows_its_own());
        let token = known.unwrap_or(grant.token);
        Grant { id, token, ttl: self.lease(grant.ttl), ..grant.clone() }
    }

    fn lease(&self, ttl: Duration) -> Duration {
        if self.bug() == Bug::LeaseIsShorter { ttl / 2 } else { ttl }
    }

    /// The token that is shown for a claim that the sound store gave this one.
    fn show(&self, line: &LineId, id: ClaimId, real: FencingToken, alone: bool) -> FencingToken {
        let bug = self.bug();
        let mut state = self.state();
        state.real.insert(id, real);
        let shown = match bug {
            Bug::TokenStuck => token(1),
            Bug::TokensRestart => {
                if let Some(shown) = state.shown.get(&id) {
                    return *shown;
                }
                let counter = state.counters.entry(line.clone()).or_default();
                *counter = if alone { 1 } else { *counter + 1 };
                token(*counter)
            }
            Bug::OvertakenKeepsToken => state.shown.get(&id).copied().unwrap_or(real),
            _ => real,
        };
        state.shown.insert(id, shown);
        shown
    }

    /// The claim as it is passed on.
    fn twisted(&self, claim: &Claim) -> Claim {
        let mut twisted = Claim { ttl: self.lease(claim.ttl), ..claim.clone() };
        let known = self.state().claims.insert(claim.id, claim.clone()).is_some();
        match self.bug() {
            Bug::GrantsTwo if claim.line.kind == Kind::Lock => (twisted.weight, twisted.limit) = (1, 2),
            Bug::LastInFirstOut => {
                let mut state = self.state();
                if !known {
                    state.priority += 1;
                }
                twisted.priority = state.priority;
            }
            Bug::ReadersPassWriters if claim.weight < claim.limit => twisted.priority = 1,
            Bug::IgnoresPriority => twisted.priority = 0,
            Bug::WaitersNeverExpire => twisted.ttl = claim.ttl * 10_000,
            Bug::ClaimsTwice => {
                twisted.id = ClaimId::random();
                self.state().aliases.insert(claim.id, twisted.id);
            }
            _ => {}
        }
        twisted
    }
}

#[async_trait]
impl Claims for Client {
    fn guarantees(&self) -> Guarantees {
        self.inner.guarantees()
    }

    async fn claim(&self, claim: &Claim) -> Result<Standing> {
        let twisted = self.twisted(claim);
        let standing = self.inner.claim(&twisted).await?;
        match standing {
            Standing::Granted(grant) => {
                if self.bug() == Bug::WaitersNeverExpire {
                    self.inner.claim(claim).await?;
                }
                let alone = self.inner.line(&claim.line).await?.entries.len() <= 1;
                let token = self.show(&claim.line, grant.id, grant.token, alone);
                Ok(Standing::Granted(Grant { id: claim.id, token, ttl: claim.ttl, ..grant }))
            }
            Standing::Waiting { .. } => {
                let line = self.inner.line(&claim.line).await?;
                if let Some(entry) = line.entries.iter().find(|entry| entry.id == twisted.id) {
                    self.show(&claim.line, entry.id, entry.token, false);
                }
                Ok(standing)
            }
            Standing::Refused(_) => {
                if self.bug() == Bug::RefusedStays {
                    self.inner.claim(&Claim { wait: true, ..twisted }).await?;
                }
                Ok(standing)
            }
        }
    }

    async fn renew(&self, grants: &[Grant]) -> Result<Vec<Renewal>> {
        if self.bug() == Bug::RenewalDoesNothing {
            return Ok(vec![Renewal::Renewed; grants.len()]);
        }
        let real: Vec<_> = grants.iter().map(|grant| self.real(grant)).collect();
        let mut answers = self.inner.renew(&real).await?;
        for (grant, answer) in grants.iter().zip(&mut answers) {
            let claim = self.state().claims.get(&grant.id).cloned();
            match (self.bug(), claim) {
                (Bug::RenewalRevives, Some(claim)) if *answer == Renewal::Lost => {
                    self.inner.claim(&claim).await?;
                    *answer = Renewal::Renewed;
                }
                // Joining again is what re-arms a lease whatever was left of it.
                (Bug::RenewalShortens, Some(claim)) => {
                    self.inner.claim(&Claim { ttl: grant.ttl, ..claim }).await?;
                }
                _ => {}
            }
        }
        Ok(answers)
    }

    async fn set_value(&self, grant: &Grant, value: &[u8]) -> Result<Renewal> {
        match self.inner.set_value(&self.real(grant), value).await? {
            Renewal::Lost if self.bug() == Bug::TakesValuesOfTheLost => Ok(Renewal::StillHeld),
            answer => Ok(answer),
        }
    }

    async fn withdraw(&self, line: &LineId, id: ClaimId) -> Result<()> {
        match self.bug() {
            Bug::WithdrawsNothing => Ok(()),
            Bug::WithdrawsTheFirst => match self.inner.line(line).await?.entries.first() {
                Some(first) => self.inner.withdraw(line, first.id).await,
                None => Ok(()),
            },
            _ => self.inner.withdraw(line, self.alias(id)).await,
        }
    }

    async fn hand_over(&self, from: &Grant, to: ClaimId) -> Result<HandOver> {
        let mut to = self.alias(to);
        if self.bug() == Bug::HandsOverToTheFirst {
            let line = self.inner.line(&from.line).await?;
            to = line.waiters().next().map_or(to, |first| first.id);
        }
        self.inner.hand_over(&self.real(from), to).await
    }

    async fn adopt(&self, from: &Grant, to: ClaimId) -> Result<Renewal> {
        let real = self.real(from);
        if self.bug() == Bug::AdoptsTwice {
            self.state().aliases.insert(from.id, to);
        }
        self.inner.adopt(&real, to).await
    }

    async fn line(&self, line: &LineId) -> Result<Line> {
        let mut now = self.inner.line(line).await?;
        for entry in &mut now.entries {
            entry.token = match self.bug() {
                Bug::LineShowsOtherTokens => token(entry.token.get() + 1_000_000),
                _ if self.shows_its_own() => {
                    self.state().shown.get(&entry.id).copied().unwrap_or(entry.token)
                }
                _ => entry.token,
            };
        }
        if self.bug() == Bug::ReadsStale {
            let before = self.state().last_read.insert(line.clone(), now.clone());
            return Ok(before.unwrap_or(now));
        }
        Ok(now)
    }

    fn wakeups(&self, line: &LineId, id: Option<ClaimId>) -> Wakeups {
        self.inner.wakeups(line, id)
    }
}
