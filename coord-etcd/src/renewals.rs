//! How claims are kept: renewed, given another value, adopted.
//!
//! A renewal keeps each lease alive once, however many claims are on it, and then reads all their keys in one transaction. The
//! read is linearizable, so it also proves that who answered the keep-alive led the cluster: see `leases.rs`.

use std::{collections::HashMap, sync::Arc};

use coord_core::{
    ErrorKind, Result,
    clock::{Clock, Moment},
    spi::{ClaimId, Grant, Renewal},
};
use etcd_client::{GetOptions, KeyValue, Txn, TxnOp, TxnOpResponse};

use crate::{
    claims::unread,
    client::{Shared, seconds},
    error::{is_lease_gone, too_slow},
    leases::Lease,
    lines,
    record::{Record, millis},
    registry::Held,
};

/// How many keys are read by one part of a transaction, and how many parts there are: together within what a server allows that
/// is set up as it is installed (128).
const WIDTH: usize = 40;

/// How often a claim is looked for that changes under the hands.
const TRIES: usize = 4;

/// A grant that may be renewed.
struct Renewing {
    at: usize,
    held: Held,
}

impl Shared {
    pub(crate) async fn renew(&self, grants: &[Grant]) -> Result<Vec<Renewal>> {
        let sent = Clock::System.now();
        let mut renewals = vec![Renewal::Lost; grants.len()];
        // What fails with one of them is no word about the others. It is told if nothing could be done at all.
        let (mut failed, mut done) = (None, false);
        let mut leases: HashMap<i64, Vec<Renewing>> = HashMap::new();
        for (at, grant) in grants.iter().enumerate() {
            match self.found(grant, sent).await {
                Ok(Some(held)) => leases.entry(held.lease.id).or_default().push(Renewing { at, held }),
                Ok(None) => done = true,
                // Then nothing else can be done either.
                Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
                Err(error) => {
                    renewals[at] = Renewal::StillHeld;
                    failed = Some(error);
                }
            }
        }
        // What has ended must not live on with the lease.
        let ended = self.registry.ended().into_iter();
        let ended = ended.filter(|(_, held)| held.leases().any(|lease| leases.contains_key(&lease.id)));
        let (left, error) = self.bury_all(ended.collect()).await;
        failed = error.or(failed);
        let kept = leases.into_iter().map(async |(lease, group)| {
            let places: Vec<_> = group.iter().map(|one| one.at).collect();
            if left.contains(&lease) {
                return (places, None);
            }
            (places, Some(self.renew_on(grants, group, sent).await))
        });
        for (places, kept) in futures_util::future::join_all(kept).await {
            if let Some(Ok(kept)) = kept {
                done = true;
                kept.into_iter().for_each(|(at, renewal)| renewals[at] = renewal);
                continue;
            }
            places.into_iter().for_each(|at| renewals[at] = Renewal::StillHeld);
            failed = kept.and_then(Result::err).or(failed);
        }
        match failed {
            Some(error) if !done => Err(error),
            Some(error) => {
                tracing::debug!(%error, "some of the claims are not renewed");
                Ok(renewals)
            }
            None => Ok(renewals),
        }
    }

    /// The claim that is to be renewed, on a lease that is long enough if there is one; `None` if it is lost.
    async fn found(&self, grant: &Grant, sent: Moment) -> Result<Option<Held>> {
        let held = match self.registry.get(&grant.line, grant.id) {
            Some(held) => Some(held),
            // Not one of this client: it may be in the line all the same.
            None => self.take_over(grant, grant.id, sent).await?,
        };
        let Some(held) = held.filter(|held| is_granted(held, grant)) else { return Ok(None) };
        let held = self.lengthen(grant, held, sent).await?;
        Ok(Some(held).filter(|held| !held.ended))
    }

