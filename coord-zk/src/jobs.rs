//! Queues: what `coord_core::spi::jobs::Jobs` says.
//!
//! The nodes are described in [`room`], their names in [`place`].
//!
//! * **A push** is two requests: one that asks which ids are known, and one `multi` that adds the others, on condition that
//!   nobody pushed meanwhile. That gives the items of all producers one order.
//! * **A receive** is two requests: a listing, and one `multi` that leases items, on condition that nobody received
//!   meanwhile; what they carry is read in the same pipeline. A resent receive finds its id in the names of the leases.
//! * **A lease** is an ephemeral node of a session that is kept for at least the visibility timeout, with a deadline of its own
//!   at this client: it ends when that has passed, or when the consumer was not heard of for so long that its session ended
//!   (by the servers' monotonic clock; nobody's wall clock matters). A killed consumer's items are free within the visibility
//!   timeout, a tick of the servers' and what they take to notice. An extension is one `multi` of checks for all deliveries of a
//!   session, which the leader answers: a server that was cut off from it prolongs nothing. One that is longer than the session
//!   is kept for moves the lease to another session, of the next power of two in seconds.
//!   Visibility timeouts are as limited as TTLs are, by the servers' `minSessionTimeout` and `maxSessionTimeout`.
//! * **Acknowledging** and giving back is one `multi`, which removes the lease: whoever does that first has the word. An
//!   item that is gone leaves its id for some eleven minutes, so that it is not pushed twice.
//! * **A lost reply**: everything finds what it did. Counts of dead items that were put back, dropped or purged may be
//!   too small then.
//! * **The clock**: delays, and how long ids are remembered, are judged by the servers' wall clocks: a step there, or a new
//!   leader with another time, moves them by as much. Leases are not.
//! * **Long queues**: a listing costs the names of the items, some 30 to 60 bytes each. From a hundred on, a client that receives
//!   follows the queue by a watch instead (see [`mirror`]), so that a receive from a thousand items takes about as long as one
//!   from ten. It still goes through all of them to find what is next: with 20,000 items that took 3 ms, and the first
//!   listing 30 ms. Pushes with a capacity, counting and late words list. A hundred thousand items are some megabytes a
//!   listing: split such queues by name.
//! * **What stays** of a queue that was used once are eight nodes; of an item, none, eleven minutes after the last of its
//!   neighbours was acknowledged.

mod dead;
mod floor;
mod mirror;
mod place;
mod proof;
mod push;
mod receive;
mod room;
mod settle;
mod time;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use coord_core::{
    FencingToken, Result,
    clock::Clock,
    spi::{
        Wakeups,
        jobs::{
            DeadItem, ItemId, Jobs, Push, Pushed, QueueId, QueueStats, Receive, Received, Settled,
            Settlement, Word,
        },
    },
};
use zookeeper_client::EventType;

use self::{
    floor::Floors,
    mirror::Slot,
    place::{Marker, Place},
    room::Room,
    time::StoreTime,
};
use crate::{
    client::{Store, apart},
    error::{Asks, partly},
    hints,
    leases::Leases,
};

/// What a client remembers of queues.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    time: StoreTime,
    floors: Floors,
    /// Where the deliveries are that were not settled yet, by queue and item.
    held: Mutex<Deliveries>,
    /// What is known of queues, by queue and session.
    sights: Mutex<HashMap<(String, i64), Slot>>,
}

type Deliveries = HashMap<(String, ItemId), Held>;

/// Where a delivery is.
#[derive(Debug, Clone)]
struct Held {
    place: Place,
    marker: Marker,
}

/// From how many deliveries on those whose leases ended without a word are forgotten.
const DESK: usize = 8_192;

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Deliveries> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self, room: &Room, id: ItemId) -> Option<Held> {
        self.lock().get(&(room.root().to_owned(), id)).cloned()
    }

    fn keep(&self, room: &Room, held: Held, leases: &Leases) {
        let mut all = self.lock();
        // Each time there are twice as many, so that many that are alive are not looked through each time.
        if all.len() >= DESK && all.len().is_power_of_two() {
            let now = Clock::System.now();
            all.retain(|(root, _), held| leases.get(&room::marker_in(root, &held.marker), now).is_some());
        }
        all.insert((room.root().to_owned(), held.place.id), held);
    }

    fn sights(&self) -> MutexGuard<'_, HashMap<(String, i64), Slot>> {
        self.sights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, room: &Room, session: i64) -> Slot {
        self.sights().entry((room.root().to_owned(), session)).or_default().clone()
    }

    fn known_slot(&self, room: &Room, session: i64) -> Option<Slot> {
        self.sights().get(&(room.root().to_owned(), session)).cloned()
    }

    fn forget_slot(&self, room: &Room, session: i64) {
        self.sights().remove(&(room.root().to_owned(), session));
    }

    fn drop(&self, room: &Room, id: ItemId, token: FencingToken) {
        let key = (room.root().to_owned(), id);
        let mut all = self.lock();
        if all.get(&key).is_some_and(|held| held.marker.token == token) {
            all.remove(&key);
        }
    }
}

