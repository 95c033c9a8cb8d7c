//! Leases of deliveries and delays: when they end, and what their words are worth then.

use std::time::Duration;

use coord_core::{
    clock::Clock,
    spi::jobs::{Jobs, NewItem, QueueStats, Receive, Settled, Word},
};
use futures_util::future::join_all;

use super::{LONG, NOTHING, SHORT, grouped, item, one, push, queue, receive, say, settle};
use crate::stores::{hint, keys, open, quiet, raw, server, until};

#[tokio::test]
async fn a_lease_that_ended_makes_its_words_stale() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let queue = queue("late");
    store.push(&push(&queue, vec![item(b"a"), grouped(b"b", "g")])).await.unwrap();
    let short = Receive { visibility: SHORT, ..receive(&queue, 2) };
    let start = Clock::System.now();
    let first = store.receive(&short).await.unwrap().deliveries;
    // They end though nobody looks.
    let counted = QueueStats { ready: 2, ..NOTHING };
    until(async || store.stats(&queue).await.unwrap() == counted).await;
    assert!(Clock::System.now().since(start) >= SHORT, "they ended early");
    let words = [Word::Ack, Word::Extend(LONG), Word::Return, Word::Nack { delay: LONG, max_attempts: None }];
    for word in words.clone() {
        for late in &first {
            assert_eq!(settle(&*store, &queue, late, word.clone()).await, Settled::Stale, "{word:?}");
        }
    }
    // The same receive finds nothing of its own any more, and takes them anew.
    let again = Receive { visibility: LONG, ..short };
    let second = store.receive(&again).await.unwrap().deliveries;
    for (second, first) in second.iter().zip(&first) {
        assert!(second.id == first.id && second.attempt == 2 && second.token > first.token);
        for word in words.clone() {
            assert_eq!(settle(&*store, &queue, first, word.clone()).await, Settled::Stale, "{word:?}");
        }
        for _ in 0..2 {
            assert_eq!(settle(&*store, &queue, second, Word::Ack).await, Settled::Done);
        }
        assert_eq!(settle(&*store, &queue, second, Word::Extend(LONG)).await, Settled::Stale);
    }
    assert_eq!(store.stats(&queue).await.unwrap(), NOTHING);
}

#[tokio::test]
async fn extending_never_shortens() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let queue = queue("extended");
    store.push(&push(&queue, vec![item(b"a"), item(b"b")])).await.unwrap();
    let taken = store.receive(&receive(&queue, 2)).await.unwrap().deliveries;
    let mut etcd = raw(&server).await;
    let mut left = async |at: usize| {
        let leases = keys(&server, "coord/q/default/extended/h/l/").await;
        // By the ids, which are not in the order of the items.
        let id = taken[at].id.to_string().replace('-', "");
        let kv = leases.iter().find(|kv| kv.key_str().unwrap().ends_with(&id)).unwrap();
        Duration::from_secs(etcd.lease_time_to_live(kv.lease(), None).await.unwrap().ttl().unsigned_abs())
    };
    for (by, at_least) in [(LONG * 2, LONG), (SHORT, LONG), (LONG, LONG), (LONG * 3, LONG * 2)] {
        assert_eq!(settle(&*store, &queue, &taken[0], Word::Extend(by)).await, Settled::Done);
        let left = left(0).await;
        assert!(left > at_least && left <= LONG * 3, "{left:?} are left after {by:?}");
    }
    // What came in the same delivery is not prolonged.
    assert!(left(1).await <= LONG);
    // Many at once: whichever comes last, all were told that they have this long.
    let other = open(&server).await;
    for round in 4..8 {
        let by = LONG * round;
        let stores = [&store, &other, &store, &other];
        let said = join_all(stores.map(|store| settle(&**store, &queue, &taken[0], Word::Extend(by)))).await;
        assert!(said.iter().all(|said| *said == Settled::Done), "{said:?}");
        let left = left(0).await;
        assert!(left + Duration::from_secs(10) > by, "{left:?} are left after {by:?}");
    }
    assert_eq!(settle(&*store, &queue, &taken[0], Word::Ack).await, Settled::Done);
}

