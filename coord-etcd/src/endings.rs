//! How claims end: withdrawn, expired, and those that nobody knows of; and how a line is read.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use coord_core::{
    Error, ErrorKind, Result,
    clock::{Clock, Moment},
    limits,
    spi::{ALL, ClaimId, Entry, Line, LineId},
};
use etcd_client::{KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse};
use futures_util::StreamExt;

use crate::{
    claims::{foreign, token_of, unread},
    client::{Shared, Store},
    keys,
    leases::Lease,
    lines::{self, LineKeys},
    record::Record,
    registry::Held,
};

/// One who stands in a line.
pub(crate) struct Stood {
    pub(crate) place: KeyValue,
    /// `None`: a client of another library.
    pub(crate) record: Option<Record>,
    /// The last revision of the record; 0 if there is none.
    pub(crate) version: i64,
}

impl Stood {
    /// Its id; that of a client of another library is made of its token.
    pub(crate) fn id(&self) -> ClaimId {
        self.record.as_ref().map_or_else(
            || {
                let mut bytes = [0; 16];
                bytes[8..].copy_from_slice(&self.place.create_revision().to_be_bytes());
                ClaimId::from_bytes(bytes)
            },
            |record| record.head.id,
        )
    }
}

/// How often a claim is looked for that changes under the hands.
const TRIES: usize = 8;

/// How long a notice to another client is kept.
const NOTICE: Duration = Duration::from_secs(30);

/// How long after a failure the keys of ended claims are deleted again.
const AGAIN: Duration = Duration::from_millis(500);

/// How many are deleted at a time.
const AT_A_TIME: usize = 16;

/// How many leases of others are asked for how long they run, to show a line.
const ASKED: usize = 8;

/// How long the client may take to end leases that it does not need.
const TO_REVOKE: Duration = Duration::from_secs(2);

impl Shared {
    pub(crate) async fn withdraw(&self, line: &LineId, id: ClaimId) -> Result<()> {
        self.hub.settled(id);
        match self.registry.get(line, id) {
            Some(held) => {
                // Whatever comes of it, nothing prolongs it any more.
                let _leaving = self.registry.leave(id, held.serial);
                self.bury(id, &held).await
            }
            None => self.evict(line, id).await,
        }
    }

    /// Deletes the key of a claim that ended or is withdrawn, and forgets the claim.
    pub(crate) async fn bury(&self, id: ClaimId, held: &Held) -> Result<()> {
        if held.alone {
            // Its keys end with its lease. If somebody adopted it, they are on another one.
            for lease in held.leases() {
                self.revoke(lease.id).await?;
                lease.end();
            }
            self.registry.remove(id, held.serial);
            return Ok(());
        }
        if !held.record.head.is_granted() {
            self.bury_waiting(id, held).await?;
            self.registry.remove(id, held.serial);
            return Ok(());
        }
        let (mut version, keys) = (held.version, &held.keys);
        for _ in 0..TRIES {
            if held.lease.is_gone() && held.moving.is_none() {
                break;
            }
            let when = match held.token {
                Some(token) => {
                    vec![lines::is_created_at(&keys.place, token), lines::is_unchanged(&keys.record, version)]
                }
                None => vec![lines::is_on(&keys.place, held.lease.id)],
            };
            let txn = Txn::new().when(when).and_then(lines::delete(keys)).or_else([lines::get(&keys.record)]);
            let answer = self.txn(txn).await?;
            let [TxnOpResponse::Get(found)] = &answer.parts[..] else { break };
            // A request without an answer may have changed it; and somebody may have adopted it.
            match found.kvs().first() {
                Some(kv) if held.token.is_some() && self.own_record(id, held, kv).is_some() => {
                    version = kv.mod_revision();
                }
                _ => break,
            }
        }
        self.registry.remove(id, held.serial);
        Ok(())
    }

