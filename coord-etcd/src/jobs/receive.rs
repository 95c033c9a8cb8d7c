//! Receives: what is ready is found, and leased.
//!
//! The items that can be delivered stand in their order behind `r/`, and nothing else does; so a look reads as many of them as are
//! asked for, however many there are. A lease that ended leaves its item waiting: there are more items that wait than leases, and
//! who looks puts those back. What is taken is taken on condition that it is still ready; who comes second takes the next.

use std::collections::{BTreeSet, HashMap};

use coord_core::{
    Effect, Error, Result,
    spi::jobs::{Delivered, ItemId, Receive, Received},
};
use etcd_client::{KeyValue, TxnOp};

use super::{
    Pace, SOON,
    record::{Keys, LEASES, Record, State, WAITING, Wait, digits, id, id_at_end, token},
};
use crate::{
    client::Shared,
    error::{is_lease_gone, misread},
    keys::hex,
    step::{Parts, absent, all, count, delete, get, lend, look, present, put, range, spread, txn, unchanged},
};

/// How many bytes are delivered at once, but for one item.
const BYTES: u32 = 2 * 1024 * 1024;

/// How many items a receive of one item has in view, should others take the first ones.
const VIEW: usize = 8;

/// How many items are put back in one step.
const BATCH: usize = 200;

/// A queue as a receive sees it.
struct View {
    /// The items that this receive tried to take before, and the revision of that; 0: it did not.
    tried: (Vec<ItemId>, i64),
    /// The first items that are ready, each with the revision of its key.
    ready: Vec<(Record, i64)>,
    /// How many items wait for the end of a lease, and how many leases there are.
    waiting: (u64, u64),
}

/// What a lease is called by the server, and how long it was granted for, in digits.
struct Lease(i64, String);

impl Shared {
    pub(super) async fn receive(&self, receive: &Receive) -> Result<Received> {
        let pause = self.crowds.pause(&receive.queue);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let (mut lease, mut doubt) = (None, false);
        let received = self.receive_under(receive, &mut lease, &mut doubt).await;
        let received = received.map_err(|error| if doubt { error.with_unknown_effect() } else { error });
        if let Ok(received) = &received {
            self.crowds.ended(&receive.queue, !received.deliveries.is_empty());
        }
        if let Some(Lease(id, _)) = lease {
            self.give_up(id);
        }
        received
    }

    /// The same; a lease that was made and under which nothing stands is left in `lease`. There is `doubt` once an earlier copy of
    /// a request may have taken something: then that is in nobody's hands, and runs since that request.
    async fn receive_under(
        &self,
        receive: &Receive,
        lease: &mut Option<Lease>,
        doubt: &mut bool,
    ) -> Result<Received> {
        let (keys, mut pace) = (Keys::of(&receive.queue), Pace::default());
        loop {
            let view = self.view(&keys, receive).await?;
            if view.tried.1 > 0 {
                *doubt = true;
                let again = self.again(&keys, receive, &view).await?;
                if !again.is_empty() {
                    return Ok(Received { deliveries: again, look_again_in: None });
                }
            }
            if view.waiting.0 > view.waiting.1 {
                self.put_back(&keys).await?;
                pace.count()?;
                continue;
            }
            let (spent, ready): (Vec<_>, Vec<_>) =
                view.ready.into_iter().partition(|(record, _)| record.is_spent(receive.max_attempts));
            if !spent.is_empty() {
                for (record, revision) in spent {
                    self.bury_ready(&keys, &record, revision).await?;
                }
                pace.count()?;
                continue;
            }
            if ready.is_empty() {
                let look_again_in = (view.waiting.1 > 0).then_some(SOON);
                return Ok(Received { deliveries: Vec::new(), look_again_in });
            }
            let under = match lease.take() {
                Some(lease) => lease,
                None => {
                    let (id, granted) = self.grant(receive.visibility).await?;
                    Lease(id, digits(granted))
                }
            };
            match self.take(&keys, receive, view.tried.1, ready, &under).await {
                Ok(Some(deliveries)) if !deliveries.is_empty() => {
                    return Ok(Received { deliveries, look_again_in: None });
                }
                Ok(taken) => {
                    *doubt |= taken.is_none();
                    *lease = taken.map(|_| under);
                    self.crowds.lost(&receive.queue);
                    pace.wait().await?;
                }
                Err(error) if is_lease_gone(&error) && error.effect() == Effect::None => pace.wait().await?,
                Err(error) => {
                    if error.effect() == Effect::None {
                        *lease = Some(under);
                    }
                    return Err(error);
                }
            }
        }
    }

