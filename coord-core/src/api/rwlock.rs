//! Shared and exclusive locks.

use async_trait::async_trait;

use super::{Guard, LockOptions};
use crate::{
    Coordinator, Name, Result,
    spi::{ALL, Kind},
};

/// Locks with many readers or one writer, first in, first out: a reader that comes after a waiting writer waits for it,
/// so that neither side starves.
///
/// Every reader has a token too. A writer's token is greater than those of all readers before it.
///
/// # Cancel safety
/// All four methods are cancel safe, like [`Lock::acquire`](crate::Lock::acquire).
///
/// # Errors
/// As [`Lock::acquire`](crate::Lock::acquire), and [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for
/// readers where the backend does not promise shared locks.
#[async_trait]
pub trait RwLock: Send + Sync {
    /// Acquires the lock together with other readers.
    async fn read(&self, name: &Name, options: &LockOptions) -> Result<Guard>;

    /// Acquires the lock together with other readers, if no writer holds it or waits for it.
    async fn try_read(&self, name: &Name, options: &LockOptions) -> Result<Guard>;

    /// Acquires the lock alone.
    async fn write(&self, name: &Name, options: &LockOptions) -> Result<Guard>;

    /// Acquires the lock alone, if nobody holds it or waits for it.
    async fn try_write(&self, name: &Name, options: &LockOptions) -> Result<Guard>;
}

#[async_trait]
impl RwLock for Coordinator {
    async fn read(&self, name: &Name, options: &LockOptions) -> Result<Guard> {
        self.engine.guarantees.check(self.engine.guarantees.features.shared, &"shared locks")?;
        self.guard("rwlock.read", self.line_id(Kind::Lock, name), 1, ALL, options).await
    }

    async fn try_read(&self, name: &Name, options: &LockOptions) -> Result<Guard> {
        self.read(name, &options.at_once()).await
    }

    async fn write(&self, name: &Name, options: &LockOptions) -> Result<Guard> {
        self.guard("rwlock.write", self.line_id(Kind::Lock, name), ALL, ALL, options).await
    }

    async fn try_write(&self, name: &Name, options: &LockOptions) -> Result<Guard> {
        self.write(name, &options.at_once()).await
    }
}
