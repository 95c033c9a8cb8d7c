//! On what was measured.

use std::{collections::BTreeMap, fs};

use coord_core::clock::wall;
use serde::{Deserialize, Serialize};

use crate::{Result, backend::Backend, servers};

/// The machine, and when.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Machine {
    /// Seconds since 1970.
    pub at: u64,
    /// The version of this workspace.
    pub version: String,
    /// The system's name and version.
    pub system: String,
    /// The processor.
    pub processor: String,
    /// How many of them there are.
    pub processors: usize,
    /// Memory in GiB.
    pub memory_gib: f64,
}

/// A server.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Server {
    /// The backend.
    pub backend: String,
    /// Its version.
    pub version: String,
    /// How it keeps what it was told.
    pub setup: String,
    /// What it tells of itself.
    pub facts: BTreeMap<String, String>,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn here() -> Self {
        let name = rustix::system::uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        let at = wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        let memory = value_of("/proc/meminfo", "MemTotal").unwrap_or_default();
        let kilobytes: f64 =
            memory.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0.0);
        Self {
            at,
            version: env!("CARGO_PKG_VERSION").into(),
            system: format!("{} {} {}", text(name.sysname()), text(name.release()), text(name.machine())),
            processor: value_of("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: (kilobytes / 1024.0 / 102.4).round() / 10.0,
        }
    }
}

/// What stands after `name :` in a file of the kernel's.
fn value_of(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.trim().strip_prefix(':'));
    values.next().map(|value| value.trim().to_owned())
}

impl Server {
    /// What the server at this URL tells of itself.
    ///
    /// # Errors
    /// If it cannot be reached.
    pub async fn ask(backend: Backend, url: &str) -> Result<Self> {
        let report = match backend {
            Backend::Memory => None,
            Backend::Sqlite => Some(coord_sql::Sqlite::open(url).await?.report().await?),
            Backend::Postgres => {
                let config = coord_sql::PostgresConfig::parse(url)?;
                Some(coord_sql::Postgres::open(config).await?.report().await?)
            }
            Backend::Redis => Some(coord_redis::Store::open(url).await?.report().await?),
            Backend::Etcd => Some(coord_etcd::Store::open(url).await?.report().await?),
            Backend::ZooKeeper => Some(coord_zk::Store::open(url).await?.report().await?),
        };
        // Where it was and what it was called then says nothing.
        const PASSING: [&str; 7] = ["path", "boot", "run-id", "bytes", "db-size", "leader", "clock"];
        let mut facts = BTreeMap::new();
        for fact in report.map(|report| report.facts).unwrap_or_default() {
            if let Some(value) = fact.value.filter(|_| !PASSING.contains(&fact.name)) {
                facts.insert(fact.name.to_owned(), value);
            }
        }
        let version = facts.remove("version").or_else(|| facts.remove("server_version"));
        let version = version.unwrap_or_else(|| env!("CARGO_PKG_VERSION").into());
        Ok(Self { backend: backend.as_str().into(), version, setup: servers::setup(backend).into(), facts })
    }
}
