//! What the tests of values and jobs share.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{sync::Arc, time::Duration};

use coord_conformance::servers::{Redis, RedisOptions};
use coord_core::{
    Name, Namespace,
    spi::{Wakeup, Wakeups},
};
use coord_redis::Store;

/// A server of the test's own; `None`, with the reason told, if this host has none and need not have one.
pub(crate) fn server_with(options: &RedisOptions) -> Option<Redis> {
    match Redis::start(options) {
        Ok(server) => Some(server),
        Err(unavailable) if unavailable.fails() => panic!("{unavailable:?}"),
        Err(unavailable) => {
            eprintln!("ignored: {}", unavailable.reason());
            None
        }
    }
}

pub(crate) fn server() -> Option<Redis> {
    server_with(&RedisOptions::default())
}

pub(crate) async fn open(server: &Redis) -> Arc<Store> {
    // Machines that run tests stand still for seconds, and these tests do not ask twice.
    Store::open(format!("{}?timeout=8", server.url())).await.unwrap()
}

pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn namespace() -> Namespace {
    Namespace::default()
}

/// Waits for a hint that must come.
pub(crate) async fn hint(wakeups: &mut Wakeups) {
    let next = tokio::time::timeout(Duration::from_secs(20), wakeups.next()).await;
    assert_eq!(next.expect("a hint"), Wakeup::LookAgain);
}

/// Takes the hints that are there, until none comes for a while.
pub(crate) async fn quiet(wakeups: &mut Wakeups) {
    while tokio::time::timeout(Duration::from_millis(500), wakeups.next()).await.is_ok() {}
}

/// How often a command was called.
pub(crate) fn calls(server: &Redis, command: &str) -> u64 {
    server.calls().unwrap().get(command).copied().unwrap_or(0)
}

/// The keys that are there, in their order.
pub(crate) fn keys(server: &Redis) -> Vec<String> {
    let coord_conformance::servers::redis::Reply::Array(keys) = server.command(&["KEYS", "*"]).unwrap()
    else {
        panic!("no list")
    };
    let mut keys: Vec<_> = keys.iter().map(|key| key.text().to_owned()).collect();
    keys.sort();
    keys
}

/// A number that a command answers.
pub(crate) fn number(server: &Redis, command: &[&str]) -> i64 {
    match server.command(command).unwrap() {
        coord_conformance::servers::redis::Reply::Integer(number) => number,
        other => panic!("{command:?}: {other:?}"),
    }
}

/// Asks until it is so.
pub(crate) async fn until(mut ask: impl AsyncFnMut() -> bool) {
    while !ask().await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
