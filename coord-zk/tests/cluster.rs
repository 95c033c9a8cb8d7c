//! An ensemble of three that loses its leader, or its majority.

mod partition;

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use coord_conformance::{
    proxy::Way,
    servers::{ZooKeeperEnsemble, ZooKeeperOptions, found},
};
use coord_core::{
    CampaignOptions, Coordinator, Election, Lock, LockOptions, Namespace,
    clock::{Clock, Moment},
    spi::jobs::{ItemId, Jobs, NewItem, Push, QueueId, Receive, Settled, Settlement, Word},
};

use crate::common::{LONG, name, proxy, until};

/// How late this machine is, in milliseconds.
static LATENESS: AtomicU64 = AtomicU64::new(0);

fn now() -> Moment {
    Clock::System.now()
}

fn ensemble() -> Option<ZooKeeperEnsemble> {
    found(ZooKeeperEnsemble::start(&ZooKeeperOptions::default().with_own()))
}

fn others(index: usize) -> [usize; 2] {
    [(index + 1) % 3, (index + 2) % 3]
}

/// A URL of one server alone, in a place that others can name too.
fn at(ensemble: &ZooKeeperEnsemble, index: usize, place: &str) -> String {
    format!("{}{place}", ensemble.server(index).url())
}

async fn connect(url: &str) -> Coordinator {
    coord_zk::connect(url).await.unwrap()
}

