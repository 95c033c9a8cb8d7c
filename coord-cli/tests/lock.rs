//! `coord lock` as a shell sees it.

use std::fs;

use crate::support::{Running, Signal, Store, is_alive, run, until};

const SHOW: &str = "echo $COORD_FENCING_TOKEN $COORD_NAME";

fn token(line: &str) -> u64 {
    line.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn the_command_sees_its_token_and_name() {
    let store = Store::new();
    let first = store.run(&["lock", "a name", "--", "sh", "-c", SHOW]);
    assert_eq!(first.status, 0, "{first:?}");
    let second = store.run(&["lock", "a name", "--", "sh", "-c", SHOW]);
    assert!(token(&second.stdout) > token(&first.stdout), "tokens grow: {first:?} {second:?}");
    assert!(second.stdout.ends_with(" a name\n"), "{second:?}");
    assert_eq!(first.stderr, "", "nothing to say");
}

#[test]
fn a_nested_command_sees_its_own_token() {
    let store = Store::new();
    let script = format!("{SHOW}; $COORD lock inner -- sh -c '{SHOW}'; {SHOW}");
    let mut shell = store.shell("exec $COORD lock outer -- sh -c \"$0\"");
    let outcome = run(shell.arg(&script).env("COORD_FENCING_TOKEN", "7").env("COORD_NAME", "inherited"));
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{outcome:?}");
    assert!(
        lines[0].ends_with(" outer") && lines[1].ends_with(" inner") && lines[2] == lines[0],
        "{lines:?}"
    );
    assert_ne!(token(lines[0]), 7);
    assert!(token(lines[1]) > token(lines[0]));
}

#[test]
fn the_exit_status_is_the_commands() {
    let store = Store::new();
    for (script, status) in
        [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$", 143)]
    {
        assert_eq!(store.run(&["lock", "x", "--", "sh", "-c", script]).status, status, "{script}");
    }
    // A real-time signal has no name.
    assert_eq!(store.run(&["lock", "x", "--", "sh", "-c", "kill -40 $$"]).status, 168);
}

#[test]
fn a_command_that_cannot_be_run() {
    let store = Store::new();
    let missing = store.run(&["lock", "x", "--", "there-is-no-such-command"]);
    assert_eq!(missing.status, 127, "{missing:?}");
    assert!(missing.stderr.contains("there-is-no-such-command"), "{missing:?}");
    let folder = store.folder.path().to_str().unwrap();
    assert_eq!(store.run(&["lock", "x", "--", folder]).status, 126);
    assert_eq!(store.json(&["inspect", "x", "--json"]).len(), 0, "the lock was released");
}

#[test]
fn two_commands_exclude_each_other() {
    let store = Store::new();
    let file = store.folder.path().join("count");
    fs::write(&file, "0").unwrap();
    // Without the lock, many of these increments would be lost.
    let script = format!("n=$(cat {0}); sleep 0.01; echo $((n + 1)) > {0}", file.display());
    let start = |_| store.start(&["lock", "count", "--", "sh", "-c", &script]);
    let running: Vec<_> = (0..12).map(start).collect();
    for command in running {
        assert_eq!(command.end().status, 0);
    }
    assert_eq!(fs::read_to_string(file).unwrap().trim(), "12");
}

#[test]
fn not_granted_in_time() {
    let store = Store::new();
    let mut holder = store.start(&["lock", "x", "--", "sh", "-c", "echo held; cat"]);
    assert_eq!(holder.line(), "held");
    for arguments in [&["--no-wait"][..], &["--wait", "300ms"], &["--wait", "0s"], &["--shared", "--no-wait"]]
    {
        let arguments = [&["lock", "x"], arguments, &["--", "echo", "ran"]].concat();
        let outcome = store.run(&arguments);
        assert_eq!((outcome.status, outcome.stdout.as_str()), (75, ""), "{arguments:?} {outcome:?}");
        assert!(outcome.stderr.contains("\"x\""), "{outcome:?}");
    }
    // Another namespace is another lock.
    assert_eq!(store.run(&["lock", "x", "--namespace", "other", "--no-wait", "--", "true"]).status, 0);
    assert_eq!(
        run(store.coord(&["lock", "x", "--no-wait", "--", "true"]).env("COORD_NAMESPACE", "third")).status,
        0
    );
    let failure = store.run(&["lock", "x", "--no-wait", "--json", "--", "true"]);
    let failure: serde_json::Value = serde_json::from_str(&failure.stderr).unwrap();
    assert_eq!(failure["status"], 75);
    assert!(failure["error"].is_string());
    holder.signal(Signal::SIGTERM);
    assert_eq!(holder.end().status, 143);
    assert_eq!(store.run(&["lock", "x", "--no-wait", "--", "true"]).status, 0, "released when it had ended");
}

#[test]
fn readers_share_and_permits_count() {
    let store = Store::new();
    let hold = |arguments: &[&str]| {
        let command = ["sh", "-c", "echo held; cat"];
        let mut holder = store.start(&[&["lock", "x"], arguments, &["--"], &command].concat());
        assert_eq!(holder.line(), "held");
        holder
    };
    let readers = [hold(&["--shared"]), hold(&["--shared"])];
    assert_eq!(store.run(&["lock", "x", "--no-wait", "--", "true"]).status, 75, "no writer beside readers");
    let _takers = [hold(&["--permits", "2", "--of", "3"]), hold(&["--permits", "1", "--of", "3"])];
    let fourth = store.run(&["lock", "x", "--permits", "1", "--of", "3", "--no-wait", "--", "true"]);
    assert_eq!(fourth.status, 75);
    for reader in readers {
        reader.signal(Signal::SIGTERM);
        assert_eq!(reader.end().status, 143);
    }
    assert_eq!(
        store.run(&["lock", "x", "--no-wait", "--", "true"]).status,
        0,
        "a semaphore is another thing"
    );
}

/// The holder ignores SIGTERM, somebody releases its lock by force, the grace passes.
#[test]
fn a_lost_lock_ends_the_command() {
    let store = Store::new();
    let script = "trap 'echo terminated' TERM; echo $$; while :; do sleep 0.05; done";
    let mut holder = store.start(&["lock", "x", "--grace", "500ms", "--", "sh", "-c", script]);
    let pid = holder.line();
    let released = store.json(&["release", "x", "--force", "--json"]);
    assert_eq!(released.len(), 1);
    assert_eq!(released[0]["kind"], "lock");
    let evicted = released[0]["evicted"].as_array().unwrap();
    assert_eq!(evicted.len(), 1);
    assert!(released[0]["fence"].as_u64().unwrap() > evicted[0]["token"].as_u64().unwrap());
    let lost = holder.end();
    assert_eq!(lost.status, 79, "{lost:?}");
    assert_eq!(lost.stdout, "terminated\n", "first it was asked to end");
    assert!(lost.stderr.contains("lost"), "{lost:?}");
    assert!(!is_alive(&pid));
}

#[test]
fn a_lost_lock_shows_even_if_the_command_ends_well() {
    let store = Store::new();
    // The whole group is ended, not only its first process.
    let script = "trap 'exit 0' TERM; sleep 1000 & echo $!; while :; do sleep 0.05; done";
    let mut holder = store.start(&["lock", "x", "--", "sh", "-c", script]);
    let grandchild = holder.line();
    assert_eq!(store.run(&["release", "x", "--force"]).status, 0);
    let lost = holder.end();
    assert_eq!(lost.status, 79, "{lost:?}");
    assert!(!is_alive(&grandchild));
}

/// coord itself is stopped for longer than its TTL: the command must not go on when it is continued.
#[test]
fn a_holder_that_was_stopped_past_its_lease_has_lost() {
    let store = Store::new();
    let mut holder =
        store.start(&["lock", "x", "--ttl", "500ms", "--", "sh", "-c", "echo held; cat; echo went on"]);
    assert_eq!(holder.line(), "held");
    holder.stop(&store);
    // Granted only after the lease of the stopped holder has ended.
    assert_eq!(store.run(&["lock", "x", "--", "true"]).status, 0);
    holder.signal(Signal::SIGCONT);
    let lost = holder.end();
    assert_eq!((lost.status, lost.stdout.as_str()), (79, ""), "{lost:?}");
}

#[test]
fn signals_pass_through() {
    let store = Store::new();
    let script = "for s in INT HUP QUIT USR1 USR2 WINCH; do trap \"echo $s\" $s; done; trap 'echo TERM; exit 3' TERM; \
                  echo ready; while :; do sleep 0.02; done";
    let mut holder = store.start(&["lock", "x", "--", "sh", "-c", script]);
    assert_eq!(holder.line(), "ready");
    for signal in
        [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGWINCH]
    {
        holder.signal(signal);
        assert_eq!(holder.line(), signal.as_str()["SIG".len()..]);
    }
    holder.signal(Signal::SIGTERM);
    assert_eq!(holder.line(), "TERM");
    assert_eq!(holder.end().status, 3, "its own status, as it chose");
}

#[test]
fn ignored_signals_stay_ignored() {
    let store = Store::new();
    let script = "trap '' HUP; exec $COORD lock x -- sh -c 'echo ready; kill -HUP $$; read line; echo end'";
    let mut holder = Running::start(&mut store.shell(script));
    assert_eq!(holder.line(), "ready");
    holder.signal(Signal::SIGHUP);
    holder.close_input();
    assert_eq!(holder.line(), "end");
    assert_eq!(holder.end().status, 0);
}

#[test]
fn told_to_stop_while_it_waits_it_leaves_the_line() {
    let store = Store::new();
    let mut holder = store.start(&["lock", "x", "--", "sh", "-c", "echo held; cat"]);
    assert_eq!(holder.line(), "held");
    for (signal, status) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)] {
        let waiter = store.start(&["lock", "x", "--", "echo", "ran"]);
        store.until_waiters("x", 1);
        waiter.signal(signal);
        let stopped = waiter.end();
        assert_eq!((stopped.status, stopped.stdout.as_str()), (status, ""), "{stopped:?}");
        store.until_waiters("x", 0);
    }
}