    async fn view(&self, keys: &Keys, receive: &Receive) -> Result<View> {
        let most = (receive.limit as usize).max(VIEW);
        let ready = keys.all("r/");
        let first = range(&ready).with_limit(i64::try_from(most).unwrap_or(i64::MAX));
        let reads = vec![
            get(keys.receive(receive.id)),
            TxnOp::get(ready, Some(first)),
            count(&keys.all(WAITING)),
            count(&keys.all(LEASES)),
        ];
        let mut parts = Parts::of(self.txn(all(reads)).await?);
        let tried = match parts.kv()? {
            Some(kv) => (kv.value().chunks(32).map(id).collect::<Result<_>>()?, kv.mod_revision()),
            None => (Vec::new(), 0),
        };
        let read = |kv: &KeyValue| Ok((Record::read(kv)?, kv.mod_revision()));
        let ready = parts.kvs()?.iter().map(read).collect::<Result<_>>()?;
        Ok(View { tried, ready, waiting: (parts.count()?, parts.count()?) })
    }

    /// What this receive took before, as far as it still has it.
    async fn again(&self, keys: &Keys, receive: &Receive, view: &View) -> Result<Vec<Delivered>> {
        let (tried, made) = &view.tried;
        let reads = tried.iter().map(|id| {
            all(vec![get(keys.item(*id)), look(keys.lease(Wait::Delivery, *id)), get(keys.payload(*id))])
        });
        let mut parts = Parts::of(self.txn(all(spread(reads.collect()))).await?);
        let mut deliveries = Vec::new();
        for mut parts in parts.gathered(tried.len())? {
            let [item, lease, payload] = [parts.kv()?, parts.kv()?, parts.kv()?];
            let (Some(item), Some(_), Some(payload)) = (item, lease, payload) else { continue };
            let record = Record::read(&item)?;
            if let State::Taken(by, number) = record.state
                && by == receive.id
                && item.mod_revision() == *made
            {
                deliveries.push(record.delivered(token(*made, number)?, payload.value().to_vec()));
            }
        }
        deliveries.sort_by_key(|delivered| delivered.token);
        Ok(deliveries)
    }

    /// Takes what is ready and not taken by others meanwhile. `None`: nothing, but an earlier copy of the request may have.
    async fn take(
        &self,
        keys: &Keys,
        receive: &Receive,
        tried: i64,
        ready: Vec<(Record, i64)>,
        Lease(lease, granted): &Lease,
    ) -> Result<Option<Vec<Delivered>>> {
        let (mut bytes, mut number) = (0, 0);
        let fits = |(record, _): &(Record, i64)| {
            bytes = record.size.saturating_add(bytes);
            number += 1;
            number == 1 || bytes <= BYTES
        };
        let one = receive.limit == 1;
        let most = if one { VIEW } else { receive.limit as usize };
        let mut items = Vec::new();
        for (place, (record, revision)) in ready.into_iter().take(most).take_while(fits).enumerate() {
            let number = if one { 0 } else { u16::try_from(place).unwrap_or(u16::MAX) };
            let attempts = record.attempts.saturating_add(1);
            let taken = Record { state: State::Taken(receive.id, number), attempts, ..record.clone() };
            let then = vec![
                get(keys.payload(record.id)),
                delete(keys.ready(&record)),
                put(keys.item(record.id), taken.bytes()),
                put(keys.waits(Wait::Delivery, record.id), ""),
                lend(keys.lease(Wait::Delivery, record.id), granted.as_str(), *lease),
            ];
            let compare = unchanged(keys.ready(&record), revision);
            items.push((taken, number, compare, then));
        }
        let ids: String = items.iter().map(|(taken, ..)| hex(taken.id.as_bytes())).collect();
        let key = keys.receive(receive.id);
        let mut then = vec![lend(key.clone(), ids, *lease)];
        let mut taken = Vec::with_capacity(items.len());
        if one {
            // The first of them that nobody else took.
            let mut chain = Vec::new();
            for (record, number, compare, operations) in items.into_iter().rev() {
                taken.insert(0, (record, number));
                chain = vec![TxnOp::txn(txn(vec![compare], operations, chain))];
            }
            then.extend(chain);
        } else {
            let mut steps = Vec::with_capacity(items.len());
            for (record, number, compare, operations) in items {
                taken.push((record, number));
                steps.push(txn(vec![compare], operations, Vec::new()));
            }
            then.extend(spread(steps));
        }
        let answer = self.txn(txn(vec![unchanged(key, tried)], then, Vec::new())).await?;
        let (revision, repeated, mut parts) = (answer.revision, answer.repeated, Parts::of(answer));
        if !parts.succeeded {
            return Ok((!repeated).then(Vec::new));
        }
        let read = |parts: &mut Parts| -> Result<Vec<Delivered>> {
            parts.skip(1);
            let mut deliveries = Vec::new();
            let mut deliver = |(record, number): (Record, u16), parts: &mut Parts| {
                let payload = parts.kv()?.ok_or_else(|| misread("what an item carries"))?;
                deliveries.push(record.delivered(token(revision, number)?, payload.value().to_vec()));
                Ok::<_, Error>(())
            };
            if one {
                let mut parts = parts.nested()?;
                let last = taken.len() - 1;
                for (place, item) in taken.into_iter().enumerate() {
                    if parts.succeeded {
                        deliver(item, &mut parts)?;
                        break;
                    }
                    if place < last {
                        parts = parts.nested()?;
                    }
                }
            } else {
                let steps = parts.gathered(taken.len())?;
                for (item, mut parts) in taken.into_iter().zip(steps) {
                    if parts.succeeded {
                        deliver(item, &mut parts)?;
                    }
                }
            }
            Ok(deliveries)
        };
        read(&mut parts).map(Some).map_err(Error::with_unknown_effect)
    }

