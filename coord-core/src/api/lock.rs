//! Exclusive locks.

use std::time::Duration;

use async_trait::async_trait;

use super::{Detached, Guard, GuardSet};
use crate::{
    Coordinator, Error, ErrorKind, Name, Result,
    coordinator::Request,
    engine::{attempt, trace::traced},
    limits,
    spi::{ALL, Grant, Kind, LineId},
};

/// Exclusive locks that expire with their holder and give out fencing tokens, first in, first out.
///
/// A lock of a name and the read-write lock of the same name exclude each other: [`Lock::acquire`] is
/// [`RwLock::write`](crate::RwLock::write).
///
/// Locks are not reentrant: a second `acquire` of the same name by the same process waits like any other.
#[async_trait]
pub trait Lock: Send + Sync {
    /// Acquires the lock if it is free and nobody waits for it; one round trip. [`LockOptions::wait`] is ignored.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped at any point, it leaves no claim behind.
    ///
    /// # Errors
    /// [`ErrorKind::NotGranted`] if somebody holds it or waits for it; the kinds of bad options; what the store says.
    async fn try_acquire(&self, name: &Name, options: &LockOptions) -> Result<Guard>;

    /// Acquires the lock, waiting in line for as long as [`LockOptions::wait`] says.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped at any point, it leaves the line and no claim behind, but loses its place.
    ///
    /// # Errors
    /// [`ErrorKind::NotGranted`] when the wait is over; [`ErrorKind::Unavailable`] when the store is away for longer
    /// than the claim lives; the kinds of bad options.
    ///
    /// ```
    /// # use coord_core::{prelude::*, memory};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), coord_core::Error> {
    /// let coordinator = memory::Store::new().client();
    /// let guard = coordinator.acquire(&Name::new("report")?, &LockOptions::default()).await?;
    /// println!("write with token {}", guard.token());
    /// guard.release().await?;
    /// # Ok(()) }
    /// ```
    async fn acquire(&self, name: &Name, options: &LockOptions) -> Result<Guard>;

    /// Acquires several locks: all or none. They are taken in the order of their names, whatever the order given, so
    /// that two callers with overlapping sets never wait for each other; [`LockOptions::wait`] is one deadline for
    /// all. A name given twice counts once.
    ///
    /// # Cancel safety
    /// Cancel safe, like [`Lock::acquire`].
    ///
    /// # Errors
    /// As [`Lock::acquire`], and [`ErrorKind::InvalidOptions`] without any name.
    async fn lock_all(&self, names: &[Name], options: &LockOptions) -> Result<GuardSet>;

    /// Takes over a lock, a permit or a shared lock that [`Guard::detach`] left, here or in another process, with the
    /// same token. Of several callers exactly one succeeds.
    ///
    /// # Cancel safety
    /// Dropped halfway, the lock is released, or still there to be resumed.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`] if its lease ended or it was resumed before; [`ErrorKind::InvalidOptions`] if it is of
    /// another namespace; [`ErrorKind::Unsupported`].
    async fn resume(&self, detached: &Detached) -> Result<Guard>;
}

/// How to acquire. The default waits for ever, with a TTL of [`limits::DEFAULT_TTL`] that is renewed automatically.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LockOptions {
    /// How long a crashed holder blocks the next one. Whole milliseconds, rounded up.
    pub ttl: Duration,
    /// How long to wait; `None` for ever; zero not at all.
    pub wait: Option<Duration>,
    /// Shown to others by `inspect`.
    pub value: Vec<u8>,
    /// Who asks, for people; `None` for the coordinator's own.
    pub owner: Option<String>,
    /// Whether the lease is renewed in the background. Without, it is a plain lease that ends after the TTL unless
    /// [`Guard::extend`] prolongs it.
    pub renew: bool,
}

impl Default for LockOptions {
    fn default() -> Self {
        Self { ttl: limits::DEFAULT_TTL, wait: None, value: Vec::new(), owner: None, renew: true }
    }
}

impl LockOptions {
    /// With this TTL.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Waiting for at most this long.
    #[must_use]
    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// With a value that others see.
    #[must_use]
    pub fn with_value(mut self, value: impl Into<Vec<u8>>) -> Self {
        self.value = value.into();
        self
    }

    /// With this owner text.
    #[must_use]
    pub fn with_owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// As a plain lease, not renewed.
    #[must_use]
    pub fn without_renewal(mut self) -> Self {
        self.renew = false;
        self
    }

    pub(crate) fn request(&self, weight: u32, limit: u32) -> Request {
        Request {
            weight,
            limit,
            ttl: self.ttl,
            wait: self.wait,
            priority: 0,
            owner: self.owner.clone(),
            value: self.value.clone(),
        }
    }

    pub(crate) fn at_once(&self) -> Self {
        self.clone().with_wait(Duration::ZERO)
    }
}

impl Coordinator {
    /// The way of all recipes that end in a [`Guard`].
    pub(crate) async fn guard(
        &self,
        operation: &'static str,
        line: LineId,
        weight: u32,
        limit: u32,
        options: &LockOptions,
    ) -> Result<Guard> {
        let span_line = line.clone();
        traced(operation, &span_line, async {
            let claim = self.claim(line, options.request(weight, limit))?;
            attempt::acquire(&self.engine, claim, options.wait, options.renew).await.map(Guard::new)
        })
        .await
    }
}

#[async_trait]
impl Lock for Coordinator {
    async fn try_acquire(&self, name: &Name, options: &LockOptions) -> Result<Guard> {
        let line = self.line_id(Kind::Lock, name);
        self.guard("lock.try_acquire", line, ALL, ALL, &options.at_once()).await
    }

    async fn acquire(&self, name: &Name, options: &LockOptions) -> Result<Guard> {
        self.guard("lock.acquire", self.line_id(Kind::Lock, name), ALL, ALL, options).await
    }

    async fn lock_all(&self, names: &[Name], options: &LockOptions) -> Result<GuardSet> {
        if names.is_empty() {
            return Err(Error::new(ErrorKind::InvalidOptions, "lock_all needs at least one name"));
        }
        let mut names = names.to_vec();
        names.sort();
        names.dedup();
        let start = self.engine.clock.now();
        let mut guards = Vec::with_capacity(names.len());
        for name in names {
            let mut options = options.clone();
            if let Some(wait) = &mut options.wait {
                *wait = wait.saturating_sub(self.engine.clock.now().since(start));
            }
            guards.push(self.acquire(&name, &options).await?);
        }
        let set = GuardSet::new(guards);
        set.check()?;
        Ok(set)
    }

    async fn resume(&self, detached: &Detached) -> Result<Guard> {
        let grant = detached.grant();
        let features = self.engine.guarantees.features;
        self.engine.guarantees.check(features.resume, &"that a lock can be resumed")?;
        if grant.line.namespace != *self.namespace() {
            return Err(Error::new(
                ErrorKind::InvalidOptions,
                format!("this lock was detached in the namespace {:?}", grant.line.namespace.as_str()),
            ));
        }
        traced("lock.resume", &grant.line, async {
            let ttl = self.engine.check_ttl(grant.ttl)?;
            let grant = Grant { ttl, ..grant.clone() };
            attempt::resume(&self.engine, grant, detached.renews()).await.map(Guard::new)
        })
        .await
    }
}
