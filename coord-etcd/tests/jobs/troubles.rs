//! Servers that are killed, stopped or lose their leader, connections that break, and many clients at once.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use coord_conformance::servers::{EtcdCluster, EtcdOptions, found};
use coord_core::{
    Effect, Error, ErrorKind,
    spi::jobs::{ItemId, Jobs, NewItem, Push, Pushed, QueueStats, Receive, Settled, Settlement, Word},
};
use coord_etcd::Store;
use fastrand::Rng;
use tokio::task::JoinSet;

use super::{LONG, NOTHING, grouped, item, one, parts, push, queue, receive, say, settle};
use crate::stores::{Cut, brittle, hint, open, open_by, server, server_with, stop, until};

/// Sends an operation again until it is answered.
macro_rules! insist {
    ($call:expr) => {{
        let trying = async {
            loop {
                match $call.await {
                    Ok(answer) => break answer,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), trying).await.expect("an answer")
    }};
}

/// The server is stopped with an operation under way: nobody knows what becomes of it, and sent again it is done once.
#[tokio::test]
async fn what_has_no_answer_is_done_once() {
    let Some(server) = server() else { return };
    let store = Store::open(format!("{}?timeout=1", server.url())).await.unwrap();
    let queue = queue("lost");
    // What a client asks for once is there then.
    store.push(&push(&queue, vec![item(b"0")])).await.unwrap();
    let first = one(&*store, &queue).await;
    settle(&*store, &queue, &first, Word::Ack).await;
    let unknown = |error: Error| {
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error}");
    };

    let two = push(&queue, vec![grouped(b"a", "g"), grouped(b"b", "g")]);
    stop(&server).await;
    unknown(store.push(&two).await.unwrap_err());
    server.resume().unwrap();
    assert!(matches!(insist!(store.push(&two)), Pushed::Done { .. }));
    assert_eq!(store.stats(&queue).await.unwrap(), QueueStats { ready: 2, ..NOTHING });

    let take = receive(&queue, 9);
    stop(&server).await;
    assert_eq!(store.receive(&take).await.unwrap_err().kind(), ErrorKind::Unavailable);
    server.resume().unwrap();
    let taken = insist!(store.receive(&take)).deliveries;
    assert_eq!((taken.len(), taken[0].attempt), (1, 1));
    assert_eq!(store.receive(&take).await.unwrap().deliveries, taken);

    for word in [Word::Extend(LONG), Word::Nack { delay: Duration::ZERO, max_attempts: None }] {
        let said = [say(&taken[0], word)];
        stop(&server).await;
        assert_eq!(store.settle(&queue, &said).await.unwrap_err().kind(), ErrorKind::Unavailable);
        server.resume().unwrap();
        assert_eq!(insist!(store.settle(&queue, &said)), [Settled::Done]);
    }
    for expected in [b"a", b"b"] {
        let taken = one(&*store, &queue).await;
        assert_eq!(taken.payload, expected);
        let said = [say(&taken, Word::Ack)];
        stop(&server).await;
        unknown(store.settle(&queue, &said).await.unwrap_err());
        server.resume().unwrap();
        assert_eq!(insist!(store.settle(&queue, &said)), [Settled::Done]);
    }
    assert_eq!(store.stats(&queue).await.unwrap(), NOTHING);
    assert!(parts(&server).await.is_empty());
}

/// The connection breaks with each reply in turn while an item is received, and the request is sent again under the same call: what
/// an earlier copy of it took stays leased.
#[tokio::test]
async fn what_is_received_over_a_broken_connection_stays_in_hand() {
    let Some(server) = server() else { return };
    let (cut, queue) = (Cut::start(&server).await, queue("broken"));
    let (sound, store) = (open(&server).await, cut.open().await);
    for nth in 1.. {
        sound.push(&push(&queue, vec![item(b"a"), item(b"b")])).await.unwrap();
        for limit in [1, 2] {
            cut.lose(nth);
            let taken = insist!(store.receive(&receive(&queue, limit))).deliveries;
            assert_eq!(taken.len(), 1, "reply {nth}");
            assert_eq!(taken[0].attempt, 1, "reply {nth}");
            let settled = settle(&*sound, &queue, &taken[0], Word::Ack).await;
            assert_eq!(settled, Settled::Done, "reply {nth}");
        }
        if !cut.is_done() {
            assert!(nth > 3, "only {nth} replies were lost");
            break;
        }
    }
}

