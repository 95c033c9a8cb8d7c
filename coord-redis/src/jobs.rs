//! Queues: what `coord_core::spi::jobs::Jobs` says, a script for each operation.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use coord_core::{
    Error, FencingToken, Result, limits,
    spi::{
        Wakeups,
        jobs::{
            DeadItem, Delivered, ItemId, Jobs, NewItem, Push, Pushed, QueueId, QueueStats, Receive, Received,
            Settled, Settlement, Word,
        },
    },
};
use redis::Value;

use crate::{
    client::Store,
    error::misread,
    keys::Stem,
    packed::{Fields, micros},
    reply::{Reply, number},
    script::{Call, Script},
};

macro_rules! script {
    ($file:literal) => {
        Script::new(concat!(
            include_str!("scripts/jobs/jobs.lua"),
            include_str!(concat!("scripts/jobs/", $file))
        ))
    };
}

static PUSH: Script = script!("push.lua");
static RECEIVE: Script = script!("receive.lua");
static SETTLE: Script = script!("settle.lua");
static DEAD: Script = script!("dead.lua");
static REQUEUE: Script = script!("requeue.lua");
static DROP_DEAD: Script = script!("drop_dead.lua");
static STATS: Script = script!("stats.lua");
static PURGE: Script = script!("purge.lua");

/// The keys that every script takes, in this order.
const PARTS: [&str; 14] = [
    "items", "payloads", "ready", "delayed", "leased", "receives", "groups", "tried", "dead", "gone",
    "forget", "counter", "full", "purged",
];

/// How many items go into one step, so that the server is not busy with it for long.
const BATCH: usize = limits::MAX_BATCH;

/// How often a receive goes on when it had to put so many items in order that it came to no delivery.
const ROUNDS: usize = 1_000;

/// When time alone makes an item ready, it is so a moment later.
const TICK: Duration = Duration::from_millis(1);

/// A step on a queue.
fn step(script: &'static Script, queue: &QueueId) -> Call {
    let stem = Stem::of_queue(queue);
    Call::new(script, &PARTS.map(|part| stem.key(part))).arg(stem.news().as_str())
}

/// An item as scripts pack it.
struct Item {
    ready: SystemTime,
    pushed: SystemTime,
    attempts: u32,
    token: Option<FencingToken>,
    priority: i32,
    group: Option<String>,
}

impl Item {
    fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::of(bytes);
        let (_status, _place) = (fields.byte()?, fields.long()?);
        let (ready, pushed, attempts) = (fields.wall()?, fields.wall()?, fields.short()?);
        let (_returned, token, _expires) = (fields.token()?, fields.token()?, fields.long()?);
        let _receive = fields.take(16)?;
        let priority = priority(fields.short()?);
        let group = match fields.rest().len() {
            0 => None,
            length => {
                fields.byte()?;
                Some(fields.text(length - 1)?)
            }
        };
        Ok(Self { ready, pushed, attempts, token, priority, group })
    }
}

/// The more urgent, the lower.
fn urgency(priority: i32) -> u32 {
    i32::MAX.abs_diff(priority)
}

fn priority(urgency: u32) -> i32 {
    i32::MAX.wrapping_sub_unsigned(urgency)
}

/// The next id, item and payload of a reply.
fn item(reply: &mut Reply) -> Result<(ItemId, Item, Vec<u8>)> {
    Ok((ItemId::from_bytes(reply.id()?), Item::decode(&reply.bytes()?)?, reply.bytes()?))
}

fn delivered(reply: &mut Reply) -> Result<Delivered> {
    let (id, item, payload) = item(reply)?;
    let Item { pushed, attempts: attempt, priority, group, .. } = item;
    let token = item.token.ok_or_else(|| misread("the token of a delivery"))?;
    Ok(Delivered { id, token, attempt, payload, priority, group, pushed })
}

fn dead(reply: &mut Reply) -> Result<DeadItem> {
    let (id, item, payload) = item(reply)?;
    let Item { ready: died, attempts, priority, group, .. } = item;
    Ok(DeadItem { id, attempts, payload, priority, group, died })
}

/// The step with one more item: id, urgency, delay, group, payload.
fn with_item(step: Call, item: &NewItem) -> Call {
    // A group without a name is one too.
    let group = item.group.as_ref().map_or_else(Vec::new, |group| [b"g", group.as_bytes()].concat());
    step.arg(item.id.as_bytes())
        .arg(&urgency(item.priority).to_be_bytes())
        .arg(micros(item.delay))
        .arg(group)
        .arg(&item.payload)
}

/// The step with one more word: id, token, word, its time, its attempts.
fn with_word(step: Call, said: &Settlement) -> Call {
    let (word, time, attempts) = match said.word {
        Word::Ack => ("ack", 0, None),
        Word::Nack { delay, max_attempts } => ("nack", micros(delay), max_attempts),
        Word::Return => ("return", 0, None),
        Word::Extend(visibility) => ("extend", micros(visibility), None),
    };
    step.arg(said.id.as_bytes()).arg(said.token.get()).arg(word).arg(time).arg(attempts.unwrap_or(0))
}

fn with_ids(step: Call, items: &[ItemId]) -> Call {
    items.iter().fold(step, |step, id| step.arg(id.as_bytes()))
}

