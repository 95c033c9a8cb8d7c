//! Long queues: what a client follows instead of listing it is what there is.

use std::{collections::BTreeMap, time::Duration};

use coord_conformance::proxy::Loss;
use coord_core::{
    clock::Clock,
    spi::jobs::{Delivered, ItemId, Jobs, NewItem, Receive, Settled, Word},
};
use fastrand::Rng;

use super::{item, one, push, queue, receive, say};
use crate::stores::{LONG, fresh, large, open, proxy, shared, until};

/// What is expected of a queue whose operations come one after the other.
#[derive(Default)]
struct Expected {
    /// By their order: the priority, what the item carries, and whether somebody has it.
    items: BTreeMap<u32, (i32, Vec<u8>, bool)>,
    next: u32,
}

impl Expected {
    fn push(&mut self, random: &mut Rng) -> NewItem {
        let (payload, priority) = (self.next.to_be_bytes().to_vec(), random.i32(0..3));
        self.items.insert(self.next, (priority, payload.clone(), false));
        self.next += 1;
        NewItem { priority, ..item(&payload) }
    }

    /// The items that are next.
    fn take(&mut self, limit: u32) -> Vec<Vec<u8>> {
        let mut free: Vec<_> = self.items.iter().filter(|(_, (.., taken))| !taken).collect();
        free.sort_by_key(|(order, (priority, ..))| (-priority, **order));
        let orders: Vec<_> = free.iter().take(limit as usize).map(|(order, _)| **order).collect();
        let take = |order| {
            let (_, payload, taken) = self.items.get_mut(&order).unwrap();
            *taken = true;
            payload.clone()
        };
        orders.into_iter().map(take).collect()
    }
}

fn order(delivered: &Delivered) -> u32 {
    u32::from_be_bytes(delivered.payload.clone().try_into().unwrap())
}

/// Three clients push, receive and settle one after the other, and one of them loses its connection every now and then.
#[tokio::test]
async fn who_follows_sees_what_there_is() {
    let Some(server) = shared() else { return };
    let (place, proxy) = (server.fresh(), proxy(server));
    let stores =
        [open(&large(&proxy.url_of(&place))).await, open(&large(&place)).await, open(&large(&place)).await];
    let (queue, mut random, mut expected) = (queue("followed"), Rng::with_seed(7), Expected::default());
    let items = (0..300).map(|_| expected.push(&mut random)).collect();
    stores[1].push(&push(&queue, items)).await.unwrap();
    let mut held: Vec<Delivered> = Vec::new();
    for step in 0..400u32 {
        let store = &stores[random.usize(0..3)];
        if step % 50 == 25 {
            proxy.lose(Loss::request(1).of("multiRead"));
            until("an answer", async || stores[0].stats(&queue).await.is_ok()).await;
        }
        match random.u8(0..8) {
            0..=3 => {
                let limit = random.u32(1..4);
                let wanted = Receive { visibility: LONG * 4, ..receive(&queue, limit) };
                let taken = store.receive(&wanted).await.unwrap().deliveries;
                let payloads: Vec<_> = taken.iter().map(|item| item.payload.clone()).collect();
                assert_eq!(payloads, expected.take(limit), "step {step}");
                held.extend(taken);
            }
            4 => {
                let items = (0..random.usize(1..4)).map(|_| expected.push(&mut random)).collect();
                store.push(&push(&queue, items)).await.unwrap();
            }
            _ if held.is_empty() => {}
            kind => {
                let one = held.swap_remove(random.usize(0..held.len()));
                let (word, back) = match kind {
                    5 => (Word::Ack, false),
                    6 => (Word::Nack { delay: Duration::ZERO, max_attempts: None }, true),
                    _ => (Word::Return, true),
                };
                assert_eq!(store.settle(&queue, &[say(&one, word)]).await.unwrap(), [Settled::Done]);
                if back {
                    expected.items.get_mut(&order(&one)).unwrap().2 = false;
                } else {
                    expected.items.remove(&order(&one));
                }
            }
        }
    }
    assert_eq!(proxy.counts().lost, 8);
}

/// A receive from a queue of many items, once it is followed, takes not much longer than one from a queue of few.
#[tokio::test]
async fn a_long_queue_does_not_slow_a_receive() {
    let Some(server) = shared() else { return };
    let store = fresh(server).await;
    let many = std::env::var("COORD_TEST_ITEMS").ok().and_then(|items| items.parse().ok()).unwrap_or(1_000);
    let (short, long) = (queue("short"), queue("long"));
    store.push(&push(&short, (0..10).map(|_| item(b"x")).collect())).await.unwrap();
    for batch in 0..many / 1_000 {
        // Half of them behind others of their group, a part delayed.
        let items = (0..1_000u32).map(|number| NewItem {
            group: (number % 2 == 0).then(|| format!("{}", number % 10)),
            delay: if number % 7 == 0 { LONG * 100 } else { Duration::ZERO },
            priority: (number % 3).cast_signed(),
            ..item(&[batch as u8])
        });
        store.push(&push(&long, items.collect())).await.unwrap();
    }
    let mut times = [Vec::new(), Vec::new()];
    let before = Clock::System.now();
    one(&*store, &long).await;
    let listing = Clock::System.now().since(before);
    for _ in 0..100 {
        for (queue, times) in [&short, &long].into_iter().zip(&mut times) {
            let before = Clock::System.now();
            let taken = one(&*store, queue).await;
            times.push(Clock::System.now().since(before));
            store.settle(queue, &[say(&taken, Word::Return)]).await.unwrap();
        }
    }
    let [few, longer] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    eprintln!(
        "a receive takes {few:?} with 10 items, {longer:?} with {many}, and {listing:?} the first time"
    );
    assert!(many > 1_000 || longer < few * 2, "{few:?} with 10 items, {longer:?} with {many}");
}

/// Nobody keeps being told of a queue that nobody receives from.
#[tokio::test]
async fn a_queue_is_not_followed_for_ever() {
    let Some(server) = crate::stores::server() else { return };
    let (store, queue) = (fresh(&server).await, queue("left"));
    store.push(&push(&queue, (0..150).map(|_| item(b"x")).collect())).await.unwrap();
    let watches = || server.numbers().unwrap()["watch_count"];
    let before = watches();
    for _ in 0..2 {
        let taken = one(&*store, &queue).await;
        store.settle(&queue, &[say(&taken, Word::Ack)]).await.unwrap();
    }
    assert!(watches() > before, "it is not followed");
    until("the end of the watch", async || watches() <= before).await;
    let again = Receive { id: ItemId::random(), ..receive(&queue, 1_000) };
    assert_eq!(store.receive(&again).await.unwrap().deliveries.len(), 148);
}
