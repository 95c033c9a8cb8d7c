//! A store of values behind faults.

use std::sync::Arc;

use async_trait::async_trait;
use coord_core::{
    Name, Result,
    spi::{
        Wakeups,
        values::{Changes, Committed, KeyId, Page, Prefix, Stored, Transaction, Values},
    },
};

use super::{Faults, Operation};

#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn Values>,
    faults: Arc<Faults>,
}

pub(super) fn over(inner: Arc<dyn Values>, faults: Arc<Faults>) -> Arc<dyn Values> {
    Arc::new(Faulty { inner, faults })
}

#[async_trait]
impl Values for Faulty {
    async fn get(&self, key: &KeyId) -> Result<(Option<Stored>, u64)> {
        self.faults.pass(Operation::ReadValues, self.inner.get(key)).await
    }

    async fn list(&self, prefix: &Prefix, after: Option<&Name>, limit: u32) -> Result<Page> {
        self.faults.pass(Operation::ReadValues, self.inner.list(prefix, after, limit)).await
    }

    async fn commit(&self, transaction: &Transaction) -> Result<Committed> {
        self.faults.pass(Operation::Commit, self.inner.commit(transaction)).await
    }

    async fn changes(&self, prefix: &Prefix, since: u64) -> Result<Changes> {
        self.faults.pass(Operation::ReadValues, self.inner.changes(prefix, since)).await
    }

    async fn history(&self, key: &KeyId, limit: u32) -> Result<Vec<Stored>> {
        self.faults.pass(Operation::ReadValues, self.inner.history(key, limit)).await
    }

    fn wakeups(&self, prefix: &Prefix) -> Wakeups {
        self.faults.clone().hints(self.inner.wakeups(prefix))
    }
}
