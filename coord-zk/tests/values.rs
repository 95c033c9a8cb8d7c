//! The values: hints, what is forgotten, what is lost, what it costs.

use std::time::Duration;

use coord_conformance::proxy::Loss;
use coord_core::{
    Effect, ErrorKind, FencingToken, limits,
    spi::values::{
        Change, Changes, Committed, Condition, KeyId, Prefix, Stored, Transaction, Values, Write, WriteId,
    },
};

use crate::stores::{
    fresh, hint, large, name, namespace, nodes, open, path_of, plain_server, proxy, quiet, server, shared,
    until,
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
    let Some(server) = shared() else { return };
    let url = large(&server.fresh());
    let (writer, watcher) = (open(&url).await, open(&url).await);
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
    // Those of one session come in order.
    hint(&mut other).await;
    assert!(futures_util::FutureExt::now_or_never(wakeups.next()).is_none());
    watcher.commit(&put("a/own", b"1")).await.unwrap();
    hint(&mut wakeups).await;
    watcher.commit(&transaction(vec![("a/own", Condition::Any, Change::Delete)])).await.unwrap();
    hint(&mut wakeups).await;
}

#[tokio::test]
async fn a_watch_goes_on_after_the_connection_was_lost() {
    let Some(server) = shared() else { return };
    let place = server.fresh();
    let proxy = proxy(server);
    let (writer, watcher) = (open(&large(&place)).await, open(&large(&proxy.url_of(&place))).await);
    writer.commit(&put("a", b"1")).await.unwrap();
    let mut wakeups = Values::wakeups(&*watcher, &prefix("a"));
    hint(&mut wakeups).await;
    quiet(&mut wakeups).await;
    proxy.lose(Loss::request(1).of("multiRead"));
    // Whether the driver asks again or fails is its own affair.
    let _ = Values::get(&*watcher, &key("a")).await;
    assert_eq!(proxy.counts().lost, 1);
    // What was missed is hinted at, and so is what comes.
    hint(&mut wakeups).await;
    quiet(&mut wakeups).await;
    writer.commit(&put("a", b"2")).await.unwrap();
    hint(&mut wakeups).await;
}

#[tokio::test]
async fn a_commit_is_two_requests_and_a_reading_one() {
    let Some(server) = shared() else { return };
    let proxy = proxy(server);
    let store = open(&large(&proxy.url_of(&server.fresh()))).await;
    let id = key("k");
    // The first ones make the folders. A later one forgets what is old, every 32.
    for _ in 0..200 {
        store.commit(&put("k", b"0")).await.unwrap();
    }
    let step = async |what: &str, reads: u64, multis: u64, transaction: Transaction| {
        proxy.reset_counts();
        store.commit(&transaction).await.unwrap();
        let counted = (
            proxy.counts().of("multiRead"),
            proxy.counts().of("multi"),
            proxy.counts().total() - proxy.counts().of("sync"),
        );
        assert_eq!(counted, (reads, multis, reads + multis), "{what}");
    };
    step("a put", 1, 1, put("k", b"1")).await;
    step("a fence", 1, 1, fence("f", 7)).await;
    let many: Vec<_> = (0..20).map(|number| number.to_string()).collect();
    let many = many.iter().map(|key| (key.as_str(), Condition::Any, Change::Put(b"x".to_vec()))).collect();
    step("a transaction", 1, 1, transaction(many)).await;
    let refused = transaction(vec![("k", Condition::Absent, Change::Delete)]);
    step("a refusal", 1, 0, refused).await;
    proxy.reset_counts();
    let (_, revision) = Values::get(&*store, &id).await.unwrap();
    assert_eq!(
        (proxy.counts().of("multiRead"), proxy.counts().of("sync"), proxy.counts().total()),
        (1, 1, 2),
        "a reading"
    );
    proxy.reset_counts();
    store.changes(&prefix(""), revision).await.unwrap();
    assert_eq!((proxy.counts().of("multiRead"), proxy.counts().total()), (1, 2), "nothing has changed");
    store.commit(&put("k", b"2")).await.unwrap();
    proxy.reset_counts();
    assert_eq!(all(store.changes(&prefix(""), revision).await.unwrap()).len(), 1);
    assert_eq!((proxy.counts().of("multiRead"), proxy.counts().total()), (2, 3), "one has changed");
    proxy.reset_counts();
    assert_eq!(store.list(&prefix(""), None, 21).await.unwrap().entries.len(), 21);
    assert_eq!((proxy.counts().of("multiRead"), proxy.counts().total()), (2, 3), "a page");
}

