//! A line of claims in the server: its keys, and the transactions on them.
//!
//! A claim is the key `<line>/<id>:<weight>` on a lease, and its token is the revision that created the key. The weight stands
//! in the key, so that who stands where can be told from keys alone, without the values.

use coord_core::spi::{ClaimId, LineId};
use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, PutOptions, SortOrder, SortTarget, Txn, TxnOp,
};

use crate::{
    keys::{self, end_of},
    record::Record,
    waiting::Place,
};

/// A line's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LineKeys {
    pub(crate) prefix: Vec<u8>,
    end: Vec<u8>,
}

impl LineKeys {
    pub(crate) fn of(line: &LineId) -> Self {
        Self::at(keys::line(line))
    }

    pub(crate) fn at(prefix: impl Into<Vec<u8>>) -> Self {
        let prefix = prefix.into();
        Self { end: end_of(&prefix), prefix }
    }

    /// The key of a claim.
    pub(crate) fn key(&self, id: ClaimId, weight: u32) -> Vec<u8> {
        let mut key = self.prefix.clone();
        key.extend_from_slice(keys::hex(id.as_bytes()).as_bytes());
        key.extend_from_slice(format!(":{weight}").as_bytes());
        key
    }

    /// Nobody is in the line.
    pub(crate) fn is_empty(&self) -> Compare {
        Compare::create_revision(self.prefix.clone(), CompareOp::Equal, 0).with_range(self.end.clone())
    }

    /// Everybody in the line joined at this revision or before.
    pub(crate) fn nobody_joined_after(&self, revision: i64) -> Compare {
        Compare::create_revision(self.prefix.clone(), CompareOp::Less, revision + 1)
            .with_range(self.end.clone())
    }

    /// Everybody in the line joined at this revision or after.
    pub(crate) fn nobody_joined_before(&self, revision: i64) -> Compare {
        Compare::create_revision(self.prefix.clone(), CompareOp::Greater, revision - 1)
            .with_range(self.end.clone())
    }

    /// Who is in the line, without values.
    pub(crate) fn places(&self) -> TxnOp {
        TxnOp::get(self.prefix.clone(), Some(GetOptions::new().with_range(self.end.clone()).with_keys_only()))
    }

    /// Who stands first, with the value.
    pub(crate) fn first(&self) -> TxnOp {
        let options = GetOptions::new()
            .with_range(self.end.clone())
            .with_sort(SortTarget::Create, SortOrder::Ascend)
            .with_limit(1);
        TxnOp::get(self.prefix.clone(), Some(options))
    }

    /// Everybody, with values.
    pub(crate) fn everybody(&self) -> GetOptions {
        GetOptions::new().with_range(self.end.clone())
    }

    /// Whoever joined at this revision.
    pub(crate) fn who_joined_at(&self, revision: i64) -> GetOptions {
        self.everybody().with_min_create_revision(revision).with_max_create_revision(revision)
    }

    /// A key of the line as a place in it. One that cannot be read stands in everybody's way.
    pub(crate) fn place(&self, kv: &KeyValue) -> Place {
        let rest = kv.key().get(self.prefix.len()..).unwrap_or_default();
        let weight = rest.iter().position(|byte| *byte == b':').and_then(|at| {
            let digits = std::str::from_utf8(&rest[at + 1..]).ok()?;
            digits.parse().ok()
        });
        Place { token: kv.create_revision(), key: kv.key().to_vec(), weight: weight.unwrap_or(u32::MAX) }
    }

    /// The whole line, in its order.
    pub(crate) fn in_order(&self, kvs: &[KeyValue]) -> Vec<Place> {
        let mut places: Vec<_> = kvs.iter().map(|kv| self.place(kv)).collect();
        places.sort_by_key(|place| place.token);
        places
    }
}

/// Nobody has this key.
pub(crate) fn is_absent(key: &[u8]) -> Compare {
    Compare::create_revision(key, CompareOp::Equal, 0)
}

/// The key was last changed at this revision.
pub(crate) fn is_unchanged(key: &[u8], version: i64) -> Compare {
    Compare::mod_revision(key, CompareOp::Equal, version)
}

/// The key is the one that was created at this revision.
pub(crate) fn is_created_at(key: &[u8], token: i64) -> Compare {
    Compare::create_revision(key, CompareOp::Equal, token)
}

/// The key is on this lease.
pub(crate) fn is_on(key: &[u8], lease: i64) -> Compare {
    Compare::lease(key, CompareOp::Equal, lease)
}

/// Writes a claim.
pub(crate) fn put(key: &[u8], record: &Record, lease: i64) -> TxnOp {
    TxnOp::put(key, record.encode(), Some(PutOptions::new().with_lease(lease)))
}

/// Writes a claim, and leaves it on its lease.
pub(crate) fn put_where_it_is(key: &[u8], record: &Record) -> TxnOp {
    TxnOp::put(key, record.encode(), Some(PutOptions::new().with_ignore_lease()))
}

/// Reads one key.
pub(crate) fn get(key: &[u8]) -> TxnOp {
    TxnOp::get(key, None)
}

/// Deletes one key.
pub(crate) fn delete(key: &[u8]) -> TxnOp {
    TxnOp::delete(key, None::<DeleteOptions>)
}

/// What a claim sends that asks for a place in the line: it is granted at once if nobody is there; otherwise it joins if it is
/// to wait.
pub(crate) fn join(
    line: &LineKeys,
    key: &[u8],
    record: &Record,
    lease: i64,
    exclusive: bool,
    wait: bool,
) -> Txn {
    let granted = record.granted();
    let join =
        if wait { vec![put(key, record, lease), line.places()] } else { vec![line.places(), line.first()] };
    let found = vec![get(key), line.places()];
    let (when, otherwise) = if exclusive {
        (line.is_empty(), Txn::new().when([is_absent(key)]).and_then(join).or_else(found))
    } else {
        // Who weighs nothing is in nobody's way, and nobody in its.
        (is_absent(key), Txn::new().and_then(found))
    };
    Txn::new().when([when]).and_then([put(key, &granted, lease)]).or_else([TxnOp::txn(otherwise)])
}
