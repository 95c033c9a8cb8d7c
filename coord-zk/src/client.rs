//! A client of the ensemble: the store, its sessions, and how it is opened.

pub(crate) mod pulse;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use coord_core::{
    Error, ErrorKind, Guarantees, Report, Result, Weakness,
    clock::{Clock, Moment},
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
};
use tracing::Instrument;
use zookeeper_client as zk;

use self::pulse::Rhythm;
use crate::{
    config::{Config, IntoConfig},
    error::{Asks, Failure, closed, opening, too_slow},
    folders::Folders,
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
/// A session that nobody used for this long is closed when another one is opened.
const IDLE: Duration = Duration::from_secs(60);
/// How long a server may take to open a session before another one is asked too, and how many are asked at a time.
const SOON: Duration = Duration::from_millis(400);
const TRIES: usize = 4;
/// How long to pause before servers are asked again that did not tell.
const PAUSE: Duration = Duration::from_millis(100);

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
    pub(crate) folders: Folders,
    pub(crate) jobs: Desk,
    pub(crate) limits: Limits,
    pub(crate) server: Server,
    /// The sessions, by the length that was asked for.
    sessions: Mutex<HashMap<Duration, Slot>>,
    closed: AtomicBool,
}

/// The place of a session.
#[derive(Debug, Default)]
struct Slot {
    session: Option<Arc<Session>>,
    /// Tells what comes of the opening that is under way. It ends without a word if that takes too long.
    opening: Option<watch::Receiver<Option<Opened>>>,
    /// When it was last asked for.
    used: Moment,
}