/// The same of pushes with a delay and of extensions: what an earlier copy put under a lease stays there.
#[tokio::test]
async fn what_is_sent_again_over_a_broken_connection_keeps_its_leases() {
    let Some(server) = server() else { return };
    let (cut, queue) = (Cut::start(&server).await, queue("delays"));
    let (sound, store) = (open(&server).await, cut.open().await);
    let mut held = Vec::new();
    for nth in 1.. {
        sound.push(&push(&queue, vec![item(b"held")])).await.unwrap();
        let taken = one(&*sound, &queue).await;
        cut.lose(nth);
        let delayed = push(&queue, vec![NewItem { delay: LONG, ..item(b"delayed") }]);
        insist!(store.push(&delayed));
        let pushing = cut.is_done();
        cut.lose(nth);
        let said = [say(&taken, Word::Extend(LONG * 2))];
        assert_eq!(insist!(store.settle(&queue, &said)), [Settled::Done], "reply {nth}");
        held.push(taken);
        if !pushing && !cut.is_done() {
            break;
        }
    }
    // What was given up is gone by now, or when the client has ended.
    coord_core::spi::Claims::close(&*store).await.unwrap();
    assert!(sound.receive(&receive(&queue, 9)).await.unwrap().deliveries.is_empty());
    let counted = QueueStats { delayed: held.len() as u64, in_flight: held.len() as u64, ..NOTHING };
    assert_eq!(sound.stats(&queue).await.unwrap(), counted);
    for taken in held {
        assert_eq!(settle(&*sound, &queue, &taken, Word::Ack).await, Settled::Done);
    }
}

#[tokio::test]
async fn a_killed_server_comes_back_with_its_queues() {
    let Some(mut server) = server() else { return };
    let store = open(&server).await;
    let queue = queue("killed");
    let items =
        vec![item(b"a"), grouped(b"b", "g"), grouped(b"c", "g"), NewItem { delay: LONG, ..item(b"d") }];
    let all = push(&queue, items);
    store.push(&all).await.unwrap();
    let taken = store.receive(&receive(&queue, 2)).await.unwrap().deliveries;
    settle(&*store, &queue, &taken[0], Word::Ack).await;
    server.restart().unwrap();
    // By the connections that it had.
    let counted = QueueStats { ready: 1, delayed: 1, in_flight: 1, dead: 0 };
    assert_eq!(insist!(store.stats(&queue)), counted);
    assert_eq!(store.push(&all).await.unwrap(), Pushed::Done { new: 0 });
    for taken in &taken {
        assert_eq!(settle(&*store, &queue, taken, Word::Ack).await, Settled::Done);
    }
    let next = one(&*store, &queue).await;
    assert!(next.payload == b"c" && next.token > taken[1].token);
}

/// What clients saw, to be judged in the end.
#[derive(Debug, Default)]
struct Seen {
    pushed: HashMap<ItemId, (String, u64)>,
    acknowledged: HashSet<ItemId>,
    dropped: HashSet<ItemId>,
}

/// Several clients push, receive, give back, bury, put back and purge at random, items of few groups above all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_item_is_lost_or_stuck_among_many_clients() {
    let Some(server) = server() else { return };
    let seeds = std::env::var("COORD_TEST_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(2);
    for seed in 0..seeds {
        let queue = queue(&format!("many {seed}"));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut work = JoinSet::new();
        for client in 0..5 {
            let (store, queue, seen) = (open(&server).await, queue.clone(), Arc::clone(&seen));
            let mut random = Rng::with_seed(seed * 100 + client);
            work.spawn(async move {
                for number in 0..60 {
                    act(&*store, &queue, &mut random, &seen, client * 1_000 + number).await;
                }
            });
        }
        while let Some(worker) = work.join_next().await {
            worker.unwrap();
        }
        drain(&*open(&server).await, &queue, &seen).await;
        let left = parts(&server).await;
        assert!(left.is_empty(), "seed {seed}: {left:?} are left");
        let seen = seen.lock().unwrap();
        for id in seen.pushed.keys() {
            assert!(seen.acknowledged.contains(id) ^ seen.dropped.contains(id), "seed {seed}: {id} is lost");
        }
    }
}

