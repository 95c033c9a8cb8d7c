//! Services as Curator's service discovery sees them.
//!
//! In the layouts that are shared with Curator a registration is two nodes, made in one transaction: its claim, which stands in our
//! own layout as in any other, and its *face*, an ephemeral node `<service>/<instance id>`, which is what Curator makes of an
//! instance. The claim is what the registration rests on; the face is what others see. Both are made, moved and removed together,
//! so they have one `czxid`, and a face that has no claim's is one of Curator's, which is listed beside our own.
//!
//! An id has one face, that of its latest registration; Curator replaces a node that is there too. The claim of who was replaced
//! stays, and counts less than the later one. When it finds no face at all, because the later one left or because Curator
//! removed it, it is lost, and so registers anew.
//!
//! Nobody may remove the face of a later one. A transaction cannot check a `czxid`, so the versions differ: a new node of Curator's
//! has version 0, a new face of ours 1, and 2 where it takes the place of one with version 1.

mod json;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coord_core::{
    Error, ErrorKind, Instance, Result, clock,
    spi::{Claim, Entry, Grant, Line, LineId, Renewal, Wakeups},
};
use futures_util::stream;

use crate::{
    claims::{UNKNOWN, base, token},
    client::Store,
    error::{Failure, misread},
    hints,
    inspect::{id_of, wall},
    keys::{self, Folder},
    leases,
    line::Spot,
    record::Record,
    session::{Done, Look, Mode, Refusal, Seen, Session, Stat, Step},
};

/// How often nodes that change meanwhile are looked at again.
const ROUNDS: u32 = 8;

/// What Curator is shown of a registration.
#[derive(Debug)]
pub(crate) struct Face {
    pub(crate) path: String,
    data: Vec<u8>,
}

