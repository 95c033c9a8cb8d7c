//! Leases on own ephemeral nodes.
//!
//! A session lives as long as this process does, so a node that nobody renews would live as long too. Each one has therefore
//! a deadline of its own, on the own clock: a claim or a delivery that was not renewed in time is over, whether or not its
//! node is still there, and the [`sweep`] removes the node. If this process stands still or dies, the end of the session does.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use coord_core::clock::{Clock, Moment};
use tokio::sync::Notify;

use crate::{client::Shared, discovery, error::Failure, keys, session::Session};

/// The leases of one client.
///
/// A lease is named by its *stem*: the path of its node, without the number if it is a sequential one. The stem is known before
/// the node is made, and belongs to this lease alone: no other node's path begins with it.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    held: Mutex<HashMap<String, Held>>,
    /// The last sessions that ended. The ensemble may keep their nodes for a while, longer after a change of its leader.
    ended: Mutex<VecDeque<i64>>,
    changed: Notify,
}

/// How many of them are remembered: many more than a client loses before the ensemble has removed the nodes of the first.
const ENDED: usize = 256;

#[derive(Debug)]
struct Held {
    session: Arc<Session>,
    /// The node's path and the claim's number: its `czxid`, or that of the node whose place it took. `None` as long as nobody
    /// knows whether it was made.
    node: Option<(String, i64)>,
    /// The session to which it is being moved.
    moving: Option<Arc<Session>>,
    /// A second node that was made with it.
    pair: Option<String>,
    /// The place of its face, where another one's may stand by now.
    face: Option<String>,
    until: Moment,
    /// The sweep is removing it.
    swept: bool,
}

/// A lease as it is now.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    pub(crate) session: Arc<Session>,
    /// The node's path and the claim's number. `None` as long as nobody knows whether it was made.
    pub(crate) node: Option<(String, i64)>,
    /// A second node that was made with it.
    pub(crate) pair: Option<String>,
    /// The place of its [face](crate::discovery), where another one's may stand by now.
    pub(crate) face: Option<String>,
    /// The session to which it is being moved: nobody knows which of the two owns the node.
    pub(crate) moving: Option<Arc<Session>>,
    /// Until when it is kept.
    pub(crate) until: Moment,
    /// Whether it is over: its time has passed, or its session has ended.
    pub(crate) over: bool,
    /// The sweep is removing it.
    pub(crate) swept: bool,
}

impl Leases {
    fn held(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a lease. To be called before the request that makes the node is sent, so that the node is removed whatever becomes
    /// of the answer.
    pub(crate) fn begin(&self, stem: &str, session: &Arc<Session>, until: Moment) {
        let session = Arc::clone(session);
        let held = Held { session, node: None, pair: None, face: None, moving: None, until, swept: false };
        self.held().insert(stem.to_owned(), held);
        self.changed.notify_one();
    }

    /// The node was made.
    pub(crate) fn made(&self, stem: &str, path: &str, number: i64) {
        if let Some(held) = self.held().get_mut(stem) {
            held.node = Some((path.to_owned(), number));
        }
    }

    /// A second node was made with it.
    pub(crate) fn paired(&self, stem: &str, path: &str) {
        if let Some(held) = self.held().get_mut(stem) {
            held.pair = Some(path.to_owned());
        }
    }

    /// It is shown to Curator there.
    pub(crate) fn faced(&self, stem: &str, path: &str) {
        if let Some(held) = self.held().get_mut(stem) {
            held.face = Some(path.to_owned());
        }
    }

    /// The node is about to be moved to another session.
    pub(crate) fn moving(&self, stem: &str, to: &Arc<Session>) {
        if let Some(held) = self.held().get_mut(stem) {
            held.moving = Some(Arc::clone(to));
        }
    }

    /// The node is this session's now, or still.
    pub(crate) fn moved(&self, stem: &str, session: &Arc<Session>) {
        if let Some(held) = self.held().get_mut(stem) {
            held.session = Arc::clone(session);
            held.moving = None;
        }
    }

    /// The lease as it is now; `None` if there is none.
    pub(crate) fn get(&self, stem: &str, now: Moment) -> Option<Lease> {
        self.held().get(stem).map(|held| held.lease(now))
    }

    /// Keeps it until at least then. False if it is over, which stays so.
    pub(crate) fn prolong(&self, stem: &str, until: Moment, now: Moment) -> bool {
        let mut held = self.held();
        let Some(held) = held.get_mut(stem).filter(|held| !held.is_over(now)) else { return false };
        // The sweep wakes at the old time and finds the new one.
        held.until = held.until.max(until);
        true
    }

    /// Ends it: the node was removed, or never made.
    pub(crate) fn forget(&self, stem: &str) {
        self.held().remove(stem);
    }

    /// Ends it for the sweep to remove, soon.
    pub(crate) fn give_up(&self, stem: &str) {
        if let Some(held) = self.held().get_mut(stem) {
            held.until = Moment::default();
        }
        self.changed.notify_one();
    }

    /// Gives the lease up if this guard is dropped before [`GiveUp::done`]: if whoever removes the node is dropped, or fails.
    pub(crate) fn or_give_up<'a>(&'a self, stem: &'a str) -> GiveUp<'a> {
        GiveUp { leases: self, stem, done: false }
    }

    /// Whether the session that owns a node was one of this client's and has ended. Its node is there only until the ensemble
    /// finds that too.
    pub(crate) fn has_ended(&self, owner: i64) -> bool {
        self.ended().contains(&owner)
    }

    fn ended(&self) -> MutexGuard<'_, VecDeque<i64>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, session: i64) {
        let mut ended = self.ended();
        if !ended.contains(&session) {
            ended.push_back(session);
        }
        if ended.len() > ENDED {
            ended.pop_front();
        }
    }

