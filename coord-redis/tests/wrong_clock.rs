//! A server whose clock reads a date far in the future must not use up the numbers. The scripts are run as they are, on a real
//! server, but for the call that asks for the time.

use coord_conformance::servers::Redis;

use crate::common::{number, server};

const TIME: &str = "redis.call('TIME')";
/// In the year 2120.
const LATE: &str = "{ '4733510400', '0' }";

/// Runs a script of this library by the server's own clock, or by one that is wrong.
fn run(server: &Redis, script: &str, wrong: bool, keys: usize, arguments: &[&str]) {
    assert_eq!(script.matches(TIME).count(), 1);
    let script = if wrong { script.replace(TIME, LATE) } else { script.to_owned() };
    let keys: Vec<_> = (1..=keys).map(|key| format!("{{queue}}{key}")).collect();
    let count = keys.len().to_string();
    let command = ["EVAL", &script, &count].into_iter().chain(keys.iter().map(String::as_str));
    server.command(&command.chain(arguments.iter().copied()).collect::<Vec<_>>()).unwrap();
}

#[test]
fn places_and_tokens_of_a_queue_are_not_used_up() {
    let Some(server) = server() else { return };
    let push =
        concat!(include_str!("../src/scripts/jobs/jobs.lua"), include_str!("../src/scripts/jobs/push.lua"));
    let item = ["channel", "-1", "an id of sixteen", "last", "0", "", "payload"];
    run(&server, push, true, 14, &item);
    assert_eq!(
        number(&server, &["EVAL", "return tonumber(redis.call('GET', KEYS[1]))", "1", "{queue}12"]),
        1
    );
    // The control: by the server's own clock they begin with the microseconds since 1970.
    run(&server, push, false, 14, &[&item[..2], &["another sixteen."], &item[3..]].concat());
    let floored = number(&server, &["EVAL", "return tonumber(redis.call('GET', KEYS[1]))", "1", "{queue}12"]);
    assert!(floored > 1_700_000_000_000_000, "{floored}");
}

#[test]
fn revisions_are_not_used_up() {
    let Some(server) = server() else { return };
    let commit = concat!(
        include_str!("../src/scripts/values/values.lua"),
        include_str!("../src/scripts/values/commit.lua")
    );
    let revision = |wrong: bool, key: &str| {
        let done = "{queue}6";
        server.command(&["DEL", done]).unwrap();
        run(
            &server,
            commit,
            wrong,
            6,
            &["channel", "me", "60000", "1000", "100000", key, "any", "0", "put", "value"],
        );
        number(&server, &["EVAL", "return tonumber(redis.call('GET', KEYS[1]))", "1", done])
    };
    assert_eq!(revision(true, "late"), 1);
    let floored = revision(false, "in time");
    assert!(floored > 1_700_000_000_000_000, "{floored}");
    assert_eq!(revision(true, "late again"), floored + 1);
}