#[tokio::test]
async fn a_group_waits_for_the_delay_of_its_first() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let queue = queue("groups");
    let delayed = |payload, delay| NewItem { delay, ..grouped(payload, "g") };
    let items =
        vec![delayed(b"1", SHORT * 2), delayed(b"2", Duration::ZERO), delayed(b"3", SHORT), item(b"4")];
    let start = Clock::System.now();
    store.push(&push(&queue, items)).await.unwrap();
    let mut wakeups = Jobs::wakeups(&*store, &queue);
    for expected in [b"4", b"1", b"2", b"3"] {
        let taken = loop {
            let mut received = store.receive(&receive(&queue, 9)).await.unwrap();
            assert!(received.deliveries.len() <= 1, "{received:?}");
            match received.deliveries.pop() {
                Some(taken) => break taken,
                None => hint(&mut wakeups).await,
            }
        };
        assert_eq!(taken.payload, expected);
        if expected == b"1" {
            assert!(Clock::System.now().since(start) >= SHORT * 2, "it came early");
        }
        assert_eq!(settle(&*store, &queue, &taken, Word::Ack).await, Settled::Done);
    }
    assert_eq!(store.stats(&queue).await.unwrap(), NOTHING);
}

/// Items die of lost leases, those of a group too, and the next one of the group follows.
#[tokio::test]
async fn who_comes_next_buries_what_was_lost_too_often() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let queue = queue("dying");
    store.push(&push(&queue, vec![grouped(b"1", "g"), grouped(b"2", "g"), item(b"3")])).await.unwrap();
    let short = || Receive { visibility: SHORT, max_attempts: Some(1), ..receive(&queue, 9) };
    let first = store.receive(&short()).await.unwrap().deliveries;
    assert_eq!(first.iter().map(|taken| &taken.payload[..]).collect::<Vec<_>>(), [b"1", b"3"]);
    let over = QueueStats { ready: 3, ..NOTHING };
    until(async || store.stats(&queue).await.unwrap() == over).await;
    let second = store.receive(&short()).await.unwrap().deliveries;
    assert_eq!(second.iter().map(|taken| &taken.payload[..]).collect::<Vec<_>>(), [b"2"]);
    let dead = store.dead(&queue, None, 9).await.unwrap();
    assert_eq!(
        dead.iter().map(|dead| (&dead.payload[..], dead.attempts)).collect::<Vec<_>>(),
        [(&b"1"[..], 1), (b"3", 1)]
    );
    for late in &first {
        let nack = Word::Nack { delay: Duration::ZERO, max_attempts: Some(1) };
        assert_eq!(settle(&*store, &queue, late, nack).await, Settled::Stale);
    }
}

