//! A Postgres server that is killed, that stops to answer, and that loses what it had counted.

use std::{sync::Arc, time::Duration};

use coord_conformance::{
    proxy::Proxy,
    servers::{self, PostgresOptions},
};
use coord_core::{
    ErrorKind, Lock, LockOptions, Name, Result,
    clock::Clock,
    spi::{
        Claim, Claims, Renewal,
        jobs::Jobs,
        values::{Prefix, Values},
    },
};
use coord_sql::PostgresStore;

use crate::common::{
    claim, granted, hint, line,
    server::{open, server},
    waiting,
    words::{item, key, push, put, queue, receive},
};

/// Longer than a restart takes on a loaded machine, many times.
const TTL: Duration = Duration::from_secs(120);

/// Kills the server and starts it anew, while the runtime goes on.
async fn restart(mut server: servers::Postgres) -> servers::Postgres {
    let restarted = tokio::task::spawn_blocking(move || server.restart().map(|()| server));
    restarted.await.unwrap().unwrap()
}

/// Asks until the server answers again.
async fn patiently<T>(mut ask: impl AsyncFnMut() -> Result<T>) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_nothing_and_waits_go_on() {
    let Some(server) = server(PostgresOptions::default()) else { return };
    let (a, b) = (open(&server).await, open(&server).await);
    let line = line("killed");
    let (held, waits) = (Claim { ttl: TTL, ..claim(&line) }, Claim { ttl: TTL, ..claim(&line) });
    let mut wakeups = Claims::wakeups(&*b, &line, Some(waits.id));
    let grant = granted(a.claim(&held).await.unwrap());
    waiting(b.claim(&waits).await.unwrap());
    a.commit(&put("key", b"value")).await.unwrap();
    a.push(&push(&queue("work"), vec![item(b"job")])).await.unwrap();

    let server = restart(server).await;
    assert_eq!(patiently(async || a.renew(std::slice::from_ref(&grant)).await).await, [Renewal::Renewed]);
    let line_now = patiently(async || b.line(&line).await).await;
    let ids: Vec<_> = line_now.entries.iter().map(|entry| entry.id).collect();
    assert_eq!(ids, [held.id, waits.id], "the line is as it was");
    assert_eq!(line_now.entries[0].token, grant.token);
    let (value, _) = patiently(async || Values::get(&*a, &key("key")).await).await;
    assert_eq!(value.unwrap().value.as_deref(), Some(&b"value"[..]));
    let work = patiently(async || b.receive(&receive(&queue("work"), 1)).await).await;
    assert_eq!(work.deliveries[0].payload, b"job");

    // The listener announces its return by a hint to all; what comes after that one came as a notification.
    hint(&mut wakeups).await;
    crate::common::quiet(&mut wakeups).await;
    a.withdraw(&line, held.id).await.unwrap();
    hint(&mut wakeups).await;
    let next = granted(b.claim(&waits).await.unwrap());
    assert!(next.token > grant.token, "{} came after {}", next.token, grant.token);
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guards_and_waits_live_through_a_restart() {
    let Some(server) = server(PostgresOptions::default()) else { return };
    let url = server.url();
    let (a, b) = (coord_sql::connect(&url).await.unwrap(), coord_sql::connect(&url).await.unwrap());
    let (name, options) = (Name::new("lives").unwrap(), LockOptions::default().with_ttl(TTL));
    let held = a.acquire(&name, &options).await.unwrap();
    let waiting = {
        let (b, name, options) = (b.clone(), name.clone(), options.clone());
        tokio::spawn(async move { b.acquire(&name, &options).await })
    };
    while server.query("SELECT count(*) FROM coord.claims").unwrap() != "2" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let server = restart(server).await;
    assert!(held.is_held());
    let token = held.token();
    held.release().await.unwrap();
    // Not by its lease, which ends long after: within this the wait looks again, or hears of it.
    let next = tokio::time::timeout(TTL / 2, waiting).await.unwrap().unwrap().unwrap();
    assert!(next.token() > token);
    next.release().await.unwrap();
    drop(server);
}

/// Every operation of the store, each of which must answer.
async fn every_operation(store: &Arc<PostgresStore>, held: &Claim) -> Vec<(&'static str, Result<()>)> {
    let grant = coord_core::spi::Grant {
        line: held.line.clone(),
        id: held.id,
        token: coord_core::FencingToken::new(1).unwrap(),
        ttl: held.ttl,
    };
    let (line, queue) = (&held.line, queue("stopped"));
    let prefix = Prefix { namespace: key("a").namespace, text: String::new() };
    let (to, pushed, received, put) =
        (claim(line), push(&queue, vec![item(b"x")]), receive(&queue, 1), put("a", b"1"));
    macro_rules! all {
        ($($what:literal: $call:expr;)*) => {{
            let calls: Vec<(&str, std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send + '_>>)> =
                vec![$(($what, Box::pin(async { $call.await.map(drop) }))),*];
            let calls = calls.into_iter().map(|(what, call)| async move { (what, call.await) });
            futures_util::future::join_all(calls).await
        }};
    }
    let grants = [grant.clone()];
    all! {
        "claim": store.claim(&to);
        "renew": store.renew(&grants);
        "withdraw": store.withdraw(line, held.id);
        "set_value": store.set_value(&grant, b"v");
        "hand_over": store.hand_over(&grant, to.id);
        "adopt": store.adopt(&grant, to.id);
        "line": store.line(line);
        "get": Values::get(&**store, &key("a"));
        "list": store.list(&prefix, None, 10);
        "commit": store.commit(&put);
        "changes": store.changes(&prefix, 0);
        "history": store.history(&key("a"), 10);
        "push": store.push(&pushed);
        "receive": store.receive(&received);
        "stats": store.stats(&queue);
        "dead": store.dead(&queue, None, 10);
        "purge": store.purge(&queue);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_answering_makes_every_call_fail_in_time() {
    let Some(server) = server(PostgresOptions::default()) else { return };
    let store = open(&server).await;
    let held = Claim { ttl: TTL, ..claim(&line("stopped")) };
    granted(store.claim(&held).await.unwrap());
    server.stop().unwrap();
    let start = Clock::System.now();
    let all = every_operation(&store, &held).await;
    let url = server.url();
    let opened = coord_sql::connect(&url).await;
    let passed = Clock::System.now().since(start);
    for (what, outcome) in all {
        let error = outcome.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {error}");
    }
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::Unavailable);
    // About ten seconds for the operations, and as many for a new client.
    assert!(passed < Duration::from_secs(25), "{passed:?}");
    server.resume().unwrap();
    let line = patiently(async || store.line(&held.line).await).await;
    assert!(line.entries.len() <= 2, "{line:?}");
    granted(patiently(async || store.claim(&claim(&crate::common::line("after"))).await).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_a_stopped_server_shuts_down() {
    let Some(server) = server(PostgresOptions::default()) else { return };
    let client = coord_sql::connect(server.url()).await.unwrap();
    let guard = client.acquire(&Name::new("x").unwrap(), &LockOptions::default()).await.unwrap();
    server.stop().unwrap();
    let start = Clock::System.now();
    drop(guard);
    let _ = client.shutdown().await;
    let passed = Clock::System.now().since(start);
    assert!(passed < Duration::from_secs(30), "{passed:?}");
    server.resume().unwrap();
}

#[tokio::test]
async fn a_life_that_lost_its_count_goes_on_with_greater_tokens() {
    let Some(server) = server(PostgresOptions::default()) else { return };
    let store = open(&server).await;
    let mut last = granted(store.claim(&claim(&line("before"))).await.unwrap()).token;
    let revision = Values::get(&*store, &key("a")).await.unwrap().1;
    // As after the promotion of a replica that missed the last of them, to a client that stays connected to its address.
    server.query("ALTER SEQUENCE coord.tokens RESTART 1").unwrap();
    server.query("UPDATE coord.life SET timeline = '000000FF'").unwrap();
    for number in 0..3 {
        let token = granted(store.claim(&claim(&line(&format!("after {number}")))).await.unwrap()).token;
        assert!(token > last, "{token} came after {last}");
        last = token;
    }
    assert!(Values::get(&*store, &key("a")).await.unwrap().1 >= revision, "revisions grow too");

    // And as in a copy of the data at another server.
    server.query("ALTER SEQUENCE coord.tokens RESTART 1").unwrap();
    server.query("UPDATE coord.life SET system = 1").unwrap();
    let token = granted(store.claim(&claim(&line("copy"))).await.unwrap()).token;
    assert!(token > last, "{token} came after {last}");
}

#[tokio::test]
async fn without_the_mark_of_its_life_a_lost_count_would_repeat_tokens() {
    let Some(server) = server(PostgresOptions::default()) else { return };
    let store = open(&server).await;
    let before = granted(store.claim(&claim(&line("before"))).await.unwrap()).token;
    server.query("ALTER SEQUENCE coord.tokens RESTART 1").unwrap();
    let after = granted(store.claim(&claim(&line("after"))).await.unwrap()).token;
    assert!(after < before, "the control shows that the test above can fail: {after} came after {before}");
}

/// A connection for notifications that ends before it has heard one looks like a pooler's doing. That is said of poolers alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_lost_is_not_taken_for_a_poolers() {
    let Some(server) = server(PostgresOptions::default()) else { return };
    let proxy = Proxy::start(server.url()).unwrap();
    let url = format!("{}?sslmode=disable", proxy.url());
    // The first one makes the schema.
    coord_sql::Postgres::open(&url).await.unwrap();
    let begun = Clock::System.now();
    coord_sql::Postgres::open(&url).await.unwrap();
    let length = Clock::System.now().since(begun);
    let mut troubled = 0;
    for cut in 0..50u32 {
        let opening = tokio::spawn({
            let url = url.clone();
            async move { coord_sql::Postgres::open(&url).await.map(drop) }
        });
        tokio::time::sleep(length * cut / 40).await;
        proxy.cut();
        if let Err(error) = opening.await.unwrap() {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            troubled += 1;
        }
    }
    assert!(troubled > 0, "no connection was lost while it was needed");
}
