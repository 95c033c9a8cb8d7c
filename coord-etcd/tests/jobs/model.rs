//! Random operations side by side with the memory backend.

use std::{collections::HashMap, time::Duration};

use coord_core::{
    FencingToken,
    memory::Store as Memory,
    spi::jobs::{DeadItem, Delivered, ItemId, Jobs, NewItem, Push, QueueId, Receive, Received, Word},
};
use fastrand::Rng;

use crate::{
    LONG, item, push, queue, receive, say,
    stores::{open, server},
};

type Shape = (ItemId, u32, Vec<u8>, i32, Option<String>);

fn shape(item: &Delivered) -> Shape {
    (item.id, item.attempt, item.payload.clone(), item.priority, item.group.clone())
}

fn buried(item: &DeadItem) -> Shape {
    (item.id, item.attempts, item.payload.clone(), item.priority, item.group.clone())
}

/// The same random work on both stores.
struct Twins<'a> {
    store: &'a dyn Jobs,
    model: &'a dyn Jobs,
    queue: QueueId,
    random: Rng,
    /// The same for all: who receives with fewer attempts than others finds spent items later here.
    max_attempts: Option<u32>,
    known: Vec<ItemId>,
    /// By item, the deliveries that either store made.
    deliveries: Vec<(Delivered, Delivered)>,
    receives: Vec<Receive>,
    last: Option<FencingToken>,
}

impl Twins<'_> {
    async fn push(&mut self, step: u32, here: &str) {
        let random = &mut self.random;
        let items = (0..random.usize(1..5)).map(|_| {
            let old = random.u8(0..6) == 0;
            let id = random.choice(&self.known).copied().filter(|_| old);
            // One is the beginning of another, one looks like two parts of a key, and one is no text at all.
            let group = *random.choice(&[None, None, Some("g"), Some("gg"), Some("g/g"), Some("")]).unwrap();
            let delay = if random.u8(0..6) == 0 { LONG } else { Duration::ZERO };
            NewItem {
                id: id.unwrap_or_else(ItemId::random),
                priority: *random.choice(&[i32::MIN, -1, 0, 0, 1, i32::MAX]).unwrap(),
                delay,
                group: group.map(Into::into),
                ..item(&[0, 0xff, b'\r', b'\n', step as u8][..random.usize(0..6)])
            }
        });
        let items: Vec<_> = items.collect();
        self.known.extend(items.iter().map(|item| item.id));
        let capacity = random.bool().then(|| random.u64(0..14));
        let push = Push { capacity, ..push(&self.queue, items) };
        let (one, other) = (self.store.push(&push).await.unwrap(), self.model.push(&push).await.unwrap());
        assert_eq!(one, other, "{here}");
    }

    async fn receive(&mut self, here: &str) {
        let random = &mut self.random;
        let again = random.choice(&self.receives).cloned().filter(|_| random.u8(0..4) == 0);
        let repeated = again.is_some();
        let max_attempts = self.max_attempts;
        let receive =
            again.unwrap_or_else(|| Receive { max_attempts, ..receive(&self.queue, random.u32(1..4)) });
        let one = self.store.receive(&receive).await.unwrap();
        let other = self.model.receive(&receive).await.unwrap();
        assert_eq!(one.look_again_in.is_some(), other.look_again_in.is_some(), "{here}");
        let mut shapes = [&one, &other]
            .map(|received: &Received| received.deliveries.iter().map(shape).collect::<Vec<_>>());
        if repeated {
            shapes.iter_mut().for_each(|shapes| shapes.sort());
        }
        assert_eq!(shapes[0], shapes[1], "{here}");
        assert!(one.deliveries.is_sorted_by(|one, next| one.token < next.token), "{here}");
        if !repeated && let Some(first) = one.deliveries.first() {
            assert!(self.last < Some(first.token), "{here}");
            self.last = one.deliveries.last().map(|last| last.token);
        }
        let mut theirs: HashMap<_, _> = other.deliveries.into_iter().map(|item| (item.id, item)).collect();
        let both = one.deliveries.into_iter().map(|item| (item.clone(), theirs.remove(&item.id).unwrap()));
        self.deliveries.extend(both);
        self.receives.push(receive);
    }

    async fn settle(&mut self, here: &str) {
        let random = &mut self.random;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..random.usize(1..4) {
            // Mostly a late one.
            let late = self.deliveries.len().saturating_sub(5);
            let from = if random.u8(0..4) == 0 { 0 } else { late };
            let Some((one, other)) = random.choice(&self.deliveries[from..]) else { continue };
            let delay = if random.bool() { LONG } else { Duration::ZERO };
            let word = match random.u8(0..6) {
                0 | 1 => Word::Ack,
                2 | 3 => Word::Nack { delay, max_attempts: self.max_attempts },
                4 => Word::Return,
                _ => Word::Extend(*random.choice(&[LONG / 2, LONG, LONG * 2]).unwrap()),
            };
            ours.push(say(one, word.clone()));
            theirs.push(say(other, word));
        }
        let one = self.store.settle(&self.queue, &ours).await.unwrap();
        let other = self.model.settle(&self.queue, &theirs).await.unwrap();
        assert_eq!(one, other, "{here}: {ours:?}");
    }

    async fn tend_the_dead(&mut self, here: &str) {
        let random = &mut self.random;
        let ids: Vec<_> =
            (0..random.usize(1..4)).filter_map(|_| random.choice(&self.known).copied()).collect();
        let (store, model, queue) = (self.store, self.model, &self.queue);
        let (one, other) = match random.u8(0..3) {
            0 => (store.drop_dead(queue, &ids).await, model.drop_dead(queue, &ids).await),
            _ => (store.requeue(queue, &ids).await, model.requeue(queue, &ids).await),
        };
        assert_eq!(one.unwrap(), other.unwrap(), "{here}");
    }

    async fn compare(&mut self, here: &str) {
        let (store, model, queue) = (self.store, self.model, &self.queue);
        assert_eq!(store.stats(queue).await.unwrap(), model.stats(queue).await.unwrap(), "{here}");
        let after = self.random.choice(&self.known).copied().filter(|_| self.random.bool());
        let one = store.dead(queue, after, 3).await.unwrap();
        let other = model.dead(queue, after, 3).await.unwrap();
        assert!(one.iter().map(buried).eq(other.iter().map(buried)), "{here}");
    }

    async fn run(mut self, seed: u64) {
        for step in 0..160u32 {
            let here = format!("seed {seed} step {step}");
            match self.random.u8(0..12) {
                0..=3 => self.push(step, &here).await,
                4..=6 => self.receive(&here).await,
                7..=9 => self.settle(&here).await,
                10 => self.tend_the_dead(&here).await,
                _ if self.random.u8(0..5) == 0 => {
                    let (one, other) =
                        (self.store.purge(&self.queue).await, self.model.purge(&self.queue).await);
                    assert_eq!(one.unwrap(), other.unwrap(), "{here}");
                }
                _ => {}
            }
            self.compare(&here).await;
        }
    }
}

#[tokio::test]
async fn the_store_does_what_the_specification_does() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let seeds = std::env::var("COORD_TEST_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(8);
    for seed in 0..seeds {
        let model = Memory::new().connect();
        let twins = Twins {
            store: &*store,
            model: &model,
            queue: queue(&format!("model {seed}")),
            random: Rng::with_seed(seed),
            max_attempts: [None, Some(1), Some(2), Some(3)][seed as usize % 4],
            known: Vec::new(),
            deliveries: Vec::new(),
            receives: Vec::new(),
            last: None,
        };
        twins.run(seed).await;
    }
}