    /// Moves a claim to a lease that is long enough. A renewal never shortens.
    async fn lengthen(&self, grant: &Grant, mut held: Held, sent: Moment) -> Result<Held> {
        if seconds(grant.ttl) <= held.lease.seconds && held.moving.is_none() {
            return Ok(held);
        }
        let _turn = self.turn(&held).await?;
        // The new lease may end under the hands.
        for _ in 0..TRIES {
            // Somebody else may have moved it meanwhile.
            let Some(now) = self.registry.get(&grant.line, grant.id).filter(|held| !held.ended) else {
                held.ended = true;
                return Ok(held);
            };
            held = now;
            let moving = held.moving.as_ref().map_or(0, |lease| lease.seconds);
            let needed = seconds(grant.ttl).max(moving);
            if needed <= held.lease.seconds && moving == 0 {
                return Ok(held);
            }
            let line = self.line_keys(&grant.line);
            let lease = self.lease_for(&line, needed.max(held.lease.seconds)).await?;
            if lease.arm(self, sent.after(grant.ttl)).await?.is_none() {
                continue;
            }
            // Whoever meets the key there knows that it is ours.
            let noted = self.registry.update(grant.id, held.serial, |held| {
                held.moving = Some(Arc::clone(&lease));
            });
            held.ended = noted.is_none();
            if held.ended {
                return Ok(held);
            }
            let left = Arc::clone(&held.lease);
            let ttl = millis(grant.ttl);
            let longer = |record: &mut Record| record.head.ttl_ms = record.head.ttl_ms.max(ttl);
            self.rewrite(grant.id, &mut held, longer, Some(&lease)).await?;
            if held.ended {
                return Ok(held);
            }
            if held.lease.id == lease.id {
                if line.shared {
                    self.give_up(left.id);
                }
                return Ok(held);
            }
        }
        Ok(held)
    }

    /// Waits until nobody else writes the claim.
    async fn turn(&self, held: &Held) -> Result<tokio::sync::OwnedMutexGuard<()>> {
        let turn = Arc::clone(&held.turn).lock_owned();
        let turn = tokio::time::timeout(self.config.timeout(), turn).await;
        turn.map_err(|_| too_slow(&self.config, false))
    }

    /// Writes a claim anew, on this lease or on the one that it is on; `held` is then as it is stored, or has ended.
    async fn rewrite(
        &self,
        id: ClaimId,
        held: &mut Held,
        change: impl Fn(&mut Record),
        lease: Option<&Arc<Lease>>,
    ) -> Result<()> {
        for _ in 0..TRIES {
            let mut record = held.record.clone();
            change(&mut record);
            let (keys, token) = (&held.keys, held.token.unwrap_or_default());
            let txn = Txn::new()
                .when([
                    lines::is_created_at(&keys.place, token),
                    lines::is_unchanged(&keys.record, held.version),
                ])
                .and_then(lines::put(keys, &record, lease.map(|lease| lease.id)))
                .or_else([lines::get(&keys.record)]);
            let answer = match self.txn(txn).await {
                Err(error) if is_lease_gone(&error) => {
                    lease.inspect(|lease| self.lease_ended(lease));
                    return Ok(());
                }
                answer => answer?,
            };
            let version = match &answer.parts[..] {
                [TxnOpResponse::Put(_), ..] => answer.revision,
                [TxnOpResponse::Get(found)] => {
                    let Some(kv) = found.kvs().first() else { break };
                    let Some(stored) = self.own_record(id, held, kv) else { break };
                    let there = lease.is_none_or(|lease| lease.id == kv.lease());
                    if stored == record && there {
                        // An earlier copy of this request did it.
                        kv.mod_revision()
                    } else {
                        // A request that was given up was done all the same.
                        (held.version, held.record) = (kv.mod_revision(), stored);
                        continue;
                    }
                }
                _ => return Err(unread()),
            };
            (held.version, held.record) = (version, record);
            if let Some(lease) = lease {
                held.lease = Arc::clone(lease);
            }
            let now = held.clone();
            let noted = self.registry.update(id, held.serial, move |entry| {
                if now.version > entry.version {
                    (entry.version, entry.record) = (now.version, now.record);
                    if entry.moving.as_ref().is_some_and(|moving| moving.id == now.lease.id) {
                        (entry.lease, entry.moving) = (now.lease, None);
                    }
                }
            });
            held.ended = noted.is_none();
            return Ok(());
        }
        self.registry.remove(id, held.serial);
        held.ended = true;
        Ok(())
    }

