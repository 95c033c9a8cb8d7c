//! What operations cost, and what is left of names that were used.

use std::time::Duration;

use coord_core::{
    FencingToken,
    spi::{
        Claim, ClaimId, Claims, Renewal,
        jobs::{Jobs, Push, Pushed, Settled, Word},
        values::{Change, Committed, Condition, Values},
    },
};
use coord_sql::fence;
use sqlx::Connection;

use crate::common::{
    LONG, Place, claim, granted, line,
    probe::{Probe, transactions},
    waiting,
    words::{item, key, push, put, queue, receive, say, transaction},
};

const SHORT: Duration = Duration::from_millis(150);

#[tokio::test]
async fn each_operation_is_one_transaction() {
    let place = Place::new();
    let store = place.open().await;
    let mut probe = Probe::of(&place.file()).await;
    let line = line("cost");
    let (a, b) = (claim(&line), claim(&line));

    probe.empty_log().await;
    let grant = granted(store.claim(&a).await.unwrap());
    assert_eq!(transactions(&place), 1, "an uncontended claim");
    probe.empty_log().await;
    waiting(store.claim(&b).await.unwrap());
    assert_eq!(transactions(&place), 1, "joining the line");
    probe.empty_log().await;
    store.set_value(&grant, b"other").await.unwrap();
    assert_eq!(transactions(&place), 1, "a new value");
    probe.empty_log().await;
    store.withdraw(&line, a.id).await.unwrap();
    assert_eq!(transactions(&place), 1, "a withdrawal");
    probe.empty_log().await;
    granted(store.claim(&b).await.unwrap());
    assert_eq!(transactions(&place), 1, "the grant of one that waited");
    probe.empty_log().await;
    store.line(&line).await.unwrap();
    store.claim(&Claim { wait: false, ..claim(&line) }).await.unwrap();
    store.withdraw(&line, ClaimId::random()).await.unwrap();
    assert_eq!(transactions(&place), 0, "nothing changed");
}

#[tokio::test]
async fn each_operation_of_a_queue_is_one_transaction() {
    let place = Place::new();
    let store = place.open().await;
    let mut probe = Probe::of(&place.file()).await;
    let queue = queue("cost");
    for count in [1, 100] {
        let nack = Word::Nack { delay: Duration::ZERO, max_attempts: None };
        let deadly = Word::Nack { delay: Duration::ZERO, max_attempts: Some(1) };
        let pushed = Push { capacity: Some(1_000), ..push(&queue, (0..count).map(|_| item(b"x")).collect()) };
        probe.empty_log().await;
        assert_eq!(store.push(&pushed).await.unwrap(), Pushed::Done { new: count });
        assert_eq!(transactions(&place), 1, "a push of {count}");
        for (word, what) in [
            (Word::Return, "returning"),
            (nack, "a nack of"),
            (Word::Extend(LONG * 2), "extending"),
            (Word::Ack, "an ack of"),
        ] {
            let held = store.receive(&receive(&queue, 100)).await.unwrap().deliveries;
            // What is extended is still in hand and has to be given back for the next word.
            let said: Vec<_> = held.iter().map(|delivered| say(delivered, word.clone())).collect();
            probe.empty_log().await;
            let settled = store.settle(&queue, &said).await.unwrap();
            assert_eq!(transactions(&place), 1, "{what} {count}");
            assert_eq!(settled, vec![Settled::Done; held.len()]);
            assert_eq!(held.len() as u64, count, "{what}");
            if matches!(word, Word::Extend(_)) {
                let back: Vec<_> = held.iter().map(|delivered| say(delivered, Word::Return)).collect();
                store.settle(&queue, &back).await.unwrap();
            }
        }
        store.push(&push(&queue, (0..count).map(|_| item(b"x")).collect())).await.unwrap();
        probe.empty_log().await;
        let held = store.receive(&receive(&queue, 100)).await.unwrap().deliveries;
        assert_eq!((transactions(&place), held.len() as u64), (1, count), "a receive of {count}");
        let said: Vec<_> = held.iter().map(|delivered| say(delivered, deadly.clone())).collect();
        probe.empty_log().await;
        store.settle(&queue, &said).await.unwrap();
        assert_eq!(transactions(&place), 1, "burying {count}");
        let dead: Vec<_> = held.iter().map(|delivered| delivered.id).collect();
        probe.empty_log().await;
        assert_eq!(store.requeue(&queue, &dead).await.unwrap(), count);
        assert_eq!(transactions(&place), 1, "putting {count} back");
        probe.empty_log().await;
        assert_eq!(store.purge(&queue).await.unwrap(), count);
        assert_eq!(transactions(&place), 1, "a purge of {count}");
    }
    probe.empty_log().await;
    assert!(store.receive(&receive(&queue, 1)).await.unwrap().deliveries.is_empty());
    store.stats(&queue).await.unwrap();
    store.dead(&queue, None, 10).await.unwrap();
    assert_eq!(transactions(&place), 0, "nothing changed");
}