    /// Deletes the key of a claim that waited, as it was seen, and not one that it got since then: the claim may have joined again
    /// under the same id, perhaps been granted, while this was on its way.
    async fn bury_waiting(&self, id: ClaimId, held: &Held) -> Result<()> {
        let line = self.line_keys(&held.line);
        let mut seen = held.token;
        if seen.is_none() {
            // A copy of its request may come yet.
            held.lease.suspect();
        }
        for _ in 0..TRIES {
            // Nobody can have adopted it, and whoever overtook it gave it another key.
            let look = line.own(&held.keys);
            let txn = match seen {
                Some(seen) => Txn::new()
                    .when([line.is_not_newer(&held.keys, seen)])
                    .and_then(line.remove(&held.keys))
                    .or_else([look]),
                // It is not known whether it is there.
                None => Txn::new().and_then([look]),
            };
            let answer = self.txn(txn).await?;
            let [TxnOpResponse::Get(found)] = &answer.parts[..] else { return Ok(()) };
            let newest = found.kvs().iter().map(KeyValue::create_revision).max();
            // What was found is this claim's, for another one of its id would have entered before it joined.
            if newest.is_none() || !self.registry.has(id, held.serial) {
                return Ok(());
            }
            seen = newest;
        }
        let message = format!("the etcd cluster {}: the claim changes all the time", self.config);
        Err(Error::new(ErrorKind::Unavailable, message).with_unknown_effect())
    }

    /// Deletes the keys of claims that have ended. Answers on which leases there may be keys of them still, and what went wrong.
    pub(crate) async fn bury_all(&self, ended: Vec<(ClaimId, Held)>) -> (HashSet<i64>, Option<Error>) {
        let burials = ended.into_iter().map(|(id, held)| async move {
            // It may have joined again while others were buried.
            if !self.registry.has(id, held.serial) {
                return None;
            }
            self.hub.settled(id);
            self.hub.hint_claim(id);
            let error = self.bury(id, &held).await.err()?;
            Some((held, error))
        });
        let mut burials = futures_util::stream::iter(burials).buffer_unordered(AT_A_TIME);
        let (mut left, mut failed) = (HashSet::new(), None);
        while let Some(buried) = burials.next().await {
            let Some((held, error)) = buried else { continue };
            tracing::debug!(%error, "a claim that has ended is not deleted yet");
            left.extend(held.leases().map(|lease| lease.id));
            failed = Some(error);
        }
        (left, failed)
    }

    /// Has a lease ended under which nothing stands.
    pub(crate) fn give_up(&self, lease: i64) {
        self.leases.unused().push(lease);
        self.registry.changed.notify_one();
    }

    /// Ends the leases that were given up. They end by themselves otherwise.
    async fn revoke_unused(&self) {
        let unused = std::mem::take(&mut *self.leases.unused());
        if !unused.is_empty() {
            let revoked = unused.into_iter().map(|lease| self.revoke(lease));
            let _ = tokio::time::timeout(TO_REVOKE, futures_util::future::join_all(revoked)).await;
        }
    }

    /// Takes out a claim that is not one of this client.
    async fn evict(&self, line: &LineId, id: ClaimId) -> Result<()> {
        let keys = self.line_keys(line);
        for _ in 0..TRIES {
            let (all, _) = self.stood(&keys).await?;
            let Some(one) = all.into_iter().find(|one| one.id() == id) else { return Ok(()) };
            let claim = keys.called(one.place.key().get(keys.prefix.len()..).unwrap_or_default());
            let mut then = lines::delete(&claim);
            // Its client learns it at its next renewal, and by this at once.
            if let Some(record) = &one.record
                && record.head.client != self.id
                && let Ok(lease) = self.rubbish(NOTICE).await
            {
                let notice = notice_key(&record.head.client, id);
                then.push(TxnOp::put(notice, "", Some(PutOptions::new().with_lease(lease))));
            }
            let when = [
                lines::is_created_at(&claim.place, one.place.create_revision()),
                lines::is_unchanged(&claim.record, one.version),
            ];
            let txn = Txn::new().when(when).and_then(then);
            match self.txn(txn).await {
                Ok(answer) if answer.succeeded => return Ok(()),
                Ok(_) => {}
                Err(error) if crate::error::is_lease_gone(&error) => self.forget_all_rubbish(),
                Err(error) => return Err(error),
            }
        }
        let message = format!("the etcd cluster {}: the claim changes all the time", self.config);
        Err(Error::new(ErrorKind::Unavailable, message).with_unknown_effect())
    }

