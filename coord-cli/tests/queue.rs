//! `coord queue`.

use std::fs;

use crate::support::{Outcome, Signal, Store, is_alive, run, until};
use serde_json::Value;

/// Prints the payload and what the environment says of the item.
const SAY: &str = "echo \"$(cat) $COORD_ATTEMPT $COORD_FENCING_TOKEN $COORD_ITEM_ID $COORD_NAME\"";

fn push(store: &Store, arguments: &[&str]) -> Vec<String> {
    let pushed = store.run(&[&["queue", "push"], arguments].concat());
    assert_eq!(pushed.status, 0, "{pushed:?}");
    pushed.stdout.lines().map(str::to_owned).collect()
}

fn stat(store: &Store, key: &str) -> u64 {
    store.json(&["queue", "stat", "q", "--json"])[0][key].as_u64().unwrap()
}

fn pop(store: &Store) -> Outcome {
    store.run(&["queue", "pop", "q", "--no-wait"])
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

#[test]
fn items_are_popped_in_their_order() {
    let store = Store::new();
    let nothing = pop(&store);
    assert_eq!((nothing.status, nothing.stdout.as_str()), (75, ""), "{nothing:?}");
    let ids = push(&store, &["q", "one", "two"]);
    push(&store, &["q", "urgent", "--priority", "1"]);
    push(&store, &["q", "idle", "--priority", "-1"]);
    push(&store, &["q", "later", "--delay", "1h"]);
    let elsewhere = store.run(&["queue", "pop", "q", "--no-wait", "--namespace", "other"]);
    assert_eq!(elsewhere.status, 75, "{elsewhere:?}");
    let late = store.run(&["queue", "pop", "empty", "--wait", "100ms"]);
    assert_eq!((late.status, late.stdout.as_str()), (75, ""), "{late:?}");
    let text = store.run(&["queue", "stat", "q"]).stdout;
    assert_eq!(text, "q  4 ready  1 delayed  0 in flight  0 dead\n");
    assert_eq!(pop(&store).stdout, "urgent", "every byte and no more");
    let popped = store.json(&["queue", "pop", "q", "--json"]).remove(0);
    let keys: Vec<_> = popped.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["attempt", "group", "id", "priority", "pushed", "queue", "token", "value"]);
    assert_eq!((&popped["value"], &popped["attempt"]), (&"one".into(), &1.into()));
    assert_eq!(popped["id"].as_str(), Some(ids[0].as_str()));
    assert_eq!(pop(&store).stdout, "two");
    assert_eq!(pop(&store).stdout, "idle");
    assert_eq!(pop(&store).status, 75);
    assert_eq!(store.run(&["queue", "purge", "q"]).stdout, "purged 1\n");
    let json = store.json(&["queue", "purge", "q", "--json"]).remove(0);
    assert_eq!(json, serde_json::json!({ "queue": "q", "purged": 0 }));
}

#[test]
fn a_payload_may_be_binary_and_comes_from_anywhere() {
    let store = Store::new();
    let bytes: Vec<u8> = (0..=255).cycle().take(65536).collect();
    let file = store.folder.path().join("payload");
    fs::write(&file, &bytes).unwrap();
    push(&store, &["q", "--file", file.to_str().unwrap()]);
    let moved = run(&mut store.shell("\"$COORD\" queue pop q | \"$COORD\" queue push q"));
    assert_eq!(moved.status, 0, "{moved:?}");
    let worked = store.coord(&["queue", "work", "q", "--until-empty", "--", "cat"]).output().unwrap();
    assert_eq!(worked.status.code(), Some(0));
    assert_eq!(worked.stdout, bytes);
    push(&store, &["q", "--file", file.to_str().unwrap()]);
    let popped = store.json(&["queue", "pop", "q", "--json"]).remove(0);
    assert_eq!(popped["value"], Value::Null);
    assert_eq!(popped["value_bytes"].as_array().unwrap().len(), bytes.len());
}

