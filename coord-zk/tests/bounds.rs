//! What claims cost, counted on the way to the server.

use std::time::Duration;

use coord_conformance::{proxy::Way, servers::ZooKeeperOptions};
use coord_core::{
    Inspect, Lock, LockOptions, Semaphore,
    spi::{Claim, Claims, Kind, Renewal},
};

use crate::common::{claim, granted, ids, line, open, place, proxy, server_with, settled, until};

/// Two requests that are sent together, and one to leave, on every name that somebody used.
#[tokio::test]
async fn a_lock_is_two_requests_and_a_release_one() {
    // Other servers remove a folder that is empty after a minute, not at once.
    let options = ZooKeeperOptions::default().with_property("znode.container.checkIntervalMs", "600000");
    let Some(server) = server_with(&options) else { return };
    let url = server.fresh();
    let proxy = proxy(&url);
    let store = open(&proxy.url()).await;
    let line = line("a");
    // Opens the session, and makes the folder.
    let first = granted(store.claim(&claim(&line)).await.unwrap());
    store.withdraw(&line, first.id).await.unwrap();
    for _ in 0..3 {
        settled(&proxy).await;
        let grant = granted(store.claim(&claim(&line)).await.unwrap());
        let counts = settled(&proxy).await;
        assert_eq!((counts.requests["create"], counts.requests["getChildren"], counts.total()), (1, 1, 2));
        store.withdraw(&line, grant.id).await.unwrap();
        let counts = settled(&proxy).await;
        assert_eq!((counts.requests["delete"], counts.total()), (1, 1));
    }
    // A name that only others used costs no more.
    let (other, line) = (open(&url).await, crate::common::line("b"));
    granted(other.claim(&claim(&line)).await.unwrap());
    settled(&proxy).await;
    crate::common::waiting(store.claim(&claim(&line)).await.unwrap());
    let counts = settled(&proxy).await;
    assert_eq!((counts.requests["create"], counts.requests["getChildren"]), (1, 1), "{counts:?}");
}

/// The requests of an acquire are sent together: it takes one round trip.
#[tokio::test]
async fn the_requests_of_a_lock_are_pipelined() {
    let Some(url) = place() else { return };
    let proxy = proxy(&url);
    let store = open(&proxy.url()).await;
    let line = line("a");
    // Somebody is there, so that the folder stays.
    let first = granted(store.claim(&claim(&line)).await.unwrap());
    settled(&proxy).await;
    // No answer comes, and both were sent all the same.
    proxy.freeze(Way::ToClient);
    let next = claim(&line);
    let claiming = tokio::spawn({
        let (store, next) = (store.clone(), next.clone());
        async move { store.claim(&next).await }
    });
    let counts = settled(&proxy).await;
    assert_eq!((counts.requests["create"], counts.requests["getChildren"]), (1, 1), "{counts:?}");
    proxy.heal();
    crate::common::waiting(claiming.await.unwrap().unwrap());
    assert_eq!(ids(&store, &line).await, [first.id, next.id]);
}

/// The first name that nobody used takes one round trip more. After that a client sends the making of the folder together with
/// the claim, until it meets a name that was used.
#[tokio::test]
async fn a_name_that_nobody_used_takes_one_round_trip_more_at_most() {
    let Some(url) = place() else { return };
    let proxy = proxy(&url);
    let (store, other) = (open(&proxy.url()).await, open(&url).await);
    // What lies above all names of this namespace, and the negotiated session.
    granted(other.claim(&claim(&line("neighbour"))).await.unwrap());
    crate::common::waiting(store.claim(&claim(&line("neighbour"))).await.unwrap());
    settled(&proxy).await;
    granted(store.claim(&claim(&line("new"))).await.unwrap());
    let counts = settled(&proxy).await;
    assert_eq!((counts.requests["create"], counts.requests["getChildren"]), (3, 2), "{counts:?}");

    // No answer comes, and all were sent all the same.
    proxy.freeze(Way::ToClient);
    let claiming = tokio::spawn({
        let store = store.clone();
        async move { store.claim(&claim(&line("newer"))).await }
    });
    let counts = settled(&proxy).await;
    assert_eq!((counts.requests["create"], counts.requests["getChildren"]), (2, 1), "{counts:?}");
    proxy.heal();
    granted(claiming.await.unwrap().unwrap());

    for (name, creates) in [("used", 2), ("used-too", 1)] {
        granted(other.claim(&claim(&line(name))).await.unwrap());
        settled(&proxy).await;
        crate::common::waiting(store.claim(&claim(&line(name))).await.unwrap());
        let counts = settled(&proxy).await;
        assert_eq!(
            (counts.requests["create"], counts.requests["getChildren"]),
            (creates, 1),
            "{name}: {counts:?}"
        );
    }
}

