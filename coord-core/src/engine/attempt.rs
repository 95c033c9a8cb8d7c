//! One attempt to be granted a claim, and the one wait loop.

use std::{sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    time::{sleep, timeout},
};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::debug;

use super::{Call, Engine, Mutant, PATIENCE, hold::Hold};
use crate::{
    Effect, Error, ErrorKind, Result,
    clock::Moment,
    spi::{Claim, ClaimId, Grant, Holder, Renewal, Standing, Wakeup, Wakeups},
};

/// How long at least the first answer of the store is waited for, however short the caller's wait is. A short wait
/// is meant for other holders, not for the store's disk.
const FIRST_ANSWER: Duration = PATIENCE;

/// How many grants may come after their lease has ended.
const TOO_LATE: u32 = 3;

/// Joins a line and waits until it is granted.
///
/// Cancel safe: a dropped attempt is withdrawn in the background, after the call under way has ended.
pub(crate) async fn acquire(
    engine: &Arc<Engine>,
    claim: Claim,
    wait: Option<Duration>,
    renew: bool,
) -> Result<Hold> {
    let wait = wait.filter(|_| claim.wait);
    Attempt::new(engine.clone(), Ask::Claim, claim).drive(wait, renew).await
}

/// Takes over a claim that was detached. Cancel safe, as [`acquire`].
pub(crate) async fn resume(engine: &Arc<Engine>, from: Grant, renew: bool) -> Result<Hold> {
    let claim = Claim {
        line: from.line.clone(),
        id: ClaimId::random(),
        weight: 0,
        limit: 0,
        ttl: from.ttl,
        priority: 0,
        wait: false,
        owner: String::new(),
        value: Vec::new(),
    };
    Attempt::new(engine.clone(), Ask::Adopt(from), claim).drive(None, renew).await
}

/// By which operation of the store the claim is asked for.
enum Ask {
    Claim,
    /// Only line, id and TTL of the claim count.
    Adopt(Grant),
}

/// Armed with the claim's id before the first await; disarmed only by a known outcome.
struct Attempt {
    engine: Arc<Engine>,
    ask: Ask,
    claim: Arc<Claim>,
    runtime: Handle,
    call: Option<(Moment, Call)>,
    /// Whether the store may have the claim.
    armed: bool,
    /// How many stood ahead at the last look.
    ahead: Option<u32>,
    /// Dropped last: when it is gone, the withdrawal is under way.
    _waiting: TaskTrackerToken,
}

impl Attempt {
    fn new(engine: Arc<Engine>, ask: Ask, claim: Claim) -> Self {
        Self {
            _waiting: engine.waiters.token(),
            engine,
            ask,
            claim: Arc::new(claim),
            runtime: Handle::current(),
            call: None,
            armed: false,
            ahead: None,
        }
    }

    /// The one wait loop.
    async fn drive(mut self, wait: Option<Duration>, renew: bool) -> Result<Hold> {
        let engine = self.engine.clone();
        engine.check_open()?;
        let closed = engine.closed();
        let start = engine.clock.now();
        let deadline = wait.map(|wait| start.after(wait));
        // Listen first, then look: a wake-up in between is not missed.
        let mut wakeups = self.listen();
        let mut failures = Failures::new(start);
        let mut too_late = 0;
        loop {
            let now = engine.clock.now();
            let left = deadline.map(|end| end.since(now).max(FIRST_ANSWER.saturating_sub(now.since(start))));
            let patience = left.map_or(engine.call_timeout, |left| left.min(engine.call_timeout));
            let (sent, outcome) = self.look(patience).await;
            let pause = match outcome {
                Ok(Standing::Granted(grant)) => {
                    // Nothing keeps a grant after a shutdown; it is withdrawn.
                    engine.check_open()?;
                    let heard = std::mem::replace(&mut wakeups, Wakeups::none());
                    if let Some(hold) = Hold::new(engine.clone(), grant, sent, renew, heard) {
                        self.armed = false;
                        return Ok(hold);
                    }
                    // The answer was under way for longer than the TTL. The next look re-arms the lease. A store that
                    // is always so slow would have us block everybody else for ever.
                    too_late += 1;
                    if too_late == TOO_LATE {
                        return Err(self.too_slow());
                    }
                    wakeups = self.listen();
                    Duration::ZERO
                }
                Ok(Standing::Refused(holder)) => {
                    self.armed = false;
                    return Err(self.refused(holder));
                }
                Ok(Standing::Waiting { ahead, look_again_in }) => {
                    debug!(ahead, "waiting");
                    failures = Failures::new(engine.clock.now());
                    self.ahead = Some(ahead);
                    look_again_in.min(self.claim.ttl / 3)
                }
                Err(error) => failures.pause(&self, error)?,
            };
            let left = deadline.map(|end| end.since(engine.clock.now()));
            if left == Some(Duration::ZERO) {
                return Err(self.late(wait.unwrap_or_default()));
            }
            let timed = engine.mutant != Some(Mutant::NeverLooksAgain) || deadline.is_some();
            tokio::select! {
                biased;
                () = closed.cancelled() => engine.check_open()?,
                Wakeup::LookAgain = wakeups.next() => {
                    if engine.mutant == Some(Mutant::TrustsWakeups)
                        && let Some(grant) = believe(&engine, self.claim.clone()).await
                    {
                        let hold = Hold::new(engine.clone(), grant, engine.clock.now(), renew, wakeups);
                        self.armed = false;
                        return hold.ok_or_else(|| engine.silent());
                    }
                }
                () = sleep(left.map_or(pause, |left| left.min(pause))), if timed => {}
            }
            if self.ahead.is_some() && deadline.is_some_and(|end| end <= engine.clock.now()) {
                return Err(self.late(wait.unwrap_or_default()));
            }
        }
    }

