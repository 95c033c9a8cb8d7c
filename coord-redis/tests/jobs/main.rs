//! The queues: hints, leases, what is left behind, what they cost.

mod hints;

use std::time::Duration;

use coord_conformance::servers::RedisOptions;
use coord_core::{
    ErrorKind,
    clock::Clock,
    spi::jobs::{
        Delivered, ItemId, Jobs, NewItem, Push, Pushed, QueueId, QueueStats, Receive, Settled, Settlement,
        Word,
    },
};

use crate::stores::{LONG, calls, keys, name, namespace, number, open, server, server_with, until};

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
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let queue = queue("late");
    store.push(&push(&queue, vec![item(b"a")])).await.unwrap();
    let short = Receive { visibility: Duration::from_millis(100), ..receive(&queue, 1) };
    let first = store.receive(&short).await.unwrap().deliveries.pop().unwrap();
    // It ends though nobody looks.
    let counted = QueueStats { ready: 1, ..QueueStats::default() };
    until(async || store.stats(&queue).await.unwrap() == counted).await;
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
async fn extending_never_shortens() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let queue = queue("extended");
    store.push(&push(&queue, vec![item(b"a")])).await.unwrap();
    let held = one(&*store, &queue).await;
    let extend = |by| [say(&held, Word::Extend(by))];
    for by in [LONG * 2, Duration::from_millis(1)] {
        assert_eq!(store.settle(&queue, &extend(by)).await.unwrap(), [Settled::Done]);
    }
    let look = store.receive(&receive(&queue, 1)).await.unwrap().look_again_in.unwrap();
    assert!(look > LONG, "{look:?}");
}

#[tokio::test]
async fn a_group_waits_for_the_delay_of_its_first() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
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
async fn a_killed_server_comes_back_with_its_queue() {
    let Some(mut server) = server_with(&RedisOptions::default().with_append_only()) else { return };
    let store = open(&server).await;
    let queue = queue("kept");
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
    let store = open(&server).await;
    assert_eq!(store.stats(&queue).await.unwrap(), counted);
    assert_eq!(store.push(&push(&queue, vec![done])).await.unwrap(), Pushed::Done { new: 0 });
    assert_eq!(store.receive(&receive).await.unwrap().deliveries, taken[1..2]);
    assert_eq!(store.dead(&queue, None, 9).await.unwrap()[0].payload, b"dead");
    let next = one(&*store, &queue).await;
    assert!(next.payload == b"ready" && next.token > taken[2].token);
    for _ in 0..2 {
        assert_eq!(store.settle(&queue, &[say(&taken[1], Word::Ack)]).await.unwrap(), [Settled::Done]);
    }
    assert_eq!(one(&*store, &queue).await.payload, b"2");
}

#[tokio::test]
async fn every_operation_is_one_script() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let queue = queue("counted");
    // The first time the server learns the scripts.
    for round in 0..2 {
        let before = calls(&server, "evalsha");
        let items = (0..100).map(|_| item(b"x")).collect();
        store.push(&push(&queue, items)).await.unwrap();
        let taken = store.receive(&receive(&queue, 50)).await.unwrap().deliveries;
        let bury = Word::Nack { delay: Duration::ZERO, max_attempts: Some(1) };
        let words: Vec<_> = taken
            .iter()
            .map(|item| say(item, if item.token.get() % 2 == 0 { Word::Ack } else { bury.clone() }))
            .collect();
        store.settle(&queue, &words).await.unwrap();
        let dead: Vec<_> = store.dead(&queue, None, 100).await.unwrap().iter().map(|dead| dead.id).collect();
        assert_eq!(dead.len(), 25);
        assert_eq!(store.requeue(&queue, &dead[..10]).await.unwrap(), 10);
        assert_eq!(store.drop_dead(&queue, &dead[10..]).await.unwrap(), 15);
        assert_eq!(store.stats(&queue).await.unwrap(), QueueStats { ready: 60, ..QueueStats::default() });
        assert_eq!(store.purge(&queue).await.unwrap(), 60);
        if round == 1 {
            // `dead` asks for the rest too, and there is none.
            assert_eq!(calls(&server, "evalsha") - before, 9);
        }
    }
}

#[tokio::test]
async fn nothing_is_left_behind_but_what_ends_by_itself() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let queue = queue("tidy");
    let count = 10_000;
    for batch in 0..count / 1_000 {
        let items = (0..1_000u32).map(|number| NewItem {
            group: (number % 3 == 0).then(|| format!("{}", number % 7)),
            ..item(&[batch as u8; 100])
        });
        store.push(&push(&queue, items.collect())).await.unwrap();
    }
    let mut done = 0;
    while done < count {
        let taken = store.receive(&receive(&queue, 1_000)).await.unwrap().deliveries;
        assert!(!taken.is_empty());
        // One in fifty is tried twice, and one in fifty of these dies.
        let words = taken.iter().enumerate().map(|(at, item)| match (at % 50, item.attempt) {
            (0, 1) => say(item, Word::Nack { delay: Duration::ZERO, max_attempts: None }),
            (1, _) => say(item, Word::Nack { delay: Duration::ZERO, max_attempts: Some(1) }),
            _ => say(item, Word::Ack),
        });
        let words: Vec<_> = words.collect();
        done +=
            words.iter().filter(|said| !matches!(said.word, Word::Nack { max_attempts: None, .. })).count();
        let settled = store.settle(&queue, &words).await.unwrap();
        assert!(settled.iter().all(|settled| *settled == Settled::Done));
    }
    while let dead @ [_, ..] = &store.dead(&queue, None, 1_000).await.unwrap()[..] {
        let ids: Vec<_> = dead.iter().map(|dead| dead.id).collect();
        store.drop_dead(&queue, &ids).await.unwrap();
    }
    let stem = "coord:{default/queue/tidy}:";
    assert_eq!(keys(&server), ["counter", "forget", "gone"].map(|part| format!("{stem}{part}")));
    for (part, most) in [("counter", 86_400_000), ("forget", 1_200_000), ("gone", 1_200_000)] {
        let left = number(&server, &["PTTL", &format!("{stem}{part}")]);
        assert!((1..=most).contains(&left), "{part} ends in {left} ms");
    }
    let bytes: i64 = ["forget", "gone"]
        .map(|part| number(&server, &["MEMORY", "USAGE", &format!("{stem}{part}"), "SAMPLES", "0"]))
        .iter()
        .sum();
    assert!(bytes < 200 * count as i64, "{bytes} bytes for {count} items that are gone");
}

