//! What is done in part, or of which nobody knows whether it was, or that nobody waits for at the moment.

use std::time::Duration;

use coord_conformance::proxy::Loss;
use coord_core::{
    Effect,
    spi::jobs::{Jobs, QueueStats, Receive, Settled, Word},
};
use futures_util::FutureExt;

use super::{item, one, push, queue, receive, say};
use crate::stores::{LONG, fresh, large, open, proxy, shared};

/// A lease whose move to a longer session did not arrive is moved by the next extension, as it is still the present one.
#[tokio::test]
async fn a_move_that_did_not_arrive_is_made_again() {
    let Some(server) = shared() else { return };
    let (place, proxy) = (server.fresh(), proxy(server));
    let (store, queue) = (open(&large(&proxy.url_of(&place))).await, queue("moved twice"));
    store.push(&push(&queue, vec![item(b"a")])).await.unwrap();
    let short = Receive { visibility: Duration::from_secs(3), ..receive(&queue, 1) };
    let held = store.receive(&short).await.unwrap().deliveries.pop().unwrap();
    let extend = [say(&held, Word::Extend(LONG))];
    proxy.lose(Loss::request(1).of("multi"));
    assert_eq!(store.settle(&queue, &extend).await.unwrap_err().effect(), Effect::Unknown);
    assert_eq!(store.settle(&queue, &extend).await.unwrap(), [Settled::Done]);
    // And so is one of which nobody heard that it did.
    let extend = [say(&held, Word::Extend(LONG * 4))];
    proxy.lose(Loss::reply(1).of("multi"));
    assert_eq!(store.settle(&queue, &extend).await.unwrap_err().effect(), Effect::Unknown);
    assert_eq!(store.settle(&queue, &extend).await.unwrap(), [Settled::Done]);
    assert_eq!(store.settle(&queue, &[say(&held, Word::Ack)]).await.unwrap(), [Settled::Done]);
    assert_eq!(store.stats(&queue).await.unwrap(), QueueStats::default());
}

/// What was done in part is not said to have had no effect.
#[tokio::test]
async fn half_of_a_purge_is_not_nothing() {
    let Some(server) = shared() else { return };
    let (place, proxy) = (server.fresh(), proxy(server));
    let (store, queue) = (open(&large(&proxy.url_of(&place))).await, queue("half"));
    store.push(&push(&queue, (0..100).map(|_| item(b"x")).collect())).await.unwrap();
    // All are removed, and the look that nothing is left fails.
    proxy.lose(Loss::request(2).of("multiRead"));
    assert_eq!(store.purge(&queue).await.unwrap_err().effect(), Effect::Unknown);
    assert_eq!(store.stats(&queue).await.unwrap(), QueueStats::default());
}

/// A receive that nobody polls for a while keeps no other from the queue.
#[tokio::test]
async fn who_is_not_polled_is_in_nobodys_way() {
    let Some(server) = shared() else { return };
    let (store, queue) = (fresh(server).await, queue("parked"));
    store.push(&push(&queue, vec![item(b"a"), item(b"b")])).await.unwrap();
    // Opens the session.
    let held = one(&*store, &queue).await;
    let (first, second) = (receive(&queue, 1), receive(&queue, 1));
    let mut parked = Box::pin(store.receive(&first));
    assert!((&mut parked).now_or_never().is_none());
    assert!(store.receive(&second).await.is_ok());
    parked.await.unwrap();
    assert_eq!(store.settle(&queue, &[say(&held, Word::Ack)]).await.unwrap(), [Settled::Done]);
}
