//! Transactions: what is written, under which conditions, in how many steps.
//!
//! One write, and several without tokens, are one transaction of the server, which judges the conditions. Otherwise the keys are
//! read, judged here, and written on condition that none of them changed; somebody else's write in between begins it anew. Either
//! way a transaction leaves a key with its id for some minutes, and one that finds its own does nothing.

use std::time::Duration;

use coord_core::{
    Effect, Error, ErrorKind, FencingToken, Name, Result,
    spi::values::{Change, Committed, Condition, KeyId, Transaction, Write},
};
use etcd_client::{Compare, CompareOp, GetOptions, SortOrder, SortTarget, Txn, TxnOp};

use super::stored::{Keys, Note, digits, done, entry, mark, marked};
use crate::{
    client::Shared,
    error::{is_compacted, is_lease_gone, misread},
    step::{
        Parts, WIDTH, absent, all, count, delete, get, lend, look, present, put, range, spread, txn,
        unchanged,
    },
};

/// How long a transaction is remembered, at least.
const MEMORY: Duration = Duration::from_secs(120);

/// How many deletions of a namespace are remembered.
const DELETIONS: u64 = 1_000;

/// How many more there may be before some are forgotten, many at a time.
const SLACK: u64 = 100;

/// How often somebody else may come first.
const TRIES: u32 = 50;

/// So many writes are compared one by one; more are compared in stretches of keys.
const FEW: usize = 50;

/// In so many stretches, each for three keys. What is compared counts against what may be nested.
const STRETCHES: usize = WIDTH / 3;

/// A revision that no key has.
const NEVER: i64 = -1;

/// One attempt, as it is put together.
struct Plan<'a> {
    transaction: &'a Transaction,
    keys: Keys,
    done: String,
    lease: i64,
}

/// What became of an attempt.
enum Attempt {
    /// It is decided; so many deletions are remembered, if any was made.
    Decided(Committed, u64),
    /// The keys changed meanwhile.
    Again,
}

impl Plan<'_> {
    /// What a write does. `Some` of those that need no look at what is there.
    fn changes(&self, write: &Write, there: Option<bool>) -> Vec<TxnOp> {
        let token = match write.condition {
            Condition::Token(token) => Some(token),
            _ => None,
        };
        let note = Note::new(&self.transaction.by, token);
        let (value, gone) = (self.keys.value(&write.key), self.keys.gone(&write.key));
        let mut operations = match (&write.change, there) {
            (Change::Put(bytes), _) => vec![put(value, note.with(bytes)), delete(gone)],
            (Change::Delete, Some(true)) => vec![delete(value), put(gone, note.with(b""))],
            (Change::Delete, None) => {
                let deletion = vec![delete(value.clone()), put(gone, note.with(b""))];
                vec![TxnOp::txn(txn(vec![present(value)], deletion, Vec::new()))]
            }
            _ => Vec::new(),
        };
        if let Some(token) = token {
            operations.push(put(self.keys.mark(&write.key), marked(token, &note)));
        }
        operations
    }

    /// What must be true for a write without a token.
    fn condition(&self, write: &Write) -> Vec<Compare> {
        let mut compares = vec![absent(self.keys.mark(&write.key))];
        match write.condition {
            Condition::Absent => compares.push(absent(self.keys.value(&write.key))),
            Condition::Version(version) => {
                // Revision 0 is that of a key that is not there.
                let version = i64::try_from(version).ok().filter(|version| *version > 0).unwrap_or(NEVER);
                compares.push(unchanged(self.keys.value(&write.key), version));
            }
            _ => {}
        }
        compares
    }

    fn deletes(&self) -> bool {
        self.transaction.writes.iter().any(|write| write.change == Change::Delete)
    }

    /// The operations of a transaction that is done, the count of deletions last.
    fn then(&self, changes: Vec<TxnOp>) -> Vec<TxnOp> {
        let mut operations = Vec::with_capacity(changes.len() + 2);
        operations.push(lend(self.done.clone(), "", self.lease));
        operations.extend(changes);
        if self.deletes() {
            operations.push(count(&self.keys.gone));
        }
        operations
    }

    /// The reads of one that is not.
    fn otherwise(&self) -> Vec<TxnOp> {
        let mut reads = vec![get(self.done.clone())];
        for Write { key, .. } in &self.transaction.writes {
            reads.extend([get(self.keys.value(key)), get(self.keys.mark(key)), get(self.keys.gone(key))]);
        }
        reads
    }

    /// The whole in one transaction of the server, if it fits.
    fn at_once(&self) -> Option<Txn> {
        let fresh = || absent(self.done.clone());
        if let [write] = &*self.transaction.writes {
            let then = self.then(self.changes(write, None));
            return Some(match write.condition {
                Condition::Token(token) => {
                    let key = self.keys.mark(&write.key);
                    let lower = Compare::value(key.clone(), CompareOp::Less, digits(token.get() + 1));
                    let unmarked = txn(vec![fresh(), absent(key)], then.clone(), self.otherwise());
                    txn(vec![fresh(), lower], then, vec![TxnOp::txn(unmarked)])
                }
                _ => {
                    let mut compares = self.condition(write);
                    compares.push(fresh());
                    txn(compares, then, self.otherwise())
                }
            });
        }
        let writes = &self.transaction.writes;
        let simple = |write: &Write| match (write.condition, &write.change) {
            (Condition::Token(_), _) => false,
            (Condition::Version(_), _) => true,
            (_, change) => matches!(change, Change::Put(_)),
        };
        if writes.len() > WIDTH || !writes.iter().all(simple) {
            return None;
        }
        let mut compares: Vec<_> = writes.iter().flat_map(|write| self.condition(write)).collect();
        compares.push(fresh());
        let changes = writes.iter().flat_map(|write| self.changes(write, Some(true))).collect();
        Some(txn(compares, self.then(changes), self.otherwise()))
    }
}

