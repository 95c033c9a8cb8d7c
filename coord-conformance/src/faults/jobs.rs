//! A store of jobs behind faults.

use std::sync::Arc;

use async_trait::async_trait;
use coord_core::{
    Result,
    spi::{
        Wakeups,
        jobs::{
            DeadItem, ItemId, Jobs, Push, Pushed, QueueId, QueueStats, Receive, Received, Settled, Settlement,
        },
    },
};

use super::{Faults, Operation};

#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn Jobs>,
    faults: Arc<Faults>,
}

pub(super) fn over(inner: Arc<dyn Jobs>, faults: Arc<Faults>) -> Arc<dyn Jobs> {
    Arc::new(Faulty { inner, faults })
}

#[async_trait]
impl Jobs for Faulty {
    async fn push(&self, push: &Push) -> Result<Pushed> {
        self.faults.pass(Operation::Push, self.inner.push(push)).await
    }

    async fn receive(&self, receive: &Receive) -> Result<Received> {
        self.faults.pass(Operation::Receive, self.inner.receive(receive)).await
    }

    async fn settle(&self, queue: &QueueId, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        self.faults.pass(Operation::Settle, self.inner.settle(queue, settlements)).await
    }

    async fn dead(&self, queue: &QueueId, after: Option<ItemId>, limit: u32) -> Result<Vec<DeadItem>> {
        self.faults.pass(Operation::OtherJobs, self.inner.dead(queue, after, limit)).await
    }

    async fn requeue(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64> {
        self.faults.pass(Operation::OtherJobs, self.inner.requeue(queue, items)).await
    }

    async fn drop_dead(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64> {
        self.faults.pass(Operation::OtherJobs, self.inner.drop_dead(queue, items)).await
    }

    async fn stats(&self, queue: &QueueId) -> Result<QueueStats> {
        self.faults.pass(Operation::OtherJobs, self.inner.stats(queue)).await
    }

    async fn purge(&self, queue: &QueueId) -> Result<u64> {
        self.faults.pass(Operation::OtherJobs, self.inner.purge(queue)).await
    }

    fn wakeups(&self, queue: &QueueId) -> Wakeups {
        self.faults.clone().hints(self.inner.wakeups(queue))
    }
}
