//! How a grant is handed over to one who waits.
//!
//! Those who wait ahead of it get other keys on the leases that they have, and so later tokens. Keys that are made in one transaction
//! would have one token, so it is one transaction for each, in their order. Each moves a claim only if it is as it was seen, not
//! granted, and if the two are still there; so whatever comes in between, a grant stays where it is, tokens grow in the
//! order of grants, and a client that stops halfway leaves a line that is in order.

use coord_core::{
    Error, ErrorKind, Result,
    spi::{ClaimId, Grant, HandOver},
};
use etcd_client::{Compare, KeyValue, PutOptions, Txn, TxnOp};

use crate::{
    claims::unread,
    client::Shared,
    error::is_lease_gone,
    lines::{self, LineKeys},
    record::Record,
};

/// How often a grant is handed over while the line changes.
const TRIES: usize = 4;

impl Shared {
    /// Moves one claim that waits to the end of the line, if these stand in it.
    async fn put_behind(&self, line: &LineKeys, kv: &KeyValue, there: &[(&Vec<u8>, i64)]) -> Result<()> {
        let record = Record::decode(kv.value()).ok_or_else(unread)?;
        if record.head.is_granted() {
            return Ok(());
        }
        let next = line.behind(kv.key());
        let mut when: Vec<Compare> =
            there.iter().map(|(key, token)| lines::is_created_at(key, *token)).collect();
        when.push(lines::is_unchanged(kv.key(), kv.mod_revision()));
        let put = TxnOp::put(next.place, kv.value(), Some(PutOptions::new().with_lease(kv.lease())));
        let txn = Txn::new().when(when).and_then([TxnOp::delete(kv.key(), None), put]);
        match self.txn(txn).await {
            // Its lease ends just now, and its key with it.
            Err(error) if is_lease_gone(&error) => Ok(()),
            answer => answer.map(drop),
        }
    }

    pub(crate) async fn hand_over(&self, from: &Grant, to: ClaimId) -> Result<HandOver> {
        let line = self.line_keys(&from.line);
        if line.shared {
            let message =
                "the etcd backend does not hand over in the layout that is shared with other clients";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let (token, mut tried) = (from.token.as_i64(), false);
        for _ in 0..TRIES {
            let held = self.registry.get(&from.line, from.id);
            if held.as_ref().is_some_and(|held| held.ended || held.token != Some(token)) {
                return Ok(HandOver::Lost);
            }
            let (all, _) = self.stood(&line).await?;
            let granted = |record: &Record| record.head.id == from.id && record.head.is_granted();
            let holder = all.iter().find(|one| one.place.create_revision() == token);
            let Some(holder) = holder.filter(|one| one.record.as_ref().is_some_and(granted)) else {
                // An earlier copy of the last step, whose reply was lost, may have done it: then who it was meant for is first.
                let first = all.iter().find_map(|one| one.record.as_ref());
                if !tried || first.is_none_or(|record| record.head.id != to) {
                    return Ok(HandOver::Lost);
                }
                if let Some(held) = held {
                    self.registry.remove(from.id, held.serial);
                }
                return Ok(HandOver::Done);
            };
            let waits = |record: &Record| record.head.id == to && !record.head.is_granted();
            let Some(next) = all.iter().find(|one| one.record.as_ref().is_some_and(waits)) else {
                return Ok(HandOver::NotFound);
            };
            let (holder_key, next_key) = (holder.place.key().to_vec(), next.place.key().to_vec());
            let place = next.place.create_revision();
            let there = [(&holder_key, token), (&next_key, place)];
            for one in all.iter().filter(|one| one.place.create_revision() < place) {
                self.put_behind(&line, &one.place, &there).await?;
            }
            let txn = Txn::new()
                .when([
                    lines::is_created_at(&holder_key, token),
                    lines::is_unchanged(&holder_key, holder.version),
                    lines::is_created_at(&next_key, place),
                ])
                .and_then([TxnOp::delete(holder_key.clone(), None)]);
            let answer = self.txn(txn).await?;
            if answer.succeeded {
                if let Some(held) = held {
                    self.registry.remove(from.id, held.serial);
                }
                return Ok(HandOver::Done);
            }
            tried |= answer.repeated;
        }
        let message = format!("the etcd cluster {}: the line changes all the time", self.config);
        Err(Error::new(ErrorKind::Unavailable, message).with_unknown_effect())
    }
}
