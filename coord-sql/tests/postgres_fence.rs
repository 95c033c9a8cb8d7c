//! The fence in the user's own Postgres transaction: two writers, one of them stale.

use coord_conformance::servers::{self, PostgresOptions};
use coord_core::{ErrorKind, FencingToken, Result, spi::Claims};
use coord_sql::fence;
use sqlx::{Connection, PgConnection};

use crate::common::{
    claim, granted, line,
    server::{open, server, shown},
};

const RESOURCE: &str = "account 7";

fn token(number: u64) -> FencingToken {
    FencingToken::new(number).unwrap()
}

async fn bank(server: &servers::Postgres) -> PgConnection {
    let mut connection = PgConnection::connect(&server.url()).await.unwrap();
    let statement = "CREATE TABLE IF NOT EXISTS accounts (name text PRIMARY KEY, balance bigint)";
    sqlx::query(statement).execute(&mut connection).await.unwrap();
    connection
}

/// What a holder does with its token: it reads the balance and writes a new one.
async fn deposit(connection: &mut PgConnection, amount: i64, token: FencingToken) -> Result<i64> {
    let mut transaction = connection.begin().await.unwrap();
    fence(&mut transaction, RESOURCE, token).await?;
    let statement = "INSERT INTO accounts AS a VALUES ('7', $1) \
                     ON CONFLICT (name) DO UPDATE SET balance = a.balance + excluded.balance RETURNING balance";
    let balance = sqlx::query_scalar(statement).bind(amount).fetch_one(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    Ok(balance)
}

#[tokio::test]
async fn of_two_writers_the_stale_one_fails() {
    let Some(server) = server(PostgresOptions::default()) else { return };
    let store = open(&server).await;
    let line = line(RESOURCE);
    let (first, second) = (claim(&line), claim(&line));
    let stale = granted(store.claim(&first).await.unwrap()).token;
    let (mut of_stale, mut of_live) = (bank(&server).await, bank(&server).await);
    assert_eq!(deposit(&mut of_stale, 100, stale).await.unwrap(), 100);
    assert_eq!(deposit(&mut of_stale, 10, stale).await.unwrap(), 110, "an equal token writes again");

    // The holder is taken for dead, and wakes up after its successor has written.
    store.withdraw(&line, first.id).await.unwrap();
    let live = granted(store.claim(&second).await.unwrap()).token;
    assert_eq!(deposit(&mut of_live, 1, live).await.unwrap(), 111);
    let error = deposit(&mut of_stale, 1_000, stale).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    let text = error.to_string();
    assert!(text.contains(&stale.to_string()) && text.contains(&live.to_string()), "{text}");
    assert_eq!(deposit(&mut of_live, 1, live).await.unwrap(), 112, "the stale one wrote nothing");
}

#[tokio::test]
async fn the_stale_one_waits_for_the_live_one_and_then_fails() {
    let Some(server) = server(PostgresOptions::default()) else { return };
    let (mut of_stale, mut of_live) = (bank(&server).await, bank(&server).await);
    deposit(&mut of_stale, 100, token(5)).await.unwrap();
    let mut live = of_live.begin().await.unwrap();
    fence(&mut live, RESOURCE, token(9)).await.unwrap();
    let stale = tokio::spawn(async move { deposit(&mut of_stale, 1_000, token(5)).await });
    // It stands behind the row's lock, as the server says.
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    while server.query(waits).unwrap() == "0" {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let balance = "UPDATE accounts SET balance = balance + 1 RETURNING balance";
    let balance: i64 = sqlx::query_scalar(balance).fetch_one(&mut *live).await.unwrap();
    assert_eq!(balance, 101);
    live.commit().await.unwrap();
    assert_eq!(stale.await.unwrap().unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(server.query("SELECT balance FROM accounts").unwrap(), "101");
}

#[tokio::test]
async fn a_stale_transaction_cannot_be_committed_and_keeps_nobody_waiting() {
    let Some(server) = server(PostgresOptions::default()) else { return };
    let (mut of_stale, mut of_live) = (bank(&server).await, bank(&server).await);
    deposit(&mut of_live, 100, token(9)).await.unwrap();
    let mut stale = of_stale.begin().await.unwrap();
    assert_eq!(fence(&mut stale, RESOURCE, token(5)).await.unwrap_err().kind(), ErrorKind::Fenced);
    // It goes on as if nothing had happened; its transaction is still open, and locks nothing.
    assert_eq!(deposit(&mut of_live, 1, token(9)).await.unwrap(), 101);
    let written = sqlx::query("UPDATE accounts SET balance = 5").execute(&mut *stale).await;
    assert!(written.is_err(), "{written:?}");
    let _ = stale.commit().await;
    assert_eq!(server.query("SELECT balance FROM accounts").unwrap(), "101");
}

#[tokio::test]
async fn without_the_fence_the_stale_one_writes() {
    let Some(server) = server(PostgresOptions::default()) else { return };
    let (mut of_stale, mut of_live) = (bank(&server).await, bank(&server).await);
    deposit(&mut of_live, 100, token(9)).await.unwrap();
    let statement = "UPDATE accounts SET balance = 5";
    sqlx::query(statement).execute(&mut of_stale).await.unwrap();
    assert_eq!(
        server.query("SELECT balance FROM accounts").unwrap(),
        "5",
        "the control: nothing else keeps it out"
    );
}

/// In a transaction of its own.
async fn alone(connection: &mut PgConnection, resource: &str, token: FencingToken) -> Result<()> {
    let mut transaction = connection.begin().await.unwrap();
    fence(&mut transaction, resource, token).await?;
    transaction.commit().await.unwrap();
    Ok(())
}

#[tokio::test]
async fn a_transaction_that_is_undone_raises_no_mark_and_resources_are_apart() {
    let Some(server) = server(PostgresOptions::default()) else { return };
    let mut connection = bank(&server).await;
    let mut transaction = connection.begin().await.unwrap();
    fence(&mut transaction, "a", token(9)).await.unwrap();
    transaction.rollback().await.unwrap();
    alone(&mut connection, "a", token(5)).await.unwrap();
    alone(&mut connection, "b", token(1)).await.unwrap();
    assert_eq!(alone(&mut connection, "a", token(4)).await.unwrap_err().kind(), ErrorKind::Fenced);
}

#[tokio::test]
async fn many_first_fences_at_once_make_one_table() {
    let Some(server) = server(PostgresOptions::default()) else { return };
    let writers = (1..=8).map(|number| {
        let url = server.url();
        tokio::spawn(async move {
            let mut connection = PgConnection::connect(&url).await.unwrap();
            let mut transaction = connection.begin().await.unwrap();
            fence(&mut transaction, &format!("resource {number}"), token(number)).await.unwrap();
            transaction.commit().await.unwrap();
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(server.query("SELECT count(*) FROM coord_fences").unwrap(), "8");
}

#[tokio::test]
async fn a_strict_transaction_that_had_to_wait_is_begun_again() {
    let Some(server) = server(PostgresOptions::default()) else { return };
    let (mut one, mut other) = (bank(&server).await, bank(&server).await);
    deposit(&mut one, 1, token(1)).await.unwrap();
    let mut strict = other.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    sqlx::query("SELECT balance FROM accounts").fetch_one(&mut *strict).await.unwrap();
    deposit(&mut one, 1, token(1)).await.unwrap();
    let error = fence(&mut strict, RESOURCE, token(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "what it has read is old: {error}");
    let error = fence(&mut strict, RESOURCE, token(2)).await.unwrap_err();
    assert!(error.to_string().contains("roll the transaction back"), "{error}");
    strict.rollback().await.unwrap();
    assert_eq!(deposit(&mut other, 1, token(2)).await.unwrap(), 3);
}

#[tokio::test]
async fn a_role_without_the_right_to_make_tables_uses_the_one_that_is_there() {
    let Some(server) = server(PostgresOptions::default().with_role("app", "hunter2")) else { return };
    let mut connection = PgConnection::connect(&server.url_as("app", "hunter2")).await.unwrap();
    let error = alone(&mut connection, "a", token(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission);
    assert!(error.to_string().contains("coord_fences") && !shown(&error).contains("hunter2"), "{error}");
    // As the documentation says.
    server
        .query(
            "CREATE TABLE coord_fences (resource text PRIMARY KEY, token bigint NOT NULL); \
             GRANT SELECT, INSERT, UPDATE ON coord_fences TO app",
        )
        .unwrap();
    alone(&mut connection, "a", token(2)).await.unwrap();
    assert_eq!(alone(&mut connection, "a", token(1)).await.unwrap_err().kind(), ErrorKind::Fenced);
}
