//! A long queue is as quick as a short one.

mod common;

use std::{sync::Arc, time::Duration};

use common::{
    LONG, Place,
    words::{item, push, queue, receive, say},
};
use coord_core::{
    clock::Clock,
    spi::jobs::{Delivered, Jobs, NewItem, Push, Pushed, Settled, Word},
};
use coord_sql::Store;

const ROUNDS: usize = 101;

/// Items of every kind: some behind others of their group, some delayed, of three priorities.
fn items(count: u32) -> Vec<NewItem> {
    let one = |number: u32| {
        NewItem {
        group: number.is_multiple_of(2).then(|| format!("group {}", number % 10)),
        delay: if number.is_multiple_of(7) { LONG * 100 } else { Duration::ZERO },
        priority: (number % 3).cast_signed(),
        ..item(b"a payload of a usual size, which is about a hundred bytes; so this one has nearly as many of them")
    }
    };
    (0..count).map(one).collect()
}

const WHAT: [&str; 7] = ["push", "bounded push", "receive", "extend", "return", "receive again", "ack"];

/// How long each of these takes, in microseconds. There are as many items after it as before.
async fn round(store: &Store) -> [u128; WHAT.len()] {
    let queue = queue("work");
    let mut last = Clock::System.now();
    let mut lap = || {
        let now = Clock::System.now();
        now.since(std::mem::replace(&mut last, now)).as_micros()
    };
    let one = || push(&queue, vec![item(b"one more")]);
    assert_eq!(store.push(&one()).await.unwrap(), Pushed::Done { new: 1 });
    let pushed = lap();
    let bounded = Push { capacity: Some(1_000_000), ..one() };
    assert_eq!(store.push(&bounded).await.unwrap(), Pushed::Done { new: 1 });
    let bounded = lap();
    let held = store.receive(&receive(&queue, 2)).await.unwrap().deliveries;
    assert_eq!(held.len(), 2);
    let received = lap();
    let settle = async |word: Word, held: &[Delivered]| {
        let said: Vec<_> = held.iter().map(|delivered| say(delivered, word.clone())).collect();
        assert_eq!(store.settle(&queue, &said).await.unwrap(), [Settled::Done; 2]);
    };
    settle(Word::Extend(LONG * 2), &held).await;
    let extended = lap();
    settle(Word::Return, &held).await;
    let returned = lap();
    let held = store.receive(&receive(&queue, 2)).await.unwrap().deliveries;
    let again = lap();
    settle(Word::Ack, &held).await;
    [pushed, bounded, received, extended, returned, again, lap()]
}

/// Keeps this thread, and all that it starts, on one processor. A store's thread answers on the processor that asked in half of the
/// time that it takes from another one, and where the system puts it is chance.
#[cfg(target_os = "linux")]
fn stay_here() {
    use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
    let mut here = CpuSet::new();
    here.set(sched_getcpu());
    sched_setaffinity(None, &here).unwrap();
}

#[cfg(not(target_os = "linux"))]
fn stay_here() {}

#[tokio::test]
async fn a_hundred_thousand_items_slow_nothing_beyond_twice() {
    stay_here();
    let (short_place, long_place) = (Place::in_memory(), Place::in_memory());
    let stores: [Arc<Store>; 2] = [short_place.open().await, long_place.open().await];
    let queue = queue("work");
    stores[0].push(&push(&queue, items(100))).await.unwrap();
    for _ in 0..10 {
        stores[1].push(&push(&queue, items(10_000))).await.unwrap();
    }
    // What was only just written is taken into the file before anything is measured.
    for place in [&short_place, &long_place] {
        common::probe::Probe::of(&place.file()).await.empty_log().await;
    }
    let mut laps = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        for (store, laps) in stores.iter().zip(&mut laps) {
            laps.push(round(store).await);
        }
    }
    let median = |laps: &[[u128; WHAT.len()]], what: usize| {
        let mut laps: Vec<_> = laps.iter().map(|laps| laps[what]).collect();
        laps.sort_unstable();
        laps[ROUNDS / 2]
    };
    let medians = |number| (median(&laps[0], number), median(&laps[1], number));
    for (number, what) in WHAT.into_iter().enumerate() {
        let (few, many) = medians(number);
        println!("{what}: {few} us with 100 items, {many} us with 100,000");
    }
    for (number, what) in WHAT.into_iter().enumerate() {
        let (few, many) = medians(number);
        assert!(many <= 2 * few, "{what}: {few} us with 100 items, {many} us with 100,000");
    }
    let stats = stores[1].stats(&queue).await.unwrap();
    assert_eq!(stats.ready + stats.delayed, 100_000);
}
