//! High-water marks in the user's own database and transaction.

use std::path::Path;

use coord_core::{Error, ErrorKind, FencingToken, Result};
use sqlx::{Sqlite, Transaction};

use crate::error::from_sqlx;

/// Raises the mark of a resource to `token` in a transaction of yours, or fails because a greater token was there before.
///
/// Call it first in the transaction that reads or writes what the resource stands for, and end the transaction without a
/// commit if it fails, as `?` does. Then no write of a holder that lost its lock comes after one of its successor: SQLite
/// lets one transaction write at a time, Postgres one of those that fence the same resource, and each one checks the mark in
/// the same step. An equal token passes again.
///
/// The marks are in the table `coord_fences (resource, token)` of your database, which is made if it is missing. The database
/// may be any one, also the one that [`connect`](crate::connect) uses, and of either kind, whatever gave the token. The
/// transaction is of the version of `sqlx` that this crate depends on.
///
/// On SQLite begin with `BEGIN IMMEDIATE`, so that the transaction waits for others here and not at its first write.
///
/// On Postgres the row of the resource stays locked until the transaction ends, so transactions on one resource wait for each
/// other here, and those on others do not. At the default isolation level, `READ COMMITTED`, what is read after the fence is
/// what the one before has committed. At the stricter ones make the fence the first statement of all; one that had to wait
/// fails with [`ErrorKind::Unavailable`], and the transaction is to be begun again. A stale token ends the transaction at the
/// server: it gives its locks back at once, and cannot be committed any more. The table is made in the first schema of the
/// search path; for roles that may not make tables, make it for them:
/// `CREATE TABLE coord_fences (resource text PRIMARY KEY, token bigint NOT NULL)`, with the rights `SELECT`, `INSERT` and `UPDATE`.
///
/// ```
/// use coord_sql::{ErrorKind, prelude::*};
/// use sqlx::{Connection, SqliteConnection};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("coord.db");
/// let mut bank = SqliteConnection::connect("sqlite::memory:").await?;
/// sqlx::query("CREATE TABLE accounts (name TEXT PRIMARY KEY, balance INTEGER)").execute(&mut bank).await?;
/// sqlx::query("INSERT INTO accounts VALUES ('7', 100)").execute(&mut bank).await?;
///
/// let coordinator = coord_sql::connect(&path).await?;
/// let account = Name::new("account 7")?;
/// let guard = coordinator.acquire(&account, &LockOptions::default()).await?;
/// let token = guard.token();
///
/// let mut tx = bank.begin_with("BEGIN IMMEDIATE").await?;
/// coord_sql::fence(&mut tx, "account 7", token).await?;
/// sqlx::query("UPDATE accounts SET balance = balance + 10 WHERE name = '7'").execute(&mut *tx).await?;
/// tx.commit().await?;
///
/// // Another one gets the lock, however this came about, and uses the account.
/// guard.release().await?;
/// let guard = coordinator.acquire(&account, &LockOptions::default()).await?;
/// let mut tx = bank.begin_with("BEGIN IMMEDIATE").await?;
/// coord_sql::fence(&mut tx, "account 7", guard.token()).await?;
/// let balance: i64 =
///     sqlx::query_scalar("SELECT balance FROM accounts WHERE name = '7'").fetch_one(&mut *tx).await?;
/// assert_eq!(balance, 110);
/// tx.commit().await?;
///
/// // From then on the first one is late.
/// let mut tx = bank.begin_with("BEGIN IMMEDIATE").await?;
/// let error = coord_sql::fence(&mut tx, "account 7", token).await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Fenced);
/// tx.rollback().await?;
/// # Ok(()) }
/// ```
///
/// Who reads in one transaction and writes in a later one calls it in both: a mark that is raised before the first read
/// keeps out what a late writer would put between the two.
///
/// A connection without a transaction is not taken, since the check and what follows it would be two steps:
///
/// ```compile_fail,E0277
/// # async fn late(bank: &mut sqlx::SqliteConnection, token: coord_sql::FencingToken) -> coord_sql::Result<()> {
/// coord_sql::fence(bank, "account 7", token).await
/// # }
/// ```
///
/// # Cancel safety
/// Dropped halfway, the mark may or may not be raised in the transaction, which is to be rolled back then.
///
/// # Errors
/// [`ErrorKind::Fenced`], with both numbers; what the database says, [`ErrorKind::Unavailable`] if it is locked or others
/// changed the mark at the same time.
pub async fn fence(transaction: &mut impl Fence, resource: &str, token: FencingToken) -> Result<()> {
    let mark = transaction.raise(resource, token.as_i64()).await?;
    if mark > token.as_i64() {
        return Err(Error::new(
            ErrorKind::Fenced,
            format!(
                "{resource:?} refuses token {token}: it has seen {mark}, so the holder of {token} has lost the lock; roll \
                 the transaction back"
            ),
        ));
    }
    Ok(())
}

