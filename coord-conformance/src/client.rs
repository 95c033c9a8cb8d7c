//! A client whose grants are recorded.

use std::{ops::Deref, time::Duration};

use coord_core::{
    CampaignOptions, Coordinator, Election, Guard, Leadership, Lock, LockOptions, Name, Result, RwLock,
    Semaphore, spi::Kind,
};
use tokio::task::JoinHandle;

use crate::history::{Ask, Attempt, Held, Recorder, object};

/// A coordinator with a name of its own, whose grants can be recorded in the case's history.
#[derive(Debug, Clone)]
pub struct Client {
    coordinator: Coordinator,
    recorder: Recorder,
}

impl Deref for Client {
    type Target = Coordinator;

    fn deref(&self) -> &Coordinator {
        &self.coordinator
    }
}

/// A grant that is waited for beside the case.
pub(crate) type Later<T> = JoinHandle<Result<T>>;

impl Client {
    pub(crate) fn new(coordinator: Coordinator, recorder: Recorder) -> Self {
        Self { coordinator, recorder }
    }

    /// What records for this client.
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// An attempt to be recorded.
    #[must_use]
    pub fn attempt(&self, kind: Kind, name: &Name, ask: Ask) -> Attempt {
        self.recorder.attempt(object(kind, name), ask)
    }

    /// Acquires a lock, recorded.
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    pub async fn lock(&self, name: &Name, options: &LockOptions) -> Result<Held<Guard>> {
        self.attempt(Kind::Lock, name, Ask::lock()).acquire(self.acquire(name, options)).await
    }

    /// Acquires a shared lock, recorded.
    ///
    /// # Errors
    /// As [`RwLock::read`].
    pub async fn share(&self, name: &Name, options: &LockOptions) -> Result<Held<Guard>> {
        self.attempt(Kind::Lock, name, Ask::reader()).acquire(self.read(name, options)).await
    }

    /// Acquires permits, recorded.
    ///
    /// # Errors
    /// As [`Semaphore::acquire_permits`].
    pub async fn permits(
        &self,
        name: &Name,
        permits: u32,
        of: u32,
        options: &LockOptions,
    ) -> Result<Held<Guard>> {
        let attempt = self.attempt(Kind::Semaphore, name, Ask::permits(permits, of));
        attempt.acquire(self.acquire_permits(name, permits, of, options)).await
    }

    /// Campaigns, recorded.
    ///
    /// # Errors
    /// As [`Election::campaign`].
    pub async fn lead(&self, name: &Name, options: &CampaignOptions) -> Result<Held<Leadership>> {
        let id = options.id.as_deref().unwrap_or(self.owner());
        let attempt = self.attempt(Kind::Election, name, Ask::candidate(id, options.priority));
        attempt.acquire(self.campaign(name, options)).await
    }

    /// [`Client::lock`] beside the case.
    pub(crate) fn lock_later(&self, name: &Name, options: &LockOptions) -> Later<Held<Guard>> {
        let (client, name, options) = (self.clone(), name.clone(), options.clone());
        tokio::spawn(async move { client.lock(&name, &options).await })
    }

    /// [`Client::share`] beside the case.
    pub(crate) fn share_later(&self, name: &Name, options: &LockOptions) -> Later<Held<Guard>> {
        let (client, name, options) = (self.clone(), name.clone(), options.clone());
        tokio::spawn(async move { client.share(&name, &options).await })
    }

    /// [`Client::permits`] beside the case.
    pub(crate) fn permits_later(
        &self,
        name: &Name,
        permits: u32,
        of: u32,
        options: &LockOptions,
    ) -> Later<Held<Guard>> {
        let (client, name, options) = (self.clone(), name.clone(), options.clone());
        tokio::spawn(async move { client.permits(&name, permits, of, &options).await })
    }

    /// [`Client::lead`] beside the case.
    pub(crate) fn lead_later(&self, name: &Name, options: &CampaignOptions) -> Later<Held<Leadership>> {
        let (client, name, options) = (self.clone(), name.clone(), options.clone());
        tokio::spawn(async move { client.lead(&name, &options).await })
    }
}

/// How often guards are asked whether they are held, in cases that record the answers.
pub(crate) const SAMPLE: Duration = Duration::from_millis(5);
