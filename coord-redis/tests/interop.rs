//! The layout for other clients of Redis, with two of them: redis-py, which a virtual environment gets from PyPI, and rslock.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use coord_conformance::servers::Redis;
use coord_core::{
    Coordinator, ErrorKind, Lock, LockOptions, RwLock,
    spi::{ALL, Claim, Claims, Renewal, Standing},
};
use coord_redis::Store;
use rslock::LockManager;
use tokio::{process::Command, sync::OnceCell};

use crate::common::{LONG, calls, claim, granted, line, name, number, reset, server, until, waiting};

fn url(server: &Redis) -> String {
    format!("{}?layout=interop", server.url())
}

async fn client(server: &Redis) -> Coordinator {
    coord_redis::connect(url(server)).await.unwrap()
}

async fn store(server: &Redis) -> std::sync::Arc<Store> {
    Store::open(url(server)).await.unwrap()
}

/// A Python that has redis-py; `None`, with the reason told, if it cannot be had and need not be.
async fn python() -> Option<PathBuf> {
    static MADE: OnceCell<Option<PathBuf>> = OnceCell::const_new();
    MADE.get_or_init(make).await.clone()
}

async fn make() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("redis-py");
    let python = folder.join("bin/python");
    let has = async || {
        let mut command = Command::new(&python);
        command.args(["-c", "import redis"]).stderr(Stdio::null());
        command.status().await.is_ok_and(|status| status.success())
    };
    if has().await {
        return Some(python);
    }
    let made = Command::new("python3").args(["-m", "venv"]).arg(&folder).output().await;
    let install =
        async || Command::new(&python).args(["-m", "pip", "install", "--quiet", "redis>=5"]).output().await;
    let outcome = match made {
        Ok(made) if made.status.success() => install().await,
        other => other,
    };
    if has().await {
        return Some(python);
    }
    let why = match outcome {
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    assert!(std::env::var("CI").is_err(), "redis-py cannot be had: {why}");
    eprintln!("ignored: redis-py cannot be had: {why}");
    None
}

