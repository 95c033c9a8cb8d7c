//! A held claim: what all guards have inside.

use std::{
    fmt,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{runtime::Handle, task::AbortHandle};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Engine, Mutant, keeper::valid_until, shell::Command};
use crate::{
    Effect, Error, ErrorKind, FencingToken, Result,
    clock::{Clock, Moment},
    limits,
    spi::{ClaimId, Claims, Grant, HandOver, LineId, Renewal, Wakeups},
};

/// The client's view of a grant's lease. Lost is final: nothing turns it back.
#[derive(Debug)]
pub(crate) struct Lease {
    clock: Clock,
    state: Mutex<State>,
    lost: CancellationToken,
    mutant: Option<Mutant>,
}

#[derive(Debug)]
struct State {
    grant: Grant,
    valid_until: Moment,
    lost: bool,
}

impl Lease {
    fn new(engine: &Engine, grant: Grant, valid_until: Moment) -> Self {
        let state = Mutex::new(State { grant, valid_until, lost: false });
        Self { clock: engine.clock, state, lost: CancellationToken::new(), mutant: engine.mutant }
    }

    pub(crate) fn snapshot(&self) -> (Grant, Moment) {
        let state = self.lock();
        (state.grant.clone(), state.valid_until)
    }

    /// How long it may still be believed in; `None` once it is lost.
    fn valid_for(&self) -> Option<Duration> {
        let mut state = self.lock();
        let left = state.valid_until.since(self.clock.now());
        if !state.lost && left.is_zero() && self.mutant != Some(Mutant::HeldPastDeadline) {
            self.mark(&mut state, "its lease ran out");
        }
        (!state.lost).then_some(left)
    }

    /// Moves the deadline; false if it is too late for that.
    pub(crate) fn prolong(&self, until: Moment, ttl: Option<Duration>) -> bool {
        let mut state = self.lock();
        if !state.lost && state.valid_until <= self.clock.now() {
            self.mark(&mut state, "its lease ran out");
        }
        if state.lost {
            return false;
        }
        state.valid_until = until;
        if let Some(ttl) = ttl {
            state.grant.ttl = ttl;
        }
        true
    }

    pub(crate) fn lose(&self) {
        let mut state = self.lock();
        if !state.lost {
            self.mark(&mut state, "the store has it no more");
        }
    }

