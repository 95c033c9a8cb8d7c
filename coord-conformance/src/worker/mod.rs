//! The program that a case starts, stops and kills: the test binary itself, run again.
//!
//! It speaks JSON, one object a line. On standard input come [`Request`]s, which it works on side by side; on standard
//! output go [`Message`]s: answers, and every event of its history at once, its beginning too, so that it is known what a
//! killed worker had done and what it was doing.

mod handle;
mod program;
pub mod resource;

use std::{io::Write, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use coord_core::{Coordinator, Error, ErrorKind, FencingToken, Name, Result, clock::Clock};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};

pub use self::handle::{Reply, Worker};
use self::program::Program;
pub(crate) use self::program::blocking;
use crate::{
    Backend, Client,
    faults::{Faulty, Half},
    history::{Event, History, News},
    runs::Work,
};

/// The environment variable that makes a test binary a worker; its value is the URL of the store.
pub const WORKER: &str = "COORD_WORKER";
/// The environment variable with the worker's name in the history.
const NAME: &str = "COORD_WORKER_NAME";
/// Set beside it: the worker's store is behind faults, which are off at first.
const FAULTY: &str = "COORD_WORKER_FAULTY";
/// Set beside it: the backend's name.
pub(crate) const BACKEND: &str = "COORD_WORKER_BACKEND";

/// A command with a number for its answer.
#[derive(Debug, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs)]
pub struct Request {
    /// The number.
    pub number: u64,
    /// The command.
    pub command: Command,
}

/// What a worker can be told to do. Grants are known by the number of the request that acquired them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Command {
    /// Acquires a lock.
    Lock {
        /// Its name.
        name: Name,
        /// The TTL.
        ttl: Duration,
    },
    /// Campaigns.
    Lead {
        /// The election.
        name: Name,
        /// The TTL.
        ttl: Duration,
    },
    /// Asks a guard whether it is held.
    IsHeld {
        /// Which one.
        hold: u64,
    },
    /// Works under a guard, step by step, until it is lost.
    Run {
        /// Which one.
        hold: u64,
    },
    /// Releases a guard.
    Release {
        /// Which one.
        hold: u64,
    },
    /// Detaches a lock.
    Detach {
        /// Which one.
        hold: u64,
    },
    /// Resumes a lock.
    Resume {
        /// What [`Answer::Detached`] said.
        text: String,
    },
    /// Fences older holders out of a resource and reads it.
    Read {
        /// The resource.
        resource: PathBuf,
        /// Under this guard.
        hold: u64,
        /// Whether the resource checks tokens.
        fenced: bool,
    },
    /// Adds one to the value that was read, without a look at the guard.
    Write {
        /// The resource.
        resource: PathBuf,
        /// Under this guard.
        hold: u64,
        /// The value that was read.
        read: u64,
        /// Whether the resource checks tokens.
        fenced: bool,
    },
    /// Adds one to a fenced resource so many times, each time under a lock of its own.
    Count {
        /// The resource.
        resource: PathBuf,
        /// The lock.
        name: Name,
        /// The TTL.
        ttl: Duration,
        /// How often.
        times: u64,
    },
    /// Registers an instance.
    Register {
        /// The service.
        service: Name,
        /// The instance.
        id: String,
        /// The TTL.
        ttl: Duration,
    },
    /// Receives one item, which is kept alive until it is settled.
    Receive {
        /// The queue.
        queue: Name,
        /// The visibility timeout.
        visibility: Duration,
    },
    /// Acknowledges a delivery.
    Ack {
        /// Which one.
        hold: u64,
    },
    /// Gives a delivery back.
    Nack {
        /// Which one.
        hold: u64,
    },
    /// Extends a delivery.
    Extend {
        /// Which one.
        hold: u64,
        /// For how long.
        visibility: Duration,
    },
    /// Pushes items at random.
    Produce {
        /// The queue.
        queue: Name,
        /// How many.
        items: u64,
        /// How long to wait between two at most.
        pause: Duration,
        /// Decides the choices.
        seed: u64,
    },
    /// Receives and settles items at random until nothing comes.
    Consume {
        /// The queue.
        queue: Name,
        /// The visibility timeout.
        visibility: Duration,
        /// How long nothing comes before it ends.
        wait: Duration,
        /// Decides the choices.
        seed: u64,
    },
    /// Fences older holders out of a key and reads it.
    ReadKey {
        /// The key.
        key: Name,
        /// Under this guard.
        hold: u64,
        /// Whether the key checks tokens.
        fenced: bool,
    },
    /// Adds one to the value that was read, without a look at the guard.
    WriteKey {
        /// The key.
        key: Name,
        /// Under this guard.
        hold: u64,
        /// The value that was read.
        read: u64,
        /// Whether the key checks tokens.
        fenced: bool,
    },
    /// Adds one to a fenced key so many times, each time under a lock of its own.
    CountInKey {
        /// The key.
        key: Name,
        /// The lock.
        name: Name,
        /// The TTL.
        ttl: Duration,
        /// How often.
        times: u64,
    },
    /// Works on everything at once, and watches it, until [`Command::Unwatch`].
    Work(Box<Work>),
    /// Ends all that the worker watches.
    Unwatch,
    /// Tells what its process uses.
    Vitals,
    /// Changes what is between the worker and its store, if it was started with [`Worker::start_behind_faults`].
    Link(Trouble),
    /// Adds one to a key so many times, by writes on condition of the version that was read.
    Increment {
        /// The key.
        key: Name,
        /// How often.
        times: u64,
    },
}

