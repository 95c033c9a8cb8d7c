//! The queues: hints, leases, what is left behind, what they cost.

mod halfway;
mod hints;
mod long;
mod tokens;

use std::{sync::Arc, time::Duration};

use coord_conformance::proxy::Loss;
use coord_core::{
    Effect, ErrorKind, limits,
    spi::jobs::{
        Delivered, ItemId, Jobs, NewItem, Push, Pushed, QueueId, QueueStats, Receive, Settled, Settlement,
        Word,
    },
};

use crate::stores::{
    LONG, fresh, large, name, namespace, nodes, open, path_of, plain_server, proxy, server, shared, until,
};

fn queue(text: &str) -> QueueId {
    QueueId { namespace: namespace(), name: name(text) }
}

fn item(payload: &[u8]) -> NewItem {
    NewItem {
        id: ItemId::random(),
        payload: payload.to_vec(),
        priority: 0,
        delay: Duration::ZERO,
        group: None,
    }
}

fn push(queue: &QueueId, items: Vec<NewItem>) -> Push {
    Push { queue: queue.clone(), capacity: None, items }
}

fn receive(queue: &QueueId, limit: u32) -> Receive {
    Receive {
        queue: queue.clone(),
        id: ItemId::random(),
        limit,
        visibility: LONG,
        max_attempts: None,
        owner: "tester".into(),
    }
}

fn say(delivered: &Delivered, word: Word) -> Settlement {
    Settlement { id: delivered.id, token: delivered.token, word }
}

/// Receives one item.
async fn one(store: &dyn Jobs, queue: &QueueId) -> Delivered {
    let mut taken = store.receive(&receive(queue, 1)).await.unwrap().deliveries;
    assert_eq!(taken.len(), 1);
    taken.remove(0)
}

#[tokio::test]
async fn a_lease_that_ended_makes_its_words_stale() {
    let Some(server) = shared() else { return };
    let store = fresh(server).await;
    let queue = queue("late");
    store.push(&push(&queue, vec![item(b"a")])).await.unwrap();
    let short = Receive { visibility: Duration::from_millis(400), ..receive(&queue, 1) };
    let first = store.receive(&short).await.unwrap().deliveries.pop().unwrap();
    // It ends though nobody looks.
    let counted = QueueStats { ready: 1, ..QueueStats::default() };
    until("the count", async || store.stats(&queue).await.unwrap() == counted).await;
    let words = [Word::Ack, Word::Extend(LONG), Word::Return, Word::Nack { delay: LONG, max_attempts: None }];
    for word in words.clone() {
        assert_eq!(store.settle(&queue, &[say(&first, word)]).await.unwrap(), [Settled::Stale]);
    }
    // The same receive finds nothing of its own any more, and takes it anew.
    let again = Receive { visibility: LONG, ..short };
    let second = store.receive(&again).await.unwrap().deliveries.pop().unwrap();
    assert!(second.attempt == 2 && second.token > first.token);
    let look = store.receive(&receive(&queue, 1)).await.unwrap().look_again_in.unwrap();
    assert!(look > Duration::ZERO && look <= LONG + Duration::from_millis(1), "{look:?}");
    for word in words {
        assert_eq!(store.settle(&queue, &[say(&first, word)]).await.unwrap(), [Settled::Stale]);
    }
    for _ in 0..2 {
        assert_eq!(store.settle(&queue, &[say(&second, Word::Ack)]).await.unwrap(), [Settled::Done]);
    }
}

#[tokio::test]
async fn a_group_waits_for_the_delay_of_its_first() {
    let Some(server) = shared() else { return };
    let store = fresh(server).await;
    let queue = queue("groups");
    let delay = Duration::from_millis(150);
    let grouped = |payload: &[u8], delay| NewItem { group: Some("g".into()), delay, ..item(payload) };
    let items = vec![grouped(b"1", delay), grouped(b"2", Duration::ZERO), grouped(b"3", delay / 3)];
    store.push(&push(&queue, items)).await.unwrap();
    for expected in [b"1", b"2", b"3"] {
        let taken = loop {
            let mut received = store.receive(&receive(&queue, 9)).await.unwrap();
            assert!(received.deliveries.len() <= 1);
            match received.deliveries.pop() {
                Some(taken) => break taken,
                None => tokio::time::sleep(received.look_again_in.unwrap()).await,
            }
        };
        assert_eq!(taken.payload, expected);
        assert_eq!(store.settle(&queue, &[say(&taken, Word::Ack)]).await.unwrap(), [Settled::Done]);
    }
}

