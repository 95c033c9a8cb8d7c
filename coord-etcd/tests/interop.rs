//! Locks and elections that are shared with other clients of etcd: with `etcdctl`, which uses Go's package `concurrency`.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use coord_conformance::servers::Etcd;
use coord_core::{
    CampaignOptions, Coordinator, Election, ErrorKind, Inspect, Lock, LockOptions, RwLock,
    spi::{Claim, Claims, Kind, LineId, Renewal},
};
use coord_etcd::Store;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::common::{LONG, claim, granted, hint, ids, line, name, server, until, waiting};

/// What the tests need; `None`, with the reason told, without `etcdctl` where there need not be one.
async fn found() -> Option<(Etcd, Coordinator)> {
    let server = server()?;
    if let Err(error) = std::process::Command::new("etcdctl").arg("version").output() {
        assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "etcdctl: {error}");
        eprintln!("ignored: etcdctl: {error}");
        return None;
    }
    let client = client(&server).await;
    Some((server, client))
}

async fn client(server: &Etcd) -> Coordinator {
    coord_etcd::connect(format!("{}?layout=interop", server.url())).await.unwrap()
}

fn options() -> LockOptions {
    LockOptions::default().with_ttl(LONG)
}

fn ctl(server: &Etcd) -> Command {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").arg(format!("--endpoints=127.0.0.1:{}", server.port()));
    command.kill_on_drop(true);
    command
}

/// `etcdctl lock` or `elect` under way.
struct Ctl {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// While it is there, the program under the lock goes on.
    folder: TempDir,
}

impl Ctl {
    fn start(command: &mut Command) -> Self {
        Self::under(command, TempDir::new().unwrap())
    }

    fn under(command: &mut Command, folder: TempDir) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, folder }
    }

    /// Runs a program under the lock that says so, and ends when it is told to.
    fn lock(server: &Etcd, name: &str, ttl: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let program = "echo held; while [ -e \"$0\" ]; do sleep 0.02; done";
        let place = folder.path().to_str().unwrap();
        let ttl = format!("--ttl={ttl}");
        Self::under(ctl(server).args(["lock", name, &ttl, "--", "sh", "-c", program, place]), folder)
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(LONG, self.lines.next_line()).await.expect("it says nothing");
        line.unwrap().expect("it ended")
    }

    /// Ends the program under the lock, and waits until it was released.
    async fn end(mut self) {
        self.folder.close().unwrap();
        tokio::time::timeout(LONG, self.child.wait()).await.unwrap().unwrap();
    }
}

async fn said(command: &mut Command) -> String {
    let Output { stdout, stderr, .. } = command.output().await.unwrap();
    String::from_utf8([stdout, stderr].concat()).unwrap()
}

