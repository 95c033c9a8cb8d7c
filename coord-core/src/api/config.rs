//! Configuration: versioned values with conditions and watches.

use std::{collections::BTreeMap, sync::Arc, time::Duration, time::SystemTime};

use async_trait::async_trait;
use futures_util::stream;
use tokio::time::sleep;
use tracing::warn;

use crate::{
    Coordinator, Error, ErrorKind, FencingToken, Name, Result, Watch,
    engine::trace::{Tokened, traced},
    limits,
    spi::{
        Kind, Wakeups,
        values::{
            Change, Changes, Committed, Condition, KeyId, Page, Prefix, Stored, Transaction, Values, Write,
            WriteId,
        },
    },
};

/// A versioned map of small values that every client can watch. A value has at most [`limits::MAX_VALUE`] bytes.
///
/// Every change has a condition, which is judged at the moment of the change; see [`Condition`]. Reads see every change
/// that was answered before they began.
///
/// ```
/// # use coord_core::{memory, prelude::*, Error, ErrorKind};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Error> {
/// # let coordinator = memory::Store::new().client();
/// let limit = Name::new("web/limit")?;
/// let first = coordinator.put(&limit, b"100".to_vec(), Condition::Absent).await?;
/// coordinator.put(&limit, b"200".to_vec(), Condition::Version(first)).await?;
/// let late = coordinator.put(&limit, b"300".to_vec(), Condition::Version(first)).await.unwrap_err();
/// assert_eq!(late.kind(), ErrorKind::ConditionFailed);
/// # coordinator.shutdown().await
/// # }
/// ```
#[async_trait]
pub trait ConfigStore: Send + Sync {
    /// The value of a key.
    ///
    /// # Cancel safety
    /// Cancel safe.
    ///
    /// # Errors
    /// What the store says.
    async fn get(&self, key: &Name) -> Result<Option<Entry>>;

    /// Replaces the value of a key if the condition holds. Returns its new version.
    ///
    /// # Cancel safety
    /// Dropped halfway, it may or may not be done.
    ///
    /// # Errors
    /// [`ErrorKind::ConditionFailed`], saying what was found; [`ErrorKind::Fenced`] for a token lower than the key's
    /// high-water mark, and for a write without a token to a key that has one; [`ErrorKind::TooLarge`]; what the store
    /// says.
    async fn put(&self, key: &Name, value: Vec<u8>, condition: Condition) -> Result<u64>;

    /// Removes the value of a key if the condition holds. A high-water mark stays. Nothing happens if there is no value.
    ///
    /// # Cancel safety
    /// Dropped halfway, it may or may not be done.
    ///
    /// # Errors
    /// As [`ConfigStore::put`].
    async fn delete(&self, key: &Name, condition: Condition) -> Result<()>;

    /// Does several writes together or not at all. Returns the version that all of them get.
    ///
    /// # Cancel safety
    /// Dropped halfway, it may or may not be done.
    ///
    /// # Errors
    /// As [`ConfigStore::put`], for the first write whose condition does not hold; [`ErrorKind::InvalidOptions`] without
    /// writes, for a key given twice and for a fence without a token; [`ErrorKind::TooLarge`] beyond [`limits::MAX_BATCH`] or
    /// [`limits::MAX_BATCH_BYTES`].
    async fn commit(&self, writes: Vec<Write>) -> Result<u64>;

    /// The entries whose keys begin with `prefix`, in the byte order of the keys, a page at a time: at most `limit`
    /// that come after `after`. Each page is of one moment, and different pages are of different ones.
    ///
    /// # Cancel safety
    /// Cancel safe.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOptions`] unless `1 <= limit <= `[`limits::MAX_BATCH`]; what the store says.
    async fn list(&self, prefix: &str, after: Option<&Name>, limit: u32) -> Result<Listing>;

    /// The last states of a key that the store has kept, the newest first. What is long ago is forgotten.
    ///
    /// # Cancel safety
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`ConfigStore::list`].
    async fn history(&self, key: &Name, limit: u32) -> Result<Vec<Revision>>;

    /// Follows one key: first its present state, then every last state. See [`ConfigEvent`].
    ///
    /// A store that is away for a while delays the watch and does not end it: what happened meanwhile is reported then, or
    /// [`ConfigEvent::Resync`] if the store has forgotten it.
    fn watch(&self, key: &Name) -> Watch<ConfigEvent>;

    /// Follows all keys that begin with `prefix`, as [`ConfigStore::watch`] does one; of an empty one, all keys.
    fn watch_prefix(&self, prefix: &str) -> Watch<ConfigEvent>;
}