/// What becomes of messages between a worker and its store, from now on.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Trouble {
    /// All faults end.
    Heal,
    /// One half of the `nth` operation is lost.
    Lose {
        /// Which half.
        half: Half,
        /// Counted from one.
        nth: u64,
    },
    /// Nothing gets through, or everything again.
    Cut(bool),
    /// Replies take this long.
    Delay(Duration),
    /// Hints are lost, or heard again.
    Deaf(bool),
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums)]
pub enum Message {
    /// An operation begins: what is known of it if its worker is killed before it ends.
    Begun(Event),
    /// Something happened. It ends the operation that began at the same moment.
    Event(Event),
    /// A command has ended.
    Answer {
        /// The number of the request.
        number: u64,
        /// How it ended.
        answer: Answer,
    },
}

/// What a process uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs)]
pub struct Vitals {
    /// Bytes of memory that are resident.
    pub resident: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// Tasks of the runtime that have not ended.
    pub tasks: u64,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Answer {
    /// Something was granted, registered or resumed, with this token.
    Granted(FencingToken),
    /// What a guard said.
    Held(bool),
    /// The guard is released.
    Released,
    /// It is done.
    Done,
    /// The text by which a detached lock is resumed.
    Detached(String),
    /// The moments of the steps that were worked under a guard before it was lost, in nanoseconds of the clock.
    Worked(Vec<u64>),
    /// What was read.
    Value(u64),
    /// The write was accepted.
    Written,
    /// How many writes were acknowledged.
    Counted(u64),
    /// What the process uses.
    Vitals(Vitals),
    /// It failed.
    Failed {
        /// The kind of the error.
        kind: String,
        /// Its text.
        message: String,
    },
}

/// Runs as a worker until standard input ends.
pub(crate) fn main(backend: &Arc<dyn Backend>, url: &str) -> ExitCode {
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(serve(backend, url)).map_err(|error| error.to_string()));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the worker failed: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(backend: &Arc<dyn Backend>, url: &str) -> Result<()> {
    let name = std::env::var(NAME).unwrap_or_else(|_| format!("worker-{}", std::process::id()));
    let history = History::streaming(Clock::System, |news| {
        say(&match news {
            News::Begun(event) => Message::Begun(event.clone()),
            News::Done(event) => Message::Event(event.clone()),
        });
    });
    let (stores, faults) = if std::env::var_os(FAULTY).is_some() {
        // Its server may just have been struck.
        let stores = loop {
            match backend.connect_all(url).await {
                Err(error) if error.is_retryable() => tokio::time::sleep(Duration::from_millis(100)).await,
                opened => break opened?,
            }
        };
        Faulty::over_all(stores)
    } else {
        (backend.connect_all(url).await?, Arc::default())
    };
    let mut builder = Coordinator::builder(stores.claims).owner(&name);
    if let Some(values) = stores.values {
        builder = builder.values(values);
    }
    if let Some(jobs) = stores.jobs {
        builder = builder.jobs(jobs);
    }
    let coordinator = backend.configure(builder).build()?;
    let program = Arc::new(Program::new(Client::new(coordinator, history.client(name)), faults));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Request { number, command } = serde_json::from_str(&line)
            .map_err(|error| Error::new(ErrorKind::InvalidInput, "this is no command").with_source(error))?;
        let program = program.clone();
        tokio::spawn(async move {
            let answer = program.obey(number, command).await.unwrap_or_else(|error| Answer::Failed {
                kind: format!("{:?}", error.kind()),
                message: error.to_string(),
            });
            say(&Message::Answer { number, answer });
        });
    }
    Ok(())
}

/// Whoever reads this may be gone; then standard input ends too.
fn say(message: &Message) {
    if let Ok(mut line) = serde_json::to_vec(message) {
        line.push(b'\n');
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }
}
