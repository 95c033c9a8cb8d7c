//! Runs a command for one item of a queue, in a process group of its own, several at a time.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    pin::pin,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use coord_core::{Delivery, Name};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, ChildStdin, Command},
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    process::cannot_run,
    status::{self, Failure},
};

/// What is done for every item.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) queue: Name,
    pub(crate) command: Vec<OsString>,
    /// How long a command may take to end after SIGTERM when its delivery is lost.
    pub(crate) grace: Duration,
    /// How long an item waits after its first failed attempt; twice as long after each further one.
    pub(crate) retry_delay: Duration,
    pub(crate) groups: Groups,
}

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The command succeeded, and the item is removed.
    Acked,
    /// The command failed; the item comes again, or is dead.
    Nacked,
    /// The item was delivered again, or may be, whatever the command did.
    Lost,
    /// What the command did could not be said to the store, for this reason: the item may be delivered again.
    Unsettled(String),
    /// The command was ended, as it would have waited for the terminal for ever. As [`End::Nacked`].
    WantedTerminal,
}

/// How a command ended.
#[derive(Debug)]
enum Ended {
    Succeeded,
    Failed,
    WantedTerminal,
    /// Its delivery was lost before it ended.
    Lost,
}

impl Job {
    /// Runs the command for one item and settles the item. A command that does not run is an error; its item is given
    /// back.
    pub(crate) async fn run(self: Arc<Self>, delivery: Delivery) -> Result<End, Failure> {
        let (id, attempt) = (delivery.id(), delivery.attempt());
        let delivery = Arc::new(delivery);
        let ended = self.command(&delivery).await?;
        info!(queue = %self.queue, item = %id, attempt, ?ended, "a command ended");
        // The command is no longer among the groups, so nobody else has it.
        let Some(delivery) = Arc::into_inner(delivery) else { return Ok(End::Lost) };
        let delay = self.delay_after(attempt);
        let (settled, end) = match ended {
            Ended::Succeeded => (delivery.ack().await, End::Acked),
            Ended::Failed => (delivery.nack(delay).await, End::Nacked),
            Ended::WantedTerminal => (delivery.nack(delay).await, End::WantedTerminal),
            Ended::Lost => return Ok(End::Lost),
        };
        Ok(match settled {
            Ok(()) => end,
            Err(error) => End::Unsettled(format!("item {id}: {}", status::describe(&error))),
        })
    }

    fn delay_after(&self, attempt: u32) -> Duration {
        let factor = 2u32.saturating_pow(attempt.saturating_sub(1));
        self.retry_delay.saturating_mul(factor).min(Duration::from_secs(3600))
    }

    /// Runs the command to its end.
    async fn command(&self, delivery: &Arc<Delivery>) -> Result<Ended, Failure> {
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(Failure::usage("there is no command after `--`"));
        };
        // Before the command can stop.
        let mut changes = signal(SignalKind::child())?;
        let mut child = Command::new(program)
            .args(arguments)
            .env("COORD_ITEM_ID", delivery.id().to_string())
            .env("COORD_ATTEMPT", delivery.attempt().to_string())
            .env("COORD_FENCING_TOKEN", delivery.token().to_string())
            .env("COORD_NAME", self.queue.as_str())
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| cannot_run(program, &error))?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let group = Pid::from_raw(id.ok_or_else(|| io::Error::other("a command without a process id"))?);
        let _listed = self.groups.list(group, delivery.clone());
        let mut feeding = pin!(feed(child.stdin.take(), delivery.payload()));
        let (mut fed, mut lost) = (false, pin!(delivery.lost()));
        let why = loop {
            tokio::select! {
                biased;
                ended = child.wait() => {
                    return Ok(if ended?.success() { Ended::Succeeded } else { Ended::Failed });
                }
                () = &mut lost => break Ended::Lost,
                () = wants_terminal(group, &mut changes) => break Ended::WantedTerminal,
                () = &mut feeding, if !fed => fed = true,
            }
        };
        warn!(item = %delivery.id(), token = %delivery.token(), grace = ?self.grace, ?why, "ending the command");
        end(&mut child, group, self.grace).await?;
        Ok(why)
    }
}

/// Completes when the command was stopped because it reads from the terminal, or changes its mode. It never gets the
/// terminal, which several commands at a time could not share, so nobody would ever continue it. Cancel safe.
async fn wants_terminal(group: Pid, changes: &mut tokio::signal::unix::Signal) {
    let leader = rustix::process::Pid::from_raw(group.as_raw());
    // Only looks for a stop: the end of the command is for its own waiter to find.
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
    loop {
        let stopped = leader.and_then(|leader| waitid(WaitId::Pid(leader), options).ok().flatten());
        let by = stopped.and_then(|stopped| stopped.stopping_signal());
        if by.is_some_and(|by| [Signal::SIGTTIN as i32, Signal::SIGTTOU as i32].contains(&by)) {
            return;
        }
        changes.recv().await;
    }
}

/// Writes the payload and closes the pipe. A command need not read it.
async fn feed(pipe: Option<ChildStdin>, payload: &[u8]) {
    if let Some(mut pipe) = pipe
        && let Err(error) = pipe.write_all(payload).await
    {
        debug!(%error, "the command did not read its whole input");
    }
}

/// Ends the whole group: SIGTERM, SIGKILL after the grace.
async fn end(child: &mut Child, group: Pid, grace: Duration) -> io::Result<()> {
    send(group, Signal::SIGTERM);
    // A stopped process would not hear it.
    send(group, Signal::SIGCONT);
    let gone = async {
        child.wait().await?;
        // Its own children tell us nothing when they end.
        while killpg(group, None).is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    if let Ok(gone) = timeout(grace, gone).await {
        return gone;
    }
    warn!("the grace is over: killing the command");
    send(group, Signal::SIGKILL);
    child.wait().await.map(|_| ())
}

fn send(group: Pid, signal: Signal) {
    debug!(%group, %signal, "signalling a command");
    if let Err(error) = killpg(group, signal) {
        debug!(%error, %signal, "a command did not get a signal");
    }
}

/// The process groups of the commands that run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Groups(Arc<Mutex<BTreeMap<Pid, Arc<Delivery>>>>);

impl Groups {
    /// Sends all of them a signal. After a stop the clock is asked before a command goes on.
    pub(crate) fn signal(&self, signal: Signal) {
        for (group, delivery) in &*self.lock() {
            if signal != Signal::SIGCONT || delivery.is_held() {
                send(*group, signal);
            }
        }
    }

    fn list(&self, group: Pid, delivery: Arc<Delivery>) -> Listed<'_> {
        self.lock().insert(group, delivery);
        Listed { groups: self, group }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Pid, Arc<Delivery>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A group is in the list until this is dropped.
struct Listed<'a> {
    groups: &'a Groups,
    group: Pid,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.groups.lock().remove(&self.group);
    }
}