    /// Puts those back whose leases have ended, some hundred of them. Whether there may be more.
    pub(super) async fn put_back(&self, keys: &Keys) -> Result<bool> {
        let names = |prefix: &str| TxnOp::get(prefix, Some(range(prefix).with_keys_only()));
        let mut parts =
            Parts::of(self.txn(all(vec![names(&keys.all(WAITING)), names(&keys.all(LEASES))])).await?);
        // In both places they are called the same.
        let skip = keys.all(WAITING).len();
        let (waiting, leases) = (parts.kvs()?, parts.kvs()?);
        let leases: BTreeSet<_> = leases.iter().map(|kv| &kv.key()[skip..]).collect();
        let over = waiting.iter().map(|kv| &kv.key()[skip..]).filter(|name| !leases.contains(name));
        let over: Vec<_> = over
            .take(BATCH)
            .map(|name| {
                let wait = if name.starts_with(b"d/") { Wait::Delay } else { Wait::Delivery };
                Ok((wait, id_at_end(name)?))
            })
            .collect::<Result<_>>()?;
        if over.is_empty() {
            return Ok(false);
        }
        let reads = over.iter().map(|(_, id)| all(vec![get(keys.item(*id))])).collect();
        let mut parts = Parts::of(self.txn(all(spread(reads))).await?);
        let mut items = Vec::new();
        for ((wait, id), mut parts) in over.iter().zip(parts.gathered(over.len())?) {
            let item =
                parts.kv()?.map(|kv| Ok::<_, Error>((Record::read(&kv)?, kv.mod_revision()))).transpose()?;
            items.push((*wait, *id, item));
        }
        let firsts = self
            .firsts(keys, items.iter().filter_map(|(_, _, item)| item.as_ref()?.0.group.as_deref()))
            .await?;
        let steps: Vec<_> = items
            .iter()
            .map(|(wait, id, item)| {
                // It still waits for the same: by now somebody else may have put it back, and a third one may have it in hand.
                let mut when = vec![present(keys.waits(*wait, *id)), absent(keys.lease(*wait, *id))];
                let waits = delete(keys.waits(*wait, *id));
                match item {
                    None => {
                        when.push(absent(keys.item(*id)));
                        txn(when, vec![waits], Vec::new())
                    }
                    Some((record, revision)) => {
                        let ready = record.in_state(State::Ready);
                        let mut then = vec![waits, put(keys.item(*id), ready.bytes())];
                        let first = |group: &String| {
                            firsts.get(group.as_str()).is_some_and(|place| *place == record.place)
                        };
                        if record.group.as_ref().is_none_or(first) {
                            then.push(put(keys.ready(record), ready.bytes()));
                        }
                        when.push(unchanged(keys.item(*id), *revision));
                        txn(when, then, Vec::new())
                    }
                }
            })
            .collect();
        self.txn(all(spread(steps))).await?;
        Ok(over.len() == BATCH)
    }

    /// The places of the first items of groups.
    async fn firsts<'a>(
        &self,
        keys: &Keys,
        groups: impl Iterator<Item = &'a str>,
    ) -> Result<HashMap<&'a str, u64>> {
        let groups: Vec<_> = groups.collect::<BTreeSet<_>>().into_iter().collect();
        if groups.is_empty() {
            return Ok(HashMap::new());
        }
        let first = |group: &&str| {
            let prefix = keys.group(group);
            all(vec![TxnOp::get(prefix.clone(), Some(range(&prefix).with_keys_only().with_limit(1)))])
        };
        let mut parts = Parts::of(self.txn(all(spread(groups.iter().map(first).collect()))).await?);
        let mut firsts = HashMap::new();
        for (group, mut parts) in groups.iter().zip(parts.gathered(groups.len())?) {
            if let Some(kv) = parts.kv()? {
                firsts.insert(*group, super::group::place(kv.key())?);
            }
        }
        Ok(firsts)
    }
}
