//! How soon another process hears of what was done, on one file. Nothing else runs beside it here: `cargo test` runs one
//! test file at a time, and these tests wait for each other. The other processes are this test program, run again.

mod common;

use std::time::Duration;

use common::{
    Place, claim,
    helper::{Helper, acquire, listen, nanoseconds, say, until_in_line},
    line,
};
use coord_core::{
    Condition, ConfigEvent, ConfigStore, Coordinator, Item, Name, PushOptions, Queue, ReceiveOptions,
    spi::Claims,
};
use coord_sql::Sqlite;
use tokio::sync::Mutex;

/// One at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

#[tokio::test]
#[ignore = "the helper process of the other tests"]
async fn helper_process() {
    let Ok(role) = std::env::var("COORD_TEST_ROLE") else { return };
    let opened = Sqlite::open(std::env::var("COORD_TEST_FILE").unwrap()).await;
    match role.as_str() {
        // Waits in line, says when it was granted, and leaves; as often as it is told to.
        "wait" => {
            let store = opened.unwrap();
            say("ready");
            while listen() == "join" {
                let claim = claim(&line("lock"));
                acquire(&store, &claim).await;
                say(nanoseconds());
                store.withdraw(&claim.line, claim.id).await.unwrap();
            }
        }
        // Receives, says when, and acknowledges, for ever.
        "consume" => {
            let store = opened.unwrap();
            let coordinator = Coordinator::builder(store.clone()).jobs(store).build().unwrap();
            say("ready");
            loop {
                let received = coordinator.receive(&name(), &ReceiveOptions::default()).await.unwrap();
                let now = nanoseconds();
                for delivery in received {
                    say(format!("{now} {}", String::from_utf8_lossy(delivery.payload())));
                    delivery.ack().await.unwrap();
                }
            }
        }
        // Watches, and says what it sees and when, for ever.
        "follow" => {
            let store = opened.unwrap();
            let coordinator = Coordinator::builder(store.clone()).values(store).build().unwrap();
            let mut watch = coordinator.watch(&name());
            while let Some(event) = watch.next().await {
                let now = nanoseconds();
                match event.unwrap() {
                    ConfigEvent::Snapshot(_) => say("ready"),
                    ConfigEvent::Put(entry) => {
                        say(format!("{now} {}", String::from_utf8_lossy(&entry.value)));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        other => panic!("{other}"),
    }
}

/// The queue, and the key.
fn name() -> Name {
    Name::new("between processes").unwrap()
}

/// The bound is part of what is promised; it is several times what an idle machine needs.
fn at_most_5_ms(what: &str, mut laps: Vec<u128>) {
    laps.sort_unstable();
    let (median, p99) = (laps[laps.len() / 2], laps[laps.len() * 99 / 100]);
    println!("{what} between two processes: median {} us, p99 {} us", median / 1_000, p99 / 1_000);
    assert!(median <= 5_000_000, "{what}: {median} ns");
}

#[tokio::test]
async fn a_hand_over_between_processes_takes_at_most_5_ms() {
    let _alone = ALONE.lock().await;
    let place = Place::in_memory();
    let store = place.open().await;
    let mut helper = Helper::start(module_path!(), "wait", &place.file());
    assert_eq!(helper.hear(), "ready");
    let mut changes = store.wakeups(&line("lock"), None);
    let mut laps = Vec::new();
    for _ in 0..200 {
        let claim = claim(&line("lock"));
        acquire(&store, &claim).await;
        helper.tell("join");
        until_in_line(&store, &claim.line, &mut changes, 2).await;
        let released = nanoseconds();
        store.withdraw(&claim.line, claim.id).await.unwrap();
        laps.push(helper.hear().parse::<u128>().unwrap() - released);
    }
    at_most_5_ms("a hand-over", laps);
}

/// Does something a hundred times, and measures until the helper says that it has seen it.
async fn until_heard(what: &str, helper: &mut Helper, mut act: impl AsyncFnMut(String)) {
    assert_eq!(helper.hear(), "ready");
    let mut laps = Vec::new();
    for number in 0..100 {
        // The helper has to be at rest again, of which nobody tells.
        tokio::time::sleep(Duration::from_millis(if number == 0 { 300 } else { 20 })).await;
        let before = nanoseconds();
        act(number.to_string()).await;
        let heard = helper.hear();
        let (when, seen) = heard.split_once(' ').unwrap();
        assert_eq!(seen, number.to_string());
        laps.push(when.parse::<u128>().unwrap() - before);
    }
    at_most_5_ms(what, laps);
}

#[tokio::test]
async fn an_item_reaches_a_consumer_of_another_process_in_at_most_5_ms() {
    let _alone = ALONE.lock().await;
    let place = Place::in_memory();
    let store = place.open().await;
    let coordinator = Coordinator::builder(store.clone()).jobs(store).build().unwrap();
    let mut helper = Helper::start(module_path!(), "consume", &place.file());
    let options = PushOptions::default();
    until_heard("an item", &mut helper, async |text| {
        coordinator.push(&name(), vec![Item::new(text)], &options).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_change_reaches_a_watcher_of_another_process_in_at_most_5_ms() {
    let _alone = ALONE.lock().await;
    let place = Place::in_memory();
    let store = place.open().await;
    let coordinator = Coordinator::builder(store.clone()).values(store).build().unwrap();
    let mut helper = Helper::start(module_path!(), "follow", &place.file());
    until_heard("a change", &mut helper, async |text| {
        coordinator.put(&name(), text.into_bytes(), Condition::Any).await.unwrap();
    })
    .await;
}
