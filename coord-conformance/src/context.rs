//! What a case has in hand.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use coord_core::{
    BarrierOptions, CampaignOptions, Coordinator, Guarantees, Inspect, LockOptions, Name, RegisterOptions,
    clock::{Clock, Moment},
    spi::{Claims, Kind},
};
use tokio::task::JoinHandle;

use crate::{Backend, Client, Failure, Servers, Stores, TestStore, Verdict, checkers, history::History};

/// What a case has in hand: clients of a store of its own, names, TTLs that fit the backend. Cloning is cheap.
#[derive(Clone)]
pub struct Ctx(Arc<Inner>);

struct Inner {
    backend: Arc<dyn Backend>,
    store: Box<dyn TestStore>,
    case: &'static str,
    guarantees: Guarantees,
    /// Whether there are values, and jobs.
    has: (bool, bool),
    history: History,
    names: AtomicU32,
    clients: Mutex<Vec<Coordinator>>,
    tasks: Mutex<Vec<JoinHandle<Verdict>>>,
}

impl fmt::Debug for Ctx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ctx").field("case", &self.0.case).finish_non_exhaustive()
    }
}

impl Ctx {
    pub(crate) async fn new(
        backend: Arc<dyn Backend>,
        store: Box<dyn TestStore>,
        case: &'static str,
    ) -> Verdict<Self> {
        let probe = store.connect_all().await?;
        let guarantees = probe.claims.guarantees();
        let has = (probe.values.is_some(), probe.jobs.is_some());
        probe.claims.close().await?;
        let history = History::new(store.clock());
        let (names, clients, tasks) = (AtomicU32::new(0), Mutex::default(), Mutex::default());
        Ok(Self(Arc::new(Inner { backend, store, case, guarantees, has, history, names, clients, tasks })))
    }

