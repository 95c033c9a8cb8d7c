//! What operations cost, counted at the server.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use coord_conformance::servers::Redis;
use coord_core::{
    Inspect, Lock, LockOptions,
    clock::Clock,
    spi::{Claim, Claims, Kind, Renewal},
};
use coord_redis::Store;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

use crate::common::{
    LONG, calls, claim, coordinator, granted, key, line, name, number, open, reset, server, until_waiting,
    waiting,
};

#[tokio::test]
async fn an_uncontended_acquire_is_one_script_and_a_release_one() {
    let Some(server) = server() else { return };
    let (client, options) = (coordinator(&server).await, LockOptions::default().with_ttl(LONG));
    // The server learns the scripts.
    client.acquire(&name("first"), &options).await.unwrap().release().await.unwrap();

    reset(&server);
    let guard = client.acquire(&name("lock"), &options).await.unwrap();
    assert_eq!((calls(&server, "evalsha"), calls(&server, "publish")), (1, 0));
    guard.release().await.unwrap();
    assert_eq!((calls(&server, "evalsha"), calls(&server, "publish")), (2, 0));
    for command in ["eval", "script|load", "subscribe", "unsubscribe", "ping"] {
        assert_eq!(calls(&server, command), 0, "{command}");
    }
}

#[tokio::test]
async fn a_look_a_refusal_and_a_reading_are_one_script_each() {
    let Some(server) = server() else { return };
    let (store, line) = (open(&server).await, line("cost"));
    let (holder, waiter) = (claim(&line), claim(&line));
    let round = async || {
        let grant = granted(store.claim(&holder).await.unwrap());
        waiting(store.claim(&waiter).await.unwrap());
        store.claim(&Claim { wait: false, ..claim(&line) }).await.unwrap();
        store.line(&line).await.unwrap();
        store.set_value(&grant, b"v").await.unwrap();
        store.withdraw(&line, holder.id).await.unwrap();
        store.withdraw(&line, waiter.id).await.unwrap();
    };
    round().await;
    reset(&server);
    round().await;
    assert_eq!((calls(&server, "evalsha"), calls(&server, "publish")), (7, 0));
    assert_eq!(calls(&server, "script|load"), 0);
}

/// A way to the server on which answers are held back until a number of scripts was asked for.
struct Gate {
    url: String,
    asked: watch::Sender<usize>,
    needed: Arc<AtomicUsize>,
}

impl Gate {
    async fn before(server: &Redis) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let gate = Self { url, asked: watch::Sender::new(0), needed: Arc::default() };
        let (address, asked, needed) = (address(server), gate.asked.clone(), gate.needed.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&address).await.unwrap();
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(requests(from_client, to_server, asked.clone()));
                tokio::spawn(answers(from_server, to_client, asked.subscribe(), needed.clone()));
            }
        });
        gate
    }

    /// From now on, nothing is answered before so many scripts more were asked for.
    fn hold(&self, scripts: usize) {
        self.needed.store(*self.asked.borrow() + scripts, Ordering::Release);
    }
}

fn address(server: &Redis) -> String {
    server.url().trim_start_matches("redis://").to_owned()
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, asked: watch::Sender<usize>) {
    let (mut buffer, mut tail) = (vec![0; 1 << 16], Vec::<u8>::new());
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        tail.extend(&buffer[..count]);
        let scripts = tail.windows(7).filter(|text| text == b"EVALSHA").count();
        tail.drain(..tail.len().saturating_sub(6));
        to.write_all(&buffer[..count]).await.unwrap();
        asked.send_modify(|asked| *asked += scripts);
    }
}

async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut asked: watch::Receiver<usize>,
    needed: Arc<AtomicUsize>,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        asked.wait_for(|asked| *asked >= needed.load(Ordering::Acquire)).await.unwrap();
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// All requests are under way before the first answer is read: one round trip, with one script a line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewing_a_thousand_locks_is_one_round_trip() {
    const LOCKS: usize = 1_000;
    let Some(server) = server() else { return };
    let gate = Gate::before(&server).await;
    let store = Store::open(&gate.url).await.unwrap();
    let mut grants = Vec::new();
    for number in 0..LOCKS {
        grants.push(granted(store.claim(&claim(&line(&number.to_string()))).await.unwrap()));
    }
    store.renew(&grants).await.unwrap();
    store.withdraw(&grants[500].line, grants[500].id).await.unwrap();

    reset(&server);
    gate.hold(LOCKS);
    let renewals = store.renew(&grants).await.unwrap();
    for (at, renewal) in renewals.into_iter().enumerate() {
        assert_eq!(renewal, if at == 500 { Renewal::Lost } else { Renewal::Renewed }, "{at}");
    }
    assert_eq!((calls(&server, "evalsha"), calls(&server, "publish")), (LOCKS as u64, 0));
}

/// The claims of one line that a client holds are renewed by one script.
#[tokio::test]
async fn renewing_many_in_one_line_is_one_script() {
    let Some(server) = server() else { return };
    let (store, line) = (open(&server).await, line("members"));
    let mut grants = Vec::new();
    for _ in 0..1_000 {
        let claim = Claim { weight: 0, limit: 0, ..claim(&line) };
        grants.push(granted(store.claim(&claim).await.unwrap()));
    }
    store.renew(&grants[..1]).await.unwrap();
    reset(&server);
    assert_eq!(store.renew(&grants).await.unwrap(), [Renewal::Renewed; 1_000]);
    assert_eq!(calls(&server, "evalsha"), 1);
}