#[tokio::test]
async fn a_purge_keeps_what_is_in_hand() {
    let Some(server) = shared() else { return };
    let store = fresh(server).await;
    let queue = queue("purged");
    let grouped = |payload: &[u8]| NewItem { group: Some("g".into()), ..item(payload) };
    let first = grouped(b"first");
    let mut items = vec![first.clone(), grouped(b"second"), NewItem { delay: LONG, ..item(b"later") }];
    items.extend((0..900).map(|_| item(b"x")));
    store.push(&push(&queue, items)).await.unwrap();
    let receive = receive(&queue, 10);
    let taken = store.receive(&receive).await.unwrap().deliveries;
    assert_eq!(store.purge(&queue).await.unwrap(), 893);
    assert_eq!(store.purge(&queue).await.unwrap(), 0);
    assert_eq!(store.receive(&receive).await.unwrap().deliveries, taken);
    // What is in hand still holds up its group, and is still known.
    store.push(&push(&queue, vec![first, grouped(b"third")])).await.unwrap();
    let counted = QueueStats { ready: 1, in_flight: 10, ..QueueStats::default() };
    assert_eq!(store.stats(&queue).await.unwrap(), counted);
    assert!(
        store
            .receive(&Receive { id: ItemId::random(), ..receive.clone() })
            .await
            .unwrap()
            .deliveries
            .is_empty()
    );
    let words: Vec<_> = taken.iter().map(|item| say(item, Word::Ack)).collect();
    assert_eq!(store.settle(&queue, &words).await.unwrap(), [Settled::Done; 10]);
    assert_eq!(one(&*store, &queue).await.payload, b"third");
}

#[tokio::test]
async fn large_payloads_come_in_parts_and_none_is_left_out() {
    let Some(server) = shared() else { return };
    let store = fresh(server).await;
    let queue = queue("large");
    for _ in 0..10 {
        let items = (0..16).map(|_| item(&vec![7; 64 * 1024])).collect();
        store.push(&push(&queue, items)).await.unwrap();
    }
    let mut receives = Vec::new();
    loop {
        let receive = receive(&queue, 1_000);
        let taken = store.receive(&receive).await.unwrap().deliveries;
        if taken.is_empty() {
            break;
        }
        assert_eq!(store.receive(&receive).await.unwrap().deliveries, taken);
        let bury = Word::Nack { delay: Duration::ZERO, max_attempts: Some(1) };
        let words: Vec<_> = taken.iter().map(|item| say(item, bury.clone())).collect();
        store.settle(&queue, &words).await.unwrap();
        receives.push(taken.len());
    }
    assert!(receives.iter().sum::<usize>() == 160, "{receives:?}");
    assert_eq!(store.dead(&queue, None, 1_000).await.unwrap().len(), 160);
}

/// More than one step looks at: their order must not suffer.
#[tokio::test]
async fn a_thousand_that_come_back_at_once_are_in_order() {
    let Some(server) = shared() else { return };
    let store = fresh(server).await;
    let queue = queue("many");
    let (short, count) = (Duration::from_secs(3), 1_200u32);
    for from in (0..count).step_by(600) {
        // The later ones have shorter delays, and the middle has a higher priority.
        let items = (from..from + 600).map(|number| NewItem {
            delay: short - Duration::from_micros(100 * u64::from(number)),
            priority: i32::from(number == count / 2),
            ..item(&number.to_be_bytes())
        });
        store.push(&push(&queue, items.collect())).await.unwrap();
    }
    let numbers = |received: &[Delivered]| -> Vec<_> {
        received.iter().map(|item| u32::from_be_bytes(item.payload.clone().try_into().unwrap())).collect()
    };
    let mut expected: Vec<_> = (0..count).collect();
    expected.retain(|number| *number != count / 2);
    expected.insert(0, count / 2);
    until("the count", async || store.stats(&queue).await.unwrap().delayed == 0).await;
    let leased = Receive { visibility: short, ..receive(&queue, count) };
    let first = take_all(&*store, &leased, count).await;
    assert_eq!(numbers(&first), expected, "after their delays");
    until("the count", async || store.stats(&queue).await.unwrap().in_flight == 0).await;
    let twice = Receive { max_attempts: Some(2), ..receive(&queue, count) };
    let again = take_all(&*store, &twice, count).await;
    assert_eq!(numbers(&again), expected, "after their leases");
    assert!(again.iter().all(|item| item.attempt == 2));
    let returned: Vec<_> = again.iter().map(|item| say(item, Word::Return)).collect();
    store.settle(&queue, &returned).await.unwrap();
    let dead = Receive { max_attempts: Some(1), ..receive(&queue, 1) };
    assert!(store.receive(&dead).await.unwrap().deliveries.is_empty());
    let stats = QueueStats { dead: u64::from(count), ..QueueStats::default() };
    assert_eq!(store.stats(&queue).await.unwrap(), stats);
}

