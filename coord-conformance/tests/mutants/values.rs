//! A store of values with one bug planted in it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use coord_core::{
    Change, Condition, FencingToken, Name, Result,
    spi::{
        Wakeups,
        values::{Changes, Committed, KeyId, Page, Prefix, Stored, Transaction, Values, WriteId},
    },
};

use super::broken::Bug;

/// What a store remembers for its bug.
#[derive(Debug, Default)]
pub(crate) struct State {
    marks: Mutex<HashMap<Name, FencingToken>>,
}

#[derive(Debug)]
struct Broken {
    inner: Arc<dyn Values>,
    bug: Bug,
    state: Arc<State>,
}

pub(crate) fn over(inner: Arc<dyn Values>, bug: Bug, state: Arc<State>) -> Arc<dyn Values> {
    Arc::new(Broken { inner, bug, state })
}

impl Broken {
    /// Compares a token with the mark the wrong way; what stands there if it is refused.
    async fn refused_by_fence(&self, transaction: &Transaction) -> Result<Option<Committed>> {
        for (at, write) in transaction.writes.iter().enumerate() {
            let Condition::Token(token) = write.condition else { continue };
            let refused = {
                let mut marks = self.state.marks.lock().unwrap_or_else(PoisonError::into_inner);
                let mark = *marks.entry(write.key.clone()).or_insert(token);
                marks.insert(write.key.clone(), token.max(mark));
                token > mark
            };
            if refused {
                let key = KeyId { namespace: transaction.namespace.clone(), key: write.key.clone() };
                return Ok(Some(Committed::Refused { at, found: self.inner.get(&key).await?.0 }));
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl Values for Broken {
    async fn get(&self, key: &KeyId) -> Result<(Option<Stored>, u64)> {
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &Prefix, after: Option<&Name>, limit: u32) -> Result<Page> {
        self.inner.list(prefix, after, limit).await
    }

    async fn commit(&self, transaction: &Transaction) -> Result<Committed> {
        let mut twisted = transaction.clone();
        match self.bug {
            Bug::IgnoresVersions => {
                for write in &mut twisted.writes {
                    if matches!(write.condition, Condition::Version(_)) {
                        write.condition = Condition::Any;
                    }
                }
            }
            Bug::FencesTheWrongWay => {
                if let Some(refused) = self.refused_by_fence(transaction).await? {
                    return Ok(refused);
                }
                twisted.writes.retain(|write| write.change != Change::Fence);
                for write in &mut twisted.writes {
                    if matches!(write.condition, Condition::Token(_)) {
                        write.condition = Condition::Any;
                    }
                }
            }
            Bug::FenceDoesNothing => {
                twisted.writes.retain(|write| write.change != Change::Fence);
                if twisted.writes.is_empty() {
                    return Ok(Committed::Done { revision: 1 });
                }
            }
            Bug::CommitsTwice => twisted.id = WriteId::random(),
            _ => {}
        }
        let committed = self.inner.commit(&twisted).await?;
        if self.bug == Bug::DoesHalf && matches!(committed, Committed::Refused { at: 1.., .. }) {
            twisted.id = WriteId::random();
            twisted.writes.truncate(1);
            self.inner.commit(&twisted).await?;
        }
        Ok(committed)
    }

    async fn changes(&self, prefix: &Prefix, since: u64) -> Result<Changes> {
        match self.inner.changes(prefix, since).await? {
            Changes::All { mut entries, revision } if self.bug == Bug::MissesTheLastWrite => {
                entries.pop();
                Ok(Changes::All { entries, revision })
            }
            Changes::Gap if self.bug == Bug::HidesTheGap => {
                Ok(Changes::All { entries: Vec::new(), revision: since })
            }
            changes => Ok(changes),
        }
    }

    async fn history(&self, key: &KeyId, limit: u32) -> Result<Vec<Stored>> {
        self.inner.history(key, limit).await
    }

    fn wakeups(&self, prefix: &Prefix) -> Wakeups {
        self.inner.wakeups(prefix)
    }
}
