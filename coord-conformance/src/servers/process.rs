//! A server process, which ends with this one.

use std::{
    ffi::OsString,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{folder::Owner, poll};

const SUPERVISE: &str = include_str!("supervise.sh");

/// What to run.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The server's folder, which is also its working directory; its output goes to `log` there.
    pub(super) folder: PathBuf,
    pub(super) command: Vec<OsString>,
    pub(super) owner: Option<Owner>,
    /// The signal that ends it at once and leaves nothing behind.
    pub(super) end: Signal,
}

/// A running server under its supervisor, a shell that ends the server when its standard input ends.
#[derive(Debug)]
pub(super) struct Process {
    plan: Plan,
    supervisor: Child,
    server: Pid,
    ended: Arc<AtomicBool>,
}

impl Process {
    /// Starts it. It may end again at once: see [`Process::has_ended`].
    pub(super) fn start(plan: Plan) -> io::Result<Self> {
        let mut supervisor = supervise(&plan.folder, plan.owner, plan.end, &plan.command)?;
        let mut output = BufReader::new(supervisor.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let server = line.trim().parse().map_err(|_| io::Error::other("the supervisor did not start"))?;
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        std::thread::Builder::new().name("server".into()).spawn(move || until_end(output, &end))?;
        Ok(Self { plan, supervisor, server: Pid::from_raw(server), ended })
    }

    /// Kills it if it runs, and starts it again in the same folder.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.kill()?;
        // The folder stays looked after.
        let guard = Guard::new(&self.plan.folder, self.plan.owner)?;
        // The supervisor has then waited for the server, whose process id is gone: Postgres asks whether it is.
        self.end("keep")?;
        *self = Self::start(self.plan.clone())?;
        guard.leave()
    }

    /// The server's process id.
    pub(super) fn id(&self) -> u32 {
        self.server.as_raw().unsigned_abs()
    }

    pub(super) fn folder(&self) -> &Path {
        &self.plan.folder
    }

    /// Whether the server and all that it started have ended.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// The end of its log, if it ended instead.
    pub(super) fn until_ready(&self, mut ready: impl FnMut() -> bool) -> io::Result<()> {
        poll(|| match (self.has_ended(), ready()) {
            (true, _) => Err(io::Error::other(format!("it ended: {}", self.last_words()))),
            (false, ready) => Ok(ready.then_some(())),
        })
    }

    /// The end of its log.
    pub(super) fn last_words(&self) -> String {
        let log = std::fs::read(self.plan.folder.join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(8)..].join("; ")
    }

    /// Stops the server and its children in their tracks, and waits until they stand still: a signal is taken when a thread next runs,
    /// and until then the others answer.
    pub(super) fn stop(&self) -> io::Result<()> {
        // The parent first, so that it starts no more.
        self.signal(Signal::SIGSTOP)?;
        poll(|| Ok((self.has_ended() || stands_still(self.server)).then_some(())))?;
        self.signal_children(Signal::SIGSTOP);
        let children = children(self.server);
        poll(|| Ok((self.has_ended() || children.iter().all(|child| stands_still(*child))).then_some(())))
    }

    /// Lets them go on.
    pub(super) fn resume(&self) -> io::Result<()> {
        self.signal_children(Signal::SIGCONT);
        self.signal(Signal::SIGCONT)
    }

    /// Kills the server, and waits until nothing of it runs.
    pub(super) fn kill(&self) -> io::Result<()> {
        if self.has_ended() {
            return Ok(());
        }
        self.signal_children(Signal::SIGCONT);
        self.signal(Signal::SIGKILL)?;
        poll(|| Ok(self.has_ended().then_some(())))
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        // The supervisor has not waited for it, so that the number cannot be that of another process.
        if self.has_ended() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the server has ended"));
        }
        Ok(kill(self.server, signal)?)
    }

    fn signal_children(&self, signal: Signal) {
        for child in children(self.server) {
            // One that ended meanwhile needs no signal.
            let _ = kill(child, signal);
        }
    }

    /// Ends the supervisor, and with it the server unless the word says that it has ended.
    fn end(&mut self, word: &str) -> io::Result<()> {
        if let Some(mut input) = self.supervisor.stdin.take() {
            writeln!(input, "{word}")?;
        }
        self.supervisor.wait().map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left to hear of an error.
        let _ = self.end(if self.has_ended() { "ended" } else { "" });
    }
}

/// Removes a folder when it is dropped, and when this process ends, however it ends.
#[derive(Debug)]
pub(super) struct Guard(Child);

impl Guard {
    pub(super) fn new(folder: &Path, owner: Option<Owner>) -> io::Result<Self> {
        let no_server: [&str; 0] = [];
        supervise(folder, owner, Signal::SIGKILL, &no_server).map(Self)
    }

    /// Leaves the folder to others.
    pub(super) fn leave(mut self) -> io::Result<()> {
        if let Some(mut input) = self.0.stdin.take() {
            writeln!(input, "keep")?;
        }
        self.0.wait().map(drop)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn supervise(
    folder: &Path,
    owner: Option<Owner>,
    end: Signal,
    server: &[impl AsRef<std::ffi::OsStr>],
) -> io::Result<Child> {
    let mut command = Command::new("sh");
    let signal = end.as_str().trim_start_matches("SIG");
    command.arg("-c").arg(SUPERVISE).arg("supervise").arg(folder).arg(signal).args(server);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    // What a terminal sends to the tests does not reach it: it ends when they have.
    command.process_group(0);
    if let Some(owner) = owner {
        owner.run(&mut command);
    }
    command.spawn()
}

/// Reads nothing until all writers have ended.
fn until_end(mut output: BufReader<ChildStdout>, ended: &AtomicBool) {
    let _ = output.read_to_end(&mut Vec::new());
    ended.store(true, Ordering::Release);
}

/// Whether every thread of a process is stopped or gone, as far as this host tells.
fn stands_still(process: Pid) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok()).all(|stat| {
        // The name before the state may contain anything.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        state.is_none_or(|state| "TtZX".contains(state))
    })
}

fn children(parent: Pid) -> Vec<Pid> {
    let listed = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).or_else(|_| {
        let output = Command::new("pgrep").arg("-P").arg(parent.to_string()).output()?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&output.stdout).into_owned())
    });
    let numbers = listed.unwrap_or_default();
    numbers.split_whitespace().filter_map(|number| number.parse().ok().map(Pid::from_raw)).collect()
}
