//! What is measured: coord, the bare driver, and other libraries, behind one interface.
//!
//! | name | backends | what it is |
//! | --- | --- | --- |
//! | `coord` | all | this toolkit, as its users call it |
//! | `floor` | all servers, SQLite | the cheapest that the same driver can do: one step to take, one to give back, one write that wakes |
//! | `rslock` | Redis | locks of the crate `rslock`, which polls |
//! | `redis-blmove` | Redis | a queue by `LPUSH`, `BLMOVE` and `LREM` |
//! | `redis-streams` | Redis | a queue by `XADD`, `XREADGROUP` and `XACK` |
//! | `etcd-lock-rpc` | etcd | locks by etcd's own service for them, through the crate `etcd-client` |
//! | `zk-recipe` | ZooKeeper | the lock recipe of the crate `zookeeper-client` |
//!
//! A floor is no lock: it has no line, no fencing token that grows, and nobody renews it. It says what the server and the
//! driver cost before anything is built on them.

mod coord;
mod etcd;
mod postgres;
mod redis;
mod sqlite;
mod zookeeper;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use coord_core::memory;

use crate::{Result, backend::Backend};

/// How long a lock lives that nobody renews.
pub const TTL: Duration = Duration::from_secs(30);

/// A system and where it is.
#[derive(Clone)]
pub struct System {
    name: String,
    backend: Backend,
    url: String,
    /// All clients of the backend in memory share it.
    memory: memory::Store,
}

/// The systems that there are on this backend, `coord` first.
#[must_use]
pub const fn systems(backend: Backend) -> &'static [&'static str] {
    match backend {
        Backend::Memory => &["coord"],
        Backend::Sqlite | Backend::Postgres => &["coord", "floor"],
        Backend::Redis => &["coord", "floor", "rslock", "redis-blmove", "redis-streams"],
        Backend::Etcd => &["coord", "floor", "etcd-lock-rpc"],
        Backend::ZooKeeper => &["coord", "floor", "zk-recipe"],
    }
}

/// Whether the system has what this workload measures on this backend.
#[must_use]
pub fn has(system: &str, backend: Backend, workload: &str) -> bool {
    match (system, workload) {
        // Candidates are processes of their own, which have no memory in common.
        ("coord", "candidate") => backend != Backend::Memory,
        ("coord", _) => true,
        // Nobody waits for anybody.
        ("floor", "W2" | "W5" | "candidate" | "renewal") => false,
        ("floor", "W2p" | "W6") => backend != Backend::Sqlite,
        ("floor", _) => true,
        ("redis-blmove" | "redis-streams", workload) => workload == "W5",
        (_, workload) => matches!(workload, "W1" | "W2" | "W2p" | "W3" | "candidate"),
    }
}

impl System {
    /// The system of this name on this backend, at this URL.
    ///
    /// # Errors
    /// If there is no such system on it.
    pub fn new(name: &str, backend: Backend, url: impl Into<String>) -> Result<Self> {
        if !systems(backend).contains(&name) {
            let known = systems(backend).join(", ");
            return Err(format!("there is no system {name:?} on {backend}; known are {known}").into());
        }
        Ok(Self { name: name.into(), backend, url: url.into(), memory: memory::Store::new() })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its backend.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A client with connections of its own, as if it were another process. What it takes lives for [`TTL`].
    ///
    /// # Errors
    /// What the driver says.
    pub async fn client(&self) -> Result<Arc<dyn Client>> {
        self.client_of(TTL).await
    }

    /// The same with another TTL.
    ///
    /// # Errors
    /// What the driver says.
    pub async fn client_of(&self, ttl: Duration) -> Result<Arc<dyn Client>> {
        let url = self.url.as_str();
        Ok(match (self.name.as_str(), self.backend) {
            ("coord", backend) => Arc::new(coord::Coord::connect(backend, url, &self.memory, ttl).await?),
            ("floor", Backend::Redis) => Arc::new(redis::Floor::connect(url, ttl).await?),
            ("rslock", _) => Arc::new(redis::RsLock::new(url, ttl)),
            ("redis-blmove", _) => Arc::new(redis::Lists::connect(url).await?),
            ("redis-streams", _) => Arc::new(redis::Streams::connect(url).await?),
            ("floor", Backend::Etcd) => Arc::new(etcd::Floor::connect(url, ttl).await?),
            ("etcd-lock-rpc", _) => Arc::new(etcd::LockRpc::connect(url, ttl).await?),
            ("floor", Backend::ZooKeeper) => Arc::new(zookeeper::Floor::connect(url, ttl).await?),
            ("zk-recipe", _) => Arc::new(zookeeper::Recipe::connect(url, ttl).await?),
            ("floor", Backend::Postgres) => Arc::new(postgres::Floor::connect(url, ttl).await?),
            ("floor", Backend::Sqlite) => Arc::new(sqlite::Floor::connect(url).await?),
            (name, backend) => return Err(format!("there is no system {name:?} on {backend}").into()),
        })
    }
}

impl fmt::Debug for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("System").field("name", &self.name).field("backend", &self.backend).finish()
    }
}

