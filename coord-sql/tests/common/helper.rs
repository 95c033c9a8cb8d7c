//! Other processes: the test program itself, run again as a helper.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use coord_core::{
    clock::Clock,
    spi::{Claim, Claims, Grant, LineId, Standing, Wakeups},
};
use coord_sql::Store;

use super::hint;

/// Begins the lines that are meant for the parent; the test harness prints others.
const MARK: &str = "helper: ";

/// The name of a test in this module.
pub(crate) fn test_in(module: &str, name: &str) -> String {
    // Without the program, whose name comes first.
    module.split_once("::").map_or_else(|| name.to_owned(), |(_, module)| format!("{module}::{name}"))
}

/// A process that runs the ignored test `helper_process` of the same module. It is killed at the end.
pub(crate) struct Helper {
    pub(crate) child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Helper {
    /// With `COORD_TEST_ROLE`, and `COORD_TEST_FILE` or the like.
    pub(crate) fn start(module: &str, role: &str, file: &std::path::Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([&test_in(module, "helper_process"), "--exact", "--ignored", "--nocapture"])
            .env("COORD_TEST_ROLE", role)
            .env("COORD_TEST_FILE", file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    pub(crate) fn tell(&mut self, text: &str) {
        writeln!(self.input, "{text}").unwrap();
    }

    pub(crate) fn hear(&mut self) -> String {
        loop {
            let mut text = String::new();
            assert!(self.output.read_line(&mut text).unwrap() > 0, "the helper ended");
            // The harness may have begun the line.
            if let Some(at) = text.find(MARK) {
                return text[at + MARK.len()..].trim().to_owned();
            }
        }
    }

    /// Stops or continues the process.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, signal).unwrap();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a helper tells its parent.
pub(crate) fn say(text: impl std::fmt::Display) {
    println!("{MARK}{text}");
}

/// What a helper is told by its parent.
pub(crate) fn listen() -> String {
    let mut text = String::new();
    std::io::stdin().read_line(&mut text).unwrap();
    text.trim().to_owned()
}

/// The moment, which all processes of the host read alike.
pub(crate) fn nanoseconds() -> u128 {
    Clock::System.now().since_start().as_nanos()
}

/// The wait of the engine: look, sleep until a hint or until the line can change by itself, look again.
pub(crate) async fn acquire(store: &Store, claim: &Claim) -> Grant {
    let mut wakeups = store.wakeups(&claim.line, Some(claim.id));
    loop {
        match store.claim(claim).await.unwrap() {
            Standing::Granted(grant) => return grant,
            Standing::Waiting { look_again_in, .. } => {
                let _ = tokio::time::timeout(look_again_in.min(claim.ttl / 3), wakeups.next()).await;
            }
            Standing::Refused(by) => panic!("{by:?}"),
        }
    }
}

/// Waits until as many claims are in the line.
pub(crate) async fn until_in_line(store: &Store, line: &LineId, wakeups: &mut Wakeups, count: usize) {
    while store.line(line).await.unwrap().entries.len() != count {
        hint(wakeups).await;
    }
}
