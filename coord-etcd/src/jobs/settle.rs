//! Words about deliveries.
//!
//! What is said counts if the item's key was last changed by the receive that made the delivery, which its token tells, and its
//! lease is still there. Both are compared in the step that does what is said, so an acknowledgement is one transaction; that of an
//! item of a group looks at the next one first. Acknowledgements and extensions of many deliveries are one transaction together.
//!
//! An extension gives a delivery a new lease and leaves the old one to its end. Keeping the old one alive would prolong the other
//! deliveries of the same receive too, and a leader that was replaced and does not know it answers a keep-alive as well.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use coord_core::{
    Effect, Error, FencingToken, Result,
    spi::jobs::{ItemId, QueueId, Settled, Settlement, Word},
};
use etcd_client::{Compare, CompareOp, KeyValue, Txn, TxnOp};
use futures_util::future::try_join_all;

use super::{
    MEMORY, Pace,
    dead::Death,
    record::{Keys, Record, State, WITHOUT_GROUP, Wait, digits, made_at},
};
use crate::{
    client::{Shared, seconds},
    error::is_lease_gone,
    step::{Parts, WIDTH, all, delete, get, lend, present, put, spread, txn, unchanged},
};

/// How many settlements go into one step.
const BATCH: usize = 10 * WIDTH;

/// How many extended deliveries a client remembers.
const EXTENDED: usize = 10_000;

/// At which revision the lease of a delivery was last set, by its token: so far as it is not the one at which it was made.
#[derive(Debug, Default)]
pub(crate) struct Extended(Mutex<HashMap<(ItemId, FencingToken), i64>>);

impl Extended {
    fn lock(&self) -> MutexGuard<'_, HashMap<(ItemId, FencingToken), i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, said: &Settlement) -> i64 {
        self.lock().get(&(said.id, said.token)).copied().unwrap_or_else(|| made_at(said.token))
    }

    fn set(&self, said: &Settlement, revision: i64) {
        let mut extended = self.lock();
        if extended.len() >= EXTENDED {
            extended.clear();
        }
        extended.insert((said.id, said.token), revision);
    }

    fn forget(&self, said: &Settlement) {
        self.lock().remove(&(said.id, said.token));
    }
}

/// A new lease, and how long it was granted for.
type Lease = (i64, Duration);

/// What is known after the first look at a settlement.
enum Look {
    Settled(Settled),
    /// The item is in the hands of that delivery, and more is to be done: the item, and the key of its lease.
    Held(Record, KeyValue),
}

/// What must be true while a delivery is the item's present one.
fn held(keys: &Keys, said: &Settlement) -> Vec<Compare> {
    vec![unchanged(keys.item(said.id), made_at(said.token)), present(keys.lease(Wait::Delivery, said.id))]
}

/// What ends a delivery.
fn end(keys: &Keys, id: ItemId) -> [TxnOp; 2] {
    [delete(keys.waits(Wait::Delivery, id)), delete(keys.lease(Wait::Delivery, id))]
}

/// What remembers an acknowledged item.
fn gone(keys: &Keys, said: &Settlement, memory: i64) -> Vec<TxnOp> {
    let mut then = vec![
        lend(keys.gone(said.id), said.token.to_string(), memory),
        delete(keys.item(said.id)),
        delete(keys.payload(said.id)),
    ];
    then.extend(end(keys, said.id));
    then
}

/// What is read to judge a settlement.
fn reads(keys: &Keys, id: ItemId) -> Vec<TxnOp> {
    vec![get(keys.item(id)), get(keys.gone(id)), get(keys.lease(Wait::Delivery, id))]
}

