//! The map of values: what [`coord_core::spi::values::Values`] says, in transactions of the server.
//!
//! A version is the revision at which the server last changed the value's key, and the store's revision is the server's. A mark has
//! a key of its own, so that raising it changes no version.
//!
//! | operation | requests |
//! | --- | --- |
//! | one write; up to 40 without tokens, deletions among them only of a version | 1 |
//! | other transactions | 2, and 2 more each time somebody else changes one of the keys in between |
//! | a read, what changed | 1 |
//! | a page | 1 for the first 64 entries, then as many as fit 8 MB |
//! | history | 1 for each state, from what the server has not compacted |
//!
//! Transactions that delete also forget: once in about a hundred deletions, two more requests. The first transaction in two
//! minutes asks for the lease on which the ids of transactions stand.
//!
//! # What survives what
//! Whatever was answered is on the disks of most members. After a lost reply the same transaction finds that it was done, for two
//! minutes; a copy that comes later than that, from a member that was stopped, may do it once more, unless it has a condition on
//! the version. All changes are found again by whoever was away, by the revisions of the keys, whether the server compacts or not;
//! of deletions, the last thousand of a namespace. Who was away for longer is told of a gap. When the server's data were restored
//! from an older copy, that is a gap too.
//!
//! # Limits
//! A request has at most 1.5 MB, unless the server is told otherwise. 1,000 writes with 1 MiB of values fit with keys of up to
//! about 100 bytes. Larger ones are refused whole, as too large. A namespace and everything that begins with a prefix is read
//! by the server as a whole to find what changed: keep watched prefixes to some thousand keys.

mod commit;
mod stored;

use std::collections::HashSet;

use async_trait::async_trait;
use coord_core::{
    Name, Result, limits,
    spi::{
        Wakeups,
        values::{Changes, Committed, KeyId, Page, Prefix, Stored, Transaction, Values},
    },
};
use etcd_client::{GetOptions, KeyValue, SortOrder, SortTarget, TxnOp};

use self::stored::{Keys, deletion, entry, mark, name, value};
use crate::{
    client::{Shared, Store},
    error::{is_compacted, misread},
    keys::end_of,
    step::{Parts, all, get},
    wakeups::Of,
};

/// How many entries are read before it is known how large they are.
const FIRST: usize = 64;

/// How many bytes of values are read at once.
const BYTES: usize = 8 * 1024 * 1024;

/// The revision before this one, at which a key was something else.
fn before(kv: &KeyValue) -> i64 {
    kv.mod_revision() - 1
}

impl Shared {
    /// What there is of a key, and the revision.
    async fn entry(&self, id: &KeyId) -> Result<(Option<Stored>, u64)> {
        let (keys, key) = (Keys::of(&id.namespace), &id.key);
        let reads = vec![get(keys.value(key)), get(keys.mark(key)), get(keys.gone(key))];
        let answer = self.txn(all(reads)).await?;
        let (revision, mut parts) = (answer.revision, Parts::of(answer));
        let [found, marked, gone] = [parts.kv()?, parts.kv()?, parts.kv()?];
        Ok((entry(key, found.as_ref(), marked.as_ref(), gone.as_ref())?, revision.unsigned_abs()))
    }

    /// A page at one revision, or `None` if the server forgot that revision meanwhile.
    async fn page(&self, prefix: &Prefix, after: Option<&Name>, limit: usize) -> Result<Option<Page>> {
        let keys = Keys::of(&prefix.namespace);
        // What comes after a name is what begins with it and the lowest byte.
        let mut from = match after {
            Some(after) if after.as_str() >= prefix.text.as_str() => format!("{}\0", after.as_str()),
            _ => prefix.text.clone(),
        };
        let (mut page, mut bytes, mut revision) = (Page::default(), 0, 0);
        loop {
            let fit = match page.entries.len() {
                0 => FIRST,
                known => (BYTES.saturating_sub(bytes) / (bytes / known).max(1)).max(1),
            };
            let size = fit.min(limit - page.entries.len() + 1);
            let read = |stem: &str| {
                let options = GetOptions::new()
                    .with_range(end_of([stem, &prefix.text].concat().as_bytes()))
                    .with_limit(i64::try_from(size).unwrap_or(i64::MAX))
                    .with_revision(revision);
                TxnOp::get([stem, &from].concat(), Some(options))
            };
            let reads = all(vec![read(&keys.values), read(&keys.marks)]);
            let answer = match self.txn(reads).await {
                Err(error) if is_compacted(&error) => return Ok(None),
                answer => answer?,
            };
            if revision == 0 {
                revision = answer.revision;
                page.revision = revision.unsigned_abs();
            }
            let mut parts = Parts::of(answer);
            let (values, more_values, _) = parts.found()?;
            let (marks, more_marks, _) = parts.found()?;
            // So far both are known.
            let names = |stem: &str, kvs: &[KeyValue]| {
                kvs.iter().map(|kv| name(stem, kv)).collect::<Result<Vec<_>>>()
            };
            let (value_names, mark_names) = (names(&keys.values, &values)?, names(&keys.marks, &marks)?);
            let ends = [value_names.last().filter(|_| more_values), mark_names.last().filter(|_| more_marks)];
            let end = ends.into_iter().flatten().min().cloned();
            let mut marks = mark_names.into_iter().zip(&marks).peekable();
            for (name, kv) in value_names.into_iter().zip(&values) {
                if end.as_ref().is_some_and(|end| name > *end) {
                    break;
                }
                if page.entries.len() == limit {
                    page.more = true;
                    return Ok(Some(page));
                }
                while marks.next_if(|(marked, _)| *marked < name).is_some() {}
                let token =
                    marks.next_if(|(marked, _)| *marked == name).map(|(_, kv)| mark(kv)).transpose()?;
                bytes += kv.value().len() + 1;
                page.entries.push(value(name, kv, token)?);
            }
            let Some(end) = end else { return Ok(Some(page)) };
            if bytes >= BYTES && !page.entries.is_empty() {
                page.more = true;
                return Ok(Some(page));
            }
            from = format!("{}\0", end.as_str());
        }
    }

