//! Deliveries: items in a consumer's hands.

use std::{sync::Arc, time::Duration, time::SystemTime};

use crate::{
    Error, ErrorKind, FencingToken, Result,
    clock::Moment,
    engine::{
        Engine,
        hold::Hold,
        leases,
        trace::{Tokened, traced},
    },
    limits,
    spi::{
        Grant, LineId, Wakeups,
        jobs::{Delivered, ItemId, Jobs, Receive, Settled, Word},
    },
};

/// An item in a consumer's hands. Its lease is renewed in the background until it is settled, dropped or lost. Dropping
/// it gives the item back, to be delivered again at once; the attempt counts.
#[must_use = "an item that is dropped is delivered again"]
#[derive(Debug)]
pub struct Delivery {
    engine: Arc<Engine>,
    hold: Hold,
    said: leases::Delivery,
    delivered: Delivered,
}

impl Tokened for Delivery {
    fn fencing_token(&self) -> Option<FencingToken> {
        Some(self.token())
    }
}

impl Delivery {
    /// Takes a delivery into care; `None` if its lease may have ended while the answer was under way.
    pub(crate) fn new(
        engine: &Arc<Engine>,
        line: &LineId,
        receive: &Receive,
        delivered: Delivered,
        sent: Moment,
        renew: bool,
        max_attempts: Option<u32>,
    ) -> Option<Self> {
        let said = leases::Delivery {
            queue: receive.queue.clone(),
            item: delivered.id,
            token: delivered.token,
            max_attempts,
        };
        let id = engine.leases.take(said.clone());
        let grant = Grant { line: line.clone(), id, token: delivered.token, ttl: receive.visibility };
        let Some(hold) = Hold::new(engine.clone(), grant, sent, renew, Wakeups::none()) else {
            engine.leases.settled(id);
            return None;
        };
        Some(Self { engine: engine.clone(), hold, said, delivered })
    }

    /// The item's id.
    #[must_use]
    pub fn id(&self) -> ItemId {
        self.delivered.id
    }

    /// The fencing token of this delivery: greater than those of all earlier deliveries of the queue.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.delivered.token
    }

    /// The how-manieth delivery of the item this is, from one.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.delivered.attempt
    }

    /// What the item carries.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.delivered.payload
    }

    /// The item's priority.
    #[must_use]
    pub fn priority(&self) -> i32 {
        self.delivered.priority
    }

    /// The item's group.
    #[must_use]
    pub fn group(&self) -> Option<&str> {
        self.delivered.group.as_deref()
    }

    /// When the item was pushed, by the store's wall clock.
    #[must_use]
    pub fn pushed(&self) -> SystemTime {
        self.delivered.pushed
    }

    /// Whether the item is still in these hands; see [`Guard::is_held`](crate::Guard::is_held).
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.hold.is_held()
    }

    /// How long the lease lasts unless it is renewed; zero once it is lost.
    #[must_use]
    pub fn valid_for(&self) -> Duration {
        self.hold.valid_for()
    }

    /// Completes when the delivery is lost: another consumer may get the item.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lost(&self) {
        self.hold.lost().await;
    }

    /// Drives `work` while the item is in these hands; see [`Guard::run`](crate::Guard::run).
    ///
    /// # Cancel safety
    /// As `work`.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`].
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output> {
        self.hold.run(work).await
    }

    /// Renews at once, and keeps the lease for `visibility` from now on.
    ///
    /// # Cancel safety
    /// Cancel safe; the new time may or may not hold.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`] if the item was delivered again, or may be; [`ErrorKind::InvalidTtl`]; what the store says.
    pub async fn extend(&self, visibility: Duration) -> Result<()> {
        traced("queue.extend", &self.hold.line(), self.hold.extend(visibility)).await
    }

    /// Says that the work is done: the item is removed.
    ///
    /// # Cancel safety
    /// Dropped halfway, the item is acknowledged or delivered again.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`] if the item was delivered again, or may be: somebody else does the work once more. What the
    /// store says, and then the item may be delivered again.
    pub async fn ack(self) -> Result<()> {
        self.settle("queue.ack", Word::Ack).await
    }

    /// Says that the work is not done: the item is delivered again after `delay`, or is dead if this was the last of its
    /// attempts.
    ///
    /// # Cancel safety
    /// Dropped halfway, the item is delivered again, at once or after the delay.
    ///
    /// # Errors
    /// As [`Delivery::ack`]; also if the delivery lapsed and this process has given it back by itself, without the delay;
    /// [`ErrorKind::InvalidOptions`] for a delay beyond [`limits::MAX_TTL`], and then the item is delivered again at once.
    pub async fn nack(self, delay: Duration) -> Result<()> {
        limits::delay(delay)?;
        let max_attempts = self.said.max_attempts;
        self.settle("queue.nack", Word::Nack { delay, max_attempts }).await
    }

    async fn settle(self, operation: &'static str, word: Word) -> Result<()> {
        let line = self.hold.line();
        traced(operation, &line, async {
            let said = self.said.say(word);
            let acks = said.word == Word::Ack;
            let settle = |jobs: Arc<dyn Jobs>| {
                let (queue, said) = (self.said.queue.clone(), said.clone());
                async move { jobs.settle(&queue, &[said]).await }
            };
            // After an error the delivery is dropped, which gives the item back if it was not settled.
            let answers = self.engine.insist(self.engine.jobs()?, settle).await?;
            // The store takes a word that follows the giving back of a lapsed delivery for the same word sent again.
            let first = self.engine.leases.settled(self.hold.grant().id);
            self.hold.forsake();
            match answers.first() {
                Some(Settled::Done) if first || acks => Ok(()),
                _ => Err(Error::new(
                    ErrorKind::Lost,
                    format!(
                        "too late: the lease of item {} with token {} ended, and it was delivered again or may be",
                        self.delivered.id, self.delivered.token
                    ),
                )),
            }
        })
        .await
    }
}
