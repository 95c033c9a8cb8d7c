//! Reading a whole line.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use coord_core::{
    clock::Clock,
    spi::{ClaimId, Entry, Line},
};

use crate::{
    claims::{UNKNOWN, stranger, token},
    client::Store,
    error::Failure,
    keys::{self, Folder},
    line::{Place, Queue, Spot},
    record::Record,
    session::{Look, Seen, Session, Stat},
};

/// How often a line is read again that changes meanwhile.
const ROUNDS: u32 = 8;
/// How many claims one request reads at most.
const CHUNK: usize = 1000;

type Nodes = HashMap<String, (Vec<u8>, Stat)>;

/// What was read of the nodes of a folder, by their names, and which nodes there were in the same moment.
struct Read {
    nodes: Nodes,
    /// `None`: the folder is gone.
    names: Option<Vec<String>>,
}

/// The nodes of a folder at one moment.
pub(crate) struct Snapshot {
    /// Those that count, by their names.
    pub(crate) nodes: Nodes,
    /// Grows with every change.
    pub(crate) revision: i64,
}

impl Store {
    /// Everyone in a line, at one moment.
    pub(crate) async fn read_line(&self, spot: &Spot) -> Result<Line, Failure> {
        match &spot.faces {
            Some(faces) => self.read_service(spot, faces).await,
            None => Ok(self.read_claims(spot).await?.0),
        }
    }

    /// The claims of a line, and the `czxid` of every node of theirs.
    pub(crate) async fn read_claims(&self, spot: &Spot) -> Result<(Line, HashSet<i64>), Failure> {
        let session = self.shared.main().await?;
        let folder = spot.folder.as_str();
        let counts = |names| spot.queue(names).0.into_iter().map(|place| place.name).collect();
        // Pipelined, in this order.
        let (synced, read) =
            tokio::join!(session.sync(folder), self.snapshot(&session, &spot.folder, counts));
        synced?;
        let Snapshot { nodes, revision } = read?;
        let queue = spot.queue(nodes.keys().cloned().collect());
        let czxids = nodes.values().map(|(_, stat)| stat.czxid).collect();
        Ok((self.describe(spot, &queue, &nodes, revision), czxids))
    }

    /// The nodes of a folder that count, at one moment.
    pub(crate) async fn snapshot(
        &self,
        session: &Session,
        folder: &Folder,
        counts: impl Fn(Vec<String>) -> Vec<String>,
    ) -> Result<Snapshot, Failure> {
        let (mut names, stat) = match session.list(folder.as_str()).await {
            Ok(listed) => listed,
            Err(Failure::NoNode) => return absent(session, folder.as_str()).await,
            Err(failure) => return Err(failure),
        };
        let mut revision = stat.pzxid.max(stat.mzxid);
        let mut round = 0;
        loop {
            round += 1;
            let counting = counts(names.clone());
            let Read { nodes, names: present } = self.read_nodes(session, folder, &counting).await?;
            let Some(present) = present else { return absent(session, folder.as_str()).await };
            let changes = nodes.values().map(|(_, stat)| stat.mzxid.max(stat.czxid));
            revision = revision.max(changes.max().unwrap_or_default());
            if same(&present, &names) || round == ROUNDS {
                return Ok(Snapshot { nodes, revision });
            }
            // Somebody came or went: what has not changed since is one moment.
            (names, revision) = match session.list(folder.as_str()).await {
                Ok((names, stat)) => (names, stat.pzxid.max(stat.mzxid)),
                Err(Failure::NoNode) => return absent(session, folder.as_str()).await,
                Err(failure) => return Err(failure),
            };
        }
    }

