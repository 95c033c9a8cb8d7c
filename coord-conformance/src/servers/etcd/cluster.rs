//! Clusters of three.

use std::{io, net::Ipv4Addr, time::Duration};

use super::{
    super::{Unavailable, namespaces::Network, network::Port, node, poll},
    Etcd, EtcdOptions, Start,
    options::Addresses,
    program,
};

/// How many members a cluster has: one may be away.
const MEMBERS: usize = 3;

/// A cluster of three etcd servers on this host. They end, and their folders are removed, when this is dropped or when this
/// process ends, however it ends.
#[derive(Debug)]
pub struct EtcdCluster {
    members: Vec<Etcd>,
}

impl EtcdCluster {
    /// Three members with these options, of which `own` is implied. It waits until they can serve.
    ///
    /// # Errors
    /// If there is no program of etcd, or they do not start.
    pub fn start(options: &EtcdOptions) -> Result<Self, Unavailable> {
        Self::run(options, None)
    }

    /// The same, with each member on the host of its number in this network, which has at least three.
    ///
    /// # Errors
    /// As of [`EtcdCluster::start`].
    pub fn start_in(network: &Network, options: &EtcdOptions) -> Result<Self, Unavailable> {
        Self::run(options, Some(network))
    }

    fn run(options: &EtcdOptions, network: Option<&Network>) -> Result<Self, Unavailable> {
        let program = program()?;
        let start = || {
            node::on_a_free_port(|first| {
                let mut ports = vec![first];
                for _ in 1..3 * MEMBERS {
                    ports.push(Port::reserve()?);
                }
                let addresses: Vec<_> = ports
                    .chunks(3)
                    .enumerate()
                    .map(|(at, ports)| Addresses {
                        host: network.map_or(Ipv4Addr::LOCALHOST, |network| network.address(at)),
                        client: ports[0].number(),
                        peer: ports[1].number(),
                        metrics: ports[2].number(),
                    })
                    .collect();
                let start = Start { options, program: &program, members: &addresses, network };
                let mut members = Vec::new();
                for at in 0..MEMBERS {
                    let rest = ports.split_off(3);
                    let others = ports.split_off(1);
                    let port = ports.pop().ok_or(io::ErrorKind::AddrInUse)?;
                    members.push(Etcd::spawn(&start, at, port, others)?);
                    ports = rest;
                }
                let cluster = Self { members };
                cluster.members.iter().try_for_each(Etcd::until_ready)?;
                cluster.members[0].add_users(options)?;
                Ok(cluster)
            })
        };
        start().map_err(|error| Unavailable::broken(format!("a cluster of etcd: {error}")))
    }

    /// The URL with the addresses of all members.
    #[must_use]
    pub fn url(&self) -> String {
        let mut url = self.members[0].url();
        for member in &self.members[1..] {
            url.push_str(&format!(",{}", member.address()));
        }
        url
    }

    /// The members: 0, 1 and 2.
    #[must_use]
    pub fn members(&self) -> &[Etcd] {
        &self.members
    }

    /// Which member leads; it waits until one does that can serve.
    ///
    /// # Errors
    /// If none does within half a minute.
    pub fn leader(&self) -> io::Result<usize> {
        poll(|| Ok(self.members.iter().position(|member| member.leads() && member.is_healthy())))
    }

    /// Which member leads, waiting for one that is not this one.
    ///
    /// # Errors
    /// If none does within half a minute.
    pub fn leader_but(&self, not: usize) -> io::Result<usize> {
        poll(|| {
            let others = self.members.iter().enumerate().filter(|(at, _)| *at != not);
            Ok(others.into_iter().find(|(_, member)| member.leads() && member.is_healthy()).map(|(at, _)| at))
        })
    }

    /// Stops a member in its tracks: it keeps its connections and answers nothing.
    ///
    /// # Errors
    /// If it has ended.
    pub fn stop(&self, at: usize) -> io::Result<()> {
        self.members[at].stop()
    }

    /// Lets a stopped member go on.
    ///
    /// # Errors
    /// If it has ended.
    pub fn resume(&self, at: usize) -> io::Result<()> {
        self.members[at].resume()
    }

    /// Kills a member, and waits for its end.
    ///
    /// # Errors
    /// If that fails.
    pub fn kill(&self, at: usize) -> io::Result<()> {
        self.members[at].kill()
    }

    /// Kills a member if it runs, and starts it again with its data. It does not wait until it can serve, which it cannot
    /// without a majority: see [`EtcdCluster::until_ready`].
    ///
    /// # Errors
    /// If it does not start.
    pub fn restart(&mut self, at: usize) -> io::Result<()> {
        self.members[at].node.restart()?;
        let member = &self.members[at];
        member.node.until_ready(|| member.metrics().is_ok())
    }

    /// Waits until a member can serve.
    ///
    /// # Errors
    /// If it cannot within half a minute, or has ended.
    pub fn until_ready(&self, at: usize) -> io::Result<()> {
        self.members[at].until_ready()
    }

    /// How long the members wait for their leader before they elect another one.
    #[must_use]
    pub fn election_timeout(&self) -> Duration {
        Duration::from_millis(500)
    }
}