async fn act(
    store: &dyn Jobs,
    queue: &coord_core::spi::jobs::QueueId,
    random: &mut Rng,
    seen: &Mutex<Seen>,
    number: u64,
) {
    match random.u8(0..20) {
        0..=6 => {
            let items: Vec<_> = (0..random.usize(1..4))
                .map(|_| {
                    let delay = if random.u8(0..5) == 0 { Duration::from_secs(1) } else { Duration::ZERO };
                    let payload = number.to_string().into_bytes();
                    let group = (random.u8(0..3) > 0).then(|| format!("{}", random.u8(0..3)));
                    NewItem { delay, group, priority: random.i32(0..2), ..item(&payload) }
                })
                .collect();
            let named = items.iter().map(|item| (item.id, (item.group.clone().unwrap_or_default(), number)));
            seen.lock().unwrap().pushed.extend(named.collect::<Vec<_>>());
            store.push(&push(queue, items)).await.unwrap();
        }
        7..=15 => {
            let visibility = if random.u8(0..4) == 0 { Duration::from_secs(1) } else { LONG };
            let limit = random.u32(1..4);
            let received = store.receive(&Receive { visibility, ..receive(queue, limit) }).await.unwrap();
            let mut groups = HashSet::new();
            for taken in received.deliveries {
                assert!(
                    taken.group.as_ref().is_none_or(|group| groups.insert(group.clone())),
                    "two of a group"
                );
                let word = match random.u8(0..8) {
                    0..=3 => Word::Ack,
                    4 => Word::Nack { delay: Duration::ZERO, max_attempts: Some(2) },
                    5 => Word::Nack { delay: Duration::from_secs(1), max_attempts: Some(2) },
                    6 => Word::Return,
                    // Nothing is said: the lease ends, or the end of the test drains it.
                    _ if visibility < LONG => continue,
                    _ => Word::Ack,
                };
                let said = Settlement { id: taken.id, token: taken.token, word: word.clone() };
                let settled = store.settle(queue, &[said]).await.unwrap()[0];
                if settled == Settled::Done && word == Word::Ack {
                    assert!(seen.lock().unwrap().acknowledged.insert(taken.id), "acknowledged twice");
                }
            }
        }
        16 | 17 => {
            let dead = store.dead(queue, None, 5).await.unwrap();
            let ids: Vec<_> = dead.iter().map(|dead| dead.id).collect();
            store.requeue(queue, &ids).await.unwrap();
        }
        18 => {
            let dead = store.dead(queue, None, 1).await.unwrap();
            for dead in dead {
                if store.drop_dead(queue, &[dead.id]).await.unwrap() == 1 {
                    seen.lock().unwrap().dropped.insert(dead.id);
                }
            }
        }
        _ => {
            let stats = store.stats(queue).await.unwrap();
            assert!(stats.ready + stats.delayed + stats.in_flight + stats.dead < 10_000, "{stats:?}");
        }
    }
}

/// Receives and acknowledges everything.
async fn drain(store: &dyn Jobs, queue: &coord_core::spi::jobs::QueueId, seen: &Mutex<Seen>) {
    let draining = async {
        loop {
            let stats = store.stats(queue).await.unwrap();
            if stats == NOTHING {
                break;
            }
            let received = store.receive(&receive(queue, 10)).await.unwrap();
            if received.deliveries.is_empty() {
                let dead = store.dead(queue, None, 1_000).await.unwrap();
                let ids: Vec<_> = dead.iter().map(|dead| dead.id).collect();
                assert_eq!(store.requeue(queue, &ids).await.unwrap(), ids.len() as u64);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            for taken in received.deliveries {
                assert_eq!(settle(store, queue, &taken, Word::Ack).await, Settled::Done);
                let mut seen = seen.lock().unwrap();
                assert!(seen.acknowledged.insert(taken.id), "acknowledged twice");
            }
        }
    };
    let drained = tokio::time::timeout(Duration::from_secs(60), draining).await;
    assert!(drained.is_ok(), "it never ends: {:?}", store.stats(queue).await);
}

/// A purge among clients that push to the same groups: what is pushed after it can be delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_leaves_no_group_behind() {
    let Some(server) = server() else { return };
    let queue = queue("purged");
    let store = open(&server).await;
    let mut work = JoinSet::new();
    for client in 0..3_u64 {
        let (store, queue) = (open(&server).await, queue.clone());
        work.spawn(async move {
            let mut random = Rng::with_seed(client);
            for _ in 0..80 {
                let delay = if random.bool() { Duration::from_secs(1) } else { Duration::ZERO };
                let item = NewItem { delay, ..grouped(b"x", if random.bool() { "g" } else { "h" }) };
                store.push(&push(&queue, vec![item])).await.unwrap();
            }
        });
    }
    while !work.is_empty() {
        let mut purged = store.purge(&queue).await.unwrap();
        if let Some(taken) = store.receive(&receive(&queue, 1)).await.unwrap().deliveries.pop() {
            purged += store.purge(&queue).await.unwrap();
            assert_eq!(settle(&*store, &queue, &taken, Word::Ack).await, Settled::Done);
        }
        if purged == 0 {
            tokio::task::yield_now().await;
        }
        while let Some(worker) = work.try_join_next() {
            worker.unwrap();
        }
    }
    drain(&*store, &queue, &Mutex::default()).await;
    assert!(parts(&server).await.is_empty());
}

