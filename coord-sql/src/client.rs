//! A client of the database: the store, its background work, and how it is opened.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use coord_core::{Report, Result, clock, spi::ClaimId};
use tokio::task::AbortHandle;

use crate::{
    bell::{self, Bells, ClientId, Rung},
    dialect::{Dialect, Purpose},
    keys::LineKey,
    wakeups::{Hub, Note},
};

/// A store of claims in an SQL database; one client of it.
///
/// Made by [`Sqlite::open`](crate::Sqlite::open). Users need it only to wrap it; [`connect`](crate::connect) gives the
/// [`Coordinator`](coord_core::Coordinator).
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    registrar: AbortHandle,
}

/// What the store and its background tasks use together.
pub(crate) struct Shared {
    pub(crate) dialect: Box<dyn Dialect>,
    pub(crate) client: ClientId,
    pub(crate) hub: Arc<Hub>,
    database: PathBuf,
    bells: Bells,
    /// Whether hints of other processes reach us.
    hearing: AtomicBool,
    listener: Mutex<Option<AbortHandle>>,
    /// How often our pipe was hung.
    hung: AtomicU64,
    generation: AtomicU64,
    /// Whether the database knows of watches of ours.
    watching: AtomicBool,
    gone: Mutex<HashSet<ClientId>>,
    /// Claims of ours that wait in a line and so have their tokens.
    waiting: Mutex<HashSet<ClaimId>>,
}

impl Store {
    /// Starts a client on a database that is ready.
    pub(crate) async fn start(dialect: Box<dyn Dialect>, database: &Path) -> Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            generation: AtomicU64::new(dialect.generation()),
            dialect,
            client: *uuid::Uuid::new_v4().as_bytes(),
            hub: Arc::default(),
            database: database.to_owned(),
            bells: Bells::beside(database),
            hearing: AtomicBool::new(false),
            listener: Mutex::default(),
            hung: AtomicU64::new(0),
            watching: AtomicBool::new(false),
            gone: Mutex::default(),
            waiting: Mutex::default(),
        });
        shared.bells.sweep();
        shared.listen();
        let registrar = tokio::spawn(register(Arc::clone(&shared))).abort_handle();
        // The watches of clients that are gone are found out when the task first looks.
        shared.hub.watches_changed.notify_one();
        Ok(Arc::new(Self { shared, registrar }))
    }
}

impl Store {
    /// Asks the database what it is and how it is set up.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is changed.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if the database cannot be reached or does not answer in
    /// time, and what opening it can fail with if it was replaced.
    pub async fn report(&self) -> Result<Report> {
        let report = self.shared.dialect.report().await?;
        let heard = if self.shared.hears() { "pushed" } else { "by looking again every 25 to 50 ms" };
        Ok(report.with_fact("wake-ups", Some(heard.into())))
    }

    /// Ends the background work and the connections.
    pub(crate) async fn end(&self) {
        self.registrar.abort();
        self.shared.fall_silent();
        if self.shared.watching.load(Ordering::Acquire) {
            // If it fails, whoever next has news for us finds that we are gone.
            if let Err(error) = self.shared.forget_watches().await {
                tracing::debug!(%error, "watches were left behind");
            }
        }
        self.shared.dialect.close().await;
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.registrar.abort();
        self.shared.fall_silent();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("database", &self.shared.database).finish_non_exhaustive()
    }
}

impl Shared {
    /// Hangs our pipe, if it does not hang.
    fn listen(&self) {
        if self.hears() {
            return;
        }
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(former) = listener.take() {
            former.abort();
        }
        let task = match self.bells.hang(&self.database, &self.client) {
            Ok(pipe) => {
                self.hearing.store(true, Ordering::Release);
                // Others may have found us gone and forgotten our watches.
                self.hung.fetch_add(1, Ordering::AcqRel);
                self.hub.watches_changed.notify_one();
                tokio::spawn(bell::listen(pipe, Arc::clone(&self.hub)))
            }
            Err(error) => {
                if self.hearing.swap(false, Ordering::AcqRel) {
                    tracing::debug!(%error, "the named pipe for wake-ups was lost");
                } else {
                    tracing::debug!(%error, "no named pipe for wake-ups; looking again by time");
                }
                tokio::spawn(look_by_time(Arc::clone(&self.hub)))
            }
        };
        *listener = Some(task.abort_handle());
    }

    /// Changes when the database may not know of our watches any more.
    fn epoch(&self) -> (u64, u64) {
        (self.dialect.generation(), self.hung.load(Ordering::Acquire))
    }

    fn hears(&self) -> bool {
        self.hearing.load(Ordering::Acquire) && self.bells.hangs(&self.client)
    }

