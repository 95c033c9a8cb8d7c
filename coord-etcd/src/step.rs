//! Transactions, put together and read.
//!
//! A server takes at most `--max-txn-ops` comparisons and as many operations (128, unless it is told otherwise) in each branch of
//! a transaction, and what is nested in it has the rest. A few thousand operations fit as a tree: see [`spread`].

use coord_core::Result;
use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse};

use crate::{client::Answer, error::misread, keys::end_of};

/// How wide a transaction may be: with as many in each of its parts, and the operations of those, it is within the limit of a
/// server as it is installed.
pub(crate) const WIDTH: usize = 40;

/// How many parts fit in one transaction by [`spread`].
pub(crate) const MOST: usize = WIDTH * WIDTH;

pub(crate) fn get(key: impl Into<Vec<u8>>) -> TxnOp {
    TxnOp::get(key, None)
}

/// The key and its revisions, without the value.
pub(crate) fn look(key: impl Into<Vec<u8>>) -> TxnOp {
    TxnOp::get(key, Some(GetOptions::new().with_keys_only()))
}

/// How many keys begin with this.
pub(crate) fn count(prefix: &str) -> TxnOp {
    TxnOp::get(prefix, Some(GetOptions::new().with_range(end_of(prefix.as_bytes())).with_count_only()))
}

/// What is behind all keys that begin with this, in their order.
pub(crate) fn range(prefix: &str) -> GetOptions {
    GetOptions::new().with_range(end_of(prefix.as_bytes()))
}

pub(crate) fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> TxnOp {
    TxnOp::put(key, value, None)
}

/// A key that ends with a lease.
pub(crate) fn lend(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>, lease: i64) -> TxnOp {
    TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)))
}

pub(crate) fn delete(key: impl Into<Vec<u8>>) -> TxnOp {
    TxnOp::delete(key, None)
}

/// There is no such key.
pub(crate) fn absent(key: impl Into<Vec<u8>>) -> Compare {
    Compare::create_revision(key, CompareOp::Equal, 0)
}

/// There is such a key.
pub(crate) fn present(key: impl Into<Vec<u8>>) -> Compare {
    Compare::create_revision(key, CompareOp::Greater, 0)
}

/// The key was last changed at this revision; 0: there is none.
pub(crate) fn unchanged(key: impl Into<Vec<u8>>, revision: i64) -> Compare {
    Compare::mod_revision(key, CompareOp::Equal, revision)
}

/// Nothing was put behind keys that begin with this after this revision.
pub(crate) fn nothing_new(prefix: &str, revision: i64) -> Compare {
    Compare::mod_revision(prefix, CompareOp::Less, revision.saturating_add(1)).with_prefix()
}

pub(crate) fn txn(when: Vec<Compare>, then: Vec<TxnOp>, otherwise: Vec<TxnOp>) -> Txn {
    Txn::new().when(when).and_then(then).or_else(otherwise)
}

/// Operations without a condition.
pub(crate) fn all(operations: Vec<TxnOp>) -> Txn {
    Txn::new().and_then(operations)
}

/// Many parts, at most [`MOST`], as few operations: in groups, if there are more than [`WIDTH`].
pub(crate) fn spread(parts: Vec<Txn>) -> Vec<TxnOp> {
    debug_assert!(parts.len() <= MOST, "{} parts", parts.len());
    if parts.len() <= WIDTH {
        return parts.into_iter().map(TxnOp::txn).collect();
    }
    let size = parts.len().div_ceil(WIDTH);
    let (mut groups, mut parts) = (Vec::with_capacity(WIDTH), parts.into_iter().peekable());
    while parts.peek().is_some() {
        groups.push(TxnOp::txn(all(parts.by_ref().take(size).map(TxnOp::txn).collect())));
    }
    groups
}

/// The answers to the operations of a transaction, one after the other.
#[derive(Debug)]
pub(crate) struct Parts {
    /// Whether the conditions of these operations held.
    pub(crate) succeeded: bool,
    parts: std::vec::IntoIter<TxnOpResponse>,
}

impl Parts {
    /// The answers of a whole transaction.
    pub(crate) fn of(answer: Answer) -> Self {
        Self { succeeded: answer.succeeded, parts: answer.parts.into_iter() }
    }

    /// The keys that a read found, whether there are more, and how many there are.
    pub(crate) fn found(&mut self) -> Result<(Vec<KeyValue>, bool, i64)> {
        match self.parts.next() {
            Some(TxnOpResponse::Get(mut found)) => {
                let (more, count) = (found.more(), found.count());
                Ok((found.take_kvs(), more, count))
            }
            _ => Err(misread("the answer to a transaction")),
        }
    }

    pub(crate) fn kvs(&mut self) -> Result<Vec<KeyValue>> {
        Ok(self.found()?.0)
    }

    /// The one key that a read was about.
    pub(crate) fn kv(&mut self) -> Result<Option<KeyValue>> {
        Ok(self.kvs()?.pop())
    }

    pub(crate) fn count(&mut self) -> Result<u64> {
        u64::try_from(self.found()?.2).map_err(|_| misread("a count"))
    }

    /// What the last of them counted.
    pub(crate) fn last_count(&mut self) -> Result<u64> {
        let last = self.parts.next_back().into_iter().collect::<Vec<_>>();
        Self { succeeded: self.succeeded, parts: last.into_iter() }.count()
    }

    pub(crate) fn skip(&mut self, operations: usize) {
        if let Some(last) = operations.checked_sub(1) {
            let _ = self.parts.nth(last);
        }
    }

    /// The answers to a nested transaction.
    pub(crate) fn nested(&mut self) -> Result<Self> {
        match self.parts.next() {
            Some(TxnOpResponse::Txn(nested)) => {
                Ok(Self { succeeded: nested.succeeded(), parts: nested.op_responses().into_iter() })
            }
            _ => Err(misread("the answer to a transaction")),
        }
    }

    /// The answers to so many parts that [`spread`] put together.
    pub(crate) fn gathered(&mut self, parts: usize) -> Result<Vec<Self>> {
        if parts <= WIDTH {
            return (0..parts).map(|_| self.nested()).collect();
        }
        let (size, mut all) = (parts.div_ceil(WIDTH), Vec::with_capacity(parts));
        while all.len() < parts {
            let mut group = self.nested()?;
            for _ in 0..size.min(parts - all.len()) {
                all.push(group.nested()?);
            }
        }
        Ok(all)
    }
}
