//! One server, which each case has for itself as long as it runs.
//!
//! The layout that is shared with other clients cannot pass all of it: there, a lock and an election of one name are the same
//! key, and so exclude each other. What it does is in `tests/interop.rs`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use coord_conformance::{
    Backend, Servers, Stores, TestStore,
    servers::{Etcd, EtcdOptions},
};
use coord_core::{Result, spi::Claims};
use coord_etcd::Store;

use super::{
    common::{failed, keys, no_server, stores},
    pool::{Pool, Taken},
};

/// It looks for leases that ended twice a second, and ends a bounded number of them at a time.
pub(super) const TAKEOVER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct OnEtcd;

#[async_trait]
impl Backend for OnEtcd {
    fn name(&self) -> &str {
        "etcd"
    }

    async fn open(&self) -> Result<Box<dyn TestStore>> {
        static POOL: Pool<Etcd> = Pool::new();
        let start = || Etcd::start(&EtcdOptions::default().with_own()).map_err(no_server);
        Ok(Box::new(Fresh(POOL.take(start, Etcd::url).await?)))
    }

    async fn open_for_faults(&self) -> Result<Box<dyn TestStore>> {
        let server = Etcd::start(&EtcdOptions::default().with_own()).map_err(no_server)?;
        let url = server.url();
        Ok(Box::new(Own(Arc::new(Mutex::new(server)), url)))
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Claims>> {
        Ok(Store::open(url).await?)
    }

    async fn connect_all(&self, url: &str) -> Result<Stores> {
        Ok(stores(Store::open(url).await?))
    }
}

/// A server that no other case uses now.
#[derive(Debug)]
struct Fresh(Taken<Etcd>);

#[async_trait]
impl TestStore for Fresh {
    async fn connect(&self) -> Result<Arc<dyn Claims>> {
        Ok(Store::open(&self.0.url).await?)
    }

    async fn connect_all(&self) -> Result<Stores> {
        Ok(stores(Store::open(&self.0.url).await?))
    }

    fn takeover(&self) -> Duration {
        TAKEOVER
    }

    fn url(&self) -> Option<String> {
        Some(self.0.url.clone())
    }

    /// All keys.
    async fn size(&self) -> Result<Option<u64>> {
        keys(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).map(Some).map_err(failed)
    }
}

/// A server of its own, which ends with the run.
#[derive(Debug)]
struct Own(Arc<Mutex<Etcd>>, String);

#[async_trait]
impl TestStore for Own {
    async fn connect(&self) -> Result<Arc<dyn Claims>> {
        Ok(Store::open(&self.1).await?)
    }

    async fn connect_all(&self) -> Result<Stores> {
        Ok(stores(Store::open(&self.1).await?))
    }

    fn takeover(&self) -> Duration {
        TAKEOVER
    }

    fn url(&self) -> Option<String> {
        Some(self.1.clone())
    }

    fn servers(&self) -> Option<Arc<dyn Servers>> {
        Some(self.0.clone())
    }

    /// All keys.
    async fn size(&self) -> Result<Option<u64>> {
        keys(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).map(Some).map_err(failed)
    }
}