/// A value with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The key.
    pub key: Name,
    /// The value.
    pub value: Vec<u8>,
    /// Its version, for [`Condition::Version`]. Every change of the key gives it a greater one, also when it was
    /// deleted in between.
    pub version: u64,
    /// The store's revision when it was read.
    pub revision: u64,
    /// The high-water mark of tokens, if the key was ever fenced or written with one.
    pub mark: Option<FencingToken>,
    /// When it was last changed, by the store's wall clock.
    pub at: SystemTime,
    /// Who changed it last.
    pub by: String,
}

/// A state of a key in its history.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Revision {
    /// The value; `None` where the key was deleted.
    pub value: Option<Vec<u8>>,
    /// Its version.
    pub version: u64,
    /// When it was changed, by the store's wall clock.
    pub at: SystemTime,
    /// Who changed it.
    pub by: String,
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listing {
    /// The entries.
    pub entries: Vec<Entry>,
    /// Whether there are more, after the last of these.
    pub more: bool,
}

/// What a watch of configuration reports. The last state of every key is always reported; states in between may be
/// skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigEvent {
    /// The state at the start: all entries.
    Snapshot(Vec<Entry>),
    /// A key has a new value.
    Put(Entry),
    /// A key was deleted.
    Deleted {
        /// The key.
        key: Name,
        /// The version of the deletion.
        version: u64,
    },
    /// The store has forgotten what happened while the watch was away. This is everything that there is now.
    Resync(Vec<Entry>),
}

impl Tokened for Option<Entry> {}
impl Tokened for Listing {}
impl Tokened for u64 {}

impl Entry {
    fn new(stored: Stored, revision: u64) -> Option<Self> {
        let Stored { key, value, version, mark, at, by } = stored;
        Some(Self { key, value: value?, version, revision, mark, at, by })
    }
}

impl Coordinator {
    fn key_id(&self, key: &Name) -> KeyId {
        KeyId { namespace: self.namespace().clone(), key: key.clone() }
    }

    fn prefix(&self, text: &str) -> Prefix {
        Prefix { namespace: self.namespace().clone(), text: text.into() }
    }

    /// The entry of a key, with or without a value.
    pub(crate) async fn stored(&self, key: &Name) -> Result<(Option<Stored>, u64)> {
        let key = self.key_id(key);
        let get = |values: Arc<dyn Values>| {
            let key = key.clone();
            async move { values.get(&key).await }
        };
        self.engine.insist(self.engine.values()?, get).await
    }

    /// Does all writes or none, sending them again after lost replies.
    pub(crate) async fn transact(&self, writes: Vec<Write>) -> Result<u64> {
        let sizes = writes.iter().map(|write| match &write.change {
            Change::Put(value) => value.as_slice(),
            Change::Delete | Change::Fence => &[],
        });
        limits::batch("writes", sizes)?;
        let has_token = |write: &Write| matches!(write.condition, Condition::Token(_));
        if writes.iter().any(|write| write.change == Change::Fence && !has_token(write)) {
            return Err(Error::new(ErrorKind::InvalidOptions, "a fence needs the condition of a token"));
        }
        let mut keys: Vec<_> = writes.iter().map(|write| &write.key).collect();
        keys.sort();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Error::new(ErrorKind::InvalidOptions, "a transaction writes every key once at most"));
        }
        let transaction = Arc::new(Transaction {
            id: WriteId::random(),
            by: self.engine.owner.clone(),
            namespace: self.namespace().clone(),
            writes,
        });
        let commit = |values: Arc<dyn Values>| {
            let transaction = transaction.clone();
            async move { values.commit(&transaction).await }
        };
        match self.engine.insist(self.engine.values()?, commit).await? {
            Committed::Done { revision } => Ok(revision),
            Committed::Refused { at, found } => Err(refusal(&transaction.writes[at], found)),
        }
    }
}