/// Receives until there are so many.
async fn take_all(store: &dyn Jobs, receive: &Receive, count: u32) -> Vec<Delivered> {
    let mut all = Vec::new();
    while all.len() < count as usize {
        let left = count - all.len() as u32;
        let receive = Receive { id: ItemId::random(), limit: left, ..receive.clone() };
        let taken = store.receive(&receive).await.unwrap().deliveries;
        assert!(!taken.is_empty(), "{left} are missing");
        all.extend(taken);
    }
    all
}

#[tokio::test]
async fn extending_never_shortens() {
    let Some(server) = shared() else { return };
    let (store, queue) = (fresh(server).await, queue("extended"));
    store.push(&push(&queue, vec![item(b"a")])).await.unwrap();
    let held = one(&*store, &queue).await;
    let extend = |by| [say(&held, Word::Extend(by))];
    for by in [LONG * 2, Duration::from_millis(400)] {
        assert_eq!(store.settle(&queue, &extend(by)).await.unwrap(), [Settled::Done]);
    }
    let look = store.receive(&receive(&queue, 1)).await.unwrap().look_again_in.unwrap();
    assert!(look > LONG, "{look:?}");
}

/// A lease of a short session is moved to a longer one, and back never.
#[tokio::test]
async fn a_longer_lease_outlives_the_session_of_the_first() {
    let Some(server) = shared() else { return };
    let (store, queue) = (fresh(server).await, queue("moved"));
    store.push(&push(&queue, vec![item(b"a")])).await.unwrap();
    let short = Receive { visibility: Duration::from_millis(500), ..receive(&queue, 1) };
    let held = store.receive(&short).await.unwrap().deliveries.pop().unwrap();
    assert_eq!(store.settle(&queue, &[say(&held, Word::Extend(LONG))]).await.unwrap(), [Settled::Done]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let counted = QueueStats { in_flight: 1, ..QueueStats::default() };
    assert_eq!(store.stats(&queue).await.unwrap(), counted);
    for _ in 0..2 {
        assert_eq!(store.settle(&queue, &[say(&held, Word::Ack)]).await.unwrap(), [Settled::Done]);
    }
    assert_eq!(store.settle(&queue, &[say(&held, Word::Extend(LONG))]).await.unwrap(), [Settled::Stale]);
}

#[tokio::test]
async fn what_servers_cannot_keep_is_refused() {
    let Some(server) = plain_server() else { return };
    let (store, queue) = (open(&server.fresh()).await, queue("long"));
    store.push(&push(&queue, vec![item(b"a")])).await.unwrap();
    let long = Receive { visibility: limits::MAX_TTL, ..receive(&queue, 1) };
    let error = store.receive(&long).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::InvalidTtl, Effect::None), "{error}");
    // As much as a request takes, and more.
    let of = |count: usize| (0..count).map(|_| item(&vec![7; limits::MAX_VALUE])).collect::<Vec<_>>();
    assert_eq!(store.push(&push(&queue, of(15))).await.unwrap(), Pushed::Done { new: 15 });
    let error = store.push(&push(&queue, of(16))).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::TooLarge, Effect::None), "{error}");
    let all = Receive { limit: 1_000, ..receive(&queue, 1) };
    assert_eq!(take_all(&*store, &all, 16).await.len(), 16);
}

