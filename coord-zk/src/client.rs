//! A client of the ensemble: the store, its sessions, and how it is opened.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use coord_core::{Error, Guarantees, Report, Result, Weakness, clock::Clock};
use tokio::task::AbortHandle;
use zookeeper_client as zk;

use crate::{
    config::{Config, IntoConfig},
    error::{Asks, Failure, closed, opening, too_slow},
    jobs::Desk,
    leases::{Leases, sweep},
    probe::{self, Limits},
    server::Server,
    session::Session,
    waits::Waits,
    wakeups::Hub,
};

/// How much longer opening a store may take than an operation.
const TO_OPEN: Duration = Duration::from_secs(2);
/// The session for what is not leased, where the ensemble allows it.
const MAIN: Duration = Duration::from_secs(6);
/// A connection without a sign of life for this long is given up, or earlier for short sessions.
const SILENCE: Duration = Duration::from_secs(2);

/// A store of claims, values and jobs in a ZooKeeper ensemble; one client of it.
///
/// Users need it only to wrap it; [`connect`](crate::connect) gives the [`Coordinator`](coord_core::Coordinator).
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    sweeper: AbortHandle,
}

/// What the store and its background tasks use together.
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) waits: Waits,
    pub(crate) jobs: Desk,
    pub(crate) limits: Limits,
    pub(crate) server: Server,
    /// The sessions, by the length that was asked for.
    sessions: Mutex<HashMap<Duration, Arc<Slot>>>,
    closed: AtomicBool,
}

/// The place of a session. Who opens one holds the lock.
type Slot = tokio::sync::Mutex<Option<Arc<Session>>>;

impl Store {
    /// Connects to the ensemble and starts a client of it, which needs a Tokio runtime with time and I/O for as long as it
    /// lives. It answers within about ten seconds.
    ///
    /// # Cancel safety
    /// Cancel safe: a session that is left behind ends by itself.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](coord_core::ErrorKind::InvalidInput) for a URL that cannot be used,
    /// [`ErrorKind::Permission`](coord_core::ErrorKind::Permission) for an identity that is refused,
    /// [`ErrorKind::Unavailable`](coord_core::ErrorKind::Unavailable) if the ensemble cannot be reached or has no leader.
    pub async fn open(config: impl IntoConfig) -> Result<Arc<Self>> {
        let config = Arc::new(config.into_config()?);
        let patience = config.timeout() + TO_OPEN;
        match tokio::time::timeout(patience, Self::start(Arc::clone(&config))).await {
            Ok(store) => store,
            Err(_) => Err(too_slow(&config, Asks::Reading, patience)),
        }
    }

