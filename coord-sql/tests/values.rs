//! The values: hints, and what is forgotten.

use std::time::Duration;

use coord_core::{
    Namespace,
    spi::{
        Claims,
        values::{Changes, Committed, Prefix, Values},
    },
};
use coord_sql::Sqlite;
use futures_util::FutureExt;

use crate::common::{
    Place, hint, quiet,
    words::{key, put},
};

fn prefix(text: &str) -> Prefix {
    Prefix { namespace: Namespace::default(), text: text.into() }
}

#[tokio::test]
async fn watchers_of_a_prefix_hear_of_its_keys_and_no_others() {
    let place = Place::new();
    let (writer, watcher) = (place.open().await, place.open().await);
    let mut wakeups = Values::wakeups(&*watcher, &prefix("a/"));
    let mut other = Values::wakeups(&*watcher, &prefix("b"));
    for wakeups in [&mut wakeups, &mut other] {
        hint(wakeups).await;
        quiet(wakeups).await;
    }
    writer.commit(&put("a/key", b"1")).await.unwrap();
    hint(&mut wakeups).await;
    writer.commit(&put("a", b"1")).await.unwrap();
    writer.commit(&put("b", b"1")).await.unwrap();
    // The notes of one client come in order.
    hint(&mut other).await;
    assert!(wakeups.next().now_or_never().is_none());
    watcher.commit(&put("a/own", b"1")).await.unwrap();
    hint(&mut wakeups).await;
}

#[tokio::test]
async fn what_is_long_past_is_forgotten_and_said_to_be() {
    let place = Place::new();
    let store = place.open().await;
    let (_, start) = Values::get(&*store, &key("k")).await.unwrap();
    assert!(matches!(store.changes(&prefix(""), start).await.unwrap(), Changes::All { .. }));
    for number in 0..1_100u32 {
        store.commit(&put("k", &number.to_be_bytes())).await.unwrap();
    }
    assert_eq!(store.changes(&prefix(""), start).await.unwrap(), Changes::Gap);
    let states = store.history(&key("k"), 2_000).await.unwrap();
    assert_eq!(states.len(), 1_000);
    assert_eq!(states[0].value.as_deref(), Some(&1_099u32.to_be_bytes()[..]));
    let since = states[10].version;
    let Changes::All { entries, .. } = store.changes(&prefix("k"), since).await.unwrap() else {
        panic!("a gap")
    };
    assert_eq!(entries, states[..1]);
}

#[tokio::test]
async fn versions_go_on_growing_in_a_new_file() {
    let place = Place::new();
    let store = place.open().await;
    let Committed::Done { revision } = store.commit(&put("k", b"old")).await.unwrap() else {
        panic!("refused")
    };
    store.close().await.unwrap();
    drop(store);
    // The new file's first moment is a whole second.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", place.file().display()));
    }
    let store = Sqlite::open(place.config()).await.unwrap();
    assert_eq!(store.changes(&prefix(""), revision).await.unwrap(), Changes::Gap);
    let Committed::Done { revision: new } = store.commit(&put("k", b"new")).await.unwrap() else {
        panic!("refused")
    };
    assert!(new > revision);
}
