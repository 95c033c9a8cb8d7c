//! Queues: ordered items, each in the hands of one consumer at a time.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::sleep;

use super::{Delivery, take::Take};
use crate::{
    Coordinator, Error, ErrorKind, Name, Result,
    engine::trace::{Tokened, traced},
    limits,
    spi::{
        Kind,
        jobs::{DeadItem, ItemId, Jobs, NewItem, Push, Pushed, QueueId, QueueStats, Receive},
    },
};

/// Queues of items that are delivered at least once, in order, each to one consumer at a time.
///
/// * What [`Queue::push`] has acknowledged is not lost: it is delivered until it is acknowledged, dead or purged.
/// * Within a priority, items are delivered in the order in which their pushes were committed.
/// * Of the items of one group at most one is in flight, in strict order, also when one comes back. One that is delayed, or
///   waits to be delivered again, keeps those behind it waiting. One that is dead does not; put back, it is the last.
/// * Every delivery has a fencing token. A late word about an item that was delivered again is refused.
///
/// ```
/// # use coord_core::{memory, prelude::*, Error};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Error> {
/// # let coordinator = memory::Store::new().client();
/// let orders = Name::new("orders")?;
/// let items = vec![Item::new("a kettle"), Item::new("a spoon").with_priority(1)];
/// coordinator.push(&orders, items, &PushOptions::default()).await?;
/// for delivery in coordinator.receive(&orders, &ReceiveOptions::default()).await? {
///     assert_eq!((delivery.payload(), delivery.attempt()), (&b"a spoon"[..], 1));
///     delivery.ack().await?;
/// }
/// # coordinator.shutdown().await
/// # }
/// ```
#[async_trait]
pub trait Queue: Send + Sync {
    /// Pushes items, all or none, in their order. An item is not pushed again while one with its id is in the queue or
    /// among the dead, and for at least ten minutes after that was acknowledged or dropped; a purge forgets the ids. Returns the
    /// ids.
    ///
    /// # Cancel safety
    /// Dropped halfway, the items may or may not be pushed. Items with ids of the caller's can be pushed again.
    ///
    /// # Errors
    /// [`ErrorKind::QueueFull`] if there is no room for all within [`PushOptions::wait`]; [`ErrorKind::TooLarge`] for a
    /// payload or a group that is too long, and beyond [`limits::MAX_BATCH`] or [`limits::MAX_BATCH_BYTES`];
    /// [`ErrorKind::InvalidOptions`] without items, for more than would ever fit, for an empty group and for a delay
    /// beyond [`limits::MAX_TTL`]; what the store says.
    async fn push(&self, queue: &Name, items: Vec<Item>, options: &PushOptions) -> Result<Vec<ItemId>>;

    /// Waits for items; returns at least one and at most [`ReceiveOptions::batch`]. Their leases are renewed until they
    /// are settled or dropped; a dropped delivery goes back to the queue.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped at any point, no item is held, and none counts an attempt.
    ///
    /// # Errors
    /// [`ErrorKind::NotGranted`] if none came within [`ReceiveOptions::wait`]; [`ErrorKind::InvalidTtl`] and
    /// [`ErrorKind::InvalidOptions`] for bad options; what the store says.
    async fn receive(&self, queue: &Name, options: &ReceiveOptions) -> Result<Vec<Delivery>>;

    /// Items that were given up, the oldest first: at most `limit` that come after `after`, or from the oldest on if that one
    /// is dead no more.
    ///
    /// # Cancel safety
    /// Cancel safe.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOptions`] unless `1 <= limit <= `[`limits::MAX_BATCH`]; what the store says.
    async fn dead_letters(&self, queue: &Name, after: Option<ItemId>, limit: u32) -> Result<Vec<DeadItem>>;

    /// Puts items that were given up back at the end of the queue, with no attempts counted. A bound of the queue does not
    /// keep them out. Returns how many there were; fewer if a reply was lost and the store was asked again.
    ///
    /// # Cancel safety
    /// Dropped halfway, it may or may not be done.
    ///
    /// # Errors
    /// What the store says.
    async fn requeue(&self, queue: &Name, items: &[ItemId]) -> Result<u64>;

    /// Drops items that were given up. Returns how many there were, as [`Queue::requeue`].
    ///
    /// # Cancel safety
    /// Dropped halfway, it may or may not be done.
    ///
    /// # Errors
    /// What the store says.
    async fn drop_dead(&self, queue: &Name, items: &[ItemId]) -> Result<u64>;

    /// How many items there are.
    ///
    /// # Cancel safety
    /// Cancel safe.
    ///
    /// # Errors
    /// What the store says.
    async fn queue_stats(&self, queue: &Name) -> Result<QueueStats>;

