//! What the tests of values and jobs share.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use coord_conformance::{
    proxy::{self, Options, Proxy, framing},
    servers::{Etcd, EtcdOptions, found},
};
use coord_core::{
    Name, Namespace,
    clock::Clock,
    spi::{Wakeup, Wakeups},
};
use coord_etcd::Store;
use etcd_client::{Client, GetOptions, KeyValue};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
};

/// A server of the test's own; `None`, with the reason told, if this host has none and need not have one.
pub(crate) fn server_with(options: &EtcdOptions) -> Option<Etcd> {
    found(Etcd::start(options))
}

pub(crate) fn server() -> Option<Etcd> {
    server_with(&EtcdOptions::default().with_own())
}

/// A server that allows what one allows as it is installed.
pub(crate) fn plain_server() -> Option<Etcd> {
    server_with(&EtcdOptions::default().with_own().with_argument("--max-txn-ops=128"))
}

pub(crate) async fn open(server: &Etcd) -> Arc<Store> {
    // Machines that run tests stand still for seconds, and these tests do not ask twice.
    Store::open(format!("{}?timeout=8", server.url())).await.unwrap()
}

/// The server itself, without this library.
pub(crate) async fn raw(server: &Etcd) -> Client {
    Client::connect([format!("127.0.0.1:{}", server.port())], None).await.unwrap()
}

pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn namespace() -> Namespace {
    Namespace::default()
}

/// Waits for a hint that must come.
pub(crate) async fn hint(wakeups: &mut Wakeups) {
    let next = tokio::time::timeout(Duration::from_secs(20), wakeups.next()).await;
    assert_eq!(next.expect("a hint"), Wakeup::LookAgain);
}

/// Takes the hints that are there, until none comes for a while.
pub(crate) async fn quiet(wakeups: &mut Wakeups) {
    while tokio::time::timeout(Duration::from_millis(500), wakeups.next()).await.is_ok() {}
}

/// How many requests of these methods the server has answered.
pub(crate) fn calls<const N: usize>(server: &Etcd, methods: [&str; N]) -> [u64; N] {
    let calls = server.calls().unwrap();
    methods.map(|method| calls.get(method).copied().unwrap_or(0))
}

/// How many more there are since then.
pub(crate) fn more<const N: usize>(server: &Etcd, methods: [&str; N], before: [u64; N]) -> [u64; N] {
    let mut more = calls(server, methods);
    more.iter_mut().zip(before).for_each(|(now, before)| *now -= before);
    more
}

/// The keys that begin with this, with what stands behind them.
pub(crate) async fn keys(server: &Etcd, prefix: &str) -> Vec<KeyValue> {
    let options = GetOptions::new().with_prefix();
    raw(server).await.get(prefix, Some(options)).await.unwrap().take_kvs()
}

/// The names of those that do not go by themselves.
pub(crate) async fn left(server: &Etcd, prefix: &str) -> Vec<String> {
    let keys = keys(server, prefix).await;
    keys.iter().filter(|kv| kv.lease() == 0).map(|kv| kv.key_str().unwrap().to_owned()).collect()
}

/// Has the server forget all but the present.
pub(crate) async fn compact(server: &Etcd) {
    let mut client = raw(server).await;
    let revision = client.get("x", None).await.unwrap().header().unwrap().revision();
    client.compact(revision, None).await.unwrap();
}

