//! The line of claims: what `coord_core::spi::Claims` says, by ephemeral sequential nodes.
//!
//! A claim is a node of a session of its TTL. Its place is the number that the server gives it, its token the `czxid` of the
//! node. A claim joins by making its node and listing the line, pipelined; it leaves by the removal of the node, or with its
//! session. Who waits watches one node ahead.
//!
//! What follows from what the leader says is told from what one server believes: a grant is answered after a write on the
//! claim's own session, or after a transaction that checks its node, as a renewal is. A server that was cut off from the others
//! answers neither, so that nobody holds by its word what the others gave away. A `sync` would not do: a leader that was
//! deposed and does not know it yet answers it by itself.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use coord_core::{
    Error, ErrorKind, FencingToken, Guarantees, Result,
    clock::{Clock, Moment},
    spi::{Claim, ClaimId, Claims, Grant, HandOver, Holder, Line, LineId, Renewal, Standing, Wakeups},
};
use futures_util::future::Either;

use crate::{
    client::{Store, milliseconds},
    config::Layout,
    discovery::{self, Face},
    error::{Asks, Failure, partly},
    leases::{self, Lease},
    line::{Blocker, Place, Queue, Spot},
    record::Record,
    session::{Mode, Session, Step},
    wakeups::{self, Watch},
};

/// How often one call looks again when the line changes under it.
const ROUNDS: u32 = 16;
/// A line with so many ahead is not read again by each who waits, so the number that it is told may be an old one.
const LONG: u32 = 32;

#[async_trait]
impl Claims for Store {
    fn guarantees(&self) -> Guarantees {
        self.promises()
    }

    async fn claim(&self, claim: &Claim) -> Result<Standing> {
        let spot = Spot::of(&self.shared.config, &claim.line)?;
        let face = Face::of(&spot, claim)?;
        let claim = &Claim { ttl: self.shared.granted(claim.ttl), ..claim.clone() };
        let attempt = Attempt { store: self, claim, stem: spot.stem(claim.id), spot, face };
        let outcome = self.shared.within(Asks::Writing, attempt.run()).await;
        // A look that fails changes nothing, and yet its claim is in the line, or may be.
        let may_be_there = self.shared.leases.get(&attempt.stem, now()).is_some();
        outcome.map_err(partly(may_be_there))
    }

    async fn renew(&self, grants: &[Grant]) -> Result<Vec<Renewal>> {
        self.shared.within(Asks::Writing, self.renew_all(grants)).await
    }

    async fn set_value(&self, grant: &Grant, value: &[u8]) -> Result<Renewal> {
        let spot = Spot::of(&self.shared.config, &grant.line)?;
        self.shared.within(Asks::Writing, self.replace_value(&spot, grant, value)).await
    }

    async fn withdraw(&self, line: &LineId, id: ClaimId) -> Result<()> {
        let spot = Spot::of(&self.shared.config, line)?;
        self.shared.within(Asks::Writing, self.take_out(&spot, id)).await
    }