#[tokio::test]
async fn each_operation_on_values_is_one_transaction() {
    let place = Place::new();
    let store = place.open().await;
    let mut probe = Probe::of(&place.file()).await;
    let names: Vec<_> = (0..100).map(|number| format!("key {number}")).collect();
    let all = |change: &Change| {
        transaction(names.iter().map(|name| (name.as_str(), Condition::Any, change.clone())).collect())
    };
    let token = Condition::Token(FencingToken::new(7).unwrap());
    for (what, written) in [
        ("a put", put("a", b"1")),
        ("a delete", transaction(vec![("a", Condition::Any, Change::Delete)])),
        ("a put if absent", transaction(vec![("a", Condition::Absent, Change::Put(vec![2]))])),
        ("raising a mark", transaction(vec![("f", token, Change::Fence)])),
        ("a fenced put", transaction(vec![("f", token, Change::Put(vec![1]))])),
        ("a hundred puts", all(&Change::Put(vec![1]))),
        ("a hundred deletes", all(&Change::Delete)),
    ] {
        probe.empty_log().await;
        let done = store.commit(&written).await.unwrap();
        assert!(matches!(done, Committed::Done { .. }), "{what}: {done:?}");
        assert_eq!(transactions(&place), 1, "{what}");
    }
    probe.empty_log().await;
    let refused = store.commit(&transaction(vec![("a", Condition::Absent, Change::Delete)])).await.unwrap();
    assert!(matches!(refused, Committed::Refused { at: 0, .. }), "{refused:?}");
    let (_, revision) = Values::get(&*store, &key("a")).await.unwrap();
    store.history(&key("a"), 10).await.unwrap();
    let prefix = coord_core::spi::values::Prefix { namespace: key("a").namespace, text: String::new() };
    store.list(&prefix, None, 100).await.unwrap();
    store.changes(&prefix, revision).await.unwrap();
    assert_eq!(transactions(&place), 0, "nothing changed");
}

#[tokio::test]
async fn a_fence_joins_the_transaction_of_its_caller() {
    let place = Place::new();
    let _store = place.open().await;
    let mut probe = Probe::of(&place.file()).await;
    probe.change("CREATE TABLE accounts (name TEXT PRIMARY KEY, balance INTEGER)").await;
    for number in 1..4 {
        probe.empty_log().await;
        let mut transaction = probe.0.begin_with("BEGIN IMMEDIATE").await.unwrap();
        fence(&mut transaction, "account 7", FencingToken::new(number).unwrap()).await.unwrap();
        sqlx::query("INSERT INTO accounts VALUES ('7', 1) ON CONFLICT DO UPDATE SET balance = balance + 1")
            .execute(&mut *transaction)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(transactions(&place), 1);
    }
}

#[tokio::test]
async fn renewing_a_thousand_grants_is_one_transaction() {
    let place = Place::new();
    let store = place.open().await;
    let mut grants = Vec::new();
    for number in 0..1_000 {
        grants.push(granted(store.claim(&claim(&line(&format!("lock {number}")))).await.unwrap()));
    }
    store.withdraw(&grants[500].line, grants[500].id).await.unwrap();
    let mut probe = Probe::of(&place.file()).await;
    probe.empty_log().await;
    let renewals = store.renew(&grants).await.unwrap();
    assert_eq!(transactions(&place), 1);
    for (number, renewal) in renewals.into_iter().enumerate() {
        assert_eq!(renewal, if number == 500 { Renewal::Lost } else { Renewal::Renewed }, "{number}");
    }
}

#[tokio::test]
async fn names_that_were_used_leave_nothing() {
    let place = Place::new();
    let store = place.open().await;
    let mut probe = Probe::of(&place.file()).await;
    let mut last = None;
    let mut pages = 0;
    for number in 0..3_000 {
        let claim = claim(&line(&format!("{} {number}", "a long name ".repeat(10))));
        let grant = granted(store.claim(&claim).await.unwrap());
        assert!(last < Some(grant.token));
        last = Some(grant.token);
        store.withdraw(&claim.line, claim.id).await.unwrap();
        if number == 50 {
            pages = probe.number("PRAGMA page_count").await;
        }
    }
    assert_eq!(probe.number("SELECT count(*) FROM coord_claims").await, 0);
    assert_eq!(probe.number("SELECT count(*) FROM coord_watches").await, 0);
    assert_eq!(probe.number("SELECT count(*) FROM coord_counters").await, 1);
    // No growth at all with the number of names, be it three thousand or a million.
    assert_eq!(probe.number("PRAGMA page_count").await, pages);
}

#[tokio::test]
async fn what_a_crashed_client_left_is_purged_on_the_way() {
    let place = Place::new();
    let crashed = place.open().await;
    for number in 0..200 {
        let claim = Claim { ttl: SHORT, ..claim(&line(&format!("crashed {number}"))) };
        granted(crashed.claim(&claim).await.unwrap());
    }
    drop(crashed);
    tokio::time::sleep(SHORT * 2).await;
    let store = place.open().await;
    let mut probe = Probe::of(&place.file()).await;
    for number in 0..4 {
        let claim = claim(&line(&format!("other {number}")));
        granted(store.claim(&claim).await.unwrap());
        store.withdraw(&claim.line, claim.id).await.unwrap();
    }
    assert_eq!(probe.number("SELECT count(*) FROM coord_claims").await, 0);
}
