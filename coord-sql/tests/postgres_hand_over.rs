//! How long a hand-over takes on Postgres. Alone in its program, so that no other test takes its processor time.

mod common;

use std::time::Duration;

use common::server::server;
use coord_conformance::servers::PostgresOptions;
use coord_core::{Inspect, Lock, LockOptions, Name, clock::Clock, spi::Kind};
use sqlx::{Connection, PgConnection, postgres::PgListener};

/// A lock goes to a client that waits for it within four times what one notification takes on its round trip: until the
/// listener has it and the notifier has its answer. Both are measured in turn.
#[tokio::test]
async fn a_hand_over_takes_at_most_four_notifications() {
    const ROUNDS: usize = 200;
    const REST: Duration = Duration::from_millis(2);
    let Some(server) = server(PostgresOptions::default().with_fsync()) else { return };
    let (name, options) = (Name::new("ball").unwrap(), LockOptions::default());
    let url = server.url();
    let (one, two) = (coord_sql::connect(&url).await.unwrap(), coord_sql::connect(&url).await.unwrap());
    let mut listener = PgListener::connect(&url).await.unwrap();
    listener.listen("floor").await.unwrap();
    let mut notifier = PgConnection::connect(&url).await.unwrap();
    // A notification is as durable as a hand-over only with a change: both then wait for the disk.
    sqlx::query("CREATE TABLE floor (round bigint)").execute(&mut notifier).await.unwrap();
    let notify = "WITH told AS (SELECT pg_notify('floor', $1::text)) INSERT INTO floor SELECT $1 FROM told";

    let (mut floors, mut hand_overs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let guard = one.acquire(&name, &options).await.unwrap();
        let waiter = {
            let (two, name, options) = (two.clone(), name.clone(), options.clone());
            tokio::spawn(async move {
                let guard = two.acquire(&name, &options).await.unwrap();
                (Clock::System.now(), guard)
            })
        };
        while one.inspect(Kind::Lock, &name).await.unwrap().waiters.len() != 1 {
            tokio::task::yield_now().await;
        }
        // Before both, everything is at rest for the same time: an idle processor takes long to wake.
        tokio::time::sleep(REST).await;
        let start = Clock::System.now();
        guard.release().await.unwrap();
        let (end, guard) = waiter.await.unwrap();
        hand_overs.push(end.since(start));
        guard.release().await.unwrap();

        tokio::time::sleep(REST).await;
        let start = Clock::System.now();
        let round = i64::try_from(round).unwrap();
        let (sent, heard) =
            tokio::join!(sqlx::query(notify).bind(round).execute(&mut notifier), listener.recv());
        assert_eq!(heard.unwrap().payload(), round.to_string());
        sent.unwrap();
        floors.push(Clock::System.now().since(start));
    }
    floors.sort();
    hand_overs.sort();
    let (floor, hand_over) = (floors[ROUNDS / 2], hand_overs[ROUNDS / 2]);
    println!("a notification takes {floor:?}, a hand-over {hand_over:?}");
    assert!(hand_over <= floor * 4, "{hand_over:?} against {floor:?}");
}
