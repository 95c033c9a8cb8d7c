//! What a backend's test file implements.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use coord_core::{
    CoordinatorBuilder, Error, ErrorKind, Result,
    clock::Clock,
    spi::{Claims, jobs::Jobs, values::Values},
};

use crate::{Servers, runs::Fault};

/// The stores of one client. Cloning it is cheap.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Stores {
    /// Claims.
    pub claims: Arc<dyn Claims>,
    /// Values; `None` if the backend has none. The cases about them are then ignored.
    pub values: Option<Arc<dyn Values>>,
    /// Jobs; `None` if the backend has none. The cases about them are then ignored.
    pub jobs: Option<Arc<dyn Jobs>>,
}

impl Stores {
    /// Claims alone.
    #[must_use]
    pub fn new(claims: Arc<dyn Claims>) -> Self {
        Self { claims, values: None, jobs: None }
    }

    /// With values.
    #[must_use]
    pub fn with_values(mut self, values: Arc<dyn Values>) -> Self {
        self.values = Some(values);
        self
    }

    /// With jobs.
    #[must_use]
    pub fn with_jobs(mut self, jobs: Arc<dyn Jobs>) -> Self {
        self.jobs = Some(jobs);
        self
    }
}

/// A backend under test.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// The backend's name, for messages.
    fn name(&self) -> &str;

    /// Whether its stores live on Tokio's clock alone, so that cases run on a paused clock. Only stores in this
    /// process's memory do.
    fn virtual_time(&self) -> bool {
        false
    }

    /// A fresh and empty store for one case. Nothing that another case does may be seen in it.
    ///
    /// # Errors
    /// Whatever went wrong; the case then fails. An error whose source is [`Unavailable`](crate::Unavailable), as made
    /// from one by `?`, says that there is no server: the case is then *ignored* with the reason on a person's machine.
    async fn open(&self) -> Result<Box<dyn TestStore>>;

    /// A fresh and empty store for a run with faults, on servers of its own that the run may strike. The default is one as
    /// any case gets.
    ///
    /// # Errors
    /// As of [`Backend::open`].
    async fn open_for_faults(&self) -> Result<Box<dyn TestStore>> {
        self.open().await
    }

    /// One more client of a store that another process opened, by its [`TestStore::url`]: how worker processes get
    /// theirs. The default refuses; then stores have no URL either.
    ///
    /// # Errors
    /// Whatever went wrong.
    async fn connect(&self, url: &str) -> Result<Arc<dyn Claims>> {
        let message = format!("the {} backend is not shared between processes; {url:?}", self.name());
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    /// As [`Backend::connect`], with all stores that the backend has. The default knows claims alone.
    ///
    /// # Errors
    /// Whatever went wrong.
    async fn connect_all(&self, url: &str) -> Result<Stores> {
        Ok(Stores::new(self.connect(url).await?))
    }

    /// The last word on how each coordinator of the suite is built. The default changes nothing.
    fn configure(&self, builder: CoordinatorBuilder) -> CoordinatorBuilder {
        builder
    }
}

/// The store of one case.
#[async_trait]
pub trait TestStore: fmt::Debug + Send + Sync {
    /// One more client.
    ///
    /// # Errors
    /// Whatever went wrong; the case then fails.
    async fn connect(&self) -> Result<Arc<dyn Claims>>;

    /// One more client with all stores that the backend has. The default knows claims alone.
    ///
    /// # Errors
    /// Whatever went wrong; the case then fails.
    async fn connect_all(&self) -> Result<Stores> {
        Ok(Stores::new(self.connect().await?))
    }

    /// The clock on which coordinators judge their leases.
    fn clock(&self) -> Clock {
        Clock::System
    }

    /// How another process reaches this store; `None` if none can.
    fn url(&self) -> Option<String> {
        None
    }

    /// How long after the end of a killed holder's lease the store takes at most to let the next one in.
    fn takeover(&self) -> Duration {
        Duration::from_millis(250)
    }

    /// For how long a reading of a line or a queue may miss what somebody has been answered already. The default is that of the contract: none,
    /// readings are linearizable.
    fn lag(&self) -> Duration {
        Duration::ZERO
    }

    /// How many changes of values the store remembers at most for those who watch: whoever was away for
    /// more than these is told that there is a gap. `None` if it forgets none.
    fn remembered_changes(&self) -> Option<u64> {
        None
    }

    /// The servers behind a store that was [opened for faults](Backend::open_for_faults); `None` if there are none, and then
    /// only its clients are struck.
    fn servers(&self) -> Option<Arc<dyn Servers>> {
        None
    }

    /// Faults under which these servers end leases early, so that two may have one thing at once, as the backend declares. Steps of
    /// clocks are among them by themselves where leases rest on those.
    fn early_under(&self) -> Vec<Fault> {
        Vec::new()
    }

    /// How much the store keeps now, in whatever unit: entries, pages, bytes. `None` if it cannot tell.
    ///
    /// # Errors
    /// Whatever went wrong; the case then fails.
    async fn size(&self) -> Result<Option<u64>> {
        Ok(None)
    }
}
