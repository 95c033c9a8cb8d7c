//! The servers that are measured: started by the harness of the tests, but set up as one would run them, so that an answer is
//! as durable as the backend can make it on one server.

use std::{collections::BTreeMap, io, path::Path};

use coord_conformance::servers::{
    Etcd, EtcdOptions, Postgres, PostgresOptions, Redis, RedisOptions, Unavailable, ZooKeeper,
    ZooKeeperOptions,
};
use tempfile::TempDir;

use crate::{Result, backend::Backend};

/// A server that runs, or a file.
#[derive(Debug)]
enum Server {
    Memory,
    Sqlite(TempDir),
    Redis(Redis),
    Postgres(Postgres),
    Etcd(Etcd),
    ZooKeeper(ZooKeeper),
}

/// Where each backend is, of those that are there. They end when this is dropped.
#[derive(Debug, Default)]
pub struct Servers {
    running: BTreeMap<Backend, Server>,
    missing: BTreeMap<Backend, String>,
}

impl Servers {
    /// Starts those of these backends that there are, or takes those of the environment; see [`coord_conformance::servers`].
    ///
    /// # Errors
    /// If one is there and does not start.
    pub fn start(backends: &[Backend]) -> Result<Self> {
        let mut servers = Self::default();
        for backend in backends {
            match Server::start(*backend) {
                Ok(server) => drop(servers.running.insert(*backend, server)),
                Err(unavailable) if unavailable.is_broken() => {
                    return Err(format!("{}: {}", backend.title(), unavailable.reason()).into());
                }
                Err(unavailable) => drop(servers.missing.insert(*backend, unavailable.reason().into())),
            }
        }
        Ok(servers)
    }

    /// The backends that are there.
    pub fn backends(&self) -> impl Iterator<Item = Backend> {
        self.running.keys().copied()
    }

    /// Those that are not, and why.
    #[must_use]
    pub fn missing(&self) -> &BTreeMap<Backend, String> {
        &self.missing
    }

    /// The URL of a backend that is there.
    #[must_use]
    pub fn url(&self, backend: Backend) -> Option<String> {
        self.running.get(&backend).map(Server::url)
    }

    /// How many requests clients have sent to it so far; `None` where there is no server to count them.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub fn requests(&self, backend: Backend) -> Result<Option<u64>> {
        Ok(self.running.get(&backend).map_or(Ok(None), Server::requests)?)
    }
}

/// Whether the environment names a server, which is then taken as it is.
fn given(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// How the server that [`Servers`] starts keeps what it was told.
#[must_use]
pub fn setup(backend: Backend) -> &'static str {
    match backend {
        Backend::Memory => "nothing is kept",
        Backend::Sqlite => "write-ahead log; grants are synchronous = FULL, releases and renewals NORMAL",
        Backend::Redis => "append-only file, appendfsync everysec",
        Backend::Postgres => "fsync = on, synchronous_commit = on",
        Backend::Etcd => "one member, every commit synced; heartbeat 50 ms, election timeout 500 ms",
        Backend::ZooKeeper => "one server, forceSync = yes; tickTime 100 ms",
    }
}

impl Server {
    fn start(backend: Backend) -> Result<Self, Unavailable> {
        let failed = |error: io::Error| Unavailable::broken(error.to_string());
        Ok(match backend {
            Backend::Memory => Self::Memory,
            Backend::Sqlite => Self::Sqlite(tempfile::tempdir().map_err(failed)?),
            Backend::Redis => {
                let mut options = RedisOptions::default();
                if !given("COORD_TEST_REDIS_URL") {
                    options =
                        options.with_setting("appendonly", "yes").with_setting("appendfsync", "everysec");
                }
                Self::Redis(Redis::start(&options)?)
            }
            Backend::Postgres => {
                let options = PostgresOptions::default();
                let own = !given("COORD_TEST_POSTGRES_URL");
                Self::Postgres(Postgres::start(&if own { options.with_fsync() } else { options })?)
            }
            Backend::Etcd => Self::Etcd(Etcd::start(&EtcdOptions::default())?),
            Backend::ZooKeeper => {
                let mut options = ZooKeeperOptions::default();
                if !given("COORD_TEST_ZOOKEEPER_URL") {
                    options = options.with_setting("forceSync", "yes");
                    options = options.with_property("zookeeper.preAllocSize", "65536");
                }
                Self::ZooKeeper(ZooKeeper::start(&options)?)
            }
        })
    }

    fn url(&self) -> String {
        match self {
            Self::Memory => String::new(),
            Self::Sqlite(folder) => format!("sqlite:{}", file(folder.path())),
            Self::Redis(server) => server.url(),
            Self::Postgres(server) => server.url(),
            Self::Etcd(server) => server.url(),
            Self::ZooKeeper(server) => server.url(),
        }
    }

    fn requests(&self) -> io::Result<Option<u64>> {
        Ok(match self {
            Self::Memory | Self::Sqlite(_) => None,
            // What scripts call is no request.
            Self::Redis(server) => server.calls()?.get("evalsha").copied().or(Some(0)),
            Self::Postgres(server) => {
                const COMMITS: &str = "SELECT pg_stat_force_next_flush();
                    SELECT sum(xact_commit)::bigint FROM pg_stat_database";
                server.query(COMMITS)?.lines().last().and_then(|line| line.trim().parse().ok())
            }
            Self::Etcd(server) => Some(server.messages()?.values().sum()),
            Self::ZooKeeper(server) => server.numbers()?.get("packets_received").map(|count| *count as u64),
        })
    }
}

fn file(folder: &Path) -> String {
    folder.join("coord.db").display().to_string()
}