    async fn hand_over(&self, _: &Grant, _: ClaimId) -> Result<HandOver> {
        let text = "the zookeeper backend cannot hand a grant over to a named waiter";
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    async fn adopt(&self, from: &Grant, to: ClaimId) -> Result<Renewal> {
        let spot = Spot::of(&self.shared.config, &from.line)?;
        if spot.faces.is_some() {
            let text = "in this layout nobody can take a registration over";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        self.shared.within(Asks::Writing, self.take_over(&spot, from, to)).await
    }

    async fn line(&self, line: &LineId) -> Result<Line> {
        let spot = Spot::of(&self.shared.config, line)?;
        self.shared.within(Asks::Reading, self.read_line(&spot)).await
    }

    fn wakeups(&self, line: &LineId, id: Option<ClaimId>) -> Wakeups {
        // A name that is none here is refused by the call that comes with it.
        let Ok(spot) = Spot::of(&self.shared.config, line) else { return Wakeups::none() };
        match id {
            Some(id) => self.shared.hub.stem(spot.stem(id)),
            None => {
                let claims = wakeups::watch(&self.shared, spot.folder.as_str(), Watch::Both);
                match &spot.faces {
                    Some(faces) => self.service_wakeups(claims, faces),
                    None => claims,
                }
            }
        }
    }

    async fn close(&self) -> Result<()> {
        self.end().await;
        Ok(())
    }
}

pub(crate) fn now() -> Moment {
    Clock::System.now()
}

/// The token of a node.
///
/// # Errors
/// [`ErrorKind::Exhausted`] after two million elections of a leader.
pub(crate) fn token(czxid: i64) -> Result<FencingToken> {
    let number = u64::try_from(czxid).unwrap_or_default();
    FencingToken::new(number).map_err(|error| {
        Error::new(ErrorKind::Exhausted, "the numbers for fencing tokens are used up").with_source(error)
    })
}

/// The token of a claim by what stands in its node: its own `czxid`, or that of the node whose place it took.
pub(crate) fn token_of(data: &[u8], czxid: i64) -> Result<FencingToken> {
    token(Record::decode(data).and_then(|record| record.token).unwrap_or(czxid))
}

/// One call about a claim that wants to be granted.
struct Attempt<'a> {
    store: &'a Store,
    claim: &'a Claim,
    spot: Spot,
    stem: String,
    /// What Curator is shown of it.
    face: Option<Face>,
}

/// What a look found: the own node, and the line in which it stands.
struct Look {
    session: Arc<Session>,
    /// Before the request was sent.
    sent: Moment,
    /// The own node's name.
    name: String,
    czxid: i64,
    queue: Queue,
    /// The leader has said that the node is there: not only a `sync`, which one that was deposed may answer.
    proven: bool,
}

impl Attempt<'_> {
    async fn run(&self) -> Result<Standing, Failure> {
        for _ in 0..ROUNDS {
            let look = match self.lease().await? {
                None => self.join().await?,
                Some(lease) => {
                    if let Some(standing) = self.glance(&lease).await? {
                        return Ok(standing);
                    }
                    self.look_again(&lease).await?
                }
            };
            let Some(look) = look else { continue };
            if let Some(standing) = self.judge(&look).await? {
                return Ok(standing);
            }
        }
        let text = format!("the line of {} changes faster than it can be read", self.claim.line);
        Err(Failure::Other(Error::new(ErrorKind::Unavailable, text).with_unknown_effect()))
    }

    /// The lease of this claim, if it is in the line as far as this client knows.
    async fn lease(&self) -> Result<Option<Lease>, Failure> {
        let leases = &self.store.shared.leases;
        let Some(lease) = leases.get(&self.stem, now()) else { return Ok(None) };
        if lease.swept && lease.node.is_none() {
            // Two who look for its node would take out the next one.
            let text = "the claim's earlier attempt is being removed; try again";
            return Err(Failure::Other(Error::new(ErrorKind::Unavailable, text).with_unknown_effect()));
        }
        if !lease.over {
            return Ok(Some(lease));
        }
        // It joins again at the end.
        match leases::remove(&self.stem, &lease).await {
            Ok(()) | Err(Failure::Ended(_)) => {}
            Err(failure) => return Err(failure),
        }
        leases.forget(&self.stem);
        self.store.shared.waits.end(&self.stem);
        Ok(None)
    }

