//! What the tests of claims share.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{sync::Arc, time::Duration};

use coord_conformance::{
    proxy::{Counts, Options, Proxy, framing},
    servers::{ZooKeeper, ZooKeeperOptions, found},
};
use coord_core::{
    Name, Namespace,
    spi::{ALL, Claim, ClaimId, Claims, Grant, Kind, LineId, Standing, Wakeup, Wakeups},
};
use coord_zk::Store;

/// A server of the test's own; `None`, with the reason told, if this host has none and need not have one.
pub(crate) fn server_with(options: &ZooKeeperOptions) -> Option<ZooKeeper> {
    found(ZooKeeper::start(options))
}

pub(crate) fn server() -> Option<ZooKeeper> {
    server_with(&ZooKeeperOptions::default().with_own())
}

/// A fresh place in a server that all tests of this process share; `None` as above.
pub(crate) fn place() -> Option<String> {
    found(ZooKeeper::shared()).map(ZooKeeper::fresh)
}

pub(crate) async fn open(url: &str) -> Arc<Store> {
    Store::open(url).await.unwrap()
}

/// The servers of a URL, as the driver wants them.
pub(crate) fn hosts(url: &str) -> &str {
    let rest = url.trim_start_matches("zk://");
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    &rest[..end]
}

/// The path of a URL.
pub(crate) fn root(url: &str) -> &str {
    let rest = url.trim_start_matches("zk://").split('?').next().unwrap_or_default();
    rest.find('/').map_or("", |at| &rest[at..])
}

/// The driver itself, to look at what is there.
pub(crate) async fn raw(url: &str) -> zookeeper_client::Client {
    zookeeper_client::Client::connect(hosts(url)).await.unwrap()
}

/// A way to the server of this URL that counts requests, and can be spoilt.
pub(crate) fn proxy(url: &str) -> Proxy {
    Proxy::start_with(url, Options::default().with_protocol(framing::ZooKeeper)).unwrap()
}

/// What went through when nothing has for a while, and forgets it. What opens and closes sessions is left out, and
/// variants of one operation are taken together.
pub(crate) async fn settled(proxy: &Proxy) -> Counts {
    let mut last = None;
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let counts = proxy.counts();
        let now = (counts.requests, counts.events);
        if last.replace(now.clone()) == Some(now) {
            break;
        }
    }
    let mut counts = proxy.reset_counts();
    for (name, count) in std::mem::take(&mut counts.requests) {
        let name = match name.as_str() {
            "auth" | "setWatches" | "setWatches2" | "closeSession" => continue,
            "create2" | "createContainer" => "create",
            "getChildren2" => "getChildren",
            other => other,
        };
        *counts.requests.entry(name.into()).or_default() += count;
    }
    counts
}

pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn line(name: &str) -> LineId {
    LineId { namespace: Namespace::default(), kind: Kind::Lock, name: self::name(name) }
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

/// How many stand ahead.
#[track_caller]
pub(crate) fn waiting(standing: Standing) -> u32 {
    match standing {
        Standing::Waiting { ahead, .. } => ahead,
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
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asking).await.expect(what);
}
