//! Lines in which a grant is handed over, in which requests meet, and requests and replies that are lost.

use std::{sync::Arc, time::Duration};

use coord_conformance::proxy::{Loss, Options, Proxy, framing};
use coord_core::{
    Effect, ErrorKind,
    spi::{Claim, ClaimId, Claims, Grant, HandOver, Kind, LineId, Renewal, Standing},
};
use coord_etcd::Store;

use crate::common::{LONG, claim, granted, ids, keys, line, open, server, waiting};

fn office() -> LineId {
    LineId { kind: Kind::Election, ..line("office") }
}

fn candidate() -> Claim {
    Claim { weight: 1, limit: 1, ..claim(&office()) }
}

/// A leader that hands over to the last of many; then the others are in their order again.
#[tokio::test]
async fn a_hand_over_passes_all_who_wait() {
    let Some(server) = server() else { return };
    let (one, two) = (open(&server).await, open(&server).await);
    let leader = candidate();
    let grant = granted(one.claim(&leader).await.unwrap());
    let mut waiters = Vec::new();
    for _ in 0..50 {
        let claim = candidate();
        waiting(two.claim(&claim).await.unwrap());
        waiters.push(claim);
    }
    let last = waiters.pop().unwrap();
    assert_eq!(one.hand_over(&grant, ClaimId::random()).await.unwrap(), HandOver::NotFound);
    assert_eq!(one.renew(std::slice::from_ref(&grant)).await.unwrap(), [Renewal::Renewed]);
    assert_eq!(one.hand_over(&grant, last.id).await.unwrap(), HandOver::Done);
    assert_eq!(one.renew(std::slice::from_ref(&grant)).await.unwrap(), [Renewal::Lost]);
    let order: Vec<_> = std::iter::once(&last).chain(&waiters).map(|claim| claim.id).collect();
    assert_eq!(ids(&one, &office()).await, order);
    let next = granted(two.claim(&last).await.unwrap());
    assert!(next.token > grant.token);
    assert_eq!(one.hand_over(&grant, waiters[0].id).await.unwrap(), HandOver::Lost);
    two.withdraw(&office(), last.id).await.unwrap();
    assert!(granted(two.claim(&waiters[0]).await.unwrap()).token > next.token);
}

/// Renewals to a longer lease, changes of the value and withdrawals of one claim meet: nothing is left, and nothing comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_withdrawal_meets_renewals() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    for round in 0..60 {
        let line = line(&round.to_string());
        let ours = Claim { ttl: Duration::from_secs(5), ..claim(&line) };
        let grant = granted(store.claim(&ours).await.unwrap());
        let renewing = |ttl: u64| {
            let (store, grant) = (store.clone(), Grant { ttl: Duration::from_secs(ttl), ..grant.clone() });
            tokio::spawn(async move { store.renew(&[grant]).await })
        };
        let changing = {
            let (store, grant) = (store.clone(), grant.clone());
            tokio::spawn(async move { store.set_value(&grant, b"new").await })
        };
        let renewals = [renewing(20), renewing(5), renewing(40)];
        for _ in 0..round % 8 {
            tokio::task::yield_now().await;
        }
        store.withdraw(&line, ours.id).await.unwrap();
        for renewal in renewals {
            renewal.await.unwrap().unwrap();
        }
        changing.await.unwrap().unwrap();
        assert!(ids(&store, &line).await.is_empty(), "in round {round}");
        assert_eq!(store.renew(&[grant]).await.unwrap(), [Renewal::Lost], "in round {round}");
    }
    assert_eq!(keys(&server).unwrap(), 0);
}

/// The same without a withdrawal: nobody loses anything, and the value is the last one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_meet_and_lose_nothing() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    for round in 0..40_u8 {
        let line = line(&round.to_string());
        let ours = Claim { ttl: Duration::from_secs(5), ..claim(&line) };
        let grant = granted(store.claim(&ours).await.unwrap());
        let renewing = |ttl: u64| {
            let (store, grant) = (store.clone(), Grant { ttl: Duration::from_secs(ttl), ..grant.clone() });
            tokio::spawn(async move { store.renew(&[grant]).await })
        };
        let renewals = [renewing(20), renewing(5), renewing(30)];
        assert_eq!(store.set_value(&grant, &[round]).await.unwrap(), Renewal::StillHeld);
        for renewal in renewals {
            assert_ne!(renewal.await.unwrap().unwrap(), [Renewal::Lost], "in round {round}");
        }
        assert_eq!(store.renew(std::slice::from_ref(&grant)).await.unwrap(), [Renewal::Renewed]);
        let entries = store.line(&line).await.unwrap().entries;
        assert_eq!((entries.len(), entries[0].value.as_slice()), (1, &[round][..]), "in round {round}");
        assert_eq!(entries[0].token, grant.token);
    }
}