fn refusal(write: &Write, found: Option<Stored>) -> Error {
    let key = write.key.as_str();
    let mark = found.as_ref().and_then(|found| found.mark);
    let value = found.filter(|found| found.value.is_some());
    match (write.condition, mark) {
        (Condition::Token(token), Some(mark)) => Error::new(
            ErrorKind::Fenced,
            format!(
                "{key:?} refuses token {token}: it has seen {mark}, so the holder of {token} has lost the lock"
            ),
        ),
        (_, Some(mark)) => Error::new(
            ErrorKind::Fenced,
            format!("{key:?} is fenced: it has seen token {mark}; write it with the token of your grant"),
        ),
        (condition, None) => {
            let found = value.map_or_else(|| "no value".into(), |found| format!("version {}", found.version));
            let wanted = match condition {
                Condition::Version(version) => format!("version {version}"),
                _ => "no value".into(),
            };
            Error::new(ErrorKind::ConditionFailed, format!("{key:?} has {found}, and {wanted} was asked for"))
        }
    }
}

fn check_limit(limit: u32) -> Result<()> {
    if limit == 0 || limit as usize > limits::MAX_BATCH {
        return Err(Error::new(
            ErrorKind::InvalidOptions,
            format!("a page has 1 to {} entries, not {limit}", limits::MAX_BATCH),
        ));
    }
    Ok(())
}

#[async_trait]
impl ConfigStore for Coordinator {
    async fn get(&self, key: &Name) -> Result<Option<Entry>> {
        traced("config.get", &self.line_id(Kind::Config, key), async {
            let (stored, revision) = self.stored(key).await?;
            Ok(stored.and_then(|stored| Entry::new(stored, revision)))
        })
        .await
    }

    async fn put(&self, key: &Name, value: Vec<u8>, condition: Condition) -> Result<u64> {
        let write = Write { key: key.clone(), condition, change: Change::Put(value) };
        traced("config.put", &self.line_id(Kind::Config, key), self.transact(vec![write])).await
    }

