//! Who waits at a queue hears of what concerns him, and of nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use coord_core::spi::jobs::{Jobs, NewItem, Push, Pushed, QueueId, QueueStats, Receive, Settled, Word};
use coord_redis::Store;
use fastrand::Rng;
use futures_util::FutureExt;

use super::{item, one, push, queue, receive, say};
use crate::stores::{LONG, calls, hint, open, quiet, server};

#[tokio::test]
async fn a_push_wakes_consumers_and_room_wakes_producers() {
    let Some(server) = server() else { return };
    let (producer, consumer) = (open(&server).await, open(&server).await);
    let queue = queue("hints");
    let mut wakeups = Jobs::wakeups(&*consumer, &queue);
    hint(&mut wakeups).await;
    quiet(&mut wakeups).await;
    let bounded = |payload: &[u8]| Push { capacity: Some(1), ..push(&queue, vec![item(payload)]) };
    assert_eq!(producer.push(&bounded(b"a")).await.unwrap(), Pushed::Done { new: 1 });
    hint(&mut wakeups).await;
    // Nobody was refused yet, so nobody wants room.
    let published = calls(&server, "publish");
    let taken = one(&*consumer, &queue).await;
    consumer.settle(&queue, &[say(&taken, Word::Extend(LONG)), say(&taken, Word::Ack)]).await.unwrap();
    producer.push(&bounded(b"b")).await.unwrap();
    assert_eq!(calls(&server, "publish"), published + 1, "the push alone");
    hint(&mut wakeups).await;
    assert_eq!(producer.push(&bounded(b"c")).await.unwrap(), Pushed::Full);
    let taken = one(&*consumer, &queue).await;
    assert!(wakeups.next().now_or_never().is_none());
    consumer.settle(&queue, &[say(&taken, Word::Ack)]).await.unwrap();
    hint(&mut wakeups).await;
    assert_eq!(producer.push(&bounded(b"c")).await.unwrap(), Pushed::Done { new: 1 });
    hint(&mut wakeups).await;
    // What is pushed again or behind others that are ready, and a receive, are no news.
    let published = calls(&server, "publish");
    let more = push(&queue, vec![item(b"d"), item(b"e")]);
    producer.push(&more).await.unwrap();
    producer.push(&more).await.unwrap();
    for _ in 0..3 {
        one(&*consumer, &queue).await;
    }
    producer.push(&more).await.unwrap();
    assert_eq!(calls(&server, "publish"), published);
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
    let Some(server) = server() else { return };
    let (queue, count) = (queue("hinted"), 400);
    let left = Arc::new(AtomicUsize::new(count));
    let mut consumers = Vec::new();
    let clients = [open(&server).await, open(&server).await];
    for number in 0..8 {
        let (store, random) = (clients[number % 2].clone(), Rng::with_seed(number as u64));
        consumers.push(tokio::spawn(consume(store, queue.clone(), random, left.clone())));
    }
    let (producer, mut random, mut pushed) = (open(&server).await, Rng::with_seed(99), 0);
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

/// Who waits has to hear of a moment that is earlier than those he knew.
#[tokio::test]
async fn an_earlier_delay_wakes_and_a_later_one_does_not() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let queue = queue("delays");
    let published = calls(&server, "publish");
    let delayed = |seconds| NewItem { delay: Duration::from_secs(seconds), ..item(b"x") };
    for (seconds, heard) in [(60, 1), (90, 1), (30, 2), (45, 2)] {
        store.push(&push(&queue, vec![delayed(seconds)])).await.unwrap();
        assert_eq!(calls(&server, "publish"), published + heard, "after {seconds} s");
    }
}