    fn listen(&self) -> Wakeups {
        self.engine.claims.wakeups(&self.claim.line, Some(self.claim.id))
    }

    fn request(&self) -> Call {
        let (claims, claim) = (self.engine.claims.clone(), self.claim.clone());
        match &self.ask {
            Ask::Claim => Box::pin(async move { claims.claim(&claim).await }),
            Ask::Adopt(from) => {
                let from = from.clone();
                Box::pin(async move {
                    Ok(match claims.adopt(&from, claim.id).await? {
                        Renewal::Renewed => Standing::Granted(Grant { id: claim.id, ..from }),
                        Renewal::StillHeld | Renewal::Lost => Standing::Refused(None),
                    })
                })
            }
        }
    }

    /// Asks the store once and says when the request was sent. Whoever drops this future leaves the call in `self`.
    async fn look(&mut self, patience: Duration) -> (Moment, Result<Standing>) {
        let under_way = self.call.take().unwrap_or_else(|| (self.engine.clock.now(), self.request()));
        let (sent, call) = self.call.insert(under_way);
        let before = std::mem::replace(&mut self.armed, true);
        let sent = *sent;
        let Ok(outcome) = timeout(patience, call).await else {
            return (sent, Err(self.engine.silent_for(patience)));
        };
        self.call = None;
        // What this call did not do, an earlier one without an answer may have done.
        if !before && outcome.as_ref().is_err_and(|error| error.effect() == Effect::None) {
            self.armed = false;
        }
        (sent, outcome)
    }

    fn refused(&self, holder: Option<Holder>) -> Error {
        match (&self.ask, holder) {
            (Ask::Adopt(_), _) => {
                Error::new(ErrorKind::Lost, "nothing to resume: its lease ended, or it was resumed before")
            }
            (Ask::Claim, None) => self.not_granted("is held"),
            (Ask::Claim, Some(Holder { owner, token })) => {
                self.not_granted(&format!("is held by {owner:?} with token {token}"))
            }
        }
    }

    fn not_granted(&self, why: &str) -> Error {
        Error::new(
            ErrorKind::NotGranted,
            format!("{} {:?} {why}", self.claim.line.kind, self.claim.line.name.as_str()),
        )
    }

    fn too_slow(&self) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            format!(
                "the {} store takes longer to answer than the TTL of {:?}; choose a longer one",
                self.engine.guarantees.backend, self.claim.ttl
            ),
        )
        .with_unknown_effect()
    }

    fn late(&self, wait: Duration) -> Error {
        match self.ahead {
            Some(ahead) => self.not_granted(&format!("was not granted in {wait:?}; {ahead} stand ahead")),
            None => self.engine.silent_for(wait.max(FIRST_ANSWER)),
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.armed {
            let call = self.call.take().map(|(_, call)| call);
            let _entered = self.runtime.enter();
            self.engine.abandon(self.claim.line.clone(), self.claim.id, self.claim.ttl, call);
        }
    }
}

/// The planted bug [`Mutant::TrustsWakeups`]: reads its token and asks nothing else.
async fn believe(engine: &Engine, claim: Arc<Claim>) -> Option<Grant> {
    let line = engine.claims.line(&claim.line).await.ok()?;
    let entry = line.entries.into_iter().find(|entry| entry.id == claim.id)?;
    Some(Grant { line: claim.line.clone(), id: entry.id, token: entry.token, ttl: claim.ttl })
}

/// Failures of the store in a row.
struct Failures {
    since: Moment,
    pause: Duration,
}

impl Failures {
    fn new(since: Moment) -> Self {
        Self { since, pause: Duration::from_millis(25) }
    }

    /// How long to wait before asking again, or the error if that makes no sense any more. A claim in the line lives
    /// for its TTL without hearing from the store; one that never got an answer gives up sooner.
    fn pause(&mut self, attempt: &Attempt, error: Error) -> Result<Duration> {
        let patience = if attempt.ahead.is_some() { attempt.claim.ttl.max(PATIENCE) } else { PATIENCE };
        let now = attempt.engine.clock.now();
        if !error.is_retryable() || now.since(self.since) >= patience {
            return Err(error);
        }
        debug!(%error, "asking the store again");
        self.pause = (self.pause * 2).min(Duration::from_secs(1));
        Ok(self.pause)
    }
}
