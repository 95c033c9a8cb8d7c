//! `coord config`, `coord fence`, `coord write` and `coord read`.

use std::fs;

use crate::support::{Outcome, Signal, Store, run};
use coord_core::{Change, Condition, ConfigStore as _, Name, Write};
use serde_json::Value;

fn version(outcome: &Outcome) -> u64 {
    assert_eq!(outcome.status, 0, "{outcome:?}");
    outcome.stdout.trim_end().parse().unwrap()
}

#[test]
fn a_value_is_put_got_and_deleted() {
    let store = Store::new();
    let nothing = store.run(&["config", "get", "limit"]);
    assert_eq!((nothing.status, nothing.stdout.as_str()), (1, ""), "{nothing:?}");
    assert!(nothing.stderr.contains("limit"), "{nothing:?}");
    let first = version(&store.run(&["config", "put", "limit", "100"]));
    assert_eq!(store.run(&["config", "get", "limit"]).stdout, "100", "every byte and no more");
    let put = store.json(&["config", "put", "limit", "-5", "--json"]).remove(0);
    assert_eq!(put["key"], "limit");
    assert!(put["version"].as_u64() > Some(first), "{put}");
    let got = store.json(&["config", "get", "limit", "--json"]).remove(0);
    let keys: Vec<_> = got.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["at", "by", "key", "mark", "revision", "value", "version"]);
    assert_eq!((&got["value"], &got["version"], &got["mark"]), (&"-5".into(), &put["version"], &Value::Null));
    for _again in 0..2 {
        let deleted = store.run(&["config", "delete", "limit"]);
        assert_eq!((deleted.status, deleted.stdout.as_str()), (0, ""), "{deleted:?}");
        assert_eq!(store.run(&["config", "get", "limit"]).status, 1);
    }
    let other = store.run(&["config", "get", "limit", "--namespace", "other"]);
    assert_eq!(other.status, 1);
}

#[test]
fn a_value_comes_from_a_file_or_standard_input_and_may_be_binary() {
    let store = Store::new();
    let bytes: Vec<u8> = (0..=255).cycle().take(65536).collect();
    let file = store.folder.path().join("value");
    fs::write(&file, &bytes).unwrap();
    version(&store.run(&["config", "put", "a", "--file", file.to_str().unwrap()]));
    version(&run(&mut store.shell("\"$COORD\" config get a | \"$COORD\" config put b")));
    let got = store.coord(&["config", "get", "b"]).output().unwrap();
    assert!(got.status.success());
    assert_eq!(got.stdout, bytes);
    let got = store.json(&["config", "get", "b", "--json"]).remove(0);
    assert_eq!(got["value"], Value::Null);
    assert_eq!(got["value_bytes"].as_array().unwrap().len(), bytes.len());
    version(&store.run(&["write", "c", "--token", "3", "--file", file.to_str().unwrap()]));
    let read = store.coord(&["read", "c"]).output().unwrap();
    assert_eq!((read.status.code(), read.stdout), (Some(0), bytes));
    version(&store.run(&["config", "put", "empty"]));
    let empty = store.run(&["config", "get", "empty"]);
    assert_eq!((empty.status, empty.stdout.as_str()), (0, ""), "an empty value is one");
}

#[test]
fn a_condition_that_does_not_hold_is_told_by_the_status() {
    let store = Store::new();
    let first = version(&store.run(&["config", "put", "k", "one", "--if-absent"])).to_string();
    let refused = store.run(&["config", "put", "k", "two", "--if-absent", "--json"]);
    assert_eq!((refused.status, refused.stdout.as_str()), (76, ""), "{refused:?}");
    let error: Value = serde_json::from_str(&refused.stderr).unwrap();
    assert_eq!(error["status"], 76);
    assert!(error["error"].as_str().unwrap().contains(&first), "it says what it found: {error}");
    let second = version(&store.run(&["config", "put", "k", "two", "--if-version", &first])).to_string();
    for stale in
        [&["config", "put", "k", "three", "--if-version"][..], &["config", "delete", "k", "--if-version"]]
    {
        let refused = store.run(&[stale, &[&first]].concat());
        assert_eq!(refused.status, 76, "{refused:?}");
        assert!(refused.stderr.contains(&first) && refused.stderr.contains(&second), "{refused:?}");
    }
    assert_eq!(store.run(&["config", "get", "k"]).stdout, "two");
    assert_eq!(store.run(&["config", "delete", "k", "--if-version", &second]).status, 0);
    version(&store.run(&["config", "put", "k", "anew", "--if-absent"]));
}

