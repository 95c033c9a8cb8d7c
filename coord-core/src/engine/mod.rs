//! The engine: everything hard about time and async, written once for all backends.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`keeper`] | decides when to renew and when a grant is lost; pure |
//! | [`shell`] | the task around it, one a client |
//! | [`hold`] | a held claim: validity, loss, release, drop |
//! | [`attempt`] | the one wait loop: try, listen, look again, deadline; cancellation |
//! | [`watch`] | follows a line: re-reads on every hint, misses no last state |
//! | [`leases`] | deliveries of queues, kept like claims |
//! | [`trace`] | one span and one event for every operation |

pub(crate) mod attempt;
pub(crate) mod hold;
mod keeper;
pub(crate) mod leases;
mod shell;
pub(crate) mod trace;
pub(crate) mod watch;

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::mpsc::UnboundedSender,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use self::{leases::Leases, shell::Command};
use crate::{
    Effect, Error, ErrorKind, Guarantees, Result,
    clock::Clock,
    spi::{ClaimId, Claims, LineId, Standing, jobs::Jobs, values::Values},
};

/// How long an unreachable store is asked again.
const PATIENCE: Duration = Duration::from_secs(3);

/// After how long nothing is sent again. Stores remember what was done for a minute at least.
const RECALL: Duration = Duration::from_secs(30);

/// How long a shutdown waits for attempts under way to leave their lines.
const FAREWELL: Duration = Duration::from_secs(1);

/// Planted bugs, one at a time, so that the conformance suite can show that its checkers find them.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mutant {
    /// Validity is counted from the reply to a request, not from before it was sent.
    DeadlineFromReply,
    /// A guard says that it is held until the store tells otherwise.
    HeldPastDeadline,
    /// A wake-up is taken for a grant.
    TrustsWakeups,
    /// A waiter looks again at wake-ups only.
    NeverLooksAgain,
    /// Dropped guards and attempts leave their claims behind.
    LeavesClaims,
}

/// Where in its range a renewal period lies. On a clock that a test drives everything is the same in every run.
fn jitter(clock: Clock) -> f64 {
    match clock {
        Clock::System => fastrand::f64(),
        Clock::Tokio => 1.0,
    }
}

/// A call to the store that may be half done.
pub(crate) type Call = Pin<Box<dyn Future<Output = Result<Standing>> + Send>>;

/// The stores of a backend.
#[derive(Debug)]
pub(crate) struct Stores {
    pub(crate) claims: Arc<dyn Claims>,
    pub(crate) values: Option<Arc<dyn Values>>,
    pub(crate) jobs: Option<Arc<dyn Jobs>>,
}

/// One client of one store.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) claims: Arc<dyn Claims>,
    /// The same as `claims`, for what only deliveries need.
    pub(crate) leases: Arc<Leases>,
    pub(crate) values: Option<Arc<dyn Values>>,
    pub(crate) jobs: Option<Arc<dyn Jobs>>,
    pub(crate) guarantees: Guarantees,
    pub(crate) clock: Clock,
    pub(crate) owner: String,
    pub(crate) call_timeout: Duration,
    pub(crate) mutant: Option<Mutant>,
    keeper: Mutex<Option<UnboundedSender<Command>>>,
    /// Withdrawals under way and the keeper's task.
    background: TaskTracker,
    /// Attempts under way, to be told and to withdraw before the store is closed.
    pub(crate) waiters: TaskTracker,
    closed: CancellationToken,
}

impl Engine {
    pub(crate) fn new(
        stores: Stores,
        clock: Clock,
        owner: String,
        call_timeout: Duration,
        mutant: Option<Mutant>,
    ) -> Arc<Self> {
        let Stores { claims, values, jobs } = stores;
        let guarantees = claims.guarantees();
        let leases = Arc::new(Leases::new(claims, jobs.clone()));
        Arc::new(Self {
            claims: leases.clone(),
            leases,
            values,
            jobs,
            guarantees,
            clock,
            owner,
            call_timeout,
            mutant,
            keeper: Mutex::new(None),
            background: TaskTracker::new(),
            waiters: TaskTracker::new(),
            closed: CancellationToken::new(),
        })
    }

    /// The store of values, if the backend has one.
    pub(crate) fn values(&self) -> Result<Arc<dyn Values>> {
        self.values.clone().ok_or_else(|| self.guarantees.lacks(&"configuration and fenced storage"))
    }

    /// The store of jobs, if the backend has one.
    pub(crate) fn jobs(&self) -> Result<Arc<dyn Jobs>> {
        self.jobs.clone().ok_or_else(|| self.guarantees.lacks(&"queues"))
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.is_cancelled() {
            return Err(Error::new(ErrorKind::Closed, "this coordinator was shut down"));
        }
        Ok(())
    }

    /// A TTL in whole milliseconds, rounded up, if it is within what the backend promises.
    pub(crate) fn check_ttl(&self, ttl: Duration) -> Result<Duration> {
        let (min, max) = (self.guarantees.min_ttl, self.guarantees.max_ttl);
        if ttl < min || ttl > max {
            return Err(Error::new(
                ErrorKind::InvalidTtl,
                format!(
                    "a TTL on the {} backend is between {min:?} and {max:?}, not {ttl:?}",
                    self.guarantees.backend
                ),
            ));
        }
        let millis = u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        Ok(Duration::from_millis(millis))
    }