/// For every k, the request or the reply of the k-th request that writes is lost: the same transaction is done once.
#[tokio::test]
async fn a_lost_reply_is_found_again() {
    let Some(server) = shared() else { return };
    let place = server.fresh();
    let proxy = proxy(server);
    let (store, sound) = (open(&large(&proxy.url_of(&place))).await, open(&large(&place)).await);
    let mut version = done(sound.commit(&put("k", b"0")).await.unwrap());
    for (round, lose_reply) in [true, false, true, false].into_iter().enumerate() {
        let value = round.to_string();
        let write = transaction(vec![
            ("k", Condition::Version(version), Change::Put(value.clone().into())),
            ("gone", Condition::Absent, Change::Put(b"x".to_vec())),
        ]);
        if lose_reply {
            proxy.lose(Loss::reply(1).of("multi"));
        } else {
            proxy.lose(Loss::request(1).of("multi"));
        }
        let error = store.commit(&write).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error}");
        let next = done(store.commit(&write).await.unwrap());
        assert_eq!(done(store.commit(&write).await.unwrap()), next);
        assert!(next > version, "{next} came after {version}");
        let found = Values::get(&*sound, &key("k")).await.unwrap().0.unwrap();
        assert_eq!((found.value, found.version), (Some(value.into()), next));
        assert_eq!(sound.history(&key("k"), 100).await.unwrap().len(), round + 2);
        sound.commit(&transaction(vec![("gone", Condition::Any, Change::Delete)])).await.unwrap();
        version = next;
    }
    assert_eq!(proxy.counts().lost, 4);
}

#[tokio::test]
async fn a_removed_key_is_not_taken_for_the_one_that_was_there() {
    let Some(server) = shared() else { return };
    let url = large(&server.fresh());
    let (one, two) = (open(&url).await, open(&url).await);
    // Both write on condition of what they saw; removals in between bring node versions back.
    for round in 0..20 {
        let version = done(one.commit(&put("k", b"a")).await.unwrap());
        let conditional =
            |value: &[u8]| transaction(vec![("k", Condition::Version(version), Change::Put(value.to_vec()))]);
        let (first, second) = (conditional(b"1"), conditional(b"2"));
        let again = async {
            two.commit(&transaction(vec![("k", Condition::Any, Change::Delete)])).await.unwrap();
            two.commit(&put("k", b"b")).await.unwrap()
        };
        let (first, later, second) = tokio::join!(one.commit(&first), again, two.commit(&second));
        let done = [first.unwrap(), second.unwrap()]
            .iter()
            .filter(|one| matches!(one, Committed::Done { .. }))
            .count();
        assert!(done <= 1, "round {round}: two writes of one version");
        let last = Values::get(&*one, &key("k")).await.unwrap().0.unwrap();
        assert_eq!(last.value.as_deref(), Some(&b"b"[..]), "round {round}: {later:?} was overwritten");
        one.commit(&transaction(vec![("k", Condition::Any, Change::Delete)])).await.unwrap();
    }
}

