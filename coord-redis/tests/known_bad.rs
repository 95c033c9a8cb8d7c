//! A Redlock as it is often written, on three servers, in the same trouble and before the same checkers as ours.
//!
//! It sets a key on each server if there is none, with an expiry; who has two of three holds the lock. For a fencing token it
//! counts on each server, and takes the highest of the numbers that it got. Nothing keeps the counters in step, so tokens
//! come twice when servers take turns in being silent; and servers that come back empty let a second one hold.

use std::time::Duration;

use coord_conformance::{
    checkers::{self, Violation, intervals, tokens},
    history::{Ask, Event, History, Holding, Op, Outcome, Recorder},
    servers::{Redis, RedisOptions},
};
use coord_core::{
    Error, ErrorKind, FencingToken, Lock, LockOptions, Result,
    clock::{Clock, Moment},
};
use fastrand::Rng;
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::common::{coordinator, name, server_with};

/// How often a guard is asked whether it is held.
const SAMPLE: Duration = Duration::from_millis(5);
/// How long a server may take.
const CALL: Duration = Duration::from_millis(100);
/// Within how many histories a checker has to see it.
const HISTORIES: u64 = 50;
/// How many of ours the checkers have to find good.
const CONTROLS: u64 = 5;
const LENGTH: Duration = Duration::from_secs(4);

const SET: &str = "if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return redis.call('INCR', KEYS[2]) end \
                   return 0";
const DELETE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

/// One of those who want the lock.
#[derive(Clone)]
struct Redlock {
    servers: Vec<redis::Client>,
    lock: String,
    ttl: Duration,
}

struct Locked {
    of: Redlock,
    id: String,
    token: FencingToken,
    until: Moment,
}

impl Redlock {
    fn new(servers: &[Redis], lock: String, ttl: Duration) -> Self {
        let client = |server: &Redis| redis::Client::open(server.url()).unwrap();
        Self { servers: servers.iter().map(client).collect(), lock, ttl }
    }

    /// What each server answers; zero of one that does not.
    async fn ask(&self, script: &str, id: &str) -> Vec<u64> {
        let one = |server: redis::Client| async move {
            let mut connection = server.get_multiplexed_async_connection().await?;
            let mut call = redis::cmd("EVAL");
            call.arg(script).arg(2).arg(&self.lock).arg(format!("{}:counter", self.lock));
            call.arg(id).arg(u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX));
            call.query_async::<u64>(&mut connection).await
        };
        let asked = self.servers.iter().map(|server| timeout(CALL, one(server.clone())));
        join_all(asked)
            .await
            .into_iter()
            .map(|answer| answer.ok().and_then(std::result::Result::ok).unwrap_or(0))
            .collect()
    }

    async fn acquire(self, patience: Duration) -> Result<Locked> {
        let start = Clock::System.now();
        while Clock::System.now().since(start) < patience {
            let (id, asked) = (format!("{:032x}", fastrand::u128(..)), Clock::System.now());
            let answers = self.ask(SET, &id).await;
            let (until, yes) = (asked.after(self.ttl), answers.iter().filter(|answer| **answer > 0).count());
            if yes > self.servers.len() / 2 && Clock::System.now() < until {
                let highest = answers.into_iter().max().unwrap_or(0);
                let token = FencingToken::new(highest).expect("a number from one on");
                return Ok(Locked { of: self, id, token, until });
            }
            self.ask(DELETE, &id).await;
            sleep(Duration::from_millis(fastrand::u64(5..50))).await;
        }
        Err(Error::new(ErrorKind::NotGranted, "it was not free in time"))
    }
}

impl Holding for Locked {
    fn token(&self) -> FencingToken {
        self.token
    }
    fn is_held(&self) -> bool {
        Clock::System.now() < self.until
    }
    async fn lost(&self) {
        while self.is_held() {
            sleep(SAMPLE).await;
        }
    }
    async fn release(self) -> Result<()> {
        self.of.ask(DELETE, &self.id).await;
        Ok(())
    }
}

/// Holds for so long, looking all the time whether it is held, and releases. Whether it was granted.
async fn hold<G: Holding>(
    recorder: &Recorder,
    locking: impl Future<Output = Result<G>>,
    length: Duration,
) -> bool {
    let Ok(held) = recorder.attempt("lock/till", Ask::lock()).acquire(locking).await else { return false };
    let _ = timeout(length, held.watch(SAMPLE)).await;
    held.is_held();
    // What a failed release says is in the history.
    let _ = held.release().await;
    true
}

fn fault(history: &History, kind: &str, from: coord_conformance::history::Stamp, server: usize) {
    let object = format!("server-{server}");
    history.client("nemesis").since(from, &object, Op::Fault { kind: kind.into() }, Outcome::Ok);
}

