//! High-water marks in the user's own database and transaction.

use std::path::Path;

use coord_core::{Error, ErrorKind, FencingToken, Result};
use sqlx::{Row, Sqlite, Transaction};

use crate::error::from_sqlx;

/// Raises the mark of a resource to `token` in a transaction of yours, or fails because a greater token was there before.
///
/// Call it first in the transaction that reads or writes what the resource stands for, and end the transaction without a
/// commit if it fails, as `?` does. Then no write of a holder that lost its lock comes after one of its successor: SQLite
/// lets one transaction write at a time, and each one checks the mark in the same step. An equal token passes again.
///
/// The marks are in the table `coord_fences (resource, token)` of your database, which is made if it is missing. The database
/// may be any one, also the file that [`connect`](crate::connect) uses. The transaction is of the version of `sqlx` that this
/// crate depends on. Begin with `BEGIN IMMEDIATE`, so that the transaction waits for others here and not at its first write.
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
/// ```compile_fail,E0308
/// # async fn late(bank: &mut sqlx::SqliteConnection, token: coord_sql::FencingToken) -> coord_sql::Result<()> {
/// coord_sql::fence(bank, "account 7", token).await
/// # }
/// ```
///
/// # Cancel safety
/// Dropped halfway, the mark may or may not be raised in the transaction, which is to be rolled back then.
///
/// # Errors
/// [`ErrorKind::Fenced`], with both numbers; what the database says, [`ErrorKind::Unavailable`] if it is locked.
pub async fn fence(
    transaction: &mut Transaction<'_, Sqlite>,
    resource: &str,
    token: FencingToken,
) -> Result<()> {
    let failed = |error| from_sqlx(Path::new("of this transaction"), error);
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS coord_fences (resource TEXT NOT NULL PRIMARY KEY, token INTEGER NOT NULL) \
         STRICT, WITHOUT ROWID",
    )
    .execute(&mut **transaction)
    .await
    .map_err(failed)?;
    // The mark is read and raised in one statement.
    let mark: i64 = sqlx::query(
        "INSERT INTO coord_fences (resource, token) VALUES ($1, $2) \
         ON CONFLICT (resource) DO UPDATE SET token = max(token, excluded.token) RETURNING token",
    )
    .bind(resource)
    .bind(token.as_i64())
    .fetch_one(&mut **transaction)
    .await
    .and_then(|row| row.try_get(0))
    .map_err(failed)?;
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
