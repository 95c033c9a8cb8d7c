//! Jobs in memory.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;

use super::{Client, Topic, next};
use crate::{
    FencingToken, Result,
    clock::{self, Moment},
    spi::{
        Wakeups,
        jobs::{
            DeadItem, Delivered, ItemId, Jobs, NewItem, Push, Pushed, QueueId, QueueStats, Receive, Received,
            Settled, Settlement, Word,
        },
    },
};

/// How long items that are done are remembered, so that a push or an acknowledgement can be sent again.
const MEMORY: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(super) struct Line {
    /// In the order of their commits.
    items: Vec<Item>,
    /// In the order of their deaths.
    dead: Vec<DeadItem>,
    /// The token of the word by which an item died; none for one that died of a lost lease.
    buried: HashMap<ItemId, FencingToken>,
    /// Items that were acknowledged, with the token, or dropped; until when they are remembered.
    gone: HashMap<ItemId, (Option<FencingToken>, Moment)>,
}

#[derive(Debug)]
struct Item {
    item: NewItem,
    pushed: SystemTime,
    ready: Moment,
    attempts: u32,
    lease: Option<Lease>,
    /// The token of the delivery that was given back last.
    returned: Option<FencingToken>,
}

#[derive(Debug)]
struct Lease {
    token: FencingToken,
    receive: ItemId,
    until: Moment,
}

impl Item {
    fn is_spent(&self, max_attempts: Option<u32>) -> bool {
        max_attempts.is_some_and(|max| self.attempts >= max)
    }

    fn delivery(&self, token: FencingToken) -> Delivered {
        Delivered {
            id: self.item.id,
            token,
            attempt: self.attempts,
            payload: self.item.payload.clone(),
            priority: self.item.priority,
            group: self.item.group.clone(),
            pushed: self.pushed,
        }
    }
}

impl Line {
    /// Ends leases that have run out, and forgets what is long gone.
    fn settle(&mut self, now: Moment) {
        for item in &mut self.items {
            item.lease.take_if(|lease| lease.until <= now);
        }
        self.gone.retain(|_, (_, until)| *until > now);
    }

    fn knows(&self, id: ItemId) -> bool {
        self.gone.contains_key(&id)
            || self.items.iter().any(|item| item.item.id == id)
            || self.dead.iter().any(|dead| dead.id == id)
    }

    fn push(&mut self, push: &Push, now: Moment) -> Pushed {
        let mut ids = HashSet::new();
        let new: Vec<_> =
            push.items.iter().filter(|item| ids.insert(item.id) && !self.knows(item.id)).collect();
        let room = push.capacity.map(|capacity| capacity.saturating_sub(self.items.len() as u64));
        if room.is_some_and(|room| room < new.len() as u64) {
            return Pushed::Full;
        }
        let count = new.len() as u64;
        for item in new {
            let (pushed, ready) = (clock::wall(), now.after(item.delay));
            let item = item.clone();
            self.items.push(Item { item, pushed, ready, attempts: 0, lease: None, returned: None });
        }
        Pushed::Done { new: count }
    }

    fn bury(&mut self, at: usize) {
        let Item { item, attempts, .. } = self.items.remove(at);
        let died = clock::wall();
        self.dead.push(DeadItem {
            id: item.id,
            attempts,
            payload: item.payload,
            priority: item.priority,
            group: item.group,
            died,
        });
    }

    /// Items that come back for the last time die when somebody would get them again.
    fn bury_spent(&mut self, max_attempts: Option<u32>) {
        while let Some(at) =
            self.items.iter().position(|item| item.lease.is_none() && item.is_spent(max_attempts))
        {
            self.bury(at);
        }
    }

    /// The places of the items that nobody has in hand and that are not behind another one of their group.
    fn heads(&self) -> Vec<usize> {
        let mut groups = HashSet::new();
        let mut heads = Vec::new();
        for (at, item) in self.items.iter().enumerate() {
            let first = item.item.group.as_ref().is_none_or(|group| groups.insert(group.clone()));
            if first && item.lease.is_none() {
                heads.push(at);
            }
        }
        heads
    }

    fn receive(
        &mut self,
        receive: &Receive,
        now: Moment,
        mut token: impl FnMut() -> FencingToken,
    ) -> Received {
        let mine = |item: &Item| {
            item.lease.as_ref().filter(|lease| lease.receive == receive.id).map(|lease| lease.token)
        };
        let again: Vec<_> = self.items.iter().filter_map(|item| Some(item.delivery(mine(item)?))).collect();
        if !again.is_empty() {
            return Received { deliveries: again, look_again_in: None };
        }
        self.bury_spent(receive.max_attempts);
        let mut deliveries = Vec::new();
        while deliveries.len() < receive.limit as usize {
            let ready = self.heads().into_iter().filter(|at| self.items[*at].ready <= now);
            let Some(at) = ready.min_by_key(|at| (Reverse(self.items[*at].item.priority), *at)) else {
                break;
            };
            let item = &mut self.items[at];
            let token = token();
            item.attempts += 1;
            item.lease = Some(Lease { token, receive: receive.id, until: now.after(receive.visibility) });
            deliveries.push(item.delivery(token));
        }
        let leases = self.items.iter().filter_map(|item| item.lease.as_ref()).map(|lease| lease.until);
        let next = self.heads().into_iter().map(|at| self.items[at].ready).chain(leases).min();
        let look_again_in =
            next.filter(|_| deliveries.is_empty()).map(|next| next.since(now) + Duration::from_millis(1));
        Received { deliveries, look_again_in }
    }

