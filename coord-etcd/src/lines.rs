//! A line of claims in the server: its keys, and the transactions on them.
//!
//! A claim is the key `<line>/<id>:<weight>[:<number>]` on a lease, and its token is the revision that created the
//! key. The weight stands in the key, so that who stands where can be told from keys alone, without the values. A claim that
//! another is put before gets another key, with the next number, and so a later token.
//!
//! In the shared layout, a lock and an election are at `<name>/<lease>`, where other clients look, and for those who share a lock
//! at `<name>/<lease>:<weight>`. Each claim has a lease of its own then. What we have to know of it stands in a second key, its
//! record, which is made and ends together with the first; in our own layout the two are one.

use coord_core::{
    Error, ErrorKind, Namespace, Result,
    spi::{ClaimId, Kind, LineId},
};
use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, PutOptions, SortOrder, SortTarget, Txn, TxnOp,
};

use crate::{
    config::Layout,
    keys::{self, end_of},
    record::Record,
    waiting::Place,
};

/// A line's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LineKeys {
    /// Everything that begins with this stands in the line.
    pub(crate) prefix: Vec<u8>,
    end: Vec<u8>,
    /// Where the records are: in the line, or under keys of our own.
    pub(crate) records: Vec<u8>,
    /// Whether other clients than ours use the line, and each claim has a lease of its own.
    pub(crate) shared: bool,
    kind: Kind,
}

/// The keys of one claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClaimKeys {
    /// Its place in the line.
    pub(crate) place: Vec<u8>,
    /// Where its record is; the same key, but in the shared layout.
    pub(crate) record: Vec<u8>,
    /// Whether others read the value of its place.
    value: bool,
}

impl LineKeys {
    pub(crate) fn of(line: &LineId, layout: Layout) -> Self {
        let own = keys::line(line).into_bytes();
        let shared = layout == Layout::Interop && matches!(line.kind, Kind::Lock | Kind::Election);
        let prefix = if !shared {
            own.clone()
        } else if line.namespace == Namespace::default() {
            format!("{}/", line.name).into_bytes()
        } else {
            format!("{}/{}/", line.namespace, line.name).into_bytes()
        };
        Self { end: end_of(&prefix), prefix, records: own, shared, kind: line.kind }
    }

    /// Whether the line is apart from all else.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a name behind which all keys of this library would contend.
    pub(crate) fn check(&self) -> Result<()> {
        if !self.shared || !self.prefix.starts_with(keys::ROOT.as_bytes()) {
            return Ok(());
        }
        let message = "with layout=interop, the etcd backend has no locks and elections called coord or coord/…: its own keys \
                       stand there; use another name";
        Err(Error::new(ErrorKind::InvalidInput, message))
    }

    /// The keys of a claim that joins on this lease.
    pub(crate) fn of_claim(&self, id: ClaimId, weight: u32, lease: i64) -> ClaimKeys {
        if !self.shared {
            let name = format!("{}:{weight}", keys::hex(id.as_bytes()));
            return self.called(name.as_bytes());
        }
        let exclusive = weight == coord_core::spi::ALL || self.kind == Kind::Election;
        let weight = if exclusive { String::new() } else { format!(":{weight}") };
        self.called(format!("{lease:x}{weight}").as_bytes())
    }

    /// The keys of the claim whose keys end like this.
    pub(crate) fn called(&self, name: &[u8]) -> ClaimKeys {
        ClaimKeys {
            place: [&self.prefix, name].concat(),
            record: [&self.records, name].concat(),
            value: self.kind == Kind::Election,
        }
    }

