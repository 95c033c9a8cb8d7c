//! The store of jobs: ordered items with leased deliveries.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Wakeups;
use crate::{FencingToken, Name, Namespace, Result};

/// Which queue: a namespace and a name. A backend maps the two injectively.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(clippy::exhaustive_structs)]
pub struct QueueId {
    /// The namespace.
    pub namespace: Namespace,
    /// The name.
    pub name: Name,
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The id of an item. A producer that gives it itself can push again after a lost reply, or a crash, without doubling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ItemId(Uuid);

impl ItemId {
    /// A fresh random id.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The id's sixteen bytes, for a store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id that a store or a producer kept.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Items to be pushed together or not at all.
#[derive(Debug, Clone)]
#[allow(clippy::exhaustive_structs)]
pub struct Push {
    /// The queue.
    pub queue: QueueId,
    /// How many items may be in it, dead ones not counted; `None` for no bound.
    pub capacity: Option<u64>,
    /// The items, in order.
    pub items: Vec<NewItem>,
}

/// An item to be pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct NewItem {
    /// Its id.
    pub id: ItemId,
    /// What it carries.
    pub payload: Vec<u8>,
    /// Higher goes first.
    pub priority: i32,
    /// Not to be delivered before this has passed.
    pub delay: Duration,
    /// Items of one group are delivered one at a time, strictly in the order of their commits.
    pub group: Option<String>,
}

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Pushed {
    /// All are in the queue. `new` of them were not known before; the others were pushed by an earlier call.
    Done {
        /// How many were new.
        new: u64,
    },
    /// Nothing was pushed: there is room for fewer.
    Full,
}

/// Asks for deliveries.
#[derive(Debug, Clone)]
#[allow(clippy::exhaustive_structs)]
pub struct Receive {
    /// The queue.
    pub queue: QueueId,
    /// This attempt: sent again after a lost reply, it finds the deliveries that it made.
    pub id: ItemId,
    /// How many at most.
    pub limit: u32,
    /// How long each delivery is leased for.
    pub visibility: Duration,
    /// After how many deliveries that were not acknowledged an item is dead, instead of being delivered again.
    pub max_attempts: Option<u32>,
    /// Who receives, for people.
    pub owner: String,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct Received {
    /// The deliveries, in order.
    pub deliveries: Vec<Delivered>,
    /// If there are none: when an item can next become ready by time alone.
    pub look_again_in: Option<Duration>,
}

/// An item in somebody's hands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct Delivered {
    /// The item.
    pub id: ItemId,
    /// The fencing token of this delivery: greater than those of all deliveries of the queue before it.
    pub token: FencingToken,
    /// The how-manieth delivery of the item this is, from one.
    pub attempt: u32,
    /// What it carries.
    pub payload: Vec<u8>,
    /// Its priority.
    pub priority: i32,
    /// Its group.
    pub group: Option<String>,
    /// When it was pushed, by the store's wall clock, for people.
    pub pushed: SystemTime,
}

/// A word about a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct Settlement {
    /// The item.
    pub id: ItemId,
    /// The token of the delivery.
    pub token: FencingToken,
    /// What is said.
    pub word: Word,
}

/// What can be said about a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Word {
    /// Done: the item is removed.
    Ack,
    /// Not done: to be delivered again after this, or dead if it was the last attempt.
    Nack {
        /// How long to wait.
        delay: Duration,
        /// After how many deliveries the item is dead.
        max_attempts: Option<u32>,
    },
    /// Nobody has looked at it: to be delivered again at once, and this delivery does not count as an attempt.
    Return,
    /// Being worked on: the lease runs for this long from now. It never shortens a lease.
    Extend(Duration),
}

/// What became of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Settled {
    /// It counts.
    Done,
    /// The delivery is not the item's present one: its lease ended and the item was delivered again, or may be, or it
    /// was settled before.
    Stale,
}

/// An item that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct DeadItem {
    /// The item.
    pub id: ItemId,
    /// How often it was delivered.
    pub attempts: u32,
    /// What it carries.
    pub payload: Vec<u8>,
    /// Its priority.
    pub priority: i32,
    /// Its group.
    pub group: Option<String>,
    /// When it was given up, by the store's wall clock, for people.
    pub died: SystemTime,
}

/// How many items a queue has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[allow(clippy::exhaustive_structs)]
pub struct QueueStats {
    /// Ready to be delivered, or behind another item of their group.
    pub ready: u64,
    /// Waiting for a delay to pass.
    pub delayed: u64,
    /// In somebody's hands.
    pub in_flight: u64,
    /// Given up.
    pub dead: u64,
}

/// A store of jobs.
///
/// # Contract
/// That of [`Claims`](super::Claims), with these additions.
/// * Items of one priority are delivered in the order in which their pushes were committed. An item that comes back
///   keeps its place.
/// * [`Jobs::push`] is idempotent in the items' ids while an item is in the queue, and for at least ten minutes after it
///   was acknowledged or dropped.
/// * [`Jobs::receive`] is idempotent in [`Receive::id`] while its deliveries are leased: sent again, it gives the same
///   deliveries, with their leases as they are.
/// * An acknowledgement that is sent again within ten minutes answers [`Settled::Done`] again.
#[async_trait]
pub trait Jobs: fmt::Debug + Send + Sync + 'static {
    /// Pushes all items or none.
    async fn push(&self, push: &Push) -> Result<Pushed>;

    /// Leases deliveries.
    async fn receive(&self, receive: &Receive) -> Result<Received>;

    /// Settles deliveries of one queue; each by itself. The answers are in the order of `settlements`.
    async fn settle(&self, queue: &QueueId, settlements: &[Settlement]) -> Result<Vec<Settled>>;

    /// Dead items, the oldest first, at most `limit` that come after one.
    async fn dead(&self, queue: &QueueId, after: Option<ItemId>, limit: u32) -> Result<Vec<DeadItem>>;

    /// Puts dead items back at the end of the queue, with no attempts counted. How many there were.
    async fn requeue(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64>;

    /// Drops dead items. How many there were.
    async fn drop_dead(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64>;

    /// Counts.
    async fn stats(&self, queue: &QueueId) -> Result<QueueStats>;

    /// Removes all items that nobody has in hand, and the dead. How many there were.
    async fn purge(&self, queue: &QueueId) -> Result<u64>;

    /// Hints that an item may have become ready, or that there is room again.
    fn wakeups(&self, queue: &QueueId) -> Wakeups;
}
