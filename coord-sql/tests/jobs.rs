//! The queues: hints, leases, and what a receive costs.

use std::time::Duration;

use coord_core::spi::jobs::{Jobs, NewItem, Push, Pushed, Receive, Received, Settled, Word};
use futures_util::FutureExt;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::common::{
    LONG, Place, hint, quiet,
    words::{item, push, queue, receive, say},
};

#[tokio::test]
async fn a_lease_that_ended_makes_its_words_stale() {
    let place = Place::new();
    let store = place.open().await;
    let queue = queue("late");
    store.push(&push(&queue, vec![item(b"a")])).await.unwrap();
    let short = Receive { visibility: Duration::from_millis(150), ..receive(&queue, 1) };
    let first = store.receive(&short).await.unwrap().deliveries.pop().unwrap();
    let second = loop {
        let Received { mut deliveries, look_again_in } = store.receive(&receive(&queue, 1)).await.unwrap();
        match deliveries.pop() {
            Some(second) => break second,
            None => tokio::time::sleep(look_again_in.unwrap()).await,
        }
    };
    assert!(second.attempt == 2 && second.token > first.token);
    for word in [Word::Ack, Word::Extend(LONG), Word::Return, Word::Nack { delay: LONG, max_attempts: None }]
    {
        assert_eq!(store.settle(&queue, &[say(&first, word)]).await.unwrap(), [Settled::Stale]);
    }
    for _ in 0..2 {
        assert_eq!(store.settle(&queue, &[say(&second, Word::Ack)]).await.unwrap(), [Settled::Done]);
    }
}

#[tokio::test]
async fn only_the_word_that_buried_an_item_may_be_sent_again() {
    let place = Place::new();
    let store = place.open().await;
    let queue = queue("dead");
    store.push(&push(&queue, vec![item(b"a")])).await.unwrap();
    let mut tries = Vec::new();
    for _ in 0..2 {
        let tried = store.receive(&receive(&queue, 1)).await.unwrap().deliveries.pop().unwrap();
        let nack = say(&tried, Word::Nack { delay: Duration::ZERO, max_attempts: Some(2) });
        assert_eq!(store.settle(&queue, std::slice::from_ref(&nack)).await.unwrap(), [Settled::Done]);
        tries.push(nack);
    }
    assert_eq!(store.stats(&queue).await.unwrap().dead, 1);
    assert_eq!(store.settle(&queue, &tries).await.unwrap(), [Settled::Stale, Settled::Done]);
}

#[tokio::test]
async fn a_push_wakes_consumers_and_room_wakes_producers() {
    let place = Place::new();
    let (producer, consumer) = (place.open().await, place.open().await);
    let queue = queue("hints");
    let mut of_consumer = Jobs::wakeups(&*consumer, &queue);
    let mut of_producer = Jobs::wakeups(&*producer, &queue);
    for wakeups in [&mut of_consumer, &mut of_producer] {
        hint(wakeups).await;
        quiet(wakeups).await;
    }
    let bounded = Push { capacity: Some(1), ..push(&queue, vec![item(b"a")]) };
    assert_eq!(producer.push(&bounded).await.unwrap(), Pushed::Done { new: 1 });
    hint(&mut of_consumer).await;
    quiet(&mut of_producer).await;
    let taken = consumer.receive(&receive(&queue, 1)).await.unwrap().deliveries.pop().unwrap();
    let more = Push { capacity: Some(1), ..push(&queue, vec![item(b"b")]) };
    assert_eq!(producer.push(&more).await.unwrap(), Pushed::Full);
    assert!(of_producer.next().now_or_never().is_none());
    consumer.settle(&queue, &[say(&taken, Word::Ack)]).await.unwrap();
    hint(&mut of_producer).await;
    assert_eq!(producer.push(&more).await.unwrap(), Pushed::Done { new: 1 });
}

#[tokio::test]
async fn a_boot_gives_every_item_back_and_keeps_its_attempts() {
    let place = Place::new();
    let store = place.open().await;
    let queue = queue("boot");
    let delayed = NewItem { delay: LONG, ..item(b"later") };
    store.push(&push(&queue, vec![item(b"a"), delayed])).await.unwrap();
    let first = store.receive(&receive(&queue, 2)).await.unwrap().deliveries.pop().unwrap();
    coord_core::spi::Claims::close(&*store).await.unwrap();
    // As a kernel that was started anew finds it: another boot, whose clock is far behind.
    let mut probe =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(place.file())).await.unwrap();
    for statement in [
        "UPDATE coord_counters SET host = 'an earlier boot'",
        "UPDATE coord_items SET ready_at = ready_at + 1000000000, expires_at = expires_at + 1000000000",
    ] {
        sqlx::query(statement).execute(&mut probe).await.unwrap();
    }
    probe.close().await.unwrap();
    let store = place.open().await;
    assert_eq!(store.settle(&queue, &[say(&first, Word::Ack)]).await.unwrap(), [Settled::Stale]);
    let again = store.receive(&receive(&queue, 2)).await.unwrap().deliveries;
    assert_eq!(again.len(), 1);
    assert!(again[0].id == first.id && again[0].attempt == 2 && again[0].token > first.token);
    store.settle(&queue, &[say(&again[0], Word::Ack)]).await.unwrap();
    let look = store.receive(&receive(&queue, 2)).await.unwrap().look_again_in.unwrap();
    assert!(look <= LONG + Duration::from_secs(1), "{look:?}");
}
