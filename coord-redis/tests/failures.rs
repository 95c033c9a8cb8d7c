//! What goes wrong with servers and with users, and what is said about it.

use std::time::Duration;

use coord_conformance::servers::RedisOptions;
use coord_core::{
    Durability, Effect, Error, ErrorKind, Lock, LockOptions, Scope,
    clock::Clock,
    spi::{ALL, Claim, ClaimId, Claims, Renewal},
};
use coord_redis::{Config, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{
    LONG, claim, coordinator, granted, hint, key, line, name, number, open, server, server_with, until,
    until_waiting, waiting,
};

/// Long enough for a loaded machine, and far shorter than [`LONG`].
const SOON: Duration = Duration::from_secs(10);

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work).await.unwrap_or_else(|_| panic!("{what} took too long"))
}

/// The server comes back with all that it had: who held still holds, who waited is next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_that_keeps_everything_changes_nothing() {
    let Some(mut server) = server_with(&RedisOptions::default().with_append_only()) else { return };
    let (one, two) = (coordinator(&server).await, coordinator(&server).await);
    let (name, options) = (name("kept"), LockOptions::default().with_ttl(LONG));
    let guard = one.acquire(&name, &options).await.unwrap();
    let waiter = {
        let (name, options) = (name.clone(), options.clone());
        tokio::spawn(async move { two.acquire(&name, &options).await })
    };
    until_waiting(&one, &name, 1).await;
    server.kill().unwrap();
    server.restart().unwrap();
    // Whoever holds asks as soon as there is a connection again.
    guard.extend(LONG).await.unwrap();
    assert!(guard.is_held());
    assert!(!waiter.is_finished());
    let token = guard.token();
    guard.release().await.unwrap();
    let next = soon("the hand-over", waiter).await.unwrap().unwrap();
    assert!(next.token() > token);
    next.release().await.unwrap();
}

/// The server comes back empty: who held learns it at once and not when the lease ends, who waited joins again, and tokens
/// go on growing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_that_loses_everything_is_noticed_at_once() {
    let Some(mut server) = server_with(&RedisOptions::default().with_own()) else { return };
    let (one, two) = (coordinator(&server).await, coordinator(&server).await);
    let (name, options) = (name("gone"), LockOptions::default().with_ttl(LONG * 10));
    let guard = one.acquire(&name, &options).await.unwrap();
    let waiter = {
        let (name, options) = (name.clone(), options.clone());
        tokio::spawn(async move { two.acquire(&name, &options).await })
    };
    until_waiting(&one, &name, 1).await;
    server.kill().unwrap();
    server.restart().unwrap();
    soon("the loss", guard.lost()).await;
    let next = soon("the grant to who waited", waiter).await.unwrap().unwrap();
    assert!(next.token() > guard.token(), "{} after {}", next.token(), guard.token());
}

#[tokio::test]
async fn tokens_grow_when_all_data_are_gone() {
    let Some(server) = server_with(&RedisOptions::default().with_own()) else { return };
    let (store, line) = (open(&server).await, line("flushed"));
    let mut last = None;
    for _ in 0..20 {
        let grant = granted(store.claim(&claim(&line)).await.unwrap());
        assert!(last < Some(grant.token));
        last = Some(grant.token);
        let before = store.line(&line).await.unwrap().revision;
        server.command(&["FLUSHALL"]).unwrap();
        let after = store.line(&line).await.unwrap();
        assert!(after.entries.is_empty() && after.revision > before, "{before} {after:?}");
        assert_eq!(store.renew(&[grant]).await.unwrap(), [Renewal::Lost]);
    }
}

/// A part of a line that the server removed because its memory was full, or that somebody deleted: what is left of the line
/// means nothing, nobody is stuck behind it, and nobody goes on believing.
#[tokio::test]
async fn a_line_that_was_removed_in_part_is_removed() {
    let Some(server) = server_with(&RedisOptions::default().with_own()) else { return };
    let store = open(&server).await;
    for part in ["line", "claims"] {
        let line = line(part);
        let grant = granted(store.claim(&claim(&line)).await.unwrap());
        waiting(store.claim(&claim(&line)).await.unwrap());
        assert_eq!(number(&server, &["DEL", &key(&line, part)]), 1);
        assert_eq!(store.renew(std::slice::from_ref(&grant)).await.unwrap(), [Renewal::Lost], "{part}");
        let next = granted(store.claim(&claim(&line)).await.unwrap());
        assert!(next.token > grant.token);
        assert_eq!(store.line(&line).await.unwrap().entries.len(), 1);
    }
}

