//! The log of changes: a node for each commit, with the new states of the keys that it changed.
//!
//! ```text
//! name    c<changes>.<bytes>-<number>     in hexadecimal but for the server's number
//! data    for each change: length of the key: 2, key, length of the record: 4, record
//! ```
//!
//! The version of a change is the `czxid` of its node. The number counts up and may overflow: it is compared as numbers of a
//! circle are.

use coord_core::{
    Name, Result,
    spi::values::{Changes, Prefix, Stored},
};
use tracing::debug;

use super::{
    record::{Record, Rest, wall},
    space::Space,
};
use crate::{
    batch::Batch,
    error::misread,
    session::{Look, Seen, Session, Stat},
};

/// How many changes are remembered.
pub(super) const REMEMBERED: u64 = 1_000;
/// How many bytes of them.
const REMEMBERED_BYTES: u64 = 8 * 1024 * 1024;
/// How many bytes of them are read at a time.
const PART: u64 = 1024 * 1024;
/// How many nodes are removed at a time.
const SWEEP: usize = 500;

/// The name of a node of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Commit {
    name: String,
    changes: u64,
    bytes: u64,
    number: i32,
}

impl Commit {
    /// What comes before the server's number.
    pub(super) fn stem(changes: usize, bytes: usize) -> String {
        format!("c{changes:x}.{bytes:x}-")
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let (sizes, number) = name.strip_prefix('c')?.split_once('-')?;
        let (changes, bytes) = sizes.split_once('.')?;
        let number = number.parse::<i64>().ok()?;
        Some(Self {
            name: name.to_owned(),
            changes: u64::from_str_radix(changes, 16).ok()?,
            bytes: u64::from_str_radix(bytes, 16).ok()?,
            // Newer servers count on where older ones overflow.
            number: number as i32,
        })
    }

    /// Those in a listing, the newest first. What others put there is ignored.
    fn sorted(names: &[String]) -> Vec<Self> {
        let mut commits: Vec<_> = names.iter().filter_map(|name| Self::parse(name)).collect();
        let some = commits.first().map_or(0, |commit| commit.number);
        commits.sort_by_key(|commit| std::cmp::Reverse(commit.number.wrapping_sub(some)));
        commits
    }

    pub(super) fn number(&self) -> i32 {
        self.number
    }
}

/// Adds a change to the data of a commit.
pub(super) fn add(data: &mut Vec<u8>, key: &Name, record: &[u8]) {
    // A name is much shorter.
    data.extend((key.as_str().len() as u16).to_be_bytes());
    data.extend(key.as_str().as_bytes());
    data.extend((record.len() as u32).to_be_bytes());
    data.extend(record);
}

/// The changes of a commit.
fn changes_of(data: &[u8], stat: &Stat) -> Result<Vec<Stored>> {
    let (version, at) = (stat.czxid.cast_unsigned(), wall(stat.ctime.cast_unsigned()));
    let (mut rest, mut changes) = (Rest(data), Vec::new());
    while !rest.0.is_empty() {
        let length = rest.short()?;
        let key = std::str::from_utf8(rest.take(usize::from(length))?).ok();
        let key = key.and_then(|key| Name::new(key).ok()).ok_or_else(|| misread("a key in the log"))?;
        let length = rest.word()?;
        let record = Record::decode(rest.take(length as usize)?)?;
        changes.push(record.stored(key, version, at));
    }
    Ok(changes)
}

/// The log as it was when the namespace had this revision.
pub(super) struct Log {
    pub(super) revision: u64,
    forgotten: u64,
    /// The version of the node that says what is forgotten.
    version: i32,
    /// The newest first.
    commits: Vec<Commit>,
}

