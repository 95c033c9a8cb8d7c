//! What the tests of the store share.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{sync::Arc, time::Duration};

use coord_conformance::servers::{Redis, RedisOptions, found, redis::Reply};
use coord_core::{
    Coordinator, Inspect, Name, Namespace,
    spi::{ALL, Claim, ClaimId, Claims, Grant, Kind, LineId, Standing, Wakeup, Wakeups},
};
use coord_redis::Store;

/// A server of the test's own; `None`, with the reason told, if this host has none and need not have one.
pub(crate) fn server_with(options: &RedisOptions) -> Option<Redis> {
    found(Redis::start(options))
}

pub(crate) fn server() -> Option<Redis> {
    server_with(&RedisOptions::default().with_own())
}

pub(crate) async fn open(server: &Redis) -> Arc<Store> {
    Store::open(server.url()).await.unwrap()
}

pub(crate) async fn coordinator(server: &Redis) -> Coordinator {
    coord_redis::connect(server.url()).await.unwrap()
}

pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn line(name: &str) -> LineId {
    LineId { namespace: Namespace::default(), kind: Kind::Lock, name: self::name(name) }
}

/// A key of a line.
pub(crate) fn key(line: &LineId, part: &str) -> String {
    format!("coord:{{{}/{}/{}}}:{part}", line.namespace, line.kind, line.name)
}

/// A claim of a mutex that waits.
pub(crate) fn claim(line: &LineId) -> Claim {
    Claim {
        line: line.clone(),
        id: ClaimId::random(),
        weight: ALL,
        limit: ALL,
        ttl: LONG,
        priority: 0,
        wait: true,
        owner: "tester".into(),
        value: b"value".to_vec(),
    }
}

/// The grant, or a panic that says what came instead.
#[track_caller]
pub(crate) fn granted(standing: Standing) -> Grant {
    match standing {
        Standing::Granted(grant) => grant,
        other => panic!("not granted: {other:?}"),
    }
}

/// How many stand ahead, and when to look again.
#[track_caller]
pub(crate) fn waiting(standing: Standing) -> (u32, Duration) {
    match standing {
        Standing::Waiting { ahead, look_again_in } => (ahead, look_again_in),
        other => panic!("not waiting: {other:?}"),
    }
}

/// The ids in a line, in order.
pub(crate) async fn ids(store: &Store, line: &LineId) -> Vec<ClaimId> {
    store.line(line).await.unwrap().entries.into_iter().map(|entry| entry.id).collect()
}

/// Waits for a hint that must come.
pub(crate) async fn hint(wakeups: &mut Wakeups) {
    let next = tokio::time::timeout(Duration::from_secs(20), wakeups.next()).await;
    assert_eq!(next.expect("a hint"), Wakeup::LookAgain);
}

/// Asks again until it is so.
pub(crate) async fn until(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asking).await.expect(what);
}

/// Waits until so many wait for the lock of this name.
pub(crate) async fn until_waiting(client: &Coordinator, name: &Name, count: usize) {
    until("the waiters", async || client.inspect(Kind::Lock, name).await.unwrap().waiters.len() == count)
        .await;
}

/// Forgets how often commands were called.
pub(crate) fn reset(server: &Redis) {
    server.command(&["CONFIG", "RESETSTAT"]).unwrap();
}

/// How often a command was called since [`reset`], in scripts or not.
pub(crate) fn calls(server: &Redis, command: &str) -> u64 {
    server.calls().unwrap().get(command).copied().unwrap_or(0)
}

/// A number that a command answers.
pub(crate) fn number(server: &Redis, command: &[&str]) -> i64 {
    match server.command(command).unwrap() {
        Reply::Integer(number) => number,
        other => panic!("{command:?}: {other:?}"),
    }
}
