//! The map of values: what `coord_core::spi::values::Values` says.
//!
//! The nodes are described in [`space`], [`record`] and [`log`].
//!
//! * **A commit** is two requests: one that reads, and one `multi` that does it on condition that no node it depends on has
//!   another version. If one has, it is read and judged again, after a short and random rest. Commits to different keys do
//!   not disturb each other, but for removals: a node that is made again counts its versions anew, so a commit also depends on
//!   a node that counts the removals of its namespace.
//! * **The version** of a key is the zxid of its last change, and the revision of a namespace that of its last commit. They
//!   never come back as long as the ensemble keeps its data.
//! * **A lost reply**: every transaction leaves a node with its id. Sent again, it finds it, for at least two minutes.
//! * **Reads** are preceded by a `sync` in the same pipeline, so that a follower answers with what was committed before. Two
//!   gaps are ZooKeeper's own: a leader answers its own clients also while it has yet to apply what a follower has answered, and
//!   one that was replaced and does not know it yet may answer with what it had, for at most its `syncLimit`.
//! * **A listing** costs the names of all keys of the namespace: some 60 bytes a key, whatever the prefix is.
//! * **The log** keeps the last thousand changes, and at most 8 MiB of them; it holds each value once more, so a transaction
//!   takes about twice the bytes of its values of a request. What is larger than `jute.maxbuffer` is refused before it is sent
//!   ([`coord_core::ErrorKind::TooLarge`]): servers as they come take some 500 kB of values at once. See
//!   [`Config::with_max_packet`](crate::Config::with_max_packet) for more.
//! * **The clock**: only [`Stored::at`], for people, and when a transaction is forgotten are told by the servers' clocks.

mod commit;
mod log;
pub(crate) mod record;
mod space;

use async_trait::async_trait;
use coord_core::{
    Name, Result,
    spi::{
        Wakeups,
        values::{Changes, Committed, KeyId, Page, Prefix, Stored, Transaction, Values},
    },
};
use zookeeper_client::EventType;

use self::{log::Log, space::Space};
use crate::{
    client::Store,
    error::{Asks, misread},
    hints, keys,
    session::{Look, Seen, Session},
};

/// How many keys are read at a time: of the greatest values, some megabytes.
const PART: usize = 64;
/// A page ends when it has so many bytes of values.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// How often a page is read anew because keys change meanwhile.
const TRIES: usize = 3;

#[async_trait]
impl Values for Store {
    async fn get(&self, key: &KeyId) -> Result<(Option<Stored>, u64)> {
        let space = Space::new(&self.shared.config, &key.namespace);
        let read = async {
            let session = self.shared.main().await?;
            let (head, node) = (space.head(), space.key(&key.key));
            let seen = session.read_fresh(space.root(), &[Look::Data(&head), Look::Data(&node)]).await?;
            match &seen[..] {
                [Seen::Data(_, head), Seen::Data(data, stat)] => {
                    let entry = record::entry(key.key.clone(), data, stat)?;
                    Ok((Some(entry), head.mzxid.cast_unsigned()))
                }
                [Seen::Data(_, head), _] => Ok((None, head.mzxid.cast_unsigned())),
                _ => Ok((None, 0)),
            }
        };
        self.shared.within(Asks::Reading, read).await
    }

    async fn list(&self, prefix: &Prefix, after: Option<&Name>, limit: u32) -> Result<Page> {
        let space = Space::new(&self.shared.config, &prefix.namespace);
        let read = async {
            let session = self.shared.main().await?;
            let mut tries = 0;
            loop {
                tries += 1;
                let (page, steady) = page(&session, &space, prefix, after, limit as usize).await?;
                // Whoever goes on from a page's revision finds what changed meanwhile.
                if steady || tries == TRIES {
                    return Ok(page);
                }
            }
        };
        self.shared.within(Asks::Reading, read).await
    }

