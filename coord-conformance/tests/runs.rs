//! Stored histories are judged by the program `coord-conformance`: a good one passes, and of each planted violation the
//! events that show it are named, and no others.

use std::{path::PathBuf, process::Command};

use coord_conformance::history::{Ask, Event, Given, Header, Op, Outcome, Recording, Stamp};
use tempfile::TempDir;

fn at(millis: u64) -> Stamp {
    Stamp { at: millis * 1_000_000, tick: 0 }
}

fn event(client: &str, object: &str, from: u64, to: u64, op: Op) -> Event {
    let (client, object) = (client.to_owned(), object.to_owned());
    Event { from: at(from), to: at(to), client, object, op, outcome: Outcome::Ok }
}

fn hold(client: &str, granted: u64, end: u64, token: u64) -> [Event; 3] {
    let op = Op::Acquire { attempt: 1, ask: Ask::lock(), token: Some(token) };
    [
        event(client, "lock/till", 1, granted, op),
        event(client, "lock/till", end, end, Op::Valid { attempt: 1 }),
        event(client, "lock/till", end, end + 1, Op::Release { attempt: 1 }),
    ]
}

fn accepted(sequence: u64, token: u64, read: u64) -> Event {
    let write = Some((read, read + 1));
    event("the store", "till", 900, 900, Op::Accepted { sequence, token, write })
}

fn write(client: &str, when: u64, token: u64, read: u64) -> Event {
    event(client, "till", when, when + 1, Op::Write { token, read, wrote: read + 1 })
}

fn put(from: u64, value: &str, version: u64) -> Event {
    let op = Op::Put { given: Given::Anything, value: Some(value.into()), version: Some(version) };
    event("writer", "config/a", from, from + 5, op)
}

fn read(from: u64, value: &str, version: u64) -> Event {
    event("reader", "config/a", from, from + 5, Op::Read { found: Some((value.into(), version)) })
}

fn item(from: u64, name: &str) -> [Event; 3] {
    let item = name.to_owned();
    let push = Op::Push { item: item.clone(), priority: 0, group: None };
    [
        event("producer", "jobs", from, from + 1, push),
        event("consumer", "jobs", from + 2, from + 3, Op::Receive { items: vec![(item.clone(), from, 1)] }),
        event("consumer", "jobs", from + 4, from + 5, Op::Ack { item, token: from }),
    ]
}

/// A history in which all is well, with faults.
fn good() -> Vec<Event> {
    let mut events =
        [hold("worker-1", 10, 100, 3), hold("worker-2", 110, 200, 4), hold("worker-3", 210, 300, 7)].concat();
    events.extend([accepted(1, 3, 0), accepted(2, 4, 1), accepted(3, 7, 2)]);
    events.extend([write("worker-1", 50, 3, 0), write("worker-2", 150, 4, 1), write("worker-3", 250, 7, 2)]);
    events.extend([put(0, "x", 1), read(10, "x", 1), put(20, "y", 2), put(30, "z", 3), read(40, "z", 3)]);
    events.extend((1..9).flat_map(|number| item(number * 10, &format!("item {number}"))));
    events.push(event("consumer", "jobs", 500, 500, Op::Drained));
    events.push(event("nemesis", "worker-2", 140, 145, Op::Fault { kind: "stop".into() }));
    events.push(event("nemesis", "server", 600, 650, Op::Fault { kind: "server-stop".into() }));
    events
}

/// The exit code, and what is said.
fn check(events: Vec<Event>) -> (Option<i32>, String) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("history.jsonl");
    Recording::new(Header::new("none", 7), events).write(&file).unwrap();
    run("check", &file)
}

fn run(command: &str, file: &PathBuf) -> (Option<i32>, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_coord-conformance")).arg(command).arg(file).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// The checker finds it, and shows so many events; the fault that struck in the meantime is told too.
#[track_caller]
fn found(events: Vec<Event>, checker: &str, what: &str, shown: usize) -> String {
    let (code, said) = check(events.clone());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("[{checker}]")) && said.contains(what), "{said}");
    assert!(said.contains(&format!("shown by {shown} of {} events", events.len())), "{said}");
    said
}

#[test]
fn a_good_history_passes() {
    let (code, said) = check(good());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("none seed 7: 38 operations (38 ok, 0 failed, 0 unknown)"), "{said}");
    assert!(said.contains("faults: server-stop 1, stop 1; no violations"), "{said}");
}

#[test]
fn two_holders() {
    let events = [good(), hold("worker-4", 150, 160, 5).to_vec()].concat();
    let said = found(events, "intervals", "held at once: worker-2", 4);
    assert!(said.contains("in the meantime:\n    140.000..145.000 ms  nemesis  worker-2"), "{said}");
    assert!(!said.contains("600.000"), "{said}");
}

