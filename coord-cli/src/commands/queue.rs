//! `coord queue`: items that somebody works on, one consumer at a time.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use coord_core::{
    Coordinator, Delivery, Error, ErrorKind, Item, ItemId, Name, PushOptions, Queue as _, QueueStats,
    ReceiveOptions,
};
use serde::{Deserialize as _, Serialize, de::IntoDeserializer as _};

use crate::{
    cli::{self, Globals},
    commands::{dead::Dead, work::Work},
    input,
    output::{self, Value},
    session::{unless_told_to_stop, with_store},
    signals::Signals,
    status::{self, Failure},
};

/// Keeps queues of items, each of which one consumer at a time works on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord queue push thumbs a.png b.png
  coord queue work thumbs --concurrency 4 -- ./thumb
  coord queue stat thumbs")]
pub(crate) struct Queue {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Push(Push),
    Pop(Pop),
    Work(Work),
    Stat(Stat),
    Dead(Dead),
    Purge(Purge),
}

impl Queue {
    pub(crate) async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        match self.action {
            Action::Push(action) => action.run(globals).await,
            Action::Pop(action) => action.run(globals).await,
            Action::Work(action) => action.run(globals).await,
            Action::Stat(action) => action.run(globals).await,
            Action::Dead(action) => action.run(globals).await,
            Action::Purge(action) => action.run(globals).await,
        }
    }
}

/// The id of an item from the command line.
pub(super) fn item_id(text: &str) -> Result<ItemId, String> {
    ItemId::deserialize(text.into_deserializer())
        .map_err(|error: serde::de::value::Error| format!("an item's id is a UUID: {error}"))
}

/// Puts items into a queue, all of them or none.
///
/// Each argument is an item; without any, the content of a file or of standard input is one. Prints the ids, in their
/// order. JSON keys, one object for each: queue, id.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord queue push thumbs a.png b.png
  tar c folder | coord queue push archive
  coord queue push mail --file letter --priority 5 --delay 10m
  coord queue push orders 'ship 17' --group customer-4      one at a time, in order, within the group
  coord queue push orders --id $(uuidgen) 'ship 18'         can be tried again without doubling
  coord queue push logs line --capacity 1000 --no-wait      status 75 if it is full")]
struct Push {
    /// The name of the queue
    queue: String,

    /// What the items carry, up to 64 KiB each [default: what standard input holds, every byte of it]
    #[arg(value_name = "PAYLOAD", allow_negative_numbers = true)]
    payloads: Vec<OsString>,

    /// Takes the payload from a file
    #[arg(long, value_name = "PATH", conflicts_with = "payloads")]
    file: Option<PathBuf>,

    /// Higher goes first
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,

    /// Not to be worked on before this has passed
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    delay: Option<Duration>,

    /// Items of one group are worked on one at a time, in the order in which they were pushed
    #[arg(long, value_name = "G")]
    group: Option<String>,

    /// The id of the item, a UUID: one that the queue knows, or knew until ten minutes ago, is not pushed again
    #[arg(long, value_name = "UUID", value_parser = item_id)]
    id: Option<ItemId>,

    /// How many items the queue may have, the dead not counted; waits for room [default: no bound]
    #[arg(long, value_name = "N")]
    capacity: Option<u64>,

    /// Waits for room for at most this long [default: for ever]
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration, requires = "capacity")]
    wait: Option<Duration>,

    /// Gives up at once if there is no room
    #[arg(long, requires = "capacity", conflicts_with = "wait")]
    no_wait: bool,
}

impl Push {
    async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let queue = cli::name(&self.queue)?;
        let items = self.items()?;
        let mut options = PushOptions::default();
        options.capacity = self.capacity;
        options.wait = if self.no_wait { Some(Duration::ZERO) } else { self.wait };
        with_store(globals, async |coordinator| {
            let mut signals = Signals::catch()?;
            let pushed = coordinator.push(&queue, items, &options);
            for id in unless_told_to_stop(&mut signals, pushed).await? {
                let json = serde_json::json!({ "queue": self.queue, "id": id });
                globals.output().print(&json, || id.to_string())?;
            }
            Ok(status::OK)
        })
        .await
    }

    fn items(&self) -> Result<Vec<Item>, Failure> {
        let payloads = if self.payloads.is_empty() {
            vec![input::content(self.file.as_ref())?]
        } else {
            self.payloads.iter().map(|payload| input::bytes(payload)).collect()
        };
        if self.id.is_some() && payloads.len() > 1 {
            return Err(Failure::usage("one id cannot be that of several items"));
        }
        let item = |payload: Vec<u8>| {
            let mut item = Item::new(payload).with_priority(self.priority);
            item.delay = self.delay.unwrap_or_default();
            item.group.clone_from(&self.group);
            item.id = self.id;
            item
        };
        Ok(payloads.into_iter().map(item).collect())
    }
}

