//! A decorator over any store that loses, delays, lies in hints and cuts off, and counts.
//!
//! ```
//! # use std::sync::Arc;
//! # use coord_conformance::faults::{Faulty, Operation};
//! # use coord_core::{Coordinator, clock::Clock, memory};
//! let (claims, faults) = Faulty::over(Arc::new(memory::Store::new().connect()));
//! let client = Coordinator::builder(claims).clock(Clock::Tokio).build()?;
//! faults.lose_reply(1, Some(Operation::Withdraw));
//! # Ok::<_, coord_core::Error>(())
//! ```

mod jobs;
mod values;

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use coord_core::{
    Error, ErrorKind, Guarantees, Result,
    spi::{Claim, ClaimId, Claims, Grant, HandOver, Line, LineId, Renewal, Standing, Wakeup, Wakeups},
};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::{task::yield_now, time::sleep};

use crate::Stores;

/// The operations of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// [`Claims::claim`].
    Claim,
    /// [`Claims::renew`].
    Renew,
    /// [`Claims::set_value`].
    SetValue,
    /// [`Claims::withdraw`].
    Withdraw,
    /// [`Claims::hand_over`].
    HandOver,
    /// [`Claims::adopt`].
    Adopt,
    /// [`Claims::line`].
    Line,
    /// [`Values::commit`](coord_core::spi::values::Values::commit).
    Commit,
    /// Any read of values.
    ReadValues,
    /// [`Jobs::push`](coord_core::spi::jobs::Jobs::push).
    Push,
    /// [`Jobs::receive`](coord_core::spi::jobs::Jobs::receive).
    Receive,
    /// [`Jobs::settle`](coord_core::spi::jobs::Jobs::settle).
    Settle,
    /// Any other operation on jobs.
    OtherJobs,
}

/// Which half of an operation is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums)]
pub enum Half {
    /// The store never hears of it.
    Request,
    /// The store has done it and the client never hears of that.
    Reply,
}

/// How long a client waits for a store that is cut off.
const SILENCE: Duration = Duration::from_millis(100);

/// The faults between one client and its store. All are off at first.
#[derive(Debug, Default)]
pub struct Faults {
    plan: Mutex<Plan>,
}

#[derive(Debug, Default)]
struct Plan {
    counts: BTreeMap<Operation, u64>,
    losses: Vec<Loss>,
    request_delay: Duration,
    reply_delay: Duration,
    cut: bool,
    deaf: bool,
    false_hints: Option<Duration>,
}

#[derive(Debug)]
struct Loss {
    half: Half,
    only: Option<Operation>,
    /// How many operations still pass before the one that is lost.
    passing: u64,
}

impl Faults {
    /// Loses the reply of the `nth` operation from now on, counted from one; of this kind, if one is given.
    pub fn lose_reply(&self, nth: u64, only: Option<Operation>) {
        self.lose(Half::Reply, nth, only);
    }

    /// Loses the request of the `nth` operation from now on, counted from one; of this kind, if one is given.
    pub fn lose_request(&self, nth: u64, only: Option<Operation>) {
        self.lose(Half::Request, nth, only);
    }

    /// Loses one half of the `nth` operation from now on, counted from one; of this kind, if one is given.
    pub fn lose(&self, half: Half, nth: u64, only: Option<Operation>) {
        self.plan().losses.push(Loss { half, only, passing: nth.saturating_sub(1) });
    }

    /// Cuts the client off, or heals it. While it is cut off, nothing gets through in either direction: operations fail
    /// after a while with an unknown effect, replies that were under way are lost, and so are hints.
    pub fn partition(&self, cut: bool) {
        self.plan().cut = cut;
    }

    /// Requests take this long to reach the store.
    pub fn delay_requests(&self, delay: Duration) {
        self.plan().request_delay = delay;
    }

    /// Replies take this long to reach the client.
    pub fn delay_replies(&self, delay: Duration) {
        self.plan().reply_delay = delay;
    }

    /// Loses all hints, or none.
    pub fn lose_hints(&self, lose: bool) {
        self.plan().deaf = lose;
    }