impl Log {
    pub(super) async fn read(session: &Session, space: &Space) -> Result<Self> {
        let (head, log) = (space.head(), space.log());
        let looks = [Look::Data(&head), Look::Data(&log), Look::Children(&log)];
        let seen = session.read_fresh(space.root(), &looks).await?;
        let [head, log, names] = seen.try_into().map_err(|_| misread("the log of changes"))?;
        let (Seen::Data(_, head), Seen::Data(forgotten, log), Seen::Children(names)) = (head, log, names)
        else {
            return Ok(Self { revision: 0, forgotten: 0, version: 0, commits: Vec::new() });
        };
        let forgotten = Rest(&forgotten).long()?;
        Ok(Self {
            revision: head.mzxid.cast_unsigned(),
            forgotten,
            version: log.version,
            commits: Commit::sorted(&names),
        })
    }

    /// The changes of commits after a revision, the newest first, as long as `more` of them are wanted. `None` if some of
    /// them were forgotten meanwhile.
    async fn walk(
        &self,
        session: &Session,
        space: &Space,
        since: u64,
        mut take: impl FnMut(Stored) -> bool,
    ) -> Result<Option<()>> {
        let (mut rest, mut part) = (&self.commits[..], 16);
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |commit: &&Commit| {
                bytes += commit.bytes;
                bytes <= PART
            };
            let count = rest.iter().take(part).take_while(fits).count().max(1);
            let (now, later) = rest.split_at(count);
            (rest, part) = (later, (part * 4).min(256));
            let paths: Vec<_> = now.iter().map(|commit| format!("{}/{}", space.log(), commit.name)).collect();
            let looks: Vec<_> = paths.iter().map(|path| Look::Data(path)).collect();
            for seen in session.read(&looks).await? {
                let Seen::Data(data, stat) = seen else { return Ok(None) };
                if stat.czxid.cast_unsigned() <= since {
                    return Ok(Some(()));
                }
                for change in changes_of(&data, &stat)? {
                    if !take(change) {
                        return Ok(Some(()));
                    }
                }
            }
        }
        Ok(Some(()))
    }

    /// What changed after a revision. `None` if the log was cut meanwhile.
    pub(super) async fn since(
        &self,
        session: &Session,
        space: &Space,
        prefix: &Prefix,
        since: u64,
    ) -> Result<Option<Changes>> {
        if since < self.forgotten {
            return Ok(Some(Changes::Gap));
        }
        let mut entries = Vec::new();
        if since < self.revision {
            let mut seen = std::collections::HashSet::new();
            let take = |stored: Stored| {
                if stored.key.as_str().starts_with(&prefix.text) && seen.insert(stored.key.clone()) {
                    entries.push(stored);
                }
                true
            };
            if self.walk(session, space, since, take).await?.is_none() {
                return Ok(None);
            }
            entries.sort_by_key(|stored| stored.version);
        }
        Ok(Some(Changes::All { entries, revision: self.revision }))
    }

    /// The last states of a key. `None` if the log was cut meanwhile.
    pub(super) async fn of_key(
        &self,
        session: &Session,
        space: &Space,
        key: &Name,
        limit: u32,
    ) -> Result<Option<Vec<Stored>>> {
        let mut states = Vec::new();
        let take = |stored: Stored| {
            if stored.key == *key {
                states.push(stored);
            }
            states.len() < limit as usize
        };
        Ok(self.walk(session, space, 0, take).await?.map(|()| states))
    }

    /// Those that are too old to be remembered, the oldest first.
    fn too_old(&self) -> Vec<&Commit> {
        let (mut changes, mut bytes) = (0, 0);
        let fits = |commit: &&Commit| {
            changes += commit.changes;
            bytes += commit.bytes;
            changes <= REMEMBERED && bytes <= REMEMBERED_BYTES
        };
        // The last commit stays, however large it is.
        let kept = self.commits.iter().take_while(fits).count().max(1);
        self.commits.iter().skip(kept).rev().take(SWEEP).collect()
    }
}