/// How many contend, whoever they are.
async fn contenders(server: &Etcd, name: &str) -> usize {
    said(ctl(server).args(["get", "--prefix", "--keys-only", &format!("{name}/")]))
        .await
        .split_whitespace()
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_etcdctl_locks_is_locked_for_us() {
    let Some((server, client)) = found().await else { return };
    let mut theirs = Ctl::lock(&server, "one", "10");
    assert_eq!(theirs.line().await, "held");
    let error = client.try_acquire(&name("one"), &options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotGranted, "{error}");
    assert!(error.to_string().contains("etcd lease"), "{error}");
    assert_eq!(contenders(&server, "one").await, 1, "a refused try is still there");
    let shown = client.inspect(Kind::Lock, &name("one")).await.unwrap();
    assert_eq!(shown.holders.len(), 1);
    let revision = shown.holders[0].token;
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { client.acquire(&name("one"), &options()).await })
    };
    until("the waiter", async || contenders(&server, "one").await == 2).await;
    assert!(!waiting.is_finished());
    theirs.end().await;
    let guard = tokio::time::timeout(LONG, waiting).await.unwrap().unwrap().unwrap();
    assert!(guard.token() > revision);
    guard.release().await.unwrap();
    assert_eq!(contenders(&server, "one").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_we_lock_is_locked_for_etcdctl_and_all_take_turns() {
    let Some((server, one)) = found().await else { return };
    let two = client(&server).await;
    let guard = one.acquire(&name("turns"), &options()).await.unwrap();
    let mut theirs = Ctl::lock(&server, "turns", "10");
    until("etcdctl", async || contenders(&server, "turns").await == 2).await;
    let next = tokio::spawn(async move { two.acquire(&name("turns"), &options()).await });
    until("the third", async || contenders(&server, "turns").await == 3).await;
    let silent = tokio::time::timeout(Duration::from_millis(500), theirs.lines.next_line()).await;
    assert!(silent.is_err(), "two hold one lock: {silent:?}");
    let first = guard.token();
    guard.release().await.unwrap();
    assert_eq!(theirs.line().await, "held");
    let second = one.inspect(Kind::Lock, &name("turns")).await.unwrap().holders[0].token;
    assert!(!next.is_finished(), "two hold one lock");
    theirs.end().await;
    let guard = tokio::time::timeout(LONG, next).await.unwrap().unwrap().unwrap();
    assert!(first < second && second < guard.token(), "{first}, {second}, {}", guard.token());
    guard.release().await.unwrap();
}

/// One of them dies: the next one is let in when its lease ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_dies_lets_the_other_in() {
    let Some((server, client)) = found().await else { return };
    let mut theirs = Ctl::lock(&server, "dies", "2");
    assert_eq!(theirs.line().await, "held");
    theirs.child.kill().await.unwrap();
    let guard = tokio::time::timeout(LONG, client.acquire(&name("dies"), &options())).await.unwrap().unwrap();
    guard.release().await.unwrap();

    let dead = Store::open(format!("{}?layout=interop", server.url())).await.unwrap();
    let ours = coord_core::spi::Claim { ttl: Duration::from_secs(2), ..claim(&line("dies")) };
    granted(dead.claim(&ours).await.unwrap());
    let mut theirs = Ctl::lock(&server, "dies", "10");
    until("etcdctl", async || contenders(&server, "dies").await == 2).await;
    drop(dead);
    theirs.line().await;
    theirs.end().await;
}

/// A lock is kept for longer than its TTL, moved to a longer one, handed to another process, and shared by readers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_of_the_shared_layout_do_all_that_others_do() {
    let Some((server, one)) = found().await else { return };
    let two = client(&server).await;
    let short = LockOptions::default().with_ttl(Duration::from_secs(2));
    let guard = one.acquire(&name("kept"), &short).await.unwrap();
    let mut theirs = Ctl::lock(&server, "kept", "10");
    let silent = tokio::time::timeout(Duration::from_secs(5), theirs.lines.next_line()).await;
    assert!(silent.is_err() && guard.is_held(), "it was not kept: {silent:?}");
    guard.extend(LONG).await.unwrap();
    let token = guard.token();
    let detached = guard.detach().await.unwrap();
    let guard = two.resume(&detached).await.unwrap();
    assert_eq!(guard.token(), token);
    let silent = tokio::time::timeout(Duration::from_secs(3), theirs.lines.next_line()).await;
    assert!(silent.is_err() && guard.is_held(), "it was not handed over: {silent:?}");
    guard.release().await.unwrap();
    theirs.line().await;
    let reader = {
        let one = one.clone();
        tokio::spawn(async move { one.read(&name("kept"), &options()).await })
    };
    until("a reader", async || contenders(&server, "kept").await == 2).await;
    assert!(!reader.is_finished());
    theirs.end().await;
    let reader = tokio::time::timeout(LONG, reader).await.unwrap().unwrap().unwrap();
    let other = two.try_read(&name("kept"), &options()).await.unwrap();
    let refused = two.try_acquire(&name("kept"), &options().with_owner("two")).await.unwrap_err();
    assert!(refused.to_string().contains(one.owner()), "{refused}");
    let mut theirs = Ctl::lock(&server, "kept", "10");
    let silent = tokio::time::timeout(Duration::from_millis(500), theirs.lines.next_line()).await;
    assert!(silent.is_err(), "{silent:?}");
    reader.release().await.unwrap();
    other.release().await.unwrap();
    theirs.line().await;
    theirs.end().await;
}

