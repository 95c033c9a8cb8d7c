//! A client of the server: its connections, and how a step is asked for.

use std::{fmt, sync::Arc, time::Duration};

use coord_core::{
    Error, ErrorKind, Result,
    clock::{Clock, Moment},
};
use sqlx::{
    postgres::{PgArguments, PgPool, PgPoolOptions, PgRow},
    query::Query,
};
use tokio::{task::AbortHandle, time::timeout};

use super::{
    config::PostgresConfig,
    error::{from_sqlx, is_conflict, is_of_the_statement},
    listener,
    pool::Pool,
    schema,
};
use crate::wakeups::Hub;

/// A statement with its arguments.
pub(super) type Step = Query<'static, sqlx::Postgres, PgArguments>;

/// A store on a Postgres server; one client of it.
///
/// Made by [`Postgres::open`](crate::Postgres::open). Users need it only to wrap it; [`connect`](crate::connect) gives the
/// [`Coordinator`](coord_core::Coordinator).
pub struct PostgresStore {
    pub(super) shared: Arc<Shared>,
    tasks: [AbortHandle; 2],
}

/// What the store and its background tasks use together.
pub(super) struct Shared {
    pool: Pool,
    pub(super) listening: PgPool,
    pub(super) client: [u8; 16],
    pub(super) hub: Arc<Hub>,
    pub(super) place: String,
    pub(super) timeout: Duration,
}

impl PostgresStore {
    pub(super) async fn start(config: PostgresConfig) -> Result<Arc<Self>> {
        let place = config.place();
        let late = |_| {
            let advice = "it does not answer; is the server running and reachable?";
            Error::new(ErrorKind::Unavailable, format!("the database {place}: {advice}"))
        };
        timeout(PostgresConfig::MAX_TIMEOUT, schema::prepare(&config)).await.map_err(late)??;
        // The server gives up before we do, so that a step that is late was undone, where the server still lives.
        let patience = format!("{}ms", config.timeout.as_millis());
        let options =
            config.options.clone().options([("statement_timeout", &patience), ("lock_timeout", &patience)]);
        // The driver's listener wants the driver's pool, and keeps its only connection.
        let listening = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(config.timeout)
            .test_before_acquire(false)
            .connect_lazy_with(options.clone());
        let pool = Pool::new(options, config.connections);
        let shared = Arc::new(Shared {
            pool,
            listening,
            client: *uuid::Uuid::new_v4().as_bytes(),
            hub: Arc::default(),
            place: place.clone(),
            timeout: config.timeout,
        });
        let started = timeout(PostgresConfig::MAX_TIMEOUT, listener::start(&shared));
        let tasks = started.await.map_err(late)??;
        Ok(Arc::new(Self { shared, tasks }))
    }

    pub(super) async fn end(&self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        if let Err(error) = listener::forget(&self.shared).await {
            tracing::debug!(%error, "watches were left behind");
        }
        // A server that does not answer must not keep us.
        let close = async { tokio::join!(self.shared.pool.close(), self.shared.listening.close()) };
        let _ = timeout(Duration::from_secs(1), close).await;
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("place", &self.shared.place).finish_non_exhaustive()
    }
}

impl Shared {
    /// Runs a step, again where the server undid it because of others, and gives its rows.
    pub(super) async fn ask(&self, step: impl Fn() -> Step + Send) -> Result<Vec<PgRow>> {
        let deadline = Clock::System.now().after(self.timeout);
        loop {
            match self.attempt(step(), deadline).await {
                Err(error) if is_conflict(&error) && deadline > Clock::System.now() => {
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(1..20))).await;
                }
                answer => return answer.map_err(|error| from_sqlx(&self.place, error)),
            }
        }
    }

    /// The first row of a step that has one.
    pub(super) async fn ask_one(&self, step: impl Fn() -> Step + Send) -> Result<PgRow> {
        let rows = self.ask(step).await?;
        rows.into_iter().next().ok_or_else(|| from_sqlx(&self.place, sqlx::Error::RowNotFound))
    }

    async fn attempt(&self, step: Step, deadline: Moment) -> sqlx::Result<Vec<PgRow>> {
        let left = || deadline.since(Clock::System.now());
        let acquired = timeout(left(), self.pool.acquire()).await;
        let mut borrowed = acquired.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        // Longer than the server's own patience, for its answer's way.
        let answer = timeout(left() + Duration::from_millis(500), step.fetch_all(&mut borrowed.connection));
        // A connection that is not given back is closed without a word: a server that does not answer would not hear it.
        match answer.await {
            Ok(Ok(rows)) => {
                borrowed.give_back();
                Ok(rows)
            }
            Ok(Err(error)) => {
                if is_of_the_statement(&error) {
                    borrowed.give_back();
                } else {
                    self.pool.clear();
                }
                Err(error)
            }
            Err(_) => {
                self.pool.clear();
                Err(sqlx::Error::Io(std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    "the server did not answer in time",
                )))
            }
        }
    }

    /// A cell of an answer.
    pub(super) fn cell<'r, T>(&self, row: &'r PgRow, column: usize) -> Result<T>
    where
        T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        use sqlx::Row;
        row.try_get(column).map_err(|error| from_sqlx(&self.place, error))
    }

    /// A cell that holds a number of a smaller type.
    pub(super) fn number<T: TryFrom<i64>>(&self, row: &PgRow, column: usize) -> Result<T> {
        let number: i64 = self.cell(row, column)?;
        T::try_from(number).map_err(|_| self.misread("a number is out of range"))
    }

    pub(super) fn misread(&self, what: &str) -> Error {
        Error::new(
            ErrorKind::Corrupt,
            format!("the database {}: its schema coord is damaged: {what}", self.place),
        )
    }
}