/// Judges a settlement by what was read.
fn judge(said: &Settlement, parts: &mut Parts) -> Result<Look> {
    let [item, gone, lease] = [parts.kv()?, parts.kv()?, parts.kv()?];
    let Some(item) = item else {
        let acknowledged = gone.is_some_and(|kv| kv.value() == said.token.to_string().as_bytes());
        let again = acknowledged && said.word == Word::Ack;
        return Ok(Look::Settled(if again { Settled::Done } else { Settled::Stale }));
    };
    let record = Record::read(&item)?;
    if item.mod_revision() == made_at(said.token)
        && let Some(lease) = lease
    {
        return Ok(Look::Held(record, lease));
    }
    let again = record.returned == Some(said.token)
        && match record.state {
            State::Dead(_) => matches!(said.word, Word::Nack { .. }),
            _ => matches!(said.word, Word::Nack { .. } | Word::Return),
        };
    Ok(Look::Settled(if again { Settled::Done } else { Settled::Stale }))
}

/// What can be done without a look, or else the look.
fn first_step(keys: &Keys, said: &Settlement, leases: &HashMap<i64, Lease>, set: i64, memory: i64) -> Txn {
    match said.word {
        Word::Ack => {
            let mut when = held(keys, said);
            when.push(Compare::value(keys.item(said.id), CompareOp::Greater, WITHOUT_GROUP));
            txn(when, gone(keys, said, memory), reads(keys, said.id))
        }
        Word::Extend(visibility) => match leases.get(&seconds(visibility)) {
            Some(lease) => {
                let (when, then) = extension(keys, said, *lease, set);
                txn(when, then, reads(keys, said.id))
            }
            None => all(reads(keys, said.id)),
        },
        Word::Nack { .. } | Word::Return => all(reads(keys, said.id)),
    }
}