#[test]
fn a_command_need_not_read_its_payload() {
    let store = Store::new();
    push(&store, &["q", &"x".repeat(65536)]);
    let worked = store.run(&["queue", "work", "q", "--until-empty", "--", "true"]);
    assert_eq!(worked.status, 0, "{worked:?}");
}

#[test]
fn an_id_is_pushed_once() {
    let store = Store::new();
    let id = "6f0c8b8e-3f0e-4d4f-9d55-0d8f7c1a2b3c";
    for _again in 0..2 {
        assert_eq!(push(&store, &["q", "a", "--id", id]), [id]);
    }
    assert_eq!(pop(&store).status, 0);
    push(&store, &["q", "a", "--id", id]);
    assert_eq!(pop(&store).status, 75, "it is known for a while after it was taken");
}

#[test]
fn a_full_queue_lets_pushes_wait() {
    let store = Store::new();
    let arguments = ["queue", "push", "q", "b", "--capacity", "1"];
    push(&store, &["q", "a", "--capacity", "1"]);
    for give_up in [&["--no-wait"][..], &["--wait", "200ms"]] {
        let full = store.run(&[&arguments[..], give_up].concat());
        assert_eq!((full.status, full.stdout.as_str()), (75, ""), "{full:?}");
    }
    let waiting = store.start(&arguments);
    assert_eq!(pop(&store).stdout, "a");
    assert_eq!(waiting.end().status, 0);
    assert_eq!(pop(&store).stdout, "b");
}

#[test]
fn work_runs_a_command_for_every_item() {
    let store = Store::new();
    let ids = push(&store, &["q", "a", "b", "c"]);
    let worked = store.run(&["queue", "work", "q", "--until-empty", "--", "sh", "-c", SAY]);
    assert_eq!((worked.status, worked.stderr.as_str()), (0, ""), "{worked:?}");
    let lines: Vec<_> = worked.stdout.lines().map(words).collect();
    assert_eq!(lines.len(), 3);
    for (line, (payload, id)) in lines.iter().zip(["a", "b", "c"].iter().zip(&ids)) {
        assert_eq!((line[0], line[1], line[3], line[4]), (*payload, "1", id.as_str(), "q"));
    }
    let tokens: Vec<u64> = lines.iter().map(|line| line[2].parse().unwrap()).collect();
    assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
    assert_eq!(stat(&store, "ready") + stat(&store, "in_flight") + stat(&store, "dead"), 0);
}

#[test]
fn a_worker_that_waits_is_woken() {
    let store = Store::new();
    let mut worker = store.start(&["queue", "work", "q", "--", "sh", "-c", SAY]);
    for payload in ["a", "b"] {
        push(&store, &["q", payload]);
        assert_eq!(words(&worker.line())[0], payload);
    }
    worker.signal(Signal::SIGTERM);
    let ended = worker.end();
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{ended:?}");
}

#[test]
fn what_fails_comes_again_and_dies_in_the_end() {
    let store = Store::new();
    let ids = push(&store, &["q", "bad"]);
    let script = format!("{SAY}; exit 3");
    let work = ["queue", "work", "q", "--until-empty", "--attempts", "3", "--retry-delay", "10ms", "--"];
    let worked = store.run(&[&work[..], &["sh", "-c", &script]].concat());
    assert_eq!(worked.status, 0, "{worked:?}");
    let attempts: Vec<_> = worked.stdout.lines().map(|line| words(line)[1].to_owned()).collect();
    assert_eq!(attempts, ["1", "2", "3"]);
    let dead = store.json(&["queue", "dead", "q", "--json"]);
    assert_eq!(dead.len(), 1);
    let keys: Vec<_> = dead[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["attempts", "died", "group", "id", "priority", "queue", "value"]);
    assert_eq!((&dead[0]["attempts"], &dead[0]["value"]), (&3.into(), &"bad".into()));
    assert_eq!(dead[0]["id"].as_str(), Some(ids[0].as_str()));
    let text = store.run(&["queue", "dead", "q"]).stdout;
    assert!(text.starts_with(&ids[0]) && text.ends_with("\"bad\"\n"), "{text}");

    let unknown = store.run(&["queue", "dead", "q", "--requeue", "6f0c8b8e-3f0e-4d4f-9d55-0d8f7c1a2b3c"]);
    assert_eq!((unknown.status, unknown.stdout.as_str()), (1, "requeued 0\n"), "{unknown:?}");
    assert_eq!(store.run(&["queue", "dead", "q", "--requeue", &ids[0]]).stdout, "requeued 1\n");
    let worked = store.run(&[&work[..], &["sh", "-c", &script]].concat());
    assert_eq!(words(worked.stdout.lines().next().unwrap())[1], "1", "attempts are counted anew");
    let requeued = store.json(&["queue", "dead", "q", "--requeue", "--all", "--json"]).remove(0);
    assert_eq!(requeued, serde_json::json!({ "queue": "q", "requeued": 1 }));
    assert_eq!(store.run(&[&work[..], &["false"]].concat()).status, 0);
    assert_eq!(store.run(&["queue", "dead", "q", "--drop", "--all"]).stdout, "dropped 1\n");
    assert_eq!(store.json(&["queue", "dead", "q", "--json"]).len(), 0);
    assert_eq!(pop(&store).status, 75);
}

