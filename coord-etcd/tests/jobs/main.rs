//! The queues: hints, leases, who comes between, what is left behind, what they cost.

mod costs;
mod leases;
mod meanwhile;
mod troubles;

use std::time::Duration;

use coord_core::spi::jobs::{
    Delivered, ItemId, Jobs, NewItem, Push, QueueId, QueueStats, Receive, Settled, Settlement, Word,
};

use crate::stores::{name, namespace};

/// Visibility that is far longer than a test.
const LONG: Duration = crate::stores::LONG;

/// The shortest lease that the servers of these tests grant.
const SHORT: Duration = Duration::from_secs(1);

/// What an empty queue has.
const NOTHING: QueueStats = QueueStats { ready: 0, delayed: 0, in_flight: 0, dead: 0 };

fn queue(text: &str) -> QueueId {
    QueueId { namespace: namespace(), name: name(text) }
}

fn item(payload: &[u8]) -> NewItem {
    NewItem {
        id: ItemId::random(),
        payload: payload.to_vec(),
        priority: 0,
        delay: Duration::ZERO,
        group: None,
    }
}

fn grouped(payload: &[u8], group: &str) -> NewItem {
    NewItem { group: Some(group.into()), ..item(payload) }
}

fn push(queue: &QueueId, items: Vec<NewItem>) -> Push {
    Push { queue: queue.clone(), capacity: None, items }
}

fn receive(queue: &QueueId, limit: u32) -> Receive {
    Receive {
        queue: queue.clone(),
        id: ItemId::random(),
        limit,
        visibility: LONG,
        max_attempts: None,
        owner: "tester".into(),
    }
}

fn say(delivered: &Delivered, word: Word) -> Settlement {
    Settlement { id: delivered.id, token: delivered.token, word }
}

/// Receives one item.
async fn one(store: &dyn Jobs, queue: &QueueId) -> Delivered {
    let mut taken = store.receive(&receive(queue, 1)).await.unwrap().deliveries;
    assert_eq!(taken.len(), 1);
    taken.remove(0)
}

async fn settle(store: &dyn Jobs, queue: &QueueId, delivered: &Delivered, word: Word) -> Settled {
    store.settle(queue, &[say(delivered, word)]).await.unwrap()[0]
}

/// Which parts of the queue's keys there are that do not end by themselves, each once.
async fn parts(server: &coord_conformance::servers::Etcd) -> Vec<String> {
    let stem = "coord/q/default/";
    let parts = crate::stores::left(server, stem).await.into_iter().map(|key| {
        let key = key.strip_prefix(stem).unwrap().split_once('/').unwrap().1.to_owned();
        key.split('/').next().unwrap().to_owned()
    });
    let parts: std::collections::BTreeSet<_> = parts.collect();
    parts.into_iter().collect()
}
