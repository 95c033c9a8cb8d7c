//! The values: hints, what is forgotten, what is lost, what it costs.

use std::{sync::Arc, time::Duration};

use coord_conformance::servers::{EtcdCluster, EtcdOptions, found};
use coord_core::{
    Change, ConfigEvent, ConfigStore, Coordinator, Effect, ErrorKind, FencingToken,
    memory::Store as Memory,
    spi::values::{
        Changes, Committed, Condition, KeyId, Prefix, Stored, Transaction, Values, Write, WriteId,
    },
};
use coord_etcd::Store;

use crate::stores::{
    Slow, brittle, calls, compact, hint, keys, left, more, name, namespace, open, open_by, plain_server,
    quiet, raw, server, stop,
};

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

fn delete(key: &str) -> Transaction {
    transaction(vec![(key, Condition::Any, Change::Delete)])
}

fn token(number: u64) -> Condition {
    Condition::Token(FencingToken::new(number).unwrap())
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

fn text(stored: &Stored) -> String {
    String::from_utf8(stored.value.clone().unwrap()).unwrap()
}

#[tokio::test]
async fn an_operation_is_one_request() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    // The first one asks for a lease on which ids are remembered.
    store.commit(&put("k", b"0")).await.unwrap();
    let methods = ["Txn", "Range", "Put", "DeleteRange", "LeaseGrant", "LeaseRevoke"];
    let before = calls(&server, methods);
    let version = done(store.commit(&put("k", b"1")).await.unwrap());
    done(
        store
            .commit(&transaction(vec![("k", Condition::Version(version), Change::Put(Vec::new()))]))
            .await
            .unwrap(),
    );
    let refused = transaction(vec![("k", Condition::Absent, Change::Put(Vec::new()))]);
    assert!(matches!(store.commit(&refused).await.unwrap(), Committed::Refused { .. }));
    done(store.commit(&delete("k")).await.unwrap());
    done(store.commit(&transaction(vec![("f", token(5), Change::Fence)])).await.unwrap());
    done(store.commit(&transaction(vec![("f", token(6), Change::Put(Vec::new()))])).await.unwrap());
    let names: Vec<_> = (0..40).map(|number| format!("many {number}")).collect();
    let many = names.iter().map(|name| (name.as_str(), Condition::Absent, Change::Put(Vec::new())));
    done(store.commit(&transaction(many.collect())).await.unwrap());
    Values::get(&*store, &key("k")).await.unwrap();
    assert_eq!(store.list(&prefix(""), None, 1_000).await.unwrap().entries.len(), 41);
    assert_eq!(all(store.changes(&prefix(""), 0).await.unwrap()).len(), 42);
    assert_eq!(store.history(&key("f"), 1).await.unwrap().len(), 1);
    assert_eq!(more(&server, methods, before), [11, 0, 0, 0, 0, 0]);
    // Tokens of several keys are looked at first.
    let before = calls(&server, methods);
    let both = vec![("f", token(6), Change::Delete), ("g", token(1), Change::Put(Vec::new()))];
    done(store.commit(&transaction(both)).await.unwrap());
    assert_eq!(more(&server, methods, before), [2, 0, 0, 0, 0, 0]);
}