#[tokio::test]
async fn rights_on_our_own_keys_are_enough() {
    let options = EtcdOptions::default().with_user("worker", "right", &["coord/"]);
    let Some(server) = server_with(&options) else { return };
    let store = Store::open(server.url_as("worker", "right")).await.unwrap();
    let queue = queue("rights");
    let mut wakeups = Jobs::wakeups(&*store, &queue);
    hint(&mut wakeups).await;
    let bounded = |items| Push { capacity: Some(3), ..push(&queue, items) };
    store.push(&bounded(vec![grouped(b"a", "g"), grouped(b"b", "g"), item(b"c")])).await.unwrap();
    assert_eq!(store.push(&bounded(vec![item(b"d")])).await.unwrap(), Pushed::Full);
    let taken = store.receive(&receive(&queue, 9)).await.unwrap().deliveries;
    for (taken, word) in taken.iter().zip([
        Word::Nack { delay: Duration::ZERO, max_attempts: Some(1) },
        Word::Nack { delay: LONG, max_attempts: None },
    ]) {
        assert_eq!(settle(&*store, &queue, taken, Word::Extend(LONG * 2)).await, Settled::Done);
        assert_eq!(settle(&*store, &queue, taken, word).await, Settled::Done);
    }
    hint(&mut wakeups).await;
    let next = one(&*store, &queue).await;
    assert_eq!(settle(&*store, &queue, &next, Word::Ack).await, Settled::Done);
    assert_eq!(store.requeue(&queue, &[taken[0].id]).await.unwrap(), 1);
    assert_eq!(store.purge(&queue).await.unwrap(), 2);
}

/// Requests and replies are lost with their connections, those of requests within an operation too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_break_lose_and_double_nothing() {
    let Some(server) = server() else { return };
    let (queue, way) = (queue("brittle"), brittle(&server, Duration::from_millis(40)));
    let (mut producers, mut consumers) = (JoinSet::new(), JoinSet::new());
    for client in 0..2_u8 {
        let (store, queue) = (open_by(&way).await, queue.clone());
        producers.spawn(async move {
            let mut random = Rng::with_seed(client.into());
            for number in 0..30_u8 {
                let payload = [client, number];
                let delay = if number % 10 == 7 { Duration::from_secs(1) } else { Duration::ZERO };
                let one = match random.u8(0..3) {
                    0 => item(&payload),
                    group => grouped(&payload, &format!("{client} {group}")),
                };
                let capacity = random.bool().then_some(1_000);
                let next = Push { capacity, ..push(&queue, vec![NewItem { delay, ..one }]) };
                assert!(matches!(insist!(store.push(&next)), Pushed::Done { .. }));
            }
        });
    }
    let done = Arc::new(Mutex::new(Vec::new()));
    for client in 0..2 {
        let (store, queue, done) = (open_by(&way).await, queue.clone(), Arc::clone(&done));
        consumers.spawn(async move {
            let (mut random, mut last) = (Rng::with_seed(client), None);
            loop {
                let limit = random.u32(1..4);
                let next = Receive { visibility: Duration::from_secs(5), ..receive(&queue, limit) };
                let taken = insist!(store.receive(&next)).deliveries;
                if taken.is_empty() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                for taken in taken {
                    assert!(last < Some(taken.token), "{} came after {last:?}", taken.token);
                    last = Some(taken.token);
                    let back = Word::Nack { delay: Duration::ZERO, max_attempts: None };
                    let words = match random.u8(0..6) {
                        0 => vec![back],
                        1 => vec![Word::Return],
                        2 => vec![Word::Extend(LONG), Word::Ack],
                        _ => vec![Word::Ack],
                    };
                    for word in words {
                        let said = [say(&taken, word.clone())];
                        let settled = insist!(store.settle(&queue, &said));
                        if word == Word::Ack && settled == [Settled::Done] {
                            let taken = (taken.token, taken.group.clone(), taken.payload.clone());
                            done.lock().unwrap().push(taken);
                        }
                    }
                }
            }
        });
    }
    while let Some(producer) = producers.join_next().await {
        producer.unwrap();
    }
    let onlooker = open(&server).await;
    let emptied = async {
        while insist!(onlooker.stats(&queue)) != NOTHING {
            if let Some(consumer) = consumers.try_join_next() {
                consumer.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), emptied).await.expect("an empty queue");
    // The last words may be under way yet.
    until(async || done.lock().unwrap().len() >= 60).await;
    consumers.shutdown().await;
    let mut done = done.lock().unwrap().clone();
    // The answers did not come in the order of what was done; the tokens tell that.
    done.sort();
    let once: HashSet<_> = done.iter().map(|(_, _, payload)| payload).collect();
    assert_eq!((done.len(), once.len()), (60, 60), "{done:?}");
    for group in ["0 1", "0 2", "1 1", "1 2"] {
        let numbers =
            done.iter().filter(|(_, of, _)| of.as_deref() == Some(group)).map(|(_, _, payload)| payload);
        assert!(numbers.is_sorted(), "{group}: {done:?}");
    }
    assert!(parts(&server).await.is_empty());
    assert!(way.counts().resets > 20, "{} connections were broken", way.counts().resets);
}

