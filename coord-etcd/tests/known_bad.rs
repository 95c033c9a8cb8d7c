//! etcd's own lock, which the server offers as an RPC, in the same trouble and before the same checkers as ours.
//!
//! A client waits, and its lease ends before its turn comes. A server of version 3.4 answers it *locked* nevertheless, as
//! soon as those ahead have gone: it does not look whether the key of the one who waited is still there. The next in line
//! is answered so too, and both hold. This shows that the checkers see what they are there for, in histories of real
//! servers, and that this crate was right to leave that RPC alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use coord_conformance::{
    checkers::{self, Judgement, intervals},
    history::{Ask, History, Holding, Op, Outcome, Recorder},
    servers::Etcd,
};
use coord_core::{Error, ErrorKind, FencingToken, Lock, LockOptions, Result, clock::Clock};
use etcd_client::{Client, GetOptions};
use fastrand::Rng;
use tokio::{
    sync::oneshot,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::common::{LONG, coordinator, name, server};

const TTL: Duration = Duration::from_secs(3);
/// How often a guard is asked whether it is held.
const SAMPLE: Duration = Duration::from_millis(5);
/// Within how many histories the checker has to see it.
const HISTORIES: u64 = 50;
/// How many of ours it has to find good, and of theirs where nothing strikes.
const CONTROLS: u64 = 10;
/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whose lock.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Whose {
    Ours,
    Rpc,
}

/// A lock by the RPC. It is held until a request to keep its lease says that there is none, as its users have it.
struct ByRpc {
    client: Client,
    key: Vec<u8>,
    token: FencingToken,
    held: Arc<AtomicBool>,
    keeping: JoinHandle<()>,
}

fn failed(error: etcd_client::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the RPC failed").with_source(error)
}

impl ByRpc {
    async fn acquire(address: String, name: String) -> Result<Self> {
        let mut client = Client::connect([address], None).await.map_err(failed)?;
        let ttl = i64::try_from(TTL.as_secs()).unwrap();
        let lease = client.lease_grant(ttl, None).await.map_err(failed)?.id();
        let held = Arc::new(AtomicBool::new(true));
        let keeping = tokio::spawn(keep(client.clone(), lease, held.clone()));
        let options = etcd_client::LockOptions::new().with_lease(lease);
        let answer = client.lock(name, Some(options)).await.map_err(failed)?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        let token = FencingToken::new(u64::try_from(revision).unwrap()).unwrap();
        Ok(Self { key: answer.key().to_vec(), client, token, held, keeping })
    }
}

/// Keeps a lease for as long as it can be kept.
async fn keep(mut client: Client, lease: i64, held: Arc<AtomicBool>) {
    let Ok((mut keeper, mut answers)) = client.lease_keep_alive(lease).await else { return };
    loop {
        let asked = keeper.keep_alive().await.is_ok();
        let answer = answers.message().await;
        if !asked || !matches!(answer, Ok(Some(answer)) if answer.ttl() > 0) {
            return held.store(false, Ordering::SeqCst);
        }
        sleep(TTL / 3).await;
    }
}

impl Drop for ByRpc {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

impl Holding for ByRpc {
    fn token(&self) -> FencingToken {
        self.token
    }
    fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }
    async fn lost(&self) {
        while self.is_held() {
            sleep(SAMPLE).await;
        }
    }
    async fn release(mut self) -> Result<()> {
        let key = std::mem::take(&mut self.key);
        self.client.unlock(key).await.map(drop).map_err(failed)
    }
}

/// Holds for as long as told, looking all the time whether it is held, and releases.
async fn hold<G: Holding>(
    recorder: Recorder,
    locking: impl Future<Output = Result<G>>,
    until: impl Future<Output = ()>,
) {
    let Ok(held) = recorder.attempt("lock/till", Ask::lock()).acquire(locking).await else { return };
    tokio::select! {
        () = until => {}
        () = held.watch(SAMPLE) => {}
    }
    held.is_held();
    // What a failed release says is in the history.
    let _ = held.release().await;
}

/// The leases of those who hold or wait, in their order.
async fn leases(raw: &mut Client, name: &str) -> Vec<i64> {
    let found = raw.get("", Some(GetOptions::new().with_all_keys())).await.unwrap();
    let of_name =
        |key: &&etcd_client::KeyValue| key.lease() != 0 && String::from_utf8_lossy(key.key()).contains(name);
    let mut keys: Vec<_> = found.kvs().iter().filter(of_name).collect();
    keys.sort_by_key(|key| key.create_revision());
    let mut leases: Vec<_> = keys.into_iter().map(etcd_client::KeyValue::lease).collect();
    leases.dedup();
    leases
}

/// Three come for one lock, one after the other; if something is to strike, the lease of the second one ends while it
/// waits.
async fn history(server: &Etcd, whose: Whose, seed: u64, strikes: bool) -> History {
    let (history, mut rng) = (History::new(Clock::System), Rng::with_seed(seed));
    let mut raw = Client::connect([server.address().to_string()], None).await.unwrap();
    let text = format!("till{seed}{whose:?}{strikes}");
    let mut tasks = JoinSet::new();
    let mut begin = async |client: &str, until: Box<dyn Future<Output = ()> + Send + Unpin>| {
        let recorder = history.client(client);
        let (address, text) = (server.address().to_string(), text.clone());
        match whose {
            Whose::Rpc => tasks.spawn(hold(recorder, ByRpc::acquire(address, text), until)),
            Whose::Ours => {
                let coordinator = coordinator(server).await;
                tasks.spawn(async move {
                    let (name, options) = (name(&text), LockOptions::default().with_ttl(TTL).with_wait(LONG));
                    hold(recorder, coordinator.acquire(&name, &options), until).await;
                    coordinator.shutdown().await.unwrap();
                })
            }
        };
    };
    let (let_go, told) = oneshot::channel::<()>();
    let first: Box<dyn Future<Output = ()> + Send + Unpin> = Box::new(Box::pin(async { _ = told.await }));
    let mut until = Some(first);
    for (at, client) in ["first", "second", "third"].into_iter().enumerate() {
        let a_while = || Box::new(Box::pin(sleep(Duration::from_millis(300)))) as Box<_>;
        begin(client, until.take().unwrap_or_else(a_while)).await;
        let standing = async {
            while leases(&mut raw, &text).await.len() <= at {
                sleep(SAMPLE).await;
            }
        };
        timeout(PATIENCE, standing).await.expect("it stands in the line");
    }
    sleep(Duration::from_millis(rng.u64(0..50))).await;
    if strikes {
        let (second, from) = (leases(&mut raw, &text).await[1], history.stamp());
        raw.lease_revoke(second).await.unwrap();
        let fault = Op::Fault { kind: "lease-end".into() };
        history.client("nemesis").since(from, "second", fault, Outcome::Ok);
        sleep(Duration::from_millis(rng.u64(0..100))).await;
    }
    let _ = let_go.send(());
    while let Some(ended) = timeout(PATIENCE, tasks.join_next()).await.expect("an end") {
        ended.unwrap();
    }
    history
}

async fn judge(server: &Etcd, whose: Whose, seed: u64, strikes: bool) -> Judgement {
    checkers::check(&history(server, whose, seed, strikes).await.events())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lock_of_the_server_lets_two_hold() {
    let Some(server) = server() else { return };
    let mut raw = Client::connect([server.address().to_string()], None).await.unwrap();
    let version = raw.status().await.unwrap().version().to_owned();
    if !version.starts_with("3.4.") {
        eprintln!("ignored: this is version {version}, and later ones than 3.4 look again");
        return;
    }
    let mut caught = None;
    for seed in 1..=HISTORIES {
        let events = history(&server, Whose::Rpc, seed, true).await.events();
        if let Err(violation) = intervals::check(&events) {
            caught = Some((seed, violation));
            break;
        }
    }
    let (seed, violation) = caught.expect("two that hold at once, in one of the histories");
    println!("after {seed} histories: {violation}");
    // It is the end of the lease that does it.
    for seed in 1..=CONTROLS {
        judge(&server, Whose::Rpc, seed, false).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours_does_not() {
    let Some(server) = server() else { return };
    for seed in 1..=CONTROLS {
        let history = history(&server, Whose::Ours, seed, true).await;
        let events = history.events();
        checkers::check(&events).unwrap();
        let granted = |event: &&coord_conformance::history::Event| {
            matches!(event.op, Op::Acquire { .. }) && event.outcome == Outcome::Ok
        };
        assert!(events.iter().filter(granted).count() >= 2, "{history}");
    }
}