    /// Sends a command to the keeper's task, which is started on first use and anew if its runtime ended.
    pub(crate) fn tell(self: &Arc<Self>, command: Command) {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let unsent = match &*keeper {
            Some(sender) => match sender.send(command) {
                Ok(()) => return,
                Err(unsent) => unsent.0,
            },
            None => command,
        };
        if matches!(unsent, Command::Keep { .. }) {
            let sender = shell::start(self);
            // The receiver was made a line above and cannot be gone.
            let _ = sender.send(unsent);
            *keeper = Some(sender);
        }
    }

    /// Runs a task that [`Engine::shutdown`] waits for; it has to end when [`Engine::closed`] is cancelled.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.background.spawn(task);
    }

    /// Cancelled when the coordinator is shut down.
    pub(crate) fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// A call to the store that runs to its end even if the caller stops waiting, with a deadline for the caller.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.check_open()?;
        match timeout(self.call_timeout, self.background.spawn(call)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(stopped)) => Err(Error::new(ErrorKind::Internal, "a call to the store stopped")
                .with_source(stopped)
                .with_unknown_effect()),
            Err(_) => Err(self.silent()),
        }
    }

    /// A call that may be sent again, sent again for a while if the store does not answer.
    pub(crate) async fn insist<S: Clone, T: Send + 'static, F>(
        &self,
        store: S,
        call: impl Fn(S) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let start = self.clock.now();
        let mut pause = Duration::from_millis(25);
        let mut unknown = false;
        loop {
            let error = match self.call(call(store.clone())).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // What this try did not do, an earlier one without an answer may have done.
            unknown |= error.effect() == Effect::Unknown;
            let error = if unknown { error.with_unknown_effect() } else { error };
            if !error.is_retryable() || self.clock.now().since(start) >= PATIENCE {
                return Err(error);
            }
            debug!(%error, "asking the store again");
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
            // The process may have been stopped meanwhile.
            if self.clock.now().since(start) >= RECALL {
                return Err(error);
            }
        }
    }

    pub(crate) fn silent(&self) -> Error {
        self.silent_for(self.call_timeout)
    }

    pub(crate) fn silent_for(&self, time: Duration) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            format!("the {} store did not answer in {time:?}; is it running?", self.guarantees.backend),
        )
        .with_unknown_effect()
    }

    /// Withdraws a claim and reports the outcome; goes on in the background if the caller stops waiting, or if the
    /// store is silent for longer than a call may take.
    pub(crate) async fn withdraw(self: &Arc<Self>, line: LineId, id: ClaimId, ttl: Duration) -> Result<()> {
        let engine = self.clone();
        let task = self.background.spawn(async move { engine.withdraw_surely(line, id, ttl).await });
        match timeout(self.call_timeout, task).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(stopped)) => Err(Error::new(ErrorKind::Internal, "a release stopped")
                .with_source(stopped)
                .with_unknown_effect()),
            Err(_) => Err(self.silent()),
        }
    }

    /// Withdraws a claim in the background, after the call that may still create it has ended. Needs a runtime; where
    /// there is none any more, the claim ends with its lease.
    pub(crate) fn abandon(self: &Arc<Self>, line: LineId, id: ClaimId, ttl: Duration, call: Option<Call>) {
        if self.mutant == Some(Mutant::LeavesClaims) || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let engine = self.clone();
        self.background.spawn(async move {
            if let Some(call) = call {
                // Whatever it says: only the store knows whether the claim is there.
                let _ = call.await;
            }
            match engine.withdraw_surely(line.clone(), id, ttl).await {
                Ok(()) => debug!(kind = %line.kind, name = %line.name, "withdrawn"),
                Err(error) => {
                    warn!(kind = %line.kind, name = %line.name, %error, "not withdrawn; its lease ends it")
                }
            }
        });
    }

    /// Repeats the withdrawal until its outcome is known or the lease has certainly ended.
    async fn withdraw_surely(&self, line: LineId, id: ClaimId, ttl: Duration) -> Result<()> {
        let end = self.clock.now().after(ttl).after(self.call_timeout);
        let mut pause = Duration::from_millis(20);
        loop {
            let error = match self.claims.withdraw(&line, id).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if !error.is_retryable() || self.clock.now() >= end {
                return Err(error.with_unknown_effect());
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// Refuses new work, lets withdrawals end, and closes the store.
    pub(crate) async fn shutdown(&self) -> Result<()> {
        self.closed.cancel();
        self.waiters.close();
        // An attempt that nobody polls any more cannot leave; it does not hold up the end for long.
        let _ = timeout(FAREWELL, self.waiters.wait()).await;
        // Without a sender the keeper's task ends.
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.background.close();
        let drained = timeout(self.call_timeout, self.background.wait()).await;
        let closed = self.claims.close().await;
        if drained.is_err() {
            return Err(self.silent().context("claims were not withdrawn; they end with their leases"));
        }
        closed
    }
}
