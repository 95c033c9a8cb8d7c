//! Guards: what a holder has in hand.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    Error, ErrorKind, FencingToken, Name, Result,
    engine::{
        hold::Hold,
        trace::{Tokened, traced_holding},
    },
    spi::{ClaimId, Grant, LineId},
};

/// A held lock, shared lock or permit.
///
/// It is renewed in the background until it is released, dropped or lost. *Lost* is final: the lease ended because the
/// store was out of reach or this process was stopped for too long, or somebody released it by force. Between the
/// moment of loss and the moment in which a program notices lies a gap that no lock can close: send [`Guard::token`]
/// along with every write, and let the resource refuse old ones.
#[must_use = "the lock is released as soon as its guard is dropped"]
#[derive(Debug)]
pub struct Guard {
    hold: Hold,
}

impl Tokened for Guard {
    fn fencing_token(&self) -> Option<FencingToken> {
        Some(self.token())
    }
}

impl Guard {
    pub(crate) fn new(hold: Hold) -> Self {
        Self { hold }
    }

    /// The fencing token of this grant. It never changes.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.hold.token()
    }

    /// The name that is held.
    #[must_use]
    pub fn name(&self) -> Name {
        self.hold.line().name
    }

    /// Whether the lease may still be believed in, judged by this process's own clock, without I/O. It says no before
    /// the store can give the lock away, if the two clocks' rates differ by less than one percent.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.hold.is_held()
    }

    /// How long the lease lasts unless it is renewed; zero once it is lost.
    #[must_use]
    pub fn valid_for(&self) -> Duration {
        self.hold.valid_for()
    }

    /// Completes when the guard is lost, with the network up or down.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lost(&self) {
        self.hold.lost().await;
    }

    /// Drives `work` while the lock is held, and drops it when the lock is lost. The clock is asked before every poll
    /// of `work`: a process that was stopped past its lease does not run one more step of it.
    ///
    /// # Cancel safety
    /// As `work`.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`]; `work` may then be half done.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output> {
        self.hold.run(work).await
    }

    /// Renews at once and keeps the lease for `ttl` from now on.
    ///
    /// # Cancel safety
    /// Cancel safe; the new TTL may or may not hold.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`]; [`ErrorKind::InvalidTtl`]; what the store says, and then the guard is as valid as before.
    pub async fn extend(&self, ttl: Duration) -> Result<()> {
        traced_holding("lock.extend", &self.hold.line(), self.token(), self.hold.extend(ttl)).await
    }

    /// Releases the lock and waits for the outcome; one round trip.
    ///
    /// # Cancel safety
    /// Dropped halfway, the release goes on in the background.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`] if it was lost before; what the store says, and then the lock ends with its lease;
    /// [`ErrorKind::Unavailable`] if the store is silent for longer than the call timeout, and then the release goes on
    /// in the background.
    pub async fn release(self) -> Result<()> {
        let (line, token) = (self.hold.line(), self.token());
        traced_holding("lock.release", &line, token, self.hold.release()).await
    }

    /// Gives the lock up without releasing it, to be resumed by [`Lock::resume`](crate::Lock::resume) here or in
    /// another process. It is renewed once, so that a whole TTL is left for that; from then on nobody renews it.
    ///
    /// # Cancel safety
    /// Dropped halfway, the lock is released.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`]; what the store says, and then the lock is released.
    pub async fn detach(self) -> Result<Detached> {
        let (line, token, renew) = (self.hold.line(), self.token(), self.hold.renews());
        traced_holding("lock.detach", &line, token, async {
            Ok(Detached::new(self.hold.detach().await?, renew))
        })
        .await
    }
}

/// A lock on its way to another process. As text it is one line of JSON; whoever has the text can take the lock over,
/// once.
#[derive(Clone, Serialize, Deserialize)]
#[must_use = "nobody renews a detached lock; pass it to `resume` before its TTL is over"]
pub struct Detached {
    line: LineId,
    id: ClaimId,
    token: FencingToken,
    ttl_ms: u64,
    renew: bool,
}

impl Tokened for Detached {
    fn fencing_token(&self) -> Option<FencingToken> {
        Some(self.token)
    }
}

impl Detached {
    fn new(grant: Grant, renew: bool) -> Self {
        let ttl_ms = u64::try_from(grant.ttl.as_millis()).unwrap_or(u64::MAX);
        Self { line: grant.line, id: grant.id, token: grant.token, ttl_ms, renew }
    }

    /// The token, which the resumed guard will have too.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// The name that is held.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.line.name
    }

    pub(crate) fn grant(&self) -> Grant {
        let ttl = Duration::from_millis(self.ttl_ms);
        Grant { line: self.line.clone(), id: self.id, token: self.token, ttl }
    }

    pub(crate) fn renews(&self) -> bool {
        self.renew
    }
}

impl fmt::Debug for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the id: it is the right to take the lock over.
        f.debug_struct("Detached")
            .field("line", &self.line)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Detached {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, "this is no detached lock").with_source(error)
        })
    }
}

/// Several locks held together.
#[must_use = "the locks are released as soon as their guards are dropped"]
#[derive(Debug)]
pub struct GuardSet {
    guards: Vec<Guard>,
}

impl GuardSet {
    pub(crate) fn new(guards: Vec<Guard>) -> Self {
        Self { guards }
    }

    /// The guards, in the order of their names.
    pub fn guards(&self) -> &[Guard] {
        &self.guards
    }

    /// The token of one of the names.
    #[must_use]
    pub fn token(&self, name: &Name) -> Option<FencingToken> {
        self.guards.iter().find(|guard| guard.name() == *name).map(Guard::token)
    }

    /// Whether all of them are held.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.guards.iter().all(Guard::is_held)
    }

    /// How long all of them last unless they are renewed.
    #[must_use]
    pub fn valid_for(&self) -> Duration {
        self.guards.iter().map(Guard::valid_for).min().unwrap_or_default()
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.guards.iter().try_for_each(|guard| guard.hold.check())
    }

    /// Completes when one of them is lost.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lost(&self) {
        let _ =
            futures_util::future::select_all(self.guards.iter().map(|guard| Box::pin(guard.lost()))).await;
    }

    /// Drives `work` while all of them are held; see [`Guard::run`].
    ///
    /// # Cancel safety
    /// As `work`.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`] as soon as one of them is lost.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output> {
        let mut work = std::pin::pin!(work);
        let mut lost = std::pin::pin!(self.lost());
        std::future::poll_fn(|cx| {
            if lost.as_mut().poll(cx).is_ready() || !self.is_held() {
                let error = self.check().err();
                return std::task::Poll::Ready(Err(
                    error.unwrap_or_else(|| Error::new(ErrorKind::Lost, "one of the locks is lost"))
                ));
            }
            work.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// Releases all of them, the last taken first.
    ///
    /// # Cancel safety
    /// Dropped halfway, the releases go on in the background.
    ///
    /// # Errors
    /// The first error, after all were tried.
    pub async fn release(mut self) -> Result<()> {
        let mut outcome = Ok(());
        while let Some(guard) = self.guards.pop() {
            outcome = outcome.and(guard.release().await);
        }
        outcome
    }
}