    /// What is stored at a claim's key, if it is the claim of this client still, and nobody adopted it.
    pub(crate) fn own_record(&self, id: ClaimId, held: &Held, kv: &KeyValue) -> Option<Record> {
        let record = Record::decode(kv.value())?;
        let same = held.token.is_none_or(|token| token == kv.create_revision());
        (same && record.head.id == id && record.head.client == self.id).then_some(record)
    }

    /// Renews the claims on one lease; answers what became of which.
    async fn renew_on(
        &self,
        grants: &[Grant],
        group: Vec<Renewing>,
        sent: Moment,
    ) -> Result<Vec<(usize, Renewal)>> {
        let lease = group[0].held.lease.clone();
        let longest = group.iter().map(|one| grants[one.at].ttl).max().unwrap_or_default();
        let lost = || {
            self.lease_ended(&lease);
            group.iter().for_each(|one| self.registry.remove(grants[one.at].id, one.held.serial));
            Ok(Vec::new())
        };
        let until = sent.after(longest.min(lease.granted));
        let Some(kept) = lease.arm(self, until).await? else { return lost() };
        let (found, read) = self.read_keys(group.iter().map(|one| one.held.keys.place.as_slice())).await?;
        if !lease.prove(self, kept, read).await? {
            return lost();
        }
        let mut renewals = Vec::new();
        for one in &group {
            let grant = &grants[one.at];
            let there = found.get(one.held.keys.place.as_slice());
            let Some(kv) = there.filter(|kv| Some(kv.create_revision()) == one.held.token) else {
                self.registry.remove(grant.id, one.held.serial);
                continue;
            };
            let end = sent.after(grant.ttl.min(lease.granted));
            let noted = self.registry.update(grant.id, one.held.serial, |held| {
                if kv.lease() == lease.id {
                    held.deadline = held.deadline.max(end);
                    // It could not be moved to a longer one, so it is not kept for as long as was asked.
                    let enough = lease.granted >= grant.ttl;
                    return if enough { Renewal::Renewed } else { Renewal::StillHeld };
                }
                // Another renewal is about to move it, or did, to a lease that is longer, perhaps after it was read.
                let moved = held.version > kv.mod_revision()
                    || held.moving.iter().chain([&held.lease]).any(|lease| lease.id == kv.lease());
                if moved { Renewal::StillHeld } else { Renewal::Lost }
            });
            match noted {
                None => {}
                // Somebody adopted it.
                Some(Renewal::Lost) => self.registry.remove(grant.id, one.held.serial),
                Some(renewal) => renewals.push((one.at, renewal)),
            }
        }
        Ok(renewals)
    }

    /// The keys that are there of these, without their values, and the term in which they were read.
    async fn read_keys<'a>(
        &self,
        keys: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(HashMap<Vec<u8>, KeyValue>, u64)> {
        let look = |key: &[u8]| TxnOp::get(key, Some(GetOptions::new().with_keys_only()));
        let gets: Vec<_> = keys.map(look).collect();
        let (mut found, mut term) = (HashMap::new(), 0);
        for gets in gets.chunks(WIDTH * WIDTH) {
            let parts: Vec<_> =
                gets.chunks(WIDTH).map(|gets| TxnOp::txn(Txn::new().and_then(gets.to_vec()))).collect();
            let answer = self.txn(Txn::new().and_then(parts)).await?;
            term = answer.term;
            for part in &answer.parts {
                let TxnOpResponse::Txn(part) = part else { return Err(unread()) };
                for get in part.op_responses() {
                    let TxnOpResponse::Get(mut get) = get else { return Err(unread()) };
                    found.extend(get.take_kvs().into_iter().map(|kv| (kv.key().to_vec(), kv)));
                }
            }
        }
        Ok((found, term))
    }

    pub(crate) async fn set_value(&self, grant: &Grant, value: &[u8]) -> Result<Renewal> {
        let held = match self.registry.get(&grant.line, grant.id) {
            Some(held) => Some(held),
            None => self.take_over(grant, grant.id, Clock::System.now()).await?,
        };
        let Some(mut held) = held.filter(|held| is_granted(held, grant)) else {
            return Ok(Renewal::Lost);
        };
        let _turn = self.turn(&held).await?;
        match self.registry.get(&grant.line, grant.id).filter(|now| !now.ended && now.serial == held.serial) {
            Some(now) => held = now,
            None => return Ok(Renewal::Lost),
        }
        self.rewrite(grant.id, &mut held, |record| record.value = value.to_vec(), None).await?;
        Ok(if held.ended { Renewal::Lost } else { Renewal::StillHeld })
    }

