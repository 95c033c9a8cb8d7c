//! Tokens of deliveries.

use coord_core::spi::jobs::{Jobs, Receive};

use super::{item, one, push, queue, receive};
use crate::stores::{fresh, nodes, path_of, server};

/// Whoever removes the nodes of a queue does not make its tokens begin anew, although many of them were given out by few changes.
#[tokio::test]
async fn tokens_grow_over_the_removal_of_the_nodes() {
    let Some(server) = server() else { return };
    let place = server.fresh();
    let store = crate::stores::open(&crate::stores::large(&place)).await;
    let queue = queue("removed");
    store.push(&push(&queue, (0..600).map(|_| item(b"x")).collect())).await.unwrap();
    let mut last = None;
    for _ in 0..2 {
        let many = Receive { limit: 256, ..receive(&queue, 256) };
        let taken = store.receive(&many).await.unwrap().deliveries;
        assert_eq!(taken.len(), 256);
        assert!(taken.iter().map(|item| item.token).min() > last);
        last = taken.iter().map(|item| item.token).max();
    }
    let root = format!("{}/coord/default/queue/removed", path_of(&place));
    let raw = zookeeper_client::Client::connect(server.url().trim_start_matches("zk://")).await.unwrap();
    let mut removal = raw.new_multi_writer();
    // Those inside come last.
    for node in nodes(&server, &root).await.iter().rev().chain([&root]) {
        removal.add_delete(node, None).unwrap();
    }
    removal.commit().await.unwrap();
    store.push(&push(&queue, vec![item(b"x")])).await.unwrap();
    let token = one(&*store, &queue).await.token;
    assert!(Some(token) > last, "{token} came after {last:?}");
    // A queue that was never used begins there too, and one in another namespace need not.
    let other = fresh(&server).await;
    other.push(&push(&queue, vec![item(b"x")])).await.unwrap();
    assert!(Some(one(&*other, &queue).await.token) < last);
}