    pub(crate) async fn line(&self, line: &LineId) -> Result<Line> {
        let keys = self.line_keys(line);
        let (all, revision) = self.stood(&keys).await?;
        let mut entries = Vec::with_capacity(all.len());
        for one in &all {
            let kv = &one.place;
            let own = self.registry.left(one.id(), kv.create_revision());
            if own == Some(Duration::ZERO) {
                // It has expired and is about to be deleted.
                continue;
            }
            let token = token_of(kv.create_revision())?;
            entries.push(match &one.record {
                Some(Record { head, value }) => Entry {
                    id: head.id,
                    token,
                    weight: head.weight,
                    limit: head.limit,
                    priority: head.priority,
                    granted: head.granted_at(),
                    joined: head.joined_at(),
                    expires_in: own.unwrap_or_else(|| head.ttl()),
                    owner: head.owner.clone(),
                    value: value.clone(),
                },
                // Another client's, which tells nothing but its value. The first one holds.
                None => Entry {
                    id: one.id(),
                    token,
                    weight: ALL,
                    limit: ALL,
                    priority: 0,
                    granted: entries.is_empty().then_some(UNIX_EPOCH),
                    joined: UNIX_EPOCH,
                    expires_in: limits::MAX_TTL,
                    owner: foreign(kv.lease()),
                    value: kv.value().to_vec(),
                },
            });
        }
        let kvs: Vec<_> = all.into_iter().map(|one| one.place).collect();
        self.ask_ends(&kvs, &mut entries).await;
        Ok(Line { revision: u64::try_from(revision).unwrap_or_default(), entries })
    }

    /// Everybody in a line, in order, and the revision at which they were.
    pub(crate) async fn stood(&self, keys: &LineKeys) -> Result<(Vec<Stood>, i64)> {
        let answer = self.txn(keys.everybody()).await?;
        let mut ranges = Vec::new();
        for part in answer.parts {
            let TxnOpResponse::Get(mut get) = part else { return Err(unread()) };
            ranges.push(get.take_kvs());
        }
        let mut ranges = ranges.into_iter();
        let mut places = ranges.next().unwrap_or_default();
        places.sort_by_key(KeyValue::create_revision);
        let records: Option<HashMap<Vec<u8>, KeyValue>> =
            ranges.next().map(|kvs| kvs.into_iter().map(|kv| (kv.key().to_vec(), kv)).collect());
        let read = |kv: &KeyValue| Record::decode(kv.value()).ok_or_else(unread);
        let stood = places.into_iter().map(|place| {
            let Some(records) = &records else {
                let (record, version) = (Some(read(&place)?), place.mod_revision());
                return Ok(Stood { place, record, version });
            };
            let name = place.key().get(keys.prefix.len()..).unwrap_or_default();
            // One that was left from an earlier claim is none of this.
            let kv = records.get(&keys.called(name).record);
            let kv = kv.filter(|kv| kv.create_revision() == place.create_revision());
            let version = kv.map_or(0, KeyValue::mod_revision);
            Ok(Stood { record: kv.map(read).transpose()?, version, place })
        });
        Ok((stood.collect::<Result<_>>()?, answer.revision))
    }