    /// Hints that nothing caused, this often, for subscriptions that are made from now on.
    pub fn false_hints(&self, every: Option<Duration>) {
        self.plan().false_hints = every;
    }

    /// Ends all faults. Losses that have not come about yet do not any more.
    pub fn heal(&self) {
        let mut plan = self.plan();
        *plan = Plan { counts: std::mem::take(&mut plan.counts), ..Plan::default() };
    }

    /// How many losses have not come about yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.plan().losses.len()
    }

    /// How many operations of this kind the client has sent.
    #[must_use]
    pub fn count(&self, operation: Operation) -> u64 {
        self.plan().counts.get(&operation).copied().unwrap_or_default()
    }

    /// How many operations the client has sent.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.plan().counts.values().sum()
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hears(&self) -> bool {
        let plan = self.plan();
        !plan.deaf && !plan.cut
    }

    /// Counts an operation and decides its fate.
    fn enter(&self, operation: Operation) -> Option<Half> {
        let mut plan = self.plan();
        *plan.counts.entry(operation).or_default() += 1;
        let mut lost = None;
        plan.losses.retain_mut(|loss| {
            if loss.only.is_some_and(|only| only != operation) || (loss.passing == 0 && lost.is_some()) {
                return true;
            }
            if loss.passing > 0 {
                loss.passing -= 1;
                return true;
            }
            lost = Some(loss.half);
            false
        });
        lost
    }

    /// One operation on its way there and back.
    async fn pass<T>(&self, operation: Operation, call: impl Future<Output = Result<T>>) -> Result<T> {
        let lost = self.enter(operation);
        // A point at which the caller can be dropped, before the store is reached as after it.
        yield_now().await;
        // Both at once: what a case changes while an operation is under way holds for the next one.
        let (request_delay, reply_delay) = {
            let plan = self.plan();
            (plan.request_delay, plan.reply_delay)
        };
        self.travel(request_delay, lost == Some(Half::Request)).await?;
        let answer = call.await;
        yield_now().await;
        self.travel(reply_delay, lost == Some(Half::Reply)).await?;
        answer
    }

    async fn travel(&self, delay: Duration, lost: bool) -> Result<()> {
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let cut = self.plan().cut;
        if cut {
            sleep(SILENCE).await;
        }
        if cut || lost {
            return Err(
                Error::new(ErrorKind::Unavailable, "no answer: a fault was injected").with_unknown_effect()
            );
        }
        Ok(())
    }

    /// The hints that get through, and false ones.
    fn hints(self: Arc<Self>, inner: Wakeups) -> Wakeups {
        let every = self.plan().false_hints;
        let state = (inner, self);
        Wakeups::new(stream::unfold(state, move |(mut inner, faults)| async move {
            let mut false_one = pin!(async {
                match every {
                    Some(every) => sleep(every).await,
                    None => std::future::pending().await,
                }
            });
            loop {
                tokio::select! {
                    biased;
                    _ = inner.next() => if faults.hears() { break },
                    () = &mut false_one => break,
                }
            }
            Some((Wakeup::LookAgain, (inner, faults)))
        }))
    }
}

/// A store behind faults.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Claims>,
    faults: Arc<Faults>,
}

impl Faulty {
    /// Puts faults between a client and its store.
    #[must_use]
    pub fn over(inner: Arc<dyn Claims>) -> (Arc<dyn Claims>, Arc<Faults>) {
        let (stores, faults) = Self::over_all(Stores::new(inner));
        (stores.claims, faults)
    }

    /// Puts faults between a client and all its stores: one plan, one count.
    #[must_use]
    pub fn over_all(inner: Stores) -> (Stores, Arc<Faults>) {
        let faults = Arc::new(Faults::default());
        let claims = Arc::new(Self { inner: inner.claims, faults: faults.clone() });
        let values = inner.values.map(|inner| values::over(inner, faults.clone()));
        let jobs = inner.jobs.map(|inner| jobs::over(inner, faults.clone()));
        (Stores { claims, values, jobs }, faults)
    }
}

#[async_trait]
impl Claims for Faulty {
    fn guarantees(&self) -> Guarantees {
        self.inner.guarantees()
    }

