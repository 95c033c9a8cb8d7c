//! The fence in the user's own transaction: two writers, one of them stale. The writers of other processes are this test
//! program, run again as a helper.

use std::{path::Path, time::Duration};

use coord_core::{ErrorKind, FencingToken, Lock, LockOptions, Name, Result, spi::Claims};
use coord_sql::fence;
use rustix::process::Signal;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::common::{
    Place, claim, granted,
    helper::{Helper, listen, say},
    line,
};

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
    let mut transaction = connection.begin().await.unwrap();
    fence(&mut transaction, "a", token(5)).await.unwrap();
    fence(&mut transaction, "b", token(1)).await.unwrap();
    assert_eq!(fence(&mut transaction, "a", token(4)).await.unwrap_err().kind(), ErrorKind::Fenced);
}

/// One step of a writer: a transaction of its own, with the fence first or without it.
async fn step(
    database: &mut SqliteConnection,
    token: FencingToken,
    fenced: bool,
    statement: &'static str,
    balance: i64,
) -> Result<Option<i64>> {
    let mut transaction = database.begin_with("BEGIN IMMEDIATE").await.unwrap();
    if fenced {
        fence(&mut transaction, "account 7", token).await?;
    }
    let found = sqlx::query_scalar(statement).bind(balance).fetch_optional(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    Ok(found)
}

/// Takes the lock, reads the balance, thinks, and writes what it thought of, whatever happened meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the helper process of the other tests"]
async fn helper_process() {
    let Ok(role) = std::env::var("COORD_TEST_ROLE") else { return };
    let fenced = role == "fenced";
    let file = std::env::var("COORD_TEST_FILE").unwrap();
    let mut database = open(&Path::new(&file).with_file_name("user.db")).await;
    let coordinator = coord_sql::connect(file).await.unwrap();
    let options = LockOptions::default().with_ttl(Duration::from_secs(1));
    let guard = coordinator.acquire(&Name::new("account 7").unwrap(), &options).await.unwrap();
    let read = "SELECT balance + 0 * $1 FROM accounts WHERE name = '7'";
    let balance = step(&mut database, guard.token(), fenced, read, 0).await.unwrap().unwrap();
    say(format!("{} {balance}", guard.token()));
    // Beside it the lease is renewed, for as long as the process runs.
    let amount: i64 = tokio::task::spawn_blocking(listen).await.unwrap().parse().unwrap();
    let write = "UPDATE accounts SET balance = $1 WHERE name = '7' RETURNING balance";
    match step(&mut database, guard.token(), fenced, write, balance + amount).await {
        Ok(_) => say("written"),
        Err(error) => say(format!("{:?}: {error}", error.kind())),
    }
}

/// One writer is stopped for longer than its lease, while another one deposits 1, and then deposits 10. What it says to
/// that, with both tokens; and the balance, which was 100.
async fn paused(role: &str) -> (String, [String; 2], i64) {
    let place = Place::new();
    let mut database = open(&place.0.path().join("user.db")).await;
    sqlx::query("INSERT INTO accounts VALUES ('7', 100)").execute(&mut database).await.unwrap();
    let read = |helper: &mut Helper| {
        let heard = helper.hear();
        let (token, balance) = heard.split_once(' ').unwrap();
        assert_eq!(balance, "100");
        token.to_owned()
    };
    let mut stale = Helper::start(module_path!(), role, &place.file());
    let first = read(&mut stale);
    stale.signal(Signal::STOP);
    // It is granted only when the lease of the first one has ended.
    let mut live = Helper::start(module_path!(), role, &place.file());
    let second = read(&mut live);
    live.tell("1");
    assert_eq!(live.hear(), "written");
    stale.signal(Signal::CONT);
    stale.tell("10");
    let said = stale.hear();
    let balance = "SELECT balance FROM accounts WHERE name = '7'";
    let balance = sqlx::query_scalar(balance).fetch_one(&mut database).await.unwrap();
    (said, [first, second], balance)
}

#[tokio::test]
async fn a_writer_that_was_stopped_past_its_lease_is_refused() {
    let (said, [first, second], balance) = paused("fenced").await;
    assert!(said.starts_with("Fenced: "), "{said}");
    assert!(said.contains(&first) && said.contains(&second), "{first} and {second} are not both in: {said}");
    assert_eq!(balance, 101, "the deposit of the live one is there, and no other");
}

#[tokio::test]
async fn without_the_fence_an_update_is_lost() {
    let (said, _, balance) = paused("unfenced").await;
    assert_eq!(said, "written");
    assert_eq!(balance, 110, "the deposit of the live one is gone");
}
