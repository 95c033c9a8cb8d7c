//! What operations cost, and what they leave behind.

use std::{collections::BTreeMap, time::Duration};

use coord_conformance::servers::Etcd;
use coord_core::{
    Effect, ErrorKind,
    spi::jobs::{Jobs, NewItem, Push, Pushed, Settled, Word},
};

use super::{LONG, NOTHING, grouped, item, one, parts, push, queue, receive, say, settle};
use crate::stores::{calls, keys, more, open, plain_server, raw, server};

const METHODS: [&str; 4] = ["Txn", "Range", "LeaseGrant", "LeaseRevoke"];

#[tokio::test]
async fn a_push_and_an_acknowledgement_are_one_request_and_a_receive_three() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let queue = queue("costs");
    // The first ones ask for the end of the queue, and for leases on which is remembered what is gone.
    store.push(&push(&queue, vec![item(b"0")])).await.unwrap();
    let first = one(&*store, &queue).await;
    settle(&*store, &queue, &first, Word::Ack).await;
    let mut before = calls(&server, METHODS);
    let mut cost = || {
        let cost = more(&server, METHODS, before);
        before = calls(&server, METHODS);
        cost
    };
    for round in 0..3 {
        store.push(&push(&queue, vec![item(b"1"), item(b"2")])).await.unwrap();
        assert_eq!(cost(), [1, 0, 0, 0], "a push, round {round}");
        let taken = store.receive(&receive(&queue, 2)).await.unwrap().deliveries;
        assert_eq!((taken.len(), cost()), (2, [2, 0, 1, 0]), "a receive");
        let extend = taken.iter().map(|taken| say(taken, Word::Extend(LONG))).collect::<Vec<_>>();
        assert_eq!(store.settle(&queue, &extend).await.unwrap(), [Settled::Done; 2]);
        assert_eq!(cost(), [1, 0, 1, 0], "an extension");
        assert_eq!(store.settle(&queue, &extend).await.unwrap(), [Settled::Done; 2]);
        assert_eq!(cost(), [1, 0, 1, 0], "the next extension");
        settle(&*store, &queue, &taken[0], Word::Ack).await;
        assert_eq!(cost(), [1, 0, 0, 0], "an acknowledgement");
        settle(&*store, &queue, &taken[1], Word::Return).await;
        assert_eq!(cost(), [2, 0, 0, 0], "an item given back");
        let again = one(&*store, &queue).await;
        assert_eq!(cost(), [2, 0, 1, 0], "a receive of one");
        settle(&*store, &queue, &again, Word::Ack).await;
        assert_eq!(cost(), [1, 0, 0, 0], "an acknowledgement");
        assert!(store.receive(&receive(&queue, 1)).await.unwrap().deliveries.is_empty());
        assert_eq!(cost(), [1, 0, 0, 0], "a receive of nothing");
        store.stats(&queue).await.unwrap();
        assert_eq!(cost(), [1, 0, 0, 0], "counts");
    }
    let many = (0..100).map(|_| item(b"x")).collect();
    store.push(&push(&queue, many)).await.unwrap();
    assert_eq!(cost(), [2, 0, 0, 0], "a push of many");
    let taken = store.receive(&receive(&queue, 100)).await.unwrap().deliveries;
    assert_eq!((taken.len(), cost()), (100, [2, 0, 1, 0]), "a receive of many");
    let acks: Vec<_> = taken.iter().map(|taken| say(taken, Word::Ack)).collect();
    assert_eq!(store.settle(&queue, &acks).await.unwrap(), [Settled::Done; 100]);
    assert_eq!(cost(), [1, 0, 0, 0], "acknowledgements of many");
    assert_eq!(store.stats(&queue).await.unwrap(), NOTHING);
}

/// What the server reads and sends for a receive does not depend on what else is in the queue.
#[tokio::test]
async fn a_long_queue_does_not_slow_a_receive() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let sent = |server: &Etcd| server.metrics().unwrap()["etcd_network_client_grpc_sent_bytes_total"];
    let mut costs = BTreeMap::new();
    for length in [10_u32, 1_000, 10_000] {
        let queue = queue(&format!("{length}"));
        for _ in 0..length.div_ceil(1_000) {
            let items = (0..length.min(1_000)).map(|number| match number % 4 {
                0 => grouped(b"payload", "one long group"),
                _ => item(b"payload"),
            });
            store.push(&push(&queue, items.collect())).await.unwrap();
        }
        let (before, bytes) = (calls(&server, METHODS), sent(&server));
        let mut times = Vec::new();
        for _ in 0..5 {
            let start = coord_core::clock::Clock::System.now();
            let taken = one(&*store, &queue).await;
            times.push(coord_core::clock::Clock::System.now().since(start));
            assert_eq!(taken.payload, b"payload");
        }
        times.sort();
        println!("a receive from a queue of {length}: {:?}", times[2]);
        assert_eq!(more(&server, METHODS, before), [10, 0, 5, 0]);
        costs.insert(length, sent(&server) - bytes);
    }
    println!("bytes sent for five receives, by length: {costs:?}");
    assert!(costs[&1_000] < 1.5 * costs[&10] && costs[&10_000] < 1.5 * costs[&10], "{costs:?}");
}

