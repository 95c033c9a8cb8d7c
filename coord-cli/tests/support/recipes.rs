//! Every family of commands, between processes.

use coord_conformance::servers::{Test, Unavailable};
use serde_json::{Value, json};

use crate::{
    shared,
    support::{Outcome, Running, Signal, Store, run},
};

const HOLD: &str = "echo $COORD_FENCING_TOKEN; exec cat";

/// All of them, for the `main` of a test.
pub(crate) const ALL: &[Test] = &[
    ("locks_exclude_and_hand_over", locks_exclude_and_hand_over),
    ("readers_share_and_permits_count", readers_share_and_permits_count),
    ("a_killed_leader_is_followed_by_the_next", a_killed_leader_is_followed_by_the_next),
    ("instances_come_and_go", instances_come_and_go),
    ("three_processes_meet_at_a_barrier", three_processes_meet_at_a_barrier),
    ("items_are_pushed_popped_worked_and_buried", items_are_pushed_popped_worked_and_buried),
    ("values_are_put_under_conditions", values_are_put_under_conditions),
    ("a_watch_sees_changes", a_watch_sees_changes),
    ("a_stale_token_is_refused", a_stale_token_is_refused),
];

fn number(text: &str) -> u64 {
    text.trim_end().parse().unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

/// The number that a command which ends well prints.
fn version(outcome: &Outcome) -> u64 {
    assert_eq!(outcome.status, 0, "{outcome:?}");
    number(&outcome.stdout)
}

pub(crate) fn hold(store: &Store, arguments: &[&str]) -> (Running, u64) {
    let mut holder = store.start(&[arguments, &["--", "sh", "-c", HOLD]].concat());
    let token = number(&holder.line());
    (holder, token)
}

pub(crate) fn end(running: Running) {
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end().status, 143);
}

fn locks_exclude_and_hand_over() -> Result<(), Unavailable> {
    let (_server, store) = shared("lock")?;
    assert_eq!(store.run(&["lock", "x", "--", "sh", "-c", "exit 7"]).status, 7, "the command's own");
    let (holder, first) = hold(&store, &["lock", "x"]);
    for give_up in [&["--no-wait"][..], &["--wait", "200ms"]] {
        let refused = store.run(&[&["lock", "x"], give_up, &["--", "echo", "ran"]].concat());
        assert_eq!((refused.status, refused.stdout.as_str()), (75, ""), "{refused:?}");
    }
    let mut waiter = store.start(&["lock", "x", "--", "sh", "-c", HOLD]);
    store.until_waiters("x", 1);
    end(holder);
    let second = number(&waiter.line());
    assert!(second > first, "{second} after {first}");
    // By force: its command is ended.
    let released = store.json(&["release", "x", "--force", "--json"]).remove(0);
    assert_eq!(released["evicted"][0]["token"], second);
    assert!(released["fence"].as_u64() > Some(second));
    assert_eq!(waiter.end().status, 79);
    // Killed: its lease ends.
    let (killed, _) = hold(&store, &["lock", "x", "--ttl", "1s"]);
    killed.signal(Signal::SIGKILL);
    assert_eq!(store.run(&["lock", "x", "--", "true"]).status, 0);
    assert_eq!(store.json(&["inspect", "x", "--json"]).len(), 0);
    Ok(())
}

fn readers_share_and_permits_count() -> Result<(), Unavailable> {
    let (_server, store) = shared("permits")?;
    let readers = [hold(&store, &["lock", "x", "--shared"]), hold(&store, &["lock", "x", "--shared"])];
    assert_eq!(store.run(&["lock", "x", "--no-wait", "--", "true"]).status, 75, "no writer beside readers");
    let _taker = hold(&store, &["lock", "x", "--permits", "2", "--of", "3"]);
    let take =
        |count| store.run(&["lock", "x", "--permits", count, "--of", "3", "--no-wait", "--", "true"]).status;
    assert_eq!((take("2"), take("1")), (75, 0));
    for (reader, _) in readers {
        end(reader);
    }
    assert_eq!(store.run(&["lock", "x", "--no-wait", "--", "true"]).status, 0);
    Ok(())
}