/// A system that does not have this.
fn none<T>(what: &str) -> Result<T> {
    Err(format!("this system has no {what}").into())
}

/// What a client can do. A system implements what it has.
#[async_trait]
pub trait Client: Send + Sync {
    /// Takes a lock, waiting for it.
    async fn acquire(&self, _name: &str) -> Result<Box<dyn Held>> {
        none("lock")
    }

    /// Stands in an election until it leads.
    async fn campaign(&self, name: &str, _id: &str) -> Result<Box<dyn Held>> {
        self.acquire(name).await
    }

    /// Waits at this name, for [`Client::wake`]: the floor of a hand-off.
    async fn park(&self, _name: &str) -> Result<Box<dyn Feed>> {
        none("waiting without a lock")
    }

    /// Wakes who waits at this name.
    async fn wake(&self, _name: &str) -> Result<()> {
        none("waiting without a lock")
    }

    /// Puts an item into a queue.
    async fn push(&self, _queue: &str, _item: Vec<u8>) -> Result<()> {
        none("queue")
    }

    /// Takes part in working on a queue, with up to `batch` items in hand.
    async fn consumer(&self, _queue: &str, _batch: u32) -> Result<Box<dyn Consumer>> {
        none("queue")
    }

    /// Writes a value.
    async fn put(&self, _key: &str, _value: Vec<u8>) -> Result<()> {
        none("configuration")
    }

    /// Follows a value.
    async fn watch(&self, _key: &str) -> Result<Box<dyn Feed>> {
        none("configuration")
    }

    /// Lists an instance of a service for as long as what it returns is kept.
    async fn register(&self, _service: &str, _id: &str, _address: &str) -> Result<Box<dyn Held>> {
        none("registry")
    }

    /// How many instances a service has, after reading all of them.
    async fn discover(&self, _service: &str) -> Result<usize> {
        none("registry")
    }

    /// Follows a service: the ids of instances that came.
    async fn follow(&self, _service: &str) -> Result<Box<dyn Feed>> {
        none("registry to follow")
    }

    /// Ends it.
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// Something that is held.
#[async_trait]
pub trait Held: Send + Sync {
    /// Completes when it is known to be lost.
    async fn lost(&self) {
        std::future::pending().await
    }

    /// Gives it back.
    async fn release(self: Box<Self>) -> Result<()>;
}

/// What comes one after the other.
#[async_trait]
pub trait Feed: Send {
    /// The next one.
    async fn next(&mut self) -> Result<Vec<u8>>;
}

/// Who works on a queue.
#[async_trait]
pub trait Consumer: Send {
    /// Waits for an item, which is then in hand.
    async fn next(&mut self) -> Result<Vec<u8>>;

    /// Says that the item in hand is done.
    async fn done(&mut self) -> Result<()>;
}