    /// Removes all items that nobody has in hand, and the dead. Returns how many there were, as [`Queue::requeue`]. Items in flight stay, and come
    /// again if they are not acknowledged.
    ///
    /// # Cancel safety
    /// Dropped halfway, it may or may not be done.
    ///
    /// # Errors
    /// What the store says.
    async fn purge(&self, queue: &Name) -> Result<u64>;
}

/// An item to be pushed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Item {
    /// What it carries; at most [`limits::MAX_VALUE`] bytes.
    pub payload: Vec<u8>,
    /// Higher goes first.
    pub priority: i32,
    /// Not to be delivered before this has passed.
    pub delay: Duration,
    /// Items of one group are delivered one at a time, strictly in the order of their commits, whatever their
    /// priorities.
    pub group: Option<String>,
    /// An id of the caller's, so that the item can be pushed again without doubling; `None` for a fresh one.
    pub id: Option<ItemId>,
}

impl Item {
    /// An item of priority zero, without delay or group.
    #[must_use]
    pub fn new(payload: impl Into<Vec<u8>>) -> Self {
        Self { payload: payload.into(), priority: 0, delay: Duration::ZERO, group: None, id: None }
    }

    /// With this priority.
    #[must_use]
    pub fn with_priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Delivered only after this has passed.
    #[must_use]
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// In this group.
    #[must_use]
    pub fn with_group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// With an id of the caller's.
    #[must_use]
    pub fn with_id(mut self, id: ItemId) -> Self {
        self.id = Some(id);
        self
    }
}

/// How to push. The default knows no bound.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PushOptions {
    /// How many items the queue may have, the delayed and those in flight counted and the dead ones not; `None` for no
    /// bound. It bounds this push; all producers of a queue should say the same.
    pub capacity: Option<u64>,
    /// How long to wait for room if there is a bound; zero not at all; `None` for ever.
    pub wait: Option<Duration>,
}

impl PushOptions {
    /// With this bound.
    #[must_use]
    pub fn with_capacity(mut self, capacity: u64) -> Self {
        self.capacity = Some(capacity);
        self
    }

    /// Waiting for room for at most this long.
    #[must_use]
    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }
}

/// How to receive. The default waits for ever for one item and gives it up after ten attempts.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReceiveOptions {
    /// How long a crashed consumer keeps its items from others: the TTL of a delivery's lease.
    pub visibility: Duration,
    /// How long to wait for items; `None` for ever; zero not at all. The store has a few seconds for its first answer in
    /// any case.
    pub wait: Option<Duration>,
    /// How many items at most.
    pub batch: u32,
    /// After how many deliveries that were not acknowledged an item is dead; `None` for never. An item dies when its last
    /// delivery is given back, or when somebody receives after its lease has ended. All consumers of a queue should say
    /// the same.
    pub max_attempts: Option<u32>,
    /// Whether leases are renewed in the background.
    pub renew: bool,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        Self { visibility: limits::DEFAULT_TTL, wait: None, batch: 1, max_attempts: Some(10), renew: true }
    }
}

impl ReceiveOptions {
    /// With this visibility timeout.
    #[must_use]
    pub fn with_visibility(mut self, visibility: Duration) -> Self {
        self.visibility = visibility;
        self
    }

    /// Waiting for at most this long.
    #[must_use]
    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// Up to this many items.
    #[must_use]
    pub fn with_batch(mut self, batch: u32) -> Self {
        self.batch = batch;
        self
    }

    /// Giving items up after this many deliveries.
    #[must_use]
    pub fn with_max_attempts(mut self, attempts: Option<u32>) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Without renewal.
    #[must_use]
    pub fn without_renewal(mut self) -> Self {
        self.renew = false;
        self
    }
}

impl Tokened for QueueStats {}

impl Coordinator {
    fn queue_id(&self, queue: &Name) -> QueueId {
        QueueId { namespace: self.namespace().clone(), name: queue.clone() }
    }

    /// An operation on a queue that may be sent again.
    async fn on_queue<T, F>(
        &self,
        operation: &'static str,
        queue: &Name,
        call: impl Fn(Arc<dyn Jobs>, QueueId) -> F,
    ) -> Result<T>
    where
        T: Tokened + Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let id = self.queue_id(queue);
        let call = |jobs| call(jobs, id.clone());
        traced(operation, &self.line_id(Kind::Queue, queue), async {
            self.engine.insist(self.engine.jobs()?, call).await
        })
        .await
    }
}

#[async_trait]
impl Queue for Coordinator {
    async fn push(&self, queue: &Name, items: Vec<Item>, options: &PushOptions) -> Result<Vec<ItemId>> {
        traced("queue.push", &self.line_id(Kind::Queue, queue), async {
            let push = prepare(self, queue, items, options)?;
            let ids = push.items.iter().map(|item| item.id).collect();
            put(self, push, options).await?;
            Ok(ids)
        })
        .await
    }

