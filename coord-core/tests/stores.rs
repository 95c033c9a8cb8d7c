//! Values and jobs on the memory store, under a paused clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use coord_core::{Change, Config, Effect, ErrorKind, ItemId, Write, memory, prelude::*};
use tokio::time::{sleep, timeout};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn token(number: u64) -> FencingToken {
    FencingToken::new(number).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_put_whose_reply_is_lost_is_done_once() {
    let (coordinator, faults) = memory::Store::new().client_with_faults();
    let key = name("k");
    let first = coordinator.put(&key, b"1".to_vec(), Condition::Absent).await.unwrap();
    faults.lose_replies(1);
    let second = coordinator.put(&key, b"2".to_vec(), Condition::Version(first)).await.unwrap();
    assert_eq!(coordinator.get(&key).await.unwrap().unwrap().version, second);
    let error = coordinator.put(&key, b"3".to_vec(), Condition::Version(first)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConditionFailed);
    assert_eq!(coordinator.history(&key, 10).await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_version_does_not_come_back_after_a_deletion() {
    let coordinator = memory::Store::new().client();
    let key = name("k");
    let first = coordinator.put(&key, b"1".to_vec(), Condition::Any).await.unwrap();
    coordinator.delete(&key, Condition::Version(first)).await.unwrap();
    coordinator.put(&key, b"1".to_vec(), Condition::Absent).await.unwrap();
    let error = coordinator.put(&key, b"2".to_vec(), Condition::Version(first)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConditionFailed);
}

#[tokio::test(start_paused = true)]
async fn several_writes_are_one() {
    let coordinator = memory::Store::new().client();
    let put = |key: &str, condition| Write { key: name(key), condition, change: Change::Put(b"x".to_vec()) };
    coordinator.commit(vec![put("a", Condition::Absent), put("b", Condition::Absent)]).await.unwrap();
    let both = vec![put("c", Condition::Any), put("a", Condition::Absent)];
    assert_eq!(coordinator.commit(both).await.unwrap_err().kind(), ErrorKind::ConditionFailed);
    let listing = coordinator.list("", None, 1).await.unwrap();
    assert!(listing.more && listing.entries[0].key == name("a"));
    let rest = coordinator.list("", Some(&name("a")), 10).await.unwrap();
    assert!(!rest.more && rest.entries.len() == 1);
}

#[tokio::test(start_paused = true)]
async fn a_fenced_key_refuses_lower_tokens_and_none() {
    let coordinator = memory::Store::new().client();
    let key = name("account");
    coordinator.fenced_write(&key, b"1".to_vec(), token(5)).await.unwrap();
    coordinator.fence(&key, token(7)).await.unwrap();
    let error = coordinator.fenced_write(&key, b"2".to_vec(), token(5)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert!(error.to_string().contains('5') && error.to_string().contains('7'), "{error}");
    assert_eq!(
        coordinator.put(&key, Vec::new(), Condition::Any).await.unwrap_err().kind(),
        ErrorKind::Fenced
    );
    coordinator.delete(&key, Condition::Token(token(7))).await.unwrap();
    assert_eq!(coordinator.fence(&key, token(6)).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(coordinator.fenced_read(&key).await.unwrap().mark, Some(token(7)));
}

#[tokio::test(start_paused = true)]
async fn a_watch_reports_the_last_state_and_announces_gaps() {
    let store = memory::Store::new();
    let writer = store.client();
    let (reader, faults) = store.client_with_faults();
    let mut watch = reader.watch_prefix("a");
    assert_eq!(watch.next().await.unwrap().unwrap(), ConfigEvent::Snapshot(Vec::new()));
    writer.put(&name("b"), b"no".to_vec(), Condition::Any).await.unwrap();
    writer.put(&name("a1"), b"1".to_vec(), Condition::Any).await.unwrap();
    assert!(matches!(watch.next().await.unwrap().unwrap(), ConfigEvent::Put(entry) if entry.value == b"1"));
    writer.delete(&name("a1"), Condition::Any).await.unwrap();
    assert!(matches!(watch.next().await.unwrap().unwrap(), ConfigEvent::Deleted { .. }));
    faults.partition(true);
    for number in 0..2000u32 {
        writer.put(&name("a2"), number.to_string().into_bytes(), Condition::Any).await.unwrap();
    }
    faults.partition(false);
    match watch.next().await.unwrap().unwrap() {
        ConfigEvent::Resync(entries) => assert_eq!(entries[0].value, b"1999"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_good_value_stays() {
    let store = memory::Store::new();
    let writer = store.client();
    let key = name("limit");
    let positive = |value: &i32| if *value > 0 { Ok(()) } else { Err("it must be positive".into()) };
    let mut config = Config::open_with(store.client(), key.clone(), positive).await.unwrap();
    assert_eq!(config.get(), None);
    config.put(&5, Condition::Any).await.unwrap();
    assert!(config.changed().await);
    assert_eq!(config.get().as_deref(), Some(&5));
    assert_eq!(config.put(&-1, Condition::Any).await.unwrap_err().kind(), ErrorKind::InvalidValue);
    writer.put(&key, b"nonsense".to_vec(), Condition::Any).await.unwrap();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(config.get().as_deref(), Some(&5));
    assert_eq!(config.error().unwrap().kind(), ErrorKind::InvalidValue);
    writer.put(&key, b"7".to_vec(), Condition::Any).await.unwrap();
    assert!(config.changed().await);
    assert_eq!((config.get().as_deref(), config.error().is_none()), (Some(&7), true));
}

#[tokio::test(start_paused = true)]
async fn an_item_is_kept_alive_redelivered_and_given_up() {
    let store = memory::Store::new();
    let (coordinator, faults) = store.client_with_faults();
    let (other, queue) = (store.client(), name("q"));
    let options = ReceiveOptions::default().with_max_attempts(Some(2)).with_wait(Duration::ZERO);
    coordinator.push(&queue, vec![Item::new("a")], &PushOptions::default()).await.unwrap();
    let first = coordinator.receive(&queue, &options).await.unwrap().pop().unwrap();
    sleep(options.visibility * 10).await;
    assert!(first.is_held(), "it is kept alive");
    faults.partition(true);
    first.lost().await;
    let waiting = options.clone().with_wait(options.visibility * 2);
    let second = other.receive(&queue, &waiting).await.unwrap().pop().unwrap();
    assert!(second.attempt() == 2 && second.token() > first.token());
    faults.partition(false);
    assert_eq!(first.ack().await.unwrap_err().kind(), ErrorKind::Lost);
    second.nack(Duration::ZERO).await.unwrap();
    let stats = other.queue_stats(&queue).await.unwrap();
    assert_eq!((stats.ready, stats.dead), (0, 1));
    let dead = other.dead_letters(&queue, None, 10).await.unwrap();
    assert_eq!(other.requeue(&queue, &[dead[0].id]).await.unwrap(), 1);
    let third = other.receive(&queue, &options).await.unwrap().pop().unwrap();
    assert_eq!((third.attempt(), third.payload()), (1, &b"a"[..]));
    faults.lose_replies(1);
    third.ack().await.unwrap();
    assert_eq!(other.queue_stats(&queue).await.unwrap(), coord_core::QueueStats::default());
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_was_given_back_cannot_be_settled() {
    let coordinator = memory::Store::new().client();
    let queue = name("q");
    let options = ReceiveOptions::default().without_renewal();
    coordinator.push(&queue, vec![Item::new("a")], &PushOptions::default()).await.unwrap();
    let first = coordinator.receive(&queue, &options).await.unwrap().pop().unwrap();
    first.lost().await;
    // The client has given it back, and has it again.
    let second = coordinator.receive(&queue, &options).await.unwrap().pop().unwrap();
    assert_eq!(first.nack(Duration::from_secs(60)).await.unwrap_err().kind(), ErrorKind::Lost);
    assert!(second.attempt() == 2 && second.is_held());
    second.ack().await.unwrap();
}

/// The store does not arm the lease again for a request that is sent again.
#[tokio::test(start_paused = true)]
async fn a_delivery_whose_reply_was_lost_counts_from_the_first_request() {
    let store = memory::Store::new();
    let ((one, faults), other, queue) = (store.client_with_faults(), store.client(), name("q"));
    other.push(&queue, vec![Item::new("x")], &PushOptions::default()).await.unwrap();
    let options = ReceiveOptions::default().with_visibility(Duration::from_secs(1)).without_renewal();
    faults.lose_replies(3);
    let first = one.receive(&queue, &options).await.unwrap().pop().unwrap();
    faults.partition(true);
    let again = other.receive(&queue, &options).await.unwrap().pop().unwrap();
    assert_eq!(again.attempt(), 2);
    assert!(!first.is_held(), "both say that the item is in their hands, for {:?}", first.valid_for());
}

/// A receive never answers with nothing, even if all its leases ended while the answer was under way.
#[tokio::test(start_paused = true)]
async fn a_receive_whose_leases_ended_on_the_way_goes_on() {
    let store = memory::Store::new();
    let ((one, faults), other, queue) = (store.client_with_faults(), store.client(), name("q"));
    other.push(&queue, vec![Item::new("x")], &PushOptions::default()).await.unwrap();
    let options = ReceiveOptions::default().with_visibility(Duration::from_secs(1)).without_renewal();
    faults.delay_replies(Duration::from_secs(2));
    let receiving = tokio::spawn(async move { one.receive(&queue, &options).await });
    sleep(Duration::from_secs(1)).await;
    faults.delay_replies(Duration::ZERO);
    let delivery = receiving.await.unwrap().unwrap().pop().unwrap();
    assert!(delivery.is_held() && delivery.attempt() == 2);
}

#[tokio::test(start_paused = true)]
async fn groups_are_strict_and_priorities_go_first() {
    let coordinator = memory::Store::new().client();
    let queue = name("q");
    let item = |text: &str, group: Option<&str>, priority| {
        let item = Item::new(text).with_priority(priority);
        if let Some(group) = group { item.with_group(group) } else { item }
    };
    let items = vec![
        item("g1", Some("g"), 0),
        item("g2", Some("g"), 9),
        item("low", None, -1),
        item("high", None, 1),
    ];
    coordinator.push(&queue, items, &PushOptions::default()).await.unwrap();
    let options = ReceiveOptions::default().with_batch(10).with_wait(Duration::ZERO);
    let taken = coordinator.receive(&queue, &options).await.unwrap();
    let payloads: Vec<_> = taken.iter().map(|delivery| delivery.payload().to_vec()).collect();
    assert_eq!(payloads, [&b"high"[..], b"g1", b"low"]);
    assert!(taken.windows(2).all(|pair| pair[0].token() < pair[1].token()));
    assert_eq!(coordinator.receive(&queue, &options).await.unwrap_err().kind(), ErrorKind::NotGranted);
    for delivery in taken {
        if delivery.payload() == b"g1" { delivery.nack(Duration::ZERO).await } else { delivery.ack().await }
            .unwrap();
    }
    let again = coordinator.receive(&queue, &options).await.unwrap().pop().unwrap();
    assert_eq!(again.payload(), b"g1");
    again.ack().await.unwrap();
    assert_eq!(coordinator.receive(&queue, &options).await.unwrap()[0].payload(), b"g2");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_makes_wait_or_fails_and_ids_are_pushed_once() {
    let coordinator = memory::Store::new().client();
    let queue = name("q");
    let bounded = PushOptions::default().with_capacity(1).with_wait(Duration::ZERO);
    let id = ItemId::random();
    for _ in 0..2 {
        coordinator.push(&queue, vec![Item::new("a").with_id(id)], &bounded).await.unwrap();
    }
    let error = coordinator.push(&queue, vec![Item::new("b")], &bounded).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QueueFull);
    let pushing = tokio::spawn({
        let (coordinator, queue) = (coordinator.clone(), queue.clone());
        let patient = PushOptions::default().with_capacity(1);
        async move { coordinator.push(&queue, vec![Item::new("b")], &patient).await }
    });
    sleep(Duration::from_secs(60)).await;
    assert!(!pushing.is_finished());
    let first = coordinator.receive(&queue, &ReceiveOptions::default()).await.unwrap().pop().unwrap();
    first.ack().await.unwrap();
    timeout(Duration::from_millis(100), pushing).await.expect("there is room").unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dropped_receive_keeps_nothing_and_counts_nothing() {
    let coordinator = memory::Store::new().client();
    let queue = name("q");
    for polls in 0.. {
        coordinator.push(&queue, vec![Item::new("a")], &PushOptions::default()).await.unwrap();
        let options = ReceiveOptions::default();
        let mut receive = Box::pin(coordinator.receive(&queue, &options));
        let mut done = None;
        for _ in 0..polls {
            if let std::task::Poll::Ready(out) = futures_util::poll!(&mut receive) {
                done = Some(out);
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(receive);
        let finished = done.is_some();
        drop(done);
        sleep(Duration::from_secs(1)).await;
        let again = timeout(Duration::from_secs(1), coordinator.receive(&queue, &options)).await;
        let again = again.expect("nobody has it").unwrap().pop().unwrap();
        assert!(finished || again.attempt() == 1, "after {polls} polls");
        again.ack().await.unwrap();
        if finished {
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_retries_and_drains() {
    let coordinator = memory::Store::new().client();
    let queue = name("q");
    let items = (0..10).map(|number| Item::new(number.to_string())).collect();
    coordinator.push(&queue, items, &PushOptions::default()).await.unwrap();
    let (calls, stop) = (Arc::new(AtomicU32::new(0)), tokio_util::sync::CancellationToken::new());
    let consumer = Consumer::new(
        coordinator.clone(),
        queue.clone(),
        ConsumerOptions::default().with_concurrency(3).with_retry_delay(Duration::from_secs(1)),
    );
    let (counted, stopping) = (calls.clone(), stop.clone());
    let run = tokio::spawn(async move {
        consumer
            .run(stopping.cancelled_owned(), move |delivery| {
                let call = counted.fetch_add(1, Ordering::SeqCst);
                async move {
                    sleep(Duration::from_secs(20)).await;
                    match (call, delivery.attempt()) {
                        (_, 1) if delivery.payload() == b"3" => panic!("once"),
                        (_, 1) if delivery.payload() == b"4" => Err("once"),
                        _ => Ok(()),
                    }
                }
            })
            .await
    });
    while coordinator.queue_stats(&queue).await.unwrap() != coord_core::QueueStats::default() {
        sleep(Duration::from_secs(1)).await;
    }
    stop.cancel();
    run.await.unwrap().unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 12);
}

#[tokio::test(start_paused = true)]
async fn an_error_after_a_lost_reply_says_that_it_may_be_done() {
    let (coordinator, faults) = memory::Store::new().client_with_faults();
    faults.lose_replies(1);
    let putting = tokio::spawn({
        let coordinator = coordinator.clone();
        async move { coordinator.put(&name("k"), b"1".to_vec(), Condition::Any).await }
    });
    sleep(Duration::from_millis(10)).await;
    coordinator.shutdown().await.unwrap();
    let error = putting.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Closed, Effect::Unknown));
}

/// The store remembers a transaction for a minute; a process can be stopped for longer between two tries.
#[tokio::test(start_paused = true)]
async fn nothing_is_sent_again_after_a_long_stop() {
    let (coordinator, faults) = memory::Store::new().client_with_faults();
    faults.lose_replies(1);
    let putting = tokio::spawn({
        let coordinator = coordinator.clone();
        async move { coordinator.put(&name("k"), b"1".to_vec(), Condition::Any).await }
    });
    sleep(Duration::from_millis(10)).await;
    tokio::time::advance(Duration::from_secs(600)).await;
    let error = putting.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown));
    assert_eq!(faults.operations(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_fence_without_a_token_is_refused() {
    let (coordinator, faults) = memory::Store::new().client_with_faults();
    let fence = Write { key: name("k"), condition: Condition::Any, change: Change::Fence };
    assert_eq!(coordinator.commit(vec![fence]).await.unwrap_err().kind(), ErrorKind::InvalidOptions);
    assert_eq!(faults.operations(), 0, "before any I/O");
}

#[tokio::test(start_paused = true)]
async fn a_check_that_panics_is_no_silence() {
    let store = memory::Store::new();
    let (writer, key) = (store.client(), name("limit"));
    let check = |value: &i32| if *value == 13 { panic!("thirteen") } else { Ok(()) };
    let mut config = Config::open_with(store.client(), key.clone(), check).await.unwrap();
    writer.put(&key, b"13".to_vec(), Condition::Any).await.unwrap();
    assert!(!config.changed().await, "the watch has ended");
    assert!(config.error().is_some(), "nobody would know that it stays on an old value");
}
