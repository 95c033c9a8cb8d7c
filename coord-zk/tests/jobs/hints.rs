//! Who waits at a queue hears of what concerns him, and of nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use coord_core::spi::jobs::{Jobs, NewItem, Push, Pushed, QueueId, QueueStats, Receive, Settled, Word};
use coord_zk::Store;
use fastrand::Rng;
use futures_util::FutureExt;

use super::{item, one, push, queue, receive, say};
use crate::stores::{LONG, hint, large, open, quiet, shared};

#[tokio::test]
async fn a_push_wakes_consumers_and_room_wakes_producers() {
    let Some(server) = shared() else { return };
    let place = large(&server.fresh());
    let (producer, consumer) = (open(&place).await, open(&place).await);
    let queue = queue("hints");
    let mut wakeups = Jobs::wakeups(&*consumer, &queue);
    hint(&mut wakeups).await;
    quiet(&mut wakeups).await;
    let bounded = |payload: &[u8]| Push { capacity: Some(1), ..push(&queue, vec![item(payload)]) };
    assert_eq!(producer.push(&bounded(b"a")).await.unwrap(), Pushed::Done { new: 1 });
    hint(&mut wakeups).await;
    quiet(&mut wakeups).await;
    assert_eq!(producer.push(&bounded(b"c")).await.unwrap(), Pushed::Full);
    let taken = one(&*consumer, &queue).await;
    // What a receive does makes nothing ready and no room.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(wakeups.next().now_or_never().is_none());
    let extended = [say(&taken, Word::Extend(LONG / 2))];
    assert_eq!(consumer.settle(&queue, &extended).await.unwrap(), [Settled::Done]);
    assert!(wakeups.next().now_or_never().is_none());
    consumer.settle(&queue, &[say(&taken, Word::Ack)]).await.unwrap();
    hint(&mut wakeups).await;
    assert_eq!(producer.push(&bounded(b"c")).await.unwrap(), Pushed::Done { new: 1 });
    hint(&mut wakeups).await;
    quiet(&mut wakeups).await;
    producer.purge(&queue).await.unwrap();
    hint(&mut wakeups).await;
    quiet(&mut wakeups).await;
    // A lease that ends is a hint too.
    producer.push(&push(&queue, vec![item(b"d")])).await.unwrap();
    let short = Receive { visibility: Duration::from_millis(500), ..receive(&queue, 1) };
    assert_eq!(producer.receive(&short).await.unwrap().deliveries.len(), 1);
    hint(&mut wakeups).await;
    hint(&mut wakeups).await;
    assert_eq!(one(&*consumer, &queue).await.attempt, 2);
}

/// Takes and acknowledges items until the queue's last one is done, and waits for hints and known moments alone: whoever is
/// not hinted waits for ever.
async fn consume(store: Arc<Store>, queue: QueueId, mut random: Rng, left: Arc<AtomicUsize>) {
    let mut wakeups = Jobs::wakeups(&*store, &queue);
    while left.load(Ordering::SeqCst) > 0 {
        let receive = Receive { visibility: LONG * 20, ..receive(&queue, random.u32(1..3)) };
        let received = store.receive(&receive).await.unwrap();
        let look = received.look_again_in;
        for taken in &received.deliveries {
            // Some come back once, a little later.
            let again = taken.attempt == 1 && random.u8(0..3) == 0;
            let delay = Duration::from_millis(random.u64(0..20));
            let word = if again { Word::Nack { delay, max_attempts: None } } else { Word::Ack };
            tokio::time::sleep(Duration::from_micros(random.u64(0..900))).await;
            assert_eq!(store.settle(&queue, &[say(taken, word)]).await.unwrap(), [Settled::Done]);
            if !again {
                left.fetch_sub(1, Ordering::SeqCst);
            }
        }
        if received.deliveries.is_empty() {
            // The leases of others are longer than the test.
            tokio::select! {
                _ = wakeups.next() => {}
                () = tokio::time::sleep(look.unwrap_or(LONG * 20)) => {}
            }
        }
    }
}

#[tokio::test]
async fn hints_alone_bring_every_item() {
    let Some(server) = shared() else { return };
    let place = large(&server.fresh());
    let (queue, count) = (queue("hinted"), 150);
    let left = Arc::new(AtomicUsize::new(count));
    let mut consumers = Vec::new();
    let clients = [open(&place).await, open(&place).await];
    for number in 0..6 {
        let (store, random) = (clients[number % 2].clone(), Rng::with_seed(number as u64));
        consumers.push(tokio::spawn(consume(store, queue.clone(), random, left.clone())));
    }
    let (producer, mut random, mut pushed) = (open(&place).await, Rng::with_seed(99), 0);
    while pushed < count {
        let items = (0..random.usize(1..4).min(count - pushed)).map(|_| NewItem {
            group: (random.u8(0..3) == 0).then(|| "g".into()),
            delay: Duration::from_millis(if random.u8(0..4) == 0 { random.u64(0..15) } else { 0 }),
            priority: random.i32(0..2),
            ..item(b"x")
        });
        let items: Vec<_> = items.collect();
        pushed += items.len();
        producer.push(&push(&queue, items)).await.unwrap();
        tokio::time::sleep(Duration::from_micros(random.u64(0..3_000))).await;
    }
    let all_done = async {
        while left.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(LONG * 4, all_done).await;
    assert!(waited.is_ok(), "{left:?} items were not hinted at: {:?}", producer.stats(&queue).await);
    assert_eq!(producer.stats(&queue).await.unwrap(), QueueStats::default());
    consumers.iter().for_each(|consumer| consumer.abort());
}
