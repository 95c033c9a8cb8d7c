//! A store of jobs with one bug planted in it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use coord_core::{
    FencingToken, Result,
    spi::{
        Wakeups,
        jobs::{
            DeadItem, ItemId, Jobs, Push, Pushed, QueueId, QueueStats, Receive, Received, Settled,
            Settlement, Word,
        },
    },
};

use super::broken::Bug;

/// What a store remembers for its bug.
#[derive(Debug, Default)]
pub(crate) struct State {
    pushes: Mutex<i32>,
    /// The token of the last delivery of each item.
    tokens: Mutex<HashMap<ItemId, FencingToken>>,
}

#[derive(Debug)]
struct Broken {
    inner: Arc<dyn Jobs>,
    bug: Bug,
    state: Arc<State>,
}

pub(crate) fn over(inner: Arc<dyn Jobs>, bug: Bug, state: Arc<State>) -> Arc<dyn Jobs> {
    Arc::new(Broken { inner, bug, state })
}

impl Broken {
    fn tokens(&self) -> MutexGuard<'_, HashMap<ItemId, FencingToken>> {
        self.state.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The how-manieth this is.
    fn count(&self) -> i32 {
        let mut pushes = self.state.pushes.lock().unwrap_or_else(PoisonError::into_inner);
        *pushes += 1;
        *pushes
    }

    /// Whether this is one of every three.
    fn third(&self) -> bool {
        self.count() % 3 == 0
    }
}

#[async_trait]
impl Jobs for Broken {
    async fn push(&self, push: &Push) -> Result<Pushed> {
        let mut twisted = push.clone();
        match self.bug {
            Bug::LosesPushes if self.third() => return Ok(Pushed::Done { new: push.items.len() as u64 }),
            Bug::DoublesPushes => {
                for item in &mut twisted.items {
                    item.id = ItemId::random();
                }
                self.inner.push(push).await?;
            }
            // The sound store knows priorities; the suite's are small.
            Bug::LastPushedFirst => {
                for item in &mut twisted.items {
                    item.priority = item.priority.saturating_mul(1_000_000).saturating_add(self.count());
                }
            }
            Bug::IgnoresGroups => twisted.items.iter_mut().for_each(|item| item.group = None),
            Bug::IgnoresCapacity => twisted.capacity = None,
            Bug::IgnoresItemPriority => twisted.items.iter_mut().for_each(|item| item.priority = 0),
            Bug::IgnoresDelays => twisted.items.iter_mut().for_each(|item| item.delay = Duration::ZERO),
            _ => {}
        }
        self.inner.push(&twisted).await
    }

    async fn receive(&self, receive: &Receive) -> Result<Received> {
        let mut twisted = receive.clone();
        match self.bug {
            Bug::IgnoresVisibility => twisted.visibility = Duration::from_millis(1),
            Bug::NeverBuries => twisted.max_attempts = None,
            Bug::ReceivesTwice => twisted.id = ItemId::random(),
            _ => {}
        }
        let received = self.inner.receive(&twisted).await?;
        self.tokens().extend(received.deliveries.iter().map(|delivered| (delivered.id, delivered.token)));
        Ok(received)
    }

    async fn settle(&self, queue: &QueueId, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        let mut twisted = settlements.to_vec();
        for said in &mut twisted {
            let last = self.tokens().get(&said.id).copied().unwrap_or(said.token);
            match (self.bug, &mut said.word) {
                (Bug::AcksWithoutToken, Word::Ack) | (Bug::NacksWithoutToken, Word::Nack { .. }) => {
                    said.token = last
                }
                (Bug::ExtendsWithoutToken, Word::Extend(_)) => said.token = last,
                (Bug::IgnoresVisibility, Word::Extend(visibility)) => *visibility = Duration::from_millis(1),
                (Bug::NeverBuries, Word::Nack { max_attempts, .. }) => *max_attempts = None,
                _ => {}
            }
        }
        self.inner.settle(queue, &twisted).await
    }

    async fn dead(&self, queue: &QueueId, after: Option<ItemId>, limit: u32) -> Result<Vec<DeadItem>> {
        self.inner.dead(queue, after, limit).await
    }

    async fn requeue(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64> {
        self.inner.requeue(queue, items).await
    }

    async fn drop_dead(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64> {
        self.inner.drop_dead(queue, items).await
    }

    async fn stats(&self, queue: &QueueId) -> Result<QueueStats> {
        self.inner.stats(queue).await
    }

    async fn purge(&self, queue: &QueueId) -> Result<u64> {
        self.inner.purge(queue).await
    }

    fn wakeups(&self, queue: &QueueId) -> Wakeups {
        self.inner.wakeups(queue)
    }
}
