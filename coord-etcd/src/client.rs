//! A client of the cluster: the store, how its requests are sent, and how it is opened.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use coord_core::{Effect, Error, ErrorKind, Guarantees, Report, Result, Weakness, clock::Clock};
use etcd_client::{GetOptions, KeyValue, LeaseGrantOptions, LeaseTimeToLiveOptions, Txn, TxnOpResponse};
use tokio::task::AbortHandle;

use crate::{
    config::{Config, IntoConfig},
    error::{closed, from_etcd, is_granted_already, is_lease_gone, too_slow},
    jobs::{Crowds, Extended, Tails},
    leases::Leases,
    link::{Link, Links},
    registry::Registry,
    rubbish::Rubbish,
    server::Server,
    wakeups::Hub,
};

/// How long a member may be silent before the next one is asked.
pub(crate) const SILENCE: Duration = Duration::from_secs(1);

/// How often all members may refuse a connection before the operation fails.
const ROUNDS: usize = 2;

/// How long an operation of several requests may take.
const TO_ANSWER: Duration = Duration::from_secs(10);

/// A store of claims, values and jobs in an etcd cluster; one client of it.
///
/// Users need it only to wrap it; [`connect`](crate::connect) gives the [`Coordinator`](coord_core::Coordinator).
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    tasks: Mutex<Vec<AbortHandle>>,
}

/// What the store and its background tasks use together.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) links: Links,
    pub(crate) hub: Arc<Hub>,
    pub(crate) rubbish: Rubbish,
    pub(crate) tails: Tails,
    pub(crate) extended: Extended,
    pub(crate) crowds: Crowds,
    /// This client's name in claims: 32 hexadecimal digits, fresh for every client.
    pub(crate) id: String,
    pub(crate) leases: Leases,
    pub(crate) registry: Registry,
    server: Mutex<Server>,
    closed: AtomicBool,
}

/// What a request was answered.
#[derive(Debug)]
pub(crate) struct Asked<T> {
    pub(crate) value: T,
    /// Whether an earlier copy of it was sent of which it is not known what became: it may still take effect.
    pub(crate) repeated: bool,
}

/// What a transaction was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Whether all comparisons held.
    pub(crate) succeeded: bool,
    /// The store's revision after it; that of its changes, if it changed anything.
    pub(crate) revision: i64,
    /// The term of the leader, as the member knew it after the transaction.
    pub(crate) term: u64,
    /// One for each operation of the branch that was taken.
    pub(crate) parts: Vec<TxnOpResponse>,
    /// Whether an earlier copy of it was sent of which it is not known what became: it may still take effect.
    pub(crate) repeated: bool,
}

/// What a read was answered.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) kvs: Vec<KeyValue>,
    /// The store's revision when it was read.
    pub(crate) revision: i64,
    /// The term of the leader, as the member knew it then.
    pub(crate) term: u64,
    /// Whether there are more than the limit allowed.
    pub(crate) more: bool,
}

/// A lease, as the server tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaseState {
    /// How long it was granted for.
    pub(crate) granted: Duration,
    /// How long it still runs, rounded down to seconds; `None`: it has ended.
    pub(crate) left: Option<Duration>,
    /// The keys that end with it, if they were asked for.
    pub(crate) keys: Vec<Vec<u8>>,
}

impl Store {
    /// Connects to a member of the cluster and starts a client of it, which needs a Tokio runtime with time and I/O for as long
    /// as it lives. It answers within about ten seconds.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is left behind but a lease, for the shortest time that the server grants.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a URL that cannot be used, and a server whose certificate is not trusted;
    /// [`ErrorKind::Permission`] for a wrong password and missing rights; [`ErrorKind::Unsupported`] for a server that is too
    /// old or is none of etcd; [`ErrorKind::Unavailable`] if none can be reached, or they have no leader.
    pub async fn open(config: impl IntoConfig) -> Result<Arc<Self>> {
        let config = config.into_config()?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        let shared = Arc::new(Shared {
            links: Links::new(&config),
            hub: Arc::new(Hub::new(crate::endings::notices(&id))),
            rubbish: Rubbish::default(),
            tails: Tails::default(),
            extended: Extended::default(),
            crowds: Crowds::default(),
            id,
            leases: Leases::default(),
            registry: Registry::default(),
            server: Mutex::new(Server::unknown()),
            config,
            closed: AtomicBool::new(false),
        });
        // Nothing is there; it shows whether we are let in.
        shared.get(crate::keys::ROOT, GetOptions::new().with_count_only()).await?;
        let (lease, min_ttl) = shared.grant(Duration::from_secs(1)).await?;
        shared.revoke(lease).await?;
        let server = shared.ask_server(min_ttl).await;
        server.check(&shared.config)?;
        if shared.config.strict() {
            server.insist(&shared.config)?;
        }
        *shared.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
        let listener = tokio::spawn(crate::listen::listen(Arc::clone(&shared))).abort_handle();
        let sweeper = tokio::spawn(crate::endings::sweep(Arc::clone(&shared))).abort_handle();
        Ok(Arc::new(Self { shared, tasks: Mutex::new(vec![listener, sweeper]) }))
    }

