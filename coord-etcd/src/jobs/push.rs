//! Pushes, and dead items that are put back: what comes to the end of a queue.
//!
//! The key `t` makes one push follow the other: each is done on condition that `t` is as it was seen, and changes it. The place of
//! what is pushed is made of the revision at which `t` was seen; all earlier pushes were done before that revision. So a client
//! that pushes on and on needs one transaction a push, and two if another client pushed in between.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use coord_core::{
    Effect, Error, Result,
    spi::jobs::{ItemId, NewItem, Push, Pushed, QueueId},
};
use etcd_client::{Compare, CompareOp, KeyValue, TxnOp};
use futures_util::future::try_join_all;

use super::{
    MEMORY, Pace,
    record::{Keys, Record, State, Wait, numbered},
};
use crate::{
    client::{Shared, seconds},
    error::is_lease_gone,
    keys::hex,
    step::{Parts, WIDTH, absent, all, count, get, lend, look, put, spread, txn, unchanged},
};

/// How many queues a client remembers the tail of.
const QUEUES: usize = 1_000;

/// How many dead items are put back in one step.
const BATCH: usize = WIDTH;

/// How the end of a queue was seen last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tail {
    /// The revision of the key; 0: there is none.
    key: i64,
    /// When it was seen.
    seen: i64,
}

/// The ends of the queues that this client pushed to.
#[derive(Debug, Default)]
pub(crate) struct Tails(Mutex<HashMap<QueueId, Tail>>);

impl Tails {
    fn lock(&self) -> MutexGuard<'_, HashMap<QueueId, Tail>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, queue: &QueueId) -> Option<Tail> {
        self.lock().get(queue).copied()
    }

    fn set(&self, queue: &QueueId, tail: Option<Tail>) {
        let mut tails = self.lock();
        match tail {
            None => {
                tails.remove(queue);
            }
            Some(tail) => {
                if tails.len() >= QUEUES {
                    tails.clear();
                }
                tails.insert(queue.clone(), tail);
            }
        }
    }
}

/// A queue as it was seen.
struct Seen {
    tail: Tail,
    /// How many items are in it, dead ones not counted, if that was asked for.
    items: u64,
    /// Which of the items are known.
    known: HashSet<ItemId>,
}

/// What is asked about the end of a queue.
struct Question<'a> {
    keys: &'a Keys,
    items: &'a [&'a NewItem],
    counts: bool,
}

impl Question<'_> {
    fn reads(&self) -> Vec<TxnOp> {
        let of_item =
            |item: &&NewItem| all(vec![look(self.keys.item(item.id)), look(self.keys.gone(item.id))]);
        let mut reads = spread(self.items.iter().map(of_item).collect());
        reads.push(look(self.keys.tail()));
        if self.counts {
            reads.extend([count(&self.keys.all("i/")), count(&self.keys.all("x/"))]);
        }
        reads
    }

    fn read(&self, revision: i64, mut parts: Parts) -> Result<Seen> {
        let mut known = HashSet::new();
        for (item, mut parts) in self.items.iter().zip(parts.gathered(self.items.len())?) {
            if parts.kv()?.is_some() | parts.kv()?.is_some() {
                known.insert(item.id);
            }
        }
        let tail = Tail { key: parts.kv()?.map_or(0, |kv| kv.mod_revision()), seen: revision };
        let items = if self.counts { parts.count()?.saturating_sub(parts.count()?) } else { 0 };
        Ok(Seen { tail, items, known })
    }
}