/// A stopped server keeps its connections and says nothing. Every call fails by its deadline, and says that it may have been
/// done if it was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_makes_every_call_fail_by_its_deadline() {
    let Some(server) = server_with(&RedisOptions::default().with_own()) else { return };
    let timeout = Duration::from_millis(500);
    let config = Config::parse(&server.url()).unwrap().with_timeout(timeout);
    let (store, line) = (Store::open(&config).await.unwrap(), line("stopped"));
    let grant = granted(store.claim(&claim(&line)).await.unwrap());
    server.stop().unwrap();
    // Twice: on the connection that was there, and then without one.
    for sent in [true, false] {
        let start = Clock::System.now();
        let (other, to) = (claim(&line), ClaimId::random());
        let grants = [grant.clone()];
        let outcomes = tokio::join!(
            store.claim(&other),
            store.renew(&grants),
            store.set_value(&grant, b"v"),
            store.withdraw(&line, other.id),
            store.hand_over(&grant, to),
            store.adopt(&grant, to),
            store.line(&line),
        );
        // Its own deadline, and as much again for a loaded machine.
        let took = Clock::System.now().since(start);
        assert!(took < (timeout + Duration::from_secs(2)) * 2, "{took:?}");
        let errors = [
            outcomes.0.unwrap_err(),
            outcomes.1.unwrap_err(),
            outcomes.2.unwrap_err(),
            outcomes.3.unwrap_err(),
            outcomes.4.unwrap_err(),
            outcomes.5.unwrap_err(),
            outcomes.6.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert_eq!(error.effect() == Effect::Unknown, sent, "{error}");
        }
    }
    let opening = Store::open(&config).await.unwrap_err();
    assert_eq!((opening.kind(), opening.effect()), (ErrorKind::Unavailable, Effect::None));
    server.resume().unwrap();
    until("an answer", async || store.line(&line).await.is_ok()).await;
    assert_eq!(store.line(&line).await.unwrap().entries[0].id, grant.id);
}

#[tokio::test]
async fn a_server_that_is_not_there() {
    let Some(mut server) = server_with(&RedisOptions::default().with_own()) else { return };
    let (store, line) = (open(&server).await, line("away"));
    server.kill().unwrap();
    let error = Store::open(server.url()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error}");
    until("an error that says so", async || {
        let error = store.claim(&claim(&line)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        error.effect() == Effect::None
    })
    .await;
    server.restart().unwrap();
    granted(store.claim(&claim(&line)).await.unwrap());
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_loaded_again() {
    let Some(server) = server_with(&RedisOptions::default().with_own()) else { return };
    let store = open(&server).await;
    let mut grants = Vec::new();
    for number in 0..50 {
        if number % 10 == 0 {
            server.command(&["SCRIPT", "FLUSH"]).unwrap();
        }
        grants.push(granted(store.claim(&claim(&line(&number.to_string()))).await.unwrap()));
    }
    server.command(&["SCRIPT", "FLUSH"]).unwrap();
    assert_eq!(store.renew(&grants).await.unwrap(), [Renewal::Renewed; 50]);
}

/// Waits end also when the connection on which hints come was lost just then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hint_that_was_lost_with_its_connection_costs_little() {
    let Some(server) = server_with(&RedisOptions::default().with_own()) else { return };
    let (one, two) = (open(&server).await, coordinator(&server).await);
    let line = line("deaf");
    let holder = claim(&line);
    granted(one.claim(&holder).await.unwrap());
    let waiter = {
        let options = LockOptions::default().with_ttl(LONG * 10);
        tokio::spawn(async move { two.acquire(&name("deaf"), &options).await })
    };
    until("the waiter", async || one.line(&line).await.unwrap().entries.len() == 2).await;
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).unwrap();
    one.withdraw(&line, holder.id).await.unwrap();
    let guard = soon("the grant", waiter).await.unwrap().unwrap();
    guard.release().await.unwrap();
}

/// Whoever watches a line hears of every change, also after the connection was lost.
#[tokio::test]
async fn a_watch_survives_its_connection() {
    let Some(server) = server_with(&RedisOptions::default().with_own()) else { return };
    let (one, two, line) = (open(&server).await, open(&server).await, line("watched"));
    let mut changes = two.wakeups(&line, None);
    hint(&mut changes).await;
    for _ in 0..3 {
        let claim = claim(&line);
        one.claim(&claim).await.unwrap();
        hint(&mut changes).await;
        server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).unwrap();
        // It is back.
        hint(&mut changes).await;
        hint(&mut changes).await;
        one.withdraw(&line, claim.id).await.unwrap();
        hint(&mut changes).await;
    }
}

async fn refused(config: &str) -> Error {
    let error = soon("the refusal", Store::open(config)).await.unwrap_err();
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    assert_eq!(error.effect(), Effect::None);
    error
}

