//! What is done is forgotten, so that the file does not grow without end.

use coord_core::{
    ConfigEvent, ConfigStore, Coordinator,
    spi::{
        jobs::{Jobs, Settled, Word},
        values::{Change, Changes, Condition, Prefix, Values},
    },
};

use crate::common::{
    Place,
    probe::Probe,
    words::{item, key, push, put, queue, receive, say, transaction},
};

#[tokio::test]
async fn a_file_in_use_stops_growing() {
    let place = Place::new();
    let store = place.open().await;
    let mut probe = Probe::of(&place.file()).await;
    let queue = queue("work");
    let names: Vec<_> = (0..100).map(|number| format!("key {number}")).collect();
    let mut pages = Vec::new();
    for round in 0..40u8 {
        store.push(&push(&queue, (0..200).map(|_| item(&[round; 200])).collect())).await.unwrap();
        let held = store.receive(&receive(&queue, 200)).await.unwrap().deliveries;
        let said: Vec<_> = held.iter().map(|delivered| say(delivered, Word::Ack)).collect();
        assert_eq!(store.settle(&queue, &said).await.unwrap(), [Settled::Done; 200]);
        let change = Change::Put(vec![round; 100]);
        let all = names.iter().map(|name| (name.as_str(), Condition::Any, change.clone())).collect();
        store.commit(&transaction(all)).await.unwrap();
        for number in 0..5 {
            let name = format!("{round} {number}");
            store.commit(&put(&name, &[0; 100])).await.unwrap();
            let delete = vec![(&*name, Condition::Any, Change::Delete)];
            store.commit(&transaction(delete)).await.unwrap();
        }
        // As if the time had passed for which they are remembered.
        probe.change("UPDATE coord_gone_items SET until = 0").await;
        probe.change("UPDATE coord_writes SET until = 0").await;
        pages.push(probe.number("PRAGMA page_count").await);
    }
    assert_eq!(probe.number("SELECT count(*) FROM coord_items").await, 0);
    assert_eq!(probe.number("SELECT count(*) FROM coord_queues").await, 0);
    assert_eq!(probe.number("SELECT count(*) FROM coord_values").await, 100);
    assert_eq!(probe.number("SELECT count(*) FROM coord_value_log").await, 1_000);
    // What the last round did, and no more.
    assert!(probe.number("SELECT count(*) FROM coord_gone_items").await <= 200);
    assert!(probe.number("SELECT count(*) FROM coord_writes").await <= 11);
    // From the tenth round on the log of values is full.
    assert!(pages[39] <= pages[14] + pages[14] / 20, "{pages:?}");
}

/// Writes this many MiB of values.
async fn write(store: &coord_sql::Store, mebibytes: u8) {
    let names: Vec<_> = (0..16).map(|number| format!("large {number}")).collect();
    for number in 0..mebibytes {
        let change = Change::Put(vec![number; 64 << 10]);
        let all = names.iter().map(|name| (name.as_str(), Condition::Any, change.clone())).collect();
        store.commit(&transaction(all)).await.unwrap();
    }
}

#[tokio::test]
async fn the_log_of_values_is_bounded_in_bytes_and_says_so() {
    let place = Place::new();
    let store = place.open().await;
    let mut probe = Probe::of(&place.file()).await;
    let client = place.open().await;
    let coordinator = Coordinator::builder(client.clone()).values(client).build().unwrap();
    let mut watch = coordinator.watch_prefix("large");
    assert_eq!(watch.next().await.unwrap().unwrap(), ConfigEvent::Snapshot(Vec::new()));
    let all = Prefix { namespace: key("k").namespace, text: String::new() };
    let (_, start) = Values::get(&*store, &key("k")).await.unwrap();

    write(&store, 15).await;
    assert!(matches!(store.changes(&all, start).await.unwrap(), Changes::All { .. }), "15 MiB fit");
    write(&store, 20).await;
    let (_, full) = Values::get(&*store, &key("k")).await.unwrap();
    assert_eq!(store.changes(&all, start).await.unwrap(), Changes::Gap);
    let bytes =
        "SELECT sum(octet_length(key) + octet_length(author) + octet_length(value)) FROM coord_value_log";
    let kept = probe.number(bytes).await;
    assert!((15 << 20..=16 << 20).contains(&kept), "{kept} bytes are kept");
    // The watcher fell behind, is told so, and has the last values.
    match watch.next().await.unwrap().unwrap() {
        ConfigEvent::Resync(entries) => {
            assert_eq!(entries.len(), 16);
            assert!(entries.iter().all(|entry| entry.value == vec![19; 64 << 10]));
        }
        other => panic!("no gap but {other:?}"),
    }
    let pages = probe.number("PRAGMA page_count").await;
    write(&store, 10).await;
    let later = probe.number("PRAGMA page_count").await;
    assert!(later <= pages + pages / 20, "{pages} pages, then {later}");
    // Who is only a little behind has no gap.
    store.commit(&put("k", b"small")).await.unwrap();
    let (_, end) = Values::get(&*store, &key("k")).await.unwrap();
    assert!(end > full);
    store.commit(&put("k", b"last")).await.unwrap();
    match store.changes(&all, end).await.unwrap() {
        Changes::All { entries, .. } => assert_eq!(entries.len(), 1),
        Changes::Gap => panic!("a gap"),
    }
}

#[tokio::test]
async fn a_watch_is_told_when_an_older_copy_is_put_back() {
    let place = Place::new();
    let store = place.open().await;
    let client = place.open().await;
    let coordinator = Coordinator::builder(client.clone()).values(client).build().unwrap();
    let mut watch = coordinator.watch(&key("k").key);
    assert_eq!(watch.next().await.unwrap().unwrap(), ConfigEvent::Snapshot(Vec::new()));
    let value = |event| match event {
        ConfigEvent::Put(entry) => entry.value,
        other => panic!("no put but {other:?}"),
    };
    store.commit(&put("k", b"kept")).await.unwrap();
    assert_eq!(value(watch.next().await.unwrap().unwrap()), b"kept");
    Probe::of(&place.file()).await.empty_log().await;
    let copy = place.0.path().join("copy.db");
    std::fs::copy(place.file(), &copy).unwrap();
    store.commit(&put("k", b"rolled back")).await.unwrap();
    assert_eq!(value(watch.next().await.unwrap().unwrap()), b"rolled back");

    std::fs::rename(&copy, place.file()).unwrap();
    for end in ["-wal", "-shm"] {
        std::fs::remove_file(format!("{}{end}", place.file().display())).unwrap();
    }
    store.commit(&put("other", b"new")).await.unwrap();
    match watch.next().await.unwrap().unwrap() {
        ConfigEvent::Resync(entries) => {
            assert_eq!(entries.iter().map(|entry| &entry.value[..]).collect::<Vec<_>>(), [b"kept"]);
        }
        other => panic!("no gap but {other:?}"),
    }
}