/// Many tries at once for as many permits: all get one, and what is refused leaves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_tries_as_permits_all_succeed() {
    const PERMITS: u32 = 12;
    let Some(server) = server() else { return };
    let stores: Vec<Arc<Store>> = vec![open(&server).await, open(&server).await, open(&server).await];
    let line = LineId { kind: Kind::Semaphore, ..line("permits") };
    let attempt = Claim { weight: 1, limit: PERMITS, wait: false, ..claim(&line) };
    let tries = (0..PERMITS as usize).map(|number| {
        let (store, claim) = (stores[number % 3].clone(), Claim { id: ClaimId::random(), ..attempt.clone() });
        tokio::spawn(async move { store.claim(&claim).await.unwrap() })
    });
    for attempt in tries.collect::<Vec<_>>() {
        granted(attempt.await.unwrap());
    }
    let one_more = Claim { id: ClaimId::random(), ..attempt };
    let refused = stores[0].claim(&one_more).await.unwrap();
    assert!(matches!(refused, Standing::Refused(Some(_))), "{refused:?}");
    assert_eq!(ids(&stores[1], &line).await.len(), PERMITS as usize);
}

/// A client that is closed leaves what it holds to its lease, and ends a lease on which nothing is.
#[tokio::test]
async fn a_closed_client_leaves_no_lease() {
    let Some(server) = server() else { return };
    let (one, two) = (open(&server).await, open(&server).await);
    let (held, left) = (claim(&line("held")), claim(&line("left")));
    granted(one.claim(&held).await.unwrap());
    granted(two.claim(&left).await.unwrap());
    two.withdraw(&left.line, left.id).await.unwrap();
    one.close().await.unwrap();
    two.close().await.unwrap();
    let mut raw = etcd_client::Client::connect([format!("127.0.0.1:{}", server.port())], None).await.unwrap();
    assert_eq!(raw.leases().await.unwrap().leases().len(), 1);
    let three = open(&server).await;
    assert_eq!(ids(&three, &held.line).await, [held.id]);
    assert_eq!(held.ttl, LONG);
}

/// The requests of a claim, and their replies, are lost one after the other: it is made once, whatever was lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_reply_is_lost_is_found_again() {
    let Some(server) = server() else { return };
    let options = Options::default().with_protocol(framing::Grpc);
    let proxy = Proxy::start_with(server.url(), options).unwrap();
    let store = Store::open(proxy.url()).await.unwrap();
    let sound = open(&server).await;
    let warm = claim(&line("warm"));
    granted(store.claim(&warm).await.unwrap());
    for (round, lost) in [true, false].into_iter().enumerate() {
        let claim = claim(&line(&format!("lock {round}")));
        proxy.lose(if lost { Loss::reply(1).of("Txn") } else { Loss::request(1).of("Txn") });
        let first = store.claim(&claim).await;
        assert_eq!(proxy.counts().lost, round as u64 + 1);
        // Whether the driver or the caller asks again, there is one claim.
        let grant = match first {
            Ok(standing) => granted(standing),
            Err(error) => {
                assert_eq!(
                    (error.kind(), error.effect()),
                    (ErrorKind::Unavailable, Effect::Unknown),
                    "{error}"
                );
                assert_eq!(ids(&sound, &claim.line).await.len(), usize::from(lost), "{error}");
                granted(store.claim(&claim).await.unwrap())
            }
        };
        assert_eq!(ids(&sound, &claim.line).await, [grant.id]);
    }
    let counts = proxy.counts();
    assert!(counts.of("Txn") >= 3 && counts.of("Range") + counts.of("LeaseGrant") > 0, "{counts:?}");
}
