//! Others who come between two requests of a client.

use coord_core::spi::jobs::{ItemId, Jobs, NewItem, QueueStats, Receive, Settled, Word};

use super::{LONG, NOTHING, SHORT, grouped, item, one, parts, push, queue, receive, settle};
use crate::stores::{Slow, compact, open, server, until};

/// Who puts back what waited for a lease looks first for those that wait, and then at their items. Meanwhile an item is taken by
/// somebody else, or taken and given back to wait anew: it stays where it is.
#[tokio::test]
async fn what_was_put_back_and_taken_meanwhile_stays_in_hand() {
    let Some(server) = server() else { return };
    let quick = open(&server).await;
    let over = QueueStats { ready: 1, ..NOTHING };
    for (name, given_back) in [("taken", false), ("given back", true)] {
        let queue = queue(name);
        if given_back {
            quick.push(&push(&queue, vec![item(b"a")])).await.unwrap();
            let short = Receive { visibility: SHORT, ..receive(&queue, 1) };
            assert_eq!(quick.receive(&short).await.unwrap().deliveries.len(), 1);
        } else {
            let delayed = NewItem { delay: SHORT, ..item(b"a") };
            quick.push(&push(&queue, vec![delayed])).await.unwrap();
        }
        until(async || quick.stats(&queue).await.unwrap() == over).await;
        let (slow, receive) = (Slow::open(&server).await, receive(&queue, 1));
        // After the look at the queue and the one for those that wait.
        let asked = slow.asked() + 1;
        let meanwhile = slow.after(asked, async {
            let taken = one(&*quick, &queue).await;
            if given_back {
                let word = Word::Nack { delay: LONG, max_attempts: None };
                assert_eq!(settle(&*quick, &queue, &taken, word).await, Settled::Done);
            }
        });
        let (received, ()) = tokio::join!(slow.store.receive(&receive), meanwhile);
        assert_eq!(received.unwrap().deliveries, [], "{name}");
        let waits =
            QueueStats { delayed: u64::from(given_back), in_flight: u64::from(!given_back), ..NOTHING };
        assert_eq!(quick.stats(&queue).await.unwrap(), waits, "{name}");
    }
}

/// While a purge goes through a long queue, the first item of a group is acknowledged, and another one is pushed behind its second one.
#[tokio::test]
async fn a_purge_sees_one_moment() {
    let Some(server) = server() else { return };
    let (queue, quick) = (queue("long"), open(&server).await);
    // The purge reads a thousand at a time, by their ids.
    let [first, second] =
        [0, u8::MAX].map(|byte| NewItem { id: ItemId::from_bytes([byte; 16]), ..grouped(b"x", "g") });
    quick.push(&push(&queue, vec![first, second])).await.unwrap();
    quick.push(&push(&queue, (0..1_000).map(|_| item(b"x")).collect())).await.unwrap();
    let taken = one(&*quick, &queue).await;
    let slow = Slow::open(&server).await;
    // After the look for leases that are over, and the first page.
    let asked = slow.asked() + 1;
    let meanwhile = slow.after(asked, async {
        assert_eq!(settle(&*quick, &queue, &taken, Word::Ack).await, Settled::Done);
        quick.push(&push(&queue, vec![grouped(b"third", "g")])).await.unwrap();
    });
    let (purged, ()) = tokio::join!(slow.store.purge(&queue), meanwhile);
    assert_eq!(purged.unwrap(), 1_001);
    let third = one(&*quick, &queue).await;
    assert_eq!(third.payload, b"third");
    assert_eq!(settle(&*quick, &queue, &third, Word::Ack).await, Settled::Done);
    assert!(parts(&server).await.is_empty());
}

/// The server forgets the moment that a purge looks at, between two pages of it.
#[tokio::test]
async fn a_purge_begins_again_when_its_moment_is_forgotten() {
    let Some(server) = server() else { return };
    let (queue, quick) = (queue("compacted"), open(&server).await);
    quick.push(&push(&queue, (0..1_001).map(|_| item(b"x")).collect())).await.unwrap();
    let slow = Slow::open(&server).await;
    let asked = slow.asked() + 1;
    let meanwhile = slow.after(asked, async {
        let taken = one(&*quick, &queue).await;
        assert_eq!(settle(&*quick, &queue, &taken, Word::Ack).await, Settled::Done);
        compact(&server).await;
    });
    let (purged, ()) = tokio::join!(slow.store.purge(&queue), meanwhile);
    assert_eq!(purged.unwrap(), 1_000);
    assert!(parts(&server).await.is_empty());
}

/// The second item of a group is purged and pushed anew, behind a third one, while the first one is acknowledged.
#[tokio::test]
async fn who_was_pushed_anew_does_not_follow_at_its_old_place() {
    let Some(server) = server() else { return };
    let (queue, quick) = (queue("anew"), open(&server).await);
    let second = grouped(b"second", "g");
    quick.push(&push(&queue, vec![grouped(b"first", "g"), second.clone()])).await.unwrap();
    let taken = one(&*quick, &queue).await;
    let slow = Slow::open(&server).await;
    // After the look at the item, and the one at who is behind it.
    let asked = slow.asked() + 1;
    let meanwhile = slow.after(asked, async {
        assert_eq!(quick.purge(&queue).await.unwrap(), 1);
        quick.push(&push(&queue, vec![grouped(b"third", "g"), second])).await.unwrap();
    });
    let (settled, ()) = tokio::join!(settle(&*slow.store, &queue, &taken, Word::Ack), meanwhile);
    assert_eq!(settled, Settled::Done);
    for expected in [&b"third"[..], b"second"] {
        let taken = one(&*quick, &queue).await;
        assert_eq!(taken.payload, expected);
        assert_eq!(settle(&*quick, &queue, &taken, Word::Ack).await, Settled::Done);
    }
    assert!(parts(&server).await.is_empty());
}