    /// What about the cluster weakens what this store promises, as it was found when the client was opened; empty if nothing
    /// does. [`Claims::guarantees`](coord_core::spi::Claims::guarantees) takes it into account.
    #[must_use]
    pub fn weaknesses(&self) -> Vec<Weakness> {
        self.shared.server().weaknesses()
    }

    /// Asks the cluster, and each member that the URL names, what they are and how they are. What this user may not ask for is
    /// unknown, and taken for the worst.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is changed.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if no member can be reached, or they have no leader.
    pub async fn report(&self) -> Result<Report> {
        self.shared.report().await
    }

    /// Ends the background work and the connections.
    pub(crate) fn end(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.stop();
        self.shared.links.clear();
    }

    pub(crate) fn stop(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.drain(..).for_each(|task| task.abort());
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("server", &self.shared.config.to_string()).finish_non_exhaustive()
    }
}

impl Shared {
    /// One transaction.
    ///
    /// # Errors
    /// As the server's; within the timeout of the configuration.
    pub(crate) async fn txn(&self, txn: Txn) -> Result<Answer> {
        let asked = self
            .ask(|mut link| {
                let txn = txn.clone();
                async move { link.kv.txn(txn).await }
            })
            .await?;
        let header = asked.value.header();
        Ok(Answer {
            succeeded: asked.value.succeeded(),
            revision: header.map_or(0, etcd_client::ResponseHeader::revision),
            term: header.map_or(0, etcd_client::ResponseHeader::raft_term),
            parts: asked.value.op_responses(),
            repeated: asked.repeated,
        })
    }

    /// One linearizable read.
    pub(crate) async fn get(&self, key: impl Into<Vec<u8>>, options: GetOptions) -> Result<Found> {
        let key = key.into();
        let mut found = self
            .ask(|mut link| {
                let (key, options) = (key.clone(), options.clone());
                async move { link.kv.get(key, Some(options)).await }
            })
            .await?
            .value;
        Ok(Found {
            revision: found.header().map_or(0, etcd_client::ResponseHeader::revision),
            term: found.header().map_or(0, etcd_client::ResponseHeader::raft_term),
            more: found.more(),
            kvs: found.take_kvs(),
        })
    }

    /// A new lease of at least this TTL, which is rounded up to whole seconds: its id, and the TTL that was granted.
    pub(crate) async fn grant(&self, ttl: Duration) -> Result<(i64, Duration)> {
        let seconds = seconds(ttl);
        // An id of ours, so that the request can be sent again.
        let id = fastrand::i64(1..i64::MAX);
        let granted = self
            .ask(|mut link| async move {
                link.lease.grant(seconds, Some(LeaseGrantOptions::new().with_id(id))).await
            })
            .await;
        match granted {
            Ok(granted) => Ok((id, whole(granted.value.ttl()))),
            Err(error) if is_granted_already(&error) => {
                let state = self.time_to_live(id, false).await?;
                Ok((id, state.granted))
            }
            Err(error) => Err(error),
        }
    }

