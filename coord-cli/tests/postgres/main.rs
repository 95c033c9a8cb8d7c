//! The command on a real Postgres server: every family of commands, refusals, and `coord doctor`.

#[path = "../support/recipes.rs"]
mod recipes;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;

use coord_conformance::servers::{self, Postgres, PostgresOptions, Test, Unavailable};
use support::Store;

/// A server and a store of the test's own in it.
fn shared(_test: &str) -> Result<(Postgres, Store), Unavailable> {
    let server = Postgres::start(&PostgresOptions::default().with_own())?;
    let store = Store::at(server.url());
    Ok((server, store))
}

fn refusals_say_what_to_do_and_show_no_password() -> Result<(), Unavailable> {
    let server = Postgres::start(&PostgresOptions::default().with_own())?;
    let missing = format!("{}-not-there", server.url());
    for (url, word) in [(server.url_as("postgres", "hunter2"), "password"), (missing, "database")] {
        let refused = Store::at(url).run(&["-vvv", "lock", "x", "--", "echo", "ran"]);
        assert_eq!((refused.status, refused.stdout.as_str()), (69, ""), "{refused:?}");
        assert!(refused.stderr.contains(word), "{refused:?}");
        assert!(!refused.stderr.contains("hunter2") && !refused.stderr.contains("secret"), "{refused:?}");
    }
    Ok(())
}

fn doctor_names_what_weakens() -> Result<(), Unavailable> {
    let weak = PostgresOptions::default().with_own().with_setting("full_page_writes", "off");
    let server = Postgres::start(&weak)?;
    let store = Store::at(server.url());
    let seen = store.json(&["doctor", "--json"]).remove(0);
    assert_eq!((&seen["backend"], &seen["guarantees"]["scope"]), (&"postgres".into(), &"network".into()));
    let weaknesses = seen["weaknesses"].as_array().unwrap();
    let settings: Vec<_> = weaknesses.iter().map(|weakness| weakness["setting"].as_str().unwrap()).collect();
    assert!(settings.contains(&"full_page_writes"), "{settings:?}");
    let text = store.run(&["doctor"]);
    assert_eq!((text.status, text.stderr.as_str()), (0, ""), "{text:?}");
    assert!(text.stdout.contains("full_page_writes = on") && !text.stdout.contains("secret"), "{text:?}");
    Ok(())
}

fn main() -> ExitCode {
    let own: &[Test] = &[
        ("refusals_say_what_to_do_and_show_no_password", refusals_say_what_to_do_and_show_no_password),
        ("doctor_names_what_weakens", doctor_names_what_weakens),
    ];
    servers::tests(&[recipes::ALL, own].concat())
}
