//! On ZooKeeper: the bare driver, and the lock recipe that comes with it.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use zookeeper_client::{
    Acls, AddWatchMode, Client as Driver, CreateMode, CreateOptions, Error, EventType, LockOptions,
    LockPrefix, MultiReadResult, PersistentWatcher,
};

use super::{Client, Feed, Held};
use crate::Result;

const FOLDER: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());

async fn session(url: &str, ttl: Duration) -> Result<Driver> {
    let cluster = url.trim_start_matches("zk://");
    let (hosts, chroot) = cluster.find('/').map_or((cluster, ""), |at| cluster.split_at(at));
    let driver = Driver::connector().with_session_timeout(ttl).connect(hosts).await?;
    if chroot.is_empty() {
        return Ok(driver);
    }
    driver.mkdir(chroot, &FOLDER).await?;
    driver.chroot(chroot).map_err(|_| "the path in the URL is none".into())
}

/// Makes a folder; it may be there.
async fn folder(driver: &Driver, path: &str) -> Result<()> {
    Ok(driver.mkdir(path, &FOLDER).await?)
}

pub(super) struct Floor {
    driver: Driver,
    /// The folder that was made last.
    made: Mutex<String>,
}

impl Floor {
    pub(super) async fn connect(url: &str, ttl: Duration) -> Result<Self> {
        Ok(Self { driver: session(url, ttl).await?, made: Mutex::default() })
    }

    /// The folder of a service, made the first time.
    async fn folder(&self, name: &str) -> Result<String> {
        let path = format!("/floor/{name}");
        let mut made = self.made.lock().await;
        if *made != path {
            folder(&self.driver, &path).await?;
            made.clone_from(&path);
        }
        Ok(path)
    }

    async fn watching(&self, path: &str, read: bool) -> Result<Box<dyn Feed>> {
        folder(&self.driver, path).await?;
        let watcher = self.driver.watch(path, AddWatchMode::Persistent).await?;
        Ok(Box::new(Watching { driver: self.driver.clone(), path: path.into(), watcher, read }))
    }
}

#[async_trait]
impl Client for Floor {
    async fn acquire(&self, name: &str) -> Result<Box<dyn Held>> {
        // No folder for each name: one request to take, one to give back.
        let prefix = format!("{}/{name}-", self.folder("locks").await?);
        let sequential = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
        let (_, number) = self.driver.create(&prefix, b"", &sequential).await?;
        Ok(Box::new(Node { driver: self.driver.clone(), path: format!("{prefix}{number}") }))
    }

    async fn park(&self, name: &str) -> Result<Box<dyn Feed>> {
        self.watching(&format!("/floor/park-{name}"), false).await
    }

    async fn wake(&self, name: &str) -> Result<()> {
        self.driver.set_data(&format!("/floor/park-{name}"), b"go", None).await?;
        Ok(())
    }

    async fn put(&self, key: &str, value: Vec<u8>) -> Result<()> {
        self.driver.set_data(&format!("/floor/value-{key}"), &value, None).await?;
        Ok(())
    }

    async fn watch(&self, key: &str) -> Result<Box<dyn Feed>> {
        self.watching(&format!("/floor/value-{key}"), true).await
    }

    async fn register(&self, service: &str, id: &str, address: &str) -> Result<Box<dyn Held>> {
        let path = format!("{}/{id}", self.folder(service).await?);
        let ephemeral = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
        self.driver.create(&path, address.as_bytes(), &ephemeral).await?;
        Ok(Box::new(Node { driver: self.driver.clone(), path }))
    }

    /// The names, and then all data by one request.
    async fn discover(&self, service: &str) -> Result<usize> {
        let path = format!("/floor/{service}");
        let names = self.driver.list_children(&path).await?;
        let mut reader = self.driver.new_multi_reader();
        for name in &names {
            reader.add_get_data(&format!("{path}/{name}"))?;
        }
        let read = reader.commit().await?;
        Ok(read.iter().filter(|result| matches!(result, MultiReadResult::Data { .. })).count())
    }
}

struct Node {
    driver: Driver,
    path: String,
}

#[async_trait]
impl Held for Node {
    async fn release(self: Box<Self>) -> Result<()> {
        Ok(self.driver.delete(&self.path, None).await?)
    }
}

/// Changes of a node's data, which are read where that is asked for.
struct Watching {
    driver: Driver,
    path: String,
    watcher: PersistentWatcher,
    read: bool,
}

#[async_trait]
impl Feed for Watching {
    async fn next(&mut self) -> Result<Vec<u8>> {
        loop {
            let event = self.watcher.changed().await;
            match event.event_type {
                EventType::NodeDataChanged if self.read => {
                    return Ok(self.driver.get_data(&self.path).await?.0);
                }
                EventType::NodeDataChanged => return Ok(Vec::new()),
                EventType::Session if event.session_state.is_terminated() => {
                    return Err(Error::SessionExpired.into());
                }
                _ => {}
            }
        }
    }
}

/// The lock recipe of the driver, in the layout of Curator's `InterProcessMutex`.
pub(super) struct Recipe(Driver);

impl Recipe {
    pub(super) async fn connect(url: &str, ttl: Duration) -> Result<Self> {
        let driver = session(url, ttl).await?;
        folder(&driver, "/recipe").await?;
        Ok(Self(driver))
    }
}

#[async_trait]
impl Client for Recipe {
    async fn acquire(&self, name: &str) -> Result<Box<dyn Held>> {
        let folder = format!("/recipe/{name}");
        let options = LockOptions::new(Acls::anyone_all()).with_ancestor_options(FOLDER)?;
        let lock = self.0.lock(LockPrefix::new_curator(&folder, "lock-")?, b"", options).await?;
        let path = lock.lock_path().to_owned();
        // Dropped, it would be released in the background. It is released as anybody can await.
        std::mem::forget(lock);
        Ok(Box::new(Node { driver: self.0.clone(), path }))
    }
}
