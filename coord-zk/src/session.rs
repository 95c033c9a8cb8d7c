//! One session with the ensemble: requests with typed outcomes.
//!
//! Every method sends its request when it is *called* and hands out a future for the answer. So several that are called one
//! after the other are pipelined and done in this order, and dropping a future takes nothing back.
//!
//! A request that is sent while the connection is lost waits until there is one again. Nothing here has a deadline of its own:
//! [`Shared::within`](crate::client::Shared::within) puts one around a whole operation.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use zookeeper_client as zk;

use crate::{
    client::pulse::{self, Pulse, Rhythm},
    config::Config,
    error::{Asks, Failure, failure, misread, too_large},
    forget, keys,
};

pub(crate) use zk::{OneshotWatcher, Stat};

/// How many nodes [`Session::read_all`] reads in one request: of the largest, some megabytes.
const READ: usize = 100;

/// What a request comes to.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// How long a new node lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Persistent,
    PersistentSequential,
    /// With the session.
    Ephemeral,
    EphemeralSequential,
    /// Until some time after its last child is gone.
    Container,
}

/// One step of a [`Session::multi`].
#[derive(Debug, Clone)]
pub(crate) enum Step<'a> {
    /// The node is there; with a version, it has this one.
    Check {
        path: &'a str,
        version: Option<i32>,
    },
    Create {
        path: &'a str,
        data: &'a [u8],
        mode: Mode,
    },
    /// With a version, only if it has this one.
    Set {
        path: &'a str,
        data: &'a [u8],
        version: Option<i32>,
    },
    /// With a version, only if it has this one.
    Delete {
        path: &'a str,
        version: Option<i32>,
    },
}

/// What became of one step.
#[derive(Debug, Clone)]
pub(crate) enum Done {
    Checked,
    /// The node's path, with its number. The stat of a node that a multi makes is not told by old servers.
    Created(String),
    Set(Stat),
    Deleted,
}

/// What prevented a [`Session::multi`], of which nothing was done unless the failure's effect says otherwise.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The first step that could not be done; `None` if it is about the whole.
    pub(crate) at: Option<usize>,
    pub(crate) failure: Failure,
}

/// What to read by [`Session::read`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Look<'a> {
    Data(&'a str),
    Children(&'a str),
}

/// What was read; [`Seen::Missing`] for a node that is not there.
#[derive(Debug, Clone)]
pub(crate) enum Seen {
    Data(Vec<u8>, Stat),
    Children(Vec<String>),
    Missing,
}

/// A session with the ensemble. It is kept alive in the background as long as this lives.
pub(crate) struct Session {
    client: zk::Client,
    config: Arc<Config>,
    pulse: OnceLock<Arc<Pulse>>,
    looked: forget::Looked,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.client.session_id())
            .field("state", &self.client.state())
            .finish()
    }
}

impl Session {
    pub(crate) fn new(client: zk::Client, config: Arc<Config>) -> Self {
        Self { client, config, pulse: OnceLock::new(), looked: forget::Looked::default() }
    }

    /// The id that the ephemeral nodes of this session have as their owner.
    pub(crate) fn id(&self) -> i64 {
        self.client.session_id().0
    }

    /// How long the ensemble keeps the session without hearing of it: what was agreed on, not what was asked for.
    pub(crate) fn timeout(&self) -> Duration {
        self.client.session_timeout()
    }

    /// Whether it has ended for good.
    pub(crate) fn is_over(&self) -> bool {
        self.client.state().is_terminated()
    }

    /// Tells of changes of the session's state without keeping it alive.
    pub(crate) fn states(&self) -> zk::StateWatcher {
        self.client.state_watcher()
    }

    /// When folders were last looked through for what is old.
    pub(crate) fn looked(&self) -> &forget::Looked {
        &self.looked
    }

    /// Gives signs of life from now on, as leases of an ensemble need them.
    pub(crate) fn beat(self: &Arc<Self>, rhythm: Rhythm) {
        let pulse = self.pulse.get_or_init(|| Arc::new(Pulse::start(rhythm)));
        tokio::spawn(pulse::keep(Arc::downgrade(self), Arc::clone(pulse)));
    }

