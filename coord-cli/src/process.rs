//! Runs a command in a process group of its own while something is held.

use std::{
    ffi::OsString, io, os::unix::process::CommandExt as _, pin::pin, process::Command, time::Duration,
};

use coord_core::{FencingToken, Guard, Leadership, Name};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use rustix::process::{WaitOptions, WaitStatus, waitpid};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    signals::{Signals, ends},
    status::{self, Failure},
    terminal::{self, Terminal},
};

/// What a command may run under.
pub(crate) trait Held {
    fn token(&self) -> FencingToken;
    fn is_held(&self) -> bool;
    async fn lost(&self);
}

impl Held for Guard {
    fn token(&self) -> FencingToken {
        self.token()
    }
    fn is_held(&self) -> bool {
        self.is_held()
    }
    async fn lost(&self) {
        self.lost().await;
    }
}

impl Held for Leadership {
    fn token(&self) -> FencingToken {
        self.term()
    }
    fn is_held(&self) -> bool {
        self.is_leader()
    }
    async fn lost(&self) {
        self.lost().await;
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// Its exit status, or 128 and the signal's number.
    pub(crate) status: u8,
    /// What it ran under was lost before it ended.
    pub(crate) lost: bool,
    /// Somebody wants coord to end: it was told to, or the command was interrupted at the terminal.
    pub(crate) stop: bool,
}

/// Runs `command` to its end while `held` is held. On loss its process group gets SIGTERM, and SIGKILL after `grace`.
/// Signals are passed on to the group.
pub(crate) async fn run(
    command: &[OsString],
    name: &Name,
    held: &impl Held,
    grace: Duration,
    signals: &mut Signals,
) -> Result<Ended, Failure> {
    let mut child = Child::start(command, name, held.token())?;
    let mut lost = pin!(held.lost());
    let mut told_to_stop = false;
    let status = loop {
        tokio::select! {
            biased;
            change = child.change() => match change? {
                Change::Ended(status) => break status,
                Change::Stopped(by) => child.stopped(by),
            },
            () = &mut lost => {
                warn!(%name, token = %held.token(), ?grace, "lost: ending the command");
                break child.end(grace, signals).await?;
            }
            caught = signals.next() => {
                told_to_stop |= ends(caught);
                // After a stop the clock is asked before the command goes on.
                if caught != Signal::SIGCONT || held.is_held() {
                    child.pass_on(caught);
                }
            }
        }
    };
    let interrupted = child.terminal.is_lent() && [Some(2), Some(3)].contains(&status.terminating_signal());
    if child.terminal.take_back() && status.signaled() {
        child.terminal.restore_mode();
    }
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, number) => status::of_signal(number.unwrap_or_default()),
    };
    info!(%name, status = code, "the command ended");
    Ok(Ended { status: code, lost: !held.is_held(), stop: told_to_stop || interrupted })
}

enum Change {
    Ended(WaitStatus),
    Stopped(Signal),
}

struct Child {
    group: Pid,
    children: tokio::signal::unix::Signal,
    terminal: Terminal,
    is_stopped: bool,
}