    async fn commit(&self, transaction: &Transaction) -> Result<Committed> {
        commit::check(transaction)?;
        let space = Space::new(&self.shared.config, &transaction.namespace);
        let commit = async {
            let session = self.shared.main().await?;
            Ok(commit::commit(&session, &space, transaction).await?)
        };
        self.shared.within(Asks::Writing, commit).await
    }

    async fn changes(&self, prefix: &Prefix, since: u64) -> Result<Changes> {
        let space = Space::new(&self.shared.config, &prefix.namespace);
        let read = async {
            let session = self.shared.main().await?;
            loop {
                let log = Log::read(&session, &space).await?;
                if let Some(changes) = log.since(&session, &space, prefix, since).await? {
                    return Ok(changes);
                }
            }
        };
        self.shared.within(Asks::Reading, read).await
    }

    async fn history(&self, key: &KeyId, limit: u32) -> Result<Vec<Stored>> {
        let space = Space::new(&self.shared.config, &key.namespace);
        let read = async {
            let session = self.shared.main().await?;
            loop {
                let log = Log::read(&session, &space).await?;
                if let Some(states) = log.of_key(&session, &space, &key.key, limit).await? {
                    return Ok(states);
                }
            }
        };
        self.shared.within(Asks::Reading, read).await
    }

    fn wakeups(&self, prefix: &Prefix) -> Wakeups {
        let folder = Space::new(&self.shared.config, &prefix.namespace).keys();
        let (start, prefix) = (format!("{folder}/"), prefix.text.clone());
        hints::below(&self.shared, folder, move |_: EventType, path: &str| {
            let key = path.strip_prefix(&start).and_then(keys::unescape);
            key.is_some_and(|key| key.starts_with(&prefix))
        })
    }
}

/// A part of a listing, and whether nothing changed while it was read.
async fn page(
    session: &Session,
    space: &Space,
    prefix: &Prefix,
    after: Option<&Name>,
    limit: usize,
) -> Result<(Page, bool)> {
    let (head, folder) = (space.head(), space.keys());
    let seen = session.read_fresh(space.root(), &[Look::Data(&head), Look::Children(&folder)]).await?;
    let [Seen::Data(_, stat), Seen::Children(names)] = &seen[..] else {
        return Ok((Page::default(), true));
    };
    let (revision, mut steady) = (stat.mzxid.cast_unsigned(), true);
    let mut wanted: Vec<_> = names
        .iter()
        .filter_map(|name| Name::new(keys::unescape(name)?).ok())
        .filter(|key| key.as_str().starts_with(&prefix.text) && after.is_none_or(|after| key > after))
        .collect();
    wanted.sort_unstable();
    let (mut entries, mut bytes, mut rest) = (Vec::new(), 0, &wanted[..]);
    // One more, to know whether there are more.
    while !rest.is_empty() && entries.len() <= limit && (bytes < PAGE_BYTES || entries.is_empty()) {
        let (some, later) = rest.split_at(rest.len().min(PART).min(limit + 1));
        rest = later;
        let paths: Vec<_> =
            std::iter::once(head.clone()).chain(some.iter().map(|key| space.key(key))).collect();
        let looks: Vec<_> = paths.iter().map(|path| Look::Data(path)).collect();
        let mut seen = session.read(&looks).await?.into_iter();
        let Some(Seen::Data(_, now)) = seen.next() else { return Err(misread("the revision of values")) };
        steady &= now.mzxid == stat.mzxid;
        for (key, seen) in some.iter().zip(seen) {
            let Seen::Data(data, stat) = seen else { continue };
            let entry = record::entry(key.clone(), &data, &stat)?;
            if entry.value.is_some() {
                bytes += data.len();
                entries.push(entry);
            }
        }
    }
    let more = entries.len() > limit || !rest.is_empty();
    entries.truncate(limit);
    Ok((Page { entries, more, revision }, steady))
}