    /// Makes the node and lists the line, pipelined. `None`: to be looked at again.
    async fn join(&self) -> Result<Option<Look>, Failure> {
        let shared = &self.store.shared;
        let session = shared.session_for(self.claim.ttl).await?;
        let (folder, mode) = (self.spot.folder.as_str(), self.spot.folder_mode());
        let paths = self.spot.paths(self.claim);
        let data = self.data();
        // With the folder if it is probably new or was not there, once more if nothing above it was, and again if the server
        // removed it, because it was empty.
        let lacks = shared.folders.lacks(folder);
        for round in 0..4 {
            let sent = now();
            let folder_made = (round > 0 || lacks).then(|| session.create(folder, b"", mode));
            shared.leases.begin(&self.stem, &session, sent.after(self.claim.ttl));
            if let Some(face) = &self.face {
                shared.leases.faced(&self.stem, &face.path);
            }
            let made = match self.make(&session, &paths, &data).await {
                Ok(made) => made,
                Err(Failure::NoNode) => {
                    shared.leases.forget(&self.stem);
                    if let Some(folder_made) = folder_made {
                        match folder_made.await {
                            Ok(_) | Err(Failure::NodeExists) => {}
                            Err(Failure::NoNode) => session.make(folder, mode).await?,
                            Err(failure) => return Err(failure),
                        }
                    }
                    if let Some(faces) = &self.spot.faces {
                        session.make(faces.as_str(), Mode::Container).await?;
                    }
                    continue;
                }
                Err(Failure::Ended(_)) => {
                    // What was made went with the session.
                    shared.leases.forget(&self.stem);
                    return Ok(None);
                }
                Err(Failure::Other(error)) if error.effect() == coord_core::Effect::None => {
                    shared.leases.forget(&self.stem);
                    return Err(Failure::Other(error));
                }
                // It may have been made: the lease stays, and the next look finds it.
                Err(failure) => return Err(failure),
            };
            // The answer came before that to the claim.
            let folder_made = match folder_made {
                Some(sent) => sent.await.is_ok(),
                None => false,
            };
            if folder_made {
                shared.folders.made(folder)
            } else {
                shared.folders.found(folder)
            }
            let (node, czxid, children) = made;
            let mut queue = self.spot.queue(children);
            if self.remove_older(&session, &queue, &node).await? {
                let (synced, listed) = (session.sync(folder), session.list(folder));
                synced.await?;
                queue = self.spot.queue(listed.await?.0);
            }
            let (session, name) = (Arc::clone(&session), base(&node).to_owned());
            return Ok(Some(Look { session, sent, name, czxid, queue, proven: true }));
        }
        let text = format!("the folder of {} is removed as soon as it is made", self.claim.line);
        Err(Failure::Other(Error::new(ErrorKind::Unavailable, text)))
    }

    /// The node's path, its `czxid`, and the names in the line.
    async fn make(
        &self,
        session: &Session,
        paths: &[String],
        data: &[u8],
    ) -> Result<(String, i64, Vec<String>), Failure> {
        let (shared, folder) = (&self.store.shared, self.spot.folder.as_str());
        let mode = Mode::EphemeralSequential;
        if let (Some(face), Some(path)) = (&self.face, paths.first()) {
            let node = discovery::make(session, path, data, face).await?;
            let (stat, listed) = (session.exists(&node), session.list(folder));
            let stat = stat.await.map_err(made)?.ok_or(Failure::NoNode)?;
            shared.leases.made(&self.stem, &node, stat.czxid);
            return Ok((node, stat.czxid, listed.await.map_err(made)?.0));
        }
        if let [path] = paths {
            let (created, listed) = (session.create(path, data, mode), session.list(folder));
            let (node, stat) = created.await?;
            shared.leases.made(&self.stem, &node, stat.czxid);
            return Ok((node, stat.czxid, listed.await.map_err(made)?.0));
        }
        let steps: Vec<_> = paths.iter().map(|path| Step::Create { path, data, mode }).collect();
        let (done, listed) = (session.multi(&steps), session.list(folder));
        let nodes: Vec<_> =
            done.await.map_err(|refusal| refusal.failure)?.iter().filter_map(created).collect();
        let [node, pair] = nodes.as_slice() else {
            return Err(Failure::Other(crate::error::misread("an answer")));
        };
        // The stat of a node that a multi makes is not told by old servers.
        let stat = session.exists(node).await.map_err(made)?.ok_or(Failure::NoNode)?;
        shared.leases.paired(&self.stem, pair);
        shared.leases.made(&self.stem, node, stat.czxid);
        Ok((node.clone(), stat.czxid, listed.await.map_err(made)?.0))
    }