/// Whether a write may be done where this is.
fn holds(write: &Write, version: Option<i64>, mark: Option<FencingToken>) -> bool {
    match write.condition {
        Condition::Token(token) => mark.is_none_or(|mark| mark <= token),
        _ if mark.is_some() => false,
        Condition::Any => true,
        Condition::Absent => version.is_none(),
        Condition::Version(wanted) => version.is_some_and(|found| i64::try_from(wanted) == Ok(found)),
        _ => false,
    }
}

fn done_at(revision: i64) -> Committed {
    Committed::Done { revision: revision.unsigned_abs() }
}

impl Shared {
    /// What [`Values::commit`](coord_core::spi::values::Values::commit) says.
    pub(super) async fn commit(&self, transaction: &Transaction) -> Result<Committed> {
        let mut lost = 0;
        for tries in 1..=TRIES {
            let plan = Plan {
                transaction,
                keys: Keys::of(&transaction.namespace),
                done: done(&transaction.id),
                lease: self.rubbish(MEMORY).await?,
            };
            let attempt = match plan.at_once() {
                Some(txn) => self.commit_at_once(&plan, txn).await,
                None => self.commit_in_two(&plan).await,
            };
            match attempt {
                Ok(Attempt::Decided(committed, deletions)) => {
                    if deletions > DELETIONS + SLACK {
                        // It is done whatever becomes of this; the next deletion tries again.
                        let _ = self.forget(&plan.keys, deletions - DELETIONS).await;
                    }
                    return Ok(committed);
                }
                Ok(Attempt::Again) => {
                    tokio::time::sleep(Duration::from_micros(fastrand::u64(..u64::from(tries) * 1_000))).await
                }
                Err(error) if is_lease_gone(&error) && error.effect() == Effect::None && lost < 2 => {
                    lost += 1;
                    self.forget_rubbish(plan.lease);
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            "others write to these keys all the time; try again, or write to fewer at once",
        ))
    }

    async fn commit_at_once(&self, plan: &Plan<'_>, txn: Txn) -> Result<Attempt> {
        let answer = self.txn(txn).await?;
        let (revision, mut parts) = (answer.revision, Parts::of(answer));
        let read = |parts: &mut Parts| -> Result<Attempt> {
            if !parts.succeeded
                && matches!(plan.transaction.writes[..], [Write { condition: Condition::Token(_), .. }])
            {
                *parts = parts.nested()?;
            }
            if parts.succeeded {
                let deletions = if plan.deletes() { parts.last_count()? } else { 0 };
                return Ok(Attempt::Decided(done_at(revision), deletions));
            }
            if let Some(done) = parts.kv()? {
                return Ok(Attempt::Decided(done_at(done.mod_revision()), 0));
            }
            for (at, write) in plan.transaction.writes.iter().enumerate() {
                let [found, marked, gone] = [parts.kv()?, parts.kv()?, parts.kv()?];
                let token = marked.as_ref().map(mark).transpose()?;
                if !holds(write, found.as_ref().map(etcd_client::KeyValue::mod_revision), token) {
                    let found = entry(&write.key, found.as_ref(), marked.as_ref(), gone.as_ref())?;
                    return Ok(Attempt::Decided(Committed::Refused { at, found }, 0));
                }
            }
            Err(misread("what a transaction was refused for"))
        };
        read(&mut parts).map_err(Error::with_unknown_effect)
    }

    async fn commit_in_two(&self, plan: &Plan<'_>) -> Result<Attempt> {
        let (keys, writes) = (&plan.keys, &plan.transaction.writes);
        let of_write = |Write { key, .. }: &Write| all(vec![look(keys.value(key)), get(keys.mark(key))]);
        let mut reads = spread(writes.iter().map(of_write).collect());
        reads.extend([get(plan.done.clone()), look(keys.floor.clone())]);
        let answer = self.txn(all(reads)).await?;
        let (revision, mut parts) = (answer.revision, Parts::of(answer));
        let found = parts.gathered(writes.len())?;
        if let Some(done) = parts.kv()? {
            return Ok(Attempt::Decided(done_at(done.mod_revision()), 0));
        }
        let floor = parts.kv()?.map_or(0, |floor| floor.mod_revision());
        let (mut compares, mut changes) = (vec![absent(plan.done.clone())], Vec::with_capacity(writes.len()));
        for (at, (write, mut parts)) in writes.iter().zip(found).enumerate() {
            let [value, marked] = [parts.kv()?, parts.kv()?];
            let version = value.as_ref().map(etcd_client::KeyValue::mod_revision);
            if !holds(write, version, marked.as_ref().map(mark).transpose()?) {
                let found = self.entry_at(&plan.transaction.namespace, &write.key, revision).await?;
                return Ok(Attempt::Decided(Committed::Refused { at, found }, 0));
            }
            changes.push(all(plan.changes(write, Some(version.is_some()))));
            if writes.len() <= FEW {
                let marked = marked.map_or(0, |marked| marked.mod_revision());
                compares.push(unchanged(keys.value(&write.key), version.unwrap_or(0)));
                compares.push(unchanged(keys.mark(&write.key), marked));
            }
        }
        if writes.len() > FEW {
            compares.extend(stretches(keys, writes, revision));
            // Nor was a deletion forgotten, which would not be seen.
            compares.push(unchanged(keys.floor.clone(), floor));
        }
        let then = plan.then(spread(changes));
        let answer = self.txn(txn(compares, then, vec![get(plan.done.clone())])).await?;
        let (revision, mut parts) = (answer.revision, Parts::of(answer));
        let read = |parts: &mut Parts| -> Result<Attempt> {
            if parts.succeeded {
                let deletions = if plan.deletes() { parts.last_count()? } else { 0 };
                return Ok(Attempt::Decided(done_at(revision), deletions));
            }
            let done = parts.kv()?.map(|done| Attempt::Decided(done_at(done.mod_revision()), 0));
            Ok(done.unwrap_or(Attempt::Again))
        };
        read(&mut parts).map_err(Error::with_unknown_effect)
    }

    /// What there was of a key at a revision; if that was compacted, what there is.
    async fn entry_at(
        &self,
        namespace: &coord_core::Namespace,
        key: &Name,
        revision: i64,
    ) -> Result<Option<coord_core::spi::values::Stored>> {
        let keys = Keys::of(namespace);
        let read = |key: String| TxnOp::get(key, Some(GetOptions::new().with_revision(revision)));
        let reads = vec![read(keys.value(key)), read(keys.mark(key)), read(keys.gone(key))];
        match self.txn(all(reads)).await {
            Ok(answer) => {
                let mut parts = Parts::of(answer);
                let [found, marked, gone] = [parts.kv()?, parts.kv()?, parts.kv()?];
                entry(key, found.as_ref(), marked.as_ref(), gone.as_ref())
            }
            Err(error) if is_compacted(&error) => {
                let id = KeyId { namespace: namespace.clone(), key: key.clone() };
                Ok(self.entry(&id).await?.0)
            }
            Err(error) => Err(error),
        }
    }

    /// Forgets so many of the oldest deletions, and says up to where.
    async fn forget(&self, keys: &Keys, deletions: u64) -> Result<()> {
        let oldest = range(&keys.gone)
            .with_keys_only()
            .with_sort(SortTarget::Mod, SortOrder::Ascend)
            .with_limit(i64::try_from(deletions).unwrap_or(i64::MAX).min(1_000));
        let answer =
            self.txn(all(vec![TxnOp::get(keys.gone.clone(), Some(oldest)), get(keys.floor.clone())]));
        let mut parts = Parts::of(answer.await?);
        let [oldest, floor] = [parts.kvs()?, parts.kvs()?];
        let Some(last) = oldest.last() else { return Ok(()) };
        let forgotten = oldest.iter().map(|kv| {
            let key = kv.key().to_vec();
            txn(vec![unchanged(key.clone(), kv.mod_revision())], vec![delete(key)], Vec::new())
        });
        let mut then = spread(forgotten.collect());
        then.push(put(keys.floor.clone(), last.mod_revision().to_string()));
        let seen = floor.first().map_or(0, etcd_client::KeyValue::mod_revision);
        self.txn(txn(vec![unchanged(keys.floor.clone(), seen)], then, Vec::new())).await?;
        Ok(())
    }
}

/// Nothing changed after a revision in stretches of keys that hold all that are written. A deletion counts, as it puts a key.
fn stretches(keys: &Keys, writes: &[Write], revision: i64) -> Vec<Compare> {
    let mut names: Vec<_> = writes.iter().map(|write| write.key.as_str()).collect();
    names.sort_unstable();
    let size = names.len().div_ceil(STRETCHES);
    let mut compares = Vec::with_capacity(3 * STRETCHES);
    for stretch in names.chunks(size) {
        let (Some(first), Some(last)) = (stretch.first(), stretch.last()) else { continue };
        for stem in [&keys.values, &keys.marks, &keys.gone] {
            let (from, to) = ([stem.as_str(), first].concat(), [stem.as_str(), last, "\0"].concat());
            compares.push(
                Compare::mod_revision(from, CompareOp::Less, revision.saturating_add(1)).with_range(to),
            );
        }
    }
    compares
}
