//! Dead items, counts, and what empties a queue.

use std::collections::{BTreeMap, HashSet};

use coord_core::{
    Effect, Error, Result,
    spi::jobs::{DeadItem, ItemId, QueueId, QueueStats},
};
use etcd_client::{Compare, GetOptions, KeyValue, SortOrder, SortTarget, TxnOp};

use super::{
    MEMORY, Pace,
    record::{Keys, Record, State, Wait, id_at_end, now},
};
use crate::{
    client::Shared,
    error::{is_compacted, is_lease_gone},
    step::{Parts, all, count, delete, get, lend, look, put, range, spread, txn, unchanged},
};

/// How many bytes of dead items are read at once, but for one.
const BYTES: u32 = 4 * 1024 * 1024;

/// How many items are read at once.
const PAGE: i64 = 1_000;

/// How many items are removed in one step.
const BATCH: usize = 800;

/// What has to be true, and what has to be done, that an item dies.
pub(super) struct Death {
    pub(super) when: Vec<Compare>,
    pub(super) then: Vec<TxnOp>,
}

impl Shared {
    /// How an item dies. That it is as it was seen is for the caller to compare.
    pub(super) async fn death(&self, keys: &Keys, record: &Record) -> Result<Death> {
        let leaving = self.leave_group(keys, record).await?;
        let dead = record.in_state(State::Dead(now()));
        let mut then =
            vec![put(keys.item(record.id), dead.bytes()), put(keys.dead(record.id), ""), delete(keys.room())];
        then.extend(leaving.then);
        Ok(Death { when: leaving.when, then })
    }

    /// Buries an item that would be delivered again after its last attempt, unless it is not ready any more.
    pub(super) async fn bury_ready(&self, keys: &Keys, record: &Record, revision: i64) -> Result<()> {
        // It did not die of a word, so none is to be found again.
        let record = Record { returned: None, ..record.clone() };
        let ready = keys.ready(&record);
        let Death { mut when, mut then } = self.death(keys, &record).await?;
        when.push(unchanged(ready.clone(), revision));
        then.push(delete(ready));
        self.txn(txn(when, then, Vec::new())).await?;
        Ok(())
    }

    pub(super) async fn dead_items(
        &self,
        queue: &QueueId,
        after: Option<ItemId>,
        limit: u32,
    ) -> Result<Vec<DeadItem>> {
        let (keys, limit) = (Keys::of(queue), limit as usize);
        let prefix = keys.all("x/");
        let mut from = 0;
        if let Some(after) = after {
            let seen = self.txn(all(vec![look(keys.dead(after))])).await?;
            from = Parts::of(seen).kv()?.map_or(0, |kv| kv.create_revision());
        }
        // Each died in a step of its own.
        let oldest = range(&prefix)
            .with_keys_only()
            .with_min_create_revision(from + 1)
            .with_sort(SortTarget::Create, SortOrder::Ascend)
            .with_limit(i64::try_from(limit).unwrap_or(i64::MAX));
        let names = self.get(prefix.as_str(), oldest).await?;
        let ids = names.kvs.iter().map(|kv| id_at_end(kv.key())).collect::<Result<Vec<_>>>()?;
        let mut items = Vec::with_capacity(ids.len());
        let records = self.records(&keys, &ids).await?;
        let mut records = records.into_iter().peekable();
        while records.peek().is_some() {
            let (mut bytes, mut some) = (0, Vec::new());
            while let Some((record, _)) =
                records.next_if(|(record, _)| bytes == 0 || bytes + record.size <= BYTES)
            {
                bytes += record.size.max(1);
                some.push(record);
            }
            let reads = some.iter().map(|record| all(vec![get(keys.payload(record.id))])).collect();
            let mut parts = Parts::of(self.txn(all(spread(reads))).await?);
            let count = some.len();
            for (record, mut parts) in some.into_iter().zip(parts.gathered(count)?) {
                if let (State::Dead(died), Some(payload)) = (record.state, parts.kv()?) {
                    items.push(record.dead(died, payload.value().to_vec()));
                }
            }
        }
        Ok(items)
    }

