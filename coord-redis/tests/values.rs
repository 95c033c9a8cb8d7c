//! The values: hints, what is forgotten, what is lost, what it costs.

use std::{sync::Arc, time::Duration};

use coord_conformance::servers::RedisOptions;
use coord_core::{
    Change, ConfigEvent, ConfigStore, Coordinator, ErrorKind, FencingToken,
    memory::Store as Memory,
    spi::values::{
        Changes, Committed, Condition, KeyId, Prefix, Stored, Transaction, Values, Write, WriteId,
    },
};

use crate::stores::{calls, hint, keys, name, namespace, number, open, quiet, server, server_with};

fn key(text: &str) -> KeyId {
    KeyId { namespace: namespace(), key: name(text) }
}

fn prefix(text: &str) -> Prefix {
    Prefix { namespace: namespace(), text: text.into() }
}

fn transaction(writes: Vec<(&str, Condition, Change)>) -> Transaction {
    let write = |(key, condition, change)| Write { key: name(key), condition, change };
    Transaction {
        id: WriteId::random(),
        by: "tester".into(),
        namespace: namespace(),
        writes: writes.into_iter().map(write).collect(),
    }
}

fn put(key: &str, value: &[u8]) -> Transaction {
    transaction(vec![(key, Condition::Any, Change::Put(value.to_vec()))])
}

fn fence(key: &str, token: u64) -> Transaction {
    transaction(vec![(key, Condition::Token(FencingToken::new(token).unwrap()), Change::Fence)])
}

#[track_caller]
fn done(committed: Committed) -> u64 {
    match committed {
        Committed::Done { revision } => revision,
        refused => panic!("{refused:?}"),
    }
}

#[track_caller]
fn all(changes: Changes) -> Vec<Stored> {
    match changes {
        Changes::All { entries, .. } => entries,
        Changes::Gap => panic!("a gap"),
    }
}

#[tokio::test]
async fn watchers_of_a_prefix_hear_of_its_keys_and_no_others() {
    let Some(server) = server() else { return };
    let (writer, watcher) = (open(&server).await, open(&server).await);
    let mut wakeups = Values::wakeups(&*watcher, &prefix("a/"));
    let mut other = Values::wakeups(&*watcher, &prefix("b"));
    for wakeups in [&mut wakeups, &mut other] {
        hint(wakeups).await;
        quiet(wakeups).await;
    }
    writer.commit(&put("a/key", b"1")).await.unwrap();
    hint(&mut wakeups).await;
    writer.commit(&put("a", b"1")).await.unwrap();
    writer.commit(&put("ba/", b"1")).await.unwrap();
    // Those of one channel come in order.
    hint(&mut other).await;
    assert!(futures_util::FutureExt::now_or_never(wakeups.next()).is_none());
    watcher.commit(&put("a/own", b"1")).await.unwrap();
    hint(&mut wakeups).await;
    // Of many keys the names are not told.
    let many: Vec<_> = (0..100).map(|number| format!("{number} {}", "long ".repeat(40))).collect();
    let many = many.iter().map(|key| (key.as_str(), Condition::Any, Change::Put(Vec::new()))).collect();
    writer.commit(&transaction(many)).await.unwrap();
    hint(&mut other).await;
}

#[tokio::test]
async fn nothing_is_published_when_nothing_changed() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let before = calls(&server, "publish");
    let first = put("k", b"1");
    store.commit(&first).await.unwrap();
    assert_eq!(calls(&server, "publish"), before + 1);
    store.commit(&first).await.unwrap();
    let refused = transaction(vec![("k", Condition::Absent, Change::Put(b"2".to_vec()))]);
    assert!(matches!(store.commit(&refused).await.unwrap(), Committed::Refused { .. }));
    store.commit(&fence("k", 7)).await.unwrap();
    Values::get(&*store, &key("k")).await.unwrap();
    store.list(&prefix(""), None, 10).await.unwrap();
    assert_eq!(calls(&server, "publish"), before + 1);
}

