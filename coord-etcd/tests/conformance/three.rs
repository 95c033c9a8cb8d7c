//! Three servers, which each case has for itself.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use coord_conformance::{
    Backend, Servers, Stores, TestStore,
    servers::{EtcdCluster, EtcdOptions},
};
use coord_core::{Result, spi::Claims};
use coord_etcd::Store;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::common::{failed, keys, no_server, stores};

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
        let cluster = EtcdCluster::start(&EtcdOptions::default()).map_err(no_server)?;
        let url = cluster.url();
        Ok(Box::new(Fresh { cluster: Arc::new(Mutex::new(cluster)), url, _room: room }))
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Claims>> {
        Ok(Store::open(url).await?)
    }

    async fn connect_all(&self, url: &str) -> Result<Stores> {
        Ok(stores(Store::open(url).await?))
    }
}

/// A cluster of its own, which ends with the case. Its clients use all of its members.
#[derive(Debug)]
struct Fresh {
    cluster: Arc<Mutex<EtcdCluster>>,
    url: String,
    _room: SemaphorePermit<'static>,
}

#[async_trait]
impl TestStore for Fresh {
    async fn connect(&self) -> Result<Arc<dyn Claims>> {
        Ok(Store::open(&self.url).await?)
    }

    async fn connect_all(&self) -> Result<Stores> {
        Ok(stores(Store::open(&self.url).await?))
    }

    /// It looks for leases that ended twice a second, and ends a bounded number of them at a time.
    fn takeover(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn url(&self) -> Option<String> {
        Some(self.url.clone())
    }

    fn servers(&self) -> Option<Arc<dyn Servers>> {
        Some(self.cluster.clone())
    }

    /// All keys.
    async fn size(&self) -> Result<Option<u64>> {
        let cluster = self.cluster.lock().unwrap_or_else(PoisonError::into_inner);
        keys(&cluster.members()[0]).map(Some).map_err(failed)
    }
}
