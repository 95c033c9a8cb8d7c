//! Three servers, which each case has for itself as long as it runs.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use coord_conformance::{
    Backend, Servers, Stores, TestStore,
    runs::Fault,
    servers::{EtcdCluster, EtcdOptions, Network, OnNetwork},
};
use coord_core::{Result, spi::Claims};
use coord_etcd::Store;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    common::{failed, keys, no_server, stores},
    one::TAKEOVER,
    pool::{Pool, Taken},
};

#[derive(Debug)]
pub(super) struct OnCluster;

#[async_trait]
impl Backend for OnCluster {
    fn name(&self) -> &str {
        "etcd-of-three"
    }

    async fn open(&self) -> Result<Box<dyn TestStore>> {
        // Two dozen servers on a small machine would miss each other's heartbeats, and elect leaders all the time.
        static ROOM: Semaphore = Semaphore::const_new(4);
        let room = ROOM.acquire().await.map_err(|closed| failed(std::io::Error::other(closed)))?;
        static POOL: Pool<EtcdCluster> = Pool::new();
        let start = || EtcdCluster::start(&EtcdOptions::default()).map_err(no_server);
        Ok(Box::new(Fresh { cluster: POOL.take(start, EtcdCluster::url).await?, _room: room }))
    }

    /// On hosts of their own, if this system has any to offer.
    async fn open_for_faults(&self) -> Result<Box<dyn TestStore>> {
        let options = EtcdOptions::default();
        let Ok(network) = Network::start(3) else {
            let cluster = EtcdCluster::start(&options).map_err(no_server)?;
            let url = cluster.url();
            return own(Arc::new(Mutex::new(cluster)), url).await;
        };
        let cluster = EtcdCluster::start_in(&network, &options).map_err(no_server)?;
        let url = cluster.url();
        own(Arc::new(OnNetwork::new(Mutex::new(cluster), network)), url).await
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Claims>> {
        Ok(Store::open(url).await?)
    }

    async fn connect_all(&self, url: &str) -> Result<Stores> {
        Ok(stores(Store::open(url).await?))
    }
}

/// A cluster that no other case uses now. Its clients use all of its members.
#[derive(Debug)]
struct Fresh {
    cluster: Taken<EtcdCluster>,
    _room: SemaphorePermit<'static>,
}

#[async_trait]
impl TestStore for Fresh {
    async fn connect(&self) -> Result<Arc<dyn Claims>> {
        Ok(Store::open(&self.cluster.url).await?)
    }

    async fn connect_all(&self) -> Result<Stores> {
        Ok(stores(Store::open(&self.cluster.url).await?))
    }

    fn takeover(&self) -> Duration {
        TAKEOVER
    }

    fn url(&self) -> Option<String> {
        Some(self.cluster.url.clone())
    }

    /// All keys.
    async fn size(&self) -> Result<Option<u64>> {
        let cluster = self.cluster.lock().unwrap_or_else(PoisonError::into_inner);
        keys(&cluster.members()[0]).map(Some).map_err(failed)
    }
}

async fn own(servers: Arc<dyn Servers>, url: String) -> Result<Box<dyn TestStore>> {
    let store = Store::open(&url).await?;
    // Of some versions a leader that was stopped ends leases, when it goes on, that are kept alive.
    let early = store.weaknesses().iter().any(|weakness| weakness.setting == "version");
    store.close().await?;
    Ok(Box::new(Own { servers, url, early }))
}

/// A cluster of its own, which ends with the run.
#[derive(Debug)]
struct Own {
    servers: Arc<dyn Servers>,
    url: String,
    early: bool,
}

#[async_trait]
impl TestStore for Own {
    async fn connect(&self) -> Result<Arc<dyn Claims>> {
        Ok(Store::open(&self.url).await?)
    }

    async fn connect_all(&self) -> Result<Stores> {
        Ok(stores(Store::open(&self.url).await?))
    }

    fn takeover(&self) -> Duration {
        TAKEOVER
    }

    fn url(&self) -> Option<String> {
        Some(self.url.clone())
    }

    fn early_under(&self) -> Vec<Fault> {
        if self.early { vec![Fault::ServerStop, Fault::LeaderStop, Fault::Partition] } else { Vec::new() }
    }

    fn servers(&self) -> Option<Arc<dyn Servers>> {
        Some(self.servers.clone())
    }
}