/// Servers are silent, one after the other.
async fn stops(history: &History, servers: &[Redis], seed: u64) {
    let (mut rng, start) = (Rng::with_seed(seed), Clock::System.now());
    while Clock::System.now().since(start) < LENGTH {
        let (at, from) = (rng.usize(..servers.len()), history.stamp());
        servers[at].stop().unwrap();
        sleep(Duration::from_millis(rng.u64(200..500))).await;
        servers[at].resume().unwrap();
        fault(history, "server-stop", from, at);
        sleep(Duration::from_millis(rng.u64(20..100))).await;
    }
}

/// Three work under one lock while servers are silent in turn.
async fn with_stops(servers: &[Redis], seed: u64, ours: bool) -> Vec<Event> {
    let history = History::new(Clock::System);
    let mut workers = Vec::new();
    for worker in 0..3 {
        let (recorder, text) = (history.client(format!("worker-{worker}")), format!("till{seed}"));
        let redlock = Redlock::new(servers, text.clone(), Duration::from_secs(1));
        let client = if ours { Some(coordinator(&servers[0]).await) } else { None };
        workers.push(tokio::spawn(async move {
            let (start, options) =
                (Clock::System.now(), LockOptions::default().with_ttl(Duration::from_secs(1)));
            let options = options.with_wait(Duration::from_secs(2));
            while Clock::System.now().since(start) < LENGTH {
                let length = Duration::from_millis(fastrand::u64(10..60));
                match &client {
                    Some(client) => hold(&recorder, client.acquire(&name(&text), &options), length).await,
                    None => hold(&recorder, redlock.clone().acquire(Duration::from_secs(2)), length).await,
                };
                sleep(Duration::from_millis(fastrand::u64(0..20))).await;
            }
        }));
    }
    stops(&history, servers, seed).await;
    for worker in workers {
        worker.await.unwrap();
    }
    history.events()
}

/// One holds while every server in turn is killed and started again, and another one comes.
async fn with_restarts(servers: &mut [Redis], seed: u64, ours: bool) -> Vec<Event> {
    let (history, text, ttl) = (History::new(Clock::System), format!("safe{seed}"), Duration::from_secs(5));
    let mut rng = Rng::with_seed(seed);
    let options = LockOptions::default().with_ttl(ttl).with_wait(Duration::from_secs(10));
    let mut tasks = Vec::new();
    for client in ["first", "second"] {
        let (recorder, text, options) = (history.client(client), text.clone(), options.clone());
        let redlock = Redlock::new(servers, text.clone(), ttl);
        let client = if ours { Some(coordinator(&servers[0]).await) } else { None };
        tasks.push(tokio::spawn(async move {
            let length = Duration::from_secs(2);
            match &client {
                Some(client) => hold(&recorder, client.acquire(&name(&text), &options), length).await,
                None => hold(&recorder, redlock.acquire(Duration::from_secs(10)), length).await,
            }
        }));
        sleep(Duration::from_millis(rng.u64(100..200))).await;
    }
    for (at, server) in servers.iter_mut().enumerate() {
        let from = history.stamp();
        server.kill().unwrap();
        server.restart().unwrap();
        fault(&history, "server-kill", from, at);
    }
    for task in tasks {
        assert!(task.await.unwrap(), "{history}");
    }
    history.events()
}

fn three() -> Option<Vec<Redis>> {
    (0..3).map(|_| server_with(&RedisOptions::default().with_own())).collect()
}

/// One server as ours needs it: it keeps what it had.
fn durable() -> Option<Vec<Redis>> {
    server_with(&RedisOptions::default().with_own().with_append_only()).map(|server| vec![server])
}

#[track_caller]
fn caught(found: Option<(u64, Violation)>, checker: &str) {
    let (seed, violation) = found.expect("a violation, in one of the histories");
    assert_eq!(violation.checker, checker, "{violation}");
    println!("after {seed} histories: {violation}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redlock_gives_tokens_twice_when_servers_are_silent_in_turn() {
    let Some(servers) = three() else { return };
    let mut found = None;
    for seed in 1..=HISTORIES {
        let events = with_stops(&servers, seed, false).await;
        if let Err(violation) = tokens::check(&events) {
            found = Some((seed, violation));
            break;
        }
    }
    caught(found, tokens::NAME);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redlock_lets_two_hold_when_servers_come_back_empty() {
    let Some(mut servers) = three() else { return };
    let mut found = None;
    for seed in 1..=HISTORIES {
        let events = with_restarts(&mut servers, seed, false).await;
        if let Err(violation) = intervals::check(&events) {
            found = Some((seed, violation));
            break;
        }
    }
    caught(found, intervals::NAME);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours_gives_no_token_twice() {
    let Some(servers) = durable() else { return };
    for seed in 1..=CONTROLS {
        let events = with_stops(&servers, seed, true).await;
        checkers::check(&events).unwrap();
        let granted = |event: &&Event| matches!(event.op, Op::Acquire { .. }) && event.outcome == Outcome::Ok;
        assert!(events.iter().filter(granted).count() > 5, "{events:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours_lets_no_two_hold() {
    let Some(mut servers) = durable() else { return };
    for seed in 1..=CONTROLS {
        checkers::check(&with_restarts(&mut servers, seed, true).await).unwrap();
    }
}
