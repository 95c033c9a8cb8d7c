//! Burials that come late. What is between a look at the registry and a request is not to be reached from outside.

use coord_conformance::servers::{Etcd, EtcdOptions, found};
use coord_core::{
    Effect, Name, Namespace,
    spi::{ALL, Claim, ClaimId, Claims, Kind, LineId, Renewal, Standing},
};

use super::*;

fn claim(line: &LineId) -> Claim {
    Claim {
        line: line.clone(),
        id: ClaimId::random(),
        weight: ALL,
        limit: ALL,
        ttl: Duration::from_secs(30),
        priority: 0,
        wait: true,
        owner: "tester".into(),
        value: Vec::new(),
    }
}

fn line(name: &str) -> LineId {
    LineId { namespace: Namespace::default(), kind: Kind::Lock, name: Name::new(name).unwrap() }
}

/// A claim waits and ends; before it is buried it joins again under its id, which makes the same key, and is granted.
#[tokio::test]
async fn a_burial_that_comes_late_takes_no_key_that_was_made_since() {
    let Some(server) = found(Etcd::start(&EtcdOptions::default().with_own())) else { return };
    let (holder, client) =
        (Store::open(server.url()).await.unwrap(), Store::open(server.url()).await.unwrap());
    let line = line("late");
    let (held, waits) = (claim(&line), claim(&line));
    holder.claim(&held).await.unwrap();
    assert!(matches!(client.claim(&waits).await.unwrap(), Standing::Waiting { .. }));
    let registry = &client.shared.registry;
    let ended = registry.get(&line, waits.id).unwrap();
    let leaving = registry.leave(waits.id, ended.serial);
    holder.withdraw(&line, held.id).await.unwrap();
    let Standing::Granted(grant) = client.claim(&waits).await.unwrap() else { panic!("it is free") };
    drop(leaving);
    client.shared.bury(waits.id, &ended).await.unwrap();
    assert_eq!(client.renew(&[grant]).await.unwrap(), [Renewal::Renewed]);
}

/// A claim that was overtaken, or of which it is not known whether it is there, is found and deleted all the same.
#[tokio::test]
async fn a_burial_finds_a_key_that_is_newer_than_known() {
    let Some(server) = found(Etcd::start(&EtcdOptions::default().with_own())) else { return };
    let (holder, client) =
        (Store::open(server.url()).await.unwrap(), Store::open(server.url()).await.unwrap());
    let line = line("newer");
    holder.claim(&claim(&line)).await.unwrap();
    for known in [Some(1), None] {
        let waits = claim(&line);
        client.claim(&waits).await.unwrap();
        let held = client.shared.registry.get(&line, waits.id).unwrap();
        client.shared.bury(waits.id, &Held { token: known, ..held }).await.unwrap();
        assert_eq!(holder.line(&line).await.unwrap().entries.len(), 1, "{known:?}");
    }
}

/// The first request may have been done, so the second one's certain failure is not the claim's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_of_unknown_outcome_stays_known_when_the_next_request_fails() {
    let Some(server) = found(Etcd::start(&EtcdOptions::default().with_own())) else { return };
    let client = Store::open(format!("{}?timeout=0.5", server.url())).await.unwrap();
    client.claim(&claim(&line("warm"))).await.unwrap();
    let line = line("doubtful");
    let claimed = claim(&line);
    server.stop().unwrap();
    assert_eq!(client.claim(&claimed).await.unwrap_err().effect(), Effect::Unknown);
    server.kill().unwrap();
    let refused = async { while client.claim(&claimed).await.unwrap_err().effect() != Effect::None {} };
    tokio::time::timeout(Duration::from_secs(30), refused).await.unwrap();
    assert!(client.shared.registry.get(&line, claimed.id).is_some());
}

/// A new leader that does not know all leases yet may say that one has ended. What the claim has there is not prolonged with the lease
/// that it joins on next.
#[tokio::test]
async fn a_claim_does_not_stay_on_a_lease_that_is_given_up() {
    let Some(server) = found(Etcd::start(&EtcdOptions::default().with_own())) else { return };
    let (holder, client) =
        (Store::open(server.url()).await.unwrap(), Store::open(server.url()).await.unwrap());
    for waiting in [false, true] {
        let line = line(if waiting { "waits" } else { "holds" });
        if waiting {
            holder.claim(&claim(&line)).await.unwrap();
        }
        let claimed = claim(&line);
        client.claim(&claimed).await.unwrap();
        let before = client.shared.registry.get(&line, claimed.id).unwrap();
        // Nobody sweeps meanwhile.
        client.shared.registry.remove(claimed.id, before.serial);
        before.lease.end();
        let standing = client.claim(&claimed).await.unwrap();
        assert_eq!(matches!(standing, Standing::Waiting { .. }), waiting);
        let held = client.shared.registry.get(&line, claimed.id).unwrap();
        let options = etcd_client::GetOptions::new();
        let found = client.shared.get(held.keys.place.clone(), options).await.unwrap();
        assert_ne!(held.lease.id, before.lease.id);
        assert_eq!(found.kvs[0].lease(), held.lease.id, "waiting: {waiting}");
        assert!(held.token > before.token, "waiting: {waiting}");
    }
}

/// Others need not wait until such a lease has run out.
#[tokio::test]
async fn a_lease_that_is_given_up_is_ended() {
    let Some(server) = found(Etcd::start(&EtcdOptions::default().with_own())) else { return };
    for layout in ["own", "interop"] {
        let open = || async { Store::open(format!("{}?layout={layout}", server.url())).await.unwrap() };
        let (client, other, line) = (open().await, open().await, line(layout));
        let (held, next) = (claim(&line), claim(&line));
        let mut hints = other.wakeups(&line, Some(next.id));
        client.claim(&held).await.unwrap();
        assert!(matches!(other.claim(&next).await.unwrap(), Standing::Waiting { .. }));
        let lease = client.shared.registry.get(&line, held.id).unwrap().lease;
        client.shared.lease_ended(&lease);
        let granted = async {
            while !matches!(other.claim(&next).await.unwrap(), Standing::Granted(_)) {
                hints.next().await;
            }
        };
        tokio::time::timeout(held.ttl / 3, granted).await.expect("the next one");
    }
}
