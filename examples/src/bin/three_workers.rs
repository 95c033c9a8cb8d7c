//! Three processes share a counter: nobody's turn is lost, and the tokens tell the order of the turns.

use std::{process::Child, time::Duration};

use coord_core::prelude::*;
use coord_examples::{Result, Stage};
use sqlx::SqlitePool;
use tokio::time::sleep;

const WORKERS: usize = 3;
const TURNS: usize = 4;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let stage = Stage::from_args(&[])?;
    let database = stage.resource().await?;
    if let Some(worker) = stage.role() {
        return work(&stage, &database, &worker).await;
    }
    let counter = "CREATE TABLE counter (id INTEGER PRIMARY KEY, value INTEGER, token INTEGER)";
    sqlx::query(counter).execute(&database).await?;
    sqlx::query("INSERT INTO counter VALUES (1, 0, 0)").execute(&database).await?;
    let turns = "CREATE TABLE turns (number INTEGER PRIMARY KEY, worker TEXT, token INTEGER UNIQUE)";
    sqlx::query(turns).execute(&database).await?;

    println!("{WORKERS} processes, {TURNS} turns each");
    let started = (1..=WORKERS).map(|number| Ok(stage.another(&number.to_string())?.spawn()?));
    let workers = started.collect::<Result<Vec<Child>>>()?;
    for mut worker in workers {
        assert!(worker.wait()?.success(), "a worker failed");
    }

    let turns: Vec<(String, i64)> =
        sqlx::query_as("SELECT worker, token FROM turns ORDER BY number").fetch_all(&database).await?;
    for number in 1..=WORKERS {
        let taken = turns.iter().filter(|(worker, _)| *worker == number.to_string()).count();
        assert_eq!(taken, TURNS);
        println!("process {number} took {taken} turns");
    }
    let value: i64 = sqlx::query_scalar("SELECT value FROM counter").fetch_one(&database).await?;
    assert_eq!(value, i64::try_from(WORKERS * TURNS)?, "a turn was lost");
    assert!(turns.is_sorted_by(|(_, one), (_, next)| one < next), "tokens went backwards: {turns:?}");
    println!("the counter says {value}, and every turn had a greater token than the one before");
    Ok(())
}

async fn work(stage: &Stage, database: &SqlitePool, worker: &str) -> Result<()> {
    let client = stage.client().await?;
    let name = Name::new("counter")?;
    let options =
        LockOptions::default().with_ttl(Duration::from_secs(5)).with_owner(format!("worker {worker}"));
    for _ in 0..TURNS {
        let guard = client.acquire(&name, &options).await?;
        let token = guard.token().as_i64();
        let value: i64 = sqlx::query_scalar("SELECT value FROM counter").fetch_one(database).await?;
        // Long enough that two workers at once would read the same value.
        sleep(Duration::from_millis(20)).await;
        let mut transaction = database.begin().await?;
        let update = "UPDATE counter SET value = $1, token = $2 WHERE id = 1 AND token <= $2";
        let written = sqlx::query(update).bind(value + 1).bind(token).execute(&mut *transaction).await?;
        assert_eq!(written.rows_affected(), 1, "fenced out");
        let turn = "INSERT INTO turns VALUES ($1, $2, $3)";
        sqlx::query(turn).bind(value + 1).bind(worker).bind(token).execute(&mut *transaction).await?;
        transaction.commit().await?;
        guard.release().await?;
    }
    client.shutdown().await?;
    Ok(())
}