    fn say(&mut self, said: &Settlement, now: Moment) -> Settled {
        let Some(at) = self.items.iter().position(|item| item.item.id == said.id) else {
            let acknowledged = self.gone.get(&said.id).is_some_and(|(token, _)| *token == Some(said.token));
            let buried =
                matches!(said.word, Word::Nack { .. }) && self.buried.get(&said.id) == Some(&said.token);
            return if (acknowledged && said.word == Word::Ack) || buried {
                Settled::Done
            } else {
                Settled::Stale
            };
        };
        let item = &mut self.items[at];
        let Some(lease) = item.lease.as_mut().filter(|lease| lease.token == said.token) else {
            let again =
                matches!(said.word, Word::Nack { .. } | Word::Return) && item.returned == Some(said.token);
            return if again { Settled::Done } else { Settled::Stale };
        };
        match said.word {
            Word::Ack => {
                self.items.remove(at);
                self.gone.insert(said.id, (Some(said.token), now.after(MEMORY)));
            }
            Word::Nack { delay, max_attempts } => {
                item.ready = now.after(delay);
                item.returned = Some(said.token);
                item.lease = None;
                if item.is_spent(max_attempts) {
                    self.bury(at);
                    self.buried.insert(said.id, said.token);
                }
            }
            Word::Return => {
                item.attempts = item.attempts.saturating_sub(1);
                item.returned = Some(said.token);
                item.lease = None;
            }
            Word::Extend(visibility) => lease.until = lease.until.max(now.after(visibility)),
        }
        Settled::Done
    }

    fn take_dead(&mut self, ids: &[ItemId]) -> Vec<DeadItem> {
        let (taken, left) =
            std::mem::take(&mut self.dead).into_iter().partition(|dead| ids.contains(&dead.id));
        self.dead = left;
        self.buried.retain(|id, _| !ids.contains(id));
        taken
    }

    fn stats(&self, now: Moment) -> QueueStats {
        let mut stats = QueueStats { dead: self.dead.len() as u64, ..QueueStats::default() };
        for item in &self.items {
            match item.lease {
                Some(_) => stats.in_flight += 1,
                None if item.ready > now => stats.delayed += 1,
                None => stats.ready += 1,
            }
        }
        stats
    }

    fn purge(&mut self) -> u64 {
        let before = self.items.len() + self.dead.len();
        self.items.retain(|item| item.lease.is_some());
        self.dead.clear();
        self.buried.clear();
        (before - self.items.len()) as u64
    }

    fn is_empty(&self) -> bool {
        self.items.is_empty() && self.dead.is_empty() && self.gone.is_empty()
    }
}

impl Client {
    /// One step on a queue. `wake` tells whether others should look.
    async fn on_queue<T>(
        &self,
        queue: &QueueId,
        wake: impl FnOnce(&T) -> bool,
        step: impl FnOnce(&mut Line, &mut u64, Moment) -> T,
    ) -> Result<T> {
        self.step(|state, now| {
            let line = state.queues.entry(queue.clone()).or_default();
            line.settle(now);
            let answer = step(line, &mut state.token, now);
            if line.is_empty() {
                state.queues.remove(queue);
            }
            if wake(&answer) {
                state.wake(&Topic::Queue(queue.clone()));
            }
            answer
        })
        .await
    }
}

#[async_trait]
impl Jobs for Client {
    async fn push(&self, push: &Push) -> Result<Pushed> {
        let wake = |pushed: &Pushed| matches!(pushed, Pushed::Done { new } if *new > 0);
        self.on_queue(&push.queue, wake, |line, _, now| line.push(push, now)).await
    }

    async fn receive(&self, receive: &Receive) -> Result<Received> {
        self.on_queue(
            &receive.queue,
            |_| false,
            |line, token, now| line.receive(receive, now, || next(token)),
        )
        .await
    }

    async fn settle(&self, queue: &QueueId, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        let wake = settlements.iter().any(|said| !matches!(said.word, Word::Extend(_)));
        let say =
            |line: &mut Line, _: &mut u64, now| settlements.iter().map(|said| line.say(said, now)).collect();
        self.on_queue(queue, |_| wake, say).await
    }

    async fn dead(&self, queue: &QueueId, after: Option<ItemId>, limit: u32) -> Result<Vec<DeadItem>> {
        self.on_queue(
            queue,
            |_| false,
            |line, _, _| {
                let start = after
                    .and_then(|after| line.dead.iter().position(|dead| dead.id == after))
                    .map_or(0, |at| at + 1);
                line.dead[start..].iter().take(limit as usize).cloned().collect()
            },
        )
        .await
    }

    async fn requeue(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64> {
        self.on_queue(
            queue,
            |count| *count > 0,
            |line, _, now| {
                let dead = line.take_dead(items);
                let count = dead.len() as u64;
                for DeadItem { id, payload, priority, group, .. } in dead {
                    let item = NewItem { id, payload, priority, delay: Duration::ZERO, group };
                    let (pushed, ready) = (clock::wall(), now);
                    line.items.push(Item { item, pushed, ready, attempts: 0, lease: None, returned: None });
                }
                count
            },
        )
        .await
    }

    async fn drop_dead(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64> {
        self.on_queue(
            queue,
            |_| false,
            |line, _, now| {
                let dropped = line.take_dead(items);
                line.gone.extend(dropped.iter().map(|dead| (dead.id, (None, now.after(MEMORY)))));
                dropped.len() as u64
            },
        )
        .await
    }

    async fn stats(&self, queue: &QueueId) -> Result<QueueStats> {
        self.on_queue(queue, |_| false, |line, _, now| line.stats(now)).await
    }

    async fn purge(&self, queue: &QueueId) -> Result<u64> {
        self.on_queue(queue, |count| *count > 0, |line, _, _| line.purge()).await
    }

    fn wakeups(&self, queue: &QueueId) -> Wakeups {
        self.listen(Topic::Queue(queue.clone()))
    }
}
