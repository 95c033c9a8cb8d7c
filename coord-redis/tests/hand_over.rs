//! How long a hand-over takes. Alone in its program, so that no other test takes its processor time.

mod common;

use std::time::Duration;

use common::{LONG, coordinator, name, server, until_waiting};
use coord_core::{Lock, LockOptions, clock::Clock};
use redis::{AsyncConnectionConfig, PushInfo, PushKind};
use tokio::sync::mpsc;

/// A lock goes to a client that waits for it within four times what one message takes on its round trip: until the subscriber
/// has it and the publisher has its answer. Both are measured in turn.
#[tokio::test]
async fn a_hand_over_takes_at_most_four_messages() {
    const ROUNDS: usize = 300;
    const REST: Duration = Duration::from_millis(2);
    let Some(server) = server() else { return };
    let (name, options) = (name("ball"), LockOptions::default().with_ttl(LONG));
    let (one, two) = (coordinator(&server).await, coordinator(&server).await);

    let driver = redis::Client::open(server.url().as_str()).unwrap();
    let (pushed, mut heard) = mpsc::unbounded_channel::<PushInfo>();
    let resp3 = redis::IntoConnectionInfo::into_connection_info(format!("{}?protocol=resp3", server.url()));
    let listening = redis::Client::open(resp3.unwrap()).unwrap();
    let config = AsyncConnectionConfig::new().set_push_sender(pushed);
    let mut subscriber = listening.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    subscriber.subscribe("floor").await.unwrap();
    let publisher = driver.get_multiplexed_async_connection().await.unwrap();

    let (mut floors, mut hand_overs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let guard = one.acquire(&name, &options).await.unwrap();
        let waiter = {
            let (two, name, options) = (two.clone(), name.clone(), options.clone());
            tokio::spawn(async move {
                let guard = two.acquire(&name, &options).await.unwrap();
                (Clock::System.now(), guard)
            })
        };
        until_waiting(&one, &name, 1).await;
        // Before both, everything is at rest for the same time: an idle processor takes long to wake.
        tokio::time::sleep(REST).await;
        let start = Clock::System.now();
        guard.release().await.unwrap();
        let (end, guard) = waiter.await.unwrap();
        hand_overs.push(end.since(start));
        guard.release().await.unwrap();

        tokio::time::sleep(REST).await;
        let start = Clock::System.now();
        let message = redis::cmd("PUBLISH").arg("floor").arg(round).to_owned();
        let sent = tokio::spawn({
            let mut publisher = publisher.clone();
            async move { message.query_async::<i64>(&mut publisher).await.unwrap() }
        });
        while heard.recv().await.unwrap().kind != PushKind::Message {}
        assert_eq!(sent.await.unwrap(), 1);
        floors.push(Clock::System.now().since(start));
    }
    floors.sort();
    hand_overs.sort();
    let (floor, hand_over) = (floors[ROUNDS / 2], hand_overs[ROUNDS / 2]);
    println!("a message takes {floor:?}, a hand-over {hand_over:?}");
    assert!(hand_over <= floor * 4, "{hand_over:?} against {floor:?}");
}