/// The store's time this long after another, in milliseconds, or zero for no time at all.
fn after(now: u64, delay: Duration) -> u64 {
    if delay.is_zero() {
        return 0;
    }
    let millis = u64::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    now.saturating_add(millis)
}

fn is_extension(said: &Settlement) -> bool {
    matches!(said.word, Word::Extend(_))
}

impl Store {
    fn room(&self, queue: &QueueId) -> Room {
        Room::new(&self.shared.config, queue)
    }
}

#[async_trait]
impl Jobs for Store {
    async fn push(&self, push: &Push) -> Result<Pushed> {
        let room = self.room(&push.queue);
        let work = async {
            let session = self.shared.main().await?;
            Ok(push::push(&session, &self.shared.jobs, &room, push).await?)
        };
        self.shared.within(Asks::Writing, work).await
    }

    async fn receive(&self, receive: &Receive) -> Result<Received> {
        let (room, shared, receive) = (self.room(&receive.queue), Arc::clone(&self.shared), receive.clone());
        // It holds what the client knows of the queue, which others need: a caller that is not polled must not keep it.
        apart(async move {
            let work = async {
                let session = shared.session_for(receive.visibility).await?;
                Ok(receive::receive(&shared, &session, &room, &receive).await?)
            };
            shared.within(Asks::Writing, work).await
        })
        .await
    }

    async fn settle(&self, queue: &QueueId, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        let room = self.room(queue);
        let work = async {
            let mut answers = Vec::with_capacity(settlements.len());
            for run in settlements.chunk_by(|one, next| is_extension(one) == is_extension(next)) {
                let settled = if run.first().is_some_and(is_extension) {
                    settle::extend(&self.shared, &room, run).await
                } else {
                    match self.shared.main().await {
                        Ok(session) => settle::settle(&self.shared, &session, &room, run).await,
                        Err(error) => Err(error),
                    }
                };
                answers.extend(settled.map_err(partly(!answers.is_empty()))?);
            }
            Ok(answers)
        };
        self.shared.within(Asks::Writing, work).await
    }

    async fn dead(&self, queue: &QueueId, after: Option<ItemId>, limit: u32) -> Result<Vec<DeadItem>> {
        let room = self.room(queue);
        let work = async { Ok(dead::dead(&*self.shared.main().await?, &room, after, limit).await?) };
        self.shared.within(Asks::Reading, work).await
    }

    async fn requeue(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64> {
        let room = self.room(queue);
        let work = async { Ok(dead::requeue(&*self.shared.main().await?, &room, items).await?) };
        self.shared.within(Asks::Writing, work).await
    }

    async fn drop_dead(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64> {
        let room = self.room(queue);
        let work = async { Ok(dead::drop_dead(&*self.shared.main().await?, &room, items).await?) };
        self.shared.within(Asks::Writing, work).await
    }

    async fn stats(&self, queue: &QueueId) -> Result<QueueStats> {
        let room = self.room(queue);
        let work = async { Ok(dead::stats(&*self.shared.main().await?, &self.shared.jobs, &room).await?) };
        self.shared.within(Asks::Reading, work).await
    }

    async fn purge(&self, queue: &QueueId) -> Result<u64> {
        let room = self.room(queue);
        let work = async { Ok(dead::purge(&*self.shared.main().await?, &room).await?) };
        self.shared.within(Asks::Writing, work).await
    }

    fn wakeups(&self, queue: &QueueId) -> Wakeups {
        let line = self.room(queue).line();
        let start = format!("{line}/");
        // Items that come, and leases that end. What a receive does makes nothing ready.
        hints::below(&self.shared, line, move |event: EventType, path: &str| {
            match (event, path.strip_prefix(&start)) {
                (EventType::NodeCreated, Some(name)) => name.starts_with('i'),
                (EventType::NodeDeleted, Some(name)) => name.starts_with('l'),
                (_, None) => true,
                _ => false,
            }
        })
    }
}
