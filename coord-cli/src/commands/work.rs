//! `coord queue work`: runs a command for every item of a queue.

use std::{
    future::pending,
    io::{IsTerminal as _, Write as _, stderr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use coord_core::{Coordinator, Delivery, Error, ErrorKind, Name, Queue as _, QueueStats, ReceiveOptions};
use nix::sys::signal::Signal;
use tokio::{
    task::{JoinError, JoinSet},
    time::sleep,
};

use crate::{
    cli::{self, Globals},
    commands::lock::Child,
    item::{End, Groups, Job},
    session::{self, with_store},
    signals::{Signals, ends},
    status::{self, Failure},
    terminal,
};

/// Runs a command for every item of a queue.
///
/// The command has the payload on its standard input, and in its environment COORD_ITEM_ID, COORD_ATTEMPT (from 1),
/// COORD_FENCING_TOKEN (greater than those of all earlier deliveries of the queue) and COORD_NAME (the queue). If it exits
/// with 0, the item is removed. If not, the item comes again after a delay, or is dead after the last attempt; see
/// `coord queue dead`.
///
/// The item is kept from others while the command runs. If it is lost all the same, because the store was out of reach or
/// coord was stopped for longer than the visibility timeout, the command's process group gets SIGTERM and after the grace
/// SIGKILL, and another worker may have the item already: let what the command writes to refuse stale tokens.
///
/// The commands do not get the terminal. One that is stopped because it reads from it, or changes its mode, is ended in the
/// same way, and has failed.
///
/// When coord is told to stop, by INT, TERM, HUP or QUIT, it takes no more items, waits for the commands that run, and exits
/// with 0. The next such signal is passed on to the commands. coord prints nothing of its own on standard output; if standard
/// error is a terminal, it shows there how far it is. A command that cannot be run ends it with 126 or 127.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord queue work thumbs --concurrency 4 -- ./thumb
  coord queue work mail --attempts 3 --retry-delay 1m -- sendmail -t
  coord queue work thumbs --until-empty -- sh -c 'convert \"$(cat)\" out/$COORD_ITEM_ID.png'")]
pub(super) struct Work {
    /// The name of the queue
    queue: String,

    /// How many commands run at a time
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    concurrency: u32,

    /// How long a crashed worker keeps its items from others; it is renewed while coord runs [default: that of --ttl]
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    visibility: Option<Duration>,

    /// After how many deliveries that were not acknowledged an item is dead
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    attempts: u32,

    /// How long an item waits after the first failed attempt; twice as long after each further one, and at most an hour
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration, default_value = "1s")]
    retry_delay: Duration,

    /// Ends when the queue is empty: nothing is ready, delayed or being worked on, here or elsewhere
    #[arg(long)]
    until_empty: bool,

    #[command(flatten)]
    child: Child,
}

impl Work {
    pub(super) async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let queue = cli::name(&self.queue)?;
        let visibility = globals.ttl_unless(self.visibility)?;
        let receive =
            ReceiveOptions::default().with_visibility(visibility).with_max_attempts(Some(self.attempts));
        with_store(globals, async |coordinator| {
            let signals = Signals::catch()?;
            let job = Job {
                queue: queue.clone(),
                command: self.child.command,
                grace: self.child.grace,
                retry_delay: self.retry_delay,
                groups: Groups::default(),
            };
            let mut worker = Worker {
                coordinator,
                queue,
                job: Arc::new(job),
                concurrency: self.concurrency as usize,
                until_empty: self.until_empty,
                tally: Tally::default(),
                is_stopping: false,
                failure: None,
            };
            worker.run(receive, signals).await?;
            Ok(status::OK)
        })
        .await
    }
}

/// How long to wait before the queue is asked again whether it is empty.
const LOOK: Duration = Duration::from_secs(1);

/// How long to stay away from a store that could not be reached.
const RECOVERY: Duration = Duration::from_secs(1);

type Receiving = Pin<Box<dyn Future<Output = Result<Vec<Delivery>, Error>>>>;

/// What was received, once something is. Cancel safe.
async fn outcome(receiving: &mut Option<Receiving>) -> Result<Vec<Delivery>, Error> {
    match receiving {
        Some(receiving) => receiving.await,
        None => pending().await,
    }
}

struct Worker {
    coordinator: Coordinator,
    queue: Name,
    job: Arc<Job>,
    concurrency: usize,
    until_empty: bool,
    tally: Tally,
    /// Takes no more items.
    is_stopping: bool,
    /// Why.
    failure: Option<Failure>,
}

