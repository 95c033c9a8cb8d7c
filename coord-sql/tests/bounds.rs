//! What operations cost, and what is left of names that were used.

mod common;

use std::{path::Path, time::Duration};

use common::{Place, claim, granted, line, waiting};
use coord_core::spi::{Claim, ClaimId, Claims, Renewal};
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

const SHORT: Duration = Duration::from_millis(150);

/// A look into the file from outside.
struct Probe(SqliteConnection);

impl Probe {
    async fn of(path: &Path) -> Self {
        Self(SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path)).await.unwrap())
    }

    async fn number(&mut self, statement: &'static str) -> i64 {
        sqlx::query_scalar(statement).fetch_one(&mut self.0).await.unwrap()
    }

    /// Empties the write-ahead log.
    async fn empty_log(&mut self) {
        assert_eq!(self.number("PRAGMA wal_checkpoint(TRUNCATE)").await, 0, "busy");
    }
}

/// How many transactions wrote to the log since it was emptied: a frame that ends one holds the size of the database.
/// The format is part of SQLite's file format (https://www.sqlite.org/walformat.html).
fn transactions(place: &Place) -> usize {
    let log = std::fs::read(place.0.path().join("coord.db-wal")).unwrap();
    if log.is_empty() {
        return 0;
    }
    let number = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    let (page, salts) = (number(8) as usize, &log[16..24]);
    let frames = (32..log.len()).step_by(24 + page).take_while(|at| &log[at + 8..at + 16] == salts);
    frames.filter(|at| number(at + 4) != 0).count()
}

#[tokio::test]
async fn each_operation_is_one_transaction() {
    let place = Place::new();
    let store = place.open().await;
    let mut probe = Probe::of(&place.file()).await;
    let line = line("cost");
    let (a, b) = (claim(&line), claim(&line));

    probe.empty_log().await;
    let grant = granted(store.claim(&a).await.unwrap());
    assert_eq!(transactions(&place), 1, "an uncontended claim");
    probe.empty_log().await;
    waiting(store.claim(&b).await.unwrap());
    assert_eq!(transactions(&place), 1, "joining the line");
    probe.empty_log().await;
    store.set_value(&grant, b"other").await.unwrap();
    assert_eq!(transactions(&place), 1, "a new value");
    probe.empty_log().await;
    store.withdraw(&line, a.id).await.unwrap();
    assert_eq!(transactions(&place), 1, "a withdrawal");
    probe.empty_log().await;
    granted(store.claim(&b).await.unwrap());
    assert_eq!(transactions(&place), 1, "the grant of one that waited");
    probe.empty_log().await;
    store.line(&line).await.unwrap();
    store.claim(&Claim { wait: false, ..claim(&line) }).await.unwrap();
    store.withdraw(&line, ClaimId::random()).await.unwrap();
    assert_eq!(transactions(&place), 0, "nothing changed");
}

#[tokio::test]
async fn renewing_a_thousand_grants_is_one_transaction() {
    let place = Place::new();
    let store = place.open().await;
    let mut grants = Vec::new();
    for number in 0..1_000 {
        grants.push(granted(store.claim(&claim(&line(&format!("lock {number}")))).await.unwrap()));
    }
    store.withdraw(&grants[500].line, grants[500].id).await.unwrap();
    let mut probe = Probe::of(&place.file()).await;
    probe.empty_log().await;
    let renewals = store.renew(&grants).await.unwrap();
    assert_eq!(transactions(&place), 1);
    for (number, renewal) in renewals.into_iter().enumerate() {
        assert_eq!(renewal, if number == 500 { Renewal::Lost } else { Renewal::Renewed }, "{number}");
    }
}

#[tokio::test]
async fn names_that_were_used_leave_nothing() {
    let place = Place::new();
    let store = place.open().await;
    let mut probe = Probe::of(&place.file()).await;
    let mut last = None;
    let mut pages = 0;
    for number in 0..3_000 {
        let claim = claim(&line(&format!("{} {number}", "a long name ".repeat(10))));
        let grant = granted(store.claim(&claim).await.unwrap());
        assert!(last < Some(grant.token));
        last = Some(grant.token);
        store.withdraw(&claim.line, claim.id).await.unwrap();
        if number == 50 {
            pages = probe.number("PRAGMA page_count").await;
        }
    }
    assert_eq!(probe.number("SELECT count(*) FROM coord_claims").await, 0);
    assert_eq!(probe.number("SELECT count(*) FROM coord_watches").await, 0);
    assert_eq!(probe.number("SELECT count(*) FROM coord_counters").await, 1);
    // No growth at all with the number of names, be it three thousand or a million.
    assert_eq!(probe.number("PRAGMA page_count").await, pages);
}

#[tokio::test]
async fn what_a_crashed_client_left_is_purged_on_the_way() {
    let place = Place::new();
    let crashed = place.open().await;
    for number in 0..200 {
        let claim = Claim { ttl: SHORT, ..claim(&line(&format!("crashed {number}"))) };
        granted(crashed.claim(&claim).await.unwrap());
    }
    drop(crashed);
    tokio::time::sleep(SHORT * 2).await;
    let store = place.open().await;
    let mut probe = Probe::of(&place.file()).await;
    for number in 0..4 {
        let claim = claim(&line(&format!("other {number}")));
        granted(store.claim(&claim).await.unwrap());
        store.withdraw(&claim.line, claim.id).await.unwrap();
    }
    assert_eq!(probe.number("SELECT count(*) FROM coord_claims").await, 0);
}
