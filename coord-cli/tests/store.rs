//! Stores that cannot be opened, and stores that stop answering.

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::support::{Blocked, Signal, Store};

#[test]
fn a_store_that_cannot_be_opened() {
    let store = Store::new();
    let folder = store.folder.path();
    let url = |name: &str| format!("sqlite:{}", folder.join(name).display());
    let status = |url: &str| {
        let outcome = store.run(&["--store", url, "lock", "x", "--", "echo", "ran"]);
        assert_eq!(outcome.stdout, "", "{outcome:?}");
        assert!(outcome.stderr.starts_with("coord: "), "{outcome:?}");
        outcome.status
    };
    fs::create_dir(folder.join("a-folder")).unwrap();
    fs::write(folder.join("rubbish"), "this is no database, and it is long enough to be one".repeat(100))
        .unwrap();
    assert_eq!(status(&url("a-folder")), 69);
    assert_eq!(status(&url("missing/coord.db")), 69);
    assert_eq!(status(&url("rubbish")), 70);
    // The owner root may read everything.
    if !rustix::process::geteuid().is_root() {
        fs::write(folder.join("locked"), "").unwrap();
        fs::set_permissions(folder.join("locked"), fs::Permissions::from_mode(0o000)).unwrap();
        assert_eq!(status(&url("locked")), 69);
    }
}

#[test]
fn a_store_that_does_not_answer() {
    let store = Store::new();
    assert_eq!(store.run(&["lock", "x", "--", "true"]).status, 0);
    let blocked = Blocked::new(&store);
    let outcome = store.run(&["lock", "x", "--", "echo", "ran"]);
    assert_eq!((outcome.status, outcome.stdout.as_str()), (69, ""), "{outcome:?}");
    drop(blocked);
    assert_eq!(store.run(&["lock", "x", "--", "true"]).status, 0);
}

#[test]
fn a_store_that_stops_answering_while_the_command_runs() {
    let store = Store::new();
    let mut holder =
        store.start(&["lock", "x", "--ttl", "1s", "--", "sh", "-c", "echo held; cat; echo went on"]);
    assert_eq!(holder.line(), "held");
    let _blocked = Blocked::new(&store);
    let lost = holder.end();
    assert_eq!((lost.status, lost.stdout.as_str()), (79, ""), "{lost:?}");
}

#[test]
fn a_release_that_fails_is_a_warning() {
    let store = Store::new();
    let mut holder =
        store.start(&["lock", "x", "--ttl", "1h", "--", "sh", "-c", "echo held; read l; exit 5"]);
    assert_eq!(holder.line(), "held");
    let _blocked = Blocked::new(&store);
    holder.close_input();
    let ended = holder.end();
    assert_eq!(ended.status, 5, "{ended:?}");
    assert!(ended.stderr.contains("warning: \"x\"") && ended.stderr.contains("lease"), "{ended:?}");
}

#[test]
fn one_that_waits_for_a_silent_store_can_be_told_to_stop() {
    let store = Store::new();
    let mut holder = store.start(&["lock", "x", "--ttl", "1h", "--", "sh", "-c", "echo held; cat"]);
    assert_eq!(holder.line(), "held");
    let waiter = store.start(&["lock", "x", "--ttl", "1h", "--", "echo", "ran"]);
    store.until_waiters("x", 1);
    let blocked = Blocked::new(&store);
    waiter.signal(Signal::SIGTERM);
    let stopped = waiter.end();
    assert_eq!((stopped.status, stopped.stdout.as_str()), (143, ""), "{stopped:?}");
    drop(blocked);
}

#[test]
fn doctor_says_where_and_what_the_file_is() {
    let store = Store::new();
    let path = store.folder.path().join("coord.db");
    let seen = store.json(&["doctor", "--json"]).remove(0);
    assert_eq!((&seen["backend"], &seen["weaknesses"]), (&"sqlite".into(), &serde_json::json!([])));
    assert_eq!(seen["guarantees"]["scope"], "host");
    assert_eq!(seen["guarantees"]["durability"], "power");
    assert_eq!(seen["facts"]["path"], path.to_str().unwrap());
    assert_eq!(seen["facts"]["journal_mode"], "wal");
    for known in ["version", "schema", "synchronous", "boot", "clock"] {
        assert!(seen["facts"][known].as_str().is_some_and(|value| !value.is_empty()), "{known}: {seen}");
    }
    let text = store.run(&["doctor"]);
    assert_eq!((text.status, text.stderr.as_str()), (0, ""), "{text:?}");
    assert!(text.stdout.contains(path.to_str().unwrap()) && text.stdout.contains("wal"), "{text:?}");
    assert_eq!(store.run(&["doctor", "--store", "sqlite:/nowhere/at/all.db"]).status, 69);
}