    async fn delete(&self, key: &Name, condition: Condition) -> Result<()> {
        let write = Write { key: key.clone(), condition, change: Change::Delete };
        traced("config.delete", &self.line_id(Kind::Config, key), async {
            self.transact(vec![write]).await.map(|_| ())
        })
        .await
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<u64> {
        let Some(first) = writes.first().map(|write| write.key.clone()) else {
            return Err(Error::new(ErrorKind::InvalidOptions, "there are no writes"));
        };
        traced("config.commit", &self.line_id(Kind::Config, &first), self.transact(writes)).await
    }

    async fn list(&self, prefix: &str, after: Option<&Name>, limit: u32) -> Result<Listing> {
        check_limit(limit)?;
        let page = read_page(self, &self.prefix(prefix), after.cloned(), limit).await?;
        let revision = page.revision;
        let entries = page.entries.into_iter().filter_map(|stored| Entry::new(stored, revision)).collect();
        Ok(Listing { entries, more: page.more })
    }

    async fn history(&self, key: &Name, limit: u32) -> Result<Vec<Revision>> {
        check_limit(limit)?;
        let key = self.key_id(key);
        let read = |values: Arc<dyn Values>| {
            let key = key.clone();
            async move { values.history(&key, limit).await }
        };
        let states = self.engine.insist(self.engine.values()?, read).await?;
        let state = |Stored { value, version, at, by, .. }| Revision { value, version, at, by };
        Ok(states.into_iter().map(state).collect())
    }

    fn watch(&self, key: &Name) -> Watch<ConfigEvent> {
        follow(self.clone(), Some(key.clone()), self.prefix(key.as_str()))
    }

    fn watch_prefix(&self, prefix: &str) -> Watch<ConfigEvent> {
        follow(self.clone(), None, self.prefix(prefix))
    }
}

async fn read_page(
    coordinator: &Coordinator,
    prefix: &Prefix,
    after: Option<Name>,
    limit: u32,
) -> Result<Page> {
    let engine = &coordinator.engine;
    let read = |values: Arc<dyn Values>| {
        let (prefix, after) = (prefix.clone(), after.clone());
        async move { values.list(&prefix, after.as_ref(), limit).await }
    };
    engine.insist(engine.values()?, read).await
}

/// Hints can be missing: the watch asks again after this long in any case.
const RESYNC: Duration = Duration::from_secs(5);

struct Following {
    coordinator: Coordinator,
    /// Only this key of the prefix.
    only: Option<Name>,
    prefix: Prefix,
    wakeups: Option<Wakeups>,
    /// Up to which revision everything was reported.
    seen: Option<u64>,
    /// The versions that were reported, to report nothing twice.
    versions: BTreeMap<Name, u64>,
    pending: std::collections::VecDeque<ConfigEvent>,
    failing: Duration,
}

fn follow(coordinator: Coordinator, only: Option<Name>, prefix: Prefix) -> Watch<ConfigEvent> {
    let wakeups = coordinator.engine.values.as_ref().map(|values| values.wakeups(&prefix));
    let start = Following {
        coordinator,
        only,
        prefix,
        wakeups,
        seen: None,
        versions: BTreeMap::new(),
        pending: std::collections::VecDeque::new(),
        failing: Duration::ZERO,
    };
    Watch::new(stream::unfold(Some(start), async |state| {
        let mut state = state?;
        match state.next().await {
            Ok(event) => Some((Ok(event), Some(state))),
            Err(error) => Some((Err(error), None)),
        }
    }))
}

impl Following {
    async fn next(&mut self) -> Result<ConfigEvent> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            let started = self.seen.is_some();
            if started || !self.failing.is_zero() {
                let rest = if self.failing.is_zero() { RESYNC } else { self.failing };
                let hint = async {
                    match &mut self.wakeups {
                        Some(wakeups) => wakeups.next().await,
                        None => std::future::pending().await,
                    }
                };
                let closed = self.coordinator.engine.closed();
                tokio::select! {
                    biased;
                    // The read that follows says so.
                    () = closed.cancelled() => {}
                    _ = hint => {}
                    () = sleep(rest) => {}
                }
            }
            match self.look().await {
                Ok(()) => self.failing = Duration::ZERO,
                Err(error) if error.is_retryable() => {
                    warn!(prefix = self.prefix.text, %error, "a watch asks again");
                    self.failing =
                        (self.failing * 2).clamp(Duration::from_millis(50), Duration::from_secs(1));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn wants(&self, stored: &Stored) -> bool {
        self.only.as_ref().is_none_or(|only| *only == stored.key)
    }

    async fn look(&mut self) -> Result<()> {
        let Some(since) = self.seen else {
            let (entries, revision) = self.everything().await?;
            self.pending.push_back(ConfigEvent::Snapshot(entries));
            self.seen = Some(revision);
            return Ok(());
        };
        let engine = &self.coordinator.engine;
        let read = |values: Arc<dyn Values>| {
            let prefix = self.prefix.clone();
            async move { values.changes(&prefix, since).await }
        };
        match engine.insist(engine.values()?, read).await? {
            Changes::Gap => {
                let (entries, revision) = self.everything().await?;
                self.pending.push_back(ConfigEvent::Resync(entries));
                self.seen = Some(revision);
            }
            Changes::All { entries, revision } => {
                for stored in entries {
                    let known = self.versions.get(&stored.key).copied().unwrap_or(0);
                    if !self.wants(&stored) || stored.version <= known {
                        continue;
                    }
                    self.versions.insert(stored.key.clone(), stored.version);
                    let (key, version) = (stored.key.clone(), stored.version);
                    let event = Entry::new(stored, revision).map(ConfigEvent::Put);
                    self.pending.push_back(event.unwrap_or(ConfigEvent::Deleted { key, version }));
                }
                self.seen = Some(revision.max(since));
            }
        }
        Ok(())
    }

    /// All entries, page by page. What changes meanwhile is found again by the first page's revision.
    async fn everything(&mut self) -> Result<(Vec<Entry>, u64)> {
        let (mut entries, mut first, mut after) = (Vec::new(), None, None);
        self.versions.clear();
        loop {
            let page = match &self.only {
                Some(key) => {
                    let (stored, revision) = self.coordinator.stored(key).await?;
                    Page { entries: stored.into_iter().collect(), more: false, revision }
                }
                None => read_page(&self.coordinator, &self.prefix, after, limits::MAX_BATCH as u32).await?,
            };
            let revision = *first.get_or_insert(page.revision);
            after = page.entries.last().map(|stored| stored.key.clone());
            for stored in page.entries {
                self.versions.insert(stored.key.clone(), stored.version);
                entries.extend(Entry::new(stored, page.revision));
            }
            if !page.more {
                return Ok((entries, revision));
            }
        }
    }
}
