//! On Redis: the bare driver, rslock, and queues of lists and of streams.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use redis::{
    AsyncCommands, AsyncConnectionConfig, Client as Driver, Direction, Script,
    aio::{MultiplexedConnection, PubSub},
};
use rslock::LockManager;

use super::{Client, Consumer, Feed, Held};
use crate::Result;

/// A key that is set if it is not there, and a number that grows: the cheapest lock with a token.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return redis.call('INCR', KEYS[2]) end return 0",
    )
});

static GIVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0",
    )
});

/// One connection; what blocks on the server gets one of its own.
async fn connection(driver: &Driver) -> Result<MultiplexedConnection> {
    let patient = AsyncConnectionConfig::new().set_response_timeout(None);
    Ok(driver.get_multiplexed_async_connection_with_config(&patient).await?)
}

pub(super) struct Floor {
    driver: Driver,
    connection: MultiplexedConnection,
    ttl: Duration,
}

impl Floor {
    pub(super) async fn connect(url: &str, ttl: Duration) -> Result<Self> {
        let driver = Driver::open(url)?;
        let connection = connection(&driver).await?;
        Ok(Self { driver, connection, ttl })
    }
}

#[async_trait]
impl Client for Floor {
    async fn acquire(&self, name: &str) -> Result<Box<dyn Held>> {
        let (mut connection, owner) = (self.connection.clone(), fastrand::u64(..));
        let (key, counter) = (format!("floor:{{{name}}}"), format!("floor:{{{name}}}:token"));
        let token: u64 = TAKE
            .key(&key)
            .key(counter)
            .arg(owner)
            .arg(self.ttl.as_millis() as u64)
            .invoke_async(&mut connection)
            .await?;
        if token == 0 {
            return Err("a floor does not wait".into());
        }
        Ok(Box::new(Taken { connection, key, owner }))
    }

    async fn park(&self, name: &str) -> Result<Box<dyn Feed>> {
        Ok(Box::new(Popping { connection: connection(&self.driver).await?, key: format!("floor:{name}") }))
    }

    async fn wake(&self, name: &str) -> Result<()> {
        Ok(self.connection.clone().rpush(format!("floor:{name}"), b"go").await?)
    }

    async fn put(&self, key: &str, value: Vec<u8>) -> Result<()> {
        let mut both = redis::pipe();
        both.set(format!("floor:{key}"), &value).ignore().publish(format!("floor:{key}"), &value).ignore();
        Ok(both.query_async(&mut self.connection.clone()).await?)
    }

    async fn watch(&self, key: &str) -> Result<Box<dyn Feed>> {
        let mut messages = self.driver.get_async_pubsub().await?;
        messages.subscribe(format!("floor:{key}")).await?;
        Ok(Box::new(Messages(messages)))
    }

    async fn register(&self, service: &str, id: &str, address: &str) -> Result<Box<dyn Held>> {
        let (mut connection, key) = (self.connection.clone(), format!("floor:{service}"));
        let () = connection.hset(&key, id, address).await?;
        Ok(Box::new(Listed { connection, key, id: id.into() }))
    }

    async fn discover(&self, service: &str) -> Result<usize> {
        let all: Vec<(String, String)> = self.connection.clone().hgetall(format!("floor:{service}")).await?;
        Ok(all.len())
    }
}

struct Taken {
    connection: MultiplexedConnection,
    key: String,
    owner: u64,
}

#[async_trait]
impl Held for Taken {
    async fn release(mut self: Box<Self>) -> Result<()> {
        let gone: u64 = GIVE.key(&self.key).arg(self.owner).invoke_async(&mut self.connection).await?;
        if gone == 1 { Ok(()) } else { Err("the key was somebody else's".into()) }
    }
}

struct Listed {
    connection: MultiplexedConnection,
    key: String,
    id: String,
}

#[async_trait]
impl Held for Listed {
    async fn release(mut self: Box<Self>) -> Result<()> {
        Ok(self.connection.hdel(&self.key, &self.id).await?)
    }
}

struct Popping {
    connection: MultiplexedConnection,
    key: String,
}

#[async_trait]
impl Feed for Popping {
    async fn next(&mut self) -> Result<Vec<u8>> {
        let (_, item): (String, Vec<u8>) = self.connection.blpop(&self.key, 0.0).await?;
        Ok(item)
    }
}

struct Messages(PubSub);

#[async_trait]
impl Feed for Messages {
    async fn next(&mut self) -> Result<Vec<u8>> {
        let message = self.0.on_message().next().await.ok_or("the subscription has ended")?;
        Ok(message.get_payload()?)
    }
}

/// Locks of the crate `rslock`, with its own settings: 3 tries with pauses of up to 200 ms, again and again.
pub(super) struct RsLock {
    manager: LockManager,
    ttl: Duration,
}

impl RsLock {
    pub(super) fn new(url: &str, ttl: Duration) -> Self {
        Self { manager: LockManager::new(vec![url]), ttl }
    }
}

#[async_trait]
impl Client for RsLock {
    async fn acquire(&self, name: &str) -> Result<Box<dyn Held>> {
        Ok(Box::new(self.manager.acquire_no_guard(format!("rslock:{name}").as_bytes(), self.ttl).await?))
    }

