//! Members on hosts of their own, and a network between them that fails.

use std::time::Duration;

use coord_conformance::servers::{EtcdCluster, EtcdOptions, Network, found};
use coord_core::{
    CampaignOptions, Coordinator, Election, ErrorKind, Lock, LockOptions,
    clock::{Clock, Moment},
};

use crate::common::{LONG, name, until, until_waiting};

fn now() -> Moment {
    Clock::System.now()
}

async fn client(url: &str) -> Coordinator {
    coord_etcd::connect(url).await.unwrap()
}

/// What the leader and the others no longer hear of each other.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    Both,
    /// The leader is not heard.
    Mute,
    /// The leader hears nothing.
    Deaf,
}

impl Cut {
    fn make(self, network: &Network, leader: usize) {
        for other in (0..3).filter(|other| *other != leader) {
            if self != Self::Deaf {
                network.cut(leader, other).unwrap();
            }
            if self != Self::Mute {
                network.cut(other, leader).unwrap();
            }
        }
    }
}

/// A leader is cut off from the majority, and a client of it is not cut off from the leader: whoever holds there is lost
/// before the majority grants to the next, and nobody is granted anything there meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_at_a_leader_that_is_cut_off_is_lost_before_the_majority_grants() {
    let Some(network) = found(Network::start(3)) else { return };
    let Some(cluster) = found(EtcdCluster::start_in(&network, &EtcdOptions::default())) else { return };
    let options = LockOptions::default().with_ttl(Duration::from_secs(3));
    for (round, cut) in [Cut::Both, Cut::Mute, Cut::Deaf].into_iter().enumerate() {
        let leader = cluster.leader().unwrap();
        let rest: Vec<_> =
            (0..3).filter(|at| *at != leader).map(|at| cluster.members()[at].address().to_string()).collect();
        let url = format!("{}?timeout=1", cluster.members()[leader].url());
        let (there, candidate) = (client(&url).await, client(&url).await);
        let majority = client(&format!("etcd://{}", rest.join(","))).await;
        let lock = name(&format!("lock {round}"));
        let held = there.acquire(&lock, &options).await.unwrap();
        let next = {
            // Long enough for the elections that come with the old leader when it is back.
            let (majority, lock, options) = (majority.clone(), lock.clone(), options.clone().with_ttl(LONG));
            tokio::spawn(async move {
                loop {
                    match majority.acquire(&lock, &options).await {
                        Ok(guard) => return (guard, now()),
                        // As long as they elect nobody.
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
                    }
                }
            })
        };
        until_waiting(&majority, &lock, 1).await;
        // The control: nothing is cut, and it is renewed.
        tokio::time::sleep(options.ttl).await;
        assert!(held.is_held(), "{cut:?}: it is renewed");

        cut.make(&network, leader);
        tokio::time::timeout(LONG, held.lost()).await.expect("the loss");
        let lost = now();
        // The client of the leader still reaches it.
        cluster.members()[leader].metrics().unwrap();
        let campaign = CampaignOptions::default().with_ttl(options.ttl).with_wait(Duration::from_secs(3));
        let outcome = candidate.campaign(&name(&format!("office {round}")), &campaign).await;
        let error = outcome.map(|leadership| leadership.term()).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotGranted), "{cut:?}: {error}");
        let (next, acquired) = tokio::time::timeout(LONG * 2, next).await.expect("the next").unwrap();
        assert!(lost < acquired, "{cut:?}: it was lost {:?} after the next held", lost.since(acquired));
        assert!(next.token() > held.token() && next.is_held(), "{cut:?}");
        eprintln!("{cut:?}: lost {:?} before the next held", acquired.since(lost));

        network.heal().unwrap();
        cluster.until_ready(leader).unwrap();
        // What is there is what the majority has.
        let refused = async || match there.try_acquire(&lock, &options).await {
            Err(error) if error.kind() == ErrorKind::NotGranted => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{cut:?}: {error}");
                false
            }
            Ok(guard) => panic!("{cut:?}: {} was granted beside {}", guard.token(), next.token()),
        };
        until("an answer at the old leader", refused).await;
        next.release().await.unwrap();
        until("the lock at the old leader", async || {
            let guard = there.acquire(&lock, &options).await;
            guard.is_ok_and(|guard| guard.token() > held.token())
        })
        .await;
    }
}