    /// Takes out nodes of the same claim that a session before made, whose end the ensemble has not noticed yet.
    async fn remove_older(&self, session: &Session, queue: &Queue, node: &str) -> Result<bool, Failure> {
        let own = self.store.shared.leases.get(&self.stem, now());
        let pair = own.and_then(|lease| lease.pair);
        let is_own = |name: &str| name == base(node) || pair.as_deref().map(base) == Some(name);
        let older = queue.0.iter().filter(|place| place.id == Some(self.claim.id) && !is_own(&place.name));
        let removals: Vec<_> =
            older.map(|place| leases::delete(session, &self.spot.folder.node(&place.name))).collect();
        let any = !removals.is_empty();
        for removed in futures_util::future::join_all(removals).await {
            removed?;
        }
        Ok(any)
    }

    fn data(&self) -> Vec<u8> {
        let Claim { weight, limit, priority, ttl, ref owner, ref value, .. } = *self.claim;
        let (owner, value) = (owner.clone(), value.clone());
        Record { weight, limit, priority, ttl: milliseconds(ttl), token: None, owner, value }.encode()
    }

    /// In a long line, whether the one that is waited for is still there: less to read than the line. `None`: look at the line.
    async fn glance(&self, lease: &Lease) -> Result<Option<Standing>, Failure> {
        let shared = &self.store.shared;
        let target = shared.waits.target(&self.stem).filter(|(_, ahead)| *ahead >= LONG);
        let Some((target, ahead)) = target else { return Ok(None) };
        let Some((node, _)) = lease.node.as_ref().filter(|_| self.claim.wait) else { return Ok(None) };
        let sent = now();
        let (own, other) = (lease.session.exists(node), lease.session.exists(&target));
        if own.await?.is_none() || other.await?.is_none() {
            return Ok(None);
        }
        let kept = shared.leases.prolong(&self.stem, sent.after(self.claim.ttl), now());
        Ok(kept.then(|| self.waiting(&lease.session, ahead)))
    }

    fn waiting(&self, session: &Session, ahead: u32) -> Standing {
        Standing::Waiting { ahead, look_again_in: session.timeout() }
    }

    /// Lists the line as it is now. `None`: to be looked at again, from the start.
    async fn look_again(&self, lease: &Lease) -> Result<Option<Look>, Failure> {
        let leases = &self.store.shared.leases;
        let session = &lease.session;
        let folder = self.spot.folder.as_str();
        let Some((node, czxid)) = lease.node.clone() else {
            // Its creation was not answered.
            self.find(session).await?;
            return Ok(None);
        };
        session.steady().await;
        let sent = now();
        // Who was told that the way is free will be granted: then the leader is asked for the node at once.
        let told = self.store.shared.waits.has_fired(&self.stem);
        let asked =
            if told { Either::Left(prove(session, &node)) } else { Either::Right(session.sync(folder)) };
        let listed = session.list(folder);
        let listed = match asked.await {
            Ok(()) => listed.await,
            Err(failure) => Err(failure),
        };
        let names = match listed {
            Ok((names, _)) => names,
            Err(Failure::NoNode | Failure::Ended(_)) => {
                leases.forget(&self.stem);
                return Ok(None);
            }
            Err(failure) => return Err(failure),
        };
        let queue = self.spot.queue(names);
        let (session, name) = (Arc::clone(session), base(&node).to_owned());
        Ok(Some(Look { session, sent, name, czxid, queue, proven: told }))
    }