/// As servers are installed, they take 128 operations, and 1.5 MB.
#[tokio::test]
async fn large_transactions_fit_a_server_as_it_is_installed() {
    let Some(server) = plain_server() else { return };
    let store = open(&server).await;
    let names: Vec<_> = (0..1_000).map(|number| format!("name {number}")).collect();
    let all_of = |condition: Condition, change: Change| {
        transaction(names.iter().map(|name| (name.as_str(), condition, change.clone())).collect())
    };
    let first = done(store.commit(&all_of(Condition::Absent, Change::Put(vec![7; 1_048]))).await.unwrap());
    done(store.commit(&all_of(Condition::Version(first), Change::Put(b"2".to_vec()))).await.unwrap());
    done(store.commit(&all_of(token(5), Change::Put(b"3".to_vec()))).await.unwrap());
    // One of them has another mark: nothing is done.
    done(store.commit(&transaction(vec![("name 500", token(9), Change::Fence)])).await.unwrap());
    let Committed::Refused { at, found } = store.commit(&all_of(token(8), Change::Delete)).await.unwrap()
    else {
        panic!("a lower token was taken")
    };
    assert_eq!((at, found.unwrap().mark), (500, FencingToken::new(9).ok()));
    assert_eq!(store.list(&prefix(""), None, 1_000).await.unwrap().entries.len(), 1_000);
    let deletion = all_of(token(9), Change::Delete);
    let revision = done(store.commit(&deletion).await.unwrap());
    assert_eq!(done(store.commit(&deletion).await.unwrap()), revision, "it was done twice");
    assert!(store.list(&prefix(""), None, 1).await.unwrap().entries.is_empty());
    assert_eq!(all(store.changes(&prefix(""), revision - 1).await.unwrap()).len(), 1_000);

    // With names as long as they may be, it is more than a request may have.
    let long: Vec<_> = (0..1_000).map(|number| format!("{number:0250}")).collect();
    let much = long.iter().map(|name| (name.as_str(), Condition::Any, Change::Put(vec![7; 1_048])));
    let error = store.commit(&transaction(much.collect())).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::TooLarge, Effect::None), "{error}");
    assert!(error.to_string().contains("--max-request-bytes"), "{error}");
    assert!(store.list(&prefix("0"), None, 1).await.unwrap().entries.is_empty());
}

/// Clients move amounts between many keys, each time by one transaction over all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_over_many_keys_are_atomic() {
    let Some(server) = plain_server() else { return };
    for keys in [3, 60] {
        let names: Arc<Vec<_>> = Arc::new((0..keys).map(|number| format!("{keys} {number:02}")).collect());
        let store = open(&server).await;
        let fill = names.iter().map(|name| (name.as_str(), Condition::Any, Change::Put(b"100".to_vec())));
        store.commit(&transaction(fill.collect())).await.unwrap();
        let mut work = tokio::task::JoinSet::new();
        for seed in 0..3 {
            let (store, names) = (open(&server).await, Arc::clone(&names));
            work.spawn(async move {
                let (mut random, mut moved) = (fastrand::Rng::with_seed(seed), 0);
                while moved < 10 {
                    let read = store.list(&prefix(&format!("{keys} ")), None, 1_000).await.unwrap();
                    let mut amounts: Vec<i64> = read
                        .entries
                        .iter()
                        .map(|entry| {
                            String::from_utf8(entry.value.clone().unwrap()).unwrap().parse().unwrap()
                        })
                        .collect();
                    let (from, to) = (random.usize(..names.len()), random.usize(..names.len()));
                    amounts[from] -= 1;
                    amounts[to] += 1;
                    let writes =
                        names.iter().zip(&read.entries).zip(&amounts).map(|((name, entry), amount)| {
                            let change = Change::Put(amount.to_string().into_bytes());
                            (name.as_str(), Condition::Version(entry.version), change)
                        });
                    moved += u32::from(matches!(
                        store.commit(&transaction(writes.collect())).await.unwrap(),
                        Committed::Done { .. }
                    ));
                }
            });
        }
        while let Some(worker) = work.join_next().await {
            worker.unwrap();
        }
        let read = store.list(&prefix(&format!("{keys} ")), None, 1_000).await.unwrap();
        let amounts = read.entries.iter().map(|entry| entry.value.clone().unwrap());
        let sum: i64 = amounts.map(|value| String::from_utf8(value).unwrap().parse::<i64>().unwrap()).sum();
        assert_eq!(sum, 100 * keys);
        assert_eq!(store.history(&key(&names[0]), 1_000).await.unwrap().len(), 31);
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
    writer.commit(&delete("a/key")).await.unwrap();
    hint(&mut wakeups).await;
    writer.commit(&put("a", b"1")).await.unwrap();
    writer.commit(&transaction(vec![("a/key", token(1), Change::Fence)])).await.unwrap();
    writer.commit(&put("ba/", b"1")).await.unwrap();
    // Those of one stream come in order.
    hint(&mut other).await;
    assert!(futures_util::FutureExt::now_or_never(wakeups.next()).is_none());
    watcher.commit(&put("a/own", b"1")).await.unwrap();
    hint(&mut wakeups).await;
}

