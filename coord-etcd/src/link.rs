//! The connections: one to each member, of which one is used until it fails.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use coord_core::Result;
use etcd_client::{Client, ConnectOptions, KvClient, LeaseClient, WatchClient};
use tokio::sync::Notify;

use crate::{
    config::{Config, Secret},
    error::from_connecting,
};

/// How long making a connection may take.
const TO_CONNECT: Duration = Duration::from_secs(2);

/// The connections to the members. The driver has a balancer of its own, which goes on using members that are down; so each
/// member gets a driver of its own here, and the choice is ours.
#[derive(Debug)]
pub(crate) struct Links {
    slots: Vec<Slot>,
    current: AtomicUsize,
    made: AtomicU64,
    /// Told when another member is used.
    pub(crate) changed: Notify,
}

#[derive(Debug, Default)]
struct Slot {
    link: Mutex<Option<Link>>,
    /// Whose turn it is to connect.
    connecting: tokio::sync::Mutex<()>,
}

/// A connection to one member. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Link {
    /// Which member, in the order of the configuration.
    pub(crate) at: usize,
    number: u64,
    pub(crate) kv: KvClient,
    pub(crate) lease: LeaseClient,
    pub(crate) watch: WatchClient,
    pub(crate) client: Client,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("at", &self.at).field("number", &self.number).finish_non_exhaustive()
    }
}

impl Link {
    /// Whether they are the very same connection.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Slot {
    fn link(&self) -> MutexGuard<'_, Option<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Links {
    pub(crate) fn new(config: &Config) -> Self {
        let slots: Vec<_> = config.endpoints.iter().map(|_| Slot::default()).collect();
        // Not all clients at the same member.
        let current = fastrand::usize(0..slots.len());
        let (current, made) = (AtomicUsize::new(current), AtomicU64::new(0));
        Self { slots, current, made, changed: Notify::new() }
    }

    /// How many members there are to choose from.
    pub(crate) fn count(&self) -> usize {
        self.slots.len()
    }

    /// The connection in use, made if there is none. It answers within two seconds.
    pub(crate) async fn link(&self, config: &Config) -> Result<Link> {
        self.link_to(config, self.current.load(Ordering::Acquire)).await
    }

    /// The connection to this member, made if there is none.
    pub(crate) async fn link_to(&self, config: &Config, at: usize) -> Result<Link> {
        let slot = &self.slots[at];
        if let Some(link) = slot.link().clone() {
            return Ok(link);
        }
        let _turn = slot.connecting.lock().await;
        if let Some(link) = slot.link().clone() {
            return Ok(link);
        }
        let link = self.connect(config, at).await.inspect_err(|_| self.leave(at))?;
        *slot.link() = Some(link.clone());
        Ok(link)
    }

    /// Forgets a connection that failed, and goes to the next member if it was the one in use.
    pub(crate) fn failed(&self, link: &Link) {
        let mut slot = self.slots[link.at].link();
        if slot.as_ref().is_some_and(|held| held.is(link)) {
            *slot = None;
        }
        drop(slot);
        self.leave(link.at);
    }

    /// Goes to the next member if this is the one in use.
    pub(crate) fn leave(&self, at: usize) {
        let next = (at + 1) % self.slots.len();
        if self.current.compare_exchange(at, next, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.changed.notify_one();
        }
    }

    /// Whether this member is the one in use.
    pub(crate) fn uses(&self, at: usize) -> bool {
        self.current.load(Ordering::Acquire) == at
    }

    /// Forgets all connections.
    pub(crate) fn clear(&self) {
        self.slots.iter().for_each(|slot| *slot.link() = None);
    }

    async fn connect(&self, config: &Config, at: usize) -> Result<Link> {
        let scheme = if config.tls { "https" } else { "http" };
        let url = format!("{scheme}://{}", config.endpoints[at]);
        let connecting = Client::connect([url], Some(options(config)?));
        let client = tokio::time::timeout(TO_CONNECT, connecting).await;
        let client = client
            .map_err(|_| crate::error::too_slow(config, false))?
            .map_err(|error| from_connecting(config, error))?;
        Ok(Link {
            at,
            number: self.made.fetch_add(1, Ordering::Relaxed),
            // Pages of large values are larger than what the driver takes by itself.
            kv: client.kv_client().max_decoding_message_size(usize::MAX),
            lease: client.lease_client(),
            watch: client.watch_client().max_decoding_message_size(usize::MAX),
            client,
        })
    }
}

fn options(config: &Config) -> Result<ConnectOptions> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(TO_CONNECT)
        .with_tcp_keepalive(Duration::from_secs(10))
        // A member that lost its leader says so at once, before it does anything.
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let (Some(user), Some(Secret(password))) = (&config.user, &config.password) {
        options = options.with_user(user, password);
    }
    tls(config, options)
}

#[cfg(feature = "tls")]
fn tls(config: &Config, options: ConnectOptions) -> Result<ConnectOptions> {
    use coord_core::{Error, ErrorKind};
    use etcd_client::{Certificate, TlsOptions};

    if !config.tls {
        return Ok(options);
    }
    let mut tls = TlsOptions::new();
    match config.ca() {
        Some(path) => {
            let pem = std::fs::read(path).map_err(|error| {
                let message = format!("the file of trusted certificates {} cannot be read", path.display());
                Error::new(ErrorKind::InvalidInput, message).with_source(error)
            })?;
            if !pem.windows(17).any(|part| part == b"BEGIN CERTIFICATE") {
                let message = format!("the file {} holds no certificate in PEM", path.display());
                return Err(Error::new(ErrorKind::InvalidInput, message));
            }
            tls = tls.ca_certificate(Certificate::from_pem(pem));
        }
        None => tls = tls.with_native_roots(),
    }
    Ok(options.with_tls(tls))
}

#[cfg(not(feature = "tls"))]
fn tls(_: &Config, options: ConnectOptions) -> Result<ConnectOptions> {
    Ok(options)
}
