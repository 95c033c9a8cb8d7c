//! Reading a whole line.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use coord_core::{
    clock::Clock,
    spi::{ClaimId, Entry, Line},
};

use crate::{
    claims::{UNKNOWN, owner_of, token_of},
    client::Store,
    error::Failure,
    keys,
    line::{Place, Queue, Spot},
    record::Record,
    session::{Look, Seen, Session, Stat},
};

/// How often a line is read again that changes meanwhile.
const ROUNDS: u32 = 8;
/// How many claims one request reads at most.
const CHUNK: usize = 1000;

/// What was read of the nodes of a line, by their names, and which nodes there were in the same moment.
struct Read {
    nodes: HashMap<String, (Vec<u8>, Stat)>,
    /// `None`: the folder is gone.
    names: Option<Vec<String>>,
}

impl Store {
    /// Everyone in a line, at one moment.
    pub(crate) async fn read_line(&self, spot: &Spot) -> Result<Line, Failure> {
        let session = self.shared.main().await?;
        let folder = spot.folder.as_str();
        let (synced, listed) = (session.sync(folder), session.list(folder));
        synced.await?;
        let (mut names, stat) = match listed.await {
            Ok(listed) => listed,
            Err(Failure::NoNode) => return absent(&session, folder).await,
            Err(failure) => return Err(failure),
        };
        let mut revision = stat.pzxid.max(stat.mzxid);
        let mut round = 0;
        loop {
            round += 1;
            let queue = spot.queue(names.clone());
            let Read { nodes, names: present } = self.read_places(&session, spot, &queue).await?;
            let Some(present) = present else { return absent(&session, folder).await };
            let changes = nodes.values().map(|(_, stat)| stat.mzxid.max(stat.czxid));
            revision = revision.max(changes.max().unwrap_or_default());
            if same(&present, &names) || round == ROUNDS {
                return Ok(self.describe(spot, &queue, &nodes, revision));
            }
            // Somebody came or went: what has not changed since is one moment.
            (names, revision) = match session.list(folder).await {
                Ok((names, stat)) => (names, stat.pzxid.max(stat.mzxid)),
                Err(Failure::NoNode) => return absent(&session, folder).await,
                Err(failure) => return Err(failure),
            };
        }
    }

    /// Reads the claims of a line by as few requests as possible. Each tells too which nodes there were in its moment.
    async fn read_places(&self, session: &Session, spot: &Spot, queue: &Queue) -> Result<Read, Failure> {
        let folder = spot.folder.as_str();
        let paths: Vec<_> = queue.0.iter().map(|place| spot.folder.node(&place.name)).collect();
        let each = paths.iter().map(String::len).max().unwrap_or(0) + 16;
        let most = (self.shared.config.max_packet() / 2 / each).clamp(1, CHUNK);
        let mut reads = Vec::new();
        // An empty line is looked at too.
        for chunk in paths.chunks(most).chain(paths.is_empty().then_some(&[][..])) {
            let looks: Vec<_> = chunk.iter().map(|path| Look::Data(path)).collect();
            reads.push(session.read(&[looks.as_slice(), &[Look::Children(folder)]].concat()));
        }
        let mut read = Read { nodes: HashMap::new(), names: None };
        let mut places = queue.0.iter();
        for seen in reads {
            for seen in seen.await? {
                match seen {
                    Seen::Children(names) => read.names = Some(names),
                    Seen::Data(data, stat) => {
                        if let Some(place) = places.next() {
                            read.nodes.insert(place.name.clone(), (data, stat));
                        }
                    }
                    Seen::Missing => {
                        places.next();
                    }
                }
            }
        }
        Ok(read)
    }

    fn describe(
        &self,
        spot: &Spot,
        queue: &Queue,
        nodes: &HashMap<String, (Vec<u8>, Stat)>,
        revision: i64,
    ) -> Line {
        let mut entries: Vec<Entry> = Vec::new();
        for (place, eligible) in queue.0.iter().zip(queue.eligible()) {
            let Some((data, stat)) = nodes.get(&place.name) else { continue };
            let Some(entry) = self.entry(spot, place, eligible, data, stat) else { continue };
            // A claim of two nodes is one claim.
            if entries.iter().all(|known| known.id != entry.id) {
                entries.push(entry);
            }
        }
        entries.sort_by_key(|entry| entry.token);
        Line { revision: u64::try_from(revision).unwrap_or_default(), entries }
    }

    /// `None` for an own claim that is over and whose node is about to go.
    fn entry(&self, spot: &Spot, place: &Place, eligible: bool, data: &[u8], stat: &Stat) -> Option<Entry> {
        let id = place.id.unwrap_or_else(|| id_of(stat));
        let now = Clock::System.now();
        let own = self.shared.leases.get(&spot.stem(id), now);
        if own.as_ref().is_some_and(|lease| lease.over) {
            return None;
        }
        let record = Record::decode(data);
        let ttl = record.as_ref().map_or(UNKNOWN, |record| record.ttl);
        let joined = wall(stat.ctime);
        Some(Entry {
            id,
            token: token_of(data, stat.czxid).ok()?,
            weight: place.weight,
            limit: place.limit,
            priority: record.as_ref().map_or(0, |record| record.priority),
            granted: eligible.then_some(joined),
            joined,
            expires_in: own.map_or(ttl, |lease| lease.until.since(now)),
            owner: owner_of(data, &place.name),
            value: record.map_or_else(|| data.to_vec(), |record| record.value),
        })
    }
}

/// A line whose folder is not there. Its revision is that of the nearest folder above, which changed when the line's own
/// was removed.
async fn absent(session: &Session, folder: &str) -> Result<Line, Failure> {
    let mut path = folder;
    while let Some(parent) = keys::parent(path) {
        path = parent;
        if let Some(stat) = session.exists(path).await? {
            return Ok(Line { revision: u64::try_from(stat.pzxid).unwrap_or_default(), entries: Vec::new() });
        }
    }
    Ok(Line::default())
}

fn same(some: &[String], others: &[String]) -> bool {
    let (mut some, mut others): (Vec<_>, Vec<_>) = (some.iter().collect(), others.iter().collect());
    some.sort_unstable();
    others.sort_unstable();
    some == others
}

/// An id for a claim of another library that has none.
fn id_of(stat: &Stat) -> ClaimId {
    ClaimId::from_bytes((stat.czxid as u128).to_be_bytes())
}

/// Milliseconds since 1970.
fn wall(milliseconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(milliseconds).unwrap_or_default())
}
