//! Runs the real binary on stores of its own.

#![allow(dead_code, unreachable_pub, reason = "every test file uses another part")]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::ExitStatusExt as _,
    process::{Child, ChildStdout, Command, Output, Stdio},
    thread::sleep,
    time::Duration,
};

use coord_core::clock::Clock;
pub use nix::sys::signal::Signal;
use nix::{sys::signal::kill, unistd::Pid};
use serde_json::Value;
use sqlx::{Connection as _, SqliteConnection};
use tokio::runtime::Runtime;

const COORD: &str = env!("CARGO_BIN_EXE_coord");

/// However slow the machine is, nothing takes longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// A store. Its folder goes away with it.
pub struct Store {
    pub folder: tempfile::TempDir,
    pub url: String,
}

impl Store {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("coord.db").display());
        Self { folder, url }
    }

    /// The store at this URL.
    pub fn at(url: impl Into<String>) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), url: url.into() }
    }

    /// The command with these arguments on this store.
    pub fn coord(&self, arguments: &[&str]) -> Command {
        let mut command = bare(arguments);
        command.env("COORD_STORE", &self.url);
        command
    }

    /// A shell that uses this store; `$COORD` is the binary.
    pub fn shell(&self, script: &str) -> Command {
        let mut command = program("sh", &["-c", script]);
        command.env("COORD_STORE", &self.url).env("COORD", COORD);
        command
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        run(&mut self.coord(arguments))
    }

    /// Starts it.
    pub fn start(&self, arguments: &[&str]) -> Running {
        Running::start(&mut self.coord(arguments))
    }

    /// The objects that it prints.
    pub fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let outcome = self.run(arguments);
        assert_eq!(outcome.status, 0, "{outcome:?}");
        outcome.json()
    }

    /// Waits until this many wait in line for a name.
    pub fn until_waiters(&self, name: &str, count: usize) {
        until(&format!("{count} waiters for {name}"), || {
            let line = self.json(&["inspect", name, "--json"]);
            line.iter().filter(|party| party["state"] == "waiter").count() == count
        });
    }
}

/// The command with these arguments and no store.
pub fn bare(arguments: &[&str]) -> Command {
    program(COORD, arguments)
}

fn program(program: &str, arguments: &[&str]) -> Command {
    // Whoever runs the tests may ignore signals, as scripts do for what they run in the background.
    let mut command = Command::new("env");
    command
        .arg("--default-signal")
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for key in
        ["COORD_STORE", "COORD_NAMESPACE", "COORD_LOG", "RUST_LOG", "COORD_FENCING_TOKEN", "COORD_NAME"]
    {
        command.env_remove(key);
    }
    command
}

/// Keeps everybody else from writing to a store, until it is dropped.
pub struct Blocked {
    runtime: Runtime,
    connection: Option<SqliteConnection>,
}

impl Blocked {
    pub fn new(store: &Store) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let url = format!("sqlite:{}", store.folder.path().join("coord.db").display());
        let connection = runtime.block_on(async {
            let mut connection = SqliteConnection::connect(&url).await.unwrap();
            sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
            connection
        });
        Self { runtime, connection: Some(connection) }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.runtime.block_on(connection.close()).unwrap();
        }
    }
}

/// What a command that ended has left.
#[derive(Debug)]
pub struct Outcome {
    /// The exit status, as a shell counts it.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub fn json(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let status = output.status;
        Self {
            status: status.code().unwrap_or_else(|| 1000 + status.signal().unwrap()),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

pub fn run(command: &mut Command) -> Outcome {
    command.output().unwrap().into()
}

/// A command that runs. It is killed when the test drops it.
pub struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        // A command that reads its input ends with the test at the latest, also if nothing is left to end it.
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next line of standard output; empty at its end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn json(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    pub fn close_input(&mut self) {
        self.child.stdin.take();
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Stops it outside of its transactions: inside of one it would keep the others from writing.
    pub fn stop(&self, store: &Store) {
        let _blocked = Blocked::new(store);
        self.signal(Signal::SIGSTOP);
        let pid = self.pid().to_string();
        until("the stop of a command", || state(&pid) == Some('T'));
    }

    /// Waits until it ends.
    pub fn end(mut self) -> Outcome {
        let mut ended = None;
        until("the end of a command", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.lines.read_to_string(&mut stdout).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let status = ended.unwrap();
        Outcome { status: status.code().unwrap_or_else(|| 1000 + status.signal().unwrap()), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks until it is so.
pub fn until(what: &str, mut look: impl FnMut() -> bool) {
    let start = Clock::System.now();
    while !look() {
        assert!(Clock::System.now().since(start) < DEADLINE, "never happened: {what}");
        sleep(Duration::from_millis(10));
    }
}

/// Whether a process is there and no zombie.
pub fn is_alive(pid: &str) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}

/// The state of a process, as the system tells it; `None` if it is not there.
fn state(pid: &str) -> Option<char> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    status.rsplit(')').next()?.trim_start().chars().next()
}
