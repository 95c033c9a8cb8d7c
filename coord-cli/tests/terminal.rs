//! Commands that use the terminal, under a shell with job control and without.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use crate::support::Store;
use nix::pty::openpty;

/// Somebody at a terminal.
struct Person {
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    seen: String,
    session: Child,
}

impl Person {
    /// Runs `script`, the leader of a session of its own on a terminal of its own.
    fn runs(store: &Store, script: &str) -> Self {
        let terminal = openpty(None, None).unwrap();
        let mut session = store.shell("exec setsid --ctty sh -c \"$0\" <&0");
        let side = || Stdio::from(terminal.slave.try_clone().unwrap());
        session.arg(script).stdin(side()).stdout(side()).stderr(side());
        let session = session.env("PS1", "$ ").env("TERM", "dumb").spawn().unwrap();
        drop(terminal.slave);
        let keyboard = File::from(terminal.master);
        let mut master = keyboard.try_clone().unwrap();
        let (show, screen) = channel();
        // Reading fails when the last process of the session has left the terminal.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = master.read(&mut buffer) {
                let _ = show.send(buffer[..count].to_vec());
            }
        });
        Self { keyboard, screen, seen: String::new(), session }
    }

    /// A shell with job control.
    fn at_a_shell(store: &Store) -> Self {
        Self::runs(store, "exec bash --norc -i")
    }

    fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until this is on the screen, after what was seen before.
    fn sees(&mut self, text: &str) {
        while !self.seen.contains(text) {
            match self.screen.recv_timeout(Duration::from_secs(60)) {
                Ok(more) => self.seen += &String::from_utf8_lossy(&more),
                Err(_) => panic!("{text:?} does not appear after {:?}", self.seen),
            }
        }
        let end = self.seen.find(text).unwrap() + text.len();
        self.seen.drain(..end);
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        // The terminal hangs up on the rest when its master is closed.
        let _ = self.session.kill();
        let _ = self.session.wait();
    }
}

const READS: &str = "$COORD lock x -- sh -c 'echo ready; read l; echo got-$l'";

#[test]
fn a_command_reads_from_the_terminal_and_the_shell_gets_it_back() {
    let store = Store::new();
    let mut person = Person::at_a_shell(&store);
    person.types(&format!("{READS}\n"));
    person.sees("ready\r\n");
    person.types("hello\n");
    person.sees("got-hello");
    person.types("echo status-$?\n");
    person.sees("status-0");
}

#[test]
fn the_interrupt_key_reaches_the_command() {
    let store = Store::new();
    let mut person = Person::at_a_shell(&store);
    person.types("$COORD lock x -- sh -c 'echo ready; exec cat'\n");
    person.sees("ready\r\n");
    person.types("\x03");
    person.sees("$ ");
    person.types("echo status-$?\n");
    person.sees("status-130");
}

#[test]
fn the_stop_key_stops_the_job_and_it_goes_on_in_the_foreground() {
    let store = Store::new();
    let mut person = Person::at_a_shell(&store);
    person.types(&format!("{READS}\n"));
    person.sees("ready\r\n");
    person.types("\x1a");
    person.sees("Stopped");
    person.types("echo shell-$((1 + 1))\n");
    person.sees("shell-2");
    person.types("fg\n");
    person.types("hello\n");
    person.sees("got-hello");
    person.types("echo status-$?\n");
    person.sees("status-0");
}

#[test]
fn a_job_that_was_stopped_past_its_lease_does_not_go_on() {
    let store = Store::new();
    let mut person = Person::at_a_shell(&store);
    person.types("$COORD lock x --ttl 300ms -- sh -c 'echo ready; read l; echo got-$l'\n");
    person.sees("ready\r\n");
    person.types("\x1a");
    person.sees("Stopped");
    // Granted when the lease of the stopped job has ended.
    person.types("$COORD lock x -- echo next-$((1 + 1))\n");
    person.sees("next-2");
    person.types("fg\n");
    person.sees("was lost");
    person.types("echo status-$?\n");
    person.sees("status-79");
    assert!(!person.seen.contains("got-"));
}

