//! Words about queues and values.

use std::time::Duration;

use coord_core::{
    Name, Namespace,
    spi::{
        jobs::{Delivered, ItemId, NewItem, Push, QueueId, Receive, Settlement, Word},
        values::{Change, Condition, KeyId, Transaction, Write, WriteId},
    },
};

use super::LONG;

pub(crate) fn queue(name: &str) -> QueueId {
    QueueId { namespace: Namespace::default(), name: Name::new(name).unwrap() }
}

pub(crate) fn item(payload: &[u8]) -> NewItem {
    NewItem {
        id: ItemId::random(),
        payload: payload.to_vec(),
        priority: 0,
        delay: Duration::ZERO,
        group: None,
    }
}

pub(crate) fn push(queue: &QueueId, items: Vec<NewItem>) -> Push {
    Push { queue: queue.clone(), capacity: None, items }
}

pub(crate) fn receive(queue: &QueueId, limit: u32) -> Receive {
    Receive {
        queue: queue.clone(),
        id: ItemId::random(),
        limit,
        visibility: LONG,
        max_attempts: None,
        owner: "tester".into(),
    }
}

pub(crate) fn say(delivered: &Delivered, word: Word) -> Settlement {
    Settlement { id: delivered.id, token: delivered.token, word }
}

pub(crate) fn key(text: &str) -> KeyId {
    KeyId { namespace: Namespace::default(), key: Name::new(text).unwrap() }
}

pub(crate) fn transaction(writes: Vec<(&str, Condition, Change)>) -> Transaction {
    let write = |(key, condition, change)| Write { key: Name::new(key).unwrap(), condition, change };
    Transaction {
        id: WriteId::random(),
        by: "tester".into(),
        namespace: Namespace::default(),
        writes: writes.into_iter().map(write).collect(),
    }
}

pub(crate) fn put(key: &str, value: &[u8]) -> Transaction {
    transaction(vec![(key, Condition::Any, Change::Put(value.to_vec()))])
}
