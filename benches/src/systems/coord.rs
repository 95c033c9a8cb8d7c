//! This toolkit, as its users call it.

use std::{collections::VecDeque, time::Duration};

use async_trait::async_trait;
use coord_core::{
    CampaignOptions, Condition, ConfigEvent, ConfigStore, Coordinator, Delivery, Election, Guard, Instance,
    Item, Leadership, Lock, LockOptions, Name, PushOptions, Queue, ReceiveOptions, RegisterOptions,
    Registration, Registry, RegistryEvent, Watch, memory,
};

use super::{Client, Consumer, Feed, Held};
use crate::{Result, backend::Backend};

pub(super) struct Coord {
    coordinator: Coordinator,
    ttl: Duration,
}

impl Coord {
    pub(super) async fn connect(
        backend: Backend,
        url: &str,
        memory: &memory::Store,
        ttl: Duration,
    ) -> Result<Self> {
        let coordinator = match backend {
            Backend::Memory => memory.client(),
            Backend::Sqlite | Backend::Postgres => coord_sql::connect(url).await?,
            Backend::Redis => coord_redis::connect(url).await?,
            Backend::Etcd => coord_etcd::connect(url).await?,
            Backend::ZooKeeper => coord_zk::connect(url).await?,
        };
        Ok(Self { coordinator, ttl })
    }
}

#[async_trait]
impl Client for Coord {
    async fn acquire(&self, name: &str) -> Result<Box<dyn Held>> {
        let options = LockOptions::default().with_ttl(self.ttl);
        Ok(Box::new(self.coordinator.acquire(&Name::new(name)?, &options).await?))
    }

    async fn campaign(&self, name: &str, id: &str) -> Result<Box<dyn Held>> {
        let options = CampaignOptions::default().with_ttl(self.ttl).with_id(id);
        Ok(Box::new(self.coordinator.campaign(&Name::new(name)?, &options).await?))
    }

    async fn push(&self, queue: &str, item: Vec<u8>) -> Result<()> {
        let items = vec![Item::new(item)];
        self.coordinator.push(&Name::new(queue)?, items, &PushOptions::default()).await?;
        Ok(())
    }

    async fn consumer(&self, queue: &str, batch: u32) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(Hands {
            coordinator: self.coordinator.clone(),
            queue: Name::new(queue)?,
            options: ReceiveOptions::default().with_visibility(self.ttl).with_batch(batch),
            waiting: VecDeque::new(),
            current: None,
        }))
    }

    async fn put(&self, key: &str, value: Vec<u8>) -> Result<()> {
        ConfigStore::put(&self.coordinator, &Name::new(key)?, value, Condition::Any).await?;
        Ok(())
    }

    async fn watch(&self, key: &str) -> Result<Box<dyn Feed>> {
        let mut watch = ConfigStore::watch(&self.coordinator, &Name::new(key)?);
        match watch.next().await {
            Some(Ok(ConfigEvent::Snapshot(_))) => Ok(Box::new(Values(watch))),
            other => Err(format!("a watch begins with {other:?}").into()),
        }
    }

    async fn register(&self, service: &str, id: &str, address: &str) -> Result<Box<dyn Held>> {
        let options = RegisterOptions::default().with_ttl(self.ttl);
        let instance = Instance::new(id, address);
        Ok(Box::new(Registry::register(&self.coordinator, &Name::new(service)?, instance, &options).await?))
    }

    async fn discover(&self, service: &str) -> Result<usize> {
        Ok(self.coordinator.instances(&Name::new(service)?).await?.len())
    }

    async fn follow(&self, service: &str) -> Result<Box<dyn Feed>> {
        let mut watch = self.coordinator.watch_instances(&Name::new(service)?);
        match watch.next().await {
            Some(Ok(RegistryEvent::Snapshot(_))) => Ok(Box::new(Instances(watch))),
            other => Err(format!("a watch begins with {other:?}").into()),
        }
    }

    async fn close(&self) -> Result<()> {
        Ok(self.coordinator.shutdown().await?)
    }
}

#[async_trait]
impl Held for Guard {
    async fn lost(&self) {
        Guard::lost(self).await;
    }

    async fn release(self: Box<Self>) -> Result<()> {
        Ok(Guard::release(*self).await?)
    }
}

#[async_trait]
impl Held for Leadership {
    async fn lost(&self) {
        Leadership::lost(self).await;
    }

    async fn release(self: Box<Self>) -> Result<()> {
        Ok(self.resign().await?)
    }
}

#[async_trait]
impl Held for Registration {
    async fn release(self: Box<Self>) -> Result<()> {
        Ok(self.deregister().await?)
    }
}

/// A consumer that receives up to a batch at once and acknowledges one after the other.
struct Hands {
    coordinator: Coordinator,
    queue: Name,
    options: ReceiveOptions,
    waiting: VecDeque<Delivery>,
    current: Option<Delivery>,
}

#[async_trait]
impl Consumer for Hands {
    async fn next(&mut self) -> Result<Vec<u8>> {
        if self.waiting.is_empty() {
            self.waiting = self.coordinator.receive(&self.queue, &self.options).await?.into();
        }
        let delivery = self.waiting.pop_front().ok_or("a receive without items")?;
        let payload = delivery.payload().to_vec();
        self.current = Some(delivery);
        Ok(payload)
    }

    async fn done(&mut self) -> Result<()> {
        Ok(self.current.take().ok_or("nothing is in hand")?.ack().await?)
    }
}

struct Values(Watch<ConfigEvent>);

#[async_trait]
impl Feed for Values {
    async fn next(&mut self) -> Result<Vec<u8>> {
        match self.0.next().await {
            Some(Ok(ConfigEvent::Put(entry))) => Ok(entry.value),
            Some(Err(error)) => Err(error.into()),
            other => Err(format!("a value was expected, not {other:?}").into()),
        }
    }
}

struct Instances(Watch<RegistryEvent>);

#[async_trait]
impl Feed for Instances {
    async fn next(&mut self) -> Result<Vec<u8>> {
        loop {
            match self.0.next().await {
                Some(Ok(RegistryEvent::Joined(member))) => return Ok(member.instance.id.into_bytes()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Err("the watch has ended".into()),
            }
        }
    }
}