#[tokio::test]
async fn a_purge_keeps_what_is_in_hand() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
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

/// More than one step looks at: their order must not suffer.
#[tokio::test]
async fn a_thousand_that_come_back_at_once_are_in_order() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let queue = queue("many");
    let (short, count) = (Duration::from_millis(300), 1_200u32);
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
    until(async || store.stats(&queue).await.unwrap().delayed == 0).await;
    let leased = Receive { visibility: short, ..receive(&queue, count) };
    let first = store.receive(&leased).await.unwrap().deliveries;
    assert_eq!(numbers(&first), expected, "after their delays");
    until(async || store.stats(&queue).await.unwrap().in_flight == 0).await;
    let twice = Receive { max_attempts: Some(2), ..receive(&queue, count) };
    let again = store.receive(&twice).await.unwrap().deliveries;
    assert_eq!(numbers(&again), expected, "after their leases");
    assert!(again.iter().all(|item| item.attempt == 2));
    let returned: Vec<_> = again.iter().map(|item| say(item, Word::Return)).collect();
    store.settle(&queue, &returned).await.unwrap();
    let dead = Receive { max_attempts: Some(1), ..receive(&queue, 1) };
    assert!(store.receive(&dead).await.unwrap().deliveries.is_empty());
    let stats = QueueStats { dead: u64::from(count), ..QueueStats::default() };
    assert_eq!(store.stats(&queue).await.unwrap(), stats);
}

#[tokio::test]
async fn large_payloads_come_in_parts_and_none_is_left_out() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
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
    assert!(receives.len() > 1 && receives.iter().sum::<usize>() == 160, "{receives:?}");
    assert_eq!(store.dead(&queue, None, 1_000).await.unwrap().len(), 160);
}

#[tokio::test]
async fn a_full_server_can_be_emptied() {
    let options = RedisOptions::default().with_setting("maxmemory-policy", "noeviction");
    let Some(server) = server_with(&options) else { return };
    let store = open(&server).await;
    let queue = queue("full");
    store.push(&push(&queue, (0..10).map(|_| item(b"x")).collect())).await.unwrap();
    let held = one(&*store, &queue).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    let error = store.push(&push(&queue, vec![item(b"y")])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    let words = [say(&held, Word::Extend(LONG * 2)), say(&held, Word::Ack)];
    assert_eq!(store.settle(&queue, &words).await.unwrap(), [Settled::Done; 2]);
    for _ in 0..9 {
        let taken = one(&*store, &queue).await;
        assert_eq!(store.settle(&queue, &[say(&taken, Word::Ack)]).await.unwrap(), [Settled::Done]);
    }
    assert_eq!(store.stats(&queue).await.unwrap(), QueueStats::default());
}

#[tokio::test]
async fn tokens_go_on_growing_after_everything_is_gone() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let queue = queue("gone");
    store.push(&push(&queue, vec![item(b"a")])).await.unwrap();
    let lost = one(&*store, &queue).await;
    server.command(&["FLUSHALL"]).unwrap();
    assert_eq!(store.settle(&queue, &[say(&lost, Word::Ack)]).await.unwrap(), [Settled::Stale]);
    store.push(&push(&queue, vec![item(b"b")])).await.unwrap();
    let next = one(&*store, &queue).await;
    assert!(next.token > lost.token, "{} came after {}", next.token, lost.token);
}

#[tokio::test]
async fn a_long_queue_does_not_slow_a_receive() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let (short, long) = (queue("short"), queue("long"));
    store.push(&push(&short, (0..100).map(|_| item(b"x")).collect())).await.unwrap();
    for batch in 0..100u8 {
        // Half of them behind others of their group, a part delayed.
        let items = (0..1_000u32).map(|number| NewItem {
            group: (number % 2 == 0).then(|| format!("{}", number % 10)),
            delay: if number % 7 == 0 { LONG * 100 } else { Duration::ZERO },
            priority: (number % 3).cast_signed(),
            ..item(&[batch])
        });
        store.push(&push(&long, items.collect())).await.unwrap();
    }
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..400 {
        for (queue, times) in [&short, &long].into_iter().zip(&mut times) {
            let before = Clock::System.now();
            let taken = one(&*store, queue).await;
            times.push(Clock::System.now().since(before));
            store.settle(queue, &[say(&taken, Word::Return)]).await.unwrap();
        }
    }
    let [few, many] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    eprintln!("a receive takes {few:?} with 100 items, {many:?} with 100,000");
    assert!(many < few * 2, "{few:?} with 100 items, {many:?} with 100,000");
}
