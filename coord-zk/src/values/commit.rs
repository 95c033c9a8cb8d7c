//! A transaction: read, judge, and do it on condition that nothing of what was judged has changed.

use std::time::Duration;

use coord_core::{
    Error, ErrorKind, FencingToken, Result,
    clock::Clock,
    spi::values::{Change, Committed, Condition, Stored, Transaction, Write},
};
use tracing::debug;

use super::{
    log::{self, Commit},
    record::{self, Record},
    space::Space,
};
use crate::{
    batch::{Batch, Conflict, Pause, make},
    error::{Failure, misread},
    forget,
    session::{Done, Look, Mode, Seen, Session, Stat},
};

/// How long a transaction that was done is remembered, by the store's clock.
const MEMORY: Duration = Duration::from_secs(120);

/// Every so many commits somebody forgets what is old.
const EVERY: i32 = 32;

/// Refuses what this store does not know, before anything is sent.
pub(super) fn check(transaction: &Transaction) -> Result<()> {
    for write in &transaction.writes {
        let known = match (write.condition, &write.change) {
            (Condition::Any | Condition::Absent | Condition::Version(_), Change::Fence) => {
                return Err(Error::new(ErrorKind::InvalidOptions, "a fence needs the condition of a token"));
            }
            (
                Condition::Any | Condition::Absent | Condition::Version(_) | Condition::Token(_),
                Change::Put(_) | Change::Delete | Change::Fence,
            ) => true,
            _ => false,
        };
        if !known {
            return Err(Error::new(ErrorKind::Unsupported, "this store does not know this kind of write"));
        }
    }
    Ok(())
}

/// Does it, or says what stands in the way.
pub(super) async fn commit(session: &Session, space: &Space, transaction: &Transaction) -> Result<Committed> {
    let mut pause = Pause::default();
    loop {
        let known = Known::read(session, space, transaction).await?;
        if let Some(revision) = known.done {
            return Ok(Committed::Done { revision });
        }
        if let Some(at) = known.refused(transaction) {
            return Ok(Committed::Refused { at, found: known.entry(at).cloned() });
        }
        let Some(deleted) = known.deleted else {
            make_missing(session, space, None).await?;
            continue;
        };
        let plan = Plan::new(space, transaction, &known, deleted);
        match plan.batch.send(session).await? {
            Ok(done) => {
                let revision = plan.tidy(session, space, transaction, &done).await?;
                return Ok(Committed::Done { revision });
            }
            Err(Conflict::NoFolder(folder)) => make_missing(session, space, Some(folder)).await?,
            Err(Conflict::Changed) => {}
        }
        pause.rest().await;
    }
}

/// Makes what is missing: the folder of transactions that were done, or all that every commit needs.
async fn make_missing(session: &Session, space: &Space, bucket: Option<String>) -> Result<()> {
    if let Some(bucket) = bucket {
        match session.create(&bucket, b"", Mode::Container).await {
            Ok(_) | Err(Failure::NodeExists) => return Ok(()),
            Err(Failure::NoNode) => {}
            Err(failure) => return Err(failure.into()),
        }
    }
    session.make(space.root(), Mode::Persistent).await?;
    make(session, &space.skeleton()).await
}

/// What was read.
struct Known {
    /// The revision of the commit, if it was done before.
    done: Option<u64>,
    /// The version of the node that counts removals; none if there were no commits yet.
    deleted: Option<i32>,
    /// For each write.
    entries: Vec<Option<(Stored, i32)>>,
}

impl Known {
    async fn read(session: &Session, space: &Space, transaction: &Transaction) -> Result<Self> {
        // In this order: a key that was removed and made again since it was read is noticed by the first, and what an
        // earlier attempt did to a key comes with the last.
        let mut paths = vec![space.deleted()];
        paths.extend(transaction.writes.iter().map(|write| space.key(&write.key)));
        paths.push(space.done(&transaction.id));
        let looks: Vec<_> = paths.iter().map(|path| Look::Data(path)).collect();
        let mut seen = session.read_fresh(space.root(), &looks).await?;
        let done = match seen.pop() {
            Some(Seen::Data(_, stat)) => Some(stat.czxid.cast_unsigned()),
            _ => None,
        };
        let mut seen = seen.into_iter();
        let deleted = match seen.next() {
            Some(Seen::Data(_, stat)) => Some(stat.version),
            _ => None,
        };
        let entry = |(write, seen): (&Write, Seen)| match seen {
            Seen::Data(data, stat) => {
                Ok(Some((record::entry(write.key.clone(), &data, &stat)?, stat.version)))
            }
            _ => Ok(None),
        };
        let entries = transaction.writes.iter().zip(seen).map(entry).collect::<Result<_>>()?;
        Ok(Self { done, deleted, entries })
    }

    fn entry(&self, at: usize) -> Option<&Stored> {
        self.entries.get(at)?.as_ref().map(|(stored, _)| stored)
    }

    /// The first write whose condition does not hold.
    fn refused(&self, transaction: &Transaction) -> Option<usize> {
        transaction.writes.iter().enumerate().position(|(at, write)| !holds(write.condition, self.entry(at)))
    }
}