/// A refused try is the pair, its removal, and a look at who holds.
#[tokio::test]
async fn a_refused_try_leaves_nothing_and_asks_little() {
    let Some(url) = place() else { return };
    let proxy = proxy(&url);
    let (store, other) = (open(&proxy.url()).await, open(&url).await);
    let line = line("a");
    let held = granted(other.claim(&claim(&line)).await.unwrap());
    let attempt = Claim { wait: false, ..claim(&line) };
    store.claim(&attempt).await.unwrap();
    settled(&proxy).await;
    store.claim(&Claim { id: coord_core::spi::ClaimId::random(), ..attempt }).await.unwrap();
    assert_eq!(settled(&proxy).await.total(), 4);
    assert_eq!(ids(&store, &line).await, [held.id]);
}

/// Hand-overs among five hundred who wait: at most three requests and one event each, whoever of them it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_costs_the_same_among_five_hundred() {
    const WAITERS: usize = 500;
    const HAND_OVERS: u64 = 100;
    let Some(url) = place() else { return };
    let proxy = proxy(&url);
    // Their leases are long, so that nobody looks by itself meanwhile.
    let options = LockOptions::default().with_ttl(Duration::from_secs(600));
    let coordinator = coord_zk::connect(proxy.url()).await.unwrap();
    let name = crate::common::name("a");
    let mut guard = coordinator.acquire(&name, &options).await.unwrap();
    let (granted, mut grants) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..WAITERS {
        let (client, name, options, granted) =
            (coordinator.clone(), name.clone(), options.clone(), granted.clone());
        tokio::spawn(async move {
            let _ = granted.send(client.acquire(&name, &options).await);
        });
    }
    let observer = coord_zk::connect(&url).await.unwrap();
    let waiters = async || observer.inspect(Kind::Lock, &name).await.unwrap().waiters.len() == WAITERS;
    until("five hundred waiters", waiters).await;
    let before = settled(&proxy).await;
    // To queue up: the pair, and a watch on who stands ahead, which may have changed places meanwhile.
    assert!(before.total() < 6 * WAITERS as u64, "{before:?}");
    for _ in 0..HAND_OVERS {
        let token = guard.token();
        guard.release().await.unwrap();
        guard = grants.recv().await.unwrap().unwrap();
        assert!(guard.token() > token);
    }
    let counts = settled(&proxy).await;
    assert!(counts.total() <= 3 * HAND_OVERS, "{counts:?}");
    // Each grant is answered by the leader, with a transaction.
    assert_eq!(counts.requests["multi"], HAND_OVERS, "{counts:?}");
    assert_eq!(counts.events, HAND_OVERS, "{counts:?}");
    guard.release().await.unwrap();
    coordinator.shutdown().await.unwrap();
}

