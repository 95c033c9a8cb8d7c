//! What the tests of values and jobs share.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{sync::Arc, time::Duration};

use coord_conformance::{
    proxy::{Options, Proxy, framing},
    servers::{ZooKeeper, ZooKeeperOptions, found},
};
use coord_core::{
    Name, Namespace,
    spi::{Wakeup, Wakeups},
};
use coord_zk::Store;

/// A server of the test's own that takes large requests; `None`, with the reason told, if this host has none and need not
/// have one.
pub(crate) fn server() -> Option<ZooKeeper> {
    found(ZooKeeper::start(&ZooKeeperOptions::default().with_own()))
}

/// A server of the test's own that takes requests of a size as servers do that nobody set up.
pub(crate) fn plain_server() -> Option<ZooKeeper> {
    let options = ZooKeeperOptions::default().with_own().with_property("jute.maxbuffer", "1048575");
    found(ZooKeeper::start(&options))
}

/// A server for all tests of this process that takes large requests.
pub(crate) fn shared() -> Option<&'static ZooKeeper> {
    static SHARED: std::sync::OnceLock<Option<ZooKeeper>> = std::sync::OnceLock::new();
    SHARED.get_or_init(server).as_ref()
}

/// A way to the server that counts requests, and loses those that it is told to.
pub(crate) fn proxy(server: &ZooKeeper) -> Proxy {
    Proxy::start_with(server.url(), Options::default().with_protocol(framing::ZooKeeper)).unwrap()
}

/// The URL of a store that takes large requests.
pub(crate) fn large(place: &str) -> String {
    // Machines that run tests stand still for seconds, and these tests do not ask twice.
    format!("{place}?timeout=8&packet={}", ZooKeeperOptions::MAX_PACKET)
}

pub(crate) async fn open(url: &str) -> Arc<Store> {
    Store::open(url).await.unwrap()
}

/// A store in a place that nobody else uses.
pub(crate) async fn fresh(server: &ZooKeeper) -> Arc<Store> {
    open(&large(&server.fresh())).await
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

/// Asks until it is so.
pub(crate) async fn until(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asking).await.expect(what);
}

/// The paths of all nodes below one, by a client that this library has no part in.
pub(crate) async fn nodes(server: &ZooKeeper, top: &str) -> Vec<String> {
    let host = server.url().trim_start_matches("zk://").to_owned();
    let client = zookeeper_client::Client::connect(&host).await.unwrap();
    let (mut found, mut todo) = (Vec::new(), vec![top.to_owned()]);
    while let Some(path) = todo.pop() {
        for child in client.list_children(&path).await.unwrap_or_default() {
            let child = format!("{path}/{child}");
            found.push(child.clone());
            todo.push(child);
        }
    }
    found.sort();
    found
}

/// The path of a URL.
pub(crate) fn path_of(url: &str) -> String {
    let place = url.trim_start_matches("zk://");
    format!("/{}", place.split_once('/').unwrap().1)
}