#[test]
fn a_command_that_a_signal_ended_has_failed() {
    let store = Store::new();
    push(&store, &["q", "a"]);
    let work = ["queue", "work", "q", "--until-empty", "--attempts", "1", "--", "sh", "-c", "kill -9 $$"];
    let worked = store.run(&work);
    assert_eq!((worked.status, worked.stderr.as_str()), (0, ""), "{worked:?}");
    assert_eq!(stat(&store, "dead"), 1);
}

#[test]
fn several_commands_run_at_a_time() {
    let store = Store::new();
    push(&store, &["q", "a", "b", "c"]);
    let folder = store.folder.path().to_str().unwrap();
    // Each waits for all three; a group's items could not meet.
    let meet = "touch $0/$(cat); while [ ! -e $0/a ] || [ ! -e $0/b ] || [ ! -e $0/c ]; do sleep 0.01; done";
    let work = ["queue", "work", "q", "--until-empty", "--concurrency", "3", "--", "sh", "-c", meet, folder];
    assert_eq!(store.run(&work).status, 0);
}

#[test]
fn a_group_is_worked_on_in_its_order() {
    let store = Store::new();
    push(&store, &["q", "--group", "g", "a", "b", "c"]);
    let script =
        "p=$(cat); echo $p $COORD_ATTEMPT; sleep 0.05; echo end; [ $p != b ] || [ $COORD_ATTEMPT = 2 ]";
    let work = ["queue", "work", "q", "--until-empty", "--concurrency", "3", "--retry-delay", "10ms", "--"];
    let worked = store.run(&[&work[..], &["sh", "-c", script]].concat());
    assert_eq!(worked.status, 0, "{worked:?}");
    let lines: Vec<_> = worked.stdout.lines().collect();
    assert_eq!(lines, ["a 1", "end", "b 1", "end", "b 2", "end", "c 1", "end"]);
}

#[test]
fn term_lets_the_command_end_and_a_second_one_is_passed_on() {
    let store = Store::new();
    push(&store, &["q", "a", "b"]);
    let script = "echo $$; while [ ! -e $0 ]; do sleep 0.01; done";
    let file = store.folder.path().join("go");
    let work = ["queue", "work", "q", "--", "sh", "-c", script, file.to_str().unwrap()];
    let mut worker = store.start(&work);
    worker.line();
    worker.signal(Signal::SIGTERM);
    fs::write(&file, "").unwrap();
    let drained = worker.end();
    assert_eq!((drained.status, drained.stdout.as_str()), (0, ""), "it takes no more: {drained:?}");
    assert_eq!((stat(&store, "ready"), stat(&store, "in_flight")), (1, 0));

    fs::remove_file(&file).unwrap();
    let mut worker = store.start(&work);
    let pid = worker.line();
    worker.signal(Signal::SIGTERM);
    worker.signal(Signal::SIGINT);
    until("the end of the command", || !is_alive(&pid));
    assert_eq!(worker.end().status, 0);
    assert_eq!(stat(&store, "ready") + stat(&store, "delayed"), 1, "it failed and comes again");
}