/// A transaction of `sqlx` in which a mark can be raised; see [`fence`]. Only this library implements it.
pub trait Fence: sealed::Raise {}

mod sealed {
    use coord_core::Result;

    pub trait Raise {
        /// Raises the mark, and gives it.
        fn raise(&mut self, resource: &str, token: i64) -> impl Future<Output = Result<i64>> + Send;
    }
}

impl Fence for Transaction<'_, Sqlite> {}

impl sealed::Raise for Transaction<'_, Sqlite> {
    async fn raise(&mut self, resource: &str, token: i64) -> Result<i64> {
        let failed = |error| from_sqlx(Path::new("of this transaction"), error);
        sqlx::query(
            "CREATE TABLE IF NOT EXISTS coord_fences (resource TEXT NOT NULL PRIMARY KEY, token INTEGER NOT NULL) \
             STRICT, WITHOUT ROWID",
        )
        .execute(&mut **self)
        .await
        .map_err(failed)?;
        // The mark is read and raised in one statement.
        let raised = sqlx::query_scalar(
            "INSERT INTO coord_fences (resource, token) VALUES ($1, $2) \
             ON CONFLICT (resource) DO UPDATE SET token = max(token, excluded.token) RETURNING token",
        );
        raised.bind(resource).bind(token).fetch_one(&mut **self).await.map_err(failed)
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use coord_core::Result;
    use sqlx::{Postgres, Transaction};

    use super::{Fence, sealed::Raise};
    use crate::postgres::of_fence;

    /// Serialises those who make the table. Any number; it is of this library alone.
    const LOCK: i64 = 0x636f_6f72_645f_666e;

    /// The mark in the message about a stale token. The words around it are in the server's language.
    fn seen(error: &sqlx::Error) -> Option<i64> {
        let error = error.as_database_error().filter(|error| error.code().as_deref() == Some("22P02"))?;
        let (_, mark) = error.message().split_once("coord_fences:")?;
        mark.split_once(':')?.0.parse().ok()
    }

    impl Fence for Transaction<'_, Postgres> {}

    impl Raise for Transaction<'_, Postgres> {
        async fn raise(&mut self, resource: &str, token: i64) -> Result<i64> {
            // Not `IF NOT EXISTS` alone: it asks for the right to make tables also where nothing is to be made, and two who
            // make the table at once make one of them fail.
            let there = sqlx::query_scalar("SELECT to_regclass('coord_fences') IS NOT NULL");
            if !there.fetch_one(&mut **self).await.map_err(of_fence)? {
                let lock = sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK);
                lock.execute(&mut **self).await.map_err(of_fence)?;
                sqlx::query(
                    "CREATE TABLE IF NOT EXISTS coord_fences (resource text PRIMARY KEY, token bigint NOT NULL)",
                )
                .execute(&mut **self)
                .await
                .map_err(of_fence)?;
            }
            // One statement reads the mark, raises it, and locks the row until the transaction ends. A stale token makes it
            // fail at the server, by a cast that cannot succeed: so the lock is given back at once, also if the
            // transaction's end is sent only when its connection is used again, and there is nothing left to commit.
            let raised = sqlx::query_scalar(
                "INSERT INTO coord_fences AS known (resource, token) VALUES ($1, $2) \
                 ON CONFLICT (resource) DO UPDATE SET token = greatest(known.token, excluded.token) \
                 RETURNING CASE WHEN token > $2 THEN ('coord_fences:' || token || ':')::bigint ELSE token END",
            );
            match raised.bind(resource).bind(token).fetch_one(&mut **self).await {
                Err(error) => seen(&error).map_or_else(|| Err(of_fence(error)), Ok),
                Ok(mark) => Ok(mark),
            }
        }
    }
}