    async fn start(config: Arc<Config>) -> Result<Arc<Self>> {
        #[cfg(feature = "tls")]
        if let Some(ca) = config.ca().filter(|_| config.tls) {
            crate::tls::options(ca)?;
        }
        let limits = find_limits(&config).await;
        let session = Arc::new(open_session(&config, limits.fit(MAIN)).await?);
        let server = Server::ask(&config, &session).await?;
        let shared = Arc::new(Shared {
            config,
            hub: Arc::default(),
            leases: Arc::default(),
            waits: Waits::default(),
            jobs: Desk::default(),
            limits,
            server,
            sessions: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        shared.adopt(&session);
        *shared.slot(limits.fit(MAIN)).lock().await = Some(session);
        let sweeper = tokio::spawn(sweep(Arc::downgrade(&shared), Arc::clone(&shared.leases)));
        Ok(Arc::new(Self { shared, sweeper: sweeper.abort_handle() }))
    }

    /// What about the ensemble weakens what this store promises, as it was when the store was opened; empty if nothing does.
    #[must_use]
    pub fn weaknesses(&self) -> Vec<Weakness> {
        self.shared.server.weaknesses(self.shared.limits)
    }

    /// The version of the server that was asked when the store was opened; `None` if it does not tell.
    #[must_use]
    pub fn server_version(&self) -> Option<String> {
        self.shared.server.version.clone()
    }

    /// Asks the ensemble what it is and how it is set up. What a server does not tell is unknown.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is changed.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](coord_core::ErrorKind::Unavailable) if it cannot be reached or does not answer in time.
    pub async fn report(&self) -> Result<Report> {
        let shared = &self.shared;
        let asking = async {
            let session = shared.main().await?;
            Server::ask(&shared.config, &session).await
        };
        let server = shared.within(Asks::Reading, asking).await?;
        Ok(server.report(&shared.config, shared.limits))
    }

    pub(crate) fn promises(&self) -> Guarantees {
        self.shared.server.guarantees(self.shared.config.layout(), self.shared.ttls())
    }

    /// Ends the background work and the sessions.
    pub(crate) async fn end(&self) {
        self.sweeper.abort();
        self.shared.waits.end_all();
        self.shared.end().await;
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.sweeper.abort();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("ensemble", &self.shared.config.to_string()).finish_non_exhaustive()
    }
}

impl Limits {
    /// The length of session nearest to this one.
    pub(crate) fn fit(self, length: Duration) -> Duration {
        length.min(self.max).max(self.min)
    }
}

impl Shared {
    /// A whole operation within the deadline that each one has. Requests that are under way then are not taken back.
    pub(crate) async fn within<T>(
        &self,
        asks: Asks,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T> {
        let deadline = self.config.timeout();
        match tokio::time::timeout(deadline, work).await {
            Ok(outcome) => outcome.map_err(Error::from),
            Err(_) => Err(too_slow(&self.config, asks, deadline)),
        }
    }

    /// The session for what is not leased. It is opened again if it is over.
    pub(crate) async fn main(self: &Arc<Self>) -> Result<Arc<Session>> {
        self.session(MAIN).await
    }

    /// The session for leases of this length, opened if there is none. Its own length is in
    /// [`Session::timeout`].
    pub(crate) async fn session(self: &Arc<Self>, length: Duration) -> Result<Arc<Session>> {
        let length = self.limits.fit(length);
        let slot = self.slot(length);
        let mut slot = slot.lock().await;
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        if let Some(session) = slot.as_ref().filter(|session| !session.is_over()) {
            return Ok(Arc::clone(session));
        }
        let session = Arc::new(open_session(&self.config, length).await?);
        self.adopt(&session);
        *slot = Some(Arc::clone(&session));
        Ok(session)
    }

    /// How much of a session's length a grant may not count on. A server of an ensemble tells the leader of a sign of life only
    /// with its next heartbeat, each half a tick, and dies with what it has not told; so a session can end that much before its
    /// length has passed since the client was answered. A server that stands alone needs to tell nobody.
    fn margin(&self) -> Duration {
        if self.server.stands_alone() { Duration::ZERO } else { self.limits.tick() / 2 }
    }

    /// How long a lease on this session may be.
    pub(crate) fn lease(&self, session: &Session) -> Duration {
        lease(self.margin(), session.timeout())
    }

    /// How long a session has to be for leases of this length.
    pub(crate) fn length_for(&self, ttl: Duration) -> Duration {
        length_for(self.margin(), ttl)
    }

    /// The shortest and the longest lease.
    pub(crate) fn ttls(&self) -> (Duration, Duration) {
        (lease(self.margin(), self.limits.min), lease(self.margin(), self.limits.max))
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Duration, Arc<Slot>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, length: Duration) -> Arc<Slot> {
        Arc::clone(self.sessions().entry(length).or_default())
    }

    /// Looks after a new session: when it is over, so is what was leased by it.
    fn adopt(self: &Arc<Self>, session: &Arc<Session>) {
        let (id, mut states, shared) = (session.id(), session.states(), Arc::downgrade(self));
        tokio::spawn(async move {
            loop {
                let state = states.changed().await;
                tracing::debug!(session = %zk::SessionId(id), %state, "a session");
                if !state.is_terminated() {
                    continue;
                }
                if let Some(shared) = shared.upgrade() {
                    for stem in shared.leases.session_ended(id) {
                        shared.hub.hint_stem(&stem);
                    }
                }
                return;
            }
        });
    }

    async fn end(&self) {
        self.closed.store(true, Ordering::Release);
        let slots: Vec<_> = self.sessions().drain().map(|(_, slot)| slot).collect();
        let mut ends = Vec::new();
        for slot in slots {
            // Whoever opens one right now notices that it was too late.
            let Ok(mut slot) = slot.try_lock() else { continue };
            let Some(session) = slot.take() else { continue };
            match self.leases.last_of(session.id()) {
                // A grant that was detached is to be found by who resumes it: its session lives as long as its lease.
                Some(until) => {
                    let leases = Arc::clone(&self.leases);
                    tokio::spawn(async move {
                        tokio::time::sleep(until.since(Clock::System.now())).await;
                        leases.session_ended(session.id());
                        drop(session);
                    });
                }
                None => ends.push(session.states()),
            }
        }
        // A session that could not be ended ends by itself.
        let ending = ends.into_iter().map(|mut states| async move {
            while !states.peek_state().is_terminated() {
                states.changed().await;
            }
        });
        let _ = tokio::time::timeout(TO_OPEN, futures_util::future::join_all(ending)).await;
    }
}

fn lease(margin: Duration, length: Duration) -> Duration {
    length.saturating_sub(margin.min(length / 4))
}

/// The inverse, in whole milliseconds as the server counts them.
fn length_for(margin: Duration, ttl: Duration) -> Duration {
    milliseconds(ttl + margin.min(ttl / 3 + Duration::from_nanos(1)))
}

/// Rounded up.
pub(crate) fn milliseconds(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

/// Asks until a server tells; the caller has a deadline.
async fn find_limits(config: &Config) -> Limits {
    loop {
        #[cfg(feature = "tls")]
        let limits = if config.tls { crate::tls::limits(config).await } else { probe::limits(config).await };
        #[cfg(not(feature = "tls"))]
        let limits = probe::limits(config).await;
        if let Some(limits) = limits {
            return limits;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Opens a session; the caller has a deadline. The driver gives up after the session's length, which may be short.
async fn open_session(config: &Config, length: Duration) -> Result<Session> {
    loop {
        let mut connector = zk::Client::connector()
            .with_session_timeout(length)
            .with_connection_timeout(SILENCE.min(length * 3 / 5));
        if let (Some(user), Some(password)) = (&config.user, &config.password) {
            connector = connector.with_auth("digest", format!("{user}:{}", password.0).as_bytes());
        }
        #[cfg(feature = "tls")]
        if let Some(ca) = config.ca().filter(|_| config.tls) {
            connector = connector.with_tls(crate::tls::options(ca)?);
        }
        match connector.connect(&config.cluster()).await {
            Ok(client) => return Ok(Session::new(client, Arc::new(config.clone()))),
            Err(error @ (zk::Error::AuthFailed | zk::Error::BadArguments(_))) => {
                return Err(opening(config, error));
            }
            Err(error) => {
                tracing::debug!(%error, "no session yet");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_long_enough_for_its_leases_and_hardly_longer() {
        let ms = Duration::from_millis;
        for margin in [0, 1, 200, 2000].map(ms) {
            for ttl in [100, 101, 299, 300, 400, 5000, 86_400_000].map(ms) {
                let length = length_for(margin, ttl);
                assert!(lease(margin, length) >= ttl, "{margin:?} {ttl:?} {length:?}");
                assert!(
                    length <= ttl + margin + ms(1) && length <= ttl * 4 / 3 + ms(1),
                    "{margin:?} {ttl:?} {length:?}"
                );
            }
        }
        assert_eq!(length_for(ms(200), ms(300)), ms(401));
        assert_eq!(length_for(Duration::ZERO, Duration::from_nanos(400_000_001)), ms(401));
    }
}
