//! Servers that let nobody in or do not answer, and other ways to reach one.

use std::{net::TcpListener, time::Duration};

use coord_conformance::servers::{Redis, RedisOptions, Unavailable};
use coord_core::clock::Clock;

use crate::support::{Store, bare, run};

/// Far longer than any store takes to say that it does not answer, also on a loaded machine.
const SOON: Duration = Duration::from_secs(30);

const LOCK: [&str; 5] = ["lock", "x", "--", "echo", "ran"];

/// The store cannot be reached: the status says so, the command does not run, and no secret is shown.
fn unreachable(store: &Store, more: &[&str]) -> String {
    let start = Clock::System.now();
    let outcome = store.run(&[more, &LOCK].concat());
    assert!(Clock::System.now().since(start) < SOON);
    assert_eq!((outcome.status, outcome.stdout.as_str()), (69, ""), "{outcome:?}");
    assert!(!outcome.stderr.contains("hunter2"), "{outcome:?}");
    outcome.stderr
}

pub(crate) fn a_wrong_password_is_refused_and_not_shown() -> Result<(), Unavailable> {
    let server = Redis::start(&RedisOptions::default().with_password("right-hunter2"))?;
    for url in [server.url_as("default", "hunter2"), format!("redis://127.0.0.1:{}", server.port())] {
        let said = unreachable(&Store::at(&url), &[]);
        assert!(said.starts_with("coord: ") && said.contains("password"), "{said}");
        unreachable(&Store::at(&url), &["-vvv"]);
        unreachable(&Store::at(&url), &["--json"]);
    }
    let store = Store::at(server.url());
    assert_eq!(store.run(&LOCK).stdout, "ran\n");
    for arguments in [&["-vvv", "lock", "x", "--", "true"][..], &["doctor"], &["doctor", "--json"]] {
        let outcome = store.run(arguments);
        assert_eq!(outcome.status, 0, "{outcome:?}");
        assert!(!format!("{outcome:?}").contains("hunter2"), "{outcome:?}");
    }
    Ok(())
}

pub(crate) fn a_user_without_rights_is_told_so() -> Result<(), Unavailable> {
    let server =
        Redis::start(&RedisOptions::default().with_user("reader", "on >hunter2 ~* &* +@read +info"))?;
    let said = unreachable(&Store::at(server.url_as("reader", "hunter2")), &[]);
    assert!(said.contains("may not"), "{said}");
    Ok(())
}

pub(crate) fn nobody_listens() -> Result<(), Unavailable> {
    // A port that was free a moment ago. Nobody is asked for a server.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let said = unreachable(&Store::at(format!("redis://me:hunter2@127.0.0.1:{port}")), &[]);
    assert!(said.contains("nobody listens"), "{said}");
    unreachable(&Store::at("unix:///nowhere/at/all.sock?password=hunter2"), &[]);
    let outcome =
        run(bare(&["doctor", "--json"]).env("COORD_STORE", format!("redis://:hunter2@127.0.0.1:{port}")));
    let error: serde_json::Value = serde_json::from_str(&outcome.stderr).unwrap();
    assert_eq!((outcome.status, &error["status"]), (69, &69.into()));
    Ok(())
}

pub(crate) fn a_stopped_server_is_given_up() -> Result<(), Unavailable> {
    let server = Redis::start(&RedisOptions::default().with_own())?;
    let store = Store::at(format!("{}?timeout=0.3", server.url()));
    assert_eq!(store.run(&LOCK).status, 0);
    server.stop().unwrap();
    let said = unreachable(&store, &[]);
    assert!(said.contains("in time") || said.contains("answer"), "{said}");
    server.resume().unwrap();
    assert_eq!(store.run(&LOCK).status, 0);
    Ok(())
}

/// The command must not outlive the lock, whatever became of the server.
pub(crate) fn a_lock_is_lost_with_its_server() -> Result<(), Unavailable> {
    let server = Redis::start(&RedisOptions::default().with_own())?;
    let store = Store::at(format!("{}?timeout=0.3", server.url()));
    let script = "echo held; cat; echo went on";
    let mut holder = store.start(&["lock", "x", "--ttl", "1s", "--", "sh", "-c", script]);
    assert_eq!(holder.line(), "held");
    server.kill().unwrap();
    let lost = holder.end();
    assert_eq!((lost.status, lost.stdout.as_str()), (79, ""), "{lost:?}");
    Ok(())
}

pub(crate) fn a_socket_and_tls() -> Result<(), Unavailable> {
    let server = Redis::start(&RedisOptions::default().with_own())?;
    if let Some(socket) = server.socket() {
        let store = Store::at(format!("unix://{}", socket.display()));
        assert_eq!(store.run(&LOCK).stdout, "ran\n");
        // Another way to the same server.
        assert_eq!(store.run(&["config", "put", "k", "v"]).status, 0);
        assert_eq!(Store::at(server.url()).run(&["config", "get", "k"]).stdout, "v");
    }
    let server = Redis::start(&RedisOptions::default().with_tls())?;
    let authority = server.authority().expect("a server with TLS has an authority");
    let trusting = Store::at(format!("{}?ca={}", server.url(), authority.display()));
    assert_eq!(trusting.run(&LOCK).stdout, "ran\n");
    let said = unreachable(&Store::at(server.url()), &[]);
    assert!(said.contains("not trusted"), "{said}");
    Ok(())
}
