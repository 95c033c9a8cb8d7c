//! Help, usage errors, the default store and completions.

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::support::{Store, bare, run};

const COMMANDS: [&str; 27] = [
    "lock",
    "elect",
    "leader",
    "inspect",
    "release",
    "register",
    "instances",
    "barrier",
    "queue",
    "queue push",
    "queue pop",
    "queue work",
    "queue stat",
    "queue dead",
    "queue purge",
    "config",
    "config get",
    "config put",
    "config delete",
    "config list",
    "config watch",
    "config history",
    "fence",
    "write",
    "read",
    "doctor",
    "completions",
];

#[test]
fn every_help_has_an_example() {
    for option in ["-h", "--help"] {
        let help = run(&mut bare(&[option]));
        assert_eq!(help.status, 0);
        for command in COMMANDS {
            let words: Vec<_> = command.split(' ').collect();
            assert!(help.stdout.contains(words[0]), "{command}");
            let help = run(&mut bare(&[&words[..], &[option]].concat()));
            assert_eq!(help.status, 0);
            let examples = help.stdout.split("Examples:\n").nth(1).unwrap_or_default();
            assert!(examples.contains(&format!("coord {command} ")), "{command} {option}: {}", help.stdout);
        }
        assert!(help.stdout.contains("Examples:\n"));
    }
    let help = run(&mut bare(&["lock", "--help"])).stdout;
    for status in ["2 ", "69 ", "70 ", "75 ", "76 ", "77 ", "79 ", "126 ", "127 "] {
        assert!(help.contains(&format!("\n  {status}")), "{status}");
    }
}

#[test]
fn the_help_shows_no_password() {
    // Nobody listens there.
    let url = "redis://me:secret@127.0.0.1:1";
    for arguments in
        [&["--help"][..], &["lock", "--help"], &["lock", "x", "--", "true"], &["-vvv", "leader", "x"]]
    {
        let outcome = run(bare(arguments).env("COORD_STORE", url));
        assert!(!format!("{outcome:?}").contains("secret"), "{outcome:?}");
    }
}