#[tokio::test]
async fn a_killed_server_comes_back_with_its_queue() {
    let Some(mut server) = server() else { return };
    let place = large(&server.fresh());
    let (store, queue) = (open(&place).await, queue("kept"));
    let grouped = |payload: &[u8]| NewItem { group: Some("g".into()), ..item(payload) };
    let done = item(b"done");
    let later = NewItem { delay: LONG, ..item(b"later") };
    let items = vec![done.clone(), grouped(b"1"), grouped(b"2"), item(b"dead"), later, item(b"ready")];
    store.push(&push(&queue, items)).await.unwrap();
    let receive = receive(&queue, 3);
    let taken = store.receive(&receive).await.unwrap().deliveries;
    let bury = Word::Nack { delay: Duration::ZERO, max_attempts: Some(1) };
    store.settle(&queue, &[say(&taken[0], Word::Ack), say(&taken[2], bury)]).await.unwrap();
    let counted = store.stats(&queue).await.unwrap();
    assert_eq!(counted, QueueStats { ready: 2, delayed: 1, in_flight: 1, dead: 1 });
    server.restart().unwrap();
    // The same client finds its way back, and has its session and what is in its hands.
    until("the queue", async || store.stats(&queue).await.is_ok_and(|stats| stats == counted)).await;
    assert_eq!(store.push(&push(&queue, vec![done])).await.unwrap(), Pushed::Done { new: 0 });
    assert_eq!(store.receive(&receive).await.unwrap().deliveries, taken[1..2]);
    assert_eq!(store.settle(&queue, &[say(&taken[1], Word::Extend(LONG))]).await.unwrap(), [Settled::Done]);
    assert_eq!(store.dead(&queue, None, 9).await.unwrap()[0].payload, b"dead");
    let next = one(&*store, &queue).await;
    assert!(next.payload == b"ready" && next.token > taken[2].token);
    for _ in 0..2 {
        assert_eq!(store.settle(&queue, &[say(&taken[1], Word::Ack)]).await.unwrap(), [Settled::Done]);
    }
    assert_eq!(one(&*store, &queue).await.payload, b"2");
}

/// Another id that begins as this one does.
fn neighbour(id: ItemId) -> [u8; 16] {
    let mut bytes = *ItemId::random().as_bytes();
    bytes[0] = id.as_bytes()[0];
    bytes
}

#[tokio::test]
async fn what_operations_cost() {
    let Some(server) = shared() else { return };
    let proxy = proxy(server);
    let (store, queue) = (open(&large(&proxy.url_of(&server.fresh()))).await, queue("counted"));
    // The first one makes the folders, and opens the session for leases.
    store.push(&push(&queue, vec![item(b"x")])).await.unwrap();
    let taken = one(&*store, &queue).await;
    store.settle(&queue, &[say(&taken, Word::Ack)]).await.unwrap();
    let counted = |what: &str, reads: u64, multis: u64| {
        let writes = proxy.counts().of("multi");
        let others =
            proxy.counts().total() - proxy.counts().of("multiRead") - proxy.counts().of("sync") - writes;
        assert_eq!((proxy.counts().of("multiRead"), writes, others), (reads, multis, 0), "{what}");
        proxy.reset_counts();
    };
    proxy.reset_counts();
    for _ in 0..3 {
        store.push(&push(&queue, vec![item(b"x"), item(b"y")])).await.unwrap();
        counted("a push", 1, 1);
        let taken = store.receive(&receive(&queue, 2)).await.unwrap().deliveries;
        counted("a receive", 2, 1);
        let extend: Vec<_> = taken.iter().map(|taken| say(taken, Word::Extend(LONG))).collect();
        store.settle(&queue, &extend).await.unwrap();
        counted("an extension of many", 0, 1);
        let back = Word::Nack { delay: Duration::ZERO, max_attempts: None };
        store.settle(&queue, &[say(&taken[0], back), say(&taken[1], Word::Return)]).await.unwrap();
        counted("giving back", 0, 1);
        for item in store.receive(&receive(&queue, 2)).await.unwrap().deliveries {
            // The folder for ids like this one, which is made with the first.
            let other = NewItem { id: ItemId::from_bytes(neighbour(item.id)), ..self::item(b"z") };
            store.push(&push(&queue, vec![other])).await.unwrap();
            let taken = one(&*store, &queue).await;
            store.settle(&queue, &[say(&taken, Word::Ack)]).await.unwrap();
            proxy.reset_counts();
            store.settle(&queue, &[say(&item, Word::Ack)]).await.unwrap();
            counted("an acknowledgement", 0, 1);
        }
        store.receive(&receive(&queue, 1)).await.unwrap();
        counted("a look at an empty queue", 1, 0);
        store.stats(&queue).await.unwrap();
        counted("counting", 1, 0);
    }
}