    async fn claim(&self, claim: &Claim) -> Result<Standing> {
        self.faults.pass(Operation::Claim, self.inner.claim(claim)).await
    }

    async fn renew(&self, grants: &[Grant]) -> Result<Vec<Renewal>> {
        self.faults.pass(Operation::Renew, self.inner.renew(grants)).await
    }

    async fn set_value(&self, grant: &Grant, value: &[u8]) -> Result<Renewal> {
        self.faults.pass(Operation::SetValue, self.inner.set_value(grant, value)).await
    }

    async fn withdraw(&self, line: &LineId, id: ClaimId) -> Result<()> {
        self.faults.pass(Operation::Withdraw, self.inner.withdraw(line, id)).await
    }

    async fn hand_over(&self, from: &Grant, to: ClaimId) -> Result<HandOver> {
        self.faults.pass(Operation::HandOver, self.inner.hand_over(from, to)).await
    }

    async fn adopt(&self, from: &Grant, to: ClaimId) -> Result<Renewal> {
        self.faults.pass(Operation::Adopt, self.inner.adopt(from, to)).await
    }

    async fn line(&self, line: &LineId) -> Result<Line> {
        self.faults.pass(Operation::Line, self.inner.line(line)).await
    }

    fn wakeups(&self, line: &LineId, id: Option<ClaimId>) -> Wakeups {
        self.faults.clone().hints(self.inner.wakeups(line, id))
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[cfg(test)]
mod tests {
    use coord_core::{Coordinator, Effect, Lock, LockOptions, Name, clock::Clock, memory, spi::Kind};

    use super::*;

    fn faulty() -> (Arc<dyn Claims>, Arc<Faults>, LineId) {
        let (claims, faults) = Faulty::over(Arc::new(memory::Store::new().connect()));
        let name = Name::new("x").unwrap();
        (claims, faults, LineId { namespace: Default::default(), kind: Kind::Lock, name })
    }

    #[tokio::test(start_paused = true)]
    async fn the_nth_is_lost_and_only_that() {
        let (claims, faults, line) = faulty();
        faults.lose_reply(2, None);
        faults.lose_request(1, Some(Operation::Withdraw));
        claims.line(&line).await.unwrap();
        let error = claims.line(&line).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown));
        claims.line(&line).await.unwrap();
        assert_eq!(faults.pending(), 1);
        claims.withdraw(&line, ClaimId::random()).await.unwrap_err();
        claims.withdraw(&line, ClaimId::random()).await.unwrap();
        assert_eq!((faults.pending(), faults.total(), faults.count(Operation::Line)), (0, 5, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_reply_has_an_effect_and_a_lost_request_has_none() {
        for (half, held) in [(Half::Reply, 1), (Half::Request, 0)] {
            let (claims, faults, line) = faulty();
            faults.lose(half, 1, Some(Operation::Claim));
            let client = Coordinator::builder(claims.clone()).clock(Clock::Tokio).build().unwrap();
            let options = LockOptions::default();
            let mut acquiring = pin!(client.acquire(&line.name, &options));
            // Until the answer is lost; the engine asks again only after a pause.
            let early = tokio::time::timeout(Duration::from_millis(1), &mut acquiring).await;
            assert!(early.is_err());
            assert_eq!(claims.line(&line).await.unwrap().entries.len(), held);
            acquiring.await.unwrap().release().await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_passes_a_partition() {
        let (claims, faults, line) = faulty();
        let mut hints = claims.wakeups(&line, None);
        faults.partition(true);
        claims.line(&line).await.unwrap_err();
        let client = Coordinator::builder(claims.clone()).clock(Clock::Tokio).build().unwrap();
        faults.partition(false);
        faults.lose_hints(true);
        let guard = client.acquire(&line.name, &LockOptions::default()).await.unwrap();
        let second = Duration::from_secs(1);
        assert!(tokio::time::timeout(second, hints.next()).await.is_err());
        faults.heal();
        guard.release().await.unwrap();
        tokio::time::timeout(second, hints.next()).await.unwrap();
        faults.false_hints(Some(second));
        let mut hints = claims.wakeups(&line, None);
        tokio::time::timeout(second * 2, hints.next()).await.unwrap();
    }
}