/// Runs a script with `r`, a client of the server.
async fn run(python: &Path, server: &Redis, script: &str) -> String {
    let text = format!("import redis, sys, time\nr = redis.Redis.from_url('{}')\n{script}", server.url());
    let output = Command::new(python).arg("-c").arg(&text).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_py_respects_us() {
    let (Some(server), Some(python)) = (server(), python().await) else { return };
    let client = client(&server).await;
    let options = LockOptions::default().with_ttl(LONG);
    let guard = client.acquire(&name("stock"), &options).await.unwrap();
    let attempt = "print(r.lock('stock', timeout=5).acquire(blocking=False))";
    assert_eq!(run(&python, &server, attempt).await, "False");
    // It waits its turn, and comes to it.
    let wait = "l = r.lock('stock', timeout=5)\nprint('waits', flush=True)\nprint(l.acquire(blocking_timeout=60))\nl.release()";
    let waiter = tokio::spawn({
        let (python, url) = (python.clone(), server.url());
        async move {
            let text = format!("import redis\nr = redis.Redis.from_url('{url}')\n{wait}");
            Command::new(python).arg("-c").arg(text).output().await.unwrap()
        }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiter.is_finished() && guard.is_held());
    guard.release().await.unwrap();
    let output = waiter.await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "waits\nTrue", "{output:?}");
    assert_eq!(number(&server, &["EXISTS", "stock"]), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn we_respect_redis_py() {
    let (Some(server), Some(python)) = (server(), python().await) else { return };
    let client = client(&server).await;
    let options = LockOptions::default().with_ttl(LONG);
    let before = client.acquire(&name("stock"), &options).await.unwrap();
    let token = before.token();
    before.release().await.unwrap();
    // The first one never expires by itself, the second one does.
    for timeout in ["None", "2"] {
        let hold = format!(
            "l = r.lock('stock', timeout={timeout}, thread_local=False)\nassert l.acquire()\nprint(l.local.token.decode())"
        );
        let value = run(&python, &server, &hold).await;
        let error = client.try_acquire(&name("stock"), &options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotGranted, "{error}");
        let waiter = tokio::spawn({
            let (client, options) = (client.clone(), options.clone());
            async move { client.acquire(&name("stock"), &options).await.unwrap() }
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!waiter.is_finished());
        if timeout == "None" {
            let release = format!("l = r.lock('stock')\nl.local.token = b'{value}'\nl.release()");
            run(&python, &server, &release).await;
        }
        let guard = tokio::time::timeout(LONG, waiter).await.unwrap().unwrap();
        assert!(guard.token() > token);
        assert_eq!(number(&server, &["EXISTS", "stock"]), 1);
        guard.release().await.unwrap();
    }
}

/// Each increments a number that nothing else guards, in turn with clients of another kind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_loses_an_update_among_clients_of_three_kinds() {
    const ROUNDS: u32 = 40;
    let (Some(server), Some(python)) = (server(), python().await) else { return };
    let script = format!(
        "for _ in range({ROUNDS}):\n  with r.lock('stock', timeout=30, sleep=0.002):\n    n = int(r.get('number') or 0)\n    time.sleep(0.001)\n    r.set('number', n + 1)"
    );
    let python = {
        let (python, url) = (python.clone(), server.url());
        tokio::spawn(async move {
            let text = format!("import redis, time\nr = redis.Redis.from_url('{url}')\n{script}");
            Command::new(python).arg("-c").arg(text).output().await.unwrap()
        })
    };
    let count = async |server: &Redis| {
        let found = server.command(&["GET", "number"]).unwrap().text().parse::<u32>().unwrap_or_default();
        tokio::time::sleep(Duration::from_millis(1)).await;
        server.command(&["SET", "number", &(found + 1).to_string()]).unwrap();
    };
    let ours = async {
        let (one, options) = (client(&server).await, LockOptions::default().with_ttl(LONG));
        for _ in 0..ROUNDS {
            let guard = one.acquire(&name("stock"), &options).await.unwrap();
            count(&server).await;
            guard.release().await.unwrap();
        }
    };
    let theirs = async {
        let manager = LockManager::new(vec![server.url()]);
        for _ in 0..ROUNDS {
            let lock = loop {
                if let Ok(lock) = manager.lock(b"stock", LONG).await {
                    break lock;
                }
            };
            count(&server).await;
            manager.unlock(&lock).await;
        }
    };
    tokio::join!(ours, theirs);
    let output = python.await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(server.command(&["GET", "number"]).unwrap().text(), (3 * ROUNDS).to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rslock_and_we_respect_each_other() {
    let Some(server) = server() else { return };
    let (client, manager) = (client(&server).await, LockManager::new(vec![server.url()]));
    let options = LockOptions::default().with_ttl(LONG);
    let guard = client.acquire(&name("stock"), &options).await.unwrap();
    assert!(manager.lock(b"stock", LONG).await.is_err());
    guard.release().await.unwrap();
    let lock = manager.lock(b"stock", LONG).await.unwrap();
    assert_eq!(client.try_acquire(&name("stock"), &options).await.unwrap_err().kind(), ErrorKind::NotGranted);
    let waiter = tokio::spawn(async move { client.acquire(&name("stock"), &options).await.unwrap() });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiter.is_finished());
    manager.unlock(&lock).await;
    tokio::time::timeout(LONG, waiter).await.unwrap().unwrap().release().await.unwrap();
}

/// Among our own clients the order, the tokens and the hand-over are as in the other layout.
#[tokio::test]
async fn among_ourselves_nothing_changes() {
    let Some(server) = server() else { return };
    let (one, two, line) = (store(&server).await, store(&server).await, line("own"));
    let claims: Vec<_> = (0..10).map(|_| claim(&line)).collect();
    let mut last = granted(one.claim(&claims[0]).await.unwrap()).token;
    for claim in &claims[1..] {
        waiting(two.claim(claim).await.unwrap());
    }
    for pair in claims.windows(2) {
        let mut hints = two.wakeups(&line, Some(pair[1].id));
        one.withdraw(&line, pair[0].id).await.unwrap();
        crate::common::hint(&mut hints).await;
        let next = granted(two.claim(&pair[1]).await.unwrap()).token;
        assert!(next > last);
        last = next;
    }
    // The name lasts as long as the lease.
    let left = number(&server, &["PTTL", "own"]);
    assert!(left > 20_000, "{left}");
    one.withdraw(&line, claims[9].id).await.unwrap();
    assert_eq!(number(&server, &["EXISTS", "own"]), 0);
}

/// Who waits behind another kind of client looks now and then; who waits behind that one does not.
#[tokio::test]
async fn only_the_first_in_line_looks_for_other_clients() {
    let Some(server) = server() else { return };
    let (store, line) = (store(&server).await, line("first"));
    server.command(&["SET", "first", "theirs", "PX", "60000"]).unwrap();
    let (_, first) = waiting(store.claim(&claim(&line)).await.unwrap());
    let (_, second) = waiting(store.claim(&claim(&line)).await.unwrap());
    assert!(first <= Duration::from_millis(50) && second > Duration::from_secs(20), "{first:?} {second:?}");
    reset(&server);
    assert!(matches!(
        store.claim(&Claim { wait: false, ..claim(&line) }).await.unwrap(),
        Standing::Refused(Some(_))
    ));
    assert_eq!(calls(&server, "evalsha"), 1);
}

/// Whoever deletes the key takes the lock away: its holder learns it, and whoever puts a value there holds.
#[tokio::test]
async fn a_name_that_was_taken_away_is_lost() {
    let Some(server) = server() else { return };
    let (store, line) = (store(&server).await, line("mine"));
    for take in [&["DEL", "mine"][..], &["SET", "mine", "theirs"], &["HSET", "other", "a", "b"]] {
        let grant = granted(store.claim(&claim(&line)).await.unwrap());
        server.command(take).unwrap();
        if take[0] == "HSET" {
            server.command(&["RENAME", "other", "mine"]).unwrap();
        }
        assert_eq!(store.renew(&[grant]).await.unwrap(), [Renewal::Lost], "{take:?}");
        let next = claim(&line);
        if take[0] == "DEL" {
            granted(store.claim(&next).await.unwrap());
        } else {
            waiting(store.claim(&next).await.unwrap());
            server.command(&["DEL", "mine"]).unwrap();
            granted(store.claim(&next).await.unwrap());
        }
        store.withdraw(&line, next.id).await.unwrap();
        assert_eq!(number(&server, &["EXISTS", "mine"]), 0);
    }
}

/// Shared holders stand at the name together, and it is there until the last one leaves, or its lease ends.
#[tokio::test]
async fn shared_holders_stand_at_the_name_together() {
    let Some(server) = server() else { return };
    let (store, line) = (store(&server).await, line("shared"));
    let reader = || Claim { weight: 1, limit: ALL, ..claim(&line) };
    let (one, two) = (reader(), Claim { ttl: Duration::from_millis(300), ..reader() });
    granted(store.claim(&one).await.unwrap());
    granted(store.claim(&two).await.unwrap());
    store.withdraw(&line, one.id).await.unwrap();
    assert_eq!(number(&server, &["EXISTS", "shared"]), 1);
    until("the end of the lease", async || {
        store.line(&line).await.unwrap().entries.is_empty() && number(&server, &["EXISTS", "shared"]) == 0
    })
    .await;
    let client = client(&server).await;
    let options = LockOptions::default().with_ttl(LONG);
    let (first, second) = (
        client.read(&name("book"), &options).await.unwrap(),
        client.read(&name("book"), &options).await.unwrap(),
    );
    assert_eq!(number(&server, &["EXISTS", "book"]), 1);
    first.release().await.unwrap();
    assert_eq!(number(&server, &["EXISTS", "book"]), 1);
    second.release().await.unwrap();
    assert_eq!(number(&server, &["EXISTS", "book"]), 0);
}