/// A new session, or why there is none.
type Opened = Result<Arc<Session>, Arc<Error>>;

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
        config.check()?;
        let limits = find_limits(&config).await;
        let session = Arc::new(open_session(&config, limits.fit(MAIN)).await?);
        let server = Server::ask(&config, &session).await?;
        let shared = Arc::new(Shared {
            config,
            hub: Arc::default(),
            leases: Arc::default(),
            waits: Waits::default(),
            folders: Folders::default(),
            jobs: Desk::default(),
            limits,
            server,
            sessions: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        shared.adopt(&session);
        shared.sessions().entry(limits.fit(MAIN)).or_default().session = Some(session);
        let sweeper = tokio::spawn(sweep(Arc::downgrade(&shared), Arc::clone(&shared.leases)));
        Ok(Arc::new(Self { shared, sweeper: sweeper.abort_handle() }))
    }

    /// What about the ensemble weakens what this store promises, as it was when the store was opened; empty if nothing does.
    #[must_use]
    pub fn weaknesses(&self) -> Vec<Weakness> {
        self.shared.server.weaknesses(self.shared.limits, self.shared.ttls().1)
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
        Ok(server.report(&shared.config, shared.limits, shared.ttls().1))
    }

    pub(crate) fn promises(&self) -> Guarantees {
        self.shared.server.guarantees(self.shared.config.layout(), self.shared.promised())
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
        loop {
            let mut opening = match self.look_up(length)? {
                Found::Session(session) => return Ok(session),
                Found::Opening(opening) => opening,
            };
            match opening.wait_for(Option::is_some).await.ok().and_then(|opened| opened.clone()) {
                Some(Ok(session)) => return Ok(session),
                Some(Err(error)) => return Err(Error::new(error.kind(), error.to_string())),
                // It took too long; whoever still waits begins anew.
                None => {}
            }
        }
    }

    /// The session of this length, or the opening of one, which begins if none is under way. It is a task of its own, so that it
    /// goes on if whoever asked for it is dropped, or is not polled for a while.
    fn look_up(self: &Arc<Self>, length: Duration) -> Result<Found> {
        let mut sessions = self.sessions();
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        let now = Clock::System.now();
        let slot = sessions.entry(length).or_default();
        slot.used = now;
        if let Some(session) = slot.session.as_ref().filter(|session| !session.is_over()) {
            return Ok(Found::Session(Arc::clone(session)));
        }
        if let Some(opening) = slot.opening.as_ref().filter(|opening| opening.has_changed().is_ok()) {
            return Ok(Found::Opening(opening.clone()));
        }
        let (sender, opening) = watch::channel(None);
        slot.opening = Some(opening.clone());
        // TTLs that are computed are many, and a server takes so many connections of a host.
        sessions.retain(|length, slot| *length == self.limits.fit(MAIN) || self.is_wanted(slot, now));
        tokio::spawn(open(Arc::downgrade(self), Arc::clone(&self.config), length, sender));
        Ok(Found::Opening(opening))
    }

    /// Whether a session was asked for lately, or keeps a lease.
    fn is_wanted(&self, slot: &Slot, now: Moment) -> bool {
        let leases = slot.session.as_ref().and_then(|session| self.leases.last_of(session.id()));
        now.since(slot.used) < IDLE || leases.is_some()
    }

    /// Keeps a new session, if the client is still open.
    fn take_in(self: &Arc<Self>, length: Duration, session: Session) -> Opened {
        let mut sessions = self.sessions();
        if self.closed.load(Ordering::Acquire) {
            return Err(Arc::new(closed()));
        }
        let session = Arc::new(session);
        self.adopt(&session);
        sessions.entry(length).or_default().session = Some(Arc::clone(&session));
        Ok(session)
    }

    /// How much of a session's length a grant may not count on: what the leader may not have been told of its signs of life. A
    /// server that stands alone needs to tell nobody.
    fn margin(&self) -> Duration {
        self.rhythm().map_or(Duration::ZERO, Rhythm::margin)
    }

    fn rhythm(&self) -> Option<Rhythm> {
        (!self.server.stands_alone()).then(|| Rhythm::of(self.server.tick, self.limits.min))
    }

    /// The session for leases of this length, when it can be counted on.
    pub(crate) async fn session_for(self: &Arc<Self>, ttl: Duration) -> Result<Arc<Session>> {
        let session = self.session(self.length_for(ttl)).await?;
        // Another server, or one that was started again, may keep sessions for less than the one that was asked.
        let most = self.lease(&session);
        if most < ttl {
            let text = format!(
                "a lease of {ttl:?} is longer than {most:?}, which is what these servers keep (see maxSessionTimeout)"
            );
            return Err(Error::new(ErrorKind::InvalidTtl, text));
        }
        session.steady().await;
        Ok(session)
    }

    /// How long a lease on this session may be.
    pub(crate) fn lease(&self, session: &Session) -> Duration {
        lease(self.margin(), session.timeout())
    }

    /// How long a session has to be for leases of this length.
    pub(crate) fn length_for(&self, ttl: Duration) -> Duration {
        length_for(self.margin(), ttl)
    }

    /// The lease that is granted where this one was asked for.
    pub(crate) fn granted(&self, asked: Duration) -> Duration {
        asked.saturating_sub(self.forgone()).max(self.ttls().0)
    }

    fn forgone(&self) -> Duration {
        self.rhythm().map_or(Duration::ZERO, Rhythm::forgone)
    }

    /// The shortest and the longest lease that may be asked for.
    fn promised(&self) -> (Duration, Duration) {
        let (shortest, longest) = self.ttls();
        (shortest + self.forgone(), longest)
    }

    /// The shortest and the longest lease. The session of a shorter one would outlive it by more.
    pub(crate) fn ttls(&self) -> (Duration, Duration) {
        let shortest = lease(self.margin(), self.limits.min).max(self.limits.min * 3 / 4);
        (shortest, lease(self.margin(), self.limits.max))
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Duration, Slot>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks after a new session: when it is over, so is what was leased by it.
    fn adopt(self: &Arc<Self>, session: &Arc<Session>) {
        if let Some(rhythm) = self.rhythm() {
            session.beat(rhythm);
        }
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
        // Whoever opens one right now notices that it was too late.
        let sessions: Vec<_> = self.sessions().drain().filter_map(|(_, slot)| slot.session).collect();
        let mut ends = Vec::new();
        for session in sessions {
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

/// Does something in a task of its own, so that it goes on while whoever waits for it is not polled, and ends with the waiting.
pub(crate) async fn apart<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let mut task = JoinSet::new();
    task.spawn(work.in_current_span());
    match task.join_next().await {
        Some(Ok(outcome)) => outcome,
        Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime shuts down: nobody is to hear of it.
        _ => std::future::pending().await,
    }
}

/// What is known of a session.
enum Found {
    Session(Arc<Session>),
    Opening(watch::Receiver<Option<Opened>>),
}

/// Opens a session for whoever waits for it.
async fn open(
    shared: Weak<Shared>,
    config: Arc<Config>,
    length: Duration,
    waiting: watch::Sender<Option<Opened>>,
) {
    let patience = config.timeout() + TO_OPEN;
    let Ok(opened) = tokio::time::timeout(patience, open_session(&config, length)).await else {
        return;
    };
    let Some(shared) = shared.upgrade() else { return };
    waiting.send_replace(Some(match opened {
        Ok(session) => shared.take_in(length, session),
        Err(error) => Err(Arc::new(error)),
    }));
}

fn lease(margin: Duration, length: Duration) -> Duration {
    length.saturating_sub(margin)
}

/// The inverse, in whole milliseconds as the server counts them.
fn length_for(margin: Duration, ttl: Duration) -> Duration {
    milliseconds(ttl + margin)
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
        tokio::time::sleep(PAUSE).await;
    }
}

/// Opens a session; the caller has a deadline. The driver gives a server that is silent two seconds before it asks another one, in
/// an order of its own; so more than one are asked at a time if the first does not answer soon.
async fn open_session(config: &Config, length: Duration) -> Result<Session> {
    let mut tries = FuturesUnordered::new();
    loop {
        if tries.len() < TRIES {
            tries.push(try_session(config, length));
        }
        if let Ok(Some(opened)) = tokio::time::timeout(SOON, tries.next()).await {
            return opened;
        }
    }
}

/// The driver gives up after the session's length, which may be short.
async fn try_session(config: &Config, length: Duration) -> Result<Session> {
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
                assert!(length < ttl + margin + ms(1), "{margin:?} {ttl:?} {length:?}");
            }
        }
        assert_eq!(length_for(ms(200), ms(300)), ms(500));
        assert_eq!(length_for(Duration::ZERO, Duration::from_nanos(400_000_001)), ms(401));
    }
}
