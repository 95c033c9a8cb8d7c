//! The backends, and where they are.

use std::{fmt, str::FromStr};

use crate::Error;

/// A backend of coord.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// The memory of this process: the specification, with no server and no disk.
    Memory,
    /// A file on this host.
    Sqlite,
    /// A Redis server.
    Redis,
    /// A Postgres server.
    Postgres,
    /// An etcd cluster.
    Etcd,
    /// A ZooKeeper ensemble.
    ZooKeeper,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Memory, Self::Sqlite, Self::Redis, Self::Postgres, Self::Etcd, Self::ZooKeeper];

    /// Its short name, as the options of `contender` and the names of benchmarks have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sqlite => "sqlite",
            Self::Redis => "redis",
            Self::Postgres => "pg",
            Self::Etcd => "etcd",
            Self::ZooKeeper => "zk",
        }
    }

    /// Its name in a text.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sqlite => "SQLite",
            Self::Redis => "Redis",
            Self::Postgres => "Postgres",
            Self::Etcd => "etcd",
            Self::ZooKeeper => "ZooKeeper",
        }
    }

    /// The URL of what is at `HOST:PORT`, or for SQLite in this file; a URL stays as it is. For Postgres, `PGUSER`,
    /// `PGPASSWORD` and `PGDATABASE` say the rest.
    #[must_use]
    pub fn url(self, endpoint: &str) -> String {
        if endpoint.contains("://") || endpoint.starts_with("sqlite:") {
            return endpoint.into();
        }
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        match self {
            Self::Memory => String::new(),
            Self::Sqlite => format!("sqlite:{endpoint}"),
            Self::Redis => format!("redis://{endpoint}"),
            Self::Etcd => format!("etcd://{endpoint}"),
            Self::ZooKeeper => format!("zk://{endpoint}"),
            Self::Postgres => {
                let user = variable("PGUSER").unwrap_or_else(|| "postgres".into());
                let password = variable("PGPASSWORD").map(|word| format!(":{word}")).unwrap_or_default();
                let database = variable("PGDATABASE").unwrap_or_else(|| "postgres".into());
                format!("postgres://{user}{password}@{endpoint}/{database}")
            }
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Backend {
    type Err = Error;

    /// A name, also with a suffix after a dash, which says how the server is set up and means nothing here.
    fn from_str(text: &str) -> Result<Self, Error> {
        let name = text.split('-').next().unwrap_or_default();
        Ok(match name {
            "memory" => Self::Memory,
            "sqlite" => Self::Sqlite,
            "redis" => Self::Redis,
            "pg" | "postgres" => Self::Postgres,
            "etcd" => Self::Etcd,
            "zk" | "zookeeper" => Self::ZooKeeper,
            _ => {
                return Err(
                    format!("there is no backend {text:?}: redis, zk, etcd, pg, sqlite, memory").into()
                );
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for backend in Backend::ALL {
            assert_eq!(backend.as_str().parse::<Backend>().unwrap(), backend);
        }
        assert_eq!("redis-always".parse::<Backend>().unwrap(), Backend::Redis);
        assert!("consul".parse::<Backend>().is_err());
        assert_eq!(Backend::Redis.url("h:1"), "redis://h:1");
        assert_eq!(Backend::Postgres.url("postgres://u@h/d"), "postgres://u@h/d");
        assert_eq!(Backend::Sqlite.url("/tmp/a.db"), "sqlite:/tmp/a.db");
    }
}