impl Shared {
    pub(super) async fn settle(&self, queue: &QueueId, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        let keys = Keys::of(queue);
        let mut answers = vec![None; settlements.len()];
        // No item twice in one step: one word after the other.
        while answers.iter().any(Option::is_none) {
            let (mut ids, mut round) = (HashSet::new(), Vec::new());
            for (at, said) in settlements.iter().enumerate() {
                if answers[at].is_none() && ids.insert(said.id) {
                    round.push(at);
                }
            }
            for round in round.chunks(BATCH) {
                let said: Vec<_> = round.iter().map(|at| &settlements[*at]).collect();
                let settled = self.settle_some(&keys, &said).await;
                let some = answers.iter().any(Option::is_some);
                let settled =
                    settled.map_err(|error| if some { error.with_unknown_effect() } else { error })?;
                for (at, settled) in round.iter().zip(settled) {
                    answers[*at] = Some(settled);
                }
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    async fn settle_some(&self, keys: &Keys, settlements: &[&Settlement]) -> Result<Vec<Settled>> {
        let mut lost = 0;
        let (looks, revision, leases) = loop {
            // Before the leases are made: what is extended later by somebody else must not get an older lease.
            let set: Vec<_> = settlements.iter().map(|said| self.extended.get(said)).collect();
            let leases = self.leases(settlements).await?;
            let acks = settlements.iter().any(|said| said.word == Word::Ack);
            let memory = if acks { self.rubbish(MEMORY).await? } else { 0 };
            let steps = settlements.iter().zip(set);
            let steps = steps.map(|(said, set)| first_step(keys, said, &leases, set, memory)).collect();
            let mut operations = spread(steps);
            if acks {
                // There is room for another one.
                operations.push(delete(keys.room()));
            }
            match self.txn(all(operations)).await {
                Ok(answer) => {
                    // An earlier copy of it may have put deliveries under these leases.
                    let leases = if answer.repeated { HashMap::new() } else { leases };
                    let revision = answer.revision;
                    let looks = Parts::of(answer).gathered(settlements.len());
                    break (looks.map_err(Error::with_unknown_effect)?, revision, leases);
                }
                Err(error) if is_lease_gone(&error) && error.effect() == Effect::None && lost < 2 => {
                    lost += 1;
                    self.forget_rubbish(memory);
                    leases.into_values().for_each(|(lease, _)| self.give_up(lease));
                }
                Err(error) => {
                    if error.effect() == Effect::None {
                        leases.into_values().for_each(|(lease, _)| self.give_up(lease));
                    }
                    return Err(error);
                }
            }
        };
        // Only what was extended in this step stands under them.
        let unused = leases.iter().filter(|(length, _)| {
            settlements.iter().zip(&looks).all(|(said, parts)| {
                !parts.succeeded
                    || !matches!(said.word, Word::Extend(visibility) if seconds(visibility) == **length)
            })
        });
        unused.for_each(|(_, (lease, _))| self.give_up(*lease));
        let mut answers = Vec::with_capacity(settlements.len());
        for (said, mut parts) in settlements.iter().zip(looks) {
            let done = parts.succeeded && matches!(said.word, Word::Ack | Word::Extend(_));
            if done {
                match said.word {
                    Word::Extend(_) => self.extended.set(said, revision),
                    _ => self.extended.forget(said),
                }
                answers.push(Settled::Done);
                continue;
            }
            let judged = judge(said, &mut parts);
            // Others may have been settled in the same step.
            let judged =
                if settlements.len() > 1 { judged.map_err(Error::with_unknown_effect) } else { judged };
            answers.push(match judged? {
                Look::Settled(settled) => settled,
                Look::Held(record, lease) => {
                    let second = self.second_step(keys, said, record, lease).await;
                    second.map_err(Error::with_unknown_effect)?
                }
            });
        }
        Ok(answers)
    }

    /// New leases for the extensions among them, by their seconds.
    async fn leases(&self, settlements: &[&Settlement]) -> Result<HashMap<i64, Lease>> {
        let seconds = |said: &&Settlement| match said.word {
            Word::Extend(visibility) => Some(seconds(visibility)),
            _ => None,
        };
        let wanted: HashSet<_> = settlements.iter().filter_map(seconds).collect();
        let granted = try_join_all(wanted.into_iter().map(|seconds| async move {
            let lease = self.grant(Duration::from_secs(seconds.unsigned_abs())).await?;
            Ok::<_, Error>((seconds, lease))
        }));
        Ok(granted.await?.into_iter().collect())
    }

    /// What needs to be known: the item as it was, or the next one of its group.
    async fn second_step(
        &self,
        keys: &Keys,
        said: &Settlement,
        mut record: Record,
        mut lease: KeyValue,
    ) -> Result<Settled> {
        let (mut pace, mut lost) = (Pace::default(), 0);
        loop {
            let tried = self.second_try(keys, said, &record, &lease).await;
            match tried {
                Ok(true) => return Ok(Settled::Done),
                Ok(false) => pace.wait().await?,
                Err(error) if is_lease_gone(&error) && error.effect() == Effect::None && lost < 2 => {
                    lost += 1;
                    self.forget_rubbish(self.rubbish(MEMORY).await?);
                }
                Err(error) => return Err(error),
            }
            let answer = self.txn(all(reads(keys, said.id))).await.map_err(Error::with_unknown_effect)?;
            match judge(said, &mut Parts::of(answer))? {
                Look::Settled(settled) => return Ok(settled),
                Look::Held(now, leased) => (record, lease) = (now, leased),
            }
        }
    }

    /// Whether it was done.
    async fn second_try(
        &self,
        keys: &Keys,
        said: &Settlement,
        record: &Record,
        lease: &KeyValue,
    ) -> Result<bool> {
        let mut when = held(keys, said);
        let returned =
            |state, attempts| Record { state, attempts, returned: Some(said.token), ..record.clone() };
        let back = |record: &Record| {
            let mut then =
                vec![put(keys.item(said.id), record.bytes()), put(keys.ready(record), record.bytes())];
            then.extend(end(keys, said.id));
            then
        };
        let mut made = None;
        let then = match said.word {
            Word::Ack => {
                let memory = self.rubbish(MEMORY).await?;
                let leaving = self.leave_group(keys, record).await?;
                when.extend(leaving.when);
                let mut then = gone(keys, said, memory);
                then.extend(leaving.then);
                then.push(delete(keys.room()));
                then
            }
            Word::Nack { max_attempts, .. } if record.is_spent(max_attempts) => {
                let dead = returned(record.state, record.attempts);
                let Death { when: death, mut then } = self.death(keys, &dead).await?;
                when.extend(death);
                then.extend(end(keys, said.id));
                then
            }
            Word::Nack { delay, .. } if !delay.is_zero() => {
                let (lease, _) = self.grant(delay).await?;
                made = Some(lease);
                let delayed = returned(State::Delayed, record.attempts);
                let mut then = vec![
                    put(keys.item(said.id), delayed.bytes()),
                    put(keys.waits(Wait::Delay, said.id), ""),
                    lend(keys.lease(Wait::Delay, said.id), "", lease),
                ];
                then.extend(end(keys, said.id));
                then
            }
            Word::Nack { .. } => back(&returned(State::Ready, record.attempts)),
            Word::Return => back(&returned(State::Ready, record.attempts.saturating_sub(1))),
            Word::Extend(visibility) => return self.extend(keys, said, visibility, lease).await,
        };
        let succeeded = self.try_under(made, txn(when, then, Vec::new())).await?;
        if succeeded.is_some() {
            self.extended.forget(said);
        }
        Ok(succeeded.is_some())
    }

    /// Sends a step that puts something under a lease that was made for it, which is ended if the step is not done. Its revision if
    /// it is.
    async fn try_under(&self, lease: Option<i64>, step: Txn) -> Result<Option<i64>> {
        let answer = self.txn(step).await;
        let unused = match &answer {
            // An earlier copy of it may have been done.
            Ok(answer) => !answer.succeeded && !answer.repeated,
            Err(error) => error.effect() == Effect::None,
        };
        if let Some(lease) = lease.filter(|_| unused) {
            self.give_up(lease);
        }
        let answer = answer?;
        Ok(answer.succeeded.then_some(answer.revision))
    }

    /// Extends a delivery whose lease was seen as this.
    async fn extend(
        &self,
        keys: &Keys,
        said: &Settlement,
        visibility: Duration,
        lease: &KeyValue,
    ) -> Result<bool> {
        let key = keys.lease(Wait::Delivery, said.id);
        let mut when = held(keys, said);
        when.push(unchanged(key.clone(), lease.mod_revision()));
        if lease.value() > digits(visibility).as_bytes() {
            let state = self.time_to_live(lease.lease(), false).await?;
            if state.left.is_some_and(|left| left >= visibility) {
                // It runs for long enough, if it is there: a member that was cut off may not know.
                return Ok(self.txn(txn(when, Vec::new(), Vec::new())).await?.succeeded);
            }
            // What is left of it is less than a new one has.
        }
        let (new, granted) = self.grant(visibility).await?;
        let step = txn(when, vec![lend(key, digits(granted), new)], Vec::new());
        let extended = self.try_under(Some(new), step).await?;
        if let Some(revision) = extended {
            self.extended.set(said, revision);
        }
        Ok(extended.is_some())
    }
}

/// Puts a delivery under a new lease, if its present one was granted for no longer, at this revision: so that an extension that
/// was long on its way does not undo a later one.
fn extension(
    keys: &Keys,
    said: &Settlement,
    (lease, granted): Lease,
    set: i64,
) -> (Vec<Compare>, Vec<TxnOp>) {
    let key = keys.lease(Wait::Delivery, said.id);
    let mut when = held(keys, said);
    when.push(unchanged(key.clone(), set));
    when.push(Compare::value(key.clone(), CompareOp::Less, digits(granted + Duration::from_millis(1))));
    (when, vec![lend(key, digits(granted), lease)])
}
