//! The command on a real ZooKeeper server: every family of commands, refusals, and `coord doctor`.

#[path = "../support/recipes.rs"]
mod recipes;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;

use coord_conformance::servers::{self, Test, Unavailable, ZooKeeper};
use support::Store;

/// The server of this process, and a store of the test's own in it.
fn shared(_test: &str) -> Result<(&'static ZooKeeper, Store), Unavailable> {
    let server = ZooKeeper::shared()?;
    Ok((server, Store::at(server.fresh())))
}

fn refusals_say_what_to_do_and_show_no_password() -> Result<(), Unavailable> {
    let (_server, store) = shared("refusals")?;
    assert_eq!(store.run(&["-vvv", "lock", "x", "--", "true"]).status, 0);
    let nobody =
        Store::at("zk://me:hunter2@127.0.0.1:1,127.0.0.1:2").run(&["lock", "x", "--", "echo", "ran"]);
    assert_eq!((nobody.status, nobody.stdout.as_str()), (69, ""), "{nobody:?}");
    assert!(!nobody.stderr.contains("hunter2"), "{nobody:?}");
    Ok(())
}

fn doctor_names_what_weakens() -> Result<(), Unavailable> {
    let (_server, store) = shared("doctor")?;
    let seen = store.json(&["doctor", "--json"]).remove(0);
    assert_eq!((&seen["backend"], &seen["guarantees"]["scope"]), (&"zookeeper".into(), &"network".into()));
    assert!(seen["facts"]["version"].as_str().is_some_and(|version| !version.is_empty()), "{seen}");
    assert!(!seen["weaknesses"].as_array().unwrap().is_empty(), "one server is one point of failure: {seen}");
    let text = store.run(&["doctor"]);
    assert_eq!((text.status, text.stderr.as_str()), (0, ""), "{text:?}");
    Ok(())
}

fn main() -> ExitCode {
    let own: &[Test] = &[
        ("refusals_say_what_to_do_and_show_no_password", refusals_say_what_to_do_and_show_no_password),
        ("doctor_names_what_weakens", doctor_names_what_weakens),
    ];
    servers::tests(&[recipes::ALL, own].concat())
}
