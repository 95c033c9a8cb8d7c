//! What the tests of the store share.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod helper;
pub(crate) mod probe;
#[cfg(feature = "postgres")]
pub(crate) mod server;
pub(crate) mod words;

use std::{sync::Arc, time::Duration};

use coord_core::{
    Name, Namespace,
    spi::{ALL, Claim, ClaimId, Claims, Grant, Kind, LineId, Standing, Wakeup, Wakeups},
};
use coord_sql::{Config, Sqlite, Store};
use tempfile::TempDir;

/// A folder for a database file that is gone after the test.
pub(crate) struct Place(pub(crate) TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A folder whose files need no disk, if the system has such a one. For what is bounded in time: a disk that is busy
    /// with the writes of others neither breaks such a bound, nor hides behind its own slowness what we take.
    pub(crate) fn in_memory() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    pub(crate) fn file(&self) -> std::path::PathBuf {
        self.0.path().join("coord.db")
    }

    pub(crate) fn config(&self) -> Config {
        Config::new(self.file())
    }

    pub(crate) async fn open(&self) -> Arc<Store> {
        Sqlite::open(self.config()).await.unwrap()
    }
}

pub(crate) fn line(name: &str) -> LineId {
    LineId { namespace: Namespace::default(), kind: Kind::Lock, name: Name::new(name).unwrap() }
}

pub(crate) const LONG: Duration = Duration::from_secs(30);

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
#[track_caller]
pub(crate) fn hint(wakeups: &mut Wakeups) -> impl Future<Output = ()> {
    let next = tokio::time::timeout(Duration::from_secs(20), wakeups.next());
    async move {
        assert_eq!(next.await.expect("a hint"), Wakeup::LookAgain);
    }
}

/// Takes the hints that are there, until none comes for a while.
pub(crate) async fn quiet(wakeups: &mut Wakeups) {
    while tokio::time::timeout(Duration::from_millis(200), wakeups.next()).await.is_ok() {}
}
