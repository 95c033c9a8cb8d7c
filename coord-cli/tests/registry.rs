//! `coord register`, `coord instances` and `coord barrier`.

use crate::support::{Signal, Store};

const RUN: &str = "echo $COORD_FENCING_TOKEN $COORD_NAME; exec cat";

#[test]
fn an_instance_is_listed_while_its_command_runs() {
    let store = Store::new();
    assert_eq!(store.json(&["instances", "web", "--json"]).len(), 0);
    let arguments =
        ["register", "web", "web-1", "--address", "10.0.0.7:80", "--meta", "zone=b", "--meta", "v=a=b"];
    let mut instance = store.start(&[&arguments[..], &["--weight", "3", "--", "sh", "-c", RUN]].concat());
    let line = instance.line();
    let token: u64 = line.strip_suffix(" web").unwrap().parse().unwrap();
    let listed = store.json(&["instances", "web", "--json"]);
    assert_eq!(listed.len(), 1);
    let keys: Vec<_> = listed[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["address", "id", "metadata", "service", "since", "token", "weight"]);
    assert_eq!(listed[0]["id"], "web-1");
    assert_eq!(listed[0]["address"], "10.0.0.7:80");
    assert_eq!(listed[0]["metadata"], serde_json::json!({ "zone": "b", "v": "a=b" }));
    assert_eq!(listed[0]["weight"], 3);
    assert_eq!(listed[0]["token"].as_u64(), Some(token));
    let text = store.run(&["instances", "web"]).stdout;
    assert!(text.starts_with("web-1") && text.contains("10.0.0.7:80") && text.contains("zone=b"), "{text}");
    instance.signal(Signal::SIGTERM);
    assert_eq!(instance.end().status, 143, "the command's own");
    assert_eq!(store.json(&["instances", "web", "--json"]).len(), 0, "deregistered");
}

#[test]
fn watch_shows_who_comes_and_goes() {
    let store = Store::new();
    let mut first = store.start(&["register", "web", "first"]);
    assert!(first.line().starts_with("registered first in web with token "));
    let mut watch = store.start(&["instances", "web", "--watch", "--json"]);
    let event = watch.json();
    assert_eq!((&event["event"], &event["id"]), (&"listed".into(), &"first".into()));
    let mut second = store.start(&["register", "web", "second", "--ttl", "1s", "--json"]);
    let registered = second.json();
    assert_eq!(
        (&registered["event"], &registered["service"], &registered["id"]),
        (&"registered".into(), &"web".into(), &"second".into())
    );
    let event = watch.json();
    assert_eq!((&event["event"], &event["id"]), (&"joined".into(), &"second".into()));
    assert_eq!(event["token"], registered["token"]);
    first.signal(Signal::SIGTERM);
    assert_eq!(first.end().status, 0, "it did what it was asked to do");
    let event = watch.json();
    assert_eq!((&event["event"], &event["id"]), (&"left".into(), &"first".into()));
    second.signal(Signal::SIGKILL);
    let event = watch.json();
    assert_eq!((&event["event"], &event["id"]), (&"left".into(), &"second".into()), "its lease ended");
    watch.signal(Signal::SIGTERM);
    assert_eq!(watch.end().status, 143);
}

#[test]
fn a_lost_registration_is_made_anew() {
    let store = Store::new();
    let mut instance = store.start(&["register", "web", "web-1", "--json"]);
    let first = instance.json();
    assert_eq!(store.run(&["release", "web", "--force"]).status, 0);
    let events: Vec<_> =
        std::iter::repeat_with(|| instance.json()).take_while(|e| e["event"] != "registered").collect();
    assert!(events.iter().all(|event| event["event"] == "lost"));
    let listed = store.json(&["instances", "web", "--json"]).remove(0);
    assert!(listed["token"].as_u64() > first["token"].as_u64());
}

#[test]
fn three_processes_meet_at_a_barrier() {
    let store = Store::new();
    let arguments = ["barrier", "start", "--parties", "3"];
    let missing = store.run(&[&arguments[..], &["--wait", "200ms"]].concat());
    assert_eq!(missing.status, 75, "{missing:?}");
    assert!(missing.stderr.contains("1 of 3"), "{missing:?}");
    for _round in 0..2 {
        let parties: Vec<_> = (0..3).map(|_| store.start(&[&arguments[..], &["--json"]].concat())).collect();
        let mut tokens = Vec::new();
        for party in parties {
            let passed = party.end();
            assert_eq!(passed.status, 0, "{passed:?}");
            let passed = passed.json().remove(0);
            assert_eq!(passed["name"], "start");
            assert!(passed["index"].as_u64().unwrap() < 3);
            tokens.push(passed["token"].as_u64().unwrap());
        }
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), 3);
    }
}

#[test]
fn a_party_that_is_told_to_stop_does_not_count() {
    let store = Store::new();
    let party = || store.start(&["barrier", "start", "--parties", "2", "--ttl", "60s"]);
    let stopped = party();
    crate::support::until("a party", || {
        store.json(&["inspect", "start", "--kind", "barrier", "--json"]).len() == 1
    });
    stopped.signal(Signal::SIGINT);
    assert_eq!(stopped.end().status, 130);
    let missing = store.run(&["barrier", "start", "--parties", "2", "--wait", "200ms"]);
    assert_eq!(missing.status, 75, "{missing:?}");
}