#[tokio::test]
async fn who_waits_hears_of_what_is_ready_and_of_nothing_else() {
    let Some(server) = server() else { return };
    let (producer, consumer) = (open(&server).await, open(&server).await);
    let queue = queue("hints");
    let mut wakeups = Jobs::wakeups(&*consumer, &queue);
    hint(&mut wakeups).await;
    quiet(&mut wakeups).await;
    let none = async |wakeups: &mut _, what: &str| {
        // Those of one stream come in order, but there are several watches.
        let early =
            tokio::time::timeout(Duration::from_millis(300), coord_core::spi::Wakeups::next(wakeups)).await;
        assert!(early.is_err(), "a hint for {what}");
    };
    producer.push(&push(&queue, vec![item(b"a"), item(b"b")])).await.unwrap();
    hint(&mut wakeups).await;
    quiet(&mut wakeups).await;
    let taken = one(&*producer, &queue).await;
    none(&mut wakeups, "a delivery").await;
    assert_eq!(settle(&*producer, &queue, &taken, Word::Extend(LONG * 2)).await, Settled::Done);
    none(&mut wakeups, "an extension").await;
    assert_eq!(settle(&*producer, &queue, &taken, Word::Ack).await, Settled::Done);
    none(&mut wakeups, "an acknowledgement").await;
    let taken = one(&*producer, &queue).await;
    assert_eq!(settle(&*producer, &queue, &taken, Word::Return).await, Settled::Done);
    hint(&mut wakeups).await;
    quiet(&mut wakeups).await;
    // The end of a lease, and of a delay.
    let short = Receive { visibility: SHORT, ..receive(&queue, 1) };
    assert_eq!(producer.receive(&short).await.unwrap().deliveries.len(), 1);
    hint(&mut wakeups).await;
    let taken = one(&*producer, &queue).await;
    quiet(&mut wakeups).await;
    let back = Word::Nack { delay: SHORT, max_attempts: None };
    assert_eq!(settle(&*producer, &queue, &taken, back).await, Settled::Done);
    hint(&mut wakeups).await;
}

#[tokio::test]
async fn who_waits_for_room_hears_of_it() {
    let Some(server) = server() else { return };
    let (producer, consumer) = (open(&server).await, open(&server).await);
    let queue = queue("room");
    let bounded = |items| coord_core::spi::jobs::Push { capacity: Some(1), ..push(&queue, items) };
    producer.push(&bounded(vec![item(b"a")])).await.unwrap();
    let nack = Word::Nack { delay: Duration::ZERO, max_attempts: Some(1) };
    for word in [Word::Ack, nack] {
        let mut wakeups = Jobs::wakeups(&*producer, &queue);
        assert_eq!(
            producer.push(&bounded(vec![item(b"b")])).await.unwrap(),
            coord_core::spi::jobs::Pushed::Full
        );
        hint(&mut wakeups).await;
        quiet(&mut wakeups).await;
        let taken = one(&*consumer, &queue).await;
        assert_eq!(consumer.settle(&queue, &[say(&taken, word)]).await.unwrap(), [Settled::Done]);
        hint(&mut wakeups).await;
        producer.push(&bounded(vec![item(b"b")])).await.unwrap();
        drop(wakeups);
    }
    let mut wakeups = Jobs::wakeups(&*producer, &queue);
    assert_eq!(producer.push(&bounded(vec![item(b"c")])).await.unwrap(), coord_core::spi::jobs::Pushed::Full);
    hint(&mut wakeups).await;
    quiet(&mut wakeups).await;
    assert_eq!(consumer.purge(&queue).await.unwrap(), 2);
    hint(&mut wakeups).await;
}

/// How many leases the server has.
async fn count(server: &coord_conformance::servers::Etcd) -> usize {
    raw(server).await.leases().await.unwrap().leases().len()
}

/// What is not done leaves no lease behind, which may be one of hours.
#[tokio::test]
async fn what_is_not_done_leaves_no_lease() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let queue = queue("unused");
    let first = push(&queue, vec![item(b"a")]);
    store.push(&first).await.unwrap();
    let taken = one(&*store, &queue).await;
    assert_eq!(settle(&*store, &queue, &taken, Word::Ack).await, Settled::Done);
    let delayed = push(&queue, vec![NewItem { delay: LONG, ..item(b"b") }]);
    store.push(&delayed).await.unwrap();
    let before = count(&server).await;
    for _ in 0..3 {
        store.push(&delayed).await.unwrap();
        assert_eq!(settle(&*store, &queue, &taken, Word::Extend(LONG)).await, Settled::Stale);
    }
    let left = async || count(&server).await <= before;
    tokio::time::timeout(LONG / 2, until(left)).await.expect("the leases are there still");
    assert_eq!(store.stats(&queue).await.unwrap(), QueueStats { delayed: 1, ..NOTHING });
}