#[test]
fn usage_errors() {
    let store = Store::new();
    let long = "x".repeat(256);
    let cases: &[&[&str]] = &[
        &[],
        &["nonsense"],
        &["lock"],
        &["lock", "x"],
        &["lock", "x", "--"],
        &["lock", "x", "true"],
        &["lock", "", "--", "true"],
        &["lock", "a\nb", "--", "true"],
        &["lock", &long, "--", "true"],
        &["lock", "x", "--wait", "soon", "--", "true"],
        &["lock", "x", "--wait", "1s", "--no-wait", "--", "true"],
        &["lock", "x", "--permits", "1", "--", "true"],
        &["lock", "x", "--of", "1", "--", "true"],
        &["lock", "x", "--permits", "3", "--of", "2", "--", "true"],
        &["lock", "x", "--permits", "0", "--of", "2", "--", "true"],
        &["lock", "x", "--permits", "1", "--of", "2", "--shared", "--", "true"],
        &["lock", "x", "--ttl", "0s", "--", "true"],
        &["lock", "x", "--ttl", "1ms", "--", "true"],
        &["lock", "x", "--ttl", "10years", "--", "true"],
        &["lock", "x", "--ttl", "15", "--", "true"],
        &["lock", "x", "--namespace", "a/b", "--", "true"],
        &["lock", "x", "--namespace", "", "--", "true"],
        &["elect", "x", "--id", "", "--", "true"],
        &["elect", "x", "--priority", "many", "--", "true"],
        &["elect", "x", "--value", &"x".repeat(65537), "--", "true"],
        &["register", "web", ""],
        &["register", "web", "a", "--meta", "nothing"],
        &["barrier", "x"],
        &["barrier", "x", "--parties", "0"],
        &["barrier", "x", "--parties", "1025"],
        &["release", "x"],
        &["inspect", "x", "--kind", "queue"],
        &["queue"],
        &["queue", "push", "q", "a", "b", "--id", "6f0c8b8e-3f0e-4d4f-9d55-0d8f7c1a2b3c"],
        &["queue", "push", "q", "a", "--id", "mine"],
        &["queue", "push", "q", "a", "--file", "/dev/null"],
        &["queue", "push", "q", "a", "b", "--capacity", "1"],
        &["queue", "push", "q", "a", "--wait", "1s"],
        &["queue", "push", "q", "a", "--capacity", "9", "--wait", "1s", "--no-wait"],
        &["queue", "push", "q", "a", "--delay", "1year"],
        &["queue", "push", "q", "a", "--group", ""],
        &["queue", "push", "q", &"x".repeat(65537)],
        &["queue", "pop", "q", "--wait", "1s", "--no-wait"],
        &["queue", "work", "q"],
        &["queue", "work", "q", "--concurrency", "0", "--", "true"],
        &["queue", "work", "q", "--attempts", "0", "--", "true"],
        &["queue", "work", "q", "--visibility", "1ms", "--", "true"],
        &["queue", "dead", "q", "--all"],
        &["queue", "dead", "q", "--requeue"],
        &["queue", "dead", "q", "--drop", "mine"],
        &["queue", "dead", "q", "--drop", "--requeue", "--all"],
        &["config"],
        &["config", "get", ""],
        &["config", "put", "k", "v", "--file", "/dev/null"],
        &["config", "put", "k", "--file", "/nowhere/at/all"],
        &["config", "put", "k", "--file", "/dev/zero"],
        &["config", "put", "k", "v", "--if-absent", "--if-version", "1"],
        &["config", "put", "k", "v", "--if-absent", "--token", "1"],
        &["config", "put", "k", "v", "--if-version", "new"],
        &["config", "put", "k", "v", "--token", "0"],
        &["config", "put", "k", &"x".repeat(65537)],
        &["config", "watch"],
        &["config", "watch", "k", "--prefix", "k"],
        &["config", "history", "k", "--limit", "0"],
        &["fence", "k"],
        &["fence", "k", "--token", "9007199254740992"],
        &["write", "k", "v"],
        &["write", "k", "v", "--token", "mine"],
        &["read"],
        &["completions", "cmd"],
        &["--store", "redis://me:secret@host/x", "leader", "x"],
        &["--store", "consul://me:secret@host", "leader", "x"],
        &["--store", "memory:", "leader", "x"],
        &["--store", "coord.db", "leader", "x"],
        &["--store", "sqlite:", "leader", "x"],
        &["--store", "", "leader", "x"],
    ];
    for case in cases {
        let outcome = store.run(case);
        assert_eq!((outcome.status, outcome.stdout.as_str()), (2, ""), "{case:?}: {outcome:?}");
        assert!(!outcome.stderr.is_empty() && !outcome.stderr.contains("secret"), "{case:?}: {outcome:?}");
    }
    let unknown = store.run(&["--store", "consul://me:secret@host", "leader", "x"]).stderr;
    assert!(unknown.contains("consul") && unknown.contains("sqlite:"), "{unknown}");
    assert_eq!(run(store.coord(&["leader", "x"]).env("COORD_LOG", "a=b=c")).status, 2);
}

#[test]
fn the_default_store_is_the_users_own() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("deep/state");
    let coord =
        |arguments: &[&str]| run(bare(arguments).env("HOME", home.path()).env("XDG_STATE_HOME", &state));
    assert_eq!(coord(&["lock", "x", "--", "true"]).status, 0);
    assert!(state.join("coord/coord.db").exists());
    assert_eq!(fs::metadata(state.join("coord")).unwrap().permissions().mode() & 0o777, 0o700);
    let without =
        run(bare(&["lock", "x", "--", "true"]).env("HOME", home.path()).env_remove("XDG_STATE_HOME"));
    assert_eq!(without.status, 0);
    assert!(home.path().join(".local/state/coord/coord.db").exists());
}

#[test]
fn logs_go_to_standard_error() {
    let store = Store::new();
    let outcome = store.run(&["-vv", "lock", "x", "--", "echo", "out"]);
    assert_eq!(outcome.stdout, "out\n");
    assert!(outcome.stderr.contains("token"), "{outcome:?}");
    let outcome = run(store.coord(&["lock", "x", "--", "true"]).env("COORD_LOG", "coord=debug"));
    assert!(outcome.stderr.contains("the command runs"), "{outcome:?}");
}

#[test]
fn completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&mut bare(&["completions", shell]));
        assert_eq!(script.status, 0);
        assert!(script.stdout.contains("no-wait") && script.stdout.contains("barrier"), "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let store = Store::new();
    let outcome = run(&mut store.shell("{ $COORD completions bash; echo $? >&2; } | true"));
    assert!(["141\n", "0\n"].contains(&outcome.stderr.as_str()), "{outcome:?}");
}