#[tokio::test]
async fn every_operation_is_one_script() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    // The first time the server learns the scripts.
    for round in 0..2 {
        let before = calls(&server, "evalsha");
        store.commit(&put("k", b"1")).await.unwrap();
        Values::get(&*store, &key("k")).await.unwrap();
        store.list(&prefix(""), None, 10).await.unwrap();
        store.changes(&prefix(""), 0).await.unwrap();
        store.history(&key("k"), 10).await.unwrap();
        store.commit(&fence("k", 7)).await.unwrap();
        store.commit(&transaction(vec![("k", Condition::Any, Change::Delete)])).await.unwrap();
        if round == 1 {
            assert_eq!(calls(&server, "evalsha") - before, 7);
        }
        server.command(&["FLUSHALL"]).unwrap();
    }
}

#[tokio::test]
async fn what_is_long_past_is_forgotten_and_said_to_be() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let (_, start) = Values::get(&*store, &key("k")).await.unwrap();
    assert_eq!(all(store.changes(&prefix(""), start).await.unwrap()), []);
    for number in 0..1_100u32 {
        store.commit(&put("k", &number.to_be_bytes())).await.unwrap();
    }
    assert_eq!(store.changes(&prefix(""), start).await.unwrap(), Changes::Gap);
    let states = store.history(&key("k"), 2_000).await.unwrap();
    assert_eq!(states.len(), 1_000);
    assert_eq!(states[0].value.as_deref(), Some(&1_099u32.to_be_bytes()[..]));
    let changes = all(store.changes(&prefix("k"), states[10].version).await.unwrap());
    assert_eq!(changes, states[..1]);
    // The last that it does not know any more is the last that need not be known.
    let oldest = states[999].version;
    assert_eq!(store.changes(&prefix(""), oldest - 1).await.unwrap(), Changes::Gap);
    assert_eq!(all(store.changes(&prefix(""), oldest).await.unwrap()), states[..1]);
}

#[tokio::test]
async fn large_changes_are_forgotten_earlier() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let value = vec![7; 64 * 1024];
    for number in 0..300 {
        store.commit(&put(&format!("{}", number % 3), &value)).await.unwrap();
    }
    let states = store.history(&key("0"), 1_000).await.unwrap();
    assert!((60..90).contains(&states.len()), "{} states of 64 KiB", states.len());
    let log = number(&server, &["MEMORY", "USAGE", "coord:{default/config}:states", "SAMPLES", "0"]);
    assert!(log < 24 * 1024 * 1024, "the log takes {log} bytes");
    // A hundred small changes later the large ones are all there again, or they would not have been counted right.
    for number in 0..1_100 {
        store.commit(&put("0", format!("{number}").as_bytes())).await.unwrap();
    }
    assert_eq!(store.history(&key("0"), 2_000).await.unwrap().len(), 1_000);
    let log = number(&server, &["MEMORY", "USAGE", "coord:{default/config}:states", "SAMPLES", "0"]);
    assert!(log < 1024 * 1024, "the log takes {log} bytes");
}

#[tokio::test]
async fn a_page_of_large_values_ends_early_and_nothing_is_left_out() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let value = vec![7; 64 * 1024];
    for number in 0..100 {
        store.commit(&put(&format!("{number:03}"), &value)).await.unwrap();
    }
    let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = store.list(&prefix(""), after.as_ref(), 1_000).await.unwrap();
        assert!(page.entries.iter().all(|entry| entry.value.as_deref() == Some(&value[..])));
        seen.extend(page.entries.iter().map(|entry| entry.key.as_str().to_owned()));
        after = page.entries.last().map(|entry| entry.key.clone());
        pages += 1;
        if !page.more {
            break;
        }
    }
    assert!(pages > 1 && seen.len() == 100 && seen.is_sorted(), "{pages} pages, {seen:?}");
}

#[tokio::test]
async fn versions_go_on_growing_after_everything_is_gone() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let before = done(store.commit(&put("k", b"old")).await.unwrap());
    server.command(&["FLUSHALL"]).unwrap();
    assert_eq!(store.changes(&prefix(""), before).await.unwrap(), Changes::Gap);
    let after = done(store.commit(&put("k", b"new")).await.unwrap());
    assert!(after > before, "{after} came after {before}");
    assert_eq!(store.changes(&prefix(""), before).await.unwrap(), Changes::Gap);
    // Who saw the empty store needs to know this one change only.
    assert_eq!(all(store.changes(&prefix(""), 0).await.unwrap()).len(), 1);
}

