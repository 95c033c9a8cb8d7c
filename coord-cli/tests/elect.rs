//! `coord elect` and `coord leader`.

use std::os::unix::ffi::OsStringExt as _;

use crate::support::{Signal, Store, run, until};

const LEAD: &str = "echo $COORD_FENCING_TOKEN $COORD_NAME; exec cat";

fn candidate(store: &Store, id: &str, more: &[&str]) -> crate::support::Running {
    let arguments = ["elect", "x", "--id", id, "--ttl", "1s"];
    store.start(&[&arguments, more, &["--", "sh", "-c", LEAD]].concat())
}

fn term(line: &str) -> u64 {
    line.strip_suffix(" x").unwrap().parse().unwrap()
}

#[test]
fn a_killed_leader_is_followed_by_the_next() {
    let store = Store::new();
    assert_eq!(store.run(&["leader", "x"]).status, 1, "nobody leads");
    let mut first = candidate(&store, "first", &["--value", "10.0.0.1"]);
    let first_term = term(&first.line());
    let mut second = candidate(&store, "second", &[]);
    store.until_waiters("x", 1);
    let leader = store.json(&["leader", "x", "--json"]).remove(0);
    let keys: Vec<_> = leader.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["id", "name", "since", "term", "value"]);
    assert_eq!((&leader["id"], &leader["value"]), (&"first".into(), &"10.0.0.1".into()));
    assert_eq!(leader["term"].as_u64(), Some(first_term));
    first.signal(Signal::SIGKILL);
    let second_term = term(&second.line());
    assert!(second_term > first_term);
    let text = store.run(&["leader", "x"]);
    assert!(text.stdout.starts_with("second leads x"), "{text:?}");
    second.signal(Signal::SIGTERM);
    assert_eq!(second.end().status, 143);
    assert_eq!(store.run(&["leader", "x"]).status, 1, "it resigned");
}

#[test]
fn leader_watch_shows_every_term() {
    let store = Store::new();
    let mut watch = store.start(&["leader", "x", "--watch", "--json"]);
    let vacant = watch.json();
    assert_eq!((&vacant["event"], &vacant["name"]), (&"vacant".into(), &"x".into()));
    let mut terms = Vec::new();
    for id in ["first", "second"] {
        let mut leader = candidate(&store, id, &[]);
        terms.push(term(&leader.line()));
        let event = watch.json();
        assert_eq!((&event["event"], &event["id"]), (&"elected".into(), &id.into()));
        assert_eq!(event["term"].as_u64(), terms.last().copied());
        leader.signal(Signal::SIGTERM);
        assert_eq!(leader.end().status, 143);
        assert_eq!(watch.json()["event"], "vacant");
    }
    assert!(terms.is_sorted());
}

#[test]
fn higher_priority_is_elected_first() {
    let store = Store::new();
    let mut leader = candidate(&store, "leader", &[]);
    leader.line();
    let mut low = candidate(&store, "low", &["--priority", "-1"]);
    store.until_waiters("x", 1);
    let mut high = candidate(&store, "high", &["--priority", "5"]);
    store.until_waiters("x", 2);
    leader.signal(Signal::SIGTERM);
    let high_term = term(&high.line());
    high.signal(Signal::SIGTERM);
    assert!(term(&low.line()) > high_term);
}

#[test]
fn keep_campaigns_again_until_it_is_told_to_stop() {
    let store = Store::new();
    let mut kept = store.start(&["elect", "x", "--keep", "--", "sh", "-c", "echo $COORD_FENCING_TOKEN"]);
    let terms: Vec<u64> = (0..3).map(|_| kept.line().parse().unwrap()).collect();
    assert!(terms.is_sorted_by(|a, b| a < b), "{terms:?}");
    kept.signal(Signal::SIGTERM);
    assert!([0, 143].contains(&kept.end().status), "the command's status, or that of the pause");

    let mut kept = candidate(&store, "kept", &["--keep"]);
    let first = term(&kept.line());
    assert_eq!(store.run(&["release", "x", "--force"]).status, 0);
    let second = term(&kept.line());
    assert!(second > first, "it campaigns again after a loss");
    kept.signal(Signal::SIGTERM);
    assert_eq!(kept.end().status, 143);
    until("a vacant office", || store.run(&["leader", "x"]).status == 1);
}

#[test]
fn a_lost_leadership_ends_the_command() {
    let store = Store::new();
    let mut leader = candidate(&store, "leader", &[]);
    leader.line();
    assert_eq!(store.run(&["release", "x", "--force"]).status, 0);
    assert_eq!(leader.end().status, 79);
}

#[test]
fn a_value_that_is_not_text() {
    let store = Store::new();
    let mut command = store.coord(&["elect", "x", "--value"]);
    command.arg(std::ffi::OsString::from_vec(vec![b'a', 0xff, 0x1b]));
    command.args(["--", "sh", "-c", "echo leads; cat"]);
    let mut leader = crate::support::Running::start(&mut command);
    assert_eq!(leader.line(), "leads");
    let shown = store.json(&["leader", "x", "--json"]).remove(0);
    assert!(shown["value"].is_null());
    assert_eq!(shown["value_bytes"], serde_json::json!([97, 255, 27]));
    let text = run(&mut store.coord(&["inspect", "x"])).stdout;
    assert!(text.contains("a\u{fffd}\\u{1b}"), "no control characters: {text:?}");
}