    /// Ends a lease and all its keys. Nothing happens if it has ended.
    pub(crate) async fn revoke(&self, id: i64) -> Result<()> {
        let revoked = self.ask(|mut link| async move { link.lease.revoke(id).await }).await;
        match revoked {
            Err(error) if !is_lease_gone(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// What the server tells of a lease; with the keys that are on it, if they are asked for.
    pub(crate) async fn time_to_live(&self, id: i64, keys: bool) -> Result<LeaseState> {
        let options =
            if keys { LeaseTimeToLiveOptions::new().with_keys() } else { LeaseTimeToLiveOptions::new() };
        let state = self
            .ask(|mut link| {
                let options = options.clone();
                async move { link.lease.time_to_live(id, Some(options)).await }
            })
            .await?
            .value;
        Ok(LeaseState {
            granted: whole(state.granted_ttl()),
            left: (state.ttl() >= 0).then(|| whole(state.ttl())),
            keys: state.keys().to_vec(),
        })
    }

    /// An operation of several requests, each of which has its own time.
    ///
    /// # Errors
    /// As the operation's; that nobody knows what became of it, if all of them together take too long.
    pub(crate) async fn in_time<T>(&self, operation: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(TO_ANSWER, operation).await {
            // It ended while the request was under way, or this process stood still: asked again, it is done with another one.
            Ok(Err(error)) if is_lease_gone(&error) => Err(Error::new(
                ErrorKind::Unavailable,
                format!("the etcd cluster {}: a lease ended before it could be used; try again", self.config),
            )
            .with_source(error)
            .with_unknown_effect()),
            Ok(answer) => answer,
            Err(_) => Err(too_slow(&self.config, true)),
        }
    }

    /// Sends a request until it is answered or the time is over: to the member in use, and to the next one if that fails.
    ///
    /// So it may arrive more than once, and late. It must find what its first copy did, and do no harm later: be pinned to what it is
    /// about, or put something on a lease that is looked through.
    ///
    /// # Errors
    /// What was answered, or why nobody did. It says that the request may have taken effect unless it is certain that no copy
    /// of it did.
    pub(crate) async fn ask<T, F>(&self, call: impl Fn(Link) -> F) -> Result<Asked<T>>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let end = Clock::System.now().after(self.config.timeout());
        let (mut unknown, mut tries, mut refusals) = (false, 0_usize, 0_usize);
        let with_doubt =
            |error: Error, unknown: bool| if unknown { error.with_unknown_effect() } else { error };
        loop {
            if self.closed.load(Ordering::Acquire) {
                return Err(with_doubt(closed(), unknown));
            }
            let left = end.since(Clock::System.now());
            let patience = if self.links.count() > 1 { left.min(SILENCE) } else { left };
            if patience.is_zero() {
                return Err(too_slow(&self.config, unknown));
            }
            let error = match tokio::time::timeout(left, self.links.link(&self.config)).await {
                Err(_) => return Err(too_slow(&self.config, unknown)),
                Ok(Err(error)) => error,
                Ok(Ok(link)) => match tokio::time::timeout(patience, call(link.clone())).await {
                    Ok(Ok(value)) => return Ok(Asked { value, repeated: unknown }),
                    Ok(Err(error)) => {
                        let error = from_etcd(&self.config, error);
                        if error.kind() == ErrorKind::Unavailable {
                            self.links.failed(&link);
                        }
                        error
                    }
                    Err(_) => {
                        self.links.failed(&link);
                        too_slow(&self.config, true)
                    }
                },
            };
            let doubt = error.effect() == Effect::Unknown;
            unknown |= doubt;
            if error.kind() != ErrorKind::Unavailable {
                return Err(with_doubt(error, unknown));
            }
            tries += 1;
            refusals += usize::from(!doubt && !crate::error::is_no_leader(&error));
            if refusals >= ROUNDS * self.links.count() {
                return Err(with_doubt(error, unknown));
            }
            if tries.is_multiple_of(self.links.count()) {
                let pause = Duration::from_millis(fastrand::u64(50..150) * (tries as u64).min(4));
                if pause >= end.since(Clock::System.now()) {
                    return Err(with_doubt(error, unknown));
                }
                tokio::time::sleep(pause).await;
            }
        }
    }

    pub(crate) fn server(&self) -> Server {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn guarantees(&self) -> Guarantees {
        self.server().guarantees(self.config.layout())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

/// Whole seconds, rounded up, at least one.
pub(crate) fn seconds(ttl: Duration) -> i64 {
    let up = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    i64::try_from(up.max(1)).unwrap_or(i64::MAX)
}

fn whole(seconds: i64) -> Duration {
    Duration::from_secs(seconds.try_into().unwrap_or_default())
}