/// Takes the next item out of a queue and prints what it carries.
///
/// Every byte as it is, and no line end of its own except on a terminal. The item is removed once it is printed; if it cannot
/// be printed it stays in the queue. What happens to it after that is up to the reader: for work that must be done, use
/// `coord queue work`. JSON keys: queue, id, attempt, token, priority, group, pushed, value (null if it is not UTF-8, then
/// value_bytes holds it).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord queue pop thumbs
  coord queue pop thumbs --no-wait                    status 75 if there is nothing
  coord queue pop archive | tar x")]
struct Pop {
    /// The name of the queue
    queue: String,

    /// Waits for at most this long [default: for ever]
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,

    /// Gives up at once if nothing is ready
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,
}

#[derive(Serialize)]
struct Popped<'a> {
    queue: &'a str,
    id: ItemId,
    attempt: u32,
    token: u64,
    priority: i32,
    group: Option<&'a str>,
    pushed: String,
    #[serde(flatten)]
    value: Value<'a>,
}

impl Pop {
    async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let queue = cli::name(&self.queue)?;
        // Whoever works on the queue says after how many attempts an item is given up.
        let mut options = ReceiveOptions::default().with_visibility(globals.ttl()?).with_max_attempts(None);
        options.wait = if self.no_wait { Some(Duration::ZERO) } else { self.wait };
        with_store(globals, async |coordinator| {
            let mut signals = Signals::catch()?;
            let next = next(&coordinator, &queue, &options);
            let delivery = unless_told_to_stop(&mut signals, next).await?;
            let json = Popped {
                queue: &self.queue,
                id: delivery.id(),
                attempt: delivery.attempt(),
                token: delivery.token().get(),
                priority: delivery.priority(),
                group: delivery.group(),
                pushed: output::moment(delivery.pushed()),
                value: delivery.payload().into(),
            };
            globals.output().print_bytes(&json, delivery.payload())?;
            delivery.ack().await?;
            Ok(status::OK)
        })
        .await
    }
}

async fn next(
    coordinator: &Coordinator,
    queue: &Name,
    options: &ReceiveOptions,
) -> coord_core::Result<Delivery> {
    let lost = || Error::new(ErrorKind::Lost, "the item's lease ended before it could be printed");
    coordinator.receive(queue, options).await?.pop().ok_or_else(lost)
}

/// Shows how many items a queue has.
///
/// JSON keys: queue, ready (or behind another item of their group), delayed, in_flight (being worked on), dead (given up).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord queue stat thumbs
  coord queue stat thumbs --json | jq .ready")]
struct Stat {
    /// The name of the queue
    queue: String,
}

#[derive(Serialize)]
struct Counted<'a> {
    queue: &'a str,
    #[serde(flatten)]
    stats: QueueStats,
}

impl Stat {
    async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let queue = cli::name(&self.queue)?;
        with_store(globals, async |coordinator| {
            let stats = coordinator.queue_stats(&queue).await?;
            globals.output().print(&Counted { queue: &self.queue, stats }, || {
                let QueueStats { ready, delayed, in_flight, dead } = stats;
                format!("{queue}  {ready} ready  {delayed} delayed  {in_flight} in flight  {dead} dead")
            })?;
            Ok(status::OK)
        })
        .await
    }
}

/// Removes all items that nobody works on, the dead too.
///
/// Prints how many there were. JSON keys: queue, purged.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord queue purge thumbs")]
struct Purge {
    /// The name of the queue
    queue: String,
}

impl Purge {
    async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let queue = cli::name(&self.queue)?;
        with_store(globals, async |coordinator| {
            let purged = coordinator.purge(&queue).await?;
            let json = serde_json::json!({ "queue": self.queue, "purged": purged });
            globals.output().print(&json, || format!("purged {purged}"))?;
            Ok(status::OK)
        })
        .await
    }
}