    /// Looks for a node whose creation was not answered. Only one that is owned by the session counts.
    async fn find(&self, session: &Session) -> Result<(), Failure> {
        let leases = &self.store.shared.leases;
        let found = match leases::find(session, &self.stem).await {
            Ok(found) => found,
            Err(Failure::Ended(_)) => Vec::new(),
            Err(failure) => return Err(failure),
        };
        let mut own = Vec::new();
        for path in found {
            match session.exists(&path).await? {
                Some(stat) if stat.ephemeral_owner == session.id() => own.push((path, stat.czxid)),
                Some(_) => leases::delete(session, &path).await?,
                None => {}
            }
        }
        own.sort_by_key(|(path, _)| !path.starts_with(&self.stem));
        match own.as_slice() {
            [] => leases.forget(&self.stem),
            [(path, czxid), rest @ ..] => {
                if let Some((pair, _)) = rest.first() {
                    leases.paired(&self.stem, pair);
                }
                leases.made(&self.stem, path, *czxid);
            }
        }
        Ok(())
    }

    /// What follows from a look. `None`: look again.
    async fn judge(&self, look: &Look) -> Result<Option<Standing>, Failure> {
        let shared = &self.store.shared;
        let queue = self.without_pairs(look);
        let Some(at) = queue.position(&look.name) else {
            // Somebody took it out.
            shared.leases.forget(&self.stem);
            return Ok(None);
        };
        if queue.is_eligible(at) {
            if !look.proven {
                match prove(&look.session, &self.spot.folder.node(&look.name)).await {
                    Ok(()) => {}
                    Err(Failure::NoNode | Failure::Ended(_)) => {
                        shared.leases.forget(&self.stem);
                        return Ok(None);
                    }
                    Err(failure) => return Err(failure),
                }
            }
            let until = look.sent.after(self.claim.ttl);
            if !shared.leases.prolong(&self.stem, until, now()) {
                return Ok(None);
            }
            self.tell_those_behind(look, &queue).await;
            shared.waits.end(&self.stem);
            let (line, id, token) = (self.claim.line.clone(), self.claim.id, token(look.czxid)?);
            return Ok(Some(Standing::Granted(Grant { line, id, token, ttl: milliseconds(self.claim.ttl) })));
        }
        if !self.claim.wait {
            return self.refuse(look, &queue).await.map(Some);
        }
        let ahead = u32::try_from(at).unwrap_or(u32::MAX);
        if !self.wait_for(look, &queue, at, ahead).await? {
            return Ok(None);
        }
        let until = look.sent.after(self.claim.ttl);
        if !shared.leases.prolong(&self.stem, until, now()) {
            return Ok(None);
        }
        Ok(Some(self.waiting(&look.session, ahead)))
    }

    /// A claim of two nodes is one claim: whoever waits for it waits for its first node, and then for what is left of it.
    fn without_pairs(&self, look: &Look) -> Queue {
        if self.spot.layout == Layout::Own {
            return look.queue.clone();
        }
        let mut seen = HashSet::new();
        let counts = |place: &&Place| match place.id {
            Some(id) if id == self.claim.id => place.name == look.name,
            Some(id) => seen.insert(id),
            None => true,
        };
        Queue(look.queue.0.iter().filter(counts).cloned().collect())
    }

    /// With permits, who waits behind one that waits hears that it waits no more by a change of its node; also of one that
    /// never waited, as a server that is behind may have shown it so.
    async fn tell_those_behind(&self, look: &Look, queue: &Queue) {
        if queue.is_shared() && queue.position(&look.name).is_some_and(|at| at + 1 < queue.0.len()) {
            let data = self.data();
            // A node that was changed has been told already, and its value, or the token that it took over, is to stay. A hint is no
            // truth: those behind look by themselves too.
            let _ = look.session.set(&self.spot.folder.node(&look.name), &data, Some(0)).await;
        }
    }