    async fn receive(&self, queue: &Name, options: &ReceiveOptions) -> Result<Vec<Delivery>> {
        let line = self.line_id(Kind::Queue, queue);
        traced("queue.receive", &line.clone(), async {
            let visibility = self.engine.check_ttl(options.visibility)?;
            if options.batch == 0
                || options.batch as usize > limits::MAX_BATCH
                || options.max_attempts == Some(0)
            {
                return Err(Error::new(
                    ErrorKind::InvalidOptions,
                    format!("a receive takes 1 to {} items, of one attempt or more", limits::MAX_BATCH),
                ));
            }
            let receive = Receive {
                queue: self.queue_id(queue),
                id: ItemId::random(),
                limit: options.batch,
                visibility,
                max_attempts: options.max_attempts,
                owner: self.owner().into(),
            };
            let jobs = self.engine.jobs()?;
            Take::new(&self.engine, jobs, receive).drive(line, options).await
        })
        .await
    }

    async fn dead_letters(&self, queue: &Name, after: Option<ItemId>, limit: u32) -> Result<Vec<DeadItem>> {
        if limit == 0 || limit as usize > limits::MAX_BATCH {
            return Err(Error::new(
                ErrorKind::InvalidOptions,
                format!("a page has 1 to {} items, not {limit}", limits::MAX_BATCH),
            ));
        }
        let read = |jobs: Arc<dyn Jobs>, id| async move { jobs.dead(&id, after, limit).await };
        self.on_queue("queue.dead_letters", queue, read).await
    }

    async fn requeue(&self, queue: &Name, items: &[ItemId]) -> Result<u64> {
        let items: Arc<[ItemId]> = items.into();
        let call = |jobs: Arc<dyn Jobs>, id| {
            let items = items.clone();
            async move { jobs.requeue(&id, &items).await }
        };
        self.on_queue("queue.requeue", queue, call).await
    }

    async fn drop_dead(&self, queue: &Name, items: &[ItemId]) -> Result<u64> {
        let items: Arc<[ItemId]> = items.into();
        let call = |jobs: Arc<dyn Jobs>, id| {
            let items = items.clone();
            async move { jobs.drop_dead(&id, &items).await }
        };
        self.on_queue("queue.drop_dead", queue, call).await
    }

    async fn queue_stats(&self, queue: &Name) -> Result<QueueStats> {
        let read = |jobs: Arc<dyn Jobs>, id| async move { jobs.stats(&id).await };
        self.on_queue("queue.stats", queue, read).await
    }

    async fn purge(&self, queue: &Name) -> Result<u64> {
        let call = |jobs: Arc<dyn Jobs>, id| async move { jobs.purge(&id).await };
        self.on_queue("queue.purge", queue, call).await
    }
}

fn prepare(coordinator: &Coordinator, queue: &Name, items: Vec<Item>, options: &PushOptions) -> Result<Push> {
    limits::batch("items", items.iter().map(|item| item.payload.as_slice()))?;
    if options.capacity.is_some_and(|capacity| capacity < items.len() as u64) {
        return Err(Error::new(
            ErrorKind::InvalidOptions,
            "more items are pushed at once than the queue may have; they would never fit",
        ));
    }
    let new = |item: Item| {
        if let Some(group) = &item.group {
            limits::owner("a group", group)?;
        }
        limits::delay(item.delay)?;
        let Item { payload, priority, delay, group, id } = item;
        Ok(NewItem { id: id.unwrap_or_else(ItemId::random), payload, priority, delay, group })
    };
    let items = items.into_iter().map(new).collect::<Result<Vec<_>>>()?;
    Ok(Push { queue: coordinator.queue_id(queue), capacity: options.capacity, items })
}

/// Pushes, waiting for room.
async fn put(coordinator: &Coordinator, push: Push, options: &PushOptions) -> Result<()> {
    let engine = &coordinator.engine;
    let jobs = engine.jobs()?;
    let mut wakeups = jobs.wakeups(&push.queue);
    let closed = engine.closed();
    let push = Arc::new(push);
    let deadline = options.wait.map(|wait| engine.clock.now().after(wait));
    loop {
        let call = |jobs: Arc<dyn Jobs>| {
            let push = push.clone();
            async move { jobs.push(&push).await }
        };
        let Pushed::Full = engine.insist(jobs.clone(), call).await? else { return Ok(()) };
        let left = deadline.map_or(RELOOK, |end| end.since(engine.clock.now()));
        if left.is_zero() {
            return Err(Error::new(
                ErrorKind::QueueFull,
                format!("queue {:?} has no room for {} more", push.queue.name.as_str(), push.items.len()),
            ));
        }
        tokio::select! {
            biased;
            () = closed.cancelled() => engine.check_open()?,
            _ = wakeups.next() => {}
            () = sleep(left.min(RELOOK)) => {}
        }
    }
}

/// Hints can be missing: who waits looks again after this long in any case.
pub(super) const RELOOK: Duration = Duration::from_secs(2);
