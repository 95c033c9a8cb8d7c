//! The program that a case starts, stops and kills: the test binary itself, run again.
//!
//! It speaks JSON, one object a line. On standard input come [`Request`]s, which it works on side by side; on standard
//! output go [`Message`]s: answers, and every event of its history at once, so that what a killed worker had done is
//! known.

mod handle;
pub mod resource;

use std::{
    collections::HashMap,
    io::Write,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use coord_core::{
    CampaignOptions, Coordinator, Error, ErrorKind, FencingToken, Guard, Instance, Leadership, Lock,
    LockOptions, Name, RegisterOptions, Registration, Registry, Result, clock::Clock,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};

pub use self::handle::{Reply, Worker};
use self::resource::Resource;
use crate::{
    Backend, Client,
    client::SAMPLE,
    history::{Event, Held, History, Op, Recorder},
};

/// The environment variable that makes a test binary a worker; its value is the URL of the store.
pub const WORKER: &str = "COORD_WORKER";
/// The environment variable with the worker's name in the history.
const NAME: &str = "COORD_WORKER_NAME";

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
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums)]
pub enum Message {
    /// Something happened.
    Event(Event),
    /// A command has ended.
    Answer {
        /// The number of the request.
        number: u64,
        /// How it ended.
        answer: Answer,
    },
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
    /// It failed.
    Failed {
        /// The kind of the error.
        kind: String,
        /// Its text.
        message: String,
    },
}

enum Grant {
    Lock(Held<Guard>),
    Leadership(Held<Leadership>),
    Plain(Guard),
    Registration(Registration),
}

/// The state of a worker.
struct Program {
    client: Client,
    grants: Mutex<HashMap<u64, Arc<Grant>>>,
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
    let history = History::streaming(Clock::System, |event| say(&Message::Event(event.clone())));
    let claims = backend.connect(url).await?;
    let coordinator = backend.configure(Coordinator::builder(claims).owner(&name)).build()?;
    let client = Client::new(coordinator, history.client(name));
    let program = Arc::new(Program { client, grants: Mutex::default() });
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

impl Program {
    async fn obey(&self, number: u64, command: Command) -> Result<Answer> {
        let client = &self.client;
        match command {
            Command::Lock { name, ttl } => {
                let held = client.lock(&name, &LockOptions::default().with_ttl(ttl)).await?;
                Ok(self.keep(number, held.token(), Grant::Lock(held)))
            }
            Command::Lead { name, ttl } => {
                let held = client.lead(&name, &CampaignOptions::default().with_ttl(ttl)).await?;
                Ok(self.keep(number, held.token(), Grant::Leadership(held)))
            }
            Command::Register { service, id, ttl } => {
                let options = RegisterOptions::default().with_ttl(ttl);
                let registration = client.register(&service, Instance::new(id, "here"), &options).await?;
                Ok(self.keep(number, registration.token(), Grant::Registration(registration)))
            }
            Command::Resume { text } => {
                let guard = client.resume(&text.parse()?).await?;
                Ok(self.keep(number, guard.token(), Grant::Plain(guard)))
            }
            Command::IsHeld { hold } => Ok(Answer::Held(match &*self.grant(hold)? {
                Grant::Lock(held) => held.is_held(),
                Grant::Leadership(held) => held.is_held(),
                Grant::Plain(guard) => guard.is_held(),
                Grant::Registration(registration) => registration.is_listed(),
            })),
            Command::Run { hold } => {
                let grant = self.grant(hold)?;
                let guard = grant.guard()?;
                let mut steps = Vec::new();
                let work = async {
                    loop {
                        tokio::time::sleep(SAMPLE).await;
                        steps.push(client.recorder().history().stamp().at);
                    }
                };
                let _lost: Result<()> = guard.run(work).await;
                Ok(Answer::Worked(steps))
            }
            Command::Release { hold } => {
                match self.take(hold)? {
                    Grant::Lock(held) => held.release().await?,
                    Grant::Leadership(held) => held.release().await?,
                    Grant::Plain(guard) => guard.release().await?,
                    Grant::Registration(registration) => registration.deregister().await?,
                }
                Ok(Answer::Released)
            }
            Command::Detach { hold } => match self.take(hold)? {
                Grant::Lock(held) => Ok(Answer::Detached(held.into_inner().detach().await?.to_string())),
                _ => Err(Error::new(ErrorKind::InvalidInput, "only locks can be detached")),
            },
            Command::Read { resource, hold, fenced } => {
                let (resource, token) = (Resource::new(resource, fenced), self.grant(hold)?.token()?);
                blocking(move || resource.read(token)).await.map(Answer::Value)
            }
            Command::Write { resource, hold, read, fenced } => {
                let token = self.grant(hold)?.token()?;
                write(client.recorder(), &Resource::new(resource, fenced), token, read).await?;
                Ok(Answer::Written)
            }
            Command::Count { resource, name, ttl, times } => {
                self.count(&Resource::new(resource, true), &name, ttl, times).await.map(Answer::Counted)
            }
        }
    }

    /// A round that lost its lease or was fenced out is done again.
    async fn count(&self, resource: &Resource, name: &Name, ttl: Duration, times: u64) -> Result<u64> {
        let mut done = 0;
        while done < times {
            let held = self.client.lock(name, &LockOptions::default().with_ttl(ttl)).await?;
            let (token, reading) = (held.token(), resource.clone());
            let outcome = async {
                let read = blocking(move || reading.read(token)).await?;
                held.is_held();
                write(self.client.recorder(), resource, token, read).await
            };
            match outcome.await {
                Ok(()) => done += 1,
                Err(error) if error.kind() == ErrorKind::Fenced => {}
                Err(error) => return Err(error),
            }
            match held.release().await {
                Err(error) if !error.is_lost() => return Err(error),
                _ => {}
            }
        }
        Ok(done)
    }

    fn keep(&self, number: u64, token: FencingToken, grant: Grant) -> Answer {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(grant));
        Answer::Granted(token)
    }

    fn grant(&self, hold: u64) -> Result<Arc<Grant>> {
        let grant = self.grants.lock().unwrap_or_else(PoisonError::into_inner).get(&hold).cloned();
        grant.ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such grant"))
    }

    fn take(&self, hold: u64) -> Result<Grant> {
        let grant = self.grants.lock().unwrap_or_else(PoisonError::into_inner).remove(&hold);
        grant
            .and_then(Arc::into_inner)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such grant, or it is in use"))
    }
}

impl Grant {
    fn guard(&self) -> Result<&Guard> {
        match self {
            Self::Lock(held) => Ok(held.guard()),
            Self::Plain(guard) => Ok(guard),
            _ => Err(Error::new(ErrorKind::InvalidInput, "this grant is no lock")),
        }
    }

    fn token(&self) -> Result<FencingToken> {
        self.guard().map(Guard::token)
    }
}

async fn write(recorder: &Recorder, resource: &Resource, token: FencingToken, read: u64) -> Result<()> {
    let wrote = read + 1;
    let op = |_: Option<&()>| Op::Write { token: token.get(), read, wrote };
    let (writing, object) = (resource.clone(), resource.object());
    recorder.call(&object, blocking(move || writing.write(token, read, wrote)), op).await
}

/// Waiting for a file's lock must not keep the renewals waiting.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|stopped| Err(Error::new(ErrorKind::Internal, "a task stopped").with_source(stopped)))
}