    /// Ends those of a session that is over, and says which.
    pub(crate) fn session_ended(&self, session: i64) -> Vec<String> {
        // First, so that no lease is forgotten whose node is not known to be over.
        self.remember(session);
        let mut held = self.held();
        let stems = held.iter().filter(|(_, held)| held.session.id() == session);
        let stems: Vec<_> = stems.map(|(stem, _)| stem.clone()).collect();
        for stem in &stems {
            // It may be another session's by now, which would keep it: the sweep removes it.
            match held.get_mut(stem).and_then(|held| Some((held.moving.take()?, held))) {
                Some((session, held)) => {
                    held.session = session;
                    held.until = Moment::default();
                    // A sweep that is at it looks at the other session.
                    held.swept = false;
                    self.changed.notify_one();
                }
                None => {
                    held.remove(stem);
                }
            }
        }
        stems
    }

    /// Until when the last lease of a session is kept; `None` if it has none.
    pub(crate) fn last_of(&self, session: i64) -> Option<Moment> {
        self.held().values().filter(|held| held.session.id() == session).map(|held| held.until).max()
    }

    /// Those whose time has passed, marked; and when the next one's has.
    fn due(&self, now: Moment) -> (Vec<(String, Lease)>, Option<Moment>) {
        let mut all = self.held();
        let mut due = Vec::new();
        for (stem, held) in all.iter_mut().filter(|(_, held)| held.until <= now && !held.swept) {
            held.swept = true;
            due.push((stem.clone(), held.lease(now)));
        }
        let next = all.values().filter(|held| !held.swept).map(|held| held.until).min();
        (due, next)
    }

    /// It was not removed; the next sweep tries again.
    fn still_there(&self, stem: &str, session: i64) {
        if let Some(held) = self.held().get_mut(stem).filter(|held| held.session.id() == session) {
            held.swept = false;
        }
    }

    fn removed(&self, stem: &str, session: i64) {
        let mut held = self.held();
        if held.get(stem).is_some_and(|held| held.swept && held.session.id() == session) {
            held.remove(stem);
        }
    }
}

/// See [`Leases::or_give_up`].
pub(crate) struct GiveUp<'a> {
    leases: &'a Leases,
    stem: &'a str,
    done: bool,
}

impl GiveUp<'_> {
    /// The node is gone.
    pub(crate) fn done(mut self) {
        self.done = true;
        self.leases.forget(self.stem);
    }
}

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.leases.give_up(self.stem);
        }
    }
}

impl Held {
    fn lease(&self, now: Moment) -> Lease {
        Lease {
            session: Arc::clone(&self.session),
            node: self.node.clone(),
            pair: self.pair.clone(),
            face: self.face.clone(),
            moving: self.moving.clone(),
            until: self.until,
            over: self.is_over(now),
            swept: self.swept,
        }
    }

    fn is_over(&self, now: Moment) -> bool {
        self.until <= now || self.session.is_over()
    }
}

/// How long the sweep pauses after a removal that failed.
const AGAIN: Duration = Duration::from_millis(500);
/// The longest pause, in case that the clocks of sleeping and of leases differ.
const LONGEST: Duration = Duration::from_secs(60);