fn a_killed_leader_is_followed_by_the_next() -> Result<(), Unavailable> {
    let (_server, store) = shared("elect")?;
    assert_eq!(store.run(&["leader", "x"]).status, 1, "nobody leads");
    let mut watch = store.start(&["leader", "x", "--watch", "--json"]);
    assert_eq!(watch.json()["event"], "vacant");
    let (first, term) = hold(&store, &["elect", "x", "--id", "first", "--value", "10.0.0.1", "--ttl", "2s"]);
    let event = watch.json();
    assert_eq!((&event["event"], &event["id"]), (&"elected".into(), &"first".into()));
    let mut second = store.start(&["elect", "x", "--id", "second", "--", "sh", "-c", HOLD]);
    store.until_waiters("x", 1);
    let leader = store.json(&["leader", "x", "--json"]).remove(0);
    assert_eq!(
        (&leader["id"], &leader["value"], &leader["term"]),
        (&"first".into(), &"10.0.0.1".into(), &term.into())
    );
    first.signal(Signal::SIGKILL);
    assert!(number(&second.line()) > term);
    while watch.json()["id"] != "second" {}
    end(second);
    assert_eq!(store.run(&["leader", "x"]).status, 1, "it resigned");
    Ok(())
}

fn instances_come_and_go() -> Result<(), Unavailable> {
    let (_server, store) = shared("registry")?;
    let mut watch = store.start(&["instances", "web", "--watch", "--json"]);
    let arguments = ["register", "web", "web-1", "--address", "10.0.0.7:80", "--meta", "zone=b", "--json"];
    let mut instance = store.start(&arguments);
    let registered = instance.json();
    let event = watch.json();
    // The watch may have begun after it came.
    assert!(["joined", "listed"].contains(&event["event"].as_str().unwrap()), "{event}");
    assert_eq!(event["id"], "web-1");
    assert_eq!(event["token"], registered["token"]);
    let listed = store.json(&["instances", "web", "--json"]);
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0]["address"], &listed[0]["metadata"]),
        (&"10.0.0.7:80".into(), &json!({ "zone": "b" }))
    );
    instance.signal(Signal::SIGTERM);
    assert_eq!(instance.end().status, 0);
    let event = watch.json();
    assert_eq!((&event["event"], &event["id"]), (&"left".into(), &"web-1".into()));
    assert_eq!(store.json(&["instances", "web", "--json"]).len(), 0);
    Ok(())
}

fn three_processes_meet_at_a_barrier() -> Result<(), Unavailable> {
    let (_server, store) = shared("barrier")?;
    let arguments = ["barrier", "start", "--parties", "3"];
    let missing = store.run(&[&arguments[..], &["--wait", "200ms"]].concat());
    assert_eq!(missing.status, 75, "{missing:?}");
    let parties: Vec<_> = (0..3).map(|_| store.start(&[&arguments[..], &["--json"]].concat())).collect();
    let mut places: Vec<_> = parties
        .into_iter()
        .map(|party| {
            let passed = party.end();
            assert_eq!(passed.status, 0, "{passed:?}");
            passed.json()[0]["index"].as_u64().unwrap()
        })
        .collect();
    places.sort_unstable();
    assert_eq!(places, [0, 1, 2]);
    Ok(())
}

fn items_are_pushed_popped_worked_and_buried() -> Result<(), Unavailable> {
    let (_server, store) = shared("queue")?;
    let pop = || store.run(&["queue", "pop", "q", "--no-wait"]);
    assert_eq!(pop().status, 75);
    assert_eq!(store.run(&["queue", "push", "q", "one", "bad", "two"]).stdout.lines().count(), 3);
    assert_eq!(store.run(&["queue", "push", "q", "urgent", "--priority", "1"]).status, 0);
    let full = store.run(&["queue", "push", "q", "x", "--capacity", "4", "--no-wait"]);
    assert_eq!(full.status, 75, "{full:?}");
    assert_eq!(pop().stdout, "urgent");
    assert_eq!(pop().stdout, "one");
    let script = "read -r item; echo \"$item $COORD_ATTEMPT\"; test \"$item\" != bad";
    let work = ["queue", "work", "q", "--until-empty", "--attempts", "1", "--", "sh", "-c"];
    let push = store.run(&["queue", "stat", "q"]);
    assert_eq!(push.stdout, "q  2 ready  0 delayed  0 in flight  0 dead\n");
    let worked = run(store.coord(&work).arg(format!("{{ cat; echo; }} | {{ {script}; }}")));
    assert_eq!(worked.stdout, "bad 1\ntwo 1\n", "{worked:?}");
    let dead = store.json(&["queue", "dead", "q", "--json"]);
    assert_eq!((dead.len(), &dead[0]["value"], &dead[0]["attempts"]), (1, &"bad".into(), &1.into()));
    assert_eq!(store.run(&["queue", "dead", "q", "--requeue", "--all"]).stdout, "requeued 1\n");
    // Who waits is woken.
    assert_eq!(pop().stdout, "bad");
    let mut waiting = store.start(&["queue", "pop", "q", "--json"]);
    assert_eq!(store.run(&["queue", "push", "q", "late", "--delay", "100ms"]).status, 0);
    assert_eq!(waiting.json()["value"], "late");
    assert_eq!(waiting.end().status, 0);
    assert_eq!(store.run(&["queue", "push", "q", "a", "b"]).status, 0);
    assert_eq!(store.run(&["queue", "purge", "q"]).stdout, "purged 2\n");
    Ok(())
}