    async fn campaign(&self, name: &str, _id: &str) -> Result<Box<dyn Held>> {
        let (manager, ttl) = (self.manager.clone(), self.ttl);
        let lock = Arc::new(manager.acquire_no_guard(format!("rslock:{name}").as_bytes(), ttl).await?);
        let kept = lock.clone();
        let keeping = tokio::spawn(async move {
            loop {
                tokio::time::sleep(ttl / 3).await;
                // What cannot be prolonged ends with its TTL.
                let _ = manager.extend(&kept, ttl).await;
            }
        });
        Ok(Box::new(Kept { lock, keeping: keeping.abort_handle() }))
    }
}

#[async_trait]
impl Held for rslock::Lock {
    async fn release(self: Box<Self>) -> Result<()> {
        // It does not tell whether that worked.
        rslock::Lock::release(*self).await;
        Ok(())
    }
}

struct Kept {
    lock: Arc<rslock::Lock>,
    keeping: tokio::task::AbortHandle,
}

#[async_trait]
impl Held for Kept {
    async fn release(self: Box<Self>) -> Result<()> {
        self.keeping.abort();
        self.lock.lock_manager.unlock(&self.lock).await;
        Ok(())
    }
}

/// A queue of two lists: an item in hand stands in the consumer's own.
pub(super) struct Lists {
    driver: Driver,
    connection: MultiplexedConnection,
}

impl Lists {
    pub(super) async fn connect(url: &str) -> Result<Self> {
        let driver = Driver::open(url)?;
        let connection = connection(&driver).await?;
        Ok(Self { driver, connection })
    }
}

#[async_trait]
impl Client for Lists {
    async fn push(&self, queue: &str, item: Vec<u8>) -> Result<()> {
        Ok(self.connection.clone().lpush(format!("list:{queue}"), item).await?)
    }

    async fn consumer(&self, queue: &str, _batch: u32) -> Result<Box<dyn Consumer>> {
        let connection = connection(&self.driver).await?;
        let hand = format!("list:{queue}:{:016x}", fastrand::u64(..));
        Ok(Box::new(Moving { connection, queue: format!("list:{queue}"), hand, item: Vec::new() }))
    }
}

struct Moving {
    connection: MultiplexedConnection,
    queue: String,
    hand: String,
    item: Vec<u8>,
}

#[async_trait]
impl Consumer for Moving {
    async fn next(&mut self) -> Result<Vec<u8>> {
        let (from, to) = (Direction::Right, Direction::Left);
        self.item = self.connection.blmove(&self.queue, &self.hand, from, to, 0.0).await?;
        Ok(self.item.clone())
    }

    async fn done(&mut self) -> Result<()> {
        let count: usize = self.connection.lrem(&self.hand, 1, &self.item).await?;
        if count == 1 { Ok(()) } else { Err("the item was not in hand".into()) }
    }
}

/// A queue by a stream with one group of consumers.
pub(super) struct Streams {
    driver: Driver,
    connection: MultiplexedConnection,
}

impl Streams {
    pub(super) async fn connect(url: &str) -> Result<Self> {
        let driver = Driver::open(url)?;
        let connection = connection(&driver).await?;
        Ok(Self { driver, connection })
    }
}

#[async_trait]
impl Client for Streams {
    async fn push(&self, queue: &str, item: Vec<u8>) -> Result<()> {
        let mut add = redis::cmd("XADD");
        add.arg(format!("stream:{queue}")).arg("*").arg("item").arg(item);
        Ok(add.query_async(&mut self.connection.clone()).await?)
    }

    async fn consumer(&self, queue: &str, batch: u32) -> Result<Box<dyn Consumer>> {
        let (mut connection, key) = (connection(&self.driver).await?, format!("stream:{queue}"));
        // Whoever comes first makes the group.
        let mut make = redis::cmd("XGROUP");
        make.arg("CREATE").arg(&key).arg("group").arg("0").arg("MKSTREAM");
        let made: redis::RedisResult<()> = make.query_async(&mut connection).await;
        if let Err(error) = made
            && error.code() != Some("BUSYGROUP")
        {
            return Err(error.into());
        }
        let name = format!("{:016x}", fastrand::u64(..));
        Ok(Box::new(Reading { connection, key, name, batch, waiting: Vec::new(), current: String::new() }))
    }
}

/// Entries of one stream: its key, and of each entry the id, and its one field with its value.
type Entries = Vec<(String, Vec<(String, (String, Vec<u8>))>)>;

struct Reading {
    connection: MultiplexedConnection,
    key: String,
    name: String,
    batch: u32,
    /// The last one is the next.
    waiting: Vec<(String, Vec<u8>)>,
    current: String,
}

#[async_trait]
impl Consumer for Reading {
    async fn next(&mut self) -> Result<Vec<u8>> {
        if self.waiting.is_empty() {
            let mut read = redis::cmd("XREADGROUP");
            read.arg("GROUP").arg("group").arg(&self.name).arg("COUNT").arg(self.batch);
            read.arg("BLOCK").arg(0).arg("STREAMS").arg(&self.key).arg(">");
            let found: Entries = read.query_async(&mut self.connection).await?;
            let entries = found.into_iter().flat_map(|(_, entries)| entries);
            self.waiting = entries.map(|(id, (_, item))| (id, item)).collect();
            self.waiting.reverse();
        }
        let (id, item) = self.waiting.pop().ok_or("a read without entries")?;
        self.current = id;
        Ok(item)
    }

    async fn done(&mut self) -> Result<()> {
        let mut both = redis::pipe();
        both.cmd("XACK").arg(&self.key).arg("group").arg(&self.current).ignore();
        both.cmd("XDEL").arg(&self.key).arg(&self.current).ignore();
        Ok(both.query_async(&mut self.connection).await?)
    }
}