/// The server forgets the past while somebody watches, and while somebody is away. Nothing is missed; only the history is shorter.
#[tokio::test]
async fn a_compaction_loses_no_change() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let client =
        Coordinator::builder(Arc::new(Memory::new().connect())).values(store.clone()).build().unwrap();
    let mut watch = client.watch_prefix("");
    assert!(matches!(watch.next().await.unwrap().unwrap(), ConfigEvent::Snapshot(all) if all.is_empty()));
    let start = Values::get(&*store, &key("a")).await.unwrap().1;
    for value in [b"1", b"2", b"3"] {
        store.commit(&put("a", value)).await.unwrap();
    }
    store.commit(&put("b", b"1")).await.unwrap();
    let deletion = done(store.commit(&delete("b")).await.unwrap());
    compact(&server).await;
    let last = done(store.commit(&put("a", b"4")).await.unwrap());
    let changes = all(store.changes(&prefix(""), start).await.unwrap());
    let versions: Vec<_> = changes.iter().map(|stored| (stored.key.as_str(), stored.version)).collect();
    assert_eq!(versions, [("b", deletion), ("a", last)]);
    let states = store.history(&key("a"), 10).await.unwrap();
    assert_eq!(
        states.iter().map(|state| state.value.as_deref()).collect::<Vec<_>>(),
        [Some(&b"4"[..]), Some(b"3")]
    );
    let hearing = async {
        while !matches!(watch.next().await.unwrap().unwrap(), ConfigEvent::Put(entry) if entry.value == b"4")
        {
        }
    };
    tokio::time::timeout(Duration::from_secs(20), hearing).await.expect("the last state");
}

#[tokio::test]
async fn who_was_away_for_a_thousand_deletions_reads_anew() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let client =
        Coordinator::builder(Arc::new(Memory::new().connect())).values(store.clone()).build().unwrap();
    let names: Vec<_> = (0..1_000).map(|number| format!("{number:03}")).collect();
    let fill = |names: &[String]| {
        transaction(
            names.iter().map(|name| (name.as_str(), Condition::Any, Change::Put(Vec::new()))).collect(),
        )
    };
    done(store.commit(&fill(&names)).await.unwrap());
    let start = done(store.commit(&put("first", b"1")).await.unwrap());
    // It looks only when it is asked for the next event.
    let mut watch = client.watch_prefix("");
    assert!(matches!(watch.next().await.unwrap().unwrap(), ConfigEvent::Snapshot(all) if all.len() == 1_001));
    let first = done(store.commit(&delete("first")).await.unwrap());
    let clear = |names: &[String]| {
        transaction(names.iter().map(|name| (name.as_str(), Condition::Any, Change::Delete)).collect())
    };
    done(store.commit(&clear(&names[..999])).await.unwrap());
    // All are remembered yet.
    assert_eq!(all(store.changes(&prefix(""), start).await.unwrap()).len(), 1_000);
    let more: Vec<_> = (0..200).map(|number| format!("more {number:03}")).collect();
    done(store.commit(&fill(&more)).await.unwrap());
    let last = done(store.commit(&clear(&more)).await.unwrap());
    assert_eq!(keys(&server, "coord/g/").await.len(), 1_000);
    assert_eq!(store.changes(&prefix(""), start).await.unwrap(), Changes::Gap);
    assert_eq!(store.changes(&prefix(""), first - 1).await.unwrap(), Changes::Gap);
    assert_eq!(all(store.changes(&prefix(""), last - 1).await.unwrap()).len(), 200);
    assert!(all(store.changes(&prefix(""), last).await.unwrap()).is_empty());
    match tokio::time::timeout(Duration::from_secs(20), watch.next()).await.unwrap().unwrap().unwrap() {
        ConfigEvent::Resync(entries) => {
            assert_eq!(entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["999"]);
        }
        event => panic!("{event:?}"),
    }
}