/// Clients add to two keys at once, on condition of their versions or not at all.
#[tokio::test]
async fn no_update_is_lost_and_none_is_half_done() {
    let Some(server) = shared() else { return };
    let url = large(&server.fresh());
    let (clients, times) = (4, 15);
    let mut tasks = Vec::new();
    for _ in 0..clients {
        let store = open(&url).await;
        tasks.push(tokio::spawn(async move {
            for _ in 0..times {
                loop {
                    let read = async |name: &str| {
                        let found = Values::get(&*store, &key(name)).await.unwrap().0;
                        let number = |value: &[u8]| String::from_utf8_lossy(value).parse::<u64>().unwrap();
                        found.map_or((Condition::Absent, 0), |found| {
                            (Condition::Version(found.version), number(&found.value.unwrap()))
                        })
                    };
                    let ((at_a, a), (at_b, b)) = (read("a").await, read("b").await);
                    let put = |number: u64| Change::Put((number + 1).to_string().into());
                    let both = transaction(vec![("a", at_a, put(a)), ("b", at_b, put(b))]);
                    if let Committed::Done { .. } = store.commit(&both).await.unwrap() {
                        assert_eq!(a, b);
                        break;
                    }
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let store = open(&url).await;
    let sum = (clients * times).to_string().into_bytes();
    for name in ["a", "b"] {
        assert_eq!(Values::get(&*store, &key(name)).await.unwrap().0.unwrap().value, Some(sum.clone()));
    }
}

#[tokio::test]
async fn what_is_long_past_is_forgotten_and_said_to_be() {
    let Some(server) = shared() else { return };
    let store = fresh(server).await;
    let start = done(store.commit(&put("other", b"x")).await.unwrap());
    let mut versions = Vec::new();
    for number in 0..1_100u32 {
        versions.push(done(store.commit(&put("k", &number.to_be_bytes())).await.unwrap()));
    }
    assert_eq!(store.changes(&prefix(""), start).await.unwrap(), Changes::Gap);
    let states = store.history(&key("k"), 2_000).await.unwrap();
    // Somebody forgets every 32 commits.
    assert!((1_000..1_032).contains(&states.len()), "{} states", states.len());
    assert_eq!(states[0].value.as_deref(), Some(&1_099u32.to_be_bytes()[..]));
    let changes = all(store.changes(&prefix("k"), states[10].version).await.unwrap());
    assert_eq!(changes, states[..1]);
    // The last that it does not know any more is the last that need not be known.
    let oldest = states.last().unwrap().version;
    assert_eq!(all(store.changes(&prefix(""), oldest).await.unwrap()), states[..1]);
    let place = versions.binary_search(&oldest).unwrap();
    assert_eq!(store.changes(&prefix(""), versions[place - 2]).await.unwrap(), Changes::Gap);
}

#[tokio::test]
async fn large_changes_are_forgotten_earlier() {
    let Some(server) = shared() else { return };
    let store = fresh(server).await;
    let value = vec![7; limits::MAX_VALUE];
    for number in 0..200 {
        store.commit(&put(&format!("{}", number % 3), &value)).await.unwrap();
    }
    let mut states = 0;
    for key in ["0", "1", "2"] {
        states += store.history(&self::key(key), 1_000).await.unwrap().len();
    }
    assert!((120..165).contains(&states), "{states} states of 64 KiB");
}

#[tokio::test]
async fn a_page_of_large_values_ends_early_and_nothing_is_left_out() {
    let Some(server) = shared() else { return };
    let store = fresh(server).await;
    let value = vec![7; limits::MAX_VALUE];
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
async fn a_killed_server_comes_back_with_its_values() {
    let Some(mut server) = server() else { return };
    let store = fresh(&server).await;
    let before = done(store.commit(&put("k", b"1")).await.unwrap());
    let second = transaction(vec![
        ("k", Condition::Version(before), Change::Delete),
        ("fenced", Condition::Token(FencingToken::new(7).unwrap()), Change::Put(b"2".to_vec())),
    ]);
    let revision = done(store.commit(&second).await.unwrap());
    server.restart().unwrap();
    // The same client finds its way back.
    let again = async || matches!(store.commit(&second).await, Ok(Committed::Done { revision: found }) if found == revision);
    until("the transaction after the restart", again).await;
    assert_eq!(all(store.changes(&prefix(""), before).await.unwrap()).len(), 2);
    assert!(matches!(store.commit(&fence("fenced", 6)).await.unwrap(), Committed::Refused { at: 0, .. }));
    assert_eq!(Values::get(&*store, &key("k")).await.unwrap(), (None, revision));
    assert!(done(store.commit(&put("k", b"3")).await.unwrap()) > revision);
}

#[tokio::test]
async fn a_stopped_server_fails_every_call_by_its_deadline() {
    let Some(server) = server() else { return };
    let store = open(&format!("{}?timeout=1", server.fresh())).await;
    store.commit(&put("k", b"1")).await.unwrap();
    server.stop().unwrap();
    // The signal takes a moment to reach it.
    until("the silence", async || Values::get(&*store, &key("k")).await.is_err()).await;
    let late = put("k", b"2");
    let calls = async {
        let error = store.commit(&late).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let error = Values::get(&*store, &key("k")).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error}");
        store.list(&prefix(""), None, 10).await.unwrap_err();
        store.changes(&prefix(""), 0).await.unwrap_err();
        store.history(&key("k"), 10).await.unwrap_err();
    };
    tokio::time::timeout(Duration::from_secs(20), calls).await.expect("answers within deadlines");
    server.resume().unwrap();
    until("the value after all", async || store.commit(&late).await.is_ok()).await;
    assert_eq!(store.history(&key("k"), 10).await.unwrap().len(), 2);
}

/// Servers as they come take requests of a megabyte, and drop the connection of who sends more.
#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_sent() {
    let Some(server) = plain_server() else { return };
    let proxy = proxy(&server);
    let store = open(&proxy.url_of(&server.fresh())).await;
    let keys: Vec<_> = (0..16).map(|number| number.to_string()).collect();
    let of = |count: usize| {
        let value = Change::Put(vec![7; limits::MAX_VALUE]);
        transaction(keys[..count].iter().map(|key| (key.as_str(), Condition::Any, value.clone())).collect())
    };
    // Each value is sent twice.
    done(store.commit(&of(7)).await.unwrap());
    let before = proxy.counts().of("multi");
    for count in [8, 16] {
        let error = store.commit(&of(count)).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::TooLarge, Effect::None), "{error}");
    }
    assert_eq!(proxy.counts().of("multi"), before, "it was sent");
    // The connection is as good as before.
    done(store.commit(&of(1)).await.unwrap());
}

#[tokio::test]
async fn nothing_is_left_behind_but_what_is_forgotten_later() {
    let Some(server) = server() else { return };
    let place = server.fresh();
    let store = open(&large(&place)).await;
    for number in 0..100 {
        let key = number.to_string();
        store.commit(&put(&key, b"1")).await.unwrap();
        store.commit(&transaction(vec![(&key, Condition::Any, Change::Delete)])).await.unwrap();
    }
    let root = format!("{}/coord/default/config", path_of(&place));
    let nodes = nodes(&server, &root).await;
    let below = |part: &str| nodes.iter().filter(|node| node.starts_with(&format!("{root}/{part}/"))).count();
    assert_eq!(below("keys"), 0, "{nodes:?}");
    assert_eq!(below("log"), 200);
    // Sixteen folders, and one node for each transaction of the last two minutes.
    assert!(below("done") <= 216, "{}", below("done"));
    assert_eq!(nodes.len() - below("log") - below("done"), 5);
}