/// The server saves its data, changes some, and is killed: it comes back without the changes.
#[tokio::test]
async fn who_saw_what_is_lost_reads_anew() {
    let Some(mut server) = server() else { return };
    let store = open(&server).await;
    let kept = done(store.commit(&put("k", b"kept")).await.unwrap());
    server.command(&["SAVE"]).unwrap();
    let lost = done(store.commit(&put("k", b"lost")).await.unwrap());
    server.restart().unwrap();
    let store = open(&server).await;
    assert_eq!(store.changes(&prefix(""), lost).await.unwrap(), Changes::Gap);
    let next = done(store.commit(&put("other", b"new")).await.unwrap());
    assert!(next > lost, "{next} came after {lost}");
    // Since then nothing else happened, but that is not all that a watcher has to learn.
    assert_eq!(store.changes(&prefix(""), lost).await.unwrap(), Changes::Gap);
    assert_eq!(all(store.changes(&prefix(""), kept).await.unwrap()).len(), 1);
    let found = Values::get(&*store, &key("k")).await.unwrap().0.unwrap();
    assert_eq!(found.value.as_deref(), Some(&b"kept"[..]));
}

#[tokio::test]
async fn a_killed_server_comes_back_with_its_values() {
    let Some(mut server) = server_with(&RedisOptions::default().with_append_only()) else { return };
    let store = open(&server).await;
    let before = done(store.commit(&put("k", b"1")).await.unwrap());
    let second = transaction(vec![
        ("k", Condition::Version(before), Change::Delete),
        ("fenced", Condition::Token(FencingToken::new(7).unwrap()), Change::Put(b"2".to_vec())),
    ]);
    let revision = done(store.commit(&second).await.unwrap());
    server.restart().unwrap();
    let store = open(&server).await;
    assert_eq!(done(store.commit(&second).await.unwrap()), revision);
    assert_eq!(all(store.changes(&prefix(""), before).await.unwrap()).len(), 2);
    assert!(matches!(store.commit(&fence("fenced", 6)).await.unwrap(), Committed::Refused { at: 0, .. }));
    assert_eq!(Values::get(&*store, &key("k")).await.unwrap(), (None, revision));
}

#[tokio::test]
async fn a_full_server_lets_values_be_deleted() {
    let Some(server) = server_with(&RedisOptions::default().with_setting("maxmemory-policy", "noeviction"))
    else {
        return;
    };
    let store = open(&server).await;
    store.commit(&put("k", b"1")).await.unwrap();
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    let error = store.commit(&put("k", b"2")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    done(store.commit(&transaction(vec![("k", Condition::Any, Change::Delete)])).await.unwrap());
    assert_eq!(Values::get(&*store, &key("k")).await.unwrap().0, None);
}

#[tokio::test]
async fn a_watch_is_told_that_everything_is_gone() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let claims = Arc::new(Memory::new().connect());
    let client = Coordinator::builder(claims).values(store.clone()).build().unwrap();
    ConfigStore::put(&client, &name("a"), b"1".to_vec(), coord_core::Condition::Any).await.unwrap();
    let mut watch = client.watch_prefix("");
    assert!(matches!(watch.next().await.unwrap().unwrap(), ConfigEvent::Snapshot(all) if all.len() == 1));
    server.command(&["FLUSHALL"]).unwrap();
    // Another namespace's change is no reason to look, and this one is.
    ConfigStore::put(&client, &name("b"), b"2".to_vec(), coord_core::Condition::Any).await.unwrap();
    let event = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.unwrap().unwrap().unwrap();
    let ConfigEvent::Resync(entries) = event else { panic!("{event:?}") };
    assert_eq!(entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[tokio::test]
async fn a_transaction_is_remembered_for_a_while_and_then_leaves_nothing() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let first = put("k", b"1");
    store.commit(&first).await.unwrap();
    store.commit(&transaction(vec![("k", Condition::Any, Change::Delete)])).await.unwrap();
    let (done, others): (Vec<_>, Vec<_>) = keys(&server).into_iter().partition(|key| key.contains("}:done:"));
    assert_eq!(done.len(), 2);
    for key in done {
        let left = number(&server, &["PTTL", &key]);
        assert!((60_000..=120_000).contains(&left), "{left} ms");
    }
    // Only what tells a watcher of the past.
    let stem = "coord:{default/config}:";
    assert_eq!(others, ["log", "meta", "states"].map(|part| format!("{stem}{part}")));
}
