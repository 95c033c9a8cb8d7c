//! Members of a cluster that are killed, stopped and cut off.

mod partition;

use std::{sync::Arc, time::Duration};

use coord_conformance::servers::{EtcdCluster, EtcdOptions, found};
use coord_core::{
    CampaignOptions, Coordinator, Durability, Election, ErrorKind, Lock, LockOptions, Scope,
    clock::{Clock, Moment},
    spi::Claims,
};
use coord_etcd::{Config, Store};
use tokio::task::JoinHandle;

use crate::common::{LONG, claim, granted, ids, line, name, until, until_waiting};

/// Long enough for a loaded machine to find a new leader within half of it.
const TTL: Duration = Duration::from_secs(10);

fn cluster() -> Option<EtcdCluster> {
    found(EtcdCluster::start(&EtcdOptions::default()))
}

async fn client(url: &str) -> Coordinator {
    coord_etcd::connect(url).await.unwrap()
}

fn now() -> Moment {
    Clock::System.now()
}

/// The others than this one.
fn but(not: usize) -> impl Iterator<Item = usize> {
    (0..3).filter(move |at| *at != not)
}

#[tokio::test]
async fn a_cluster_promises_that_a_minority_may_be_lost() {
    let Some(cluster) = cluster() else { return };
    let store = Store::open(cluster.url()).await.unwrap();
    store.guarantees().require(Scope::Network, Durability::Quorum).unwrap();
}

/// What is done to the leader.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Killed,
    Stopped,
}

/// The leader of the cluster is away under held locks and waiting candidates: nobody loses anything, nobody is granted what is
/// held, and soon everything goes on.
async fn the_leader_is_away(fault: Fault) {
    let Some(mut cluster) = cluster() else { return };
    let (options, campaign) =
        (LockOptions::default().with_ttl(TTL), CampaignOptions::default().with_ttl(TTL));
    let holders = [client(&cluster.url()).await, client(&cluster.url()).await, client(&cluster.url()).await];
    let (locked, elected) = (name("lock"), name("election"));
    let mut guards = Vec::new();
    for (number, holder) in holders.iter().enumerate() {
        guards.push(holder.acquire(&name(&number.to_string()), &options).await.unwrap());
    }
    let guard = holders[0].acquire(&locked, &options).await.unwrap();
    let leadership = holders[1].campaign(&elected, &campaign).await.unwrap();
    let (term, token) = (leadership.term(), guard.token());
    let waiting = client(&cluster.url()).await;
    let lock: JoinHandle<_> = {
        let (client, name, options) = (waiting.clone(), locked.clone(), options.clone());
        tokio::spawn(async move { client.acquire(&name, &options).await })
    };
    let candidate: JoinHandle<_> = {
        let (client, name, options) = (waiting.clone(), elected.clone(), campaign.clone());
        tokio::spawn(async move { client.campaign(&name, &options).await })
    };
    until_waiting(&holders[0], &locked, 1).await;

    let leader = cluster.leader().unwrap();
    let start = now();
    match fault {
        Fault::Killed => cluster.kill(leader).unwrap(),
        Fault::Stopped => cluster.stop(leader).unwrap(),
    }
    cluster.leader_but(leader).unwrap();
    let recovered = now();
    // Somebody new comes in.
    let next = client(&cluster.url()).await;
    until("a lock", async || match next.acquire(&name("after"), &options).await {
        Ok(guard) => guard.release().await.is_ok(),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            false
        }
    })
    .await;
    // And so do those who were there.
    for guard in &guards {
        until("a renewal", async || guard.extend(TTL).await.is_ok()).await;
    }
    let back = now();
    eprintln!(
        "{fault:?}: the servers were back after {:?}, the service {:?} later",
        recovered.since(start),
        back.since(recovered)
    );
    assert!(guards.iter().all(coord_core::Guard::is_held), "a lock was lost in {:?}", back.since(start));
    assert!(guard.is_held() && leadership.is_leader());
    assert!(!lock.is_finished() && !candidate.is_finished(), "two hold one");
    guard.release().await.unwrap();
    leadership.resign().await.unwrap();
    let guard = tokio::time::timeout(LONG, lock).await.unwrap().unwrap().unwrap();
    let leadership = tokio::time::timeout(LONG, candidate).await.unwrap().unwrap().unwrap();
    assert!(guard.token() > token && leadership.term() > term);

    match fault {
        Fault::Killed => cluster.restart(leader).unwrap(),
        Fault::Stopped => cluster.resume(leader).unwrap(),
    }
    cluster.until_ready(leader).unwrap();
    // Its view is that of the others.
    let there = client(&cluster.members()[leader].url()).await;
    let refused = there.try_acquire(&locked, &options).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotGranted, "{refused}");
    guard.release().await.unwrap();
    there.acquire(&locked, &options).await.unwrap().release().await.unwrap();
    leadership.resign().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_takes_no_lock_with_it() {
    the_leader_is_away(Fault::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_leader_takes_no_lock_with_it() {
    the_leader_is_away(Fault::Stopped).await;
}

/// A client that knows one member alone, which is stopped: it reports its loss before the majority elects another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leads_at_a_stopped_member_is_lost_before_the_majority_elects_another() {
    let Some(cluster) = cluster() else { return };
    let leader = cluster.leader().unwrap();
    let options = CampaignOptions::default().with_ttl(Duration::from_secs(3));
    let there = client(&cluster.members()[leader].url()).await;
    let other = {
        let urls: Vec<_> =
            but(leader).map(|at| format!("127.0.0.1:{}", cluster.members()[at].port())).collect();
        client(&format!("etcd://{}", urls.join(","))).await
    };
    let old = there.campaign(&name("office"), &options).await.unwrap();
    let token = old.term();
    let lost = tokio::spawn(async move {
        old.lost().await;
        now()
    });
    let elected = {
        let options = options.clone();
        tokio::spawn(async move {
            let leadership = other.campaign(&name("office"), &options).await.unwrap();
            (now(), leadership.term())
        })
    };
    let watcher = Store::open(cluster.url()).await.unwrap();
    let mut office = line("office");
    office.kind = coord_core::spi::Kind::Election;
    until("the candidate", async || ids(&watcher, &office).await.len() == 2).await;
    cluster.stop(leader).unwrap();
    let lost = tokio::time::timeout(LONG, lost).await.unwrap().unwrap();
    let (elected, term) = tokio::time::timeout(LONG, elected).await.unwrap().unwrap();
    assert!(lost < elected, "elected {:?} before the loss", lost.since(elected));
    assert!(term > token);
    cluster.resume(leader).unwrap();
}

/// A member whose peers are stopped elects nobody, and who leads there is lost in time; when the peers are back it goes on, with
/// greater terms.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_elects_nobody() {
    let Some(cluster) = cluster() else { return };
    let leader = cluster.leader().unwrap();
    let options = CampaignOptions::default().with_ttl(Duration::from_secs(3));
    let url = format!("{}?timeout=1", cluster.members()[leader].url());
    let (there, candidate) = (client(&url).await, client(&url).await);
    let old = there.campaign(&name("office"), &options).await.unwrap();
    let token = old.term();
    for at in but(leader) {
        cluster.stop(at).unwrap();
    }
    let start = now();
    old.lost().await;
    assert!(now().since(start) <= Duration::from_secs(4), "{:?}", now().since(start));
    let error = candidate
        .campaign(&name("office"), &options.clone().with_wait(Duration::from_secs(3)))
        .await
        .map(|leadership| leadership.term())
        .unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotGranted), "{error}");
    for at in but(leader) {
        cluster.resume(at).unwrap();
    }
    cluster.until_ready(leader).unwrap();
    let next = tokio::time::timeout(LONG, async {
        loop {
            if let Ok(leadership) = candidate.campaign(&name("office"), &options).await {
                break leadership;
            }
        }
    });
    let next = next.await.unwrap();
    assert!(next.term() > token);
    next.resign().await.unwrap();
}