#[test]
fn a_token_that_goes_back() {
    let events = [good(), hold("worker-4", 310, 320, 6).to_vec()].concat();
    found(events, "tokens", "first worker-3 attempt 1 token 7", 4);
}

#[test]
fn a_lost_item() {
    let mut events = good();
    events.retain(|event| !matches!(&event.op, Op::Ack { item, .. } if item == "item 5"));
    found(events, "deliveries", "\"item 5\" was pushed, and is lost", 2);
}

#[test]
fn a_stale_read() {
    let events = [good(), vec![read(50, "x", 1)]].concat();
    found(events, "register", "no order explains what was seen", 3);
}

#[test]
fn an_unfenced_write() {
    // Its holder read before worker-3 wrote, and wrote after it.
    let events = [good(), vec![write("worker-2", 260, 4, 2), accepted(4, 4, 2)]].concat();
    found(events, "fenced", "token 4 was accepted after 7", 2);
    // What it replaced was acknowledged.
    let mut events = [good(), vec![write("worker-4", 260, 8, 2), accepted(3, 8, 2)]].concat();
    events.retain(|event| event.op != Op::Accepted { sequence: 3, token: 7, write: Some((2, 3)) });
    found(events, "fenced", "an acknowledged write is gone", 2);
}

#[test]
fn a_control_has_to_lose_updates() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("history.jsonl");
    let mut header = Header::new("none", 7);
    header.settings.insert("control".into(), "unfenced".into());
    let judge = |events: Vec<Event>| {
        Recording::new(header.clone(), events).write(&file).unwrap();
        run("check", &file)
    };
    let (code, said) = judge(good());
    assert!(code == Some(1) && said.contains("it shows nothing"), "{said}");
    let lost = [good(), vec![accepted(4, 4, 2)]].concat();
    let (code, said) = judge(lost.clone());
    assert!(code == Some(0) && said.contains("lost updates, as it must"), "{said}");
    let (code, said) = judge([lost, hold("worker-4", 310, 320, 6).to_vec()].concat());
    assert!(code == Some(1) && said.contains("2 VIOLATIONS"), "{said}");
}

#[test]
fn what_is_no_history_is_said_so() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("history.jsonl");
    let judge = |text: &str| {
        std::fs::write(&file, text).unwrap();
        run("check", &file)
    };
    let header = r#"{"format":1,"backend":"none","seed":1,"settings":{},"versions":{}}"#;
    assert_eq!(judge(header).0, Some(0));
    for (text, what) in [
        ("", "line 1"),
        (&header.replace("\"format\":1", "\"format\":2"), "format 2, and this program reads 1"),
        (&format!("{header}\n{{}}"), "line 2"),
    ] {
        let (code, said) = judge(text);
        assert!(code == Some(2) && said.contains(what), "{said}");
    }
}

#[test]
fn a_picture_shows_holders_tokens_faults_and_what_is_wrong() {
    let folder = TempDir::new().unwrap();
    let draw = |events: Vec<Event>| {
        let file = folder.path().join("history.jsonl");
        Recording::new(Header::new("none", 7), events).write(&file).unwrap();
        let (code, said) = run("picture", &file);
        assert_eq!(code, Some(0), "{said}");
        std::fs::read_to_string(file.with_extension("html")).unwrap()
    };
    let picture = draw(good());
    for what in ["lock/till", "worker-1 attempt 1 token 3", "server-stop", ">7</text>", "no violations"] {
        assert!(picture.contains(what), "{what} is missing");
    }
    // It needs nothing else, and nothing in it is a violation.
    assert!(
        !picture.contains("href") && !picture.contains("src=") && !picture.contains("class=\"held shown\"")
    );
    assert_eq!(picture.matches("<svg xmlns").count(), 1);
    let picture = draw([good(), hold("worker-4", 150, 160, 5).to_vec()].concat());
    assert_eq!(picture.matches("<svg xmlns").count(), 2);
    // Both holders, in both drawings.
    assert_eq!(picture.matches("class=\"held shown\"").count(), 4);
    assert!(picture.contains("held at once: worker-2"));
}

/// What runs have found stays found: the histories of the first publication that were not as they must be.
#[test]
fn what_was_found_is_found_again() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/proof/violations"));
    let known = [
        ("etcd-of-three-4006.jsonl", &["intervals", "membership"][..]),
        ("etcd-of-three-5006.jsonl", &["membership"]),
        ("postgres-4016.jsonl", &["progress"]),
        ("zookeeper-of-three-5022.jsonl", &["membership"]),
    ];
    let mut kept: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".jsonl"))
        .collect();
    kept.sort();
    assert_eq!(kept, known.map(|(name, _)| name));
    for (name, checkers) in known {
        let (code, said) = run("check", &folder.join(name));
        assert_eq!(code, Some(1), "{said}");
        let found: Vec<_> =
            said.lines().filter_map(|line| line.strip_prefix('[')?.split(']').next()).collect();
        assert_eq!(found, checkers, "{said}");
    }
}
