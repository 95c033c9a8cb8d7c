//! How claims that wait are overtaken: by one of a higher priority, and by the one to whom a grant is handed over.
//!
//! Who is overtaken gets another key on the lease that it has, and so a later token. Keys that are made in one transaction would
//! have one token, so it is one transaction for each, in their order. Each moves a claim only if it is as it was seen, not
//! granted, and if the one that overtakes is still there; so whatever comes in between, a grant stays where it is, tokens grow in the
//! order of grants, and a client that stops halfway leaves a line that is in order.

use coord_core::{
    Error, ErrorKind, Result,
    spi::{ClaimId, Grant, HandOver},
};
use etcd_client::{Compare, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse};

use crate::{
    claims::{Joining, Standpoint, unread},
    client::{Resend, Shared},
    error::is_lease_gone,
    lines::{self, LineKeys},
    record::Record,
    waiting::Place,
};

/// How many keys are read at a time.
const WIDTH: usize = 40;

/// How often a grant is handed over while the line changes.
const TRIES: usize = 4;

impl Shared {
    /// Moves the claims behind that wait ahead of this one with a lower priority. Whether there were any.
    pub(crate) async fn overtake(
        &self,
        joining: &Joining<'_>,
        at: &Standpoint,
        places: &[Place],
    ) -> Result<bool> {
        let line = &joining.line;
        if line.shared {
            return Ok(false);
        }
        let lower =
            places.iter().filter(|place| place.token < at.token && place.priority < joining.claim.priority);
        let keys: Vec<_> = lower.map(|place| place.key.as_slice()).collect();
        let mut moved = false;
        for keys in keys.chunks(WIDTH) {
            let gets: Vec<_> = keys.iter().map(|key| TxnOp::get(*key, None)).collect();
            let answer = self.txn(Txn::new().and_then(gets), Resend::Yes).await?;
            for part in answer.parts {
                let TxnOpResponse::Get(get) = part else { return Err(unread()) };
                if let Some(kv) = get.kvs().first() {
                    moved |= self.put_behind(line, kv, &[(&at.keys.place, at.token)]).await?;
                }
            }
        }
        Ok(moved)
    }

    /// Moves one claim that waits to the end of the line, if these stand in it. Whether it was tried: not if it is granted.
    async fn put_behind(&self, line: &LineKeys, kv: &KeyValue, there: &[(&Vec<u8>, i64)]) -> Result<bool> {
        let record = Record::decode(kv.value()).ok_or_else(unread)?;
        if record.head.is_granted() {
            return Ok(false);
        }
        let next = line.behind(kv.key(), record.head.priority);
        let mut when: Vec<Compare> =
            there.iter().map(|(key, token)| lines::is_created_at(key, *token)).collect();
        when.push(lines::is_unchanged(kv.key(), kv.mod_revision()));
        let put = TxnOp::put(next.place, kv.value(), Some(PutOptions::new().with_lease(kv.lease())));
        let txn = Txn::new().when(when).and_then([TxnOp::delete(kv.key(), None), put]);
        match self.txn(txn, Resend::Yes).await {
            // Its lease ends just now, and its key with it.
            Err(error) if is_lease_gone(&error) => Ok(true),
            answer => answer.map(|_| true),
        }
    }

    pub(crate) async fn hand_over(&self, from: &Grant, to: ClaimId) -> Result<HandOver> {
        let line = self.line_keys(&from.line);
        if line.shared {
            let message =
                "the etcd backend does not hand over in the layout that is shared with other clients";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let token = from.token.as_i64();
        for _ in 0..TRIES {
            let held = self.registry.get(&from.line, from.id);
            if held.as_ref().is_some_and(|held| held.ended || held.token != Some(token)) {
                return Ok(HandOver::Lost);
            }
            let (all, _) = self.stood(&line).await?;
            let granted = |record: &Record| record.head.id == from.id && record.head.is_granted();
            let holder = all.iter().find(|one| one.place.create_revision() == token);
            let Some(holder) = holder.filter(|one| one.record.as_ref().is_some_and(granted)) else {
                return Ok(HandOver::Lost);
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
            let answer = self.txn(txn, Resend::Yes).await?;
            if answer.succeeded {
                if let Some(held) = held {
                    self.registry.remove(from.id, held.serial);
                }
                return Ok(HandOver::Done);
            }
            if answer.repeated {
                // An earlier copy of it may have done it; then the next look says that it is lost, which is true too.
                tracing::debug!("a hand-over was asked for twice");
            }
        }
        let message = format!("the etcd cluster {}: the line changes all the time", self.config);
        Err(Error::new(ErrorKind::Unavailable, message).with_unknown_effect())
    }
}