    fn mark(&self, state: &mut State, why: &str) {
        state.lost = true;
        warn!(kind = %state.grant.line.kind, name = %state.grant.line.name, token = %state.grant.token, why, outcome = "lost", "lost");
        self.lost.cancel();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A claim that was granted. Dropping it withdraws the claim in the background.
pub(crate) struct Hold {
    engine: Arc<Engine>,
    lease: Arc<Lease>,
    runtime: Handle,
    listener: AbortHandle,
    renew: bool,
    /// Whose turn it is to change the value.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Released, detached or handed over: dropping does nothing more.
    done: bool,
}

impl Hold {
    /// Takes over a grant. `None` if so much time passed since the request that it is not valid any more.
    pub(crate) fn new(
        engine: Arc<Engine>,
        grant: Grant,
        sent: Moment,
        renew: bool,
        wakeups: Wakeups,
    ) -> Option<Self> {
        let until = valid_until(sent, grant.ttl);
        if until <= engine.clock.now() {
            return None;
        }
        let id = grant.id;
        let lease = Arc::new(Lease::new(&engine, grant, until));
        engine.tell(Command::Keep { lease: lease.clone(), renew });
        let listener = listen(&engine, id, wakeups);
        Some(Self {
            engine,
            lease,
            runtime: Handle::current(),
            listener,
            renew,
            turn: Arc::default(),
            done: false,
        })
    }

    pub(crate) fn token(&self) -> FencingToken {
        self.lease.lock().grant.token
    }

    pub(crate) fn line(&self) -> LineId {
        self.lease.lock().grant.line.clone()
    }

    pub(crate) fn grant(&self) -> Grant {
        self.lease.lock().grant.clone()
    }

    pub(crate) fn renews(&self) -> bool {
        self.renew
    }

    pub(crate) fn is_held(&self) -> bool {
        !self.done && self.lease.valid_for().is_some()
    }

    pub(crate) fn valid_for(&self) -> Duration {
        self.lease.valid_for().unwrap_or_default()
    }

    /// Completes when the lease is lost, with the network up or down.
    pub(crate) async fn lost(&self) {
        let lost = self.lease.lost.clone();
        while let Some(left) = self.lease.valid_for() {
            tokio::select! {
                biased;
                () = lost.cancelled() => return,
                () = tokio::time::sleep(left.max(Duration::from_millis(1))) => {}
            }
        }
    }

    /// Drives `work` while it is held.
    pub(crate) async fn run<F: Future>(&self, work: F) -> Result<F::Output> {
        let lost = pin!(self.lost());
        let work = pin!(work);
        Run { hold: self, lost, work }.await
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.is_held() { Ok(()) } else { Err(self.lost_error()) }
    }

    fn lost_error(&self) -> Error {
        let grant = self.grant();
        Error::new(
            ErrorKind::Lost,
            format!(
                "the {} {:?} with token {} is lost: its lease ended or it was released by force",
                grant.line.kind,
                grant.line.name.as_str(),
                grant.token
            ),
        )
    }

    /// Renews at once, for another TTL if one is given.
    pub(crate) async fn extend(&self, ttl: Duration) -> Result<()> {
        let ttl = self.engine.check_ttl(ttl)?;
        self.check()?;
        let sent = self.engine.clock.now();
        let grant = Grant { ttl, ..self.grant() };
        let renew = |claims: Arc<dyn Claims>| {
            let request = grant.clone();
            async move { claims.renew(&[request]).await }
        };
        let mut answers = self.engine.insist(self.engine.claims.clone(), renew).await?;
        match answers.pop() {
            Some(Renewal::Renewed) if self.lease.prolong(valid_until(sent, ttl), Some(ttl)) => {
                self.engine.tell(Command::Keep { lease: self.lease.clone(), renew: self.renew });
                Ok(())
            }
            Some(Renewal::StillHeld) => Err(Error::new(
                ErrorKind::Unavailable,
                "the store did not prolong the lease; it is still held for what was left of it",
            )),
            _ => {
                self.lease.lose();
                Err(self.lost_error())
            }
        }
    }

    pub(crate) async fn set_value(&self, value: Vec<u8>) -> Result<()> {
        limits::value(&value)?;
        self.check()?;
        let grant = self.grant();
        // A change whose caller stopped waiting goes on; this one must not come before it.
        let turn = tokio::time::timeout(self.engine.call_timeout, self.turn.clone().lock_owned());
        let turn = Arc::new(turn.await.map_err(|_| self.engine.silent())?);
        let set = |claims: Arc<dyn Claims>| {
            let (grant, value, turn) = (grant.clone(), value.clone(), turn.clone());
            async move {
                let _turn = turn;
                claims.set_value(&grant, &value).await
            }
        };
        match self.engine.insist(self.engine.claims.clone(), set).await? {
            Renewal::Renewed | Renewal::StillHeld => Ok(()),
            Renewal::Lost => {
                self.lease.lose();
                Err(self.lost_error())
            }
        }
    }

    /// Withdraws the claim and waits for the outcome. Dropped halfway, the withdrawal goes on in the background.
    pub(crate) async fn release(mut self) -> Result<()> {
        // Lost, it is dropped here: what the store may still have is withdrawn, and nobody waits for that.
        self.check()?;
        self.forget();
        let grant = self.grant();
        self.engine.withdraw(grant.line, grant.id, grant.ttl).await
    }

    /// Gives the claim up without withdrawing it: somebody else is to resume it.
    pub(crate) async fn detach(mut self) -> Result<Grant> {
        let grant = self.grant();
        self.extend(grant.ttl).await?;
        self.forget();
        Ok(grant)
    }

    /// Lets go without withdrawing: the claim stays until its lease ends.
    pub(crate) fn forsake(mut self) {
        self.forget();
    }

    /// Hands the grant over. Comes back with the error if it is certainly still held; otherwise it is given up: after an
    /// unknown outcome somebody else may hold already.
    pub(crate) async fn hand_over(mut self, to: ClaimId) -> Result<(), (Option<Self>, Error)> {
        if let Err(error) = self.check() {
            return Err((None, error));
        }
        let grant = self.grant();
        let mut unknown = false;
        let hand_over = |claims: Arc<dyn Claims>| {
            let grant = grant.clone();
            async move { claims.hand_over(&grant, to).await }
        };
        for _ in 0..3 {
            match self.engine.call(hand_over(self.engine.claims.clone())).await {
                Ok(HandOver::Lost) if !unknown => {
                    self.lease.lose();
                    return Err((None, self.lost_error()));
                }
                // An earlier try whose reply was lost did it.
                Ok(HandOver::Done | HandOver::Lost) => {
                    self.forget();
                    return Ok(());
                }
                Ok(HandOver::NotFound) => {
                    let error =
                        Error::new(ErrorKind::NotFound, "the candidate is not waiting in the line any more");
                    return Err(((!unknown).then_some(self), error));
                }
                Err(error) if error.effect() == Effect::Unknown => unknown = true,
                Err(error) => return Err(((!unknown).then_some(self), error)),
            }
        }
        let error = Error::new(
            ErrorKind::Unavailable,
            "the store did not say whether the hand-over was done; it was given up",
        )
        .with_unknown_effect();
        Err((None, error))
    }

    /// The keeper and the listener let go of it, and dropping does nothing more.
    fn forget(&mut self) {
        self.done = true;
        self.listener.abort();
        let grant = self.grant();
        debug!(kind = %grant.line.kind, name = %grant.line.name, token = %grant.token, "let go");
        self.engine.tell(Command::Forget(grant.id));
    }
}

/// Wake-ups of a held claim mean that somebody may have taken it away: the keeper asks the store.
fn listen(engine: &Arc<Engine>, id: ClaimId, mut wakeups: Wakeups) -> AbortHandle {
    let engine = Arc::downgrade(engine);
    let task = tokio::spawn(async move {
        loop {
            wakeups.next().await;
            let Some(engine) = engine.upgrade() else { return };
            engine.tell(Command::Poke(id));
        }
    });
    task.abort_handle()
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.done {
            self.forget();
            let grant = self.grant();
            let _entered = self.runtime.enter();
            self.engine.abandon(grant.line, grant.id, grant.ttl, None);
        }
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (grant, _) = self.lease.snapshot();
        f.debug_struct("Hold")
            .field("line", &grant.line)
            .field("token", &grant.token)
            .field("valid_for", &self.valid_for())
            .finish()
    }
}

/// The future of [`Hold::run`]. It asks the clock before *every* poll of the work, so that a process that was stopped
/// past its lease does not run one more step of it.
struct Run<'a, L, W> {
    hold: &'a Hold,
    lost: Pin<&'a mut L>,
    work: Pin<&'a mut W>,
}

impl<L, W> Future for Run<'_, L, W>
where
    L: Future<Output = ()>,
    W: Future,
{
    type Output = Result<W::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.lost.as_mut().poll(cx).is_ready() || !self.hold.is_held() {
            return Poll::Ready(Err(self.hold.lost_error()));
        }
        self.work.as_mut().poll(cx).map(Ok)
    }
}