#[test]
fn a_killed_workers_item_goes_to_another() {
    let store = Store::new();
    push(&store, &["q", "a"]);
    let script = "echo $$; while [ ! -e $0 ]; do sleep 0.01; done";
    let file = store.folder.path().join("go");
    let work = ["queue", "work", "q", "--visibility", "500ms", "--", "sh", "-c", script];
    let mut killed = store.start(&[&work[..], &[file.to_str().unwrap()]].concat());
    let orphan = killed.line();
    let mut next = store.start(&["queue", "work", "q", "--until-empty", "--", "sh", "-c", SAY]);
    killed.signal(Signal::SIGKILL);
    let line = next.line();
    assert_eq!((words(&line)[0], words(&line)[1]), ("a", "2"));
    assert_eq!(next.end().status, 0);
    fs::write(&file, "").unwrap();
    until("the end of the orphan", || !is_alive(&orphan));
}

#[test]
fn a_lost_delivery_ends_its_command() {
    let store = Store::new();
    push(&store, &["q", "a"]);
    // It hears SIGTERM and goes on, so that it takes SIGKILL; its child must end too.
    let script = "[ $(cat) = a ] || exec echo next; trap 'echo term' TERM; sleep 600 & echo $$ $!; while :; do wait; done";
    let work = ["queue", "work", "q", "--visibility", "500ms", "--grace", "300ms", "--", "sh", "-c", script];
    let mut stopped = store.start(&work);
    let line = stopped.line();
    let pids = words(&line);
    stopped.stop(&store);
    let other = store.run(&["queue", "work", "q", "--until-empty", "--", "sh", "-c", SAY]);
    assert_eq!(words(&other.stdout)[..2], ["a", "2"], "{other:?}");
    assert!(is_alive(pids[0]), "nobody has told it yet");
    stopped.signal(Signal::SIGCONT);
    assert_eq!(stopped.line(), "term");
    for pid in pids {
        until("the end of the group", || !is_alive(pid));
    }
    push(&store, &["q", "b"]);
    assert_eq!(stopped.line(), "next", "it goes on with the next item");
    stopped.signal(Signal::SIGTERM);
    assert_eq!(stopped.end().status, 0);
}

#[test]
fn work_outlives_the_visibility_timeout() {
    let store = Store::new();
    push(&store, &["q", "a"]);
    // Long enough for a renewal on a disk that is busy with others.
    let work = ["queue", "work", "q", "--until-empty", "--visibility", "2s", "--", "sh", "-c"];
    let slow = format!("sleep 5; {SAY}");
    let worked = store.run(&[&work[..], &[&slow]].concat());
    let lines: Vec<_> = worked.stdout.lines().collect();
    assert_eq!((worked.status, lines.len(), words(lines[0])[1]), (0, 1, "1"), "{worked:?}");
}

#[test]
fn a_command_that_does_not_run_ends_the_work() {
    let store = Store::new();
    push(&store, &["q", "a"]);
    let missing = store.run(&["queue", "work", "q", "--", "/no/such/command"]);
    assert_eq!(missing.status, 127, "{missing:?}");
    let denied = store.run(&["queue", "work", "q", "--", "/"]);
    assert_eq!(denied.status, 126, "{denied:?}");
    assert_eq!(pop(&store).stdout, "a", "the item was given back");
}

#[test]
fn an_item_that_cannot_be_printed_stays() {
    let store = Store::new();
    push(&store, &["q", "a"]);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let failed = store.coord(&["queue", "pop", "q"]).stdout(full).output().unwrap();
    assert_eq!(failed.status.code(), Some(70));
    let popped = store.json(&["queue", "pop", "q", "--json"]).remove(0);
    assert_eq!((&popped["value"], &popped["group"]), (&"a".into(), &Value::Null));
}
