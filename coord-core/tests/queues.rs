//! Queues under lost replies, stopped processes and shutdowns, on the memory store and under a paused clock.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use coord_core::{ErrorKind, memory, prelude::*};
use tokio::{
    sync::Notify,
    time::{advance, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

async fn push(coordinator: &Coordinator, queue: &Name, payloads: &[&str]) {
    let items = payloads.iter().map(|payload| Item::new(*payload)).collect();
    coordinator.push(queue, items, &PushOptions::default()).await.unwrap();
}

/// The next item, which nobody may have in hand.
async fn at_once(coordinator: &Coordinator, queue: &Name) -> Delivery {
    let options = ReceiveOptions::default();
    let received = timeout(Duration::from_secs(1), coordinator.receive(queue, &options)).await;
    received.expect("nobody has it").unwrap().pop().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_late_nack_of_an_item_that_died_meanwhile_is_refused() {
    let store = memory::Store::new();
    let ((one, faults), other, queue) = (store.client_with_faults(), store.client(), name("q"));
    push(&other, &queue, &["x"]).await;
    let options = ReceiveOptions::default().with_max_attempts(Some(2)).without_renewal();
    let first = one.receive(&queue, &options).await.unwrap().pop().unwrap();
    faults.partition(true);
    first.lost().await;
    let second = other.receive(&queue, &options).await.unwrap().pop().unwrap();
    second.nack(Duration::ZERO).await.unwrap();
    assert_eq!(other.queue_stats(&queue).await.unwrap().dead, 1);
    faults.partition(false);
    assert_eq!(first.nack(Duration::ZERO).await.unwrap_err().kind(), ErrorKind::Lost);
}

#[tokio::test(start_paused = true)]
async fn a_nack_that_buries_is_found_again_after_a_lost_reply() {
    let (coordinator, faults) = memory::Store::new().client_with_faults();
    let queue = name("q");
    push(&coordinator, &queue, &["x"]).await;
    let options = ReceiveOptions::default().with_max_attempts(Some(1));
    let delivery = coordinator.receive(&queue, &options).await.unwrap().pop().unwrap();
    faults.lose_replies(1);
    delivery.nack(Duration::ZERO).await.unwrap();
    assert_eq!(coordinator.queue_stats(&queue).await.unwrap().dead, 1);
}

#[tokio::test(start_paused = true)]
async fn a_nack_with_a_delay_beyond_all_bounds_is_refused() {
    let coordinator = memory::Store::new().client();
    let queue = name("q");
    push(&coordinator, &queue, &["x"]).await;
    let error = at_once(&coordinator, &queue).await.nack(Duration::MAX).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidOptions);
    // It is given back all the same, at once.
    assert_eq!(at_once(&coordinator, &queue).await.attempt(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_receive_dropped_after_a_lost_reply_keeps_nothing_and_counts_nothing() {
    let store = memory::Store::new();
    let ((one, faults), other, queue) = (store.client_with_faults(), store.client(), name("q"));
    push(&other, &queue, &["x"]).await;
    faults.lose_replies(1);
    let options = ReceiveOptions::default();
    timeout(Duration::from_millis(10), one.receive(&queue, &options)).await.unwrap_err();
    assert_eq!(at_once(&other, &queue).await.attempt(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_receive_that_does_not_wait_tells_an_empty_queue_from_a_silent_store() {
    let (coordinator, faults) = memory::Store::new().client_with_faults();
    let queue = name("q");
    push(&coordinator, &queue, &["x"]).await;
    let options = ReceiveOptions::default().with_wait(Duration::ZERO);
    faults.lose_requests(1);
    coordinator.receive(&queue, &options).await.unwrap().pop().unwrap().ack().await.unwrap();
    assert_eq!(coordinator.receive(&queue, &options).await.unwrap_err().kind(), ErrorKind::NotGranted);
    faults.partition(true);
    assert_eq!(coordinator.receive(&queue, &options).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_receives_and_pushes_that_wait() {
    let store = memory::Store::new();
    let (one, other, queue, full) = (store.client(), store.client(), name("q"), name("full"));
    push(&other, &full, &["x"]).await;
    let receiving = tokio::spawn({
        let (one, queue) = (one.clone(), queue.clone());
        async move { one.receive(&queue, &ReceiveOptions::default()).await }
    });
    let pushing = tokio::spawn({
        let (one, bounded) = (one.clone(), PushOptions::default().with_capacity(1));
        async move { one.push(&full, vec![Item::new("y")], &bounded).await }
    });
    sleep(Duration::from_secs(1)).await;
    one.shutdown().await.unwrap();
    let ended = timeout(Duration::from_millis(1), async {
        (receiving.await.unwrap().unwrap_err().kind(), pushing.await.unwrap().unwrap_err().kind())
    });
    assert_eq!(ended.await.expect("they are told"), (ErrorKind::Closed, ErrorKind::Closed));
    push(&other, &queue, &["x"]).await;
    assert_eq!(at_once(&other, &queue).await.attempt(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_comes_during_a_shutdown_is_given_back() {
    let store = memory::Store::new();
    let ((one, faults), other, queue) = (store.client_with_faults(), store.client(), name("q"));
    push(&other, &queue, &["x"]).await;
    faults.delay_replies(Duration::from_millis(100));
    let receiving = tokio::spawn({
        let (one, queue) = (one.clone(), queue.clone());
        async move { one.receive(&queue, &ReceiveOptions::default()).await }
    });
    sleep(Duration::from_millis(10)).await;
    assert_eq!(other.queue_stats(&queue).await.unwrap().in_flight, 1);
    one.shutdown().await.unwrap();
    assert_eq!(receiving.await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    let stats = other.queue_stats(&queue).await.unwrap();
    assert_eq!((stats.ready, stats.in_flight), (1, 0), "the shutdown waited for it");
    assert_eq!(at_once(&other, &queue).await.attempt(), 1);
}

/// A receive that was dropped whenever a handler ended would give back what it took, behind what the next one takes.
#[tokio::test(start_paused = true)]
async fn a_consumer_keeps_the_order_while_its_handlers_end() {
    let store = memory::Store::new();
    let ((one, faults), other, queue) = (store.client_with_faults(), store.client(), name("q"));
    push(&other, &queue, &["a", "b", "c", "d"]).await;
    faults.delay_replies(Duration::from_millis(10));
    let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
    let (noted, stopping) = (seen.clone(), stop.clone());
    let consumer = Consumer::new(one, queue, ConsumerOptions::default().with_concurrency(3));
    let run = tokio::spawn(async move {
        let handler = move |delivery: Arc<Delivery>| {
            noted.lock().unwrap().push((delivery.payload().to_vec(), delivery.attempt()));
            async move {
                sleep(Duration::from_millis(5)).await;
                Ok::<_, Infallible>(())
            }
        };
        consumer.run(stopping.cancelled_owned(), handler).await
    });
    sleep(Duration::from_secs(1)).await;
    stop.cancel();
    run.await.unwrap().unwrap();
    let expected = [b"a", b"b", b"c", b"d"].map(|payload| (payload.to_vec(), 1));
    assert_eq!(*seen.lock().unwrap(), expected);
}

/// As a process does that was stopped: the lease has ended when the handler could go on.
#[tokio::test(start_paused = true)]
async fn a_handler_takes_no_step_after_its_lease() {
    let coordinator = memory::Store::new().client();
    let queue = name("q");
    push(&coordinator, &queue, &["x"]).await;
    let (begun, go_on, steps) =
        (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(AtomicU32::new(0)));
    let (beginning, going_on, counted) = (begun.clone(), go_on.clone(), steps.clone());
    let receive = ReceiveOptions::default().with_visibility(Duration::from_secs(1));
    let consumer = Consumer::new(coordinator, queue, ConsumerOptions::default().with_receive(receive));
    let run = tokio::spawn(async move {
        let handler = move |delivery: Arc<Delivery>| {
            let (begun, go_on, steps) = (beginning.clone(), going_on.clone(), counted.clone());
            async move {
                if delivery.attempt() == 1 {
                    begun.notify_one();
                    go_on.notified().await;
                    steps.fetch_add(1, Ordering::SeqCst);
                }
                Ok::<_, Infallible>(())
            }
        };
        consumer.run(std::future::pending(), handler).await
    });
    begun.notified().await;
    go_on.notify_one();
    advance(Duration::from_secs(60)).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(steps.load(Ordering::SeqCst), 0);
    run.abort();
}
