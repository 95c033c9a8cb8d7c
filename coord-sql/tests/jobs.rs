//! The queues: random operations side by side with the memory backend, hints, leases, and what a receive costs.

mod common;

use std::{collections::HashMap, time::Duration};

use common::{
    LONG, Place, hint, quiet,
    words::{item, push, queue, receive, say},
};
use coord_core::{
    FencingToken,
    memory::Store as Memory,
    spi::jobs::{DeadItem, Delivered, ItemId, Jobs, NewItem, Push, Pushed, Receive, Received, Settled, Word},
};
use fastrand::Rng;
use futures_util::FutureExt;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

type Shape = (ItemId, u32, Vec<u8>, i32, Option<String>);

fn shape(item: &Delivered) -> Shape {
    (item.id, item.attempt, item.payload.clone(), item.priority, item.group.clone())
}

fn buried(item: &DeadItem) -> Shape {
    (item.id, item.attempts, item.payload.clone(), item.priority, item.group.clone())
}

async fn run(seed: u64) {
    let place = Place::new();
    let store = place.open().await;
    let model = Memory::new().connect();
    let queue = queue("model");
    let mut random = Rng::with_seed(seed);
    let mut known: Vec<ItemId> = Vec::new();
    // By item, the deliveries that either store made; and the receives.
    let mut deliveries: Vec<(Delivered, Delivered)> = Vec::new();
    let mut receives: Vec<Receive> = Vec::new();
    let mut last: Option<FencingToken> = None;
    for step in 0..160u32 {
        let here = format!("seed {seed} step {step}");
        let some = |random: &mut Rng, known: &[ItemId]| -> Vec<ItemId> {
            (0..random.usize(1..4)).filter_map(|_| random.choice(known).copied()).collect()
        };
        match random.u8(0..12) {
            0..=3 => {
                let items = (0..random.usize(1..5)).map(|_| {
                    let old = random.u8(0..6) == 0;
                    let id = random.choice(&known).copied().filter(|_| old);
                    let group = *random.choice(&[None, None, Some("g"), Some("h\"")]).unwrap();
                    let delay = if random.u8(0..6) == 0 { LONG } else { Duration::ZERO };
                    NewItem {
                        id: id.unwrap_or_else(ItemId::random),
                        priority: random.i32(-1..2),
                        delay,
                        group: group.map(Into::into),
                        ..item(&step.to_be_bytes())
                    }
                });
                let items: Vec<_> = items.collect();
                known.extend(items.iter().map(|item| item.id));
                let capacity = random.bool().then(|| random.u64(0..14));
                let push = Push { capacity, ..push(&queue, items) };
                assert_eq!(store.push(&push).await.unwrap(), model.push(&push).await.unwrap(), "{here}");
            }
            4..=6 => {
                let again = random.choice(&receives).cloned().filter(|_| random.u8(0..4) == 0);
                let repeated = again.is_some();
                let receive = again.unwrap_or_else(|| Receive {
                    max_attempts: random.bool().then(|| random.u32(1..4)),
                    ..receive(&queue, random.u32(1..4))
                });
                let one = store.receive(&receive).await.unwrap();
                let other = model.receive(&receive).await.unwrap();
                assert_eq!(one.look_again_in.is_some(), other.look_again_in.is_some(), "{here}");
                let mut shapes = [&one, &other]
                    .map(|received: &Received| received.deliveries.iter().map(shape).collect::<Vec<_>>());
                if repeated {
                    shapes.iter_mut().for_each(|shapes| shapes.sort());
                }
                assert_eq!(shapes[0], shapes[1], "{here}");
                assert!(one.deliveries.is_sorted_by(|one, next| one.token < next.token), "{here}");
                if !repeated && let Some(first) = one.deliveries.first() {
                    assert!(last < Some(first.token), "{here}");
                    last = one.deliveries.last().map(|last| last.token);
                }
                let mut theirs: HashMap<_, _> =
                    other.deliveries.into_iter().map(|item| (item.id, item)).collect();
                deliveries.extend(
                    one.deliveries.into_iter().map(|item| (item.clone(), theirs.remove(&item.id).unwrap())),
                );
                receives.push(receive);
            }
            7..=9 => {
                let (mut ours, mut theirs) = (Vec::new(), Vec::new());
                for _ in 0..random.usize(1..4) {
                    // Mostly a late one.
                    let late = deliveries.len().saturating_sub(5);
                    let from = if random.u8(0..4) == 0 { 0 } else { late };
                    let Some((one, other)) = random.choice(&deliveries[from..]) else { continue };
                    let delay = if random.bool() { LONG } else { Duration::ZERO };
                    let word = match random.u8(0..6) {
                        0 | 1 => Word::Ack,
                        2 | 3 => Word::Nack { delay, max_attempts: random.bool().then(|| random.u32(1..4)) },
                        4 => Word::Return,
                        _ => Word::Extend(LONG),
                    };
                    ours.push(say(one, word.clone()));
                    theirs.push(say(other, word));
                }
                let one = store.settle(&queue, &ours).await.unwrap();
                let other = model.settle(&queue, &theirs).await.unwrap();
                assert_eq!(one, other, "{here}: {ours:?}");
            }
            10 => {
                let ids = some(&mut random, &known);
                let (one, other) = match random.bool() {
                    true => (store.requeue(&queue, &ids).await, model.requeue(&queue, &ids).await),
                    false => (store.drop_dead(&queue, &ids).await, model.drop_dead(&queue, &ids).await),
                };
                assert_eq!(one.unwrap(), other.unwrap(), "{here}");
            }
            _ if random.u8(0..5) == 0 => {
                let (one, other) = (store.purge(&queue).await, model.purge(&queue).await);
                assert_eq!(one.unwrap(), other.unwrap(), "{here}");
            }
            _ => {}
        }
        assert_eq!(store.stats(&queue).await.unwrap(), model.stats(&queue).await.unwrap(), "{here}");
        let after = random.choice(&known).copied().filter(|_| random.bool());
        let one = store.dead(&queue, after, 3).await.unwrap();
        let other = model.dead(&queue, after, 3).await.unwrap();
        let (one, other) = (one.iter().map(buried), other.iter().map(buried));
        assert!(one.eq(other), "{here}");
    }
}

#[tokio::test]
async fn the_store_does_what_the_specification_does() {
    let seeds = std::env::var("COORD_TEST_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(10);
    for seed in 0..seeds {
        run(seed).await;
    }
}

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