/// The leader of three is killed, and later another one stopped, while clients work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_leader_loses_no_item() {
    let Some(mut cluster) = found(EtcdCluster::start(&EtcdOptions::default())) else { return };
    let queue = queue("failover");
    let url = cluster.url();
    let store = Store::open(url.as_str()).await.unwrap();
    let (mut work, done) = (JoinSet::new(), Arc::new(Mutex::new(HashMap::<ItemId, u32>::new())));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    for client in 0..2_u8 {
        let (store, queue) = (Store::open(url.as_str()).await.unwrap(), queue.clone());
        work.spawn(async move {
            for number in 0..60_u8 {
                let next = push(&queue, vec![grouped(&[number], &client.to_string())]);
                insist!(store.push(&next));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }
    let mut consumers = JoinSet::new();
    for _ in 0..2 {
        let (store, queue) = (Store::open(url.as_str()).await.unwrap(), queue.clone());
        let (done, stop) = (Arc::clone(&done), Arc::clone(&stop));
        consumers.spawn(async move {
            let (mut last, mut order) = (None, Vec::new());
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // A request that is still under way when it is given up may take what nobody asks for: its lease ends.
                let next = Receive { visibility: Duration::from_secs(5), ..receive(&queue, 2) };
                let taken = insist!(store.receive(&next)).deliveries;
                if taken.is_empty() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                for taken in taken {
                    assert!(last < Some(taken.token), "{} came after {last:?}", taken.token);
                    last = Some(taken.token);
                    let said = [say(&taken, Word::Ack)];
                    if insist!(store.settle(&queue, &said)) == [Settled::Stale] {
                        continue;
                    }
                    *done.lock().unwrap().entry(taken.id).or_default() += 1;
                    order.push((taken.group, taken.payload));
                }
            }
            order
        });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let leader = cluster.leader().unwrap();
    cluster.kill(leader).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.restart(leader).unwrap();
    let leader = cluster.leader().unwrap();
    cluster.stop(leader).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.resume(leader).unwrap();
    while let Some(producer) = work.join_next().await {
        producer.unwrap();
    }
    let emptied = async {
        while insist!(store.stats(&queue)) != NOTHING {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), emptied).await.expect("an empty queue");
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    while let Some(consumer) = consumers.join_next().await {
        // Each saw every group in order.
        let order = consumer.unwrap();
        for group in ["0", "1"] {
            let numbers =
                order.iter().filter(|(of, _)| of.as_deref() == Some(group)).map(|(_, payload)| payload);
            assert!(numbers.is_sorted(), "{order:?}");
        }
    }
    let done = done.lock().unwrap();
    assert!(done.len() == 120 && done.values().all(|times| *times == 1), "{done:?}");
}