    /// Notes whether a claim of ours waits in a line. Returns whether it did before.
    pub(crate) fn note_waiting(&self, id: ClaimId, waits: bool) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waits { !waiting.insert(id) } else { waiting.remove(&id) }
    }

    /// How long a claim that waits may sleep without a hint.
    pub(crate) fn patience(&self) -> Duration {
        if !self.hears() {
            self.listen();
        }
        if self.hears() { Duration::MAX } else { pause() }
    }

    /// Sends hints, after the change that they tell of was committed.
    pub(crate) fn announce(&self, notes: HashSet<(ClientId, Note)>) {
        let mut others: HashMap<ClientId, Vec<Note>> = HashMap::new();
        for (client, note) in notes {
            if client == self.client {
                self.hub.hint(note);
            } else {
                others.entry(client).or_default().push(note);
            }
        }
        for (client, notes) in others {
            let rung = self.bells.ring(&client, &notes);
            if rung == Rung::Gone && notes.iter().any(|note| matches!(note, Note::Line(_))) {
                self.gone.lock().unwrap_or_else(PoisonError::into_inner).insert(client);
                self.hub.watches_changed.notify_one();
            }
        }
    }

    /// Has our watches registered anew if the database may be another one.
    pub(crate) fn follow(&self) {
        let generation = self.dialect.generation();
        if self.generation.swap(generation, Ordering::AcqRel) != generation {
            self.hub.watches_changed.notify_one();
        }
    }

    /// Ends the background work that hints need.
    fn fall_silent(&self) {
        if let Some(listener) = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take() {
            listener.abort();
        }
        self.bells.take_down(&self.client);
    }

    /// Makes the registered watches those that are wanted. Returns the lines that were new.
    async fn register(&self, registered: &mut HashSet<LineKey>, gone: &[ClientId]) -> Result<Vec<LineKey>> {
        // Who cannot be told is not to be watched for.
        let wanted: HashSet<_> =
            if self.hears() { self.hub.lines().into_iter().collect() } else { HashSet::new() };
        let new: Vec<_> = wanted.difference(registered).cloned().collect();
        let old: Vec<_> = registered.difference(&wanted).cloned().collect();
        if new.is_empty() && old.is_empty() && gone.is_empty() {
            return Ok(new);
        }
        let statements = self.dialect.statements();
        let mut session = self.dialect.write(Purpose::Leases).await?;
        self.watching.store(true, Ordering::Release);
        for line in &new {
            session.run(statements.watch, &[line.value(), (&self.client).into()]).await?;
        }
        for line in &old {
            session.run(statements.unwatch, &[line.value(), (&self.client).into()]).await?;
        }
        for client in gone {
            session.run(statements.forget, &[client.into()]).await?;
        }
        session.finish(statements.commit, &[]).await?;
        *registered = wanted;
        Ok(new)
    }

    async fn forget_watches(&self) -> Result<()> {
        let mut session = self.dialect.write(Purpose::Leases).await?;
        let statements = self.dialect.statements();
        session.run(statements.forget, &[(&self.client).into()]).await?;
        session.finish(statements.commit, &[]).await.map(|_| ())
    }

    /// The clients that watch and are not there any more.
    async fn dead_watchers(&self) -> Result<Vec<ClientId>> {
        let mut session = self.dialect.read().await?;
        let clients = session.run(self.dialect.statements().clients, &[]).await?;
        let mut gone = Vec::new();
        for row in clients.iter().flatten() {
            let client = row.id(0)?;
            if client != self.client && self.bells.ring(&client, &[]) == Rung::Gone {
                gone.push(client);
            }
        }
        Ok(gone)
    }
}

/// Keeps the watches in the database as the subscriptions here want them.
async fn register(shared: Arc<Shared>) {
    let mut registered = HashSet::new();
    let mut epoch = shared.epoch();
    let mut gone = shared.dead_watchers().await.unwrap_or_default();
    loop {
        shared.hub.watches_changed.notified().await;
        gone.extend(shared.gone.lock().unwrap_or_else(PoisonError::into_inner).drain());
        loop {
            shared.listen();
            if epoch != shared.epoch() {
                epoch = shared.epoch();
                registered.clear();
            }
            match shared.register(&mut registered, &gone).await {
                Ok(new) => {
                    gone.clear();
                    // What changed before the watch was known was not hinted at.
                    new.iter().for_each(|line| shared.hub.hint(Note::Line(line.mark())));
                    break;
                }
                Err(error) if error.is_retryable() => {
                    tracing::debug!(%error, "watches could not be registered; trying again");
                    shared.hub.hint_lines();
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(200..400))).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "watches could not be registered");
                    shared.hub.hint_lines();
                    break;
                }
            }
        }
    }
}

/// Where no pipe can be had, watchers are told to look now and then.
async fn look_by_time(hub: Arc<Hub>) {
    loop {
        tokio::time::sleep(pause()).await;
        hub.hint_lines();
    }
}

fn pause() -> Duration {
    Duration::from_millis(fastrand::u64(25..50))
}

/// The wall clock in microseconds since 1970.
pub(crate) fn wall_micros() -> i64 {
    let since = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