    /// A sign of life whose answer nobody awaits. False without a connection.
    pub(crate) fn give_sign(&self) -> bool {
        let connected = self.client.state() == zk::SessionState::SyncConnected;
        if connected {
            drop(self.client.check_stat("/"));
        }
        connected
    }

    /// Waits until a lease can count on the session: before each request that makes or prolongs one.
    pub(crate) async fn steady(&self) {
        if let Some(pulse) = self.pulse.get() {
            pulse.steady().await;
        }
    }

    fn options(&self, mode: Mode) -> zk::CreateOptions<'static> {
        let acls = if self.config.own_acl() { zk::Acls::creator_all() } else { zk::Acls::anyone_all() };
        let mode = match mode {
            Mode::Persistent => zk::CreateMode::Persistent,
            Mode::PersistentSequential => zk::CreateMode::PersistentSequential,
            Mode::Ephemeral => zk::CreateMode::Ephemeral,
            Mode::EphemeralSequential => zk::CreateMode::EphemeralSequential,
            Mode::Container => zk::CreateMode::Container,
        };
        mode.with_acls(acls)
    }

    /// Refuses what is too large before it is sent.
    fn fits(&self, bytes: usize) -> Outcome<()> {
        let most = self.config.max_packet();
        if bytes <= most { Ok(()) } else { Err(Failure::Other(too_large(bytes, most))) }
    }

    /// What a request of one path and some data takes, at most.
    fn weigh(path: &str, data: usize) -> usize {
        path.len() + data + 128
    }

    /// Makes a node. Answers its path, with its number if it is a sequential one, and its stat, whose `czxid` grows with
    /// every change of the ensemble.
    pub(crate) fn create<'a>(
        &'a self,
        path: &'a str,
        data: &[u8],
        mode: Mode,
    ) -> impl Future<Output = Outcome<(String, Stat)>> + Send + use<'a> {
        let sent = self.fits(Self::weigh(path, data.len()));
        let sent = sent.map(|()| self.client.create(path, data, &self.options(mode)));
        async move {
            let (stat, sequence) = sent?.await.map_err(|error| self.failure(Asks::Writing, error))?;
            let numbered = matches!(mode, Mode::PersistentSequential | Mode::EphemeralSequential);
            Ok((if numbered { format!("{path}{sequence}") } else { path.to_owned() }, stat))
        }
    }

    /// Removes a node; with a version, only if it has this one.
    pub(crate) fn delete<'a>(
        &'a self,
        path: &str,
        version: Option<i32>,
    ) -> impl Future<Output = Outcome<()>> + Send + use<'a> {
        let sent = self.client.delete(path, version);
        async move { sent.await.map_err(|error| self.failure(Asks::Writing, error)) }
    }

    /// Replaces a node's data; with a version, only if it has this one.
    pub(crate) fn set<'a>(
        &'a self,
        path: &str,
        data: &[u8],
        version: Option<i32>,
    ) -> impl Future<Output = Outcome<Stat>> + Send + use<'a> {
        let sent = self.fits(Self::weigh(path, data.len()));
        let sent = sent.map(|()| self.client.set_data(path, data, version));
        async move { sent?.await.map_err(|error| self.failure(Asks::Writing, error)) }
    }

    /// Whether a node is there, and its stat.
    pub(crate) fn exists<'a>(
        &'a self,
        path: &str,
    ) -> impl Future<Output = Outcome<Option<Stat>>> + Send + use<'a> {
        let sent = self.client.check_stat(path);
        async move { sent.await.map_err(|error| self.failure(Asks::Reading, error)) }
    }

    /// The same, and tells when it comes, goes or gets other data.
    pub(crate) fn exists_and_watch<'a>(
        &'a self,
        path: &str,
    ) -> impl Future<Output = Outcome<(Option<Stat>, OneshotWatcher)>> + Send + use<'a> {
        let sent = self.client.check_and_watch_stat(path);
        async move { sent.await.map_err(|error| self.failure(Asks::Reading, error)) }
    }

    /// A node's data and stat.
    pub(crate) fn get<'a>(
        &'a self,
        path: &str,
    ) -> impl Future<Output = Outcome<(Vec<u8>, Stat)>> + Send + use<'a> {
        let sent = self.client.get_data(path);
        async move { sent.await.map_err(|error| self.failure(Asks::Reading, error)) }
    }

    /// The names of a node's children, in no order, and the node's stat, whose `pzxid` grows when they change.
    pub(crate) fn list<'a>(
        &'a self,
        path: &str,
    ) -> impl Future<Output = Outcome<(Vec<String>, Stat)>> + Send + use<'a> {
        let sent = self.client.get_children(path);
        async move { sent.await.map_err(|error| self.failure(Asks::Reading, error)) }
    }

    /// The same, and tells when a child comes or goes, or the node goes.
    pub(crate) fn list_and_watch<'a>(
        &'a self,
        path: &str,
    ) -> impl Future<Output = Outcome<(Vec<String>, Stat, OneshotWatcher)>> + Send + use<'a> {
        let sent = self.client.get_and_watch_children(path);
        async move { sent.await.map_err(|error| self.failure(Asks::Reading, error)) }
    }

    /// Makes the reads that are sent after it on this session see everything that was answered to anybody before it was sent, if
    /// the session's server is a follower. A leader does not wait until it has applied what followers have answered. It is answered by the leader. The path must be valid; the node need not be there.
    pub(crate) fn sync<'a>(&'a self, path: &str) -> impl Future<Output = Outcome<()>> + Send + use<'a> {
        let sent = self.client.sync(path);
        async move {
            match sent.await.map_err(|error| self.failure(Asks::Reading, error)) {
                Err(Failure::NoNode) => Ok(()),
                outcome => outcome,
            }
        }
    }

    /// Reads several nodes at one moment, in one request; the answers are in the order of `looks`. The request, not the answer,
    /// must fit into a packet.
    pub(crate) fn read<'a>(
        &'a self,
        looks: &[Look<'_>],
    ) -> impl Future<Output = Outcome<Vec<Seen>>> + Send + use<'a> {
        let sent = self.prepare_read(looks);
        async move {
            let results = sent?.await.map_err(|error| self.failure(Asks::Reading, error))?;
            results.into_iter().map(|result| self.seen(result)).collect()
        }
    }

    /// The same for any number of nodes, by as many requests as it takes, all sent at once; those of one request are read at
    /// one moment, and the requests in their order. Everything that was answered to anybody before is seen; see
    /// [`Self::sync`].
    pub(crate) fn read_fresh<'a>(
        &'a self,
        folder: &str,
        looks: &[Look<'_>],
    ) -> impl Future<Output = Outcome<Vec<Seen>>> + Send + use<'a> {
        let (synced, read) = (self.sync(folder), self.read_all(looks));
        async move {
            synced.await?;
            read.await
        }
    }

    /// The same without the promise to see everything that was answered before.
    pub(crate) fn read_all<'a>(
        &'a self,
        looks: &[Look<'_>],
    ) -> impl Future<Output = Outcome<Vec<Seen>>> + Send + use<'a> {
        let sent: Vec<_> = looks.chunks(READ).map(|looks| self.read(looks)).collect();
        async move {
            let mut seen = Vec::new();
            for answer in sent {
                seen.extend(answer.await?);
            }
            Ok(seen)
        }
    }

    /// Tells of everything that happens to a node and below it (ZooKeeper 3.6). The driver does not restore it when it
    /// connects again.
    pub(crate) fn watch_below<'a>(
        &'a self,
        path: &str,
    ) -> impl Future<Output = Outcome<zk::PersistentWatcher>> + Send + use<'a> {
        let sent = self.client.watch(path, zk::AddWatchMode::PersistentRecursive);
        async move { sent.await.map_err(|error| self.failure(Asks::Reading, error)) }
    }

    fn prepare_read(
        &self,
        looks: &[Look<'_>],
    ) -> Outcome<impl Future<Output = Result<Vec<zk::MultiReadResult>, zk::Error>> + Send + use<'_>> {
        let path = |look: &Look<'_>| match *look {
            Look::Data(path) | Look::Children(path) => path.len() + 16,
        };
        self.fits(looks.iter().map(path).sum::<usize>() + 64)?;
        let mut reader = self.client.new_multi_reader();
        for look in looks {
            let added = match look {
                Look::Data(path) => reader.add_get_data(path),
                Look::Children(path) => reader.add_get_children(path),
            };
            added.map_err(|error| self.failure(Asks::Reading, error))?;
        }
        Ok(reader.commit())
    }

    fn seen(&self, result: zk::MultiReadResult) -> Outcome<Seen> {
        match result {
            zk::MultiReadResult::Data { data, stat } => Ok(Seen::Data(data, stat)),
            zk::MultiReadResult::Children { children } => Ok(Seen::Children(children)),
            zk::MultiReadResult::Error { err: zk::Error::NoNode } => Ok(Seen::Missing),
            zk::MultiReadResult::Error { err } => Err(self.failure(Asks::Reading, err)),
            // What a later driver adds was not asked for.
            _ => Err(Failure::Other(misread("an answer"))),
        }
    }

    /// Does all steps or none, in one step of the ensemble: all changes have the same zxid.
    pub(crate) fn multi<'a>(
        &'a self,
        steps: &[Step<'_>],
    ) -> impl Future<Output = Result<Vec<Done>, Refusal>> + Send + use<'a> {
        let whole = |failure| Refusal { at: None, failure };
        let sent = self.prepare_multi(steps).map_err(whole);
        async move {
            let results = sent?.await.map_err(|error| match error {
                zk::MultiWriteError::RequestFailed { source } => whole(self.failure(Asks::Writing, source)),
                zk::MultiWriteError::OperationFailed { index, source } => {
                    Refusal { at: Some(index), failure: self.failure(Asks::Writing, source) }
                }
            })?;
            let done = |result| match result {
                zk::MultiWriteResult::Check => Ok(Done::Checked),
                zk::MultiWriteResult::Delete => Ok(Done::Deleted),
                zk::MultiWriteResult::Create { path, .. } => Ok(Done::Created(path)),
                zk::MultiWriteResult::SetData { stat } => Ok(Done::Set(stat)),
                // What a later driver adds was not asked for.
                _ => Err(whole(Failure::Other(misread("an answer").with_unknown_effect()))),
            };
            results.into_iter().map(done).collect()
        }
    }

    #[allow(clippy::type_complexity)]
    fn prepare_multi(
        &self,
        steps: &[Step<'_>],
    ) -> Outcome<impl Future<Output = Result<Vec<zk::MultiWriteResult>, zk::MultiWriteError>> + Send + use<'_>>
    {
        let weight = |step: &Step<'_>| match step {
            Step::Check { path, .. } | Step::Delete { path, .. } => Self::weigh(path, 0),
            Step::Create { path, data, .. } | Step::Set { path, data, .. } => Self::weigh(path, data.len()),
        };
        self.fits(steps.iter().map(weight).sum())?;
        let mut writer = self.client.new_multi_writer();
        for step in steps {
            let added = match *step {
                Step::Check { path, version } => writer.add_check_version(path, version.unwrap_or(-1)),
                Step::Create { path, data, mode } => writer.add_create(path, data, &self.options(mode)),
                Step::Set { path, data, version } => writer.add_set_data(path, data, version),
                Step::Delete { path, version } => writer.add_delete(path, version),
            };
            added.map_err(|error| self.failure(Asks::Writing, error))?;
        }
        Ok(writer.commit())
    }

    /// Makes a node and what is missing above it; it is no failure if it is there. Nodes above it are persistent.
    pub(crate) async fn make(&self, path: &str, mode: Mode) -> Outcome<()> {
        let mut missing = vec![(path, mode)];
        while let Some((path, mode)) = missing.last().copied() {
            match self.create(path, b"", mode).await {
                Ok(_) | Err(Failure::NodeExists) => {
                    missing.pop();
                }
                Err(Failure::NoNode) => match keys::parent(path).filter(|parent| *parent != "/") {
                    Some(parent) if missing.len() < 64 => missing.push((parent, Mode::Persistent)),
                    _ => return Err(Failure::NoNode),
                },
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    fn failure(&self, asks: Asks, error: zk::Error) -> Failure {
        failure(&self.config, asks, error)
    }
}
