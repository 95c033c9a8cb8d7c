//! Groups: what happens when the first item of one leaves.

use coord_core::{Result, spi::jobs::ItemId};
use etcd_client::{Compare, TxnOp};

use super::record::{Keys, Record, State, Wait, id};
use crate::{
    client::Shared,
    error::misread,
    step::{Parts, all, delete, get, look, nothing_new, put, range, unchanged},
};

/// The place in the key of an item of a group.
pub(super) fn place(key: &[u8]) -> Result<u64> {
    let digits = key.len().checked_sub(16).and_then(|at| std::str::from_utf8(&key[at..]).ok());
    let place = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    place.ok_or_else(|| misread("a place in a group"))
}

/// What has to be true, and what has to be done, that an item leaves its group.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    pub(super) when: Vec<Compare>,
    pub(super) then: Vec<TxnOp>,
}

impl Shared {
    /// How an item leaves its group. If it is the first, the next one becomes ready, unless it is delayed.
    ///
    /// The next one's key is written, so that a step that moves it at the same moment has to look again.
    pub(super) async fn leave_group(&self, keys: &Keys, record: &Record) -> Result<Leaving> {
        let Some(group) = &record.group else { return Ok(Leaving::default()) };
        let prefix = keys.group(group);
        let mut leaving =
            Leaving { when: Vec::new(), then: vec![delete(keys.in_group(group, record.place))] };
        let two = TxnOp::get(prefix.clone(), Some(range(&prefix).with_limit(2)));
        let answer = self.txn(all(vec![two])).await?;
        let revision = answer.revision;
        let members = Parts::of(answer).kvs()?;
        let is_first = members.first().map(|kv| place(kv.key())).transpose()? == Some(record.place);
        if !is_first {
            // It changes when it becomes the first, and whoever is about to move it has looked at it.
            return Ok(leaving);
        }
        let Some(next) = members.get(1) else {
            leaving.when.push(nothing_new(&prefix, revision));
            return Ok(leaving);
        };
        let (behind, next): (u64, ItemId) = (place(next.key())?, id(next.value())?);
        let reads = vec![get(keys.item(next)), look(keys.waits(Wait::Delay, next))];
        let mut parts = Parts::of(self.txn(all(reads)).await?);
        let (item, delayed) = (parts.kv()?, parts.kv()?);
        let following = item.as_ref().map(Record::read).transpose()?;
        let following =
            following.filter(|following| following.group == record.group && following.place == behind);
        let (Some(item), Some(following)) = (item, following) else {
            // It left just now, or left and was pushed anew. The step must not be done.
            leaving.when.push(unchanged(keys.item(next), i64::MAX));
            return Ok(leaving);
        };
        leaving.when.push(unchanged(keys.item(next), item.mod_revision()));
        leaving.then.push(put(keys.item(next), following.bytes()));
        if delayed.is_none() && following.state == State::Ready {
            leaving.then.push(put(keys.ready(&following), following.bytes()));
        }
        Ok(leaving)
    }
}
