use std::{collections::HashMap, sync::Arc, time::Duration};

use coord_core::{
    FencingToken,
    clock::Clock,
    memory::Store as Memory,
    spi::jobs::{
        DeadItem, Delivered, ItemId, Jobs, NewItem, Push, QueueId, Receive, Received, Settlement, Word,
    },
};
use fastrand::Rng;

use super::{NAME, name, namespace, one_of, same};
use crate::{Ctx, Failure, Verdict, cases::demand};

const STEPS: u32 = 160;

/// After which nothing happens in a case.
const LONG: Duration = Duration::from_secs(600);

/// One is the beginning of another, one looks like two parts of a key, one like the end of one, and one is no text at all.
const GROUPS: [Option<&str>; 7] = [None, None, Some("g"), Some("gg"), Some("g/g"), Some("g\u{1}"), Some("")];

type Shape = (ItemId, u32, Vec<u8>, i32, Option<String>);

fn shape(item: &Delivered) -> Shape {
    (item.id, item.attempt, item.payload.clone(), item.priority, item.group.clone())
}

fn buried(items: &[DeadItem]) -> Vec<Shape> {
    let shape =
        |item: &DeadItem| (item.id, item.attempts, item.payload.clone(), item.priority, item.group.clone());
    items.iter().map(shape).collect()
}

/// The same work on one queue of each.
struct Twins {
    store: Arc<dyn Jobs>,
    model: Arc<dyn Jobs>,
    queue: QueueId,
    lag: Duration,
    random: Rng,
    known: Vec<ItemId>,
    /// By item, the deliveries that either store made.
    deliveries: Vec<(Delivered, Delivered)>,
    receives: Vec<Receive>,
    last: Option<FencingToken>,
    /// The same for all who receive: where they differ, it is a store's own affair when it finds items that are spent for some only.
    max_attempts: Option<u32>,
}

pub(super) async fn run(ctx: &Ctx, seed: u64) -> Verdict {
    let stores = ctx.stores().await?;
    let store = stores.jobs.ok_or_else(|| Failure::by(NAME, "there is no store of jobs"))?;
    let mut twins = Twins {
        store,
        model: Arc::new(Memory::new().connect()),
        queue: QueueId { namespace: namespace(seed)?, name: name("queue")? },
        lag: ctx.lag(),
        random: Rng::with_seed(seed),
        known: Vec::new(),
        deliveries: Vec::new(),
        receives: Vec::new(),
        last: None,
        max_attempts: [None, Some(1), Some(2), Some(3)].into_iter().cycle().nth(seed as usize).flatten(),
    };
    for step in 0..STEPS {
        let here = format!("seed {seed} step {step}");
        twins.step(step, &here).await?;
        twins.compare(&here).await?;
    }
    stores.claims.close().await?;
    Ok(())
}