impl Child {
    fn start(command: &[OsString], name: &Name, token: FencingToken) -> Result<Self, Failure> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(Failure::usage("there is no command after `--`"));
        };
        // Before the command can end.
        let children = signal(SignalKind::child())?;
        let child = Command::new(program)
            .args(arguments)
            .env("COORD_FENCING_TOKEN", token.to_string())
            .env("COORD_NAME", name.as_str())
            .process_group(0)
            .spawn()
            .map_err(|error| cannot_run(program, &error))?;
        debug!(%name, %token, pid = child.id(), "the command runs");
        let group = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        let mut terminal = Terminal::open();
        terminal.offer(group);
        Ok(Self { group, children, terminal, is_stopped: false })
    }

    /// The next change of the command's state. Cancel safe.
    async fn change(&mut self) -> io::Result<Change> {
        let pid = rustix::process::Pid::from_raw(self.group.as_raw());
        loop {
            if let Some((_, status)) = waitpid(pid, WaitOptions::NOHANG | WaitOptions::UNTRACED)? {
                if !status.stopped() {
                    return Ok(Change::Ended(status));
                }
                let by = status.stopping_signal().and_then(|number| Signal::try_from(number).ok());
                return Ok(Change::Stopped(by.unwrap_or(Signal::SIGSTOP)));
            }
            self.children.recv().await;
        }
    }

    fn signal(&self, signal: Signal) {
        debug!(group = %self.group, %signal, "signalling the command");
        if let Err(error) = killpg(self.group, signal) {
            debug!(%error, %signal, "the command did not get a signal");
        }
    }

    fn resume(&mut self) {
        self.is_stopped = false;
        self.signal(Signal::SIGCONT);
    }

    /// A signal to coord is one to the command.
    fn pass_on(&mut self, caught: Signal) {
        match caught {
            Signal::SIGTSTP => {
                if terminal::is_orphaned() {
                    return;
                }
                if !self.is_stopped {
                    self.signal(caught);
                    self.is_stopped = true;
                }
                // Otherwise the news that the command stopped, heard after coord goes on, would stop coord again.
                self.terminal.take_back();
                terminal::stop_oneself();
            }
            Signal::SIGCONT => {
                self.terminal.offer(self.group);
                self.resume();
            }
            _ => self.signal(caught),
        }
    }

    /// The command was stopped: by the terminal, or by somebody's signal.
    fn stopped(&mut self, by: Signal) {
        self.is_stopped = true;
        let wants_terminal = matches!(by, Signal::SIGTTIN | Signal::SIGTTOU);
        if wants_terminal && self.terminal.is_ours() {
            self.terminal.lend(self.group);
            return self.resume();
        }
        if wants_terminal && self.terminal.foreground() == Some(self.group) {
            // It asked just before it got it.
            return self.resume();
        }
        if self.terminal.is_lent() || wants_terminal {
            // The shell that started coord sees one job: coord stops too, and the lease is not renewed meanwhile.
            if terminal::is_orphaned() {
                // No shell could continue it, so the stop key does nothing. Without the terminal it stays stopped.
                if self.terminal.is_lent() {
                    self.resume();
                }
                return;
            }
            self.terminal.take_back();
            terminal::stop_job();
        }
    }

    /// Ends the whole group: SIGTERM, SIGKILL after the grace.
    async fn end(&mut self, grace: Duration, signals: &mut Signals) -> io::Result<WaitStatus> {
        self.signal(Signal::SIGTERM);
        // A stopped process would not hear it.
        self.resume();
        let mut status = None;
        let ended = timeout(grace, async {
            loop {
                tokio::select! {
                    biased;
                    change = self.change(), if status.is_none() => match change? {
                        Change::Ended(by) => status = Some(by),
                        Change::Stopped(_) => self.resume(),
                    },
                    caught = signals.next() => self.pass_on(caught),
                    // Its own children tell us nothing when they end.
                    () = sleep(Duration::from_millis(20)), if status.is_some() => {}
                }
                if status.is_some() && killpg(self.group, None).is_err() {
                    return io::Result::Ok(());
                }
            }
        })
        .await;
        match ended {
            Ok(ended) => ended?,
            Err(_) => {
                warn!("the grace is over: killing the command");
                self.signal(Signal::SIGKILL);
            }
        }
        loop {
            match status {
                Some(status) => return Ok(status),
                None => {
                    if let Change::Ended(by) = self.change().await? {
                        status = Some(by);
                    }
                }
            }
        }
    }
}

/// Why a command does not run.
pub(crate) fn cannot_run(program: &OsString, error: &io::Error) -> Failure {
    let status = match error.kind() {
        io::ErrorKind::NotFound => status::COMMAND_NOT_FOUND,
        _ => status::CANNOT_RUN,
    };
    Failure::new(status, format!("cannot run {}: {error}", program.to_string_lossy()))
}