/// Removes the nodes of leases whose time has passed, for as long as the client lives.
pub(crate) async fn sweep(shared: Weak<Shared>, leases: Arc<Leases>) {
    loop {
        let changed = leases.changed.notified();
        let (due, next) = leases.due(Clock::System.now());
        let mut pause = next.map_or(LONGEST, |next| next.since(Clock::System.now()).min(LONGEST));
        if !due.is_empty() {
            let Some(client) = shared.upgrade() else { return };
            let removals = due.iter().map(|(stem, lease)| remove_due(&client, stem, lease));
            if futures_util::future::join_all(removals).await.contains(&false) {
                pause = pause.min(AGAIN);
            }
        }
        let _ = tokio::time::timeout(pause, changed).await;
    }
}

/// Removes one; false if it may still be there.
async fn remove_due(client: &Arc<Shared>, stem: &str, lease: &Lease) -> bool {
    let id = lease.session.id();
    let removed = tokio::time::timeout(client.config.timeout(), remove(stem, lease)).await;
    match removed {
        Ok(Ok(())) | Ok(Err(Failure::Ended(_))) => {
            if matches!(removed, Ok(Err(_))) {
                client.leases.remember(id);
            }
            client.leases.removed(stem, id);
            client.hub.hint_stem(stem);
            true
        }
        Ok(Err(failure)) => {
            tracing::debug!(?failure, "a node whose lease ended is still there");
            client.leases.still_there(stem, id);
            false
        }
        Err(_) => {
            client.leases.still_there(stem, id);
            false
        }
    }
}

/// Removes the nodes of a lease, also if their paths are unknown. Nothing happens if they are not there.
pub(crate) async fn remove(stem: &str, lease: &Lease) -> Result<(), Failure> {
    if let Some(face) = &lease.face {
        let nodes = match &lease.node {
            Some((path, _)) => vec![path.clone()],
            None => find(&lease.session, stem).await?,
        };
        for node in nodes {
            discovery::remove(&lease.session, &node, face).await?;
        }
        return Ok(());
    }
    match (&lease.node, &lease.pair) {
        (Some((path, _)), None) => delete(&lease.session, path).await,
        (Some((path, _)), Some(pair)) => {
            let (first, second) = (delete(&lease.session, path), delete(&lease.session, pair));
            first.await.and(second.await)
        }
        (None, _) => remove_all(&lease.session, stem).await.map(drop),
    }
}

/// Removes every node of a stem. Sent after a request to make one on the same session, it finds that one. Says how many.
pub(crate) async fn remove_all(session: &Session, stem: &str) -> Result<usize, Failure> {
    let found = find(session, stem).await?;
    let removals: Vec<_> = found.iter().map(|path| delete(session, path)).collect();
    for removed in futures_util::future::join_all(removals).await {
        removed?;
    }
    Ok(found.len())
}

/// The paths of the nodes of a stem: itself, and itself with a number.
pub(crate) async fn find(session: &Session, stem: &str) -> Result<Vec<String>, Failure> {
    let folder = keys::parent(stem).unwrap_or("/");
    let name = stem.rsplit('/').next().unwrap_or(stem);
    let (synced, listed) = (session.sync(folder), session.list(folder));
    synced.await?;
    let children = match listed.await {
        Ok((children, _)) => children,
        Err(Failure::NoNode) => return Ok(Vec::new()),
        Err(failure) => return Err(failure),
    };
    let pair = pair(name);
    let is_own = |child: &&String| {
        child.starts_with(name) || pair.as_ref().is_some_and(|pair| child.starts_with(pair.as_str()))
    };
    let own = children.iter().filter(is_own);
    Ok(own
        .map(|child| if folder == "/" { format!("/{child}") } else { format!("{folder}/{child}") })
        .collect())
}

/// What the second node of a claim begins with, in the layout that makes two.
fn pair(name: &str) -> Option<String> {
    let id = name.strip_prefix("_c_")?.strip_suffix('-')?;
    Some(format!("{}__lock__", uuid::Uuid::try_parse(id).ok()?.simple()))
}

/// Removes a node. Nothing happens if it is not there.
pub(crate) fn delete<'a>(
    session: &'a Session,
    path: &str,
) -> impl Future<Output = Result<(), Failure>> + Send + use<'a> {
    let sent = session.delete(path, None);
    async move {
        match sent.await {
            Ok(()) | Err(Failure::NoNode) => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}