    /// The case, without its group.
    pub(crate) fn case(&self) -> &'static str {
        self.0.case.rsplit("::").next().unwrap_or_default()
    }

    /// The backend under test.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.0.backend
    }

    /// What the store promises.
    #[must_use]
    pub fn guarantees(&self) -> &Guarantees {
        &self.0.guarantees
    }

    /// Whether the backend has a store of values.
    #[must_use]
    pub fn has_values(&self) -> bool {
        self.0.has.0
    }

    /// Whether the backend has a store of jobs.
    #[must_use]
    pub fn has_jobs(&self) -> bool {
        self.0.has.1
    }

    /// What happened in this case. All checkers judge it when the case has ended.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.0.history
    }

    /// How another process reaches the store.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        self.0.store.url()
    }

    /// How much the store keeps now, in a unit of its own; `None` if it cannot tell.
    ///
    /// # Errors
    /// What the backend says.
    pub async fn size(&self) -> Verdict<Option<u64>> {
        Ok(self.0.store.size().await?)
    }

    /// How many changes of values the store remembers; `None` if it forgets none.
    #[must_use]
    pub fn remembered_changes(&self) -> Option<u64> {
        self.0.store.remembered_changes()
    }

    /// The servers behind the store, if it has any that may be struck.
    pub(crate) fn servers(&self) -> Option<Arc<dyn Servers>> {
        self.0.store.servers()
    }

    /// Faults under which leases may end early.
    pub(crate) fn early_under(&self) -> Vec<crate::runs::Fault> {
        self.0.store.early_under()
    }

    /// How long after the end of a killed holder's lease the store takes at most to let the next one in.
    #[must_use]
    pub fn takeover(&self) -> Duration {
        self.0.store.takeover()
    }

    /// For how long a reading of a line or a queue may miss what somebody has been answered already.
    #[must_use]
    pub fn lag(&self) -> Duration {
        self.0.store.lag()
    }

    /// The clock of the case.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.0.store.clock()
    }

    /// The present moment on the case's clock.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.clock().now()
    }

    /// One more client of the store, as the backend made it, to be wrapped in a decorator.
    ///
    /// # Errors
    /// What the backend says.
    pub async fn claims(&self) -> Verdict<Arc<dyn Claims>> {
        Ok(self.0.store.connect().await?)
    }

    /// One more client, called `client-0`, `client-1` and so on.
    ///
    /// # Errors
    /// What the backend says.
    pub async fn client(&self) -> Verdict<Client> {
        let stores = self.stores().await?;
        self.client_with(stores)
    }

    /// The stores of one more client, as the backend made them.
    ///
    /// # Errors
    /// What the backend says.
    pub async fn stores(&self) -> Verdict<Stores> {
        Ok(self.0.store.connect_all().await?)
    }

    /// One more client on a store that the case made, usually a decorated one.
    ///
    /// # Errors
    /// None on a sound suite: the owner text is valid.
    pub fn client_on(&self, claims: Arc<dyn Claims>) -> Verdict<Client> {
        self.client_with(Stores::new(claims))
    }

    /// One more client on stores that the case made, usually decorated ones.
    ///
    /// # Errors
    /// None on a sound suite: the owner text is valid.
    pub fn client_with(&self, stores: Stores) -> Verdict<Client> {
        let mut clients = self.0.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = format!("client-{}", clients.len());
        let mut builder = Coordinator::builder(stores.claims).clock(self.clock()).owner(&owner);
        if let Some(values) = stores.values {
            builder = builder.values(values);
        }
        if let Some(jobs) = stores.jobs {
            builder = builder.jobs(jobs);
        }
        let coordinator = self.0.backend.configure(builder).build()?;
        clients.push(coordinator.clone());
        Ok(Client::new(coordinator, self.0.history.client(owner)))
    }

    /// Several clients.
    ///
    /// # Errors
    /// What the backend says.
    pub async fn clients<const N: usize>(&self) -> Verdict<[Client; N]> {
        let mut clients = Vec::with_capacity(N);
        for _ in 0..N {
            clients.push(self.client().await?);
        }
        clients.try_into().map_err(|_| Failure::new("another number of clients"))
    }

    /// A name that no other case uses, and that this case has not used yet.
    #[must_use]
    pub fn fresh_name(&self) -> Name {
        let number = self.0.names.fetch_add(1, Ordering::Relaxed);
        let name = format!("{} {number}", self.0.case);
        Name::new(name).unwrap_or_else(|error| panic!("the names of cases are valid: {error}"))
    }

    /// A TTL that ends soon, for what shall end. A busy machine may lose a lease of this length.
    #[must_use]
    pub fn short_ttl(&self) -> Duration {
        self.0.guarantees.min_ttl.max(Duration::from_millis(400))
    }

    /// A TTL that no case outlives, for what shall not be lost.
    #[must_use]
    pub fn long_ttl(&self) -> Duration {
        self.0.guarantees.min_ttl.max(Duration::from_secs(10))
    }

    /// Lock options with the long TTL.
    #[must_use]
    pub fn lock_options(&self) -> LockOptions {
        LockOptions::default().with_ttl(self.long_ttl())
    }

    /// Campaign options with the long TTL.
    #[must_use]
    pub fn campaign_options(&self) -> CampaignOptions {
        CampaignOptions::default().with_ttl(self.long_ttl())
    }

    /// Registration options with the long TTL.
    #[must_use]
    pub fn register_options(&self) -> RegisterOptions {
        RegisterOptions::default().with_ttl(self.long_ttl())
    }

    /// Barrier options with the long TTL.
    #[must_use]
    pub fn barrier_options(&self) -> BarrierOptions {
        BarrierOptions::default().with_ttl(self.long_ttl())
    }

    /// Drives what must happen long before the long TTL ends: because of an event, and not because time passed.
    ///
    /// # Errors
    /// If it does not.
    #[track_caller]
    pub fn soon<T>(&self, what: &str, work: impl Future<Output = T>) -> impl Future<Output = Verdict<T>> {
        let (limit, place) = (self.long_ttl() / 2, std::panic::Location::caller());
        async move { checkers::progress::within(limit, &format!("{place}: {what}"), work).await }
    }

    /// Runs work beside the case. If it fails, the case fails, at its end at the latest; it is waited for there.
    pub fn spawn(&self, work: impl Future<Output = Verdict> + Send + 'static) {
        let task = tokio::spawn(work);
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    /// Looks again and again until there is something to see. Only for what sends no event.
    ///
    /// # Errors
    /// What `look` says. If it never sees anything, the case's own deadline ends it.
    pub async fn until<T, F>(&self, mut look: impl FnMut() -> F) -> Verdict<T>
    where
        F: Future<Output = Verdict<Option<T>>>,
    {
        loop {
            if let Some(seen) = look().await? {
                return Ok(seen);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until this many claims wait for a lock.
    ///
    /// # Errors
    /// What the store says.
    pub async fn until_waiting(&self, name: &Name, waiters: usize) -> Verdict {
        self.until_line(Kind::Lock, name, |_, waiting| waiting == waiters).await
    }

    /// Waits until the numbers of holders and waiters of a name are as `enough` wants them.
    ///
    /// # Errors
    /// What the store says.
    pub async fn until_line(
        &self,
        kind: Kind,
        name: &Name,
        enough: impl Fn(usize, usize) -> bool,
    ) -> Verdict {
        let observer = self.observer().await?;
        let (observer, enough) = (&observer, &enough);
        self.until(|| async move {
            let line = observer.inspect(kind, name).await?;
            Ok(enough(line.holders.len(), line.waiters.len()).then_some(()))
        })
        .await
    }

    /// The first client of the case, which may serve as an onlooker too.
    async fn observer(&self) -> Verdict<Coordinator> {
        let first = self.0.clients.lock().unwrap_or_else(PoisonError::into_inner).first().cloned();
        match first {
            Some(client) => Ok(client),
            None => Ok((*self.client().await?).clone()),
        }
    }

    /// Waits for spawned work and shuts the clients down.
    pub(crate) async fn finish(&self) -> Verdict {
        let tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            task.await??;
        }
        let clients = std::mem::take(&mut *self.0.clients.lock().unwrap_or_else(PoisonError::into_inner));
        let ends = clients.iter().map(|client| client.shutdown());
        for ended in futures_util::future::join_all(ends).await {
            ended?;
        }
        Ok(())
    }

    /// What the checkers say about the history. A case that failed by itself fails by a checker if one can say why.
    pub(crate) fn judge(&self, verdict: Verdict) -> Verdict {
        match (checkers::check(&self.0.history.events()), verdict) {
            (Ok(()), verdict) => verdict,
            (Err(violation), Ok(())) => Err(violation.into()),
            (Err(violation), Err(failure)) => {
                let found = Failure::from(violation);
                Err(Failure { message: format!("{}; and {failure}", found.message), ..found })
            }
        }
    }
}