impl Worker {
    async fn run(&mut self, mut receive: ReceiveOptions, mut signals: Signals) -> Result<(), Failure> {
        let mut items = JoinSet::new();
        let mut nothing_came = false;
        // Kept while other things happen: one that is dropped halfway gives back what it took.
        let mut receiving = None;
        loop {
            self.tally.show(&self.queue, items.len(), self.is_stopping);
            if items.is_empty() && (self.is_stopping || nothing_came && self.is_empty().await) {
                break;
            }
            if self.until_empty {
                receive.wait = Some(if nothing_came { LOOK } else { Duration::ZERO });
            }
            if self.is_stopping {
                receiving = None;
            } else if receiving.is_none() && items.len() < self.concurrency {
                receiving = Some(self.receive(receive.clone()));
            }
            tokio::select! {
                biased;
                caught = signals.next() => self.caught(caught),
                Some(ended) = items.join_next(), if !items.is_empty() => self.ended(ended),
                received = outcome(&mut receiving) => {
                    receiving = None;
                    match received {
                        Ok(deliveries) => {
                            nothing_came = false;
                            for delivery in deliveries {
                                items.spawn(self.job.clone().run(delivery));
                            }
                        }
                        Err(error) if error.kind() == ErrorKind::NotGranted => nothing_came = true,
                        Err(error) if error.is_retryable() => {
                            self.tally.warn(&format!("asking again: {}", status::describe(&error)));
                            sleep(RECOVERY).await;
                        }
                        Err(error) => self.fail(error.into()),
                    }
                }
            }
        }
        self.tally.end();
        self.failure.take().map_or(Ok(()), Err)
    }

    fn receive(&self, options: ReceiveOptions) -> Receiving {
        let (coordinator, queue) = (self.coordinator.clone(), self.queue.clone());
        Box::pin(async move { coordinator.receive(&queue, &options).await })
    }

    /// Whether the work is over. It is too if the store cannot be asked.
    async fn is_empty(&mut self) -> bool {
        match self.coordinator.queue_stats(&self.queue).await {
            Ok(QueueStats { ready, delayed, in_flight, .. }) => ready + delayed + in_flight == 0,
            Err(error) => {
                self.fail(error.into());
                true
            }
        }
    }

    fn caught(&mut self, caught: Signal) {
        match caught {
            Signal::SIGTSTP if terminal::is_orphaned() => {}
            Signal::SIGTSTP => {
                self.job.groups.signal(caught);
                terminal::stop_oneself();
            }
            _ if ends(caught) && !self.is_stopping => self.is_stopping = true,
            _ => self.job.groups.signal(caught),
        }
    }

    fn ended(&mut self, ended: Result<Result<End, Failure>, JoinError>) {
        match ended {
            Ok(Ok(End::Acked)) => self.tally.done += 1,
            Ok(Ok(End::Nacked)) => self.tally.failed += 1,
            Ok(Ok(End::Lost)) => self.tally.lost += 1,
            Ok(Ok(End::Unsettled(why))) => {
                self.tally.lost += 1;
                self.tally.warn(&format!("not settled, and may be delivered again: {why}"));
            }
            Ok(Ok(End::WantedTerminal)) => {
                self.tally.failed += 1;
                self.tally.warn(
                    "a command was ended: it wanted the terminal, which commands of a queue do not get",
                );
            }
            Ok(Err(failure)) => self.fail(failure),
            Err(panic) => self.fail(Failure::new(status::FAILED, panic.to_string())),
        }
    }

    /// Ends the work for the first reason that came up.
    fn fail(&mut self, failure: Failure) {
        self.is_stopping = true;
        self.failure.get_or_insert(failure);
    }
}

/// How many deliveries ended how.
#[derive(Debug, Default)]
struct Tally {
    done: u64,
    failed: u64,
    lost: u64,
    shown: bool,
}

impl Tally {
    /// Shows on a terminal how far the work is, in place of what it showed before.
    fn show(&mut self, queue: &Name, running: usize, is_stopping: bool) {
        if !stderr().is_terminal() {
            return;
        }
        let Self { done, failed, lost, .. } = self;
        let stopping = if is_stopping { ", stopping" } else { "" };
        // A line that is longer than the terminal is cut, since one that went on below could not be replaced. If nobody sees
        // it, the work goes on all the same.
        let _ = write!(
            stderr(),
            "\r\x1b[K\x1b[?7l{queue}: {done} done, {failed} failed, {lost} lost, {running} running{stopping}\x1b[?7h"
        );
        self.shown = true;
    }

    /// A warning on a line of its own. What was shown comes again after it.
    fn warn(&self, text: &str) {
        if self.shown {
            let _ = write!(stderr(), "\r\x1b[K");
        }
        session::warn(text);
    }

    /// What comes next stands on a line of its own.
    fn end(&self) {
        if self.shown {
            let _ = writeln!(stderr());
        }
    }
}
