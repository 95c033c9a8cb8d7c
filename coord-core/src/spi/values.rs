//! The store of values: a versioned map with conditions, fences and a log of changes.

use std::{fmt, time::SystemTime};

use async_trait::async_trait;
use uuid::Uuid;

use super::Wakeups;
use crate::{FencingToken, Name, Namespace, Result};

/// Which entry: a namespace and a key. A backend maps the two injectively.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(clippy::exhaustive_structs)]
pub struct KeyId {
    /// The namespace.
    pub namespace: Namespace,
    /// The key.
    pub key: Name,
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.key)
    }
}

/// The keys of a namespace that begin with some text; of the empty text, all of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_structs)]
pub struct Prefix {
    /// The namespace.
    pub namespace: Namespace,
    /// How the keys begin, byte by byte.
    pub text: String,
}

impl Prefix {
    /// Whether a key is one of these.
    #[must_use]
    pub fn contains(&self, key: &KeyId) -> bool {
        self.namespace == key.namespace && key.key.as_str().starts_with(&self.text)
    }
}

/// An entry as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct Stored {
    /// The key.
    pub key: Name,
    /// The value; `None` for a key that was deleted, or fenced before it was first written.
    pub value: Option<Vec<u8>>,
    /// The store's revision at the key's last change. It is never used twice, so that a compare-and-set cannot take a
    /// value for an earlier one that looked alike.
    pub version: u64,
    /// The high-water mark of tokens, if the key was ever fenced or written with one.
    pub mark: Option<FencingToken>,
    /// When it was last changed, by the store's wall clock, for people.
    pub at: SystemTime,
    /// Who changed it last.
    pub by: String,
}

/// The id of one transaction, fresh for every attempt, so that one whose reply was lost is found again and never done
/// twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WriteId(Uuid);

impl WriteId {
    /// A fresh random id.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The id's sixteen bytes, for a store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

/// Several writes that happen together or not at all.
#[derive(Debug, Clone)]
#[allow(clippy::exhaustive_structs)]
pub struct Transaction {
    /// This attempt.
    pub id: WriteId,
    /// Who writes, for people.
    pub by: String,
    /// The namespace of all keys.
    pub namespace: Namespace,
    /// The writes; no key twice.
    pub writes: Vec<Write>,
}

/// One write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct Write {
    /// The key.
    pub key: Name,
    /// What must be true.
    pub condition: Condition,
    /// What is done.
    pub change: Change,
}

/// What must be true for a write. A key with a high-water mark accepts only [`Condition::Token`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// Nothing.
    Any,
    /// The key has no value.
    Absent,
    /// The key has a value of this version.
    Version(u64),
    /// The token is not lower than the key's mark. The mark is raised to it.
    Token(FencingToken),
}

/// What is done to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Its value is replaced.
    Put(Vec<u8>),
    /// Its value is removed; its mark stays. Where there is no value nothing is changed but the mark, and nothing is logged.
    Delete,
    /// Only its mark is raised. With [`Condition::Token`] only.
    Fence,
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Committed {
    /// All writes were done, at this revision; it is the version of every key that was put or deleted.
    Done {
        /// The revision.
        revision: u64,
    },
    /// Nothing was done: the condition of the write at this place did not hold.
    Refused {
        /// Which of the writes.
        at: usize,
        /// What stands there.
        found: Option<Stored>,
    },
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(clippy::exhaustive_structs)]
pub struct Page {
    /// Entries that have a value, in the byte order of their keys.
    pub entries: Vec<Stored>,
    /// Whether there are more.
    pub more: bool,
    /// The store's revision of this page.
    pub revision: u64,
}

/// What changed since a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Changes {
    /// Every key that changed, as it is at `revision`, in the order of the versions.
    All {
        /// The entries; deleted ones without a value.
        entries: Vec<Stored>,
        /// The store's revision.
        revision: u64,
    },
    /// The store has forgotten what happened so long ago.
    Gap,
}

/// A store of values.
///
/// # Contract
/// That of [`Claims`](super::Claims), with these additions.
/// * [`Values::commit`] is idempotent in [`Transaction::id`] for at least a minute.
/// * Reads are linearizable.
/// * A key's mark never falls and is never forgotten, not even when its value is deleted.
#[async_trait]
pub trait Values: fmt::Debug + Send + Sync + 'static {
    /// The entry of a key, with or without a value, and the store's revision.
    async fn get(&self, key: &KeyId) -> Result<(Option<Stored>, u64)>;

    /// At most `limit` entries of a prefix that come after a key.
    async fn list(&self, prefix: &Prefix, after: Option<&Name>, limit: u32) -> Result<Page>;

    /// Does all writes or none.
    async fn commit(&self, transaction: &Transaction) -> Result<Committed>;

    /// What changed in a prefix after a revision.
    async fn changes(&self, prefix: &Prefix, since: u64) -> Result<Changes>;

    /// The last states of a key that the store has kept, the newest first.
    async fn history(&self, key: &KeyId, limit: u32) -> Result<Vec<Stored>>;

    /// Hints that something in a prefix may have changed. As [`Claims::wakeups`](super::Claims::wakeups).
    fn wakeups(&self, prefix: &Prefix) -> Wakeups;
}