#[test]
fn a_killed_holder_blocks_for_its_ttl_only() {
    let store = Store::new();
    let mut holder = store.start(&["lock", "x", "--ttl", "1s", "--", "sh", "-c", "echo $$; exec cat"]);
    let child = holder.line();
    holder.signal(Signal::SIGKILL);
    assert_eq!(store.run(&["lock", "x", "--wait", "50s", "--", "true"]).status, 0);
    // Nobody could end its command: that is what the token is for.
    assert!(is_alive(&child));
    holder.close_input();
    until("the end of the orphan", || !is_alive(&child));
}

#[test]
fn inspect_shows_holder_and_waiters() {
    let store = Store::new();
    let mut holder = store.start(&["lock", "x", "--", "sh", "-c", "echo $COORD_FENCING_TOKEN; cat"]);
    let held = holder.line();
    let _first = store.start(&["lock", "x", "--", "true"]);
    store.until_waiters("x", 1);
    let _second = store.start(&["lock", "x", "--", "true"]);
    store.until_waiters("x", 2);
    let line = store.json(&["inspect", "x", "--json"]);
    assert_eq!(line.len(), 3);
    for party in &line {
        let keys: Vec<_> = party.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = vec![
            "name",
            "kind",
            "state",
            "position",
            "token",
            "owner",
            "weight",
            "priority",
            "since",
            "expires_in_ms",
            "value",
        ];
        expected.sort_unstable();
        assert_eq!(keys, expected);
        assert_eq!((&party["name"], &party["kind"]), (&"x".into(), &"lock".into()));
    }
    assert_eq!(line[0]["state"], "holder");
    assert_eq!(line[0]["token"].to_string(), held);
    assert!(line[0]["owner"].as_str().unwrap().ends_with(&format!(":{}", holder.pid())));
    assert!(line[0]["position"].is_null());
    assert_eq!((&line[1]["position"], &line[2]["position"]), (&1.into(), &2.into()));
    assert!(line[1]["token"].as_u64() < line[2]["token"].as_u64());
    let text = store.run(&["inspect", "x"]).stdout;
    assert!(text.contains(&held) && text.contains("waiter 2"), "{text}");
    assert!(store.run(&["inspect", "nobody"]).stdout.contains("nobody holds"));
    assert_eq!(store.json(&["inspect", "x", "--kind", "election", "--json"]).len(), 0);
}

#[test]
fn release_takes_force() {
    let store = Store::new();
    assert_eq!(store.run(&["release", "x", "--force"]).status, 1, "nobody holds it");
    let mut lock = store.start(&["lock", "x", "--", "sh", "-c", "echo held; cat"]);
    let mut election = store.start(&["elect", "x", "--", "sh", "-c", "echo leads; cat"]);
    assert_eq!((lock.line(), election.line()), ("held".into(), "leads".into()));
    let unforced = store.run(&["release", "x"]);
    assert_eq!(unforced.status, 2);
    assert!(unforced.stderr.contains("--force"));
    let ambiguous = store.run(&["release", "x", "--force"]);
    assert_eq!(ambiguous.status, 2, "{ambiguous:?}");
    assert!(ambiguous.stderr.contains("lock, election"), "{ambiguous:?}");
    let released = store.run(&["release", "x", "--force", "--kind", "election"]);
    assert_eq!(released.status, 0);
    assert!(released.stdout.contains("fence ") && released.stdout.contains("evicted"), "{released:?}");
    assert_eq!(election.end().status, 79);
    assert_eq!(store.run(&["lock", "x", "--no-wait", "--", "true"]).status, 75, "the lock is still held");
}