fn holds(condition: Condition, found: Option<&Stored>) -> bool {
    let mark = found.and_then(|found| found.mark);
    let value = found.filter(|found| found.value.is_some());
    match condition {
        Condition::Token(token) => mark.is_none_or(|mark| mark <= token),
        _ if mark.is_some() => false,
        Condition::Any => true,
        Condition::Absent => value.is_none(),
        Condition::Version(version) => value.is_some_and(|found| found.version == version),
        _ => false,
    }
}

/// What is sent.
struct Plan {
    batch: Batch,
    changes: usize,
}

/// Where in the batch the head is set, and where the node of the log is made, if there is one.
const HEAD: usize = 1;
const LOGGED: usize = 3;

impl Plan {
    fn new(space: &Space, transaction: &Transaction, known: &Known, deleted: i32) -> Self {
        let (mut of_keys, mut logged, mut changes, mut removes) = (Batch::default(), Vec::new(), 0, false);
        for (write, found) in transaction.writes.iter().zip(&known.entries) {
            let found = found.as_ref().map(|(stored, version)| (stored, *version));
            let step = Step::of(write, found.map(|(stored, _)| stored), &transaction.by);
            if let Some(record) = step.logged() {
                log::add(&mut logged, &write.key, &record.encode());
                changes += 1;
            }
            let path = space.key(&write.key);
            match (step, found) {
                (Step::Store { record, .. }, Some((_, version))) => {
                    of_keys.set(path, record.encode(), Some(version));
                }
                (Step::Store { record, .. }, None) => {
                    of_keys.create(path, record.encode(), Mode::Persistent);
                }
                (Step::Remove(_), Some((_, version))) => {
                    of_keys.delete(path, Some(version));
                    removes = true;
                }
                (Step::Nothing, Some((_, version))) => of_keys.check(path, version),
                (Step::Nothing | Step::Remove(_), None) => of_keys.check_missing(path),
            }
        }
        let mut batch = Batch::default();
        // The version of a node begins anew when it is made again, so that it alone does not tell a key from an earlier one.
        if removes {
            batch.set(space.deleted(), Vec::new(), Some(deleted));
        } else {
            batch.check(space.deleted(), deleted);
        }
        batch.set(space.head(), Vec::new(), None);
        batch.create(space.done(&transaction.id), Vec::new(), Mode::Persistent);
        if changes > 0 {
            let path = format!("{}/{}", space.log(), Commit::stem(changes, logged.len()));
            batch.create(path, logged, Mode::PersistentSequential);
        }
        batch.append(of_keys);
        Self { batch, changes }
    }

    /// The revision; and, every now and then, what is old is forgotten. That may fail: the transaction is done.
    async fn tidy(
        &self,
        session: &Session,
        space: &Space,
        transaction: &Transaction,
        done: &[Done],
    ) -> Result<u64> {
        let Some(Done::Set(head)) = done.get(HEAD) else {
            return Err(misread("the answer to a transaction").with_unknown_effect());
        };
        let number = match done.get(LOGGED).filter(|_| self.changes > 0) {
            Some(Done::Created(path)) => {
                path.rsplit('/').next().and_then(Commit::parse).map(|commit| commit.number())
            }
            _ => None,
        };
        let many = self.changes >= EVERY as usize;
        if many || number.is_some_and(|number| number % EVERY == 0) {
            let now = u128::from(head.mtime.cast_unsigned());
            let old = |stat: &Stat| u128::from(stat.ctime.cast_unsigned()) + MEMORY.as_millis() < now;
            let bucket = space.bucket(&transaction.id);
            let done = async {
                match session.looked().is_time(&bucket, MEMORY, Clock::System.now()) {
                    true => forget::old(session, &bucket, old).await,
                    false => Ok(()),
                }
            };
            let (log, done) = futures_util::join!(log::forget(session, space), done);
            if let Err(error) = log.and(done) {
                debug!(%error, "old changes are left for the next one");
            }
        }
        Ok(head.mzxid.cast_unsigned())
    }
}

/// What is done to the node of a key.
enum Step {
    Store { record: Record, logged: bool },
    Remove(Record),
    Nothing,
}

impl Step {
    fn of(write: &Write, found: Option<&Stored>, by: &str) -> Self {
        let before: Option<FencingToken> = found.and_then(|found| found.mark);
        let mark = match write.condition {
            Condition::Token(token) => before.max(Some(token)),
            _ => before,
        };
        let has_value = found.is_some_and(|found| found.value.is_some());
        match &write.change {
            Change::Put(value) => {
                let record = Record { value: Some(value.clone()), mark, changed: None, by: by.to_owned() };
                Self::Store { record, logged: true }
            }
            Change::Delete if has_value => {
                let record = Record { value: None, mark, changed: None, by: by.to_owned() };
                if mark.is_some() { Self::Store { record, logged: true } } else { Self::Remove(record) }
            }
            _ if mark == before => Self::Nothing,
            // Only the mark is raised.
            _ => {
                let record = match found {
                    Some(Stored { value, version, at, by, .. }) => {
                        Record { value: value.clone(), mark, changed: Some((*version, *at)), by: by.clone() }
                    }
                    None => Record { value: None, mark, changed: None, by: by.to_owned() },
                };
                Self::Store { record, logged: false }
            }
        }
    }

    /// The state that is told to those who watch.
    fn logged(&self) -> Option<&Record> {
        match self {
            Self::Store { record, logged: true } | Self::Remove(record) => Some(record),
            _ => None,
        }
    }
}
