//! The command on a real Redis server: every family of commands, servers that do not answer, and `coord doctor`.

mod doctor;
#[path = "../support/recipes.rs"]
mod recipes;
#[path = "../support/mod.rs"]
mod support;
mod troubles;

use std::process::ExitCode;

use coord_conformance::servers::{self, Redis, RedisOptions, Test, Unavailable};
use support::Store;

/// A server that may be shared with other tests, and a store of the test's own in it: a namespace that the URL names.
fn shared(test: &str) -> Result<(Redis, Store), Unavailable> {
    let server = Redis::start(&RedisOptions::default())?;
    let (url, pid) = (server.url(), std::process::id());
    let mark = if url.contains('?') { '&' } else { '?' };
    let store = Store::at(format!("{url}{mark}namespace=cli-{test}-{pid}"));
    Ok((server, store))
}

fn the_option_goes_before_the_urls_namespace() -> Result<(), Unavailable> {
    let (_server, store) = shared("namespace")?;
    let (holder, _) = recipes::hold(&store, &["lock", "x"]);
    let other = format!("cli-other-{}", std::process::id());
    for (namespace, status) in [(&[][..], 75), (&["--namespace", &other], 0)] {
        let outcome = store.run(&[namespace, &["lock", "x", "--no-wait", "--", "true"]].concat());
        assert_eq!(outcome.status, status, "{outcome:?}");
    }
    let seen = store.json(&["doctor", "--json", "--namespace", &other]).remove(0);
    assert_eq!(seen["namespace"], other.as_str());
    recipes::end(holder);
    Ok(())
}

fn main() -> ExitCode {
    let own: &[Test] = &[
        ("the_option_goes_before_the_urls_namespace", the_option_goes_before_the_urls_namespace),
        ("a_wrong_password_is_refused_and_not_shown", troubles::a_wrong_password_is_refused_and_not_shown),
        ("a_user_without_rights_is_told_so", troubles::a_user_without_rights_is_told_so),
        ("nobody_listens", troubles::nobody_listens),
        ("a_stopped_server_is_given_up", troubles::a_stopped_server_is_given_up),
        ("a_lock_is_lost_with_its_server", troubles::a_lock_is_lost_with_its_server),
        ("a_socket_and_tls", troubles::a_socket_and_tls),
        ("doctor_names_what_weakens", doctor::names_what_weakens),
        ("doctor_finds_nothing_on_a_strict_server", doctor::finds_nothing_on_a_strict_server),
        ("doctor_says_what_it_may_not_ask", doctor::says_what_it_may_not_ask),
        ("doctor_fails_if_the_store_cannot_be_used", doctor::fails_if_the_store_cannot_be_used),
    ];
    servers::tests(&[recipes::ALL, own].concat())
}
