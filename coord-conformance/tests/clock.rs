//! Servers whose clocks are stepped: `cargo test -p coord-conformance --test clock`.
#![cfg(unix)]

mod session;

use std::{
    process::{Command, Stdio},
    time::SystemTime,
};

use coord_conformance::servers::{
    Postgres, PostgresOptions, Redis, RedisOptions, ServerClock, ZooKeeper, ZooKeeperOptions, found,
    redis::Reply,
};
use coord_core::clock;
use session::Session;

const HOUR: i64 = 3_600_000;
/// How much a server's time may be off beside what it was stepped by.
const SLACK: i64 = 1_000;

fn now() -> i64 {
    let now = clock::wall().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

/// The time that is asked for is ahead of the true one by so many milliseconds.
#[track_caller]
fn is_ahead(by: i64, ask: impl FnOnce() -> i64) {
    let before = now();
    let told = ask() - by;
    let after = now();
    assert!((before - SLACK..=after + SLACK).contains(&told), "{} ms ahead, not {by}", told + by - after);
}

/// The server's time follows its clock, and is the true time before and after.
fn follows(clock: &ServerClock, ask: impl Fn() -> i64) {
    is_ahead(0, &ask);
    clock.step(HOUR).unwrap();
    is_ahead(HOUR, &ask);
    clock.step(-2 * HOUR).unwrap();
    is_ahead(-HOUR, &ask);
    assert_eq!(clock.ahead(), -HOUR);
    clock.heal().unwrap();
    is_ahead(0, &ask);
    // Strobing: each step is seen at once.
    for _ in 0..20 {
        clock.step(2_500).unwrap();
        is_ahead(2_500, &ask);
        clock.step(-5_000).unwrap();
        is_ahead(-2_500, &ask);
        clock.step(2_500).unwrap();
    }
    assert!(clock.step(i64::MAX).is_err(), "no time is so far away");
}

fn redis_time(redis: &Redis) -> i64 {
    let Reply::Array(parts) = redis.command(&["TIME"]).unwrap() else { panic!("no array") };
    let number = |at: usize| parts[at].text().parse::<i64>().unwrap();
    number(0) * 1_000 + number(1) / 1_000
}

#[test]
fn redis_follows_its_clock() {
    let Some(mut redis) = found(Redis::start(&RedisOptions::default().with_clock())) else { return };
    follows(redis.clock().unwrap(), || redis_time(&redis));
    redis.clock().unwrap().step(HOUR).unwrap();
    redis.restart().unwrap();
    is_ahead(HOUR, || redis_time(&redis));
}

#[test]
fn what_expires_on_redis_does_so_by_its_clock() {
    let Some(redis) = found(Redis::start(&RedisOptions::default().with_clock())) else { return };
    let left = || match redis.command(&["PTTL", "lease"]).unwrap() {
        Reply::Integer(left) => left,
        other => panic!("{other:?}"),
    };
    redis.command(&["SET", "lease", "x", "PX", &HOUR.to_string()]).unwrap();
    // The control: the clock stands as it is.
    assert!((0..=HOUR).contains(&left()), "{}", left());
    redis.clock().unwrap().step(-HOUR).unwrap();
    assert!(left() > HOUR, "{}", left());
    redis.clock().unwrap().step(3 * HOUR).unwrap();
    assert_eq!(left(), -2, "it is gone");
}

fn postgres_time(postgres: &Postgres) -> i64 {
    let time = postgres.query("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint").unwrap();
    time.parse().unwrap()
}

#[test]
fn postgres_follows_its_clock() {
    let Some(postgres) = found(Postgres::start(&PostgresOptions::default().with_clock())) else { return };
    follows(postgres.clock().unwrap(), || postgres_time(&postgres));
}

#[test]
fn zookeeper_follows_its_clock_and_keeps_its_sessions() {
    let Some(server) = found(ZooKeeper::start(&ZooKeeperOptions::default().with_clock())) else { return };
    let session = std::cell::RefCell::new((Session::open(server.address()), 0));
    follows(server.clock().unwrap(), || {
        let (session, number) = &mut *session.borrow_mut();
        *number += 1;
        let path = format!("/node-{number}");
        session.create(&path);
        session.receive().unwrap();
        session.made(&path).unwrap()
    });
}

/// The control: a server without such a clock has none to step, and another one's does not reach it.
#[test]
fn a_server_without_one_keeps_the_true_time() {
    let Some(stepped) = found(Redis::start(&RedisOptions::default().with_clock())) else { return };
    let Some(redis) = found(Redis::start(&RedisOptions::default().with_own())) else { return };
    stepped.clock().unwrap().step(HOUR).unwrap();
    is_ahead(HOUR, || redis_time(&stepped));
    assert!(redis.clock().is_none());
    is_ahead(0, || redis_time(&redis));
}

/// Says to this program that it is a child, where no compiler is found.
const CHILD: &str = "COORD_TEST_HAS_NO_COMPILER";

#[test]
fn without_a_compiler_it_says_so() {
    if std::env::var_os(CHILD).is_some() {
        let missing = Redis::start(&RedisOptions::default().with_clock()).unwrap_err();
        println!("\nreason {} {}", missing.is_broken(), missing.reason());
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "without_a_compiler_it_says_so", "--nocapture"]);
    command.env(CHILD, "1").env("PATH", "/nonexistent").stdin(Stdio::null());
    let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(output.contains("reason false cc is not on PATH"), "{output}");
}
