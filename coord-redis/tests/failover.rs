//! What a failover to a replica loses that had not received everything, and what stays: the order of tokens and versions.

use coord_conformance::servers::RedisOptions;
use coord_core::{
    ConfigStore, Coordinator, ErrorKind, FencedStore, Namespace,
    spi::{
        Claims, Renewal,
        values::{Changes, Prefix, Values},
    },
};

use crate::common::{claim, granted, line, name, number, open, server_with, until};

#[tokio::test]
async fn tokens_and_versions_grow_over_a_failover_that_lost_them() {
    // The first copy begins at once.
    let options = RedisOptions::default().with_setting("repl-diskless-sync-delay", "0");
    let (Some(master), Some(replica)) = (server_with(&options), server_with(&options)) else { return };
    let (store, line) = (open(&master).await, line("moved"));
    let client = Coordinator::builder(store.clone()).values(store.clone()).build().unwrap();
    let (setting, account) = (name("setting"), name("account"));
    let kept = granted(store.claim(&claim(&line)).await.unwrap());
    let old = client.put(&setting, b"kept".to_vec(), coord_core::Condition::Any).await.unwrap();
    client.fenced_write(&account, b"kept".to_vec(), kept.token).await.unwrap();
    replica.command(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]).unwrap();
    until("the copy", async || {
        // The link is up once the first copy is complete.
        replica.command(&["INFO", "replication"]).unwrap().text().contains("master_link_status:up")
    })
    .await;
    assert_eq!(number(&replica, &["DBSIZE"]), number(&master, &["DBSIZE"]));

    // From here on the replica receives nothing.
    replica.command(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    store.withdraw(&line, kept.id).await.unwrap();
    let mut lost = granted(store.claim(&claim(&line)).await.unwrap());
    for _ in 0..1_000 {
        store.withdraw(&line, lost.id).await.unwrap();
        lost = granted(store.claim(&claim(&line)).await.unwrap());
    }
    let newer = client.put(&setting, b"lost".to_vec(), coord_core::Condition::Any).await.unwrap();
    client.fenced_write(&account, b"lost".to_vec(), lost.token).await.unwrap();
    master.kill().unwrap();
    replica.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    let store = open(&replica).await;
    let client = Coordinator::builder(store.clone()).values(store.clone()).build().unwrap();

    // Lost are the grant, the value and the mark.
    assert_eq!(store.renew(std::slice::from_ref(&lost)).await.unwrap(), [Renewal::Lost]);
    let found = client.get(&setting).await.unwrap().unwrap();
    assert_eq!((found.value.as_slice(), found.version), (&b"kept"[..], old));
    client.fenced_write(&account, b"stale".to_vec(), kept.token).await.unwrap();
    // Who saw them is told to read anew.
    let all = Prefix { namespace: Namespace::default(), text: String::new() };
    assert_eq!(store.changes(&all, newer).await.unwrap(), Changes::Gap);

    // What comes next has greater numbers, so a mark holds again once it was raised.
    store.withdraw(&line, kept.id).await.unwrap();
    let next = granted(store.claim(&claim(&line)).await.unwrap());
    assert!(next.token > lost.token, "{} after {}", next.token, lost.token);
    let newest = client.put(&setting, b"new".to_vec(), coord_core::Condition::Any).await.unwrap();
    assert!(newest > newer, "{newest} after {newer}");
    client.fenced_write(&account, b"new".to_vec(), next.token).await.unwrap();
    let late = client.fenced_write(&account, b"late".to_vec(), lost.token).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Fenced, "{late}");
}