/// A thousand locks are renewed by one request.
#[tokio::test]
async fn the_renewal_of_a_thousand_is_one_request() {
    let Some(url) = place() else { return };
    let proxy = proxy(&url);
    let store = open(&proxy.url()).await;
    let lines: Vec<_> = (0..1000).map(|number| line(&format!("lock {number}"))).collect();
    let claims: Vec<_> = lines.iter().map(claim).collect();
    let mut grants = Vec::new();
    for chunk in claims.chunks(50) {
        let claiming = chunk.iter().map(|claim| store.claim(claim));
        grants.extend(
            futures_util::future::join_all(claiming).await.into_iter().map(|one| granted(one.unwrap())),
        );
    }
    settled(&proxy).await;
    let renewals = store.renew(&grants).await.unwrap();
    assert!(renewals.iter().all(|renewal| *renewal == Renewal::Renewed));
    let counts = settled(&proxy).await;
    assert_eq!((counts.requests["multi"], counts.total()), (1, 1), "{counts:?}");
    // One that is gone costs a look at the others, not one request each.
    open(&url).await.withdraw(&lines[500], grants[500].id).await.unwrap();
    let renewals = store.renew(&grants).await.unwrap();
    assert_eq!(renewals.iter().filter(|renewal| **renewal == Renewal::Lost).count(), 1);
    assert_eq!(renewals[500], Renewal::Lost);
    assert!(settled(&proxy).await.total() <= 3);
}

/// The instances of a service are read by one request.
#[tokio::test]
async fn five_hundred_members_are_read_by_one_request() {
    let Some(url) = place() else { return };
    let proxy = proxy(&url);
    let (store, other) = (open(&proxy.url()).await, open(&url).await);
    let mut line = line("service");
    line.kind = Kind::Registry;
    let member = |number: usize| Claim {
        weight: 0,
        limit: 0,
        owner: format!("instance {number}"),
        value: vec![7; 300],
        ..claim(&line)
    };
    let members: Vec<_> = (0..500).map(member).collect();
    for chunk in members.chunks(50) {
        futures_util::future::join_all(chunk.iter().map(|member| other.claim(member))).await;
    }
    settled(&proxy).await;
    let seen = store.line(&line).await.unwrap();
    assert_eq!(seen.entries.len(), 500);
    assert!(seen.entries.iter().all(|entry| entry.value == [7; 300] && entry.granted.is_some()));
    let counts = settled(&proxy).await;
    assert_eq!((counts.requests["multiRead"], counts.total()), (1, 3), "{counts:?}");
}

/// With permits, who can use one that is free is woken, and not all who wait.
#[tokio::test]
async fn a_permit_that_is_free_wakes_who_can_use_it() {
    const WAITERS: usize = 50;
    let Some(url) = place() else { return };
    let proxy = proxy(&url);
    let coordinator = coord_zk::connect(proxy.url()).await.unwrap();
    let (name, options) =
        (crate::common::name("a"), LockOptions::default().with_ttl(Duration::from_secs(600)));
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(coordinator.acquire_permits(&name, 1, 2, &options).await.unwrap());
    }
    let (granted, mut grants) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..WAITERS {
        let (client, name, options, granted) =
            (coordinator.clone(), name.clone(), options.clone(), granted.clone());
        tokio::spawn(async move {
            let _ = granted.send(client.acquire_permits(&name, 1, 2, &options).await);
        });
        let observer = &coordinator;
        let waiting = async || {
            observer.inspect(Kind::Semaphore, &crate::common::name("a")).await.unwrap().waiters.len()
        };
        until("the waiter", async || waiting().await == number + 1).await;
    }
    settled(&proxy).await;
    for round in 0..10 {
        // Not always who came first leaves first.
        let leaves = held.remove(round % 2);
        let newest = held[0].token().max(leaves.token());
        leaves.release().await.unwrap();
        held.push(grants.recv().await.unwrap().unwrap());
        assert!(held[1].token() > newest);
    }
    let counts = settled(&proxy).await;
    // One who is let in, and the next one, who waits first from then on, look at the line; nobody else does.
    assert!(counts.total() <= 10 * 16, "{counts:?}");
    assert!(counts.events <= 10 * 4, "{counts:?}");
}