fn values_are_put_under_conditions() -> Result<(), Unavailable> {
    let (_server, store) = shared("config")?;
    assert_eq!(store.run(&["config", "get", "k"]).status, 1);
    let first = version(&store.run(&["config", "put", "k", "one", "--if-absent"])).to_string();
    let refused = store.run(&["config", "put", "k", "two", "--if-absent"]);
    assert_eq!((refused.status, refused.stdout.as_str()), (76, ""), "{refused:?}");
    let second = version(&store.run(&["config", "put", "k", "two", "--if-version", &first])).to_string();
    for late in [&["config", "put", "k", "three"][..], &["config", "delete", "k"]] {
        let refused = store.run(&[late, &["--if-version", &first]].concat());
        assert_eq!(refused.status, 76, "{refused:?}");
        assert!(refused.stderr.contains(&first) && refused.stderr.contains(&second), "{refused:?}");
    }
    assert_eq!(store.run(&["config", "get", "k"]).stdout, "two");
    assert_eq!(store.run(&["config", "delete", "k", "--if-version", &second]).status, 0);
    version(&store.run(&["config", "put", "k", "three"]));
    let history = store.json(&["config", "history", "k", "--json"]);
    let states: Vec<_> = history.iter().map(|state| state["value"].as_str()).collect();
    assert_eq!(states, [Some("three"), None, Some("two"), Some("one")]);
    version(&store.run(&["config", "put", "other", "1"]));
    let listed = store.json(&["config", "list", "--json"]);
    let keys: Vec<_> = listed.iter().map(|entry| entry["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["k", "other"]);
    Ok(())
}

fn a_watch_sees_changes() -> Result<(), Unavailable> {
    let (_server, store) = shared("watch")?;
    version(&store.run(&["config", "put", "web/a", "1"]));
    let mut watch = store.start(&["config", "watch", "--prefix", "web/", "--json"]);
    let mut expect = |event: &str, key: &str, value: Value| {
        let seen = watch.json();
        assert_eq!((&seen["event"], &seen["key"], &seen["value"]), (&event.into(), &key.into(), &value));
    };
    expect("listed", "web/a", "1".into());
    version(&store.run(&["config", "put", "db", "9"]));
    version(&store.run(&["config", "put", "web/b", "2"]));
    expect("put", "web/b", "2".into());
    assert_eq!(store.run(&["config", "delete", "web/a"]).status, 0);
    expect("deleted", "web/a", Value::Null);
    Ok(())
}

fn a_stale_token_is_refused() -> Result<(), Unavailable> {
    let (_server, store) = shared("fence")?;
    let under_lock = |script: &str| store.run(&["lock", "till", "--", "sh", "-c", script]);
    // The token of the lock, by itself.
    let held = run(&mut store.shell(
        "$COORD lock till -- sh -c '$COORD fence till >&2 && $COORD write till 7 >&2 && echo $COORD_FENCING_TOKEN'",
    ));
    let token = version(&held);
    assert_eq!(store.run(&["read", "till"]).stdout, "7");
    assert_eq!(store.json(&["read", "till", "--json"])[0]["mark"], token);
    // Somebody else held it since.
    let next = version(&under_lock("echo $COORD_FENCING_TOKEN"));
    assert!(next > token);
    assert_eq!(store.run(&["fence", "till", "--token", &next.to_string()]).status, 0);
    let stale = token.to_string();
    for late in [
        &["write", "till", "0"][..],
        &["fence", "till"],
        &["config", "put", "till", "0"],
        &["config", "delete", "till"],
    ] {
        let refused = store.run(&[late, &["--token", &stale]].concat());
        assert_eq!((refused.status, refused.stdout.as_str()), (77, ""), "{refused:?}");
        assert!(refused.stderr.contains(&stale), "{refused:?}");
    }
    assert_eq!(store.run(&["config", "put", "till", "0"]).status, 77, "no token at all");
    assert_eq!(store.run(&["read", "till"]).stdout, "7");
    Ok(())
}
