//! The fence in the user's own transaction: two writers, one of them stale.

mod common;

use std::path::Path;

use common::{Place, claim, granted, line};
use coord_core::{ErrorKind, FencingToken, Result, spi::Claims};
use coord_sql::fence;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

async fn open(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let statement = "CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, balance INTEGER)";
    sqlx::query(statement).execute(&mut connection).await.unwrap();
    connection
}

/// What a holder does with its token: it reads the balance and writes a new one.
async fn deposit(connection: &mut SqliteConnection, amount: i64, token: FencingToken) -> Result<i64> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.unwrap();
    fence(&mut transaction, "account 7", token).await?;
    let statement = "INSERT INTO accounts VALUES ('7', $1) \
                     ON CONFLICT DO UPDATE SET balance = balance + excluded.balance RETURNING balance";
    let balance = sqlx::query_scalar(statement).bind(amount).fetch_one(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    Ok(balance)
}

#[tokio::test]
async fn of_two_writers_the_stale_one_fails() {
    let place = Place::new();
    let store = place.open().await;
    let line = line("account 7");
    let (first, second) = (claim(&line), claim(&line));
    let stale = granted(store.claim(&first).await.unwrap()).token;
    let mut of_stale = open(&place.0.path().join("user.db")).await;
    let mut of_live = open(&place.0.path().join("user.db")).await;
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
async fn a_transaction_that_is_undone_raises_no_mark_and_resources_are_apart() {
    let place = Place::new();
    let mut connection = open(&place.0.path().join("user.db")).await;
    let token = |number| FencingToken::new(number).unwrap();
    let mut transaction = connection.begin().await.unwrap();
    fence(&mut transaction, "a", token(9)).await.unwrap();
    transaction.rollback().await.unwrap();
    fence(&mut connection, "a", token(5)).await.unwrap();
    fence(&mut connection, "b", token(1)).await.unwrap();
    assert_eq!(fence(&mut connection, "a", token(4)).await.unwrap_err().kind(), ErrorKind::Fenced);
}
