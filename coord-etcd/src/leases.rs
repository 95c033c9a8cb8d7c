//! The leases of this client: one for each TTL, for all claims of that TTL together.
//!
//! Nobody keeps a lease alive in the background. A claim that joins or looks again, and a renewal, have it kept alive, at the
//! same time as they do what they do, if it does not surely run long enough already. So a client that stops asking loses what it
//! has, as it should.
//!
//! A leader that was replaced and does not know it yet answers keep-alives too. It is believed only if a linearizable request was
//! answered in the term that it answered in. Where that request was sent after the keep-alive, that leader still led; where
//! the two ran side by side, as in a claim, a leader of a later term began after both were sent, and a new leader has all
//! leases run for their whole TTL from its beginning. Servers with `--experimental-enable-lease-checkpoint` do not, for TTLs of
//! more than five minutes.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use coord_core::{
    Error, ErrorKind, Result,
    clock::{Clock, Moment},
};
use etcd_client::{GetOptions, LeaseKeepAliveStream, LeaseKeeper};

use crate::{
    client::{SILENCE, Shared},
    error::{from_etcd, too_slow},
    link::Link,
};

/// For how long a claim is looked for whose request had an unknown outcome.
const SUSPECT: Duration = Duration::from_secs(600);

/// How often the leader may change while one lease is kept alive.
const TERMS: usize = 5;

/// The leases, by their TTL in seconds.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    by_seconds: Mutex<HashMap<i64, Arc<Lease>>>,
    /// Whose turn it is to make one.
    granting: tokio::sync::Mutex<()>,
    /// Those that are to be ended.
    unused: Mutex<Vec<i64>>,
}

/// One lease.
pub(crate) struct Lease {
    pub(crate) id: i64,
    /// The TTL that it was made with, in seconds.
    pub(crate) seconds: i64,
    /// The TTL that the server granted.
    pub(crate) granted: Duration,
    armed: Mutex<Armed>,
    gone: AtomicBool,
    /// Until when there may be keys on it that nobody knows of.
    suspect: Mutex<Option<Moment>>,
    keeper: tokio::sync::Mutex<Option<Keeper>>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("id", &self.id).field("granted", &self.granted).finish_non_exhaustive()
    }
}

/// The last keep-alive that was answered.
#[derive(Debug, Clone, Copy)]
struct Armed {
    /// When it was sent.
    at: Moment,
    /// The term before it; 0 if that is not known.
    term: u64,
}

/// An open stream of keep-alives.
struct Keeper {
    link: Link,
    sender: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

/// What became of a keep-alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// In this term.
    Alive(u64),
    Gone,
}

impl Leases {
    fn by_seconds(&self) -> MutexGuard<'_, HashMap<i64, Arc<Lease>>> {
        self.by_seconds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leases under which nothing stands, to be ended.
    pub(crate) fn unused(&self) -> MutexGuard<'_, Vec<i64>> {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All leases that are in use.
    pub(crate) fn all(&self) -> Vec<Arc<Lease>> {
        self.by_seconds().values().cloned().collect()
    }

    /// The lease for this many seconds, if there is one that is likely to live still.
    fn present(&self, seconds: i64) -> Option<Arc<Lease>> {
        let mut leases = self.by_seconds();
        let lease = leases.get(&seconds)?.clone();
        if lease.gone.load(Ordering::Acquire) {
            leases.remove(&seconds);
            return None;
        }
        Some(lease)
    }
}

impl Shared {
    /// The lease for this many seconds, made if there is none.
    pub(crate) async fn lease(&self, seconds: i64) -> Result<Arc<Lease>> {
        if let Some(lease) = self.likely(seconds).await {
            return Ok(lease);
        }
        let _turn = self.leases.granting.lock().await;
        if let Some(lease) = self.likely(seconds).await {
            return Ok(lease);
        }
        let lease = Arc::new(self.lone_lease(seconds).await?);
        self.leases.by_seconds().insert(seconds, Arc::clone(&lease));
        Ok(lease)
    }

    /// A new lease that nobody else uses.
    pub(crate) async fn lone_lease(&self, seconds: i64) -> Result<Lease> {
        let at = Clock::System.now();
        let (id, granted) = self.grant(Duration::from_secs(seconds.unsigned_abs())).await?;
        Ok(Lease::new(id, seconds, granted, at))
    }

    /// A lease has ended, and everything on it. A new leader that does not know all leases yet says so of one that lives, which would
    /// keep others out until it ends; so it is ended.
    pub(crate) fn lease_ended(&self, lease: &Lease) {
        if lease.end() {
            self.give_up(lease.id);
        }
    }

    async fn likely(&self, seconds: i64) -> Option<Arc<Lease>> {
        let lease = self.leases.present(seconds)?;
        let age = Clock::System.now().since(lease.armed().at);
        if age < lease.granted * 2 / 3 {
            return Some(lease);
        }
        // It may end under the hands of whoever puts a claim on it.
        match lease.keep_alive(self).await {
            Ok(Kept::Alive(_)) => Some(lease),
            Ok(Kept::Gone) => None,
            // Whoever uses it will learn it.
            Err(_) => Some(lease),
        }
    }
}

impl Lease {
    /// One that was granted by a request that was sent at `at`.
    pub(crate) fn new(id: i64, seconds: i64, granted: Duration, at: Moment) -> Self {
        Self {
            id,
            seconds,
            granted,
            armed: Mutex::new(Armed { at, term: 0 }),
            gone: AtomicBool::new(false),
            suspect: Mutex::default(),
            keeper: tokio::sync::Mutex::default(),
        }
    }