/// What a receive came to, or `None` if it has to go on.
fn received(reply: Value, go_on: bool) -> Result<Option<Received>> {
    let mut reply = Reply::of(reply)?;
    let (more, wait) = (reply.number::<u8>()? != 0, reply.number::<i64>()?);
    if more && go_on {
        return Ok(None);
    }
    let mut deliveries = Vec::new();
    while !reply.is_empty() {
        deliveries.push(delivered(&mut reply)?);
    }
    let wait = u64::try_from(if more { 0 } else { wait }).ok();
    Ok(Some(Received { deliveries, look_again_in: wait.map(|wait| Duration::from_micros(wait) + TICK) }))
}

/// What came of each settlement.
fn settled(reply: Value) -> Result<Vec<Settled>> {
    let (mut reply, mut settled) = (Reply::of(reply)?, Vec::new());
    while !reply.is_empty() {
        settled.push(if reply.number::<u8>()? == 0 { Settled::Stale } else { Settled::Done });
    }
    Ok(settled)
}

#[async_trait]
impl Jobs for Store {
    async fn push(&self, push: &Push) -> Result<Pushed> {
        // No server holds more items than are counted exactly.
        let capacity = push.capacity.map_or(-1, |capacity| capacity.min(1 << 53).cast_signed());
        let step = push.items.iter().fold(step(&PUSH, &push.queue).arg(capacity), with_item);
        let new = number(&self.shared.eval(step).await?).map_err(Error::with_unknown_effect)?;
        Ok(u64::try_from(new).map_or(Pushed::Full, |new| Pushed::Done { new }))
    }

    async fn receive(&self, receive: &Receive) -> Result<Received> {
        let step = step(&RECEIVE, &receive.queue)
            .arg(receive.id.as_bytes())
            .arg(receive.limit)
            .arg(micros(receive.visibility))
            .arg(receive.max_attempts.unwrap_or(0));
        let mut round = 0;
        loop {
            round += 1;
            let reply = self.shared.eval(step.clone()).await?;
            if let Some(received) = received(reply, round < ROUNDS).map_err(Error::with_unknown_effect)? {
                return Ok(received);
            }
        }
    }

    async fn settle(&self, queue: &QueueId, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        let mut all = Vec::with_capacity(settlements.len());
        for some in settlements.chunks(BATCH) {
            let step = some.iter().fold(step(&SETTLE, queue), with_word);
            all.extend(settled(self.shared.eval(step).await?).map_err(Error::with_unknown_effect)?);
        }
        if all.len() == settlements.len() {
            Ok(all)
        } else {
            Err(misread("the answer to a settlement").with_unknown_effect())
        }
    }

    async fn dead(&self, queue: &QueueId, after: Option<ItemId>, limit: u32) -> Result<Vec<DeadItem>> {
        let (limit, mut after, mut items) = (limit as usize, after, Vec::new());
        // A reply ends when it has some megabytes.
        while items.len() < limit {
            let from = after.as_ref().map_or(&[][..], |after| after.as_bytes());
            let step = step(&DEAD, queue).arg(from).arg(limit - items.len());
            let mut reply = Reply::of(self.shared.eval(step).await?)?;
            if reply.is_empty() {
                break;
            }
            while !reply.is_empty() {
                items.push(dead(&mut reply)?);
            }
            after = items.last().map(|item| item.id);
        }
        Ok(items)
    }

    async fn requeue(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64> {
        let steps = items.chunks(BATCH).map(|some| with_ids(step(&REQUEUE, queue), some)).collect();
        self.count(steps).await
    }

    async fn drop_dead(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64> {
        let steps = items.chunks(BATCH).map(|some| with_ids(step(&DROP_DEAD, queue), some)).collect();
        self.count(steps).await
    }

    async fn stats(&self, queue: &QueueId) -> Result<QueueStats> {
        let mut reply = Reply::of(self.shared.eval(step(&STATS, queue)).await?)?;
        let mut next = || reply.number();
        Ok(QueueStats { ready: next()?, delayed: next()?, in_flight: next()?, dead: next()? })
    }

    async fn purge(&self, queue: &QueueId) -> Result<u64> {
        self.count(vec![step(&PURGE, queue)]).await
    }

    fn wakeups(&self, queue: &QueueId) -> Wakeups {
        self.shared.hub.channel_once_polled(Stem::of_queue(queue).news())
    }
}

impl Store {
    /// Does steps that answer with a number each; the sum.
    async fn count(&self, steps: Vec<Call>) -> Result<u64> {
        let mut sum = 0;
        for step in steps {
            let count = number(&self.shared.eval(step).await?).map_err(Error::with_unknown_effect)?;
            sum += u64::try_from(count).map_err(|_| misread("a count").with_unknown_effect())?;
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_priorities_are_more_urgent() {
        let order = [i32::MAX, 7, 1, 0, -1, i32::MIN];
        assert!(order.map(|priority| urgency(priority).to_be_bytes()).is_sorted());
        assert_eq!(order.map(urgency).map(priority), order);
        assert_eq!((urgency(i32::MAX), urgency(i32::MIN)), (0, u32::MAX));
    }
}