/// What puts an item at the end of a queue: with the lease of its delay, if it has one, and whether it is the first of its group
/// among those that are put there.
fn enter(keys: &Keys, record: &Record, delay: Option<i64>, first: bool) -> Vec<TxnOp> {
    let mut operations = vec![put(keys.item(record.id), record.bytes())];
    let ready = put(keys.ready(record), record.bytes());
    match (&record.group, delay) {
        (_, Some(lease)) => operations.extend([
            put(keys.waits(Wait::Delay, record.id), ""),
            lend(keys.lease(Wait::Delay, record.id), "", lease),
        ]),
        (None, None) => operations.push(ready),
        (Some(group), None) if first => {
            let alone = Compare::create_revision(keys.group(group), CompareOp::Equal, 0).with_prefix();
            operations.push(TxnOp::txn(txn(vec![alone], vec![ready], Vec::new())));
        }
        (Some(_), None) => {}
    }
    if let Some(group) = &record.group {
        operations.push(put(keys.in_group(group, record.place), hex(record.id.as_bytes())));
    }
    operations
}

impl Shared {
    pub(super) async fn push(&self, push: &Push) -> Result<Pushed> {
        let mut delays = HashMap::new();
        let pushed = self.push_under(push, &mut delays).await;
        let unused = match &pushed {
            Ok(Pushed::Done { new }) => *new == 0,
            Ok(Pushed::Full) => true,
            Err(error) => error.effect() == Effect::None,
        };
        if unused {
            delays.into_values().for_each(|lease| self.give_up(lease));
        }
        pushed
    }

    /// The same, with the leases of delays, by their seconds.
    async fn push_under(&self, push: &Push, delays: &mut HashMap<i64, i64>) -> Result<Pushed> {
        let (keys, mut ids) = (Keys::of(&push.queue), HashSet::new());
        let items: Vec<_> = push.items.iter().filter(|item| ids.insert(item.id)).collect();
        let question = Question { keys: &keys, items: &items, counts: push.capacity.is_some() };
        // Few that are probably new are put there at once.
        let few = items.len() <= WIDTH && push.capacity.is_none();
        let mut blind = self.tails.get(&push.queue).filter(|_| few);
        let (mut pace, mut lost, mut full) = (Pace::default(), 0, false);
        let mut seen: Option<Seen> = None;
        loop {
            if seen.is_none() && blind.is_none() {
                let answer = self.txn(all(question.reads())).await?;
                seen = Some(question.read(answer.revision, Parts::of(answer))?);
            }
            let Some(tail) = seen.as_ref().map(|seen| seen.tail).or(blind) else { continue };
            let is_new = |item: &&&NewItem| seen.as_ref().is_none_or(|seen| !seen.known.contains(&item.id));
            let new: Vec<_> = items.iter().filter(is_new).copied().collect();
            if new.is_empty() {
                return Ok(Pushed::Done { new: 0 });
            }
            let memory = self.rubbish(MEMORY).await?;
            if let (Some(capacity), Some(there)) = (push.capacity, &seen)
                && capacity.saturating_sub(there.items) < new.len() as u64
            {
                if full {
                    return Ok(Pushed::Full);
                }
                // Before it is believed, who makes room is asked to say so.
                full = true;
                let mut operations = question.reads();
                operations.push(lend(keys.room(), "", memory));
                let answer = self.txn(all(operations)).await?;
                seen = Some(question.read(answer.revision, Parts::of(answer))?);
                continue;
            }
            let of_delays = new.iter().map(|item| item.delay).filter(|delay| !delay.is_zero()).map(seconds);
            let missing: HashSet<_> = of_delays.filter(|delay| !delays.contains_key(delay)).collect();
            delays.extend(
                try_join_all(missing.into_iter().map(|delay| async move {
                    let (lease, _) = self.grant(Duration::from_secs(delay.unsigned_abs())).await?;
                    Ok::<_, Error>((delay, lease))
                }))
                .await?,
            );
            let mut groups = HashSet::new();
            let entering = new.iter().enumerate().map(|(at, item)| {
                let record = Record::new(item, numbered(tail.seen, at));
                let delay = delays.get(&seconds(item.delay)).copied().filter(|_| !item.delay.is_zero());
                let first = item.group.as_ref().is_some_and(|group| groups.insert(group));
                let mut operations = enter(&keys, &record, delay, first);
                operations.push(put(keys.payload(item.id), item.payload.clone()));
                all(operations)
            });
            let mut then = spread(entering.collect());
            then.push(lend(keys.tail(), "", memory));
            let mut compares = vec![unchanged(keys.tail(), tail.key)];
            if seen.is_none() {
                let fresh = |item: &&NewItem| [absent(keys.item(item.id)), absent(keys.gone(item.id))];
                compares.extend(items.iter().flat_map(fresh));
            }
            match self.txn(txn(compares, then, question.reads())).await {
                Ok(answer) if answer.succeeded => {
                    let tail = Tail { key: answer.revision, seen: answer.revision };
                    self.tails.set(&push.queue, Some(tail));
                    return Ok(Pushed::Done { new: new.len() as u64 });
                }
                Ok(answer) => {
                    if answer.repeated {
                        // An earlier copy of it may have put items under these leases.
                        delays.clear();
                    }
                    let read = question.read(answer.revision, Parts::of(answer));
                    seen = Some(read.map_err(Error::with_unknown_effect)?);
                    if blind.take().is_none() {
                        pace.wait().await?;
                    }
                }
                Err(error) if is_lease_gone(&error) && error.effect() == Effect::None && lost < 2 => {
                    lost += 1;
                    self.forget_rubbish(memory);
                    delays.drain().for_each(|(_, lease)| self.give_up(lease));
                }
                Err(error) => {
                    self.tails.set(&push.queue, None);
                    return Err(error);
                }
            }
        }
    }