/// Who is no client of ours can be thrown out by force, and throws us out by deleting our key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evictions() {
    let Some((server, client)) = found().await else { return };
    let mut theirs = Ctl::lock(&server, "out", "10");
    theirs.line().await;
    let evicted = client.force_release(Kind::Lock, &name("out"), None).await.unwrap().unwrap();
    assert_eq!(evicted.holders.len(), 1);
    assert_eq!(contenders(&server, "out").await, 0);
    theirs.child.kill().await.unwrap();

    let store = Store::open(format!("{}?layout=interop", server.url())).await.unwrap();
    let ours = claim(&line("out"));
    let grant = granted(store.claim(&ours).await.unwrap());
    assert_eq!(store.renew(std::slice::from_ref(&grant)).await.unwrap(), [Renewal::Renewed]);
    said(ctl(&server).args(["del", "--prefix", "out/"])).await;
    assert_eq!(store.renew(std::slice::from_ref(&grant)).await.unwrap(), [Renewal::Lost]);
    assert_eq!(store.set_value(&grant, b"x").await.unwrap(), Renewal::Lost);
    assert!(ids(&store, &line("out")).await.is_empty());
    let again = granted(store.claim(&claim(&line("out"))).await.unwrap());
    assert!(again.token > grant.token);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elections_with_etcdctl() {
    let Some((server, client)) = found().await else { return };
    let campaign = |value: &str| CampaignOptions::default().with_ttl(LONG).with_value(value);
    let ours = client.campaign(&name("office"), &campaign("ours")).await.unwrap();
    // `etcdctl` shows our value, and each new one.
    let mut observer = Ctl::start(ctl(&server).args(["elect", "--listen", "office"]));
    assert!(observer.line().await.starts_with("office/"));
    assert_eq!(observer.line().await, "ours");
    ours.proclaim("news").await.unwrap();
    assert!(observer.line().await.starts_with("office/"));
    assert_eq!(observer.line().await, "news");

    let mut theirs = Ctl::start(ctl(&server).args(["elect", "office", "theirs"]));
    until("their candidate", async || contenders(&server, "office").await == 2).await;
    let term = ours.term().get();
    ours.resign().await.unwrap();
    assert!(theirs.line().await.starts_with("office/"));
    assert_eq!(theirs.line().await, "theirs");
    let shown = client.inspect(Kind::Election, &name("office")).await.unwrap();
    assert_eq!((shown.holders.len(), shown.holders[0].value.as_slice()), (1, &b"theirs"[..]));
    assert!(shown.holders[0].token.get() > term);

    let next = {
        let client = client.clone();
        tokio::spawn(async move { client.campaign(&name("office"), &campaign("again")).await })
    };
    until("our candidate", async || contenders(&server, "office").await == 2).await;
    assert!(!next.is_finished());
    // It resigns when it is asked to end.
    let pid = theirs.child.id().unwrap().to_string();
    Command::new("kill").args(["-INT", &pid]).status().await.unwrap();
    let next = tokio::time::timeout(LONG, next).await.unwrap().unwrap().unwrap();
    assert!(next.term() > shown.holders[0].token);
    assert_eq!(observer.line().await.split('/').next(), Some("office"));
    next.resign().await.unwrap();
}

/// One who waited is elected when it looks, which changes no key behind the name.
#[tokio::test]
async fn who_observes_hears_of_a_leader_that_had_waited() {
    let Some(server) = server() else { return };
    let url = format!("{}?layout=interop", server.url());
    let open = async || Store::open(&url).await.unwrap();
    let (store, onlooker) = (open().await, open().await);
    let line = LineId { kind: Kind::Election, ..line("observed") };
    let candidate = || Claim { weight: 1, limit: 1, ..claim(&line) };
    let (first, second) = (candidate(), candidate());
    granted(store.claim(&first).await.unwrap());
    waiting(store.claim(&second).await.unwrap());
    let mut changes = onlooker.wakeups(&line, None);
    store.withdraw(&line, first.id).await.unwrap();
    while ids(&onlooker, &line).await.len() > 1 {
        hint(&mut changes).await;
    }
    let elected = async || onlooker.line(&line).await.unwrap().entries[0].granted.is_some();
    // The watches are there, and what they had to say was heard.
    while tokio::time::timeout(Duration::from_millis(500), changes.next()).await.is_ok() {}
    assert!(!elected().await);
    granted(store.claim(&second).await.unwrap());
    while !elected().await {
        hint(&mut changes).await;
    }
    hint(&mut changes).await;
}

/// The keys of the library itself are behind `coord/`: nobody contends with them.
#[tokio::test]
async fn names_where_our_own_keys_are_have_no_locks() {
    let Some(server) = server() else { return };
    let store = Store::open(format!("{}?layout=interop", server.url())).await.unwrap();
    for name in ["coord", "coord/c"] {
        let error = store.claim(&claim(&line(name))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    granted(store.claim(&claim(&line("coordinator"))).await.unwrap());
}
