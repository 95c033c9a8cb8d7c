//! What operations cost, counted at the server.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use coord_core::{
    Inspect, Lock, LockOptions,
    clock::Clock,
    spi::{Claim, Claims, Kind, Renewal},
};

use crate::common::{
    Counted, LONG, claim, coordinator, granted, line, name, open, server, until_waiting, waiting,
};

fn only(method: &str, count: u64) -> BTreeMap<String, u64> {
    BTreeMap::from([(method.to_owned(), count)])
}

#[tokio::test]
async fn an_uncontended_acquire_is_one_transaction_and_a_release_one() {
    let Some(server) = server() else { return };
    let (client, options) = (coordinator(&server).await, LockOptions::default().with_ttl(LONG));
    // The client gets its lease.
    client.acquire(&name("first"), &options).await.unwrap().release().await.unwrap();

    let counted = Counted::from_now(&server);
    let guard = client.acquire(&name("lock"), &options).await.unwrap();
    assert_eq!(counted.all_calls(&server), only("Txn", 1));
    // At the same time, on the stream that is open.
    assert!(counted.messages(&server, "LeaseKeepAlive") <= 1);
    assert_eq!(counted.messages(&server, "Watch"), 0);
    guard.release().await.unwrap();
    assert_eq!(counted.all_calls(&server), only("Txn", 2));
    assert!(counted.messages(&server, "LeaseKeepAlive") <= 1);
}

#[tokio::test]
async fn a_look_a_refusal_and_a_change_are_one_transaction_each() {
    let Some(server) = server() else { return };
    let (store, line) = (open(&server).await, line("cost"));
    let (holder, waiter) = (claim(&line), claim(&line));
    granted(store.claim(&claim(&crate::common::line("other"))).await.unwrap());

    let counted = Counted::from_now(&server);
    let grant = granted(store.claim(&holder).await.unwrap());
    waiting(store.claim(&waiter).await.unwrap());
    waiting(store.claim(&waiter).await.unwrap());
    store.claim(&Claim { wait: false, ..claim(&line) }).await.unwrap();
    store.set_value(&grant, b"v").await.unwrap();
    store.withdraw(&line, holder.id).await.unwrap();
    // It looks and is granted in one step.
    granted(store.claim(&waiter).await.unwrap());
    store.withdraw(&line, waiter.id).await.unwrap();
    assert_eq!(counted.all_calls(&server), only("Txn", 8));
    store.line(&line).await.unwrap();
    assert_eq!(counted.all_calls(&server), only("Txn", 9));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewing_a_thousand_locks_is_one_keep_alive_and_one_reading() {
    const LOCKS: usize = 1_000;
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let mut grants = Vec::new();
    for number in 0..LOCKS {
        grants.push(granted(store.claim(&claim(&line(&number.to_string()))).await.unwrap()));
    }
    store.withdraw(&grants[500].line, grants[500].id).await.unwrap();

    let counted = Counted::from_now(&server);
    let renewals = store.renew(&grants).await.unwrap();
    // One more read, to make sure that the one that is gone is gone.
    let calls = counted.all_calls(&server);
    assert_eq!(calls.get("Txn"), Some(&1), "{calls:?}");
    assert!(calls.values().sum::<u64>() <= 2, "{calls:?}");
    assert_eq!(counted.messages(&server, "LeaseKeepAlive"), 1);
    for (at, renewal) in renewals.into_iter().enumerate() {
        assert_eq!(renewal, if at == 500 { Renewal::Lost } else { Renewal::Renewed }, "{at}");
    }
}

/// Renewals of a thousand locks that programs hold: one keep-alive and one reading a period, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_locks_that_are_held_cost_what_one_costs() {
    const LOCKS: u64 = 1_000;
    let Some(server) = server() else { return };
    let (client, ttl) = (coordinator(&server).await, Duration::from_secs(6));
    let mut guards = Vec::new();
    for number in 0..LOCKS {
        let options = LockOptions::default().with_ttl(ttl);
        guards.push(client.acquire(&name(&number.to_string()), &options).await.unwrap());
    }
    let (counted, start) = (Counted::from_now(&server), Clock::System.now());
    tokio::time::sleep(ttl * 3 / 2).await;
    let (calls, kept) = (counted.all_calls(&server), counted.messages(&server, "LeaseKeepAlive"));
    // A period is a little less than a third of the TTL; on a busy machine they come late, never early.
    let periods = Clock::System.now().since(start).as_secs_f64() / (ttl.as_secs_f64() * 0.3) + 1.0;
    assert!(kept >= 2, "{kept}");
    assert!(kept as f64 <= periods, "{kept} in {periods} periods");
    assert!(calls.values().sum::<u64>() as f64 <= periods, "{calls:?} in {periods} periods");
    assert!(guards.iter().all(coord_core::Guard::is_held));
}

/// Five hundred wait for one lock. They are granted in the order in which they joined; each hand-over is two transactions and
/// one event; and while they wait they ask nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_waiters_cost_what_one_costs() {
    const WAITERS: usize = 500;
    let Some(server) = server() else { return };
    let name = name("queue");
    // Leases so long that nobody re-arms them during the test.
    let options = LockOptions::default().with_ttl(LONG * 20);
    let holder = coordinator(&server).await;
    let guard = holder.acquire(&name, &options).await.unwrap();
    let client = coordinator(&server).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for number in 0..WAITERS {
        let (client, name, order) = (client.clone(), name.clone(), order.clone());
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
    // Those who joined before the watch was there look once more.
    let mut asked = BTreeMap::new();
    for _ in 0..10 {
        let counted = Counted::from_now(&server);
        tokio::time::sleep(Duration::from_secs(1)).await;
        asked = counted.all_calls(&server);
        if asked.is_empty() {
            break;
        }
    }
    assert_eq!(asked, BTreeMap::new(), "somebody polls");

    let counted = Counted::from_now(&server);
    let events = || server.metrics().unwrap()["etcd_debugging_mvcc_events_total"];
    let before = events();
    guard.release().await.unwrap();
    for task in tasks {
        tokio::time::timeout(LONG * 2, task).await.unwrap().unwrap();
    }
    let (calls, told) = (counted.all_calls(&server), events() - before);
    // The first release and the last one are of one hand-over less.
    assert!(calls["Txn"] <= 2 * WAITERS as u64 + 1, "{calls:?}");
    assert!(calls.values().sum::<u64>() <= 2 * WAITERS as u64 + 3, "{calls:?}");
    // The client also hears of its first grant where it would be told that somebody took it away, and of nothing there.
    assert!(told <= WAITERS as f64 + 1.0, "{told} events");
    let order = order.lock().unwrap();
    assert!(order.is_sorted(), "tokens");
    assert_eq!(order.iter().map(|(_, owner)| owner.clone()).collect::<Vec<_>>(), joined);
}

/// Who waits behind a holder that died is granted when the lease ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_is_granted_when_the_lease_of_a_dead_holder_ends() {
    const LOCKS: usize = 10;
    let Some(server) = server() else { return };
    let (dead, client, ttl) = (open(&server).await, coordinator(&server).await, Duration::from_secs(2));
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
    // It ends without a word.
    drop(dead);
    let mut took = Vec::new();
    for wait in waits {
        took.push(wait.await.unwrap());
    }
    took.sort();
    assert!(took[LOCKS / 2] <= ttl + Duration::from_secs(1), "{took:?}");
}