    /// How long the claims of others still run, as far as the server tells in whole seconds; for the first few leases.
    async fn ask_ends(&self, kvs: &[KeyValue], entries: &mut [Entry]) {
        let lease_of: HashMap<_, _> = kvs.iter().map(|kv| (kv.create_revision(), kv.lease())).collect();
        let others = entries.iter().filter(|one| self.registry.left(one.id, one.token.as_i64()).is_none());
        let others: HashMap<_, _> =
            others.filter_map(|one| Some((*lease_of.get(&one.token.as_i64())?, ()))).collect();
        let asked = others.into_keys().take(ASKED).map(async |lease| {
            let state = self.time_to_live(lease, false).await.ok()?;
            Some((lease, state.left.unwrap_or_default()))
        });
        let left: HashMap<_, _> = futures_util::future::join_all(asked).await.into_iter().flatten().collect();
        for entry in entries {
            let lease = lease_of.get(&entry.token.as_i64());
            if let Some(left) = lease.and_then(|lease| left.get(lease)) {
                // The server rounds down.
                entry.expires_in = entry.expires_in.min(*left + Duration::from_secs(1));
            }
        }
    }

    /// Deletes keys that are on a lease and that nobody here knows of: put by requests that came late, after their claim was
    /// withdrawn.
    async fn audit(&self, lease: &Lease) -> Result<()> {
        let state = self.time_to_live(lease.id, true).await?;
        let prefix = [keys::ROOT, "c/"].concat();
        for key in state.keys {
            if !key.starts_with(prefix.as_bytes()) || self.registry.knows(&key) {
                continue;
            }
            tracing::debug!("a claim that nobody knows of is removed");
            let delete = TxnOp::delete(key.clone(), None);
            let txn = Txn::new().when([lines::is_on(&key, lease.id)]).and_then([delete]);
            self.txn(txn).await?;
        }
        Ok(())
    }
}

/// Where a client is told that a claim of it was taken away.
pub(crate) fn notices(client: &str) -> Vec<u8> {
    format!("{}n/{client}/", keys::ROOT).into_bytes()
}

fn notice_key(client: &str, id: ClaimId) -> Vec<u8> {
    let mut key = notices(client);
    key.extend_from_slice(keys::hex(id.as_bytes()).as_bytes());
    key
}

/// Deletes the keys of claims as they end, until the client is closed.
pub(crate) async fn sweep(shared: Arc<Shared>) {
    let mut audited = Clock::System.now();
    while !shared.is_closed() {
        shared.revoke_unused().await;
        let suspects: Vec<_> = shared.leases.all().into_iter().filter(|lease| lease.is_suspect()).collect();
        let audit = suspects.iter().map(|lease| lease.granted / 3).min().unwrap_or(Duration::MAX);
        let (ended, next) = shared.registry.ended_or_next();
        let busy = !ended.is_empty();
        if shared.bury_all(ended).await.1.is_some() {
            tokio::time::sleep(AGAIN).await;
        }
        let due = audited.after(audit);
        if due <= Clock::System.now() {
            for lease in &suspects {
                if let Err(error) = shared.audit(lease).await {
                    tracing::debug!(%error, "a lease was not looked through");
                }
            }
            audited = Clock::System.now();
            continue;
        }
        if busy {
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(next.min(until(due))) => {}
            () = shared.registry.changed.notified() => {}
        }
    }
}

fn until(moment: Moment) -> Duration {
    moment.since(Clock::System.now())
}

impl Store {
    /// Ends the background work, the leases that no claim is on, and the connections.
    pub(crate) async fn shut(&self) {
        self.stop();
        let shared = &self.shared;
        let unused = shared.leases.all().into_iter().filter(|lease| !shared.registry.uses(lease.id));
        unused.filter(|lease| !lease.is_gone()).for_each(|lease| shared.give_up(lease.id));
        shared.revoke_unused().await;
        self.end();
    }
}

#[cfg(test)]
mod tests;