impl Twins {
    async fn step(&mut self, step: u32, here: &str) -> Verdict {
        match self.random.u8(0..12) {
            0..=3 => self.push(step, here).await,
            4..=6 => self.receive(here).await,
            7..=9 => self.settle(here).await,
            10 => self.tend_the_dead(here).await,
            _ if self.random.u8(0..5) == 0 => {
                let (one, other) =
                    (self.store.purge(&self.queue).await?, self.model.purge(&self.queue).await?);
                same!(one, other, here);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn push(&mut self, step: u32, here: &str) -> Verdict {
        let random = &mut self.random;
        let mut items = Vec::new();
        for _ in 0..random.usize(1..5) {
            let old = random.u8(0..6) == 0;
            let id = random.choice(&self.known).copied().filter(|_| old);
            let payload = [0, 0xff, b'\r', b'\n', step as u8].into_iter().take(random.usize(0..6));
            items.push(NewItem {
                id: id.unwrap_or_else(ItemId::random),
                payload: payload.collect(),
                priority: one_of(random, &[i32::MIN, -1, 0, 0, 1, i32::MAX])?,
                delay: if random.u8(0..6) == 0 { LONG } else { Duration::ZERO },
                group: one_of(random, &GROUPS)?.map(Into::into),
            });
        }
        self.known.extend(items.iter().map(|item| item.id));
        let capacity = random.bool().then(|| random.u64(0..14));
        let push = Push { queue: self.queue.clone(), capacity, items };
        let (one, other) = (self.store.push(&push).await?, self.model.push(&push).await?);
        same!(one, other, here);
        Ok(())
    }

    /// Takes some, or asks once more for what it got.
    async fn receive(&mut self, here: &str) -> Verdict {
        let random = &mut self.random;
        let again = random.choice(&self.receives).cloned().filter(|_| random.u8(0..4) == 0);
        let repeated = again.is_some();
        let receive = again.unwrap_or_else(|| Receive {
            queue: self.queue.clone(),
            id: ItemId::random(),
            limit: random.u32(1..4),
            visibility: LONG,
            max_attempts: self.max_attempts,
            owner: "tester".into(),
        });
        let (one, other) = (self.store.receive(&receive).await?, self.model.receive(&receive).await?);
        same!(one.look_again_in.is_some(), other.look_again_in.is_some(), here);
        let shapes = |received: &Received| {
            let mut shapes: Vec<_> = received.deliveries.iter().map(shape).collect();
            if repeated {
                shapes.sort();
            }
            shapes
        };
        same!(shapes(&one), shapes(&other), here);
        demand!(
            one.deliveries.is_sorted_by(|one, next| one.token < next.token),
            "{here}: deliveries are not in the order of their tokens"
        );
        if !repeated && let Some(first) = one.deliveries.first() {
            demand!(self.last < Some(first.token), "{here}: a token is not above all earlier ones");
            self.last = one.deliveries.last().map(|last| last.token);
        }
        let mut theirs: HashMap<_, _> = other.deliveries.into_iter().map(|item| (item.id, item)).collect();
        let both =
            one.deliveries.into_iter().filter_map(|item| theirs.remove(&item.id).map(|other| (item, other)));
        self.deliveries.extend(both);
        self.receives.push(receive);
        Ok(())
    }

    async fn settle(&mut self, here: &str) -> Verdict {
        let random = &mut self.random;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..random.usize(1..4) {
            // Mostly a late one.
            let late = self.deliveries.len().saturating_sub(5);
            let from = if random.u8(0..4) == 0 { 0 } else { late };
            let Some((one, other)) = self.deliveries.get(from..).and_then(|some| random.choice(some)) else {
                continue;
            };
            let delay = if random.bool() { LONG } else { Duration::ZERO };
            let word = match random.u8(0..6) {
                0 | 1 => Word::Ack,
                2 | 3 => Word::Nack { delay, max_attempts: self.max_attempts },
                4 => Word::Return,
                _ => Word::Extend(one_of(random, &[LONG / 2, LONG, LONG * 2])?),
            };
            ours.push(Settlement { id: one.id, token: one.token, word: word.clone() });
            theirs.push(Settlement { id: other.id, token: other.token, word });
        }
        let one = self.store.settle(&self.queue, &ours).await?;
        let other = self.model.settle(&self.queue, &theirs).await?;
        same!(one, other, format!("{here}, {ours:?}"));
        Ok(())
    }

    async fn tend_the_dead(&mut self, here: &str) -> Verdict {
        let random = &mut self.random;
        let ids: Vec<_> =
            (0..random.usize(1..4)).filter_map(|_| random.choice(&self.known).copied()).collect();
        let (store, model, queue) = (&self.store, &self.model, &self.queue);
        let (one, other) = match random.u8(0..3) {
            0 => (store.drop_dead(queue, &ids).await?, model.drop_dead(queue, &ids).await?),
            _ => (store.requeue(queue, &ids).await?, model.requeue(queue, &ids).await?),
        };
        same!(one, other, here);
        Ok(())
    }

    async fn compare(&mut self, here: &str) -> Verdict {
        let (store, model, queue) = (&self.store, &self.model, &self.queue);
        let after = self.random.choice(&self.known).copied().filter(|_| self.random.bool());
        let specified = (model.stats(queue).await?, buried(&model.dead(queue, after, 3).await?));
        let start = Clock::System.now();
        let found = loop {
            let found = (store.stats(queue).await?, buried(&store.dead(queue, after, 3).await?));
            if found == specified || Clock::System.now().since(start) >= self.lag {
                break found;
            }
        };
        same!(found, specified, here);
        Ok(())
    }
}
