//! The README's example: a lock, and a resource that checks its token.

use coord_sql::prelude::*;
use sqlx::SqlitePool;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let coordinator = coord_sql::connect("sqlite:coord.db").await?;
    let bank = SqlitePool::connect("sqlite:bank.db?mode=rwc").await?;
    let table = "CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INTEGER)";
    sqlx::query(table).execute(&bank).await?;
    sqlx::query("INSERT INTO account VALUES (7, 100) ON CONFLICT DO NOTHING").execute(&bank).await?;

    let lock = coordinator.acquire(&Name::new("account/7")?, &LockOptions::default()).await?;
    let mut transaction = bank.begin_with("BEGIN IMMEDIATE").await?;
    // Fails once a later holder was here: then nothing of this transaction is done.
    coord_sql::fence(&mut transaction, "account/7", lock.token()).await?;
    let pay_in = "UPDATE account SET balance = balance + 50 WHERE id = 7";
    sqlx::query(pay_in).execute(&mut *transaction).await?;
    transaction.commit().await?;
    println!("paid in 50 with token {}", lock.token());
    lock.release().await?;
    Ok(coordinator.shutdown().await?)
}