    /// Reads nodes of a folder by as few requests as possible. Each tells too which nodes there were in its moment.
    async fn read_nodes(
        &self,
        session: &Session,
        folder: &Folder,
        names: &[String],
    ) -> Result<Read, Failure> {
        let paths: Vec<_> = names.iter().map(|name| folder.node(name)).collect();
        let each = paths.iter().map(String::len).max().unwrap_or(0) + 16;
        let most = (self.shared.config.max_packet() / 2 / each).clamp(1, CHUNK);
        let mut reads = Vec::new();
        // An empty folder is looked at too.
        for chunk in paths.chunks(most).chain(paths.is_empty().then_some(&[][..])) {
            let looks: Vec<_> = chunk.iter().map(|path| Look::Data(path)).collect();
            reads.push(session.read(&[looks.as_slice(), &[Look::Children(folder.as_str())]].concat()));
        }
        let mut read = Read { nodes: HashMap::new(), names: None };
        let mut names = names.iter();
        for seen in reads {
            for seen in seen.await? {
                match seen {
                    Seen::Children(names) => read.names = Some(names),
                    Seen::Data(data, stat) => {
                        if let Some(name) = names.next() {
                            read.nodes.insert(name.clone(), (data, stat));
                        }
                    }
                    Seen::Missing => {
                        names.next();
                    }
                }
            }
        }
        Ok(read)
    }

    fn describe(&self, spot: &Spot, queue: &Queue, nodes: &Nodes, revision: i64) -> Line {
        let (mut entries, mut known) = (Vec::new(), HashSet::new());
        for (place, eligible) in queue.0.iter().zip(queue.eligible()) {
            let Some((data, stat)) = nodes.get(&place.name) else { continue };
            let Some(entry) = self.entry(spot, place, eligible, data, stat) else { continue };
            // A claim of two nodes is one claim.
            if known.insert(entry.id) {
                entries.push(entry);
            }
        }
        entries.sort_by_key(|entry: &Entry| entry.token);
        Line { revision: u64::try_from(revision).unwrap_or_default(), entries }
    }

    /// `None` for an own claim that is over and whose node is about to go, by this client or by the end of its session.
    fn entry(&self, spot: &Spot, place: &Place, eligible: bool, data: &[u8], stat: &Stat) -> Option<Entry> {
        let id = place.id.unwrap_or_else(|| id_of(stat));
        let now = Clock::System.now();
        let own = self.shared.leases.get(&spot.stem(id), now);
        if own.as_ref().is_some_and(|lease| lease.over) || self.shared.leases.has_ended(stat.ephemeral_owner)
        {
            return None;
        }
        let record = Record::decode(data);
        let number = record.as_ref().and_then(|record| record.token).unwrap_or(stat.czxid);
        let (ttl, priority, owner, value) = match record {
            Some(record) => (record.ttl, record.priority, record.owner, record.value),
            None => (UNKNOWN, 0, stranger(data, &place.name), data.to_vec()),
        };
        let joined = wall(stat.ctime);
        Some(Entry {
            id,
            token: token(number).ok()?,
            weight: place.weight,
            limit: place.limit,
            priority,
            granted: eligible.then_some(joined),
            joined,
            expires_in: own.map_or(ttl, |lease| lease.until.since(now)),
            owner,
            value,
        })
    }
}

/// A folder that is not there. Its revision is that of the nearest one above, which changed when it was removed.
async fn absent(session: &Session, folder: &str) -> Result<Snapshot, Failure> {
    let mut path = folder;
    while let Some(parent) = keys::parent(path) {
        path = parent;
        if let Some(stat) = session.exists(path).await? {
            return Ok(Snapshot { nodes: Nodes::new(), revision: stat.pzxid });
        }
    }
    Ok(Snapshot { nodes: Nodes::new(), revision: 0 })
}

fn same(some: &[String], others: &[String]) -> bool {
    let (mut some, mut others): (Vec<_>, Vec<_>) = (some.iter().collect(), others.iter().collect());
    some.sort_unstable();
    others.sort_unstable();
    some == others
}

/// An id for a claim of another library that has none.
pub(crate) fn id_of(stat: &Stat) -> ClaimId {
    ClaimId::from_bytes((stat.czxid as u128).to_be_bytes())
}

/// Milliseconds since 1970.
pub(crate) fn wall(milliseconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(milliseconds).unwrap_or_default())
}
