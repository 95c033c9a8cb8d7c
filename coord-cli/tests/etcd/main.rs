//! The command on a real etcd server: every family of commands, refusals, and `coord doctor`.

#[path = "../support/recipes.rs"]
mod recipes;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;

use coord_conformance::servers::{self, Etcd, EtcdOptions, Test, Unavailable};
use support::Store;

/// A server that may be shared with other tests, and a store of the test's own in it: a namespace that the URL names.
fn shared(test: &str) -> Result<(Etcd, Store), Unavailable> {
    let server = Etcd::start(&EtcdOptions::default())?;
    let (url, pid) = (server.url(), std::process::id());
    let mark = if url.contains('?') { '&' } else { '?' };
    let store = Store::at(format!("{url}{mark}namespace=cli-{test}-{pid}"));
    Ok((server, store))
}

fn refusals_say_what_to_do_and_show_no_password() -> Result<(), Unavailable> {
    let server = Etcd::start(&EtcdOptions::default().with_user("app", "right-hunter2", &["coord/"]))?;
    let refused = Store::at(server.url_as("app", "hunter2")).run(&["-vvv", "lock", "x", "--", "echo", "ran"]);
    assert_eq!((refused.status, refused.stdout.as_str()), (69, ""), "{refused:?}");
    assert!(refused.stderr.contains("password") && !refused.stderr.contains("hunter2"), "{refused:?}");
    let store = Store::at(server.url_as("app", "right-hunter2"));
    let ran = store.run(&["-vvv", "lock", "x", "--", "echo", "ran"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "ran\n"), "{ran:?}");
    assert!(!ran.stderr.contains("hunter2"), "{ran:?}");
    let nobody =
        Store::at("etcd://me:hunter2@127.0.0.1:1,127.0.0.1:2").run(&["lock", "x", "--", "echo", "ran"]);
    assert_eq!((nobody.status, nobody.stdout.as_str()), (69, ""), "{nobody:?}");
    assert!(!nobody.stderr.contains("hunter2"), "{nobody:?}");
    Ok(())
}

fn doctor_names_what_weakens() -> Result<(), Unavailable> {
    let (_server, store) = shared("doctor")?;
    let seen = store.json(&["doctor", "--json"]).remove(0);
    assert_eq!((&seen["backend"], &seen["guarantees"]["scope"]), (&"etcd".into(), &"network".into()));
    assert!(seen["facts"]["version"].as_str().is_some_and(|version| !version.is_empty()), "{seen}");
    assert!(!seen["weaknesses"].as_array().unwrap().is_empty(), "one member is one point of failure: {seen}");
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
