//! The connections for statements. Not the driver's pool: that one asks the server for a word after each use, a second round
//! trip for each step.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use coord_core::clock::{Clock, Moment};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::sync::{Semaphore, SemaphorePermit};

/// A connection that was idle for so long is not used again: a firewall may have forgotten it without a word.
const IDLE: Duration = Duration::from_secs(240);

pub(super) struct Pool {
    options: PgConnectOptions,
    permits: Semaphore,
    /// The one that was used last is used next.
    idle: Mutex<Vec<(PgConnection, Moment)>>,
}

/// A connection in use. Dropped, it is closed: nobody knows what is under way on it.
pub(super) struct Borrowed<'a> {
    pub(super) connection: PgConnection,
    pool: &'a Pool,
    _permit: SemaphorePermit<'a>,
}

impl Pool {
    pub(super) fn new(options: PgConnectOptions, connections: u32) -> Self {
        let permits = Semaphore::new(usize::try_from(connections).unwrap_or(Semaphore::MAX_PERMITS));
        Self { options, permits, idle: Mutex::default() }
    }

    /// A connection, after those who came before.
    pub(super) async fn acquire(&self) -> sqlx::Result<Borrowed<'_>> {
        let permit = self.permits.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
        let connection = match self.idle() {
            Some(connection) => connection,
            None => PgConnection::connect_with(&self.options).await?,
        };
        Ok(Borrowed { connection, pool: self, _permit: permit })
    }

    /// Closes all that are idle: after one was found broken the others most likely are too.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// Gives no more, and tells the server that those that are idle end.
    pub(super) async fn close(&self) {
        self.permits.close();
        let idle = std::mem::take(&mut *self.lock());
        for (connection, _) in idle {
            let _ = connection.close().await;
        }
    }

    fn idle(&self) -> Option<PgConnection> {
        let mut idle = self.lock();
        let now = Clock::System.now();
        idle.retain(|(_, since)| now.since(*since) < IDLE);
        idle.pop().map(|(connection, _)| connection)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(PgConnection, Moment)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Borrowed<'_> {
    /// Nothing is under way on it: others may use it.
    pub(super) fn give_back(self) {
        if !self.pool.permits.is_closed() {
            self.pool.lock().push((self.connection, Clock::System.now()));
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The options hold the password.
        f.debug_struct("Pool").field("idle", &self.lock().len()).finish_non_exhaustive()
    }
}