/// Asks until it is so.
pub(crate) async fn until(mut ask: impl AsyncFnMut() -> bool) {
    while !ask().await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Stops the server in its tracks, every thread of it.
pub(crate) async fn stop(server: &Etcd) {
    server.stop().unwrap();
    let tasks = format!("/proc/{}/task", server.pid().unwrap());
    until(async || {
        std::fs::read_dir(&tasks).unwrap().all(|task| {
            let state = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
            state.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T'))
        })
    })
    .await;
}

/// A way to the server whose connection breaks with one of the replies on it.
pub(crate) struct Cut {
    port: u16,
    way: Arc<Way>,
    task: tokio::task::JoinHandle<()>,
}

/// What the connections of a [`Cut`] have in common.
#[derive(Default)]
struct Way {
    /// How many replies are left until one is lost.
    left: AtomicU32,
    /// Whether it passes that one on, and is closed then.
    closes: AtomicBool,
    /// How long the server's replies take, in milliseconds.
    delay: AtomicU64,
    closing: Notify,
    closed: Notify,
    opening: Notify,
}

impl Way {
    /// Carries replies, until one is lost.
    async fn back(&self, mut replies: OwnedReadHalf, mut client: OwnedWriteHalf) {
        let (sender, mut late) = tokio::sync::mpsc::unbounded_channel();
        let reading = async {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = replies.read(&mut buffer).await {
                let delay = Duration::from_millis(self.delay.load(Ordering::SeqCst));
                let due = Clock::System.now().after(delay);
                let _ = sender.send((due, buffer[..length].to_vec()));
            }
        };
        let writing = async {
            while let Some((due, reply)) = late.recv().await {
                tokio::time::sleep(due.since(Clock::System.now())).await;
                let counted =
                    self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
                let last = counted == Ok(1);
                if last && self.closes.load(Ordering::SeqCst) {
                    self.closing.notify_one();
                    self.closed.notified().await;
                    let _ = client.write_all(&reply).await;
                }
                if last || client.write_all(&reply).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = reading => {}
            () = writing => {}
        }
    }

    async fn carry(&self, client: TcpStream, target: u16) {
        let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
        let (mut requests, to_client) = client.into_split();
        let (replies, mut to_server) = server.into_split();
        tokio::select! {
            () = self.back(replies, to_client) => {}
            _ = tokio::io::copy(&mut requests, &mut to_server) => {}
        }
    }
}

impl Cut {
    pub(crate) async fn start(server: &Etcd) -> Self {
        let mut listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, target) = (listener.local_addr().unwrap().port(), server.port());
        let way = Arc::new(Way::default());
        let common = Arc::clone(&way);
        let task = tokio::spawn(async move {
            loop {
                let mut connections = tokio::task::JoinSet::new();
                loop {
                    let client = tokio::select! {
                        accepted = listener.accept() => accepted.unwrap().0,
                        () = common.closing.notified() => break,
                    };
                    let common = Arc::clone(&common);
                    connections.spawn(async move { common.carry(client, target).await });
                }
                drop(listener);
                common.closed.notify_one();
                common.opening.notified().await;
                listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
            }
        });
        Self { port, way, task }
    }

    /// The connection on which the server sends for the `nth` time from now breaks, and what it sent is lost.
    pub(crate) fn lose(&self, nth: u32) {
        self.way.closes.store(false, Ordering::SeqCst);
        self.way.left.store(nth, Ordering::SeqCst);
    }

    /// What the server sends for the `nth` time from now arrives, and after that nobody listens here until it is opened again.
    pub(crate) fn close_after(&self, nth: u32) {
        self.way.closes.store(true, Ordering::SeqCst);
        self.way.left.store(nth, Ordering::SeqCst);
    }

    pub(crate) fn open_again(&self) {
        self.way.opening.notify_one();
    }

    /// Each reply takes so long from now on.
    pub(crate) fn slow_down(&self, delay: Duration) {
        self.way.delay.store(delay.as_millis().try_into().unwrap(), Ordering::SeqCst);
    }

    /// Whether it has broken since.
    pub(crate) fn is_done(&self) -> bool {
        self.way.left.load(Ordering::SeqCst) == 0
    }

    pub(crate) async fn open(&self) -> Arc<Store> {
        self.open_with("").await
    }

    /// With these parameters of the URL.
    pub(crate) async fn open_with(&self, parameters: &str) -> Arc<Store> {
        Store::open(format!("etcd://127.0.0.1:{}{parameters}", self.port)).await.unwrap()
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A client whose answers take some seconds, so that others come between two of its requests.
pub(crate) struct Slow {
    pub(crate) store: Arc<Store>,
    way: Proxy,
}

impl Slow {
    pub(crate) async fn open(server: &Etcd) -> Self {
        let way = Proxy::start_with(server.url(), Options::default().with_protocol(framing::Grpc)).unwrap();
        let store = open_by(&way).await;
        way.delay(proxy::Way::ToClient, Duration::from_secs(3), Duration::ZERO);
        Self { store, way }
    }

    /// How often it has asked for keys, or changed some.
    pub(crate) fn asked(&self) -> u64 {
        let counts = self.way.counts();
        counts.of("Txn") + counts.of("Range")
    }

    /// Does something between the request after these and the one that follows; then its answers take no time.
    pub(crate) async fn after(&self, asked: u64, work: impl Future<Output = ()>) {
        until(async || self.asked() > asked).await;
        work.await;
        assert_eq!(self.asked(), asked + 1, "the others took more than three seconds");
        self.way.delay(proxy::Way::ToClient, Duration::ZERO, Duration::ZERO);
    }
}

/// A way to the server whose connections break all the time, each within so long, with requests and replies on them.
pub(crate) fn brittle(server: &Etcd, longest: Duration) -> Proxy {
    let way = Proxy::start(server.url()).unwrap();
    way.shorten(longest);
    way
}

/// Opens a store over a way that breaks.
pub(crate) async fn open_by(way: &Proxy) -> Arc<Store> {
    let opening = async {
        loop {
            if let Ok(store) = Store::open(way.url()).await {
                break store;
            }
        }
    };
    tokio::time::timeout(LONG, opening).await.unwrap()
}