/// Renewals of a thousand locks that programs hold: one script a lock and a period, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_locks_that_are_held_cost_their_renewals_only() {
    const LOCKS: u64 = 1_000;
    let Some(server) = server() else { return };
    let (client, ttl) = (coordinator(&server).await, Duration::from_secs(6));
    let mut guards = Vec::new();
    for number in 0..LOCKS {
        let options = LockOptions::default().with_ttl(ttl);
        guards.push(client.acquire(&name(&number.to_string()), &options).await.unwrap());
    }
    reset(&server);
    let start = Clock::System.now();
    tokio::time::sleep(ttl * 3 / 2).await;
    let scripts = calls(&server, "evalsha");
    // A period is a little less than a third of the TTL; on a busy machine they come late, never early.
    let periods = Clock::System.now().since(start).as_secs_f64() / (ttl.as_secs_f64() * 0.3);
    assert!(scripts >= LOCKS, "{scripts}");
    assert!(scripts as f64 <= LOCKS as f64 * (periods + 1.0), "{scripts} in {periods} periods");
    assert_eq!(calls(&server, "publish"), 0);
    assert!(guards.iter().all(coord_core::Guard::is_held));
}

/// Five hundred wait for one lock, from five clients. They are granted in the order in which they joined; each hand-over is
/// one message and two scripts; and while they wait they ask nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_waiters_cost_what_one_costs() {
    const WAITERS: usize = 500;
    let Some(server) = server() else { return };
    let name = name("queue");
    // Leases so long that nobody re-arms them during the test.
    let options = LockOptions::default().with_ttl(LONG * 20);
    let holder = coordinator(&server).await;
    // The server learns the scripts.
    holder.acquire(&name, &options).await.unwrap().release().await.unwrap();
    let guard = holder.acquire(&name, &options).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(coordinator(&server).await);
    }
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for number in 0..WAITERS {
        let (client, name, order) = (clients[number % clients.len()].clone(), name.clone(), order.clone());
        let options = options.clone().with_owner(number.to_string());
        tasks.push(tokio::spawn(async move {
            let guard = client.acquire(&name, &options).await.unwrap();
            order.lock().unwrap().push((guard.token(), number.to_string()));
            guard.release().await.unwrap();
        }));
    }
    until_waiting(&holder, &name, WAITERS).await;
    let line = holder.inspect(Kind::Lock, &name).await.unwrap();
    let joined: Vec<_> = line.waiters.into_iter().map(|waiter| waiter.owner).collect();

    reset(&server);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((calls(&server, "evalsha"), calls(&server, "publish")), (0, 0), "somebody polls");

    guard.release().await.unwrap();
    for task in tasks {
        tokio::time::timeout(LONG, task).await.unwrap().unwrap();
    }
    let (scripts, messages) = (calls(&server, "evalsha"), calls(&server, "publish"));
    // The first release and the last one are of one hand-over less.
    assert!(scripts <= 2 * WAITERS as u64 + 1, "{scripts} scripts");
    assert!(messages <= WAITERS as u64, "{messages} messages");
    let order = order.lock().unwrap();
    assert!(order.is_sorted(), "tokens");
    assert_eq!(order.iter().map(|(_, owner)| owner.clone()).collect::<Vec<_>>(), joined);
}

/// What a release costs the server does not grow with the number of those who wait behind.
#[tokio::test]
async fn a_release_does_not_walk_through_all_who_wait() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let mut commands = Vec::new();
    for waiters in [10, 2_000] {
        let line = line(&format!("behind {waiters}"));
        let first = claim(&line);
        granted(store.claim(&first).await.unwrap());
        for _ in 0..waiters {
            waiting(store.claim(&claim(&line)).await.unwrap());
        }
        // The server knows the script.
        store.withdraw(&line, coord_core::spi::ClaimId::random()).await.unwrap();
        reset(&server);
        store.withdraw(&line, first.id).await.unwrap();
        let calls = server.calls().unwrap();
        commands.push(calls.values().sum::<u64>());
    }
    assert_eq!(commands[0], commands[1], "commands within the script");
}

/// A name that was used leaves its last token, which goes by itself when the clock has passed it.
#[tokio::test]
async fn a_name_that_is_left_keeps_its_last_token_for_some_days() {
    const DAY: i64 = 86_400_000;
    let Some(server) = server() else { return };
    let (client, ttl) = (coordinator(&server).await, Duration::from_secs(86_400));
    for round in 0..2 {
        let options = LockOptions::default().with_ttl(ttl);
        client.acquire(&name("left"), &options).await.unwrap().release().await.unwrap();
        assert_eq!(number(&server, &["DBSIZE"]), 1, "in round {round}");
        let rest = number(&server, &["PTTL", &key(&line("left"), "claims")]);
        assert!((2 * DAY..=3 * DAY + 1).contains(&rest), "it ends in {rest} ms");
        assert_eq!(number(&server, &["HLEN", &key(&line("left"), "claims")]), 1);
    }
}

/// Who waits behind a holder that died is granted when the lease ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_is_granted_when_the_lease_of_a_dead_holder_ends() {
    const LOCKS: usize = 30;
    let Some(server) = server() else { return };
    let (dead, client, ttl) = (open(&server).await, coordinator(&server).await, Duration::from_secs(1));
    let mut waits = Vec::new();
    for number in 0..LOCKS {
        let name = number.to_string();
        granted(dead.claim(&Claim { ttl, ..claim(&line(&name)) }).await.unwrap());
        let (client, since) = (client.clone(), Clock::System.now());
        waits.push(tokio::spawn(async move {
            let options = LockOptions::default().with_ttl(LONG);
            let _guard = client.acquire(&crate::common::name(&name), &options).await.unwrap();
            Clock::System.now().since(since)
        }));
    }
    let mut took = Vec::new();
    for wait in waits {
        took.push(wait.await.unwrap());
    }
    took.sort();
    assert!(took[LOCKS / 2] <= ttl + Duration::from_millis(250), "{took:?}");
}
