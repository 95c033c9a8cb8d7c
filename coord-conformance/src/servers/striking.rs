//! What runs with faults do to the servers of this module.

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Etcd, EtcdCluster, Network, Postgres, Redis, ServerClock, ZooKeeper, ZooKeeperEnsemble};
use crate::{Apart, Servers};

fn held<T>(server: &Mutex<T>) -> MutexGuard<'_, T> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One server.
macro_rules! one {
    ($($server:ident: $name:literal, $kept:expr, $version:expr;)+) => {$(
        impl Servers for Mutex<$server> {
            fn names(&self) -> Vec<String> {
                vec![$name.into()]
            }

            fn stop(&self, _: usize) -> io::Result<()> {
                held(self).stop()
            }

            fn go_on(&self, _: usize) -> io::Result<()> {
                held(self).resume()
            }

            fn kill(&self, _: usize) -> io::Result<()> {
                held(self).kill()
            }

            fn restart(&self, _: usize) -> io::Result<()> {
                held(self).restart()
            }

            fn have_clocks(&self) -> bool {
                held(self).clock().is_some()
            }

            fn step_clock(&self, _: usize, milliseconds: i64) -> io::Result<()> {
                step(held(self).clock(), milliseconds)
            }

            fn heal_clock(&self, _: usize) -> io::Result<()> {
                heal(held(self).clock())
            }

            fn kept(&self) -> BTreeMap<String, u64> {
                let kept: fn(&$server) -> Option<BTreeMap<String, u64>> = $kept;
                kept(&held(self)).unwrap_or_default()
            }

            fn version(&self) -> Option<String> {
                let version: fn(&$server) -> Option<String> = $version;
                version(&held(self))
            }
        }
    )+};
}

one! {
    Redis: "redis", redis_kept, |server| {
        let info = server.command(&["INFO", "server"]).ok()?;
        info.text().lines().find_map(|line| line.strip_prefix("redis_version:")).map(|text| text.trim().to_owned())
    };
    Postgres: "postgres", postgres_kept, |server| Some(server.query("SHOW server_version").ok()?.trim().to_owned());
    Etcd: "etcd", etcd_kept, etcd_version;
    ZooKeeper: "zookeeper", zookeeper_kept, zookeeper_version;
}

fn step(clock: Option<&ServerClock>, milliseconds: i64) -> io::Result<()> {
    clock.ok_or(io::ErrorKind::Unsupported)?.step(milliseconds)
}

fn heal(clock: Option<&ServerClock>) -> io::Result<()> {
    clock.ok_or(io::ErrorKind::Unsupported)?.heal()
}

impl Etcd {
    /// It asks the kernel, and not the C library.
    #[allow(clippy::unused_self, reason = "as of the others")]
    fn clock(&self) -> Option<&ServerClock> {
        None
    }
}

fn redis_kept(server: &Redis) -> Option<BTreeMap<String, u64>> {
    let info = server.command(&["INFO"]).ok()?;
    let number = |name: &str| {
        let line = info.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Some((name.to_owned(), line?.trim().parse().ok()?))
    };
    ["connected_clients", "blocked_clients", "pubsub_channels", "pubsub_patterns"]
        .into_iter()
        .map(number)
        .collect()
}

fn postgres_kept(server: &Postgres) -> Option<BTreeMap<String, u64>> {
    let count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
    Some([("connections".to_owned(), server.query(count).ok()?.trim().parse().ok()?)].into())
}

/// The numbers of these names, which are no fractions; `None` if there is not one for each.
fn numbers(all: &BTreeMap<String, f64>, names: &[&str]) -> Option<BTreeMap<String, u64>> {
    names.iter().map(|name| Some(((*name).to_owned(), *all.get(*name)? as u64))).collect()
}

fn etcd_kept(server: &Etcd) -> Option<BTreeMap<String, u64>> {
    numbers(
        &server.metrics().ok()?,
        &["etcd_debugging_mvcc_watcher_total", "etcd_debugging_mvcc_watch_stream_total"],
    )
}

fn zookeeper_kept(server: &ZooKeeper) -> Option<BTreeMap<String, u64>> {
    numbers(&server.numbers().ok()?, &["watch_count", "ephemerals_count", "num_alive_connections"])
}

/// Of all together; nothing if one does not tell.
fn sum(all: impl Iterator<Item = Option<BTreeMap<String, u64>>>) -> BTreeMap<String, u64> {
    let mut sum = BTreeMap::new();
    let all = all.collect::<Option<Vec<_>>>().unwrap_or_default();
    all.into_iter().flatten().for_each(|(name, number)| *sum.entry(name).or_default() += number);
    sum
}

fn etcd_version(server: &Etcd) -> Option<String> {
    let label = |name: &String| {
        let (_, version) = name.strip_prefix("etcd_server_version{")?.split_once('"')?;
        Some(version.split('"').next()?.to_owned())
    };
    server.metrics().ok()?.keys().find_map(label)
}