/// The reply to a request, or the request, is lost with its connection: what is asked again is done once.
#[tokio::test]
async fn a_lost_reply_is_found_again() {
    let Some(server) = shared() else { return };
    let (place, proxy) = (server.fresh(), proxy(server));
    let (store, sound) = (open(&large(&proxy.url_of(&place))).await, open(&large(&place)).await);
    let queue = queue("lossy");
    sound.push(&push(&queue, vec![item(b"first")])).await.unwrap();
    let first = one(&*store, &queue).await;
    store.settle(&queue, &[say(&first, Word::Ack)]).await.unwrap();
    for lose_reply in [true, false] {
        let lose = || match lose_reply {
            true => proxy.lose(Loss::reply(1).of("multi")),
            false => proxy.lose(Loss::request(1).of("multi")),
        };
        let pushing = push(&queue, vec![item(b"a"), item(b"b")]);
        lose();
        let error = store.push(&pushing).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error}");
        let new = if lose_reply { 0 } else { 2 };
        assert_eq!(store.push(&pushing).await.unwrap(), Pushed::Done { new });
        assert_eq!(sound.stats(&queue).await.unwrap().ready, 2);
        lose();
        let receiving = receive(&queue, 2);
        assert_eq!(store.receive(&receiving).await.unwrap_err().effect(), Effect::Unknown);
        let taken = store.receive(&receiving).await.unwrap().deliveries;
        assert_eq!(taken.iter().map(|item| item.attempt).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(store.receive(&receiving).await.unwrap().deliveries, taken);
        let words = [say(&taken[0], Word::Return), say(&taken[1], Word::Ack)];
        lose();
        assert_eq!(store.settle(&queue, &words).await.unwrap_err().effect(), Effect::Unknown);
        assert_eq!(store.settle(&queue, &words).await.unwrap(), [Settled::Done; 2]);
        let bury = Word::Nack { delay: Duration::ZERO, max_attempts: Some(1) };
        let again = one(&*store, &queue).await;
        assert_eq!((again.payload.as_slice(), again.attempt), (&b"a"[..], 1));
        lose();
        assert_eq!(
            store.settle(&queue, &[say(&again, bury.clone())]).await.unwrap_err().effect(),
            Effect::Unknown
        );
        assert_eq!(store.settle(&queue, &[say(&again, bury)]).await.unwrap(), [Settled::Done]);
        assert_eq!(sound.stats(&queue).await.unwrap(), QueueStats { dead: 1, ..QueueStats::default() });
        assert_eq!(store.purge(&queue).await.unwrap(), 1);
    }
    assert_eq!(proxy.counts().lost, 8);
}

/// What nobody hears of is not kept for longer than it was leased for, though the session lives on.
#[tokio::test]
async fn a_receive_whose_answer_was_lost_ends_by_itself() {
    let Some(server) = shared() else { return };
    let (place, proxy) = (server.fresh(), proxy(server));
    let (store, sound) = (open(&large(&proxy.url_of(&place))).await, open(&large(&place)).await);
    let queue = queue("unheard");
    sound.push(&push(&queue, vec![item(b"a")])).await.unwrap();
    let other = Receive { visibility: Duration::from_secs(2), ..receive(&queue, 1) };
    assert_eq!(store.receive(&other).await.unwrap().deliveries.len(), 1);
    sound.push(&push(&queue, vec![item(b"b")])).await.unwrap();
    proxy.lose(Loss::reply(1).of("multi"));
    let lost = Receive { id: ItemId::random(), ..other };
    assert_eq!(store.receive(&lost).await.unwrap_err().effect(), Effect::Unknown);
    assert_eq!(sound.stats(&queue).await.unwrap().in_flight, 2);
    let counted = QueueStats { ready: 2, ..QueueStats::default() };
    until("the end of the leases", async || sound.stats(&queue).await.unwrap() == counted).await;
}