/// As servers are installed, they take 128 operations, and 1.5 MB.
#[tokio::test]
async fn large_pushes_fit_a_server_as_it_is_installed() {
    let Some(server) = plain_server() else { return };
    let store = open(&server).await;
    let queue = queue("large");
    for capacity in [None, Some(2_000)] {
        let items: Vec<_> = (0..1_000).map(|_| item(&[7; 1_048])).collect();
        let much = Push { capacity, ..push(&queue, items) };
        assert_eq!(store.push(&much).await.unwrap(), Pushed::Done { new: 1_000 });
        assert_eq!(store.push(&much).await.unwrap(), Pushed::Done { new: 0 });
    }
    let groups = (0..1_000).map(|number| grouped(b"x", &format!("{}", number % 300)));
    let delayed = (0..1_000).map(|number| NewItem { delay: LONG * (1 + number % 3), ..item(b"x") });
    store.push(&push(&queue, groups.collect())).await.unwrap();
    store.push(&push(&queue, delayed.collect())).await.unwrap();
    let taken = store.receive(&receive(&queue, 1_000)).await.unwrap().deliveries;
    assert_eq!(taken.len(), 1_000);
    assert!(taken.is_sorted_by_key(|taken| taken.token));
    let extend: Vec<_> = taken.iter().map(|taken| say(taken, Word::Extend(LONG))).collect();
    assert!(store.settle(&queue, &extend).await.unwrap().iter().all(|said| *said == Settled::Done));
    let acks: Vec<_> = taken.iter().map(|taken| say(taken, Word::Ack)).collect();
    assert!(store.settle(&queue, &acks).await.unwrap().iter().all(|said| *said == Settled::Done));
    // Large ones come in parts.
    let large: Vec<_> = (0..16).map(|_| NewItem { priority: 9, ..item(&[7; 64 * 1024]) }).collect();
    for large in [
        large.clone(),
        large.into_iter().map(|large| NewItem { id: coord_core::ItemId::random(), ..large }).collect(),
        (0..16).map(|_| NewItem { priority: 9, ..item(&[7; 64 * 1024]) }).collect(),
    ] {
        store.push(&push(&queue, large)).await.unwrap();
    }
    let taken = store.receive(&receive(&queue, 48)).await.unwrap().deliveries;
    assert_eq!(taken.len(), 32, "2 MiB");
    assert_eq!(store.purge(&queue).await.unwrap(), 16 + 1_000 + 1_000 + 1_000);
    let acks: Vec<_> = taken.iter().map(|taken| say(taken, Word::Ack)).collect();
    assert!(store.settle(&queue, &acks).await.unwrap().iter().all(|said| *said == Settled::Done));
    assert_eq!(store.stats(&queue).await.unwrap(), NOTHING);
    assert!(parts(&server).await.is_empty());

    // With a name as long as it may be, it is more than a request may have.
    let long = super::queue(&"/".repeat(250));
    let error = store.push(&push(&long, (0..1_000).map(|_| item(&[7; 1_048])).collect())).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::TooLarge, Effect::None), "{error}");
    assert_eq!(store.stats(&long).await.unwrap(), NOTHING);
}

#[tokio::test]
async fn what_is_gone_is_remembered_for_a_while_and_then_leaves_nothing() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let queue = queue("gone");
    let items = [item(b"a"), grouped(b"b", "g"), grouped(b"c", "g"), item(b"d"), item(b"e")];
    store.push(&push(&queue, items.to_vec())).await.unwrap();
    for _ in 0..3 {
        let taken = store.receive(&receive(&queue, 1)).await.unwrap().deliveries;
        settle(&*store, &queue, &taken[0], Word::Ack).await;
    }
    let taken = one(&*store, &queue).await;
    settle(&*store, &queue, &taken, Word::Nack { delay: Duration::ZERO, max_attempts: Some(1) }).await;
    assert_eq!(parts(&server).await, ["b", "i", "r", "x"]);
    assert_eq!(store.drop_dead(&queue, &[taken.id]).await.unwrap(), 1);
    let taken = one(&*store, &queue).await;
    settle(&*store, &queue, &taken, Word::Nack { delay: LONG, max_attempts: None }).await;
    assert_eq!(store.purge(&queue).await.unwrap(), 1);
    assert!(parts(&server).await.is_empty(), "{:?}", parts(&server).await);
    let leases: std::collections::BTreeSet<_> =
        keys(&server, "coord/q/default/gone/a/").await.iter().map(|kv| kv.lease()).collect();
    assert_eq!(leases.len(), 1, "they share a lease");
    for lease in leases {
        let left = raw(&server).await.lease_time_to_live(lease, None).await.unwrap().ttl();
        assert!((600..=1_210).contains(&left), "{left} s");
    }
    // Known are those that were acknowledged or dropped; what was purged is not.
    let known = Pushed::Done { new: 1 };
    assert_eq!(store.push(&push(&queue, items.to_vec())).await.unwrap(), known);
    // The lease is revoked by somebody else, and with it goes what was remembered.
    let remembered = keys(&server, "coord/q/default/gone/a/").await;
    raw(&server).await.lease_revoke(remembered[0].lease()).await.unwrap();
    assert_eq!(store.push(&push(&queue, items.to_vec())).await.unwrap(), Pushed::Done { new: 4 });
    let taken = one(&*store, &queue).await;
    assert_eq!(settle(&*store, &queue, &taken, Word::Ack).await, Settled::Done);
}
