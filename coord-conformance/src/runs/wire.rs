//! The connections of one worker, each through a proxy.

use std::{sync::Arc, time::Duration};

use super::Fault;
use crate::{
    Failure, Verdict,
    proxy::{self, Loss, Options, Proxy, Way, framing},
};

/// A proxy before each server, for one worker.
#[derive(Debug)]
pub(super) struct Wire {
    proxies: Vec<Proxy>,
    /// The store's URL, with the proxies in place of the servers.
    pub(super) url: String,
}

/// What requests are, in the protocol of a store with this URL.
pub(super) fn protocol(url: &str) -> Option<Arc<dyn framing::Protocol>> {
    match url.split_once("://")?.0 {
        "redis" => Some(Arc::new(framing::Redis)),
        "etcd" => Some(Arc::new(framing::Grpc)),
        "zk" => Some(Arc::new(framing::ZooKeeper)),
        "postgres" | "postgresql" => Some(Arc::new(framing::Postgres)),
        _ => None,
    }
}

impl Wire {
    pub(super) fn new(url: &str, seed: u64) -> Verdict<Self> {
        let hosts = proxy::authority(url);
        let start = |(at, host): (u64, &str)| {
            let mut options = Options::default().with_seed(seed.wrapping_add(at));
            options.protocol = protocol(url);
            Proxy::start_with(host, options)
        };
        let proxies: Vec<_> = (0..)
            .zip(hosts.split(','))
            .map(start)
            .collect::<Result<_, _>>()
            .map_err(|error| Failure::new(format!("a proxy: {error}")))?;
        let addresses: Vec<_> = proxies.iter().map(|proxy| proxy.addr().to_string()).collect();
        let url = url.replacen(hosts, &addresses.join(","), 1);
        Ok(Self { proxies, url })
    }

    /// Begins a fault; `choice` decides how.
    pub(super) fn strike(&self, fault: Fault, choice: u64) {
        for proxy in &self.proxies {
            match fault {
                Fault::WireReset => proxy.shorten(Duration::from_millis(100 + choice % 200)),
                Fault::WireRefuse => {
                    proxy.refuse();
                    proxy.cut();
                }
                Fault::WireFreeze => proxy.freeze(Way::Both),
                Fault::WireBlackhole => proxy.blackhole(Way::Both),
                Fault::WireMute => proxy.blackhole(Way::ToServer),
                Fault::WireDeaf => proxy.blackhole(Way::ToClient),
                Fault::WireLose => {
                    (0..1 + choice % 4).for_each(|at| proxy.lose(Loss::reply(1 + at * 2)));
                }
                _ => match choice % 3 {
                    0 => {
                        let delay = Duration::from_millis(20 + choice / 3 % 150);
                        proxy.delay(Way::Both, delay, Duration::from_millis(50));
                    }
                    1 => proxy.slice(Way::Both, 1),
                    _ => proxy.limit(Way::Both, 10_000),
                },
            }
        }
    }

    /// Cuts the worker off from one server, or one way between them; `choice` decides which.
    pub(super) fn part(&self, server: usize, choice: u64) {
        let ways = [Way::Both, Way::ToServer, Way::ToClient];
        if let Some(proxy) = self.proxies.get(server) {
            proxy.blackhole(ways[choice as usize % ways.len()]);
        }
    }

    pub(super) fn heal(&self) {
        self.proxies.iter().for_each(Proxy::heal);
    }
}
