//! Attempts to receive from a queue.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    time::{sleep, timeout},
};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, warn};

use super::{
    Delivery,
    queue::{RELOOK, ReceiveOptions},
};
use crate::{
    Effect, Error, ErrorKind, Result,
    clock::Moment,
    engine::Engine,
    spi::{
        LineId,
        jobs::{Delivered, ItemId, Jobs, QueueId, Receive, Received, Settlement, Word},
    },
};

/// How long an unreachable store is asked again.
const PATIENCE: Duration = Duration::from_secs(3);

type Call = Pin<Box<dyn Future<Output = Result<Received>> + Send>>;

/// One attempt to receive. A call that is dropped halfway ends in the background, and what it took is given back.
pub(super) struct Take {
    engine: Arc<Engine>,
    jobs: Arc<dyn Jobs>,
    receive: Arc<Receive>,
    runtime: Handle,
    call: Option<(Moment, Call)>,
    /// When the first request of this id was sent whose outcome nobody knows: a later one finds what it took, leased since
    /// then.
    taken_since: Option<Moment>,
    /// Dropped last: when it is gone, the giving back is under way.
    _waiting: TaskTrackerToken,
}

impl Take {
    pub(super) fn new(engine: &Arc<Engine>, jobs: Arc<dyn Jobs>, receive: Receive) -> Self {
        Self {
            engine: engine.clone(),
            jobs,
            receive: Arc::new(receive),
            runtime: Handle::current(),
            call: None,
            taken_since: None,
            _waiting: engine.waiters.token(),
        }
    }

    pub(super) async fn drive(mut self, line: LineId, options: &ReceiveOptions) -> Result<Vec<Delivery>> {
        let engine = self.engine.clone();
        engine.check_open()?;
        let mut wakeups = self.jobs.wakeups(&self.receive.queue);
        let deadline = options.wait.map(|wait| engine.clock.now().after(wait));
        let closed = engine.closed();
        let (mut since, mut pause) = (engine.clock.now(), Duration::from_millis(25));
        // A short wait is meant for items, not for a store that is slow to answer.
        let mut answered = false;
        loop {
            let (sent, outcome) = self.ask().await;
            answered |= outcome.is_ok();
            let rest = match outcome {
                Ok(Received { deliveries, .. }) if !deliveries.is_empty() => {
                    // It is known now what an earlier request took.
                    self.taken_since = None;
                    if let Err(error) = engine.check_open() {
                        // Nothing keeps a delivery after a shutdown.
                        let (jobs, queue) = (self.jobs.clone(), self.receive.queue.clone());
                        engine.spawn(async move { give_back(&*jobs, &queue, &deliveries).await });
                        return Err(error);
                    }
                    let max = options.max_attempts;
                    let take = |delivered| {
                        Delivery::new(&engine, &line, &self.receive, delivered, sent, options.renew, max)
                    };
                    let taken: Vec<_> = deliveries.into_iter().filter_map(take).collect();
                    if !taken.is_empty() {
                        return Ok(taken);
                    }
                    // Their leases ended on the way. They are not asked for again.
                    self.start_anew();
                    Duration::from_millis(1)
                }
                Ok(Received { look_again_in, .. }) => {
                    if self.taken_since.is_some() {
                        // The request whose outcome nobody knows may still be under way. What it takes is nobody's.
                        self.start_anew();
                    }
                    (since, pause) = (engine.clock.now(), Duration::from_millis(25));
                    look_again_in.unwrap_or(RELOOK).min(RELOOK)
                }
                Err(error) if error.is_retryable() && engine.clock.now().since(since) < PATIENCE => {
                    debug!(%error, "asking the store again");
                    pause = (pause * 2).min(Duration::from_secs(1));
                    pause
                }
                Err(error) => return Err(error),
            };
            let left = deadline.filter(|_| answered).map_or(rest, |end| end.since(engine.clock.now()));
            if left.is_zero() {
                return Err(Error::new(
                    ErrorKind::NotGranted,
                    match options.wait.filter(|wait| !wait.is_zero()) {
                        Some(wait) => format!("queue {:?} had nothing in {wait:?}", line.name.as_str()),
                        None => format!("queue {:?} has nothing that is ready", line.name.as_str()),
                    },
                ));
            }
            tokio::select! {
                biased;
                () = closed.cancelled() => engine.check_open()?,
                _ = wakeups.next() => {}
                () = sleep(rest.min(left)) => {}
            }
        }
    }

    async fn ask(&mut self) -> (Moment, Result<Received>) {
        let under_way = self.call.take().unwrap_or_else(|| {
            let (jobs, receive) = (self.jobs.clone(), self.receive.clone());
            (self.engine.clock.now(), Box::pin(async move { jobs.receive(&receive).await }))
        });
        let (sent, call) = self.call.insert(under_way);
        let sent = *sent;
        let Ok(outcome) = timeout(self.engine.call_timeout, call).await else {
            return (sent, Err(self.engine.silent()));
        };
        self.call = None;
        let since = self.taken_since.unwrap_or(sent);
        if outcome.as_ref().is_err_and(|error| error.effect() == Effect::Unknown) {
            self.taken_since = Some(since);
        }
        (since, outcome)
    }

    fn start_anew(&mut self) {
        self.receive = Arc::new(Receive { id: ItemId::random(), ..(*self.receive).clone() });
        self.taken_since = None;
    }
}

impl Drop for Take {
    fn drop(&mut self) {
        let call = self.call.take().map(|(_, call)| call);
        let mut unknown = self.taken_since.is_some();
        if call.is_none() && !unknown {
            return;
        }
        let (jobs, receive) = (self.jobs.clone(), self.receive.clone());
        let _entered = self.runtime.enter();
        self.engine.spawn(async move {
            let mut received = match call {
                Some(call) => call.await,
                None => jobs.receive(&receive).await,
            };
            for pause in RETRIES {
                let Err(error) = &received else { break };
                unknown |= error.effect() == Effect::Unknown;
                if !unknown || !error.is_retryable() {
                    return;
                }
                // Its reply may be lost: the same request finds what it took.
                sleep(pause).await;
                received = jobs.receive(&receive).await;
            }
            let Ok(received) = received else { return };
            give_back(&*jobs, &receive.queue, &received.deliveries).await;
        });
    }
}

/// How long to wait between attempts to give back what nobody looked at.
const RETRIES: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

/// Nobody looked at these.
async fn give_back(jobs: &dyn Jobs, queue: &QueueId, deliveries: &[Delivered]) {
    let word =
        |delivered: &Delivered| Settlement { id: delivered.id, token: delivered.token, word: Word::Return };
    let said: Vec<_> = deliveries.iter().map(word).collect();
    if said.is_empty() {
        return;
    }
    for pause in RETRIES {
        match jobs.settle(queue, &said).await {
            Ok(_) => return,
            Err(error) if error.is_retryable() => sleep(pause).await,
            Err(error) => {
                warn!(queue = %queue.name, %error, "items were not given back; their leases end it");
                return;
            }
        }
    }
}
