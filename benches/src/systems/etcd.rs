//! On etcd: the bare driver, and etcd's own service for locks.

use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Client as Driver, Compare, CompareOp, EventType, GetOptions, LockOptions, PutOptions, Txn, TxnOp,
    WatchStream,
};
use tokio::task::AbortHandle;

use super::{Client, Feed, Held};
use crate::Result;

/// A connection with a lease that is kept alive.
struct Session {
    driver: Driver,
    lease: i64,
    keeping: AbortHandle,
}

impl Session {
    async fn connect(url: &str, ttl: Duration) -> Result<Self> {
        let endpoint = url.trim_start_matches("etcd://");
        let mut driver = Driver::connect([endpoint], None).await?;
        let lease = driver.lease_grant(ttl.as_secs().max(1) as i64, None).await?.id();
        let (mut keeper, mut answers) = driver.lease_keep_alive(lease).await?;
        let keeping = tokio::spawn(async move {
            // Without an answer the lease ends.
            while keeper.keep_alive().await.is_ok() && matches!(answers.message().await, Ok(Some(_))) {
                tokio::time::sleep(ttl / 3).await;
            }
        });
        Ok(Self { driver, lease, keeping: keeping.abort_handle() })
    }

    async fn close(&self) -> Result<()> {
        self.keeping.abort();
        self.driver.clone().lease_revoke(self.lease).await?;
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

pub(super) struct Floor(Session);

impl Floor {
    pub(super) async fn connect(url: &str, ttl: Duration) -> Result<Self> {
        Ok(Self(Session::connect(url, ttl).await?))
    }

    fn leased(&self) -> PutOptions {
        PutOptions::new().with_lease(self.0.lease)
    }

    async fn watching(&self, key: String) -> Result<Box<dyn Feed>> {
        let mut stream = self.0.driver.clone().watch(key, None).await?;
        match stream.message().await? {
            Some(message) if message.created() => Ok(Box::new(Watching { stream, ready: Vec::new() })),
            other => Err(format!("a watch begins with {other:?}").into()),
        }
    }
}

#[async_trait]
impl Client for Floor {
    async fn acquire(&self, name: &str) -> Result<Box<dyn Held>> {
        let (mut driver, key) = (self.0.driver.clone(), format!("floor/{name}"));
        let absent = Compare::create_revision(key.as_str(), CompareOp::Equal, 0);
        let put = TxnOp::put(key.as_str(), "", Some(self.leased()));
        if !driver.txn(Txn::new().when([absent]).and_then([put])).await?.succeeded() {
            return Err("a floor does not wait".into());
        }
        Ok(Box::new(Key { driver, key }))
    }

    async fn park(&self, name: &str) -> Result<Box<dyn Feed>> {
        self.watching(format!("floor/{name}")).await
    }

    async fn wake(&self, name: &str) -> Result<()> {
        self.0.driver.clone().put(format!("floor/{name}"), "go", None).await?;
        Ok(())
    }

    async fn put(&self, key: &str, value: Vec<u8>) -> Result<()> {
        self.0.driver.clone().put(format!("floor/{key}"), value, None).await?;
        Ok(())
    }

    async fn watch(&self, key: &str) -> Result<Box<dyn Feed>> {
        self.park(key).await
    }

    async fn register(&self, service: &str, id: &str, address: &str) -> Result<Box<dyn Held>> {
        let (mut driver, key) = (self.0.driver.clone(), format!("floor/{service}/{id}"));
        driver.put(key.as_str(), address, Some(self.leased())).await?;
        Ok(Box::new(Key { driver, key }))
    }

    async fn discover(&self, service: &str) -> Result<usize> {
        let prefix = GetOptions::new().with_prefix();
        let mut driver = self.0.driver.clone();
        Ok(driver.get(format!("floor/{service}/"), Some(prefix)).await?.kvs().len())
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}

struct Key {
    driver: Driver,
    key: String,
}

#[async_trait]
impl Held for Key {
    async fn release(mut self: Box<Self>) -> Result<()> {
        self.driver.delete(self.key.as_str(), None).await?;
        Ok(())
    }
}

/// The values that a key gets.
struct Watching {
    stream: WatchStream,
    /// The last one is the next.
    ready: Vec<Vec<u8>>,
}

#[async_trait]
impl Feed for Watching {
    async fn next(&mut self) -> Result<Vec<u8>> {
        loop {
            if let Some(value) = self.ready.pop() {
                return Ok(value);
            }
            let message = self.stream.message().await?.ok_or("the watch has ended")?;
            let puts = message.events().iter().filter(|event| event.event_type() == EventType::Put);
            self.ready =
                puts.filter_map(|event| event.kv()).map(|pair| pair.value().to_vec()).rev().collect();
        }
    }
}

/// Locks by etcd's own service for them.
pub(super) struct LockRpc(Session);

impl LockRpc {
    pub(super) async fn connect(url: &str, ttl: Duration) -> Result<Self> {
        Ok(Self(Session::connect(url, ttl).await?))
    }
}

#[async_trait]
impl Client for LockRpc {
    async fn acquire(&self, name: &str) -> Result<Box<dyn Held>> {
        let (mut driver, options) = (self.0.driver.clone(), LockOptions::new().with_lease(self.0.lease));
        let key = driver.lock(format!("rpc/{name}"), Some(options)).await?.key().to_vec();
        Ok(Box::new(Locked { driver, key }))
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}

struct Locked {
    driver: Driver,
    key: Vec<u8>,
}

#[async_trait]
impl Held for Locked {
    async fn release(mut self: Box<Self>) -> Result<()> {
        self.driver.unlock(self.key).await?;
        Ok(())
    }
}