    /// Sets the watch that ends the wait. False: the line changed meanwhile.
    async fn wait_for(&self, look: &Look, queue: &Queue, at: usize, ahead: u32) -> Result<bool, Failure> {
        let (shared, session) = (&self.store.shared, &look.session);
        let blocker = queue.blocker(at);
        let (target, watcher) = match blocker {
            Blocker::Place(place) => {
                let path = self.spot.folder.node(&queue.0[place].name);
                let (stat, watcher) = session.exists_and_watch(&path).await?;
                if stat.is_none() {
                    return Ok(false);
                }
                (Some(path), watcher)
            }
            Blocker::Any => match session.list_and_watch(self.spot.folder.as_str()).await {
                Ok((_, _, watcher)) => (None, watcher),
                Err(Failure::NoNode) => return Ok(false),
                Err(failure) => return Err(failure),
            },
        };
        let target = target.filter(|_| queue.is_alone(at, blocker));
        let settled = target.is_some() || self.still(look, blocker).await?;
        if settled {
            shared.waits.set(&shared.hub, &self.stem, target, ahead, watcher);
        }
        Ok(settled)
    }

    /// Whether the line, read once more behind the new watch, still says the same.
    async fn still(&self, look: &Look, blocker: Blocker) -> Result<bool, Failure> {
        let names = match look.session.list(self.spot.folder.as_str()).await {
            Ok((names, _)) => names,
            Err(Failure::NoNode) => return Ok(false),
            Err(failure) => return Err(failure),
        };
        let queue = self.spot.queue(names);
        // Only in our own layout, where no claim has two nodes.
        let Some(at) = queue.position(&look.name) else { return Ok(false) };
        Ok(!queue.is_eligible(at) && queue.blocker(at) == blocker)
    }

    /// Leaves no trace, and says who is in the way.
    async fn refuse(&self, look: &Look, queue: &Queue) -> Result<Standing, Failure> {
        let shared = &self.store.shared;
        let first = self.spot.folder.node(&queue.0[0].name);
        let read = look.session.get(&first);
        // If that fails, it is taken out as soon as that is possible.
        let given_up = shared.leases.or_give_up(&self.stem);
        if let Some(lease) = shared.leases.get(&self.stem, now()) {
            match leases::remove(&self.stem, &lease).await {
                Ok(()) | Err(Failure::Ended(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        given_up.done();
        let holder = match read.await {
            Ok((data, stat)) => {
                let owner = owner_of(&data, &queue.0[0].name);
                token_of(&data, stat.czxid).ok().map(|token| Holder { owner, token })
            }
            Err(_) => None,
        };
        Ok(Standing::Refused(holder))
    }
}

/// Who a claim says it is, also one of another library.
pub(crate) fn owner_of(data: &[u8], name: &str) -> String {
    Record::decode(data).map_or_else(|| stranger(data, name), |record| record.owner)
}

/// What another library's claim says of its owner.
pub(crate) fn stranger(data: &[u8], name: &str) -> String {
    match std::str::from_utf8(data) {
        Ok(text) if !text.is_empty() && !text.contains(char::is_control) => text.to_owned(),
        _ => name.to_owned(),
    }
}

/// What a failure means for a claim whose node was made before.
fn made(failure: Failure) -> Failure {
    match failure {
        Failure::Other(error) => Failure::Other(error.with_unknown_effect()),
        failure => failure,
    }
}

/// Asks the leader whether a node is there, by a transaction that checks.
pub(crate) fn prove<'a>(
    session: &'a Session,
    node: &str,
) -> impl Future<Output = Result<(), Failure>> + Send + use<'a> {
    let checked = session.multi(&[Step::Check { path: node, version: None }]);
    async move { checked.await.map(drop).map_err(|refusal| refusal.failure) }
}

fn created(done: &crate::session::Done) -> Option<String> {
    match done {
        crate::session::Done::Created(path) => Some(path.clone()),
        _ => None,
    }
}

/// The last component of a path.
pub(crate) fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// How long a claim of another library may live without a sign of its client, as nobody can tell.
pub(crate) const UNKNOWN: Duration = Duration::from_secs(60);
