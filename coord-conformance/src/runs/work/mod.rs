//! What the workers of a run work on: everything at once, until a moment that they are told.
//!
//! | object | what is done |
//! | --- | --- |
//! | `lock/till`, `till/…` | a lock, and keys that are counted in under it: each a list of the tokens of its writers |
//! | `lock/ledger`, `ledger/…` | the same with files |
//! | `semaphore/seats` | one or two of three permits |
//! | `election/office` | candidates; observers |
//! | `registry/crew` | members who come and go; watchers |
//! | `config/…` | values that are read, written, changed on condition, removed; a watcher |
//! | `jobs` | producers and consumers |

mod counting;
mod holding;
mod values;
mod watchers;

use std::{path::PathBuf, sync::Arc, time::Duration};

use coord_core::{Error, ErrorKind, Name, Result};
use fastrand::Rng;
use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::sleep};

pub(crate) use self::watchers::Watchers;
pub(super) use self::{
    counting::{Counter, KEYS, accepted},
    values::entries,
};
use crate::{Client, working};

/// How many of them one may hold at a time.
pub(super) const SEATS: u32 = 3;

/// A name of the runs; they are all valid.
pub(super) fn named(text: &str) -> Name {
    Name::new(text).unwrap_or_else(|error| panic!("{text:?} is a name: {error}"))
}

/// The work of one worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs)]
pub struct Work {
    /// When the run began, in nanoseconds of the clock.
    pub start: u64,
    /// When the work ends.
    pub until: u64,
    /// The TTL of all leases.
    pub ttl: Duration,
    /// Decides the choices.
    pub seed: u64,
    /// Where the ledgers are.
    pub folder: PathBuf,
    /// Whether what is counted in checks tokens.
    pub fenced: bool,
    /// Whether there are shared claims.
    pub shared: bool,
    /// Whether there are values.
    pub values: bool,
    /// Whether there are jobs.
    pub jobs: bool,
    /// What all names begin with: work after other work in the same store has names of its own.
    pub prefix: String,
    /// How many times as long as at full speed one pauses between two pieces of work.
    pub pace: u32,
}

impl Work {
    /// A name of this work.
    pub(super) fn name(&self, text: &str) -> Name {
        named(&format!("{}{text}", self.prefix))
    }

    /// What the keys that are watched begin with.
    pub(super) fn config(&self) -> String {
        format!("{}config/", self.prefix)
    }
}

/// A worker at work.
#[derive(Debug, Clone)]
struct Hands {
    client: Client,
    work: Arc<Work>,
}

/// Works until the end of it. What the worker watches it watches for longer, as a part of `watching`.
pub(crate) async fn work(client: &Client, work: Work, watching: &Watchers) -> Result<()> {
    let mut seeds = Rng::with_seed(work.seed);
    let hands = Hands { client: client.clone(), work: Arc::new(work) };
    let work = &hands.work;
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    let mut begin =
        |task: fn(Hands, Rng) -> holding::Task| _ = tasks.spawn(task(hands.clone(), seeds.fork()));
    begin(|hands, rng| Box::pin(hands.count(rng, false)));
    begin(|hands, rng| Box::pin(hands.lead(rng)));
    begin(|hands, rng| Box::pin(hands.stay(rng)));
    if work.shared {
        begin(|hands, rng| Box::pin(hands.sit(rng)));
    }
    if work.values {
        begin(|hands, rng| Box::pin(hands.count(rng, true)));
        begin(|hands, rng| Box::pin(hands.configure(rng)));
    }
    if work.jobs {
        begin(|hands, rng| Box::pin(hands.produce(rng)));
        begin(|hands, rng| Box::pin(hands.consume(rng)));
    }
    watching.add_all(client, work);
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|stopped| Error::new(ErrorKind::Internal, "a task stopped").with_source(stopped))??;
    }
    Ok(())
}

impl Hands {
    fn now(&self) -> u64 {
        self.client.recorder().history().stamp().at
    }

    fn goes_on(&self) -> bool {
        self.now() < self.work.until
    }

    /// Which stretch of this length the run is in: objects of a stretch have short histories.
    fn stretch(&self, length: Duration) -> u64 {
        let length = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        self.now().saturating_sub(self.work.start) / length
    }

    async fn pause(&self, rng: &mut Rng, millis: std::ops::Range<u64>) {
        sleep(Duration::from_millis(rng.u64(millis)) * self.work.pace).await;
    }

    async fn produce(self, mut rng: Rng) -> Result<()> {
        let queue = self.work.name("jobs");
        while self.goes_on() {
            self.pause(&mut rng, 0..200).await;
            let item = format!("{} {}", self.client.owner(), self.client.recorder().number());
            let mut new = coord_core::Item::new(item).with_priority(rng.i32(..3));
            new.group = (rng.u32(..3) == 0).then(|| format!("group {}", rng.u32(..2)));
            shrug(working::push(&self.client, &queue, new).await).await?;
        }
        Ok(())
    }

    async fn consume(self, mut rng: Rng) -> Result<()> {
        let queue = self.work.name("jobs");
        let options = working::options(self.work.ttl).with_wait(Duration::from_millis(300));
        while self.goes_on() {
            let options = options.clone().with_batch(rng.u32(1..3));
            let received = working::receive(&self.client, &queue, &options).await;
            for delivery in shrug(received).await?.unwrap_or_default() {
                working::settle(&self.client, &mut rng, &queue, delivery).await?;
            }
        }
        Ok(())
    }
}

/// What faults explain has left its trace in the history, and the work goes on after a while.
async fn shrug<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_trouble(&error) => {
            sleep(Duration::from_millis(20)).await;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn is_trouble(error: &Error) -> bool {
    let explained = matches!(error.kind(), ErrorKind::Lost | ErrorKind::Fenced | ErrorKind::ConditionFailed);
    explained || error.is_retryable()
}
