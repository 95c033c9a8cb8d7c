//! Three servers that are one.

use std::{fmt::Write, io, net::Ipv4Addr, sync::OnceLock};

use super::{
    super::{Unavailable, namespaces::Network, network::Port, poll},
    Member, ZooKeeper, ZooKeeperOptions, fresh_place, java,
};

/// An ensemble of three servers on this host, which end with this process, however it ends.
#[derive(Debug)]
pub struct ZooKeeperEnsemble {
    servers: Vec<ZooKeeper>,
    /// Held, so that nobody else gets them.
    _ports: Vec<Port>,
}

impl ZooKeeperEnsemble {
    /// Three servers that elected a leader.
    ///
    /// # Errors
    /// If there is no ZooKeeper, or it does not start.
    pub fn start(options: &ZooKeeperOptions) -> Result<Self, Unavailable> {
        Self::start_anywhere(options, None)
    }

    /// The same, with each server on the host of its index in this network, which has at least three.
    ///
    /// # Errors
    /// As of [`ZooKeeperEnsemble::start`].
    pub fn start_in(network: &Network, options: &ZooKeeperOptions) -> Result<Self, Unavailable> {
        Self::start_anywhere(options, Some(network))
    }

    fn start_anywhere(options: &ZooKeeperOptions, network: Option<&Network>) -> Result<Self, Unavailable> {
        let java = super::java(options)?;
        let mut tries = 0;
        loop {
            tries += 1;
            match Self::run(&java, options, network) {
                Ok(ensemble) => return Ok(ensemble),
                // Somebody may have been faster with a port.
                Err(_) if tries < 3 => {}
                Err(error) => return Err(Unavailable::broken(format!("three zookeepers: {error}"))),
            }
        }
    }

    /// One ensemble for all tests of this process. Nobody stops or kills any of it.
    ///
    /// # Errors
    /// As of [`ZooKeeperEnsemble::start`].
    pub fn shared() -> Result<&'static Self, Unavailable> {
        static SHARED: OnceLock<Result<ZooKeeperEnsemble, Unavailable>> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&ZooKeeperOptions::default())).as_ref().map_err(Clone::clone)
    }

    fn run(java: &java::Java, options: &ZooKeeperOptions, network: Option<&Network>) -> io::Result<Self> {
        let host = |at| network.map_or(Ipv4Addr::LOCALHOST, |network: &Network| network.address(at));
        let ports: Vec<_> = (0..6).map(|_| Port::reserve()).collect::<io::Result<_>>()?;
        let mut members = String::new();
        for (number, pair) in ports.chunks(2).enumerate() {
            // Writing to a string does not fail.
            let _ = writeln!(
                members,
                "server.{}={}:{}:{}",
                number + 1,
                host(number),
                pair[0].number(),
                pair[1].number()
            );
        }
        let mut servers = Vec::new();
        for id in 1..=3 {
            let port = Port::reserve()?;
            let configuration = format!("{}{members}", options.configuration(host(id - 1), port.number()));
            let member = Member { id, network };
            servers.push(ZooKeeper::launch(java, options, port, &configuration, Some(member))?);
        }
        let ensemble = Self { servers, _ports: ports };
        for server in &ensemble.servers {
            server.until_ready()?;
        }
        Ok(ensemble)
    }

    /// The URL of all three: `zk://127.0.0.1:<port>,127.0.0.1:<port>,127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.servers.iter().map(|server| server.address().to_string()).collect();
        format!("zk://{}", hosts.join(","))
    }

    /// The URL of a place in the ensemble that nobody else uses. The node is not made.
    #[must_use]
    pub fn fresh(&self) -> String {
        format!("{}/{}", self.url(), fresh_place())
    }

    /// The server of this index, 0 to 2.
    #[must_use]
    pub fn server(&self, index: usize) -> &ZooKeeper {
        &self.servers[index]
    }

    /// Which one leads; `None` while none that answers does.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        self.servers.iter().position(|server| server.mode().as_deref() == Some("leader"))
    }

    /// Which one leads, as soon as one of these does. A server that is stopped is not to be asked.
    ///
    /// # Errors
    /// If none does for half a minute.
    pub fn until_led(&self, among: &[usize]) -> io::Result<usize> {
        poll(|| {
            let leads = |index: &&usize| self.servers[**index].mode().as_deref() == Some("leader");
            Ok(among.iter().find(leads).copied())
        })
    }

    /// Kills a server if it runs, and starts it again in the same folder and on the same ports.
    ///
    /// # Errors
    /// If it does not start, or the others are too few for it to serve.
    pub fn restart(&mut self, index: usize) -> io::Result<()> {
        self.servers[index].restart()
    }
}
