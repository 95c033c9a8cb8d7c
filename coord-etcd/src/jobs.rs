//! Queues: what [`coord_core::spi::jobs::Jobs`] says, in transactions of the server.
//!
//! | operation | requests |
//! | --- | --- |
//! | a push | 1; 2 for the first of a client to a queue, with a capacity, of more than 40 items, or after somebody else's push |
//! | a receive | 3: a look, a lease, a step; 1 if nothing is ready; 2 more each time all it saw was taken by others |
//! | acknowledgements, of up to 400 deliveries | 1; of items of groups, 3 more each |
//! | extensions, of up to 400 deliveries | 2 for each visibility among them, however many they are |
//! | an item given back | 2; 3 after a delay |
//! | counts | 1 |
//!
//! Each delay needs one request more, for its lease. The first push, and the first acknowledgement, in ten minutes ask for the lease
//! on which is remembered what is gone.
//!
//! # What survives what
//! Whatever was answered is on the disks of most members. A push, a receive, and a word whose reply was lost find what they did, as
//! the contract says. The lease of a delivery is one of the server: when its leader changes or it is started again, it begins anew,
//! and so does a delay; nobody's delivery ends early by that. A delay is a whole number of seconds, rounded up, and no
//! shorter than the shortest lease of the server, which is two seconds unless its election timeout was changed.
//!
//! # Tokens
//! The token of a delivery is 1,024 times the revision of the receive that made it, and its place among those of that receive. It is no
//! number to be compared with the token of a lock, which is a revision: a key of fenced storage takes those of one kind.
//!
//! # Limits
//! A push has at most 1.5 MB with all its keys, unless the server is told otherwise: 1,000 items with 1 MiB together fit if the
//! names of queue and groups are short. Larger ones are refused whole, as too large. A receive brings at most 2 MiB, or one item. The
//! server counts what waits for a lease at each receive, so that tens of thousands of items that are delayed or in flight
//! slow it down; items that are ready, or behind others of their group, do not. A purge is not one step but one for some hundred items,
//! and what is pushed meanwhile stays.

mod crowd;
mod dead;
mod group;
mod push;
mod receive;
mod record;
mod settle;

use std::time::Duration;

use async_trait::async_trait;
use coord_core::{
    Error, ErrorKind, Result,
    clock::{Clock, Moment},
    spi::{
        Wakeup, Wakeups,
        jobs::{
            DeadItem, ItemId, Jobs, Push, Pushed, QueueId, QueueStats, Receive, Received, Settled, Settlement,
        },
    },
};
use futures_util::stream;

use self::record::{Keys, LEASED};
pub(crate) use self::{crowd::Crowds, push::Tails, settle::Extended};
use crate::{client::Store, wakeups::Of};

/// How long items that are gone are remembered, at least.
const MEMORY: Duration = Duration::from_secs(600);

/// When to look again for a lease that ended, should its hint be lost.
const SOON: Duration = Duration::from_secs(1);

/// How long an operation goes on against others who come first each time.
const PATIENCE: Duration = Duration::from_secs(8);

/// How an operation goes on that others came before.
#[derive(Debug)]
struct Pace {
    since: Moment,
    tries: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { since: Clock::System.now(), tries: 0 }
    }
}

impl Pace {
    /// One more round.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if there were enough of them.
    fn count(&mut self) -> Result<()> {
        self.tries += 1;
        if Clock::System.now().since(self.since) < PATIENCE {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unavailable, "others change this queue all the time; try again"))
    }

    /// One more round, after a moment that grows.
    ///
    /// # Errors
    /// As [`Pace::count`].
    async fn wait(&mut self) -> Result<()> {
        self.count()?;
        tokio::time::sleep(Duration::from_micros(fastrand::u64(..u64::from(self.tries.min(20)) * 1_000)))
            .await;
        Ok(())
    }
}

#[async_trait]
impl Jobs for Store {
    async fn push(&self, push: &Push) -> Result<Pushed> {
        self.shared.in_time(self.shared.push(push)).await
    }

    async fn receive(&self, receive: &Receive) -> Result<Received> {
        self.shared.in_time(self.shared.receive(receive)).await
    }

    async fn settle(&self, queue: &QueueId, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        self.shared.in_time(self.shared.settle(queue, settlements)).await
    }

    async fn dead(&self, queue: &QueueId, after: Option<ItemId>, limit: u32) -> Result<Vec<DeadItem>> {
        self.shared.in_time(self.shared.dead_items(queue, after, limit)).await
    }

    async fn requeue(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64> {
        // Some of the steps may have been done.
        self.shared.in_time(self.shared.requeue(queue, items)).await.map_err(Error::with_unknown_effect)
    }

    async fn drop_dead(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64> {
        self.shared.in_time(self.shared.drop_items(queue, items)).await.map_err(Error::with_unknown_effect)
    }

    async fn stats(&self, queue: &QueueId) -> Result<QueueStats> {
        self.shared.in_time(self.shared.queue_stats(queue)).await
    }

    async fn purge(&self, queue: &QueueId) -> Result<u64> {
        self.shared.in_time(self.shared.purge_queue(queue)).await.map_err(Error::with_unknown_effect)
    }

    fn wakeups(&self, queue: &QueueId) -> Wakeups {
        let (keys, hub) = (Keys::of(queue), &self.shared.hub);
        let ready = hub.prefix_once_polled(keys.all("r/"), Of::Puts);
        let ended = hub.prefix_once_polled(keys.all(LEASED), Of::Lapses);
        let room = hub.prefix_once_polled(keys.room(), Of::Deletes);
        Wakeups::new(stream::unfold((ready, ended, room), |(mut ready, mut ended, mut room)| async move {
            tokio::select! {
                _ = ready.next() => {}
                _ = ended.next() => {}
                _ = room.next() => {}
            }
            Some((Wakeup::LookAgain, (ready, ended, room)))
        }))
    }
}
