//! Values in memory.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::SystemTime,
};

use async_trait::async_trait;

use super::{Client, State, Topic};
use crate::{
    FencingToken, Name, Namespace, Result, clock,
    spi::{
        Wakeups,
        values::{
            Change, Changes, Committed, Condition, KeyId, Page, Prefix, Stored, Transaction, Values, Write,
            WriteId,
        },
    },
};

/// How many changes are remembered.
const LOG: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Map {
    entries: BTreeMap<(Namespace, Name), Stored>,
    /// The last changes, the oldest first.
    log: VecDeque<(Namespace, Stored)>,
    /// The version of the last change that the log has forgotten.
    forgotten: u64,
    done: HashMap<WriteId, Committed>,
}

impl Map {
    fn get(&self, namespace: &Namespace, key: &Name) -> Option<&Stored> {
        self.entries.get(&(namespace.clone(), key.clone()))
    }

    fn commit(&mut self, transaction: &Transaction, revision: u64, at: SystemTime) -> Committed {
        for (place, write) in transaction.writes.iter().enumerate() {
            let found = self.get(&transaction.namespace, &write.key);
            if !holds(write, found) {
                return Committed::Refused { at: place, found: found.cloned() };
            }
        }
        for write in &transaction.writes {
            self.write(transaction, write, revision, at);
        }
        Committed::Done { revision }
    }

    fn write(&mut self, transaction: &Transaction, write: &Write, revision: u64, at: SystemTime) {
        let place = (transaction.namespace.clone(), write.key.clone());
        let before = self.entries.get(&place);
        let mark = match write.condition {
            Condition::Token(token) => Some(token),
            _ => None,
        };
        let mut entry = before.cloned().unwrap_or_else(|| Stored {
            key: write.key.clone(),
            value: None,
            version: revision,
            mark: None,
            at,
            by: transaction.by.clone(),
        });
        entry.mark = entry.mark.max(mark);
        match &write.change {
            Change::Delete if entry.value.is_some() => entry.value = None,
            Change::Fence | Change::Delete => {
                if entry.mark.is_some() {
                    self.entries.insert(place, entry);
                }
                return;
            }
            Change::Put(value) => entry.value = Some(value.clone()),
        }
        (entry.version, entry.at, entry.by) = (revision, at, transaction.by.clone());
        self.log.push_back((transaction.namespace.clone(), entry.clone()));
        if self.log.len() > LOG
            && let Some((_, oldest)) = self.log.pop_front()
        {
            self.forgotten = oldest.version;
        }
        if entry.value.is_some() || entry.mark.is_some() {
            self.entries.insert(place, entry);
        } else {
            self.entries.remove(&place);
        }
    }

    fn list(&self, prefix: &Prefix, after: Option<&Name>, limit: u32, revision: u64) -> Page {
        let mut found = self
            .entries
            .iter()
            .filter(|((namespace, key), entry)| {
                *namespace == prefix.namespace
                    && key.as_str().starts_with(&prefix.text)
                    && after.is_none_or(|after| key > after)
                    && entry.value.is_some()
            })
            .map(|(_, entry)| entry);
        let entries: Vec<_> = found.by_ref().take(limit as usize).cloned().collect();
        Page { entries, more: found.next().is_some(), revision }
    }

    fn changes(&self, prefix: &Prefix, since: u64, revision: u64) -> Changes {
        if since < self.forgotten {
            return Changes::Gap;
        }
        let mut last = BTreeMap::new();
        for (namespace, entry) in &self.log {
            if *namespace == prefix.namespace
                && entry.version > since
                && entry.key.as_str().starts_with(&prefix.text)
            {
                last.insert(entry.key.clone(), entry.clone());
            }
        }
        let mut entries: Vec<_> = last.into_values().collect();
        entries.sort_by_key(|entry| entry.version);
        Changes::All { entries, revision }
    }

    fn history(&self, key: &KeyId, limit: u32) -> Vec<Stored> {
        let states = self
            .log
            .iter()
            .rev()
            .filter(|(namespace, entry)| *namespace == key.namespace && entry.key == key.key);
        states.take(limit as usize).map(|(_, entry)| entry.clone()).collect()
    }
}

fn holds(write: &Write, found: Option<&Stored>) -> bool {
    let mark: Option<FencingToken> = found.and_then(|found| found.mark);
    let value = found.filter(|found| found.value.is_some());
    match write.condition {
        Condition::Token(token) => mark.is_none_or(|mark| mark <= token),
        _ if mark.is_some() => false,
        Condition::Any => true,
        Condition::Absent => value.is_none(),
        Condition::Version(version) => value.is_some_and(|found| found.version == version),
    }
}

#[async_trait]
impl Values for Client {
    async fn get(&self, key: &KeyId) -> Result<(Option<Stored>, u64)> {
        self.step(|state, _| (state.values.get(&key.namespace, &key.key).cloned(), state.revision)).await
    }

    async fn list(&self, prefix: &Prefix, after: Option<&Name>, limit: u32) -> Result<Page> {
        self.step(|state, _| state.values.list(prefix, after, limit, state.revision)).await
    }

    async fn commit(&self, transaction: &Transaction) -> Result<Committed> {
        self.step(|state, _| {
            if let Some(done) = state.values.done.get(&transaction.id) {
                return done.clone();
            }
            let revision = state.revision + 1;
            let committed = state.values.commit(transaction, revision, clock::wall());
            if matches!(committed, Committed::Done { .. }) {
                state.revision = revision;
                state.values.done.insert(transaction.id, committed.clone());
                state.changed(transaction);
            }
            committed
        })
        .await
    }

    async fn changes(&self, prefix: &Prefix, since: u64) -> Result<Changes> {
        self.step(|state, _| state.values.changes(prefix, since, state.revision)).await
    }

    async fn history(&self, key: &KeyId, limit: u32) -> Result<Vec<Stored>> {
        self.step(|state, _| state.values.history(key, limit)).await
    }

    fn wakeups(&self, prefix: &Prefix) -> Wakeups {
        self.listen(Topic::Prefix(prefix.clone()))
    }
}

impl State {
    fn changed(&self, transaction: &Transaction) {
        for (topic, _) in self.listeners.iter() {
            if let Topic::Prefix(prefix) = topic
                && prefix.namespace == transaction.namespace
                && transaction.writes.iter().any(|write| write.key.as_str().starts_with(&prefix.text))
            {
                self.wake(topic);
            }
        }
    }
}