    /// The same, by the key of its record.
    pub(crate) fn by_record(&self, record: &[u8]) -> ClaimKeys {
        self.called(record.get(self.records.len()..).unwrap_or_default())
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

    /// The first record.
    pub(crate) fn first(&self) -> TxnOp {
        let options = GetOptions::new()
            .with_range(end_of(&self.records))
            .with_sort(SortTarget::Create, SortOrder::Ascend)
            .with_limit(1);
        TxnOp::get(self.records.clone(), Some(options))
    }

    /// Everybody, with values; and behind it, where they are elsewhere, the records.
    pub(crate) fn everybody(&self) -> Txn {
        let range = |prefix: &[u8]| TxnOp::get(prefix, Some(GetOptions::new().with_range(end_of(prefix))));
        let mut reads = vec![range(&self.prefix)];
        if self.shared {
            reads.push(range(&self.records));
        }
        Txn::new().and_then(reads)
    }

    /// The record of whoever joined at this revision.
    pub(crate) fn who_joined_at(&self, revision: i64) -> GetOptions {
        let range = GetOptions::new().with_range(end_of(&self.records));
        range.with_min_create_revision(revision).with_max_create_revision(revision)
    }

    /// What all keys that a claim may have begin with, and the first key behind them.
    fn names(&self, keys: &ClaimKeys) -> (Vec<u8>, Option<Vec<u8>>) {
        if self.shared {
            return (keys.record.clone(), None);
        }
        let name = keys.place.get(self.prefix.len()..).unwrap_or_default();
        let end = name.iter().position(|byte| *byte == b':').map_or(name.len(), |at| at + 1);
        let start = [&self.prefix, &name[..end]].concat();
        let end = end_of(&start);
        (start, Some(end))
    }

    /// The claim is not in the line.
    pub(crate) fn is_outside(&self, keys: &ClaimKeys) -> Compare {
        match self.names(keys) {
            (start, Some(end)) => Compare::create_revision(start, CompareOp::Equal, 0).with_range(end),
            _ => Compare::create_revision(keys.place.clone(), CompareOp::Equal, 0),
        }
    }

    /// No key that the claim may have was created after this revision.
    pub(crate) fn is_not_newer(&self, keys: &ClaimKeys, revision: i64) -> Compare {
        match self.names(keys) {
            (start, Some(end)) => {
                Compare::create_revision(start, CompareOp::Less, revision + 1).with_range(end)
            }
            _ => Compare::create_revision(keys.place.clone(), CompareOp::Less, revision + 1),
        }
    }

    /// Reads a claim's record.
    pub(crate) fn own(&self, keys: &ClaimKeys) -> TxnOp {
        match self.names(keys) {
            (start, Some(end)) => TxnOp::get(start, Some(GetOptions::new().with_range(end))),
            (record, None) => TxnOp::get(record, None),
        }
    }

    /// Deletes a claim, wherever it stands now.
    pub(crate) fn remove(&self, keys: &ClaimKeys) -> Vec<TxnOp> {
        match self.names(keys) {
            (start, Some(end)) => vec![TxnOp::delete(start, Some(DeleteOptions::new().with_range(end)))],
            _ => delete(keys),
        }
    }

    /// The next key of a claim that another one is put before.
    pub(crate) fn behind(&self, place: &[u8]) -> ClaimKeys {
        let name = place.get(self.prefix.len()..).unwrap_or_default();
        let name = String::from_utf8_lossy(name);
        let mut parts = name.split(':');
        let (id, weight) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let number: u64 = parts.next().and_then(|number| number.parse().ok()).unwrap_or_default();
        self.called(format!("{id}:{weight}:{}", number + 1).as_bytes())
    }

    /// A key of the line as a place in it. One that cannot be read stands in everybody's way.
    pub(crate) fn place(&self, kv: &KeyValue) -> Place {
        let name = kv.key().get(self.prefix.len()..).unwrap_or_default();
        let mut parts = name.split(|byte| *byte == b':').skip(1).map(std::str::from_utf8);
        let weight = parts.next().and_then(|part| part.ok()?.parse().ok());
        Place { token: kv.create_revision(), key: kv.key().to_vec(), weight: weight.unwrap_or(u32::MAX) }
    }

    /// The whole line, in its order.
    pub(crate) fn in_order(&self, kvs: &[KeyValue]) -> Vec<Place> {
        let mut places: Vec<_> = kvs.iter().map(|kv| self.place(kv)).collect();
        places.sort_by_key(|place| place.token);
        places
    }
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

/// Writes a claim: on this lease, or where it is.
pub(crate) fn put(keys: &ClaimKeys, record: &Record, lease: Option<i64>) -> Vec<TxnOp> {
    let options = || match lease {
        Some(lease) => PutOptions::new().with_lease(lease),
        None => PutOptions::new().with_ignore_lease(),
    };
    let mut puts = vec![TxnOp::put(keys.record.clone(), record.encode(), Some(options()))];
    if keys.place != keys.record {
        let value = if keys.value { record.value.clone() } else { Vec::new() };
        puts.push(TxnOp::put(keys.place.clone(), value, Some(options())));
    }
    puts
}

/// Notes that a claim is granted.
pub(crate) fn grant(keys: &ClaimKeys, granted: &Record) -> TxnOp {
    TxnOp::put(keys.record.clone(), granted.encode(), Some(PutOptions::new().with_ignore_lease()))
}

/// Reads one key.
pub(crate) fn get(key: &[u8]) -> TxnOp {
    TxnOp::get(key, None)
}

/// Deletes a claim.
pub(crate) fn delete(keys: &ClaimKeys) -> Vec<TxnOp> {
    let mut deletes = vec![TxnOp::delete(keys.place.clone(), None::<DeleteOptions>)];
    if keys.place != keys.record {
        deletes.push(TxnOp::delete(keys.record.clone(), None::<DeleteOptions>));
    }
    deletes
}

/// What a claim sends that asks for a place in the line: it is granted at once if nobody is there; otherwise it joins if it is
/// to wait.
pub(crate) fn join(
    line: &LineKeys,
    keys: &ClaimKeys,
    (record, granted): (&Record, &Record),
    lease: i64,
    exclusive: bool,
    wait: bool,
) -> Txn {
    let join = if wait {
        let mut join = put(keys, record, Some(lease));
        join.push(line.places());
        join
    } else {
        vec![line.places(), line.first()]
    };
    let found = vec![line.own(keys), line.places()];
    let (when, otherwise) = if exclusive {
        (line.is_empty(), Txn::new().when([line.is_outside(keys)]).and_then(join).or_else(found))
    } else {
        // Who weighs nothing is in nobody's way, and nobody in its.
        (line.is_outside(keys), Txn::new().and_then(found))
    };
    let granted = put(keys, granted, Some(lease));
    Txn::new().when([when]).and_then(granted).or_else([TxnOp::txn(otherwise)])
}

#[cfg(test)]
mod tests {
    use coord_core::Name;

    use super::*;

    #[test]
    fn in_the_shared_layout_locks_and_elections_are_where_others_look() {
        let line = |kind, namespace: &str| {
            let namespace = Namespace::new(namespace).unwrap();
            LineKeys::of(&LineId { namespace, kind, name: Name::new("a/b").unwrap() }, Layout::Interop)
        };
        let id = ClaimId::random();
        let text = |keys: &[u8]| String::from_utf8(keys.to_vec()).unwrap();
        let (lock, election) = (line(Kind::Lock, "default"), line(Kind::Election, "team"));
        let exclusive = lock.of_claim(id, u32::MAX, 0x694d);
        assert_eq!(text(&exclusive.place), "a/b/694d");
        assert_eq!(text(&exclusive.record), "coord/c/default/lock/a%2Fb/694d");
        assert_eq!(lock.by_record(&exclusive.record), exclusive);
        assert_eq!(text(&lock.of_claim(id, 1, 0x694d).place), "a/b/694d:1");
        assert_eq!(text(&election.of_claim(id, 1, 0x694d).place), "team/a/b/694d");
        let own = line(Kind::Registry, "default").of_claim(id, 0, 0x694d);
        assert_eq!(own.place, own.record);
        assert!(own.place.starts_with(b"coord/c/default/registry/a%2Fb/"));
    }

    #[test]
    fn who_is_put_behind_gets_the_next_key() {
        let (namespace, kind) = (Namespace::default(), Kind::Election);
        let line = LineKeys::of(&LineId { namespace, kind, name: Name::new("x").unwrap() }, Layout::Own);
        let (id, name) = (ClaimId::random(), |keys: &ClaimKeys| {
            String::from_utf8(keys.place[line.prefix.len() + 32..].to_vec()).unwrap()
        });
        let first = line.of_claim(id, 1, 5);
        assert_eq!(name(&first), ":1");
        let next = line.behind(&first.place);
        assert_eq!(name(&next), ":1:1");
        assert_eq!(name(&line.behind(&next.place)), ":1:2");
        assert_eq!(line.names(&first), line.names(&next));
        assert!(next.place.starts_with(&line.names(&first).0));
    }
}