/// The leader goes by `how` while locks are held and others wait: nobody who holds loses anything, and there is an answer
/// within a second after there is a leader again.
async fn a_leader_goes(ensemble: &mut ZooKeeperEnsemble, how: impl Fn(&ZooKeeperEnsemble, usize)) {
    let url = ensemble.fresh();
    let (client, waiter) = (connect(&url).await, connect(&url).await);
    let options = LockOptions::default().with_ttl(Duration::from_secs(15));
    let mut guards = Vec::new();
    for number in 0..20 {
        guards.push(client.acquire(&name(&format!("lock {number}")), &options).await.unwrap());
    }
    let waiting = {
        let (waiter, options) = (waiter.clone(), options.clone());
        tokio::spawn(async move { waiter.acquire(&name("lock 0"), &options).await })
    };
    let observer = connect(&url).await;
    let waits = async || {
        use coord_core::{Inspect, spi::Kind};
        observer.inspect(Kind::Lock, &name("lock 0")).await.is_ok_and(|line| line.waiters.len() == 1)
    };
    until("a waiter", waits).await;
    let leader = ensemble.until_led(&[0, 1, 2]).unwrap();
    how(ensemble, leader);
    let start = now();
    let servers: &ZooKeeperEnsemble = ensemble;
    let elected = async {
        until("a leader", async || {
            tokio::task::yield_now().await;
            others(leader).iter().any(|index| servers.server(*index).mode().as_deref() == Some("leader"))
        })
        .await;
        now()
    };
    let served = async {
        let mut failed = 0;
        loop {
            let probe = LockOptions::default().with_ttl(LONG);
            match client.acquire(&name("probe"), &probe).await {
                Ok(guard) => {
                    guard.release().await.unwrap();
                    return now();
                }
                Err(error) => {
                    failed += 1;
                    assert!(failed < 50, "{error}");
                }
            }
        }
    };
    let (elected, served) = tokio::join!(elected, served);
    println!("leader after {:?}, service after {:?}", elected.since(start), served.since(start));
    // A busy machine may take longer for everything; half the TTL is what must not be reached.
    assert!(served.since(elected) < options.ttl / 4, "served {:?} after the election", served.since(elected));
    // The session of the probe was opened anew; those of who holds and who waits may still be asking a server that is silent.
    for client in [&client, &waiter] {
        until("the session of the leases", async || match client.acquire(&name("back"), &options).await {
            Ok(guard) => guard.release().await.is_ok(),
            Err(_) => false,
        })
        .await;
    }
    for guard in &guards {
        assert!(guard.is_held(), "a guard was lost");
        guard.extend(options.ttl).await.unwrap();
    }
    let token = guards[0].token();
    guards.remove(0).release().await.unwrap();
    let next = tokio::time::timeout(options.ttl / 3, waiting).await.expect("a hint").unwrap().unwrap();
    assert!(next.token() > token, "{} came after {token}", next.token());
    for guard in guards {
        guard.release().await.unwrap();
    }
    next.release().await.unwrap();
    for client in [client, waiter, observer] {
        client.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_guard_is_lost_with_a_leader() {
    let Some(mut ensemble) = ensemble() else { return };
    let mut gone = None;
    for _ in 0..2 {
        a_leader_goes(&mut ensemble, |ensemble, leader| ensemble.server(leader).kill().unwrap()).await;
        let killed = (0..3).find(|index| ensemble.server(*index).mode().is_none()).unwrap();
        ensemble.restart(killed).unwrap();
        gone = Some(killed);
    }
    assert!(gone.is_some());
    // One that is stopped keeps its connections and answers nothing.
    let stopped = std::cell::Cell::new(0);
    a_leader_goes(&mut ensemble, |ensemble, leader| {
        stopped.set(leader);
        ensemble.server(leader).stop().unwrap();
    })
    .await;
    ensemble.server(stopped.get()).resume().unwrap();
}

/// A leader whose server is cut off from the clients of the others reports that it lost before they elect another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leads_by_a_server_that_stops_is_lost_before_the_next_one_leads() {
    let Some(ensemble) = ensemble() else { return };
    let options = CampaignOptions::default().with_ttl(Duration::from_secs(3));
    for round in 0..2 {
        let leader = ensemble.until_led(&[0, 1, 2]).unwrap();
        // Once a follower stops, once the leader of the ensemble.
        let index = if round == 0 { others(leader)[0] } else { leader };
        let place = format!("/round-{round}");
        let rest =
            others(index).map(|other| format!("127.0.0.1:{}", ensemble.server(other).port())).join(",");
        let (old, new) =
            (connect(&at(&ensemble, index, &place)).await, connect(&format!("zk://{rest}{place}")).await);
        let office = old.campaign(&name("a"), &options).await.unwrap();
        let next = {
            let (new, options) = (new.clone(), options.clone());
            tokio::spawn(async move { (new.campaign(&name("a"), &options).await.unwrap(), now()) })
        };
        tokio::time::sleep(options.ttl).await;
        assert!(office.is_leader(), "it is renewed");
        ensemble.server(index).stop().unwrap();
        office.lost().await;
        let lost = now();
        let (next, elected) =
            tokio::time::timeout(Duration::from_secs(30), next).await.expect("the next").unwrap();
        assert!(lost < elected, "it was lost {:?} after the other led", lost.since(elected));
        assert!(next.term() > office.term());
        ensemble.server(index).resume().unwrap();
        next.resign().await.unwrap();
    }
}

/// A server without a majority elects nobody, and who led by it is told so, although the server itself still answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_elects_nobody() {
    let Some(ensemble) = ensemble() else { return };
    let options = CampaignOptions::default().with_ttl(Duration::from_secs(2));
    for round in 0..2 {
        let leader = ensemble.until_led(&[0, 1, 2]).unwrap();
        // The leader of the ensemble goes on for a while before it notices; so does a follower.
        let index = if round == 0 { leader } else { others(leader)[0] };
        let place = format!("/round-{round}");
        let url = at(&ensemble, index, &place);
        let (old, new) = (connect(&url).await, connect(&format!("{url}?timeout=2")).await);
        let office = old.campaign(&name("a"), &options).await.unwrap();
        for other in others(index) {
            ensemble.server(other).stop().unwrap();
        }
        let candidate = {
            let (new, options) = (new.clone(), options.clone().with_wait(Duration::from_secs(8)));
            tokio::spawn(async move { (new.campaign(&name("a"), &options).await, now()) })
        };
        // Nobody takes the office from it; it cannot know that.
        tokio::time::timeout(options.ttl * 2, office.lost()).await.expect("the loss");
        assert!(!office.is_leader());
        let (other, lock) = (name("b"), LockOptions::default());
        let fresh = tokio::time::timeout(Duration::from_secs(20), new.try_acquire(&other, &lock));
        assert!(fresh.await.expect("a deadline").is_err(), "a minority granted a lock");
        let (outcome, ended) = candidate.await.unwrap();
        assert!(outcome.is_err(), "a minority elected {outcome:?} at {ended:?}");
        for other in others(index) {
            ensemble.server(other).resume().unwrap();
        }
        // With the majority everything comes back.
        let again = async || new.campaign(&name("a"), &options).await;
        let mut outcome = again().await;
        let start = now();
        while outcome.is_err() && now().since(start) < Duration::from_secs(30) {
            outcome = again().await;
        }
        let next = outcome.unwrap();
        assert!(next.term() > office.term());
        next.resign().await.unwrap();
    }
}

/// Clients of an ensemble give signs of life closer together than the heartbeats by which the leader hears of them.
#[tokio::test]
async fn signs_of_life_are_close_together() {
    let options = ZooKeeperOptions::default().with_own().with_setting("tickTime", "1000");
    let Some(ensemble) = found(ZooKeeperEnsemble::start(&options)) else { return };
    let url = at(&ensemble, 0, "/signs");
    let proxy = proxy(&url);
    let client = connect(&proxy.url()).await;
    let guard = client.acquire(&name("a"), &LockOptions::default().with_ttl(LONG)).await.unwrap();
    proxy.reset_counts();
    tokio::time::sleep(Duration::from_secs(4)).await;
    // Eight heartbeats, and two sessions.
    let signs = proxy.counts().of("exists");
    assert!(signs >= 16, "{signs} signs of life between eight heartbeats");
    guard.release().await.unwrap();
}