/// A member that is away is not asked again and again: with one of three away, nothing fails and little takes longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_away_is_not_noticed_for_long() {
    let Some(cluster) = cluster() else { return };
    let stores: Vec<Arc<Store>> = {
        let mut stores = Vec::new();
        for _ in 0..6 {
            stores.push(Store::open(cluster.url()).await.unwrap());
        }
        stores
    };
    for (fault, away) in [(Fault::Stopped, 0), (Fault::Killed, 1)] {
        match fault {
            Fault::Stopped => cluster.stop(away).unwrap(),
            Fault::Killed => cluster.kill(away).unwrap(),
        }
        for (number, store) in stores.iter().enumerate() {
            for round in 0..20 {
                let line = line(&format!("{fault:?} {number} {round}"));
                let claim = claim(&line);
                let start = now();
                granted(store.claim(&claim).await.unwrap());
                store.withdraw(&line, claim.id).await.unwrap();
                let took = now().since(start);
                // Once, it looks for another member, and the cluster perhaps for another leader.
                assert!(round == 0 || took < Duration::from_secs(1), "{fault:?} {number} {round}: {took:?}");
            }
        }
        if fault == Fault::Stopped {
            cluster.resume(away).unwrap();
            cluster.until_ready(away).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_members_stopped_make_every_call_fail_by_its_deadline() {
    let Some(cluster) = cluster() else { return };
    let timeout = Duration::from_secs(2);
    let config = Config::parse(&cluster.url()).unwrap().with_timeout(timeout);
    let (store, line) = (Store::open(&config).await.unwrap(), line("stopped"));
    let grant = granted(store.claim(&claim(&line)).await.unwrap());
    (0..3).for_each(|at| cluster.stop(at).unwrap());
    for _ in 0..2 {
        let start = now();
        let (other, grants) = (claim(&line), [grant.clone()]);
        let outcomes = tokio::join!(
            store.claim(&other),
            store.renew(&grants),
            store.set_value(&grant, b"v"),
            store.withdraw(&line, other.id),
            store.line(&line),
        );
        let took = now().since(start);
        assert!(took < timeout * 2 + Duration::from_secs(2), "{took:?}");
        let errors = [
            outcomes.0.unwrap_err(),
            outcomes.1.unwrap_err(),
            outcomes.2.unwrap_err(),
            outcomes.3.unwrap_err(),
            outcomes.4.unwrap_err(),
        ];
        assert!(errors.iter().all(|error| error.kind() == ErrorKind::Unavailable), "{errors:?}");
    }
    (0..3).for_each(|at| cluster.resume(at).unwrap());
    until("an answer", async || store.line(&line).await.is_ok()).await;
    // What was given up may have been done when they went on.
    assert_eq!(ids(&store, &line).await[0], grant.id);
    assert_eq!(store.renew(&[grant]).await.unwrap(), [coord_core::spi::Renewal::Renewed]);
}