/// Forgets what is too old. If it does not come to that, the next one does it.
pub(super) async fn forget(session: &Session, space: &Space) -> Result<()> {
    let log = Log::read(session, space).await?;
    let old = log.too_old();
    let Some(newest) = old.last() else { return Ok(()) };
    let path = format!("{}/{}", space.log(), newest.name);
    let seen = session.read(&[Look::Data(&path)]).await?.pop();
    let Some(Seen::Data(_, stat)) = seen else { return Ok(()) };
    let mut batch = Batch::default();
    let forgotten = stat.czxid.cast_unsigned().max(log.forgotten);
    batch.set(space.log(), forgotten.to_be_bytes().to_vec(), Some(log.version));
    for commit in old {
        batch.delete(format!("{}/{}", space.log(), commit.name), None);
    }
    if let Err(conflict) = batch.send(session).await? {
        debug!(?conflict, "somebody else forgets old changes");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_in_their_order() {
        let numbers = ["2147483646", "2147483647", "-2147483648", "-2147483647"];
        let mut names: Vec<_> = numbers.map(|number| format!("{}{number}", Commit::stem(300, 70_000))).into();
        let newest_first: Vec<_> = names.iter().rev().cloned().collect();
        names.rotate_left(2);
        names.push("of somebody else".into());
        let sorted = Commit::sorted(&names);
        assert_eq!(sorted.iter().map(|commit| commit.name.clone()).collect::<Vec<_>>(), newest_first);
        assert!(sorted.iter().all(|commit| (commit.changes, commit.bytes) == (300, 70_000)));
        let long = Commit::parse("c1.2-0000000002147483648").unwrap();
        assert_eq!(long.number, i32::MIN);
    }

    fn log(sizes: &[(u64, u64)]) -> Log {
        let commit = |(number, (changes, bytes)): (usize, &(u64, u64))| Commit {
            name: number.to_string(),
            changes: *changes,
            bytes: *bytes,
            number: number as i32,
        };
        let commits = sizes.iter().enumerate().map(commit).collect();
        Log { revision: 0, forgotten: 0, version: 0, commits }
    }

    #[test]
    fn as_many_changes_are_kept_as_fit() {
        let old = |sizes: &[(u64, u64)]| log(sizes).too_old().len();
        assert_eq!(old(&[]), 0);
        assert_eq!(old(&[(1, 1); 1000]), 0);
        assert_eq!(old(&[(1, 1); 1003]), 3);
        assert_eq!(old(&[(600, 1), (600, 1), (1, 1)]), 2);
        assert_eq!(old(&[(1, 9 << 20)]), 0);
        assert_eq!(old(&[(1, 5 << 20), (1, 3 << 20), (1, 1)]), 1);
        let log = log(&[(1, 1); 1002]);
        let names: Vec<_> = log.too_old().iter().map(|commit| commit.name.as_str()).collect();
        assert_eq!(names, ["1001", "1000"], "the oldest first");
    }

    #[test]
    fn changes_are_read_back() {
        let record = Record { value: Some(b"x".to_vec()), mark: None, changed: None, by: "me".into() };
        let (mut data, keys) = (Vec::new(), ["a", "ä/b"].map(|key| Name::new(key).unwrap()));
        for key in &keys {
            add(&mut data, key, &record.encode());
        }
        let stat = Stat {
            czxid: 7,
            mzxid: 7,
            pzxid: 7,
            ctime: 1000,
            mtime: 1000,
            version: 0,
            cversion: 0,
            aversion: 0,
            ephemeral_owner: 0,
            data_length: 0,
            num_children: 0,
        };
        let changes = changes_of(&data, &stat).unwrap();
        assert_eq!(changes.iter().map(|change| change.key.clone()).collect::<Vec<_>>(), keys);
        assert!(changes.iter().all(|change| change.version == 7 && change.at == wall(1000)));
        assert!(changes_of(&data[..data.len() - 1], &stat).is_err());
    }
}