impl Face {
    /// The face of a claim; `None` where there are none.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`] for an id of an instance that cannot be the name of a node.
    pub(crate) fn of(spot: &Spot, claim: &Claim) -> Result<Option<Self>> {
        let Some(folder) = &spot.faces else { return Ok(None) };
        let Claim { line, owner, value, weight, .. } = claim;
        if *weight > 0 {
            let text = "in this layout an instance of a service cannot keep others waiting";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        if !keys::is_component(owner) {
            return Err(Error::new(
                ErrorKind::InvalidName,
                format!(
                    "in this layout the id of an instance is the name of a node, which {owner:?} cannot be"
                ),
            ));
        }
        let data = data(line, owner, value, clock::wall())?;
        Ok(Some(Self { path: folder.node(owner), data }))
    }
}

fn data(line: &LineId, id: &str, value: &[u8], registered: SystemTime) -> Result<Vec<u8>> {
    let mut instance: Instance = serde_json::from_slice(value).map_err(|error| {
        Error::new(ErrorKind::InvalidValue, "the value of a registration is no instance").with_source(error)
    })?;
    id.clone_into(&mut instance.id);
    let since = registered.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let since = u64::try_from(since.as_millis()).unwrap_or_default();
    Ok(json::write(base(line.name.as_str()), &instance, since))
}

/// The steps that put a face at its place; `old` is the version of the one that is there.
pub(crate) fn put<'a>(path: &'a str, data: &'a [u8], old: Option<i32>) -> impl Iterator<Item = Step<'a>> {
    let removal = old.map(|version| Step::Delete { path, version: Some(version) });
    let sets = if old == Some(1) { 2 } else { 1 };
    let creation = Step::Create { path, data, mode: Mode::Ephemeral };
    let set = Step::Set { path, data, version: None };
    removal.into_iter().chain([creation]).chain(std::iter::repeat_n(set, sets))
}

/// Makes the nodes of a registration, in place of the face that is there. Answers the path of the claim.
/// [`Failure::NoNode`]: one of the folders is not there.
pub(crate) async fn make(session: &Session, path: &str, data: &[u8], face: &Face) -> Result<String, Failure> {
    let mut old = None;
    for _ in 0..ROUNDS {
        let mut steps = vec![Step::Create { path, data, mode: Mode::EphemeralSequential }];
        steps.extend(put(&face.path, &face.data, old));
        match session.multi(&steps).await {
            Ok(done) => {
                let Some(Done::Created(path)) = done.into_iter().next() else {
                    return Err(Failure::Other(misread("an answer").with_unknown_effect()));
                };
                return Ok(path);
            }
            Err(Refusal { at: Some(1..), failure: Failure::NodeExists | Failure::BadVersion }) => {
                let (synced, stat) = (session.sync(&face.path), session.exists(&face.path));
                synced.await?;
                old = stat.await?.map(|stat| stat.version);
            }
            Err(Refusal { at: Some(1..), failure: Failure::NoNode }) if old.is_some() => old = None,
            Err(Refusal { failure: Failure::NotEmpty, .. }) => {
                let text = format!("{:?} cannot be an instance: that node has children", face.path);
                return Err(Failure::Other(Error::new(ErrorKind::InvalidName, text)));
            }
            Err(refusal) => return Err(refusal.failure),
        }
    }
    Err(changes_too_fast())
}

fn changes_too_fast() -> Failure {
    let text = "the registrations of an instance change faster than they can be read; try again";
    Failure::Other(Error::new(ErrorKind::Unavailable, text))
}

/// A claim as it is, and its face.
pub(crate) struct Shown {
    pub(crate) data: Vec<u8>,
    pub(crate) stat: Stat,
    /// What stands in the face, and its version. `None`: it has none, or another one's stands there.
    pub(crate) face: Option<(Vec<u8>, i32)>,
}

/// Reads a claim and what stands at the place of its face, at one moment. `None`: the claim is not there.
pub(crate) async fn look(
    session: &Session,
    node: &str,
    face: Option<&str>,
) -> Result<Option<Shown>, Failure> {
    let looks: Vec<_> = std::iter::once(node).chain(face).map(Look::Data).collect();
    let mut seen = session.read_fresh(node, &looks).await?.into_iter();
    let Some(Seen::Data(data, stat)) = seen.next() else { return Ok(None) };
    let face = match seen.next() {
        Some(Seen::Data(shown, other)) if other.czxid == stat.czxid => Some((shown, other.version)),
        _ => None,
    };
    Ok(Some(Shown { data, stat, face }))
}

/// Replaces the value of a granted claim, and shows it unless another one took the place of its face.
pub(crate) async fn replace_value(
    session: &Session,
    spot: &Spot,
    grant: &Grant,
    node: &str,
    face: &str,
    value: &[u8],
) -> Result<Renewal, Failure> {
    for _ in 0..ROUNDS {
        let shown = match look(session, node, Some(face)).await {
            Ok(Some(shown)) => shown,
            Ok(None) | Err(Failure::Ended(_)) => return Ok(Renewal::Lost),
            Err(failure) => return Err(failure),
        };
        let record = Record::decode(&shown.data).ok_or_else(|| misread("a claim"))?;
        let public = data(&grant.line, &record.owner, value, wall(shown.stat.ctime))?;
        let token = i64::try_from(grant.token.get()).ok();
        let private = Record { value: value.to_vec(), token, ..record }.encode();
        let mut steps = vec![
            Step::Set { path: node, data: &private, version: None },
            // Who watches the line watches the folder, not every claim in it.
            Step::Set { path: spot.folder.as_str(), data: b"", version: None },
        ];
        if let Some((_, version)) = shown.face {
            steps.push(Step::Set { path: face, data: &public, version: Some(version) });
        }
        match session.multi(&steps).await {
            Ok(_) => return Ok(Renewal::StillHeld),
            Err(Refusal { at: Some(2..), failure: Failure::NoNode | Failure::BadVersion }) => {}
            Err(Refusal { failure: Failure::NoNode | Failure::Ended(_), .. }) => return Ok(Renewal::Lost),
            Err(refusal) => return Err(refusal.failure),
        }
    }
    Err(changes_too_fast())
}

/// Removes a claim, and its face unless another one took its place. Nothing happens if it is not there.
pub(crate) async fn remove(session: &Session, node: &str, face: &str) -> Result<(), Failure> {
    for _ in 0..ROUNDS {
        let Some(shown) = look(session, node, Some(face)).await? else { return Ok(()) };
        let Some((_, version)) = shown.face else { return leases::delete(session, node).await };
        let steps =
            [Step::Delete { path: node, version: None }, Step::Delete { path: face, version: Some(version) }];
        match session.multi(&steps).await {
            Ok(_) => return Ok(()),
            Err(Refusal { failure: Failure::NoNode | Failure::BadVersion, .. }) => {}
            Err(refusal) => return Err(refusal.failure),
        }
    }
    Err(changes_too_fast())
}

/// Removes every node of a claim that is not this client's, or not any more.
pub(crate) async fn remove_all(session: &Session, stem: &str, faces: &Folder) -> Result<(), Failure> {
    for node in leases::find(session, stem).await? {
        let owner = match session.get(&node).await {
            Ok((data, _)) => Record::decode(&data).map(|record| record.owner),
            Err(Failure::NoNode) => continue,
            Err(failure) => return Err(failure),
        };
        match owner {
            Some(owner) => remove(session, &node, &faces.node(&owner)).await?,
            None => leases::delete(session, &node).await?,
        }
    }
    Ok(())
}

impl Store {
    /// The claims of a service, and the instances of others.
    pub(crate) async fn read_service(&self, spot: &Spot, faces: &Folder) -> Result<Line, Failure> {
        let session = self.shared.main().await?;
        // The folder changes with every claim that comes, goes or changes.
        let changes = |stat: Option<Stat>| stat.map(|stat| (stat.czxid, stat.pzxid, stat.mzxid));
        let folder = spot.folder.as_str();
        let mut before = changes(session.exists(folder).await?);
        let mut round = 0;
        loop {
            round += 1;
            let (mut line, own) = self.read_claims(spot).await?;
            let read = self.snapshot(&session, faces, |names| names).await?;
            let after = changes(session.exists(folder).await?);
            if before != after && round < ROUNDS {
                before = after;
                continue;
            }
            let strangers = read.nodes.iter().filter(|(_, (_, stat))| !own.contains(&stat.czxid));
            line.entries.extend(strangers.filter_map(|(name, (data, stat))| stranger(name, data, stat)));
            line.entries.sort_by_key(|entry| entry.token);
            line.revision = line.revision.max(u64::try_from(read.revision).unwrap_or_default());
            return Ok(line);
        }
    }

    /// Hints about the claims of a service, and about the instances of others.
    pub(crate) fn service_wakeups(&self, claims: Wakeups, faces: &Folder) -> Wakeups {
        let faces = hints::below(&self.shared, faces.as_str().to_owned(), |_, _| true);
        Wakeups::new(stream::unfold((claims, faces), async |(mut claims, mut faces)| {
            let hint = tokio::select! {
                hint = claims.next() => hint,
                hint = faces.next() => hint,
            };
            Some((hint, (claims, faces)))
        }))
    }
}

/// An instance that is no claim of ours. How long it is kept nobody can tell.
fn stranger(name: &str, data: &[u8], stat: &Stat) -> Option<Entry> {
    let instance = json::read(name, data)?;
    let joined = wall(stat.ctime);
    Some(Entry {
        id: id_of(stat),
        token: token(stat.czxid).ok()?,
        weight: 0,
        limit: 0,
        priority: 0,
        granted: Some(joined),
        joined,
        expires_in: UNKNOWN,
        owner: name.to_owned(),
        value: serde_json::to_vec(&instance).ok()?,
    })
}