    /// What changed after a revision, or `None` if the server forgot meanwhile the revision at which it is read.
    async fn news(&self, prefix: &Prefix, since: i64) -> Result<Option<Changes>> {
        let keys = Keys::of(&prefix.namespace);
        let (mut from, mut size, mut revision) = (since.saturating_add(1), FIRST, 0);
        let (mut entries, mut seen) = (Vec::new(), HashSet::new());
        loop {
            let later = |from| {
                GetOptions::new()
                    .with_min_mod_revision(from)
                    .with_sort(SortTarget::Mod, SortOrder::Ascend)
                    .with_revision(revision)
            };
            let within = |stem: &str, options: GetOptions| {
                let start = [stem, &prefix.text].concat();
                TxnOp::get(start.clone(), Some(options.with_range(end_of(start.as_bytes()))))
            };
            let limit = i64::try_from(size).unwrap_or(i64::MAX);
            let mut reads = vec![within(&keys.values, later(from).with_limit(limit))];
            if revision == 0 {
                reads.extend([get(keys.floor.clone()), within(&keys.gone, later(from))]);
            }
            let answer = match self.txn(all(reads)).await {
                Err(error) if is_compacted(&error) => return Ok(None),
                answer => answer?,
            };
            let (now, mut parts) = (answer.revision, Parts::of(answer));
            let (values, more, _) = parts.found()?;
            if revision == 0 {
                revision = now;
                let floor = parts.kv()?.map_or(Ok(0), |kv| number(kv.value()))?;
                // Older data than it has seen: a copy was restored.
                if since < floor || since > now {
                    return Ok(Some(Changes::Gap));
                }
                for kv in parts.kvs()? {
                    entries.push(deletion(name(&keys.gone, &kv)?, &kv, None)?);
                }
            }
            let last = values.last().map_or(from, KeyValue::mod_revision);
            for kv in values {
                let name = name(&keys.values, &kv)?;
                if seen.insert(name.clone()) {
                    entries.push(value(name, &kv, None)?);
                }
            }
            if !more {
                entries.sort_by_key(|stored| stored.version);
                return Ok(Some(Changes::All { entries, revision: revision.unsigned_abs() }));
            }
            // Some of that last revision may be missing; more than one transaction has of it there are not.
            size = if last == from { limits::MAX_BATCH + 1 } else { 4 * FIRST };
            from = last;
        }
    }

    async fn states(&self, id: &KeyId, limit: usize) -> Result<Vec<Stored>> {
        let (keys, key, mut states, mut revision) = (Keys::of(&id.namespace), &id.key, Vec::new(), 0);
        while states.len() < limit {
            let read = |key: String| TxnOp::get(key, Some(GetOptions::new().with_revision(revision)));
            let answer = match self.txn(all(vec![read(keys.value(key)), read(keys.gone(key))])).await {
                Err(error) if is_compacted(&error) => break,
                answer => answer?,
            };
            let mut parts = Parts::of(answer);
            let (found, gone) = (parts.kv()?, parts.kv()?);
            revision = match (&found, &gone) {
                (Some(kv), _) => {
                    states.push(value(key.clone(), kv, None)?);
                    before(kv)
                }
                (None, Some(kv)) => {
                    states.push(deletion(key.clone(), kv, None)?);
                    before(kv)
                }
                (None, None) => break,
            };
            if revision <= 0 {
                break;
            }
        }
        Ok(states)
    }
}

fn number(text: &[u8]) -> Result<i64> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| misread("a number"))
}

#[async_trait]
impl Values for Store {
    async fn get(&self, key: &KeyId) -> Result<(Option<Stored>, u64)> {
        self.shared.in_time(self.shared.entry(key)).await
    }

    async fn list(&self, prefix: &Prefix, after: Option<&Name>, limit: u32) -> Result<Page> {
        let reading = async {
            loop {
                if let Some(page) = self.shared.page(prefix, after, limit as usize).await? {
                    return Ok(page);
                }
            }
        };
        self.shared.in_time(reading).await
    }

    async fn commit(&self, transaction: &Transaction) -> Result<Committed> {
        self.shared.in_time(self.shared.commit(transaction)).await
    }

    async fn changes(&self, prefix: &Prefix, since: u64) -> Result<Changes> {
        let since = i64::try_from(since).unwrap_or(i64::MAX);
        Ok(self.shared.in_time(self.shared.news(prefix, since)).await?.unwrap_or(Changes::Gap))
    }

    async fn history(&self, key: &KeyId, limit: u32) -> Result<Vec<Stored>> {
        self.shared.in_time(self.shared.states(key, limit as usize)).await
    }

    fn wakeups(&self, prefix: &Prefix) -> Wakeups {
        let stem = Keys::of(&prefix.namespace).values;
        self.shared.hub.prefix([stem, prefix.text.clone()].concat(), Of::All)
    }
}