/// A key is deleted, and a thousand others, so that nothing is left of it, while a transaction that wants its version is under way.
#[tokio::test]
async fn a_deletion_that_is_forgotten_meanwhile_is_not_overlooked() {
    let Some(server) = server() else { return };
    let (quick, slow) = (open(&server).await, Slow::open(&server).await);
    let names = |stem: &str, count: u32| (0..count).map(|number| format!("{stem} {number:03}")).collect();
    let [mine, others, more]: [Vec<String>; 3] = [names("a", 60), names("b", 999), names("c", 200)];
    let write = |names: &[String], condition, change: &Change| {
        transaction(names.iter().map(|name| (name.as_str(), condition, change.clone())).collect())
    };
    for names in [&mine, &others, &more] {
        let fill = write(names, Condition::Any, &Change::Put(Vec::new()));
        done(quick.commit(&fill).await.unwrap());
    }
    let version = quick.get(&key(&mine[30])).await.unwrap().0.unwrap().version;
    let wanted = write(&mine, Condition::Version(version), &Change::Put(b"2".to_vec()));
    // After the look at the keys.
    let asked = slow.asked();
    let meanwhile = slow.after(asked, async {
        let gone = [&mine[30..31], &others].concat();
        for names in [&gone, &more] {
            done(quick.commit(&write(names, Condition::Any, &Change::Delete)).await.unwrap());
        }
    });
    let (committed, ()) = tokio::join!(slow.store.commit(&wanted), meanwhile);
    assert_eq!(committed.unwrap(), Committed::Refused { at: 30, found: None });
}

/// As after a copy of older data was restored.
#[tokio::test]
async fn who_saw_more_than_there_is_reads_anew() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let last = done(store.commit(&put("k", b"1")).await.unwrap());
    assert!(all(store.changes(&prefix(""), last).await.unwrap()).is_empty());
    assert_eq!(store.changes(&prefix(""), last + 1).await.unwrap(), Changes::Gap);
    assert_eq!(store.changes(&prefix(""), u64::MAX).await.unwrap(), Changes::Gap);
}

/// More changes than are read at once, many of them of one revision.
#[tokio::test]
async fn many_changes_are_told_whole() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let mut start = Values::get(&*store, &key("k")).await.unwrap().1;
    for number in 0..100 {
        store.commit(&put(&format!("single {number:03}"), b"1")).await.unwrap();
    }
    let names: Vec<_> = (0..1_000).map(|number| format!("many {number:03}")).collect();
    let fill = names.iter().map(|name| (name.as_str(), Condition::Any, Change::Put(Vec::new())));
    store.commit(&transaction(fill.collect())).await.unwrap();
    for number in 0..300 {
        store.commit(&put(&format!("single {:03}", number % 150), b"2")).await.unwrap();
    }
    let changes = all(store.changes(&prefix(""), start).await.unwrap());
    assert_eq!(changes.len(), 1_150);
    assert!(changes.is_sorted_by_key(|stored| stored.version));
    start = changes[900].version;
    let rest = all(store.changes(&prefix(""), start).await.unwrap());
    assert_eq!(rest.len(), 150, "those that were changed after the thousand");
}

#[tokio::test]
async fn a_page_of_large_values_ends_early_and_nothing_is_left_out() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let value = vec![7; 64 * 1024];
    for number in 0..200 {
        store.commit(&put(&format!("{number:03}"), &value)).await.unwrap();
        // Marks of keys without a value stand in between.
        store
            .commit(&transaction(vec![(&format!("{number:03}x"), token(number + 1), Change::Fence)]))
            .await
            .unwrap();
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
    assert!(pages > 1 && seen.len() == 200 && seen.is_sorted(), "{pages} pages, {seen:?}");
}

/// The server is stopped with a transaction under way: nobody knows what becomes of it, and sent again it is done once.
#[tokio::test]
async fn a_transaction_without_an_answer_is_done_once() {
    let Some(server) = server() else { return };
    let store = Store::open(format!("{}?timeout=1", server.url())).await.unwrap();
    store.commit(&put("k", b"0")).await.unwrap();
    for round in 1..=3 {
        let writes: Vec<_> =
            (0..round).map(|key| (["k", "l", "m"][key], Condition::Any, Change::Put(Vec::new()))).collect();
        let transaction = transaction(writes);
        stop(&server).await;
        let error = store.commit(&transaction).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error}");
        server.resume().unwrap();
        let committing = async {
            loop {
                match store.commit(&transaction).await {
                    Ok(committed) => break done(committed),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
                }
            }
        };
        let revision = tokio::time::timeout(Duration::from_secs(20), committing).await.unwrap();
        assert_eq!(done(store.commit(&transaction).await.unwrap()), revision);
        assert_eq!(store.history(&key("k"), 10).await.unwrap().len(), round + 1);
    }
}