    /// Those of the items that there are, with the revisions of their keys, in this order.
    async fn records(&self, keys: &Keys, ids: &[ItemId]) -> Result<Vec<(Record, i64)>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let reads = ids.iter().map(|id| all(vec![get(keys.item(*id))])).collect();
        let mut parts = Parts::of(self.txn(all(spread(reads))).await?);
        let mut records = Vec::with_capacity(ids.len());
        for mut parts in parts.gathered(ids.len())? {
            if let Some(kv) = parts.kv()? {
                records.push((Record::read(&kv)?, kv.mod_revision()));
            }
        }
        Ok(records)
    }

    pub(super) async fn drop_items(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64> {
        let (keys, mut ids, mut count) = (Keys::of(queue), HashSet::new(), 0);
        let items: Vec<_> = items.iter().copied().filter(|id| ids.insert(*id)).collect();
        for items in items.chunks(BATCH) {
            count += self.drop_some(&keys, items).await?;
        }
        Ok(count)
    }

    async fn drop_some(&self, keys: &Keys, items: &[ItemId]) -> Result<u64> {
        let mut lost = 0;
        loop {
            let mut records = self.records(keys, items).await?;
            records.retain(|(record, _)| matches!(record.state, State::Dead(_)));
            if records.is_empty() {
                return Ok(0);
            }
            let memory = self.rubbish(MEMORY).await?;
            let steps = records.iter().map(|(record, revision)| {
                let id = record.id;
                let then = vec![
                    delete(keys.item(id)),
                    delete(keys.payload(id)),
                    delete(keys.dead(id)),
                    lend(keys.gone(id), "", memory),
                ];
                txn(vec![unchanged(keys.item(id), *revision)], then, Vec::new())
            });
            match self.removed(steps.collect(), records.len()).await {
                Ok(count) => return Ok(count),
                Err(error) if is_lease_gone(&error) && error.effect() == Effect::None && lost < 2 => {
                    lost += 1;
                    self.forget_rubbish(memory);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// How many of these steps were done.
    async fn removed(&self, steps: Vec<etcd_client::Txn>, count: usize) -> Result<u64> {
        let answer = self.txn(all(spread(steps))).await?;
        let steps = Parts::of(answer).gathered(count).map_err(Error::with_unknown_effect)?;
        Ok(steps.iter().filter(|step| step.succeeded).count() as u64)
    }

    pub(super) async fn queue_stats(&self, queue: &QueueId) -> Result<QueueStats> {
        let keys = Keys::of(queue);
        let counts =
            ["i/", "x/", Wait::Delivery.parts().1, Wait::Delay.parts().1].map(|part| count(&keys.all(part)));
        let mut parts = Parts::of(self.txn(all(counts.to_vec())).await?);
        let [items, dead, in_flight, delayed] =
            [parts.count()?, parts.count()?, parts.count()?, parts.count()?];
        Ok(QueueStats { ready: items.saturating_sub(dead + in_flight + delayed), delayed, in_flight, dead })
    }

    /// Removes all items that nobody has in hand, in steps of some hundred.
    ///
    /// What is pushed meanwhile stays. Of a group the last items go first: as long as its first one is there, no other one needs
    /// to become ready.
    pub(super) async fn purge_queue(&self, queue: &QueueId) -> Result<u64> {
        let (keys, mut count, mut pace) = (Keys::of(queue), 0, Pace::default());
        // Those whose leases have ended are in nobody's hands.
        while self.put_back(&keys).await? {
            pace.count()?;
        }
        let mut horizon = None;
        loop {
            let (items, revision) = self.items(&keys, horizon).await?;
            horizon.get_or_insert(revision);
            let mut firsts = BTreeMap::new();
            let in_line = items.iter().filter(|(record, ..)| !matches!(record.state, State::Dead(_)));
            for (record, ..) in in_line {
                if let Some(group) = &record.group {
                    let first = firsts.entry(group.clone()).or_insert(record.place);
                    *first = record.place.min(*first);
                }
            }
            let removable = |record: &Record| !matches!(record.state, State::Taken(..));
            let (firsts, others): (Vec<_>, Vec<_>) =
                items.into_iter().filter(|(record, _)| removable(record)).partition(|(record, _)| {
                    !matches!(record.state, State::Dead(_))
                        && record.group.as_ref().is_some_and(|group| firsts.get(group) == Some(&record.place))
                });
            let (wanted, before) = ((firsts.len() + others.len()) as u64, count);
            for some in others.chunks(BATCH) {
                let steps = some.iter().map(|(record, revision)| {
                    txn(vec![unchanged(keys.item(record.id), *revision)], removal(&keys, record), Vec::new())
                });
                count += self.removed(steps.collect(), some.len()).await?;
            }
            for (record, revision) in &firsts {
                let leaving = self.leave_group(&keys, record).await?;
                let mut when = leaving.when;
                when.push(unchanged(keys.item(record.id), *revision));
                let mut then = removal(&keys, record);
                // That of its place in the group is in both.
                then.extend(leaving.then.into_iter().skip(1));
                count += u64::from(self.txn(txn(when, then, Vec::new())).await?.succeeded);
            }
            if count - before == wanted {
                break;
            }
            // Whoever came in between changed some of them; those are looked at again.
            pace.count().map_err(Error::with_unknown_effect)?;
        }
        self.txn(all(vec![delete(keys.room())])).await?;
        Ok(count)
    }

    /// All items that there were at this revision or are now, as they are at one moment, with the revisions of their keys: who is the
    /// first of a group is not seen otherwise.
    async fn items(&self, keys: &Keys, until: Option<i64>) -> Result<(Vec<(Record, i64)>, i64)> {
        let (prefix, mut pace) = (keys.all("i/"), Pace::default());
        let (mut items, mut from, mut first) = (Vec::new(), prefix.clone().into_bytes(), None);
        loop {
            let end = crate::keys::end_of(prefix.as_bytes());
            let page = GetOptions::new().with_range(end).with_limit(PAGE).with_revision(first.unwrap_or(0));
            let found = match self.get(from, page).await {
                Err(error) if is_compacted(&error) => {
                    pace.count()?;
                    (items, from, first) = (Vec::new(), prefix.clone().into_bytes(), None);
                    continue;
                }
                found => found?,
            };
            let revision = *first.get_or_insert(found.revision);
            for kv in &found.kvs {
                if kv.create_revision() <= until.unwrap_or(revision) {
                    items.push((Record::read(kv)?, kv.mod_revision()));
                }
            }
            match found.kvs.last().filter(|_| found.more).map(KeyValue::key) {
                Some(last) => from = [last, b"\0"].concat(),
                None => return Ok((items, revision)),
            }
        }
    }
}

/// Removes whatever there may be of an item that nobody has in hand, the last of it being its place in a group.
fn removal(keys: &Keys, record: &Record) -> Vec<TxnOp> {
    let id = record.id;
    let mut then = vec![delete(keys.item(id)), delete(keys.payload(id))];
    match record.state {
        State::Dead(_) => then.push(delete(keys.dead(id))),
        _ => then.extend([
            delete(keys.ready(record)),
            delete(keys.waits(Wait::Delay, id)),
            delete(keys.lease(Wait::Delay, id)),
        ]),
    }
    if let Some(group) = &record.group {
        then.push(delete(keys.in_group(group, record.place)));
    }
    then
}
