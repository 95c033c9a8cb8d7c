//! What runs with faults do to the servers of this module.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Etcd, EtcdCluster, Postgres, Redis, ZooKeeper, ZooKeeperEnsemble};
use crate::Servers;

fn held<T>(server: &Mutex<T>) -> MutexGuard<'_, T> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One server.
macro_rules! one {
    ($($server:ident: $name:literal, $version:expr;)+) => {$(
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

            fn version(&self) -> Option<String> {
                let version: fn(&$server) -> Option<String> = $version;
                version(&held(self))
            }
        }
    )+};
}

one! {
    Redis: "redis", |server| {
        let info = server.command(&["INFO", "server"]).ok()?;
        info.text().lines().find_map(|line| line.strip_prefix("redis_version:")).map(|text| text.trim().to_owned())
    };
    Postgres: "postgres", |server| Some(server.query("SHOW server_version").ok()?.trim().to_owned());
    Etcd: "etcd", etcd_version;
    ZooKeeper: "zookeeper", zookeeper_version;
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

    fn leader(&self) -> io::Result<usize> {
        held(self).until_led(&[0, 1, 2])
    }

    fn version(&self) -> Option<String> {
        zookeeper_version(held(self).server(0))
    }
}
