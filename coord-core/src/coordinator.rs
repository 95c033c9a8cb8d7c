//! The handle that a backend builds and that implements every API trait.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    Guarantees, Name, Namespace, Result,
    clock::Clock,
    engine::{Engine, Mutant, Stores},
    limits,
    spi::{Claim, ClaimId, Claims, Kind, LineId, jobs::Jobs, values::Values},
};

/// One client of one store. It implements [`Lock`](crate::Lock), [`RwLock`](crate::RwLock),
/// [`Semaphore`](crate::Semaphore), [`Election`](crate::Election), [`Registry`](crate::Registry),
/// [`Barrier`](crate::Barrier), [`ConfigStore`](crate::ConfigStore), [`FencedStore`](crate::FencedStore),
/// [`Queue`](crate::Queue) and [`Inspect`](crate::Inspect).
///
/// Cloning is cheap; clones share one connection and one renewal task. A backend crate builds it
/// (`coord_sql::connect`), or [`crate::memory`] for tests.
#[derive(Clone)]
pub struct Coordinator {
    pub(crate) engine: Arc<Engine>,
    namespace: Namespace,
}

impl Coordinator {
    /// Starts to build a coordinator on a store. Backends call this; so does whoever wraps a store in a decorator.
    pub fn builder(claims: Arc<dyn Claims>) -> CoordinatorBuilder {
        CoordinatorBuilder {
            stores: Stores { claims, values: None, jobs: None },
            namespace: Namespace::default(),
            owner: None,
            clock: Clock::System,
            call_timeout: Duration::from_secs(12),
            mutant: None,
        }
    }

    /// The same client seeing the names of another namespace.
    #[must_use]
    pub fn with_namespace(&self, namespace: Namespace) -> Self {
        Self { engine: self.engine.clone(), namespace }
    }

    /// The namespace of this handle.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Who this client is in the eyes of others, where an operation's options do not say: host and process id.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.engine.owner
    }

    /// What the backend promises.
    #[must_use]
    pub fn guarantees(&self) -> &Guarantees {
        &self.engine.guarantees
    }

    /// Refuses new work, tells those who wait that it is closed, waits until released and dropped claims are
    /// withdrawn, and closes the store. Guards that are still held turn lost when their lease ends, as they are renewed
    /// no more. Other clones are shut down too.
    ///
    /// A process that ends without it leaves the claims of its last dropped guards to their leases.
    ///
    /// # Cancel safety
    /// Dropped halfway, the coordinator stays shut; withdrawals go on while the runtime does.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if the store did not answer within the call timeout.
    pub async fn shutdown(&self) -> Result<()> {
        self.engine.shutdown().await
    }

    pub(crate) fn line_id(&self, kind: Kind, name: &Name) -> LineId {
        LineId { namespace: self.namespace.clone(), kind, name: name.clone() }
    }

    /// A claim whose inputs are validated.
    pub(crate) fn claim(&self, line: LineId, request: Request) -> Result<Claim> {
        let owner = request.owner.unwrap_or_else(|| self.engine.owner.clone());
        limits::owner("an owner", &owner)?;
        limits::value(&request.value)?;
        Ok(Claim {
            line,
            id: ClaimId::random(),
            weight: request.weight,
            limit: request.limit,
            ttl: self.engine.check_ttl(request.ttl)?,
            priority: request.priority,
            wait: request.wait != Some(Duration::ZERO),
            owner,
            value: request.value,
        })
    }
}

/// What a recipe asks for, before validation.
pub(crate) struct Request {
    pub(crate) weight: u32,
    pub(crate) limit: u32,
    pub(crate) ttl: Duration,
    pub(crate) wait: Option<Duration>,
    pub(crate) priority: i32,
    pub(crate) owner: Option<String>,
    pub(crate) value: Vec<u8>,
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator")
            .field("backend", &self.engine.guarantees.backend)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// Builds a [`Coordinator`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it builds"]
pub struct CoordinatorBuilder {
    stores: Stores,
    namespace: Namespace,
    owner: Option<String>,
    clock: Clock,
    call_timeout: Duration,
    mutant: Option<Mutant>,
}

impl CoordinatorBuilder {
    /// With a store of values: configuration and fenced storage.
    pub fn values(mut self, values: Arc<dyn Values>) -> Self {
        self.stores.values = Some(values);
        self
    }

    /// With a store of jobs: queues.
    pub fn jobs(mut self, jobs: Arc<dyn Jobs>) -> Self {
        self.stores.jobs = Some(jobs);
        self
    }

    /// Keeps names apart from those of other namespaces in the same store.
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = namespace;
        self
    }

    /// Who this client is in the eyes of others. The default is the host's name and the process id.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// The clock on which guards judge their validity. It must count at the rate of the store's clock;
    /// [`Clock::Tokio`] is for stores that live under a paused clock too.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// How long one call to the store may take before the caller is told that the store is silent. Default: 12 s.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Plants a bug.
    #[cfg(feature = "mutants")]
    #[doc(hidden)]
    pub fn mutant(mut self, mutant: Mutant) -> Self {
        self.mutant = Some(mutant);
        self
    }

    /// The coordinator.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOptions`](crate::ErrorKind::InvalidOptions) or
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) for an owner that is empty or too long.
    pub fn build(self) -> Result<Coordinator> {
        let owner = self.owner.unwrap_or_else(default_owner);
        limits::owner("an owner", &owner)?;
        let engine = Engine::new(self.stores, self.clock, owner, self.call_timeout, self.mutant);
        Ok(Coordinator { engine, namespace: self.namespace })
    }
}

fn default_owner() -> String {
    #[cfg(unix)]
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    let host = std::env::var("COMPUTERNAME").unwrap_or_default();
    let host: String = host.chars().filter(|c| !c.is_control()).take(60).collect();
    format!("{}:{}", if host.is_empty() { "localhost" } else { &host }, std::process::id())
}