    pub(crate) async fn adopt(&self, from: &Grant, to: ClaimId) -> Result<Renewal> {
        let sent = Clock::System.now();
        let old = self.registry.get(&from.line, from.id);
        if old.as_ref().is_some_and(|old| old.ended) {
            return Ok(Renewal::Lost);
        }
        let Some(_) = self.take_over(from, to, sent).await? else { return Ok(Renewal::Lost) };
        if let Some(old) = old {
            // Its key goes on under the new id.
            self.registry.remove(from.id, old.serial);
        }
        let renewed = self.renew_known(&Grant { id: to, ..from.clone() }, sent).await?;
        self.hub.hear_notices();
        Ok(renewed)
    }

    async fn renew_known(&self, grant: &Grant, sent: Moment) -> Result<Renewal> {
        let held = self.registry.get(&grant.line, grant.id);
        let Some(held) = held.filter(|held| !held.ended) else { return Ok(Renewal::Lost) };
        let group = vec![Renewing { at: 0, held }];
        let renewed = self.renew_on(std::slice::from_ref(grant), group, sent).await?;
        Ok(renewed.first().map_or(Renewal::Lost, |(_, renewal)| *renewal))
    }

    /// Gives a granted claim that is in the line, whosever it is, this id and a lease of this client. `None`: it is not there.
    async fn take_over(&self, from: &Grant, to: ClaimId, sent: Moment) -> Result<Option<Held>> {
        let line = self.line_keys(&from.line);
        let token = from.token.as_i64();
        for _ in 0..TRIES {
            let found = self.get(line.records.clone(), line.who_joined_at(token)).await?;
            let Some(kv) = found.kvs.first() else { return Ok(None) };
            let Some(mut record) = Record::decode(kv.value()) else { return Err(unread()) };
            if !record.head.is_granted() || (record.head.id != from.id && record.head.id != to) {
                return Ok(None);
            }
            let lease = self.lease_for(&line, seconds(from.ttl)).await?;
            if lease.arm(self, sent.after(from.ttl)).await?.is_none() {
                continue;
            }
            record.head.id = to;
            record.head.client.clone_from(&self.id);
            record.head.ttl_ms = millis(from.ttl);
            let mut held = Held {
                serial: 0,
                line: from.line.clone(),
                keys: line.by_record(kv.key()),
                alone: line.shared,
                token: Some(token),
                version: kv.mod_revision(),
                record,
                deadline: sent.after(from.ttl.min(lease.granted)),
                ended: false,
                leaving: false,
                moving: None,
                turn: Arc::default(),
                lease,
            };
            let keys = &held.keys;
            let txn = Txn::new()
                .when([
                    lines::is_created_at(&keys.place, token),
                    lines::is_unchanged(&keys.record, held.version),
                ])
                .and_then(lines::put(keys, &held.record, Some(held.lease.id)));
            // Known before it is sent: what may be on the lease must be known.
            held.serial = self.registry.enter(to, held.clone());
            match self.txn(txn).await {
                Ok(answer) if answer.succeeded => {
                    held.version = answer.revision;
                    let noted =
                        self.registry.update(to, held.serial, |entry| entry.version = answer.revision);
                    held.ended = noted.is_none();
                    return Ok(Some(held));
                }
                Ok(_) => self.registry.remove(to, held.serial),
                Err(error) if is_lease_gone(&error) => {
                    // First, for what is there is not over: it never came to this lease.
                    self.registry.remove(to, held.serial);
                    self.lease_ended(&held.lease);
                }
                Err(error) => {
                    held.lease.suspect();
                    return Err(error);
                }
            }
        }
        Ok(None)
    }
}

/// Whether the claim is this grant.
fn is_granted(held: &Held, grant: &Grant) -> bool {
    !held.ended && held.record.head.is_granted() && held.token == Some(grant.token.as_i64())
}