#[tokio::test]
async fn a_killed_server_comes_back_with_its_values() {
    let Some(mut server) = server() else { return };
    let store = open(&server).await;
    let before = done(store.commit(&put("k", b"1")).await.unwrap());
    let second = transaction(vec![
        ("k", Condition::Version(before), Change::Delete),
        ("fenced", token(7), Change::Put(b"2".to_vec())),
    ]);
    let revision = done(store.commit(&second).await.unwrap());
    server.restart().unwrap();
    // By the connections that it had.
    assert_eq!(done(store.commit(&second).await.unwrap()), revision);
    assert_eq!(all(store.changes(&prefix(""), before).await.unwrap()).len(), 2);
    let lower = transaction(vec![("fenced", token(6), Change::Fence)]);
    assert!(matches!(store.commit(&lower).await.unwrap(), Committed::Refused { at: 0, .. }));
    assert_eq!(Values::get(&*store, &key("k")).await.unwrap(), (None, revision));
}

#[tokio::test]
async fn a_watch_goes_on_after_the_server_was_away() {
    let Some(mut server) = server() else { return };
    let (writer, store) = (open(&server).await, open(&server).await);
    let client = Coordinator::builder(Arc::new(Memory::new().connect())).values(store).build().unwrap();
    writer.commit(&put("a", b"1")).await.unwrap();
    let mut watch = client.watch_prefix("");
    assert!(matches!(watch.next().await.unwrap().unwrap(), ConfigEvent::Snapshot(all) if all.len() == 1));
    server.restart().unwrap();
    for value in [b"2", b"3"] {
        let version = done(writer.commit(&put("a", value)).await.unwrap());
        match tokio::time::timeout(Duration::from_secs(20), watch.next()).await.unwrap().unwrap().unwrap() {
            ConfigEvent::Put(entry) => assert_eq!((entry.version, &entry.value[..]), (version, &value[..])),
            event => panic!("{event:?}"),
        }
    }
}

/// Requests and replies are lost with their connections, those of requests within an operation too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_break_lose_and_double_nothing() {
    let Some(server) = server() else { return };
    let way = Arc::new(brittle(&server, Duration::from_millis(40)));
    let mut work = tokio::task::JoinSet::new();
    for client in 0..3_u8 {
        let (store, way) = (open_by(&way).await, Arc::clone(&way));
        work.spawn(async move {
            let mut number = 0_u8;
            // However fast the server is, many connections break meanwhile.
            while number < 50 || way.counts().resets <= 20 {
                let log = format!("log {client}");
                let mut writes = vec![(log.as_str(), Condition::Any, Change::Put(vec![number]))];
                if number % 3 == 1 {
                    // It is read first, and others write it too.
                    writes.push(("mark", token(1), Change::Put(vec![number])));
                }
                if number % 5 == 4 {
                    writes[0].2 = Change::Delete;
                }
                let transaction = transaction(writes);
                let committed = loop {
                    match store.commit(&transaction).await {
                        Ok(committed) => break committed,
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
                    }
                };
                done(committed);
                number = number.checked_add(1).expect("connections break all the time");
            }
            (client, number)
        });
    }
    let (store, mut marks) = (open(&server).await, 0);
    while let Some(worker) = work.join_next().await {
        let (client, numbers) = worker.unwrap();
        let states = store.history(&key(&format!("log {client}")), 1_000).await.unwrap();
        let states: Vec<_> = states.iter().rev().map(|state| state.value.clone()).collect();
        let expected: Vec<_> = (0..numbers).map(|number| (number % 5 != 4).then(|| vec![number])).collect();
        assert_eq!(states, expected);
        marks += (0..numbers).filter(|number| number % 3 == 1).count();
    }
    assert_eq!(store.history(&key("mark"), 1_000).await.unwrap().len(), marks);
}

