//! Semaphores.

use async_trait::async_trait;

use super::{Guard, LockOptions};
use crate::{Coordinator, Error, ErrorKind, Name, Result, limits, spi::Kind};

/// Permits: up to `of` are out at a time. First in, first out, also for different numbers of permits: one who waits for
/// many is not overtaken by others who want few.
///
/// All clients of a semaphore should agree on `of`. If they do not, each is granted only while all permits ahead of it
/// and its own fit its own number.
///
/// # Cancel safety
/// Both methods are cancel safe, like [`Lock::acquire`](crate::Lock::acquire).
///
/// # Errors
/// As [`Lock::acquire`](crate::Lock::acquire); [`ErrorKind::InvalidOptions`] unless
/// `1 <= permits <= of <= `[`limits::MAX_PERMITS`]; [`ErrorKind::Unsupported`].
#[async_trait]
pub trait Semaphore: Send + Sync {
    /// Acquires `permits` of the `of` permits of the name.
    async fn acquire_permits(
        &self,
        name: &Name,
        permits: u32,
        of: u32,
        options: &LockOptions,
    ) -> Result<Guard>;

    /// Acquires `permits` of the `of` permits of the name, if so many are free and nobody waits.
    async fn try_acquire_permits(
        &self,
        name: &Name,
        permits: u32,
        of: u32,
        options: &LockOptions,
    ) -> Result<Guard>;
}

#[async_trait]
impl Semaphore for Coordinator {
    async fn acquire_permits(
        &self,
        name: &Name,
        permits: u32,
        of: u32,
        options: &LockOptions,
    ) -> Result<Guard> {
        self.engine.guarantees.check(self.engine.guarantees.features.shared, &"semaphores")?;
        if permits == 0 || permits > of || of > limits::MAX_PERMITS {
            return Err(Error::new(
                ErrorKind::InvalidOptions,
                format!(
                    "{permits} permits of {of}: there must be 1 <= permits <= of <= {}",
                    limits::MAX_PERMITS
                ),
            ));
        }
        self.guard("semaphore.acquire", self.line_id(Kind::Semaphore, name), permits, of, options).await
    }

    async fn try_acquire_permits(
        &self,
        name: &Name,
        permits: u32,
        of: u32,
        options: &LockOptions,
    ) -> Result<Guard> {
        self.acquire_permits(name, permits, of, &options.at_once()).await
    }
}