/// A follower without its leader answers readings for a while, and prolongs no delivery by that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_without_its_leader_prolongs_no_delivery() {
    let Some(ensemble) = ensemble() else { return };
    let leader = ensemble.until_led(&[0, 1, 2]).unwrap();
    let follower = others(leader)[0];
    let url = at(&ensemble, follower, "/deliveries");
    let (store, reader) =
        (crate::common::open(&format!("{url}?timeout=1")).await, crate::common::raw(&url).await);
    let queue = QueueId { namespace: Namespace::default(), name: name("a") };
    let item = NewItem {
        id: ItemId::random(),
        payload: b"x".to_vec(),
        priority: 0,
        delay: Duration::ZERO,
        group: None,
    };
    store.push(&Push { queue: queue.clone(), capacity: None, items: vec![item] }).await.unwrap();
    let receive = Receive {
        queue: queue.clone(),
        id: ItemId::random(),
        limit: 1,
        visibility: LONG,
        max_attempts: None,
        owner: "tester".into(),
    };
    let held = store.receive(&receive).await.unwrap().deliveries.remove(0);
    let extend = [Settlement { id: held.id, token: held.token, word: Word::Extend(LONG) }];
    assert_eq!(store.settle(&queue, &extend).await.unwrap(), [Settled::Done]);
    for other in others(follower) {
        ensemble.server(other).stop().unwrap();
    }
    let outcome = store.settle(&queue, &extend).await;
    assert!(reader.check_stat("/deliveries").await.unwrap().is_some(), "it does answer readings");
    assert!(outcome.is_err(), "a follower alone said {outcome:?}");
    for other in others(follower) {
        ensemble.server(other).resume().unwrap();
    }
    until("an answer", async || store.settle(&queue, &extend).await.is_ok_and(|all| all == [Settled::Done]))
        .await;
}

/// A token of a later epoch is greater, whatever the numbers of nodes say.
#[tokio::test]
async fn tokens_grow_over_leaders_and_restarts() {
    let Some(mut ensemble) = ensemble() else { return };
    let client = connect(&ensemble.fresh()).await;
    let options = LockOptions::default().with_ttl(LONG);
    let mut last = None;
    for _ in 0..2 {
        let guard = client.acquire(&name("a"), &options).await.unwrap();
        assert!(Some(guard.token()) > last);
        last = Some(guard.token());
        guard.release().await.unwrap();
        let leader = ensemble.until_led(&[0, 1, 2]).unwrap();
        ensemble.server(leader).kill().unwrap();
        ensemble.restart(leader).unwrap();
    }
    let mut guard = client.acquire(&name("a"), &options).await;
    while guard.is_err() {
        guard = client.acquire(&name("a"), &options).await;
    }
    assert!(Some(guard.unwrap().token()) > last);
}

/// A holder that is cut off is followed within the TTL that was asked for, a tick and half a second, also by servers with the tick
/// that they have where nobody set one. What this machine is late by comes on top of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_holder_is_followed_within_the_ttl_a_tick_and_half_a_second() {
    let tick = Duration::from_secs(2);
    let options = ZooKeeperOptions::default().with_own().with_setting("tickTime", "2000");
    let Some(ensemble) = found(ZooKeeperEnsemble::start(&options)) else { return };
    // A follower tells the leader of its clients.
    let leader = ensemble.until_led(&[0, 1, 2]).unwrap();
    let (place, follower) = ("/takeover", others(leader)[0]);
    let way = proxy(&at(&ensemble, follower, place));
    let holder = connect(&way.url()).await;
    let options = LockOptions::default().with_ttl(Duration::from_secs(6));
    let held = holder.acquire(&name("lock"), &options).await.unwrap();
    let candidate = connect(&at(&ensemble, leader, place)).await;
    let late = tokio::spawn(async {
        let (nap, mut worst) = (Duration::from_millis(5), Duration::ZERO);
        let end = now().after(Duration::from_secs(60));
        while now() < end {
            let before = now();
            tokio::time::sleep(nap).await;
            worst = worst.max(now().since(before).saturating_sub(nap));
            LATENESS.fetch_max(u64::try_from(worst.as_millis()).unwrap_or(u64::MAX), Relaxed);
        }
    });
    let lost = {
        tokio::spawn(async move {
            held.lost().await;
            now()
        })
    };
    way.blackhole(Way::Both);
    let dead = now();
    let next = candidate.acquire(&name("lock"), &options.clone().with_wait(LONG)).await.unwrap();
    let (took, lost) = (now().since(dead), lost.await.unwrap());
    late.abort();
    let bound = options.ttl + tick + Duration::from_millis(500);
    let allowance = Duration::from_millis(LATENESS.load(Relaxed)) * 4;
    eprintln!("followed after {took:?}, lost after {:?}", lost.since(dead));
    assert!(took <= bound + allowance, "{took:?}, not within {bound:?} and {allowance:?}");
    assert!(lost < now() && lost.since(dead) < took, "it was lost before the next held");
    next.release().await.unwrap();
}