    /// Puts dead items back at the end of the queue.
    pub(super) async fn requeue(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64> {
        let (keys, mut ids, mut count) = (Keys::of(queue), HashSet::new(), 0);
        let items: Vec<_> = items.iter().copied().filter(|id| ids.insert(*id)).collect();
        for items in items.chunks(BATCH) {
            count += self.requeue_some(&keys, items).await?;
        }
        if count > 0 {
            self.tails.set(queue, None);
        }
        Ok(count)
    }

    async fn requeue_some(&self, keys: &Keys, items: &[ItemId]) -> Result<u64> {
        let (mut pace, mut lost) = (Pace::default(), 0);
        loop {
            let mut reads: Vec<_> = items.iter().map(|id| get(keys.item(*id))).collect();
            reads.push(look(keys.tail()));
            let answer = self.txn(all(reads)).await?;
            let (revision, mut parts) = (answer.revision, Parts::of(answer));
            let found = items.iter().map(|_| parts.kv()).collect::<Result<Vec<_>>>()?;
            let tail = parts.kv()?.map_or(0, |kv| kv.mod_revision());
            let (mut compares, mut then, mut groups) =
                (vec![unchanged(keys.tail(), tail)], Vec::new(), HashSet::new());
            for kv in found.iter().flatten() {
                let record = Record::read(kv)?;
                if !matches!(record.state, State::Dead(_)) {
                    continue;
                }
                compares.push(unchanged(kv.key(), KeyValue::mod_revision(kv)));
                let record = Record {
                    state: State::Ready,
                    place: numbered(revision, then.len()),
                    pushed: super::record::now(),
                    attempts: 0,
                    returned: None,
                    ..record
                };
                let first = record.group.as_ref().is_some_and(|group| groups.insert(group.clone()));
                let mut operations = enter(keys, &record, None, first);
                operations.push(crate::step::delete(keys.dead(record.id)));
                then.push(TxnOp::txn(all(operations)));
            }
            let count = then.len() as u64;
            if count == 0 {
                return Ok(0);
            }
            let memory = self.rubbish(MEMORY).await?;
            then.push(lend(keys.tail(), "", memory));
            match self.txn(txn(compares, then, Vec::new())).await {
                Ok(answer) if answer.succeeded => return Ok(count),
                Ok(_) => pace.wait().await?,
                Err(error) if is_lease_gone(&error) && error.effect() == Effect::None && lost < 2 => {
                    lost += 1;
                    self.forget_rubbish(memory);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