#[tokio::test]
async fn wrong_passwords() {
    let options = RedisOptions::default()
        .with_password("right")
        .with_user("worker", "on >right ~coord:* &coord:* +@all -@admin -@dangerous +info");
    let Some(server) = server_with(&options) else { return };
    let place = format!("127.0.0.1:{}", server.port());
    for login in ["", ":hunter2@", "worker:hunter2@", "nobody:hunter2@"] {
        let error = refused(&format!("redis://{login}{place}")).await;
        assert_eq!(error.kind(), ErrorKind::Permission, "{login} {error}");
        assert!(error.to_string().contains("password"), "{error}");
    }
    for url in [server.url(), server.url_as("worker", "right")] {
        let (store, line) = (Store::open(&url).await.unwrap(), line(&url.len().to_string()));
        granted(store.claim(&claim(&line)).await.unwrap());
    }
    let error = refused(&format!("redis://:right@{place}/99")).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[tokio::test]
async fn users_without_rights() {
    let options = RedisOptions::default()
        .with_user("blind", "on >p ~coord:* &coord:* +@all -@admin -@dangerous -info -role")
        .with_user("deaf", "on >p ~coord:* resetchannels +@all")
        .with_user("mute", "on >p ~coord:* &coord:* +@all -publish")
        .with_user("other", "on >p ~other:* &coord:* +@all")
        .with_user("mindless", "on >p ~coord:* &coord:* +@all -script")
        .with_user("idle", "on >p ~coord:* &coord:* +@all -evalsha");
    let Some(server) = server_with(&options) else { return };
    // Who may not ask for settings works; what is unknown counts as weak.
    let store = Store::open(server.url_as("blind", "p")).await.unwrap();
    granted(store.claim(&claim(&line("blind"))).await.unwrap());
    assert_eq!(store.guarantees().durability, Durability::Process);
    let unknown = store.weaknesses();
    assert_eq!(unknown.len(), 4);
    assert!(unknown.iter().all(|weakness| weakness.found.is_none()), "{unknown:?}");
    // Who may not hear or speak would wait in vain.
    for user in ["deaf", "mute"] {
        assert_eq!(refused(&server.url_as(user, "p")).await.kind(), ErrorKind::Permission, "{user}");
    }
    server.command(&["SCRIPT", "FLUSH"]).unwrap();
    for user in ["mindless", "other", "idle"] {
        let store = Store::open(server.url_as(user, "p")).await.unwrap();
        let error = store.claim(&claim(&line(user))).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Permission, Effect::None), "{user} {error}");
    }
}

#[tokio::test]
async fn what_is_no_redis_server_is_refused() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}?timeout=3", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let _ = client.read(&mut [0; 1024]).await;
            let _ = client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error = refused(&url).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[tokio::test]
async fn replicas_are_refused() {
    let (Some(master), Some(server)) = (server(), server_with(&RedisOptions::default().with_own())) else {
        return;
    };
    let (store, line) = (open(&server).await, line("demoted"));
    let grant = granted(store.claim(&claim(&line)).await.unwrap());
    server.command(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]).unwrap();
    // Somebody made it one under us.
    let error = store.claim(&claim(&line)).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error}");
    assert_eq!(refused(&server.url()).await.kind(), ErrorKind::Unsupported);
    server.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    until("the master again", async || store.line(&line).await.is_ok()).await;
    // It may have taken the other one's data, or not have come to it.
    let next = Claim { ttl: Duration::from_millis(200), ..claim(&line) };
    until("a grant", async || {
        store.withdraw(&line, grant.id).await.is_ok() && store.claim(&next).await.is_ok()
    })
    .await;
    assert!(granted(store.claim(&next).await.unwrap()).token > grant.token);
}

/// A server whose memory is full takes no new claims; those that are there are prolonged and leave.
#[tokio::test]
async fn a_full_memory_takes_no_lock_away() {
    let Some(server) = server_with(&RedisOptions::default().with_own()) else { return };
    let (store, line) = (open(&server).await, line("full"));
    let (one, two) = (claim(&line), claim(&line));
    let grant = granted(store.claim(&one).await.unwrap());
    waiting(store.claim(&two).await.unwrap());
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    let refusals = [
        store.claim(&claim(&line)).await.unwrap_err(),
        store.claim(&claim(&crate::common::line("another"))).await.unwrap_err(),
        store.set_value(&grant, &[7; 100]).await.unwrap_err(),
    ];
    for error in refusals {
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Full, Effect::None), "{error}");
    }
    assert_eq!(store.renew(std::slice::from_ref(&grant)).await.unwrap(), [Renewal::Renewed]);
    waiting(store.claim(&two).await.unwrap());
    assert_eq!(store.line(&line).await.unwrap().entries.len(), 2);
    store.withdraw(&line, one.id).await.unwrap();
    let next = granted(store.claim(&two).await.unwrap());
    assert!(next.token > grant.token);
    assert_eq!(store.adopt(&next, ClaimId::random()).await.unwrap(), Renewal::Renewed);
}

