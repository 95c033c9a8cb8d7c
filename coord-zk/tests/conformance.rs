//! The conformance suite on ZooKeeper, on one server and on an ensemble of three:
//! `cargo test -p coord-zk --test conformance [FILTER]`.

use std::{process::ExitCode, sync::Arc, time::Duration};

use async_trait::async_trait;
use coord_conformance::{
    Backend, Stores, TestStore,
    servers::{ZooKeeper, ZooKeeperEnsemble, ZooKeeperOptions},
};
use coord_core::{Error, ErrorKind, Result, spi::Claims};
use coord_zk::Store;
use tokio::sync::OnceCell;

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
        let fresh = fresh.map(|url| format!("{url}?packet={}", ZooKeeperOptions::MAX_PACKET));
        fresh.map_err(|error| Error::new(ErrorKind::Unavailable, "no server").with_source(error))
    }
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
        Ok(Box::new(Fresh { url: self.fresh()?, counter: OnceCell::new() }))
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
    counter: OnceCell<zookeeper_client::Client>,
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

    /// A tick of the servers, and half a second.
    fn takeover(&self) -> Duration {
        Duration::from_millis(600)
    }

    fn url(&self) -> Option<String> {
        Some(self.url.clone())
    }

    /// The nodes below the place. Those of empty lines are there until the server removes them, which it does after a while.
    async fn size(&self) -> Result<Option<u64>> {
        let failed = |error| Error::new(ErrorKind::Internal, "no size").with_source(error);
        let (hosts, place) = self.url.trim_start_matches("zk://").split_once('/').unwrap_or_default();
        let place = place.split_once('?').map_or(place, |(place, _)| place);
        let connect = || zookeeper_client::Client::connect(hosts);
        let client = self.counter.get_or_try_init(connect).await.map_err(failed)?;
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
