//! The README's example: a lock, and a resource that checks its token.

use coord_sql::prelude::*;
use sqlx::SqlitePool;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let coordinator = coord_sql::connect("sqlite:coord.db").await?;
    let bank = SqlitePool::connect("sqlite:bank.db?mode=rwc").await?;
    let table = "CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INTEGER, token INTEGER)";
    sqlx::query(table).execute(&bank).await?;
    sqlx::query("INSERT INTO account VALUES (7, 100, 0) ON CONFLICT DO NOTHING").execute(&bank).await?;

    let lock = coordinator.acquire(&Name::new("account/7")?, &LockOptions::default()).await?;
    // Check and write in one statement: it changes nothing once a later holder has written.
    let pay_in = "UPDATE account SET balance = balance + 50, token = $1 WHERE id = 7 AND token <= $1";
    let written = sqlx::query(pay_in).bind(lock.token().as_i64()).execute(&bank).await?;
    if written.rows_affected() == 0 {
        return Err("the lock was lost, and a later holder has written".into());
    }
    println!("paid in 50 with token {}", lock.token());
    lock.release().await?;
    Ok(coordinator.shutdown().await?)
}
