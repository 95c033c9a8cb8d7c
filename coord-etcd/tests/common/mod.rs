//! What several test targets use.
#![allow(dead_code, reason = "not every target uses everything")]

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use coord_conformance::{
    Stores,
    servers::{Etcd, EtcdOptions, Unavailable, found},
};
use coord_core::{
    Coordinator, Error, ErrorKind, Inspect, Name, Namespace,
    spi::{ALL, Claim, ClaimId, Claims, Grant, Kind, LineId, Standing, Wakeup, Wakeups},
};
use coord_etcd::Store;

/// All stores of one client.
pub(crate) fn stores(store: Arc<Store>) -> Stores {
    Stores::new(store.clone()).with_values(store.clone()).with_jobs(store)
}

pub(crate) fn no_server(error: Unavailable) -> Error {
    Error::new(ErrorKind::Unavailable, "no server").with_source(error)
}

pub(crate) fn failed(error: io::Error) -> Error {
    Error::new(ErrorKind::Internal, "the server does not tell").with_source(error)
}

/// How many keys the server has.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a count")]
pub(crate) fn keys(etcd: &Etcd) -> io::Result<u64> {
    let metrics = etcd.metrics()?;
    let keys = metrics.get("etcd_debugging_mvcc_keys_total");
    keys.map(|keys| *keys as u64).ok_or_else(|| io::Error::other("the server does not count its keys"))
}

/// A server of the test's own; `None`, with the reason told, if this host has none and need not have one.
pub(crate) fn server_with(options: &EtcdOptions) -> Option<Etcd> {
    found(Etcd::start(options))
}

pub(crate) fn server() -> Option<Etcd> {
    server_with(&EtcdOptions::default().with_own())
}

pub(crate) async fn open(server: &Etcd) -> Arc<Store> {
    Store::open(server.url()).await.unwrap()
}

pub(crate) async fn coordinator(server: &Etcd) -> Coordinator {
    coord_etcd::connect(server.url()).await.unwrap()
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

/// Waits until so many wait for the lock of this name.
pub(crate) async fn until_waiting(client: &Coordinator, name: &Name, count: usize) {
    until("the waiters", async || client.inspect(Kind::Lock, name).await.unwrap().waiters.len() == count)
        .await;
}

/// What the server was asked between two moments.
#[derive(Debug)]
pub(crate) struct Counted {
    calls: BTreeMap<String, u64>,
    messages: BTreeMap<String, u64>,
}

impl Counted {
    pub(crate) fn from_now(server: &Etcd) -> Self {
        Self { calls: server.calls().unwrap(), messages: server.messages().unwrap() }
    }

    /// How many requests of this method were answered since.
    pub(crate) fn calls(&self, server: &Etcd, method: &str) -> u64 {
        let count = |calls: &BTreeMap<String, u64>| calls.get(method).copied().unwrap_or(0);
        count(&server.calls().unwrap()) - count(&self.calls)
    }

    /// How many requests of any method were answered since, but for those that are streams.
    pub(crate) fn all_calls(&self, server: &Etcd) -> BTreeMap<String, u64> {
        let mut calls = server.calls().unwrap();
        for (method, count) in &mut calls {
            *count -= self.calls.get(method).copied().unwrap_or(0);
        }
        calls.retain(|method, count| *count > 0 && method != "LeaseKeepAlive" && method != "Watch");
        calls
    }

    /// How many messages of this method came since, on streams.
    pub(crate) fn messages(&self, server: &Etcd, method: &str) -> u64 {
        let count = |messages: &BTreeMap<String, u64>| messages.get(method).copied().unwrap_or(0);
        count(&server.messages().unwrap()) - count(&self.messages)
    }
}