fn zookeeper_version(server: &ZooKeeper) -> Option<String> {
    let answer = server.word("srvr").ok()?;
    let version = answer.lines().find_map(|line| line.strip_prefix("Zookeeper version: "))?;
    Some(version.split(['-', ',']).next()?.to_owned())
}

impl Servers for Mutex<EtcdCluster> {
    fn names(&self) -> Vec<String> {
        (0..held(self).members().len()).map(|at| format!("etcd-{at}")).collect()
    }

    fn stop(&self, at: usize) -> io::Result<()> {
        held(self).stop(at)
    }

    fn go_on(&self, at: usize) -> io::Result<()> {
        held(self).resume(at)
    }

    fn kill(&self, at: usize) -> io::Result<()> {
        held(self).kill(at)
    }

    fn restart(&self, at: usize) -> io::Result<()> {
        let mut cluster = held(self);
        cluster.restart(at)?;
        cluster.until_ready(at)
    }

    fn leader(&self) -> io::Result<usize> {
        held(self).leader()
    }

    fn kept(&self) -> BTreeMap<String, u64> {
        sum(held(self).members().iter().map(etcd_kept))
    }

    fn version(&self) -> Option<String> {
        etcd_version(&held(self).members()[0])
    }
}

impl Servers for Mutex<ZooKeeperEnsemble> {
    fn names(&self) -> Vec<String> {
        (1..=3).map(|number| format!("zookeeper-{number}")).collect()
    }

    fn stop(&self, at: usize) -> io::Result<()> {
        held(self).server(at).stop()
    }

    fn go_on(&self, at: usize) -> io::Result<()> {
        held(self).server(at).resume()
    }

    fn kill(&self, at: usize) -> io::Result<()> {
        held(self).server(at).kill()
    }

    fn restart(&self, at: usize) -> io::Result<()> {
        held(self).restart(at)
    }

    fn have_clocks(&self) -> bool {
        held(self).server(0).clock().is_some()
    }

    fn step_clock(&self, at: usize, milliseconds: i64) -> io::Result<()> {
        step(held(self).server(at).clock(), milliseconds)
    }

    fn heal_clock(&self, at: usize) -> io::Result<()> {
        heal(held(self).server(at).clock())
    }

    fn leader(&self) -> io::Result<usize> {
        held(self).until_led(&[0, 1, 2])
    }

    fn kept(&self) -> BTreeMap<String, u64> {
        let ensemble = held(self);
        sum((0..3).map(|at| zookeeper_kept(ensemble.server(at))))
    }

    fn version(&self) -> Option<String> {
        zookeeper_version(held(self).server(0))
    }
}

/// Servers on hosts of a network that can fail: each on the host of its number.
#[derive(Debug)]
pub struct OnNetwork<S> {
    servers: S,
    network: Network,
}

impl<S: Servers> OnNetwork<S> {
    /// These servers, which were started in this network.
    #[must_use]
    pub fn new(servers: S, network: Network) -> Self {
        Self { servers, network }
    }

    /// The servers.
    #[must_use]
    pub fn servers(&self) -> &S {
        &self.servers
    }
}

impl<S: Servers> Servers for OnNetwork<S> {
    fn names(&self) -> Vec<String> {
        self.servers.names()
    }

    fn stop(&self, at: usize) -> io::Result<()> {
        self.servers.stop(at)
    }

    fn go_on(&self, at: usize) -> io::Result<()> {
        self.servers.go_on(at)
    }

    fn kill(&self, at: usize) -> io::Result<()> {
        self.servers.kill(at)
    }

    fn restart(&self, at: usize) -> io::Result<()> {
        self.servers.restart(at)
    }

    fn leader(&self) -> io::Result<usize> {
        self.servers.leader()
    }

    fn can_be_apart(&self) -> bool {
        true
    }

    fn part(&self, at: usize, apart: Apart) -> io::Result<()> {
        for other in (0..self.names().len()).filter(|other| *other != at) {
            if apart != Apart::Deaf {
                self.network.cut(at, other)?;
            }
            if apart != Apart::Mute {
                self.network.cut(other, at)?;
            }
        }
        Ok(())
    }

    fn rejoin(&self) -> io::Result<()> {
        self.network.heal()
    }

    fn have_clocks(&self) -> bool {
        self.servers.have_clocks()
    }

    fn step_clock(&self, at: usize, milliseconds: i64) -> io::Result<()> {
        self.servers.step_clock(at, milliseconds)
    }

    fn heal_clock(&self, at: usize) -> io::Result<()> {
        self.servers.heal_clock(at)
    }

    fn kept(&self) -> BTreeMap<String, u64> {
        self.servers.kept()
    }

    fn version(&self) -> Option<String> {
        self.servers.version()
    }
}