/// Clients count in one key while the leader of three is killed, and the next one stopped. Each number was written once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_leader_loses_no_write() {
    let Some(mut cluster) = found(EtcdCluster::start(&EtcdOptions::default())) else { return };
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut work = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (store, stop) = (Store::open(cluster.url()).await.unwrap(), Arc::clone(&stop));
        work.spawn(async move {
            let mut counted = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let Ok((found, _)) = Values::get(&*store, &key("number")).await else { continue };
                let number = found.as_ref().map_or(0, |found| text(found).parse::<u64>().unwrap());
                let condition = found.map_or(Condition::Absent, |found| Condition::Version(found.version));
                let change = Change::Put((number + 1).to_string().into_bytes());
                // The second key, with its token, makes it a transaction in two steps.
                let mut writes = vec![("number", condition, change)];
                if counted % 2 == 1 {
                    writes.push(("mark", token(1), Change::Fence));
                }
                let transaction = transaction(writes);
                let committed = loop {
                    match store.commit(&transaction).await {
                        Ok(committed) => break committed,
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
                    }
                };
                counted += u64::from(matches!(committed, Committed::Done { .. }));
            }
            counted
        });
    }
    let a_while = || tokio::time::sleep(Duration::from_secs(1));
    a_while().await;
    let leader = cluster.leader().unwrap();
    cluster.kill(leader).unwrap();
    cluster.leader_but(leader).unwrap();
    a_while().await;
    cluster.restart(leader).unwrap();
    let leader = cluster.leader().unwrap();
    cluster.stop(leader).unwrap();
    cluster.leader_but(leader).unwrap();
    a_while().await;
    cluster.resume(leader).unwrap();
    a_while().await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut counted = 0;
    while let Some(worker) = work.join_next().await {
        counted += worker.unwrap();
    }
    let store = Store::open(cluster.url()).await.unwrap();
    let states = store.history(&key("number"), 1_000).await.unwrap();
    let number: u64 = text(&states[0]).parse().unwrap();
    assert_eq!(number, counted);
    let numbers: Vec<_> = states.iter().map(|state| text(state).parse::<u64>().unwrap()).collect();
    assert!(numbers.iter().zip((1..=number).rev()).all(|(one, other)| *one == other), "{numbers:?}");
}

/// The lease on which ids are remembered is revoked by somebody else.
#[tokio::test]
async fn a_lost_lease_of_remembered_ids_is_replaced() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    store.commit(&put("k", b"1")).await.unwrap();
    let remembered = keys(&server, "coord/w/").await;
    raw(&server).await.lease_revoke(remembered[0].lease()).await.unwrap();
    assert!(keys(&server, "coord/w/").await.is_empty());
    done(store.commit(&put("k", b"2")).await.unwrap());
    done(
        store
            .commit(&transaction(vec![("a", token(1), Change::Fence), ("b", token(1), Change::Fence)]))
            .await
            .unwrap(),
    );
    assert_eq!(keys(&server, "coord/w/").await.len(), 2);
}

#[tokio::test]
async fn a_transaction_is_remembered_for_a_while_and_then_leaves_nothing() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    for number in 0..10 {
        store.commit(&put(&format!("{number}"), b"1")).await.unwrap();
    }
    for number in 0..9 {
        store.commit(&delete(&format!("{number}"))).await.unwrap();
        store.commit(&put(&format!("{number}"), b"1")).await.unwrap();
        store.commit(&delete(&format!("{number}"))).await.unwrap();
    }
    // What was deleted is told to those who were away.
    let mut expected: Vec<_> = (0..9).map(|number| format!("coord/g/default/{number}")).collect();
    expected.push("coord/v/default/9".into());
    assert_eq!(left(&server, "").await, expected);
    let remembered = keys(&server, "coord/w/").await;
    assert_eq!(remembered.len(), 37);
    let leases: std::collections::BTreeSet<_> = remembered.iter().map(|kv| kv.lease()).collect();
    assert_eq!(leases.len(), 1, "they share a lease");
    for lease in leases {
        let left = raw(&server).await.lease_time_to_live(lease, None).await.unwrap().ttl();
        assert!((120..=250).contains(&left), "{left} s");
    }
}
