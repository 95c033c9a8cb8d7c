//! Consumers: a handler for every item of a queue.

use std::{
    fmt,
    future::{Future, pending},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::{task::JoinSet, time::sleep};
use tracing::warn;

use super::{Delivery, Queue, ReceiveOptions};
use crate::{Coordinator, Error, ErrorKind, Name, Result};

/// How to consume. The default handles one item at a time and gives failed ones back after a second.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConsumerOptions {
    /// How items are received. Its `wait` and `batch` are the consumer's own.
    pub receive: ReceiveOptions,
    /// How many items are worked on at a time.
    pub concurrency: u32,
    /// How long an item that failed waits before it is delivered again: this after the first attempt, twice as long after
    /// each further one, and at most an hour.
    pub retry_delay: Duration,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self { receive: ReceiveOptions::default(), concurrency: 1, retry_delay: Duration::from_secs(1) }
    }
}

impl ConsumerOptions {
    /// Receiving like this.
    #[must_use]
    pub fn with_receive(mut self, receive: ReceiveOptions) -> Self {
        self.receive = receive;
        self
    }

    /// With this many items at a time.
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: u32) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// With this delay after the first failed attempt.
    #[must_use]
    pub fn with_retry_delay(mut self, delay: Duration) -> Self {
        self.retry_delay = delay;
        self
    }
}

/// Runs a handler for every item of a queue.
#[derive(Debug, Clone)]
pub struct Consumer {
    coordinator: Coordinator,
    queue: Name,
    options: ConsumerOptions,
}

/// How long to stay away after a store that could not be reached.
const RECOVERY: Duration = Duration::from_secs(1);

type Receiving<'a> = Pin<Box<dyn Future<Output = Result<Vec<Delivery>>> + Send + 'a>>;

/// What was received, once something is. Cancel safe.
async fn received(receiving: &mut Option<Receiving<'_>>) -> Result<Vec<Delivery>> {
    match receiving {
        Some(receiving) => receiving.await,
        None => pending().await,
    }
}

impl Consumer {
    /// A consumer of a queue.
    #[must_use]
    pub fn new(coordinator: Coordinator, queue: Name, options: ConsumerOptions) -> Self {
        Self { coordinator, queue, options }
    }

    /// Receives items and runs `handler` for each, several at a time, until `stop` completes; then it waits for the
    /// handlers under way. Items are kept alive while they are worked on. An item whose handler returns `Ok` is
    /// acknowledged; one whose handler returns an error or panics is given back. A handler whose delivery is lost is
    /// dropped.
    ///
    /// # Cancel safety
    /// Dropped halfway, handlers are dropped and their items are given back.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOptions`] without concurrency; errors of [`Queue::receive`] that waiting cannot mend, after
    /// the handlers under way have ended.
    pub async fn run<F, E>(
        &self,
        stop: impl Future<Output = ()>,
        handler: impl Fn(Arc<Delivery>) -> F + Send + Sync + 'static,
    ) -> Result<()>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        if self.options.concurrency == 0 {
            return Err(Error::new(
                ErrorKind::InvalidOptions,
                "a consumer works on one item at a time or more",
            ));
        }
        let handler = Arc::new(handler);
        let mut receive = self.options.receive.clone().with_batch(1);
        receive.wait = None;
        let mut handlers = JoinSet::new();
        // Kept while handlers end: one that is dropped halfway gives back what it took, behind what the next one takes.
        let mut receiving: Option<Receiving<'_>> = None;
        let mut stop = std::pin::pin!(stop);
        let outcome = loop {
            if receiving.is_none() && handlers.len() < self.options.concurrency as usize {
                receiving = Some(self.coordinator.receive(&self.queue, &receive));
            }
            tokio::select! {
                biased;
                () = &mut stop => break Ok(()),
                Some(_) = handlers.join_next(), if !handlers.is_empty() => {}
                received = received(&mut receiving) => match received {
                    Ok(deliveries) => {
                        receiving = None;
                        for delivery in deliveries {
                            let delay = self.retry_delay(delivery.attempt());
                            handlers.spawn(handle(delivery, handler.clone(), delay));
                        }
                    }
                    Err(error) if error.is_retryable() => {
                        warn!(queue = %self.queue, %error, "receiving again");
                        let again = self.coordinator.receive(&self.queue, &receive);
                        receiving = Some(Box::pin(async { sleep(RECOVERY).await; again.await }));
                    }
                    Err(error) => break Err(error),
                },
            }
        };
        drop(receiving);
        while handlers.join_next().await.is_some() {}
        outcome
    }

    fn retry_delay(&self, attempt: u32) -> Duration {
        let factor = 2u32.saturating_pow(attempt.saturating_sub(1));
        self.options.retry_delay.saturating_mul(factor).min(Duration::from_secs(3600))
    }
}

async fn handle<F, E>(
    delivery: Delivery,
    handler: Arc<impl Fn(Arc<Delivery>) -> F + Send + Sync + 'static>,
    delay: Duration,
) where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: fmt::Display + Send + 'static,
{
    let delivery = Arc::new(delivery);
    let id = delivery.id();
    // In a task of its own: a panic ends the item's attempt and not the consumer. The lease is asked for before every step
    // of the handler, in case the process was stopped.
    let held = delivery.clone();
    let mut work = Abort(tokio::spawn(async move { held.run(handler(held.clone())).await }));
    let failed = match (&mut work.0).await {
        Ok(Ok(Ok(()))) => None,
        Ok(Ok(Err(error))) => Some(error.to_string()),
        Ok(Err(lost)) => {
            warn!(item = %id, error = %lost, "a handler was stopped");
            return;
        }
        Err(stopped) => Some(stopped.to_string()),
    };
    drop(work);
    // The handler's task is over, and its clone with it, unless the handler passed one on.
    let Some(delivery) = Arc::into_inner(delivery) else {
        warn!(item = %id, "a handler kept its delivery; it is settled when that is dropped");
        return;
    };
    let settled = match &failed {
        None => delivery.ack().await,
        Some(why) => {
            warn!(item = %id, why, ?delay, "a handler failed");
            delivery.nack(delay).await
        }
    };
    if let Err(error) = settled {
        warn!(item = %id, %error, "an item was not settled; it may be delivered again");
    }
}

/// Ends the task when it is dropped.
struct Abort<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Abort<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
