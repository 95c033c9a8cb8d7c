//! Real servers, as the suite starts and ends them: `cargo test -p coord-conformance --test servers [FILTER]`.
#![cfg(unix)]

mod child;
#[cfg(feature = "containers")]
mod containers;
mod ending;
mod etcd;
mod finding;
mod postgres;
mod redis;
mod zookeeper;

use std::process::ExitCode;

use coord_conformance::servers::{self, Test};

/// The tests of the modules, with their names.
macro_rules! tests {
    ($($module:ident :: $test:ident),* $(,)?) => {
        [$((concat!(stringify!($module), "::", stringify!($test)), $module::$test as _)),*]
    };
}

#[cfg(feature = "containers")]
pub(crate) use tests;

fn main() -> ExitCode {
    if let Some(code) = child::main() {
        return code;
    }
    let here: [Test; 45] = tests![
        ending::a_dropped_server_leaves_nothing,
        ending::a_panic_leaves_no_server,
        ending::a_killed_process_leaves_no_server,
        ending::a_killed_process_leaves_no_stopped_server,
        ending::a_killed_process_leaves_no_folder_of_a_killed_server,
        finding::the_server_of_the_url_is_used,
        finding::a_server_of_the_url_is_not_killed,
        finding::a_bad_url_is_not_repeated,
        finding::a_missing_program_gives_the_reason,
        finding::a_missing_server_is_ignored_and_fails_in_ci,
        finding::a_broken_server_fails_everywhere,
        finding::a_suite_without_a_server_is_ignored_and_fails_in_ci,
        redis::many_at_once_are_apart,
        redis::a_restart_keeps_the_append_only_file,
        redis::a_restart_without_a_file_keeps_nothing,
        redis::a_stopped_server_answers_when_it_goes_on,
        redis::users_have_their_passwords_and_rights,
        redis::settings_arrive,
        redis::calls_are_counted_at_the_server,
        redis::tls_is_spoken_and_nothing_else,
        redis::what_is_kept_is_told,
        postgres::several_at_once_are_apart,
        postgres::a_restart_keeps_what_was_committed,
        postgres::a_killed_server_has_no_processes_left,
        postgres::a_stopped_server_answers_when_it_goes_on,
        postgres::users_have_their_passwords_and_rights,
        postgres::settings_arrive,
        postgres::a_bad_statement_is_told,
        postgres::tls_is_spoken_and_nothing_else,
        postgres::what_is_kept_is_told,
        etcd::several_at_once_are_apart,
        etcd::a_restart_keeps_everything,
        etcd::a_stopped_server_answers_when_it_goes_on,
        etcd::users_have_their_passwords_and_rights,
        etcd::arguments_arrive_and_calls_are_counted,
        etcd::tls_is_spoken_and_nothing_else,
        etcd::a_cluster_finds_another_leader,
        etcd::what_is_kept_is_told,
        zookeeper::several_at_once_are_apart,
        zookeeper::a_restart_keeps_what_was_written,
        zookeeper::a_stopped_server_answers_when_it_goes_on,
        zookeeper::settings_and_properties_arrive,
        zookeeper::one_server_serves_many_places,
        zookeeper::an_ensemble_finds_another_leader,
        zookeeper::what_is_kept_is_told,
    ];
    #[cfg(not(feature = "containers"))]
    let contained = Vec::<Test>::new();
    #[cfg(feature = "containers")]
    let contained = containers::all();
    servers::tests(&[here.as_slice(), &contained].concat())
}