#[test]
fn a_background_job_that_reads_stops_until_it_is_in_the_foreground() {
    let store = Store::new();
    let mut person = Person::at_a_shell(&store);
    person.types(&format!("{READS} &\n"));
    person.sees("ready\r\n");
    person.types("until jobs | grep -i stopped; do :; done\n");
    person.sees("Stopped");
    person.types("fg\n");
    person.types("hello\n");
    person.sees("got-hello");
    person.types("echo status-$?\n");
    person.sees("status-0");
}

#[test]
fn in_a_pipeline_the_reader_keeps_the_terminal() {
    let store = Store::new();
    let mut person = Person::at_a_shell(&store);
    // As `… | less` does.
    person.types("$COORD lock x -- echo ready | { cat; read l < /dev/tty; echo got-$l; }\n");
    person.sees("ready\r\n");
    person.types("hello\n");
    person.sees("got-hello");
}

#[test]
fn without_a_shell_the_stop_key_does_nothing() {
    let store = Store::new();
    let mut person = Person::runs(&store, &format!("exec {READS}"));
    person.sees("ready\r\n");
    person.types("\x1a");
    person.types("hello\n");
    person.sees("got-hello");
}

#[test]
fn a_killed_command_leaves_the_terminal_as_it_was() {
    let store = Store::new();
    let mut person = Person::at_a_shell(&store);
    // The shell mends its own modes; this one does not.
    person.types(
        "sh -c '$COORD lock x -- sh -c \"stty -echo -icanon; kill -9 \\$\\$\"; echo status-$?; stty -a'\n",
    );
    person.sees("status-137");
    person.sees(" icanon");
    person.sees(" echo ");
}

/// The progress that stays on the screen. Before its end long lines are wrapped again.
fn over(progress: &str) -> String {
    format!("{progress}\x1b[?7h\r\n")
}

#[test]
fn a_worker_shows_how_far_it_is() {
    let store = Store::new();
    let mut person = Person::at_a_shell(&store);
    person.types("$COORD queue push q a b; $COORD queue work q --until-empty -- true\n");
    person.sees("q: 0 done, 0 failed, 0 lost, 1 running");
    person.sees(&over("q: 2 done, 0 failed, 0 lost, 0 running"));
    person.types("echo status-$?\n");
    person.sees("status-0");
}

#[test]
fn the_interrupt_key_lets_a_worker_finish() {
    let store = Store::new();
    let mut person = Person::at_a_shell(&store);
    let go = store.folder.path().join("go");
    let script = format!("echo ready; while [ ! -e {} ]; do sleep 0.01; done", go.display());
    person.types(&format!("$COORD queue push q a b; $COORD queue work q -- sh -c '{script}'\n"));
    person.sees("ready\r\n");
    person.types("\x03");
    person.sees("1 running, stopping");
    std::fs::write(&go, "").unwrap();
    person.sees(&over("q: 1 done, 0 failed, 0 lost, 0 running, stopping"));
    person.types("echo status-$?\n");
    person.sees("status-0");
}

#[test]
fn the_stop_key_stops_a_worker_and_its_commands() {
    let store = Store::new();
    let mut person = Person::at_a_shell(&store);
    let work = "$COORD queue work q --until-empty -- sh -c 'echo ready; sleep 0.5; echo over'";
    person.types(&format!("$COORD queue push q a; {work}\n"));
    person.sees("ready\r\n");
    person.types("\x1a");
    person.sees("Stopped");
    person.types("fg\n");
    person.sees("over\r\n");
    person.sees(&over("q: 1 done, 0 failed, 0 lost, 0 running"));
}

#[test]
fn a_command_of_a_worker_that_reads_from_the_terminal_has_failed() {
    let store = Store::new();
    let mut person = Person::at_a_shell(&store);
    let work = "$COORD queue work q --until-empty --attempts 1 -- sh -c 'read l < /dev/tty; echo got-$l'";
    person.types(&format!("$COORD queue push q a; {work}\n"));
    person.sees("wanted the terminal");
    person.sees(&over("q: 0 done, 1 failed, 0 lost, 0 running"));
    person.types("echo status-$?; $COORD queue stat q\n");
    person.sees("status-0");
    person.sees("0 ready  0 delayed  0 in flight  1 dead");
}
