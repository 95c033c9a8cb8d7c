//! The README shows what the examples print. Here each is run as a process and must print that.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

#[cfg(feature = "etcd")]
use coord_conformance::servers::{Etcd, EtcdOptions};
use coord_conformance::servers::{Postgres, PostgresOptions, Redis, RedisOptions, ZooKeeper, found};

use crate::text::{blocks, ranked, root, sessions};

/// One test for each command of the README that runs an example.
macro_rules! shown {
    ($($test:ident: $command:literal,)*) => {
        $(#[test] fn $test() { prints_what_is_shown($command, None); })*
        pub(crate) const SHOWN: &[&str] = &[$($command),*];
    };
}

shown! {
    fenced_account: "fenced_account",
    unfenced_account: "fenced_account -- --unfenced",
    fenced_table: "fenced_account -- --table",
    unfenced_table: "fenced_account -- --table --unfenced",
    leader_failover: "leader_failover",
    auto_renew: "auto_renew",
    three_workers: "three_workers",
    service_discovery: "service_discovery",
    barrier_phases: "barrier_phases",
    work_queue: "work_queue",
    live_config: "live_config",
    lock_under_partition: "lock_under_partition",
    deposit: "deposit",
}

pub(crate) const CARGO: &str = "cargo run -q -p coord-examples --bin ";

fn prints_what_is_shown(command: &str, store: Option<&str>) {
    let shown = sessions("README.md").remove(&format!("{CARGO}{command}")).expect("the README shows it");
    let folder = tempfile::tempdir().unwrap();
    let mut words = command.split(' ').filter(|word| *word != "--");
    let output = example(words.next().unwrap(), folder.path()).args(words).args(store).output().unwrap();
    let printed = succeeded(output);
    assert_eq!(ranked(&printed), ranked(&shown), "\nprinted:\n{printed}\nthe README shows:\n{shown}");
}

fn example(name: &str, folder: &Path) -> Command {
    let one = Path::new(env!("CARGO_BIN_EXE_fenced_account"));
    let program = one.with_file_name(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let mut command = Command::new(program);
    command.current_dir(folder).env_remove("COORD_STORE");
    command
}

fn succeeded(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_example_is_shown_and_run() {
    let shown = sessions("README.md").into_keys();
    let shown: BTreeSet<_> = shown.filter_map(|line| Some(line.strip_prefix(CARGO)?.to_owned())).collect();
    assert_eq!(shown, SHOWN.iter().map(|command| (*command).to_owned()).collect());
    let programs = fs::read_dir(root().join("examples/src/bin")).unwrap();
    let programs: BTreeSet<PathBuf> = programs.map(|entry| entry.unwrap().path()).collect();
    for program in programs {
        let name = program.file_stem().unwrap().to_str().unwrap();
        assert!(shown.contains(name), "{name} is not in the README");
    }
}

#[test]
fn the_library_example_is_the_compiled_one() {
    let file = fs::read_to_string(root().join("examples/src/bin/deposit.rs")).unwrap();
    let code: Vec<_> = file.lines().skip_while(|line| line.starts_with("//!") || line.is_empty()).collect();
    assert_eq!(blocks("README.md", "rust"), [code.join("\n")]);
}

#[test]
fn a_store_can_be_given() {
    let folder = tempfile::tempdir().unwrap();
    let url = |file: &str| format!("sqlite://{}", folder.path().join(file).display());
    succeeded(example("three_workers", folder.path()).arg(url("argument.db")).output().unwrap());
    assert!(folder.path().join("argument.db").exists());
    succeeded(example("three_workers", folder.path()).env("COORD_STORE", url("env.db")).output().unwrap());
    assert!(folder.path().join("env.db").exists());
    let unknown = example("three_workers", folder.path()).arg("nowhere://host").output().unwrap();
    assert!(!unknown.status.success());
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("nowhere"), "{unknown:?}");
}

/// The same programs on a server print what the README shows for SQLite.
fn on_a_server(url: &str) {
    for command in SHOWN {
        // This one shows how a store of its own is connected.
        if *command != "deposit" {
            prints_what_is_shown(command, Some(url));
        }
    }
}

#[test]
fn on_redis() {
    let Some(server) = found(Redis::start(&RedisOptions::default())) else { return };
    on_a_server(&server.url());
    let calls = server.calls().unwrap();
    assert!(calls.get("evalsha").is_some_and(|scripts| *scripts > 100), "{calls:?}");
}

#[test]
fn on_zookeeper() {
    let Some(server) = found(ZooKeeper::shared()) else { return };
    on_a_server(&server.fresh());
}

#[cfg(feature = "etcd")]
#[test]
fn on_etcd() {
    let Some(server) = found(Etcd::start(&EtcdOptions::default())) else { return };
    on_a_server(&server.url());
    let calls = server.calls().unwrap();
    assert!(calls.get("Txn").is_some_and(|transactions| *transactions > 100), "{calls:?}");
}

#[test]
fn on_postgres() {
    let Some(server) = found(Postgres::start(&PostgresOptions::default())) else { return };
    on_a_server(&server.url());
    assert_ne!(server.query("SELECT count(*) FROM coord.gone_items").unwrap(), "0");
}