#[test]
fn one_of_many_who_put_if_absent_wins() {
    let store = Store::new();
    let running: Vec<_> =
        (0..6).map(|n| store.start(&["config", "put", "k", &n.to_string(), "--if-absent"])).collect();
    let mut statuses: Vec<_> = running.into_iter().map(|running| running.end().status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [0, 76, 76, 76, 76, 76]);
}

#[test]
fn list_and_history() {
    let store = Store::new();
    assert_eq!(store.json(&["config", "list", "--json"]).len(), 0);
    for key in ["web/b", "web/a", "db", "web/ü"] {
        version(&store.run(&["config", "put", key, "1"]));
    }
    let keys = |arguments: &[&str]| -> Vec<String> {
        let listed = store.json(&[&["config", "list", "--json"], arguments].concat());
        listed.iter().map(|entry| entry["key"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(keys(&[]), ["db", "web/a", "web/b", "web/ü"]);
    assert_eq!(keys(&["web/"]), ["web/a", "web/b", "web/ü"]);
    assert_eq!(store.run(&["config", "delete", "web/a"]).status, 0);
    assert_eq!(keys(&["web/"]), ["web/b", "web/ü"]);
    version(&store.run(&["config", "put", "web/a", "2"]));
    let text = store.run(&["config", "list", "web/a"]).stdout;
    assert!(text.starts_with("web/a  \"2\"  version "), "{text}");

    let history = store.json(&["config", "history", "web/a", "--json"]);
    let states: Vec<_> = history.iter().map(|state| (&state["value"], &state["deleted"])).collect();
    let (one, two, null) = ("1".into(), "2".into(), Value::Null);
    assert_eq!(states, [(&two, &false.into()), (&null, &true.into()), (&one, &false.into())]);
    assert_eq!(store.json(&["config", "history", "web/a", "--json", "--limit", "1"]).len(), 1);
    let text = store.run(&["config", "history", "web/a"]).stdout;
    assert!(text.lines().nth(1).unwrap().ends_with("  deleted"), "{text}");
    assert_eq!(store.run(&["config", "history", "nothing"]).status, 1);
}

#[test]
fn watch_shows_what_is_there_and_what_changes() {
    let store = Store::new();
    version(&store.run(&["config", "put", "web/a", "1"]));
    let mut all = store.start(&["config", "watch", "--prefix", "web/", "--json"]);
    let mut one = store.start(&["config", "watch", "web/a"]);
    let listed = all.json();
    assert_eq!(
        (&listed["event"], &listed["key"], &listed["value"]),
        (&"listed".into(), &"web/a".into(), &"1".into())
    );
    assert!(one.line().starts_with("listed  web/a  \"1\""));
    version(&store.run(&["config", "put", "db", "9"]));
    version(&store.run(&["config", "put", "web/b", "2"]));
    let put = all.json();
    assert_eq!((&put["event"], &put["key"], &put["value"]), (&"put".into(), &"web/b".into(), &"2".into()));
    let latest = version(&store.run(&["config", "put", "web/a", "3"]));
    let put = all.json();
    assert_eq!((&put["event"], &put["version"]), (&"put".into(), &latest.into()));
    assert!(one.line().starts_with("put  web/a  \"3\""));
    assert_eq!(store.run(&["config", "delete", "web/a"]).status, 0);
    let deleted = all.json();
    assert_eq!((&deleted["event"], &deleted["key"]), (&"deleted".into(), &"web/a".into()));
    assert!(deleted["version"].as_u64() > Some(latest), "{deleted}");
    assert!(one.line().starts_with("deleted  web/a  version "));
    one.signal(Signal::SIGTERM);
    assert_eq!(one.end().status, 143);
}

#[test]
fn a_watch_that_was_away_for_too_long_says_so() {
    let store = Store::new();
    for key in ["web/a", "web/b"] {
        version(&store.run(&["config", "put", key, "1"]));
    }
    let mut watch = store.start(&["config", "watch", "--prefix", "web/", "--json"]);
    for key in ["web/a", "web/b"] {
        let listed = watch.json();
        assert_eq!((&listed["event"], &listed["key"]), (&"listed".into(), &key.into()));
    }
    watch.stop(&store);
    version(&store.run(&["config", "put", "web/a", "2"]));
    assert_eq!(store.run(&["config", "delete", "web/b"]).status, 0);
    // More than the store remembers.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = coord_sql::connect(store.folder.path().join("coord.db")).await.unwrap();
        let key = |number: u32| Name::new(format!("db/{number}")).unwrap();
        let put =
            |number| Write { key: key(number), condition: Condition::Any, change: Change::Put(Vec::new()) };
        for _again in 0..2 {
            client.commit((0..1000).map(put).collect()).await.unwrap();
        }
        client.shutdown().await.unwrap();
    });
    watch.signal(Signal::SIGCONT);
    assert_eq!(watch.json(), serde_json::json!({ "event": "resync" }));
    let listed = watch.json();
    assert_eq!(
        (&listed["event"], &listed["key"], &listed["value"]),
        (&"listed".into(), &"web/a".into(), &"2".into())
    );
    version(&store.run(&["config", "put", "web/c", "3"]));
    let put = watch.json();
    assert_eq!((&put["event"], &put["key"]), (&"put".into(), &"web/c".into()), "nothing else is left");
}

#[test]
fn a_stale_token_is_refused_and_both_are_named() {
    let store = Store::new();
    assert_eq!(store.run(&["read", "account"]).status, 1);
    let first = version(&store.run(&["write", "account", "100", "--token", "33"]));
    let fenced = store.json(&["fence", "account", "--token", "44", "--json"]).remove(0);
    assert_eq!(fenced, serde_json::json!({ "key": "account", "token": 44 }));
    for stale in [
        &["write", "account", "0", "--token", "43"][..],
        &["fence", "account", "--token", "43"],
        &["config", "put", "account", "0", "--token", "43"],
        &["config", "delete", "account", "--token", "43"],
    ] {
        let refused = store.run(stale);
        assert_eq!((refused.status, refused.stdout.as_str()), (77, ""), "{refused:?}");
        assert!(refused.stderr.contains("43") && refused.stderr.contains("44"), "{refused:?}");
    }
    let without = store.run(&["config", "put", "account", "0"]);
    assert_eq!(without.status, 77, "{without:?}");
    assert_eq!(store.run(&["read", "account"]).stdout, "100");
    let again = store.json(&["write", "account", "150", "--token", "44", "--json"]).remove(0);
    assert_eq!((&again["key"], &again["token"]), (&"account".into(), &44.into()));
    assert!(again["version"].as_u64() > Some(first), "the same token may write again");
    let read = store.json(&["read", "account", "--json"]).remove(0);
    let expected = serde_json::json!({
        "key": "account", "version": again["version"], "mark": 44, "value": "150",
    });
    assert_eq!(read, expected);
}

#[test]
fn a_command_under_a_lock_writes_with_its_token() {
    let store = Store::new();
    let write = "$COORD fence till && echo -n $1 | $COORD write till >&2 && echo $COORD_FENCING_TOKEN";
    let turn = |value| {
        let lock = format!("\"$COORD\" lock till -- sh -c '{write}' sh {value}");
        let turn = run(&mut store.shell(&lock));
        assert_eq!(turn.status, 0, "{turn:?}");
        turn.stdout.lines().last().unwrap().to_owned()
    };
    let (first, second) = (turn("7"), turn("8"));
    let late = run(store.coord(&["write", "till", "9"]).env("COORD_FENCING_TOKEN", &first));
    assert_eq!(late.status, 77, "{late:?}");
    assert!(late.stderr.contains(&first) && late.stderr.contains(&second), "{late:?}");
    assert_eq!(store.run(&["read", "till"]).stdout, "8");
}