#[tokio::test]
async fn tokens_are_used_up_one_day() {
    let Some(server) = server_with(&RedisOptions::default().with_own()) else { return };
    let (store, line) = (open(&server).await, line("last"));
    let first = claim(&line);
    let early = granted(store.claim(&first).await.unwrap());
    // Two numbers are left: a token, and the change of a withdrawal takes one too.
    let script = "local meta = redis.call('HGET', KEYS[1], 'm') \
                  return redis.call('HSET', KEYS[1], 'm', struct.pack('>d', 9007199254740989) .. string.sub(meta, 9))";
    number(&server, &["EVAL", script, "1", &key(&line, "claims")]);
    let second = claim(&line);
    waiting(store.claim(&second).await.unwrap());
    store.withdraw(&line, first.id).await.unwrap();
    let last = granted(store.claim(&second).await.unwrap());
    assert_eq!(last.token.get(), (1 << 53) - 2);
    assert!(last.token > early.token);
    let error = store.claim(&claim(&line)).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Exhausted, Effect::None), "{error}");
    // What is there can still be left.
    store.withdraw(&line, second.id).await.unwrap();
    assert!(store.line(&line).await.unwrap().entries.is_empty());
}

#[tokio::test]
async fn keys_of_somebody_else_are_left_alone() {
    let Some(server) = server_with(&RedisOptions::default().with_own()) else { return };
    let (store, line) = (open(&server).await, line("taken"));
    server.command(&["SET", &key(&line, "claims"), "mine"]).unwrap();
    let error = store.claim(&claim(&line)).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Corrupt, Effect::None), "{error}");
    assert_eq!(server.command(&["GET", &key(&line, "claims")]).unwrap().text(), "mine");
    // One bad line does not end the leases of others.
    let good = granted(store.claim(&claim(&crate::common::line("good"))).await.unwrap());
    let bad = coord_core::spi::Grant { line, ..good.clone() };
    let renewals = store.renew(&[bad, good]).await.unwrap();
    assert_eq!(renewals, [Renewal::StillHeld, Renewal::Renewed]);
}

#[tokio::test]
async fn strict_takes_only_a_server_that_keeps_its_word() {
    let strong = RedisOptions::default().with_append_only();
    let (Some(weak), Some(strong)) = (server_with(&RedisOptions::default().with_own()), server_with(&strong))
    else {
        return;
    };
    let error = refused(&format!("{}?strict=true", weak.url())).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    for setting in ["appendonly", "appendfsync"] {
        assert!(error.to_string().contains(setting), "{error}");
    }
    let store = Store::open(format!("{}?strict=true", strong.url())).await.unwrap();
    assert_eq!(store.weaknesses(), []);
    store.guarantees().require(Scope::Network, Durability::Power).unwrap();
    assert!(store.server_version().is_some());

    let weak = open(&weak).await;
    let settings: Vec<_> = weak.weaknesses().iter().map(|weakness| weakness.setting).collect();
    assert_eq!(settings, ["appendonly", "appendfsync"]);
    assert_eq!(weak.guarantees().durability, Durability::Process);
}

/// A setting that was changed shows at the next connection.
#[tokio::test]
async fn a_strict_client_refuses_a_server_that_became_weak() {
    let Some(server) = server_with(&RedisOptions::default().with_append_only()) else { return };
    let (store, line) = (Store::open(format!("{}?strict=true", server.url())).await.unwrap(), line("strict"));
    granted(store.claim(&claim(&line)).await.unwrap());
    server.command(&["CONFIG", "SET", "appendfsync", "no"]).unwrap();
    server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).unwrap();
    until("the refusal", async || match store.line(&line).await {
        Ok(_) => panic!("it goes on"),
        Err(error) => error.kind() == ErrorKind::Unsupported,
    })
    .await;
}

#[tokio::test]
async fn a_socket_works_as_a_port_does() {
    let Some(server) = server_with(&RedisOptions::default().with_own()) else { return };
    let Some(socket) = server.socket() else { return };
    let one = Store::open(Config::unix(&socket)).await.unwrap();
    let two = Store::open(format!("unix://{}", socket.display())).await.unwrap();
    let other = open(&server).await;
    let line = line("socket");
    let grant = granted(one.claim(&claim(&line)).await.unwrap());
    waiting(two.claim(&claim(&line)).await.unwrap());
    let member = Claim { weight: 1, limit: ALL, wait: false, ..claim(&line) };
    other.claim(&member).await.unwrap();
    one.withdraw(&line, grant.id).await.unwrap();
    assert_eq!(other.line(&line).await.unwrap().entries.len(), 1);
}
