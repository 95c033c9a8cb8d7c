//! A case's handle of a worker process.

use std::{
    collections::HashMap,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use coord_core::{FencingToken, clock::Moment};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdout},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{Answer, BACKEND, Command, FAULTY, Message, NAME, Request, WORKER};
use crate::{
    Ctx, Failure, Verdict,
    history::{Event, History, Op},
};

/// A worker process. It is killed when this is dropped.
#[derive(Debug)]
pub struct Worker {
    name: String,
    child: Child,
    requests: mpsc::UnboundedSender<Request>,
    answers: Arc<Mutex<Answers>>,
    next: AtomicU64,
    history: History,
    /// Ends when all that it said is heard.
    listener: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Answers {
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    ended: bool,
}

impl Worker {
    /// Starts a worker on the case's store. Its events become events of the case.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(ctx: &Ctx) -> Verdict<Self> {
        Self::launch(ctx, ctx.url(), false)
    }

    /// As [`Worker::start`], with faults between the worker and the store that [`Command::Link`] turns on and off, and
    /// with the store at this URL.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_behind_faults(ctx: &Ctx, url: Option<String>) -> Verdict<Self> {
        Self::launch(ctx, url, true)
    }

    fn launch(ctx: &Ctx, url: Option<String>, faulty: bool) -> Verdict<Self> {
        let url = url.ok_or_else(|| Failure::new("the store has no URL"))?;
        let history = ctx.history().clone();
        let name = format!("worker-{}", history.number());
        let program = std::env::current_exe().map_err(|error| Failure::new(error.to_string()))?;
        let mut command = tokio::process::Command::new(program);
        if faulty {
            command.env(FAULTY, "1");
        }
        let mut child = command
            .env(WORKER, url)
            .env(NAME, &name)
            .env(BACKEND, ctx.backend().name())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Failure::new(format!("a worker did not start: {error}")))?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::new("a worker has no pipes"));
        };
        let (requests, mut outbox) = mpsc::unbounded_channel::<Request>();
        tokio::spawn(async move {
            while let Some(request) = outbox.recv().await {
                let Ok(mut line) = serde_json::to_vec(&request) else { return };
                line.push(b'\n');
                // If it was killed, its answers end too.
                if stdin.write_all(&line).await.is_err() {
                    return;
                }
            }
        });
        let answers = Arc::new(Mutex::new(Answers::default()));
        let listener = tokio::spawn(listen(stdout, answers.clone(), history.clone()));
        Ok(Self { name, child, requests, answers, next: AtomicU64::new(1), history, listener })
    }

    /// The worker's name in the history and in the store.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a command now. A stopped worker finds it when it goes on.
    pub fn ask(&self, command: Command) -> Reply {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if !answers.ended {
            answers.waiting.insert(number, sender);
        }
        drop(answers);
        // If it was killed, the answer never comes, and the reply says so.
        let _ = self.requests.send(Request { number, command });
        Reply { worker: self.name.clone(), number, answer }
    }

    /// Kills it at once, without a chance to release anything; the moment at which it was certainly dead. What it had
    /// done is in the history then, and what it was doing too, with an unknown outcome.
    ///
    /// # Errors
    /// If it cannot be killed.
    pub async fn kill(&mut self) -> Verdict<Moment> {
        self.child.kill().await.map_err(|error| Failure::new(format!("{} lives: {error}", self.name)))?;
        let died = Moment::from_start(std::time::Duration::from_nanos(self.history.stamp().at));
        self.history.client(self.name.clone()).note("process", Op::Died);
        (&mut self.listener).await?;
        Ok(died)
    }

    /// Ends it, with all that it said heard. It has nothing to do any more, so that this is no death for the history.
    ///
    /// # Errors
    /// If it cannot be ended.
    pub async fn dismiss(&mut self) -> Verdict {
        self.child.kill().await.map_err(|error| Failure::new(format!("{} lives: {error}", self.name)))?;
        (&mut self.listener).await?;
        Ok(())
    }

    /// Stops it in its tracks.
    ///
    /// # Errors
    /// If it is gone.
    pub fn stop(&self) -> Verdict {
        self.signal(true)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// If it is gone.
    pub fn go_on(&self) -> Verdict {
        self.signal(false)
    }

    #[cfg(unix)]
    fn signal(&self, stop: bool) -> Verdict {
        use nix::{
            sys::signal::{Signal, kill},
            unistd::Pid,
        };
        let signal = if stop { Signal::SIGSTOP } else { Signal::SIGCONT };
        // While the handle has not waited for its end, the number is not given to another process.
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        let id = id.ok_or_else(|| Failure::new(format!("{} is gone", self.name)))?;
        kill(Pid::from_raw(id), signal).map_err(|error| Failure::new(format!("{signal} failed: {error}")))
    }

    #[cfg(not(unix))]
    fn signal(&self, _stop: bool) -> Verdict {
        Err(Failure::new("processes cannot be stopped here"))
    }
}

/// Reads what the worker says until it ends.
async fn listen(stdout: ChildStdout, answers: Arc<Mutex<Answers>>, history: History) {
    let (mut lines, mut begun) = (BufReader::new(stdout).lines(), HashMap::new());
    while let Ok(Some(line)) = lines.next_line().await {
        // A worker that was killed may leave half a line.
        match serde_json::from_str(&line) {
            Ok(Message::Begun(event)) => _ = begun.insert(event.from, event),
            Ok(Message::Event(event)) => {
                begun.remove(&event.from);
                history.record(event);
            }
            Ok(Message::Answer { number, answer }) => {
                let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(waiting) = answers.waiting.remove(&number) {
                    let _ = waiting.send(answer);
                }
            }
            Err(_) => {}
        }
    }
    for event in begun.into_values() {
        history.record(Event { to: history.stamp(), ..event });
    }
    let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
    answers.ended = true;
    answers.waiting.clear();
}

/// An answer to come.
#[derive(Debug)]
pub struct Reply {
    worker: String,
    number: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Reply {
    /// The number by which later commands name what this one was granted.
    #[must_use]
    pub fn hold(&self) -> u64 {
        self.number
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// If the worker ended before.
    pub async fn answer(&mut self) -> Verdict<Answer> {
        let ended = |_| Failure::new(format!("{} ended before it answered", self.worker));
        (&mut self.answer).await.map_err(ended)
    }

    /// Waits for a grant.
    ///
    /// # Errors
    /// If the worker ended before, or answers something else.
    pub async fn granted(&mut self) -> Verdict<FencingToken> {
        match self.answer().await? {
            Answer::Granted(token) => Ok(token),
            other => Err(Failure::new(format!("{} was to be granted something: {other:?}", self.worker))),
        }
    }
}