/// A server that stands still for longer than the leases last ends them, and both sides know.
#[tokio::test]
async fn the_end_of_a_session_is_the_end_of_its_leases() {
    let Some(server) = server() else { return };
    let place = large(&server.fresh());
    let (store, other, queue) = (open(&place).await, open(&place).await, queue("cut off"));
    store.push(&push(&queue, vec![item(b"a")])).await.unwrap();
    let short = Receive { visibility: Duration::from_secs(1), ..receive(&queue, 1) };
    let held = store.receive(&short).await.unwrap().deliveries.pop().unwrap();
    server.stop().unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    server.resume().unwrap();
    let mut again = None;
    until("a redelivery", async || {
        again = other.receive(&receive(&queue, 1)).await.ok().and_then(|mut all| all.deliveries.pop());
        again.is_some()
    })
    .await;
    let again = again.unwrap();
    assert!(again.attempt == 2 && again.token > held.token);
    for word in [Word::Extend(LONG), Word::Ack, Word::Return] {
        let mut settled = None;
        until("an answer", async || {
            settled = store.settle(&queue, &[say(&held, word.clone())]).await.ok();
            settled.is_some()
        })
        .await;
        assert_eq!(settled.unwrap(), [Settled::Stale], "{word:?}");
    }
    assert_eq!(other.settle(&queue, &[say(&again, Word::Ack)]).await.unwrap(), [Settled::Done]);
    assert_eq!(other.stats(&queue).await.unwrap(), QueueStats::default());
}

/// A client that ends takes its leases along.
#[tokio::test]
async fn a_client_that_is_gone_holds_nothing() {
    let Some(server) = shared() else { return };
    let place = large(&server.fresh());
    let (store, other, queue) = (open(&place).await, open(&place).await, queue("gone"));
    store.push(&push(&queue, vec![item(b"a")])).await.unwrap();
    let held = one(&*store, &queue).await;
    drop(store);
    let mut again = None;
    until("a redelivery", async || {
        again = other.receive(&receive(&queue, 1)).await.unwrap().deliveries.pop();
        again.is_some()
    })
    .await;
    assert!(again.unwrap().token > held.token);
}

/// Producers and consumers of four clients at once: each item once, and those of each producer in their order.
#[tokio::test]
async fn many_at_once_lose_and_double_nothing() {
    let Some(server) = shared() else { return };
    let (place, queue, each) = (large(&server.fresh()), queue("many"), 25u32);
    let mut tasks = Vec::new();
    for producer in 0..2u8 {
        let (store, queue) = (open(&place).await, queue.clone());
        tasks.push(tokio::spawn(async move {
            for number in 0..each {
                let payload = [&[producer][..], &number.to_be_bytes()].concat();
                store.push(&push(&queue, vec![item(&payload)])).await.unwrap();
            }
            Vec::new()
        }));
    }
    let left = Arc::new(std::sync::atomic::AtomicU32::new(2 * each));
    for _ in 0..2 {
        let (store, queue, left) = (open(&place).await, queue.clone(), left.clone());
        tasks.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            while left.load(std::sync::atomic::Ordering::SeqCst) > 0 {
                for taken in store.receive(&receive(&queue, 3)).await.unwrap().deliveries {
                    assert_eq!(taken.attempt, 1);
                    store.settle(&queue, &[say(&taken, Word::Ack)]).await.unwrap();
                    seen.push((taken.token, taken.payload));
                    left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                }
            }
            seen
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    all.sort();
    let tokens = all.iter().map(|(token, _)| token).collect::<std::collections::BTreeSet<_>>();
    assert_eq!((all.len(), tokens.len()), (2 * each as usize, 2 * each as usize));
    for producer in 0..2u8 {
        let of: Vec<_> =
            all.iter().filter(|(_, payload)| payload[0] == producer).map(|(_, payload)| payload).collect();
        assert!(of.is_sorted(), "producer {producer}");
    }
}

#[tokio::test]
async fn nothing_is_left_behind_but_what_is_forgotten_later() {
    let Some(server) = server() else { return };
    let place = server.fresh();
    let (store, queue) = (open(&large(&place)).await, queue("tidy"));
    let items = (0..200u32).map(|number| NewItem {
        group: (number % 3 == 0).then(|| format!("{}", number % 7)),
        ..item(&[7; 100])
    });
    store.push(&push(&queue, items.collect())).await.unwrap();
    while store.stats(&queue).await.unwrap() != QueueStats::default() {
        let taken = store.receive(&receive(&queue, 50)).await.unwrap().deliveries;
        let words: Vec<_> = taken.iter().map(|item| say(item, Word::Ack)).collect();
        store.settle(&queue, &words).await.unwrap();
    }
    let root = format!("{}/coord/default/queue/tidy", path_of(&place));
    let nodes = nodes(&server, &root).await;
    let gone = nodes.iter().filter(|node| node.starts_with(&format!("{root}/gone/"))).count();
    // Sixteen folders, and a node for each item that is remembered.
    assert!((200..=216).contains(&gone), "{gone}");
    assert_eq!(nodes.len() - gone, 7, "{nodes:?}");
}
