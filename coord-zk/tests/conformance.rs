//! The conformance suite on ZooKeeper, on one server and on an ensemble of three:
//! `cargo test -p coord-zk --test conformance [FILTER]`.

use std::{
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use coord_conformance::{
    Backend, Servers, Stores, TestStore,
    servers::{Network, OnNetwork, ServerClock, Unavailable, ZooKeeper, ZooKeeperEnsemble, ZooKeeperOptions},
};
use coord_core::{Error, ErrorKind, Result, spi::Claims};
use coord_zk::Store;

/// How many servers there are. A server starts in seconds, so all cases of a run use one, each with a place of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    One,
    Three,
}

impl On {
    fn fresh(self) -> Result<String> {
        let fresh = match self {
            Self::One => ZooKeeper::shared().map(ZooKeeper::fresh),
            Self::Three => ZooKeeperEnsemble::shared().map(ZooKeeperEnsemble::fresh),
        };
        fresh.map(packets).map_err(no_server)
    }

    /// Servers that nobody else uses.
    fn own(self) -> Result<(Arc<dyn Servers>, String)> {
        // Where a clock or a network cannot be made, none is struck.
        let options = ZooKeeperOptions::default().with_own();
        let options = if ServerClock::available().is_ok() { options.with_clock() } else { options };
        match self {
            Self::One => {
                let server = ZooKeeper::start(&options).map_err(no_server)?;
                let url = packets(server.fresh());
                Ok((Arc::new(Mutex::new(server)), url))
            }
            Self::Three => {
                if let Ok(network) = Network::start(3) {
                    let ensemble = ZooKeeperEnsemble::start_in(&network, &options).map_err(no_server)?;
                    let url = packets(ensemble.fresh());
                    return Ok((Arc::new(OnNetwork::new(Mutex::new(ensemble), network)), url));
                }
                let ensemble = ZooKeeperEnsemble::start(&options).map_err(no_server)?;
                let url = packets(ensemble.fresh());
                Ok((Arc::new(Mutex::new(ensemble)), url))
            }
        }
    }
}

fn packets(url: String) -> String {
    format!("{url}?packet={}", ZooKeeperOptions::MAX_PACKET)
}

fn no_server(error: Unavailable) -> Error {
    Error::new(ErrorKind::Unavailable, "no server").with_source(error)
}

#[async_trait]
impl Backend for On {
    fn name(&self) -> &str {
        match self {
            Self::One => "zookeeper",
            Self::Three => "zookeeper-of-three",
        }
    }

    async fn open(&self) -> Result<Box<dyn TestStore>> {
        Ok(Box::new(Fresh {
            url: self.fresh()?,
            three: matches!(self, Self::Three),
            servers: None,
            counter: tokio::sync::Mutex::default(),
        }))
    }

    async fn open_for_faults(&self) -> Result<Box<dyn TestStore>> {
        let (servers, url) = self.own()?;
        Ok(Box::new(Fresh {
            url,
            three: matches!(self, Self::Three),
            servers: Some(servers),
            counter: tokio::sync::Mutex::default(),
        }))
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Claims>> {
        Ok(Store::open(url).await?)
    }

    async fn connect_all(&self, url: &str) -> Result<Stores> {
        Ok(stores(Store::open(url).await?))
    }
}

fn stores(store: Arc<Store>) -> Stores {
    Stores::new(store.clone()).with_values(store.clone()).with_jobs(store)
}

/// A place of its own in the server.
#[derive(Debug)]
struct Fresh {
    url: String,
    three: bool,
    /// Those that nobody else uses, if it is on such.
    servers: Option<Arc<dyn Servers>>,
    counter: tokio::sync::Mutex<Option<zookeeper_client::Client>>,
}

#[async_trait]
impl TestStore for Fresh {
    async fn connect(&self) -> Result<Arc<dyn Claims>> {
        Ok(Store::open(&self.url).await?)
    }

    async fn connect_all(&self) -> Result<Stores> {
        Ok(stores(Store::open(&self.url).await?))
    }

    fn remembered_changes(&self) -> Option<u64> {
        Some(1000)
    }

    /// A server that leads answers a `sync` of its own clients at once, also while it has yet to apply what another server has answered.
    fn lag(&self) -> Duration {
        if self.three { Duration::from_secs(1) } else { Duration::ZERO }
    }

    /// A tick of the servers, and half a second.
    fn takeover(&self) -> Duration {
        Duration::from_millis(600)
    }

    fn url(&self) -> Option<String> {
        Some(self.url.clone())
    }

    fn servers(&self) -> Option<Arc<dyn Servers>> {
        self.servers.clone()
    }

    /// The nodes below the place. Those of empty lines are there until the server removes them, which it does after a while.
    async fn size(&self) -> Result<Option<u64>> {
        let failed = |error| Error::new(ErrorKind::Internal, "no size").with_source(error);
        let (hosts, place) = self.url.trim_start_matches("zk://").split_once('/').unwrap_or_default();
        let place = place.split_once('?').map_or(place, |(place, _)| place);
        // One whose session ended is not used again.
        let mut counter = self.counter.lock().await;
        let client = match counter.take() {
            Some(client) => client,
            None => zookeeper_client::Client::connect(hosts).await.map_err(failed)?,
        };
        let path = format!("/{place}");
        let count = async || match client.count_descendants_number(&path).await {
            Err(zookeeper_client::Error::NoNode) => Ok(0),
            counted => counted.map_err(failed),
        };
        let mut before = count().await?;
        loop {
            tokio::time::sleep(Duration::from_millis(400)).await;
            let now = count().await?;
            if now >= before {
                *counter = Some(client);
                return Ok(Some(now as u64));
            }
            before = now;
        }
    }
}

fn main() -> ExitCode {
    let backends = [On::One, On::Three].map(|on| Arc::new(on) as Arc<dyn Backend>);
    coord_conformance::main_of_all(&backends)
}