    fn armed(&self) -> Armed {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it run until this moment at least, by a keep-alive if that is not sure already, and answers the term in which it was
    /// kept alive; `None` if it has ended.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if no member answered in time.
    pub(crate) async fn arm(&self, shared: &Shared, until: Moment) -> Result<Option<u64>> {
        if self.is_gone() {
            return Ok(None);
        }
        let armed = self.armed();
        if armed.term > 0 && armed.at.after(self.granted) >= until {
            return Ok(Some(armed.term));
        }
        match self.keep_alive_since(shared, Some(until)).await? {
            Kept::Alive(term) => Ok(Some(term)),
            Kept::Gone => Ok(None),
        }
    }

    /// Has it run for its whole TTL from a moment after this call, and makes sure that the leader who said so led. `false`: it
    /// has ended.
    ///
    /// The two are the terms of the last keep-alive and of a linearizable request after it.
    pub(crate) async fn prove(&self, shared: &Shared, mut kept: u64, mut read: u64) -> Result<bool> {
        for _ in 0..TERMS {
            if kept == read {
                return Ok(true);
            }
            match self.keep_alive(shared).await? {
                Kept::Alive(term) => kept = term,
                Kept::Gone => return Ok(false),
            }
            read = shared.get(crate::keys::ROOT, GetOptions::new().with_count_only()).await?.term;
        }
        let message = format!("the etcd cluster {}: its leader changes all the time", shared.config);
        Err(Error::new(ErrorKind::Unavailable, message).with_unknown_effect())
    }

    async fn keep_alive(&self, shared: &Shared) -> Result<Kept> {
        self.keep_alive_since(shared, None).await
    }

    /// One keep-alive; or none, if another task's one is enough by the time that it is this one's turn.
    async fn keep_alive_since(&self, shared: &Shared, until: Option<Moment>) -> Result<Kept> {
        let end = Clock::System.now().after(shared.config.timeout());
        let left = || end.since(Clock::System.now());
        let asked = Clock::System.now();
        let turn = tokio::time::timeout(left(), self.keeper.lock()).await;
        let Ok(mut slot) = turn else { return Err(too_slow(&shared.config, false)) };
        let mut tries = 0_u32;
        loop {
            if self.is_gone() {
                return Ok(Kept::Gone);
            }
            let armed = self.armed();
            let enough = match until {
                Some(until) => armed.at.after(self.granted) >= until,
                None => armed.at >= asked,
            };
            if enough && armed.term > 0 {
                return Ok(Kept::Alive(armed.term));
            }
            let patience = if shared.links.count() > 1 { left().min(SILENCE) } else { left() };
            if patience.is_zero() || shared.is_closed() {
                return Err(too_slow(&shared.config, true));
            }
            let at = Clock::System.now();
            let failed = match tokio::time::timeout(left(), shared.links.link(&shared.config)).await {
                Err(_) => too_slow(&shared.config, false),
                Ok(Err(error)) => error,
                Ok(Ok(link)) => match tokio::time::timeout(patience, self.exchange(&link, slot.take())).await
                {
                    Ok(Ok((Kept::Gone, _))) => {
                        shared.lease_ended(self);
                        return Ok(Kept::Gone);
                    }
                    Ok(Ok((Kept::Alive(term), keeper))) => {
                        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = Armed { at, term };
                        *slot = keeper;
                        return Ok(Kept::Alive(term));
                    }
                    Ok(Err(error)) => {
                        shared.links.failed(&link);
                        from_etcd(&shared.config, error)
                    }
                    Err(_) => {
                        shared.links.failed(&link);
                        too_slow(&shared.config, true)
                    }
                },
            };
            tries += 1;
            match failed.kind() {
                ErrorKind::Unavailable => {}
                // A token that is too old shows on a stream only after it was opened; a new connection logs in anew.
                ErrorKind::Permission if tries == 1 => {}
                _ => return Err(failed),
            }
            let pause = Duration::from_millis(fastrand::u64(20..80)) * tries.min(5);
            if pause >= left() {
                return Err(failed);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Sends one keep-alive and waits for its answer: on the open stream, or on a new one.
    async fn exchange(
        &self,
        link: &Link,
        open: Option<Keeper>,
    ) -> Result<(Kept, Option<Keeper>), etcd_client::Error> {
        let mut keeper = match open.filter(|keeper| keeper.link.is(link)) {
            Some(keeper) => keeper,
            None => match link.lease.clone().keep_alive(self.id).await {
                Ok((sender, answers)) => Keeper { link: link.clone(), sender, answers },
                // The driver's own word for a lease that has ended, in place of the answer.
                Err(etcd_client::Error::LeaseKeepAliveError(text)) if text == "lease not found" => {
                    return Ok((Kept::Gone, None));
                }
                Err(error) => return Err(error),
            },
        };
        // Also on a new stream: the driver swallows the first answer, and with it the term.
        keeper.sender.keep_alive().await?;
        let Some(answer) = keeper.answers.message().await? else {
            return Err(etcd_client::Error::LeaseKeepAliveError("the stream ended".into()));
        };
        if answer.ttl() <= 0 {
            return Ok((Kept::Gone, None));
        }
        let term = answer.header().map_or(0, etcd_client::ResponseHeader::raft_term);
        Ok((Kept::Alive(term), Some(keeper)))
    }

    /// From now on it is gone; answers whether it was not before.
    pub(crate) fn end(&self) -> bool {
        !self.gone.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// There may be keys on it, now or later, that nobody knows of: a request had an unknown outcome.
    pub(crate) fn suspect(&self) {
        let until = Clock::System.now().after(SUSPECT);
        *self.suspect.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    pub(crate) fn is_suspect(&self) -> bool {
        let until = *self.suspect.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Clock::System.now() < until)
    }
}
