//! Several processes on one file. The other processes are this test program, run again as a helper.

use std::{collections::BTreeSet, time::Duration};

use coord_core::{
    clock::Clock,
    spi::{Claim, Claims},
};
use coord_sql::Sqlite;

use crate::common::{
    LONG, Place, claim, granted,
    helper::{Helper, acquire, listen, say, until_in_line},
    hint, line,
};

#[tokio::test]
#[ignore = "the helper process of the other tests"]
async fn helper_process() {
    let Ok(role) = std::env::var("COORD_TEST_ROLE") else { return };
    let file = std::env::var("COORD_TEST_FILE").unwrap();
    let opened = Sqlite::open(file).await;
    match role.as_str() {
        // Opens and says what came of it.
        "open" => say(opened.map_or_else(|error| format!("{:?}", error.kind()), |_| "open".to_owned())),
        // Waits in line, says that it was granted, and leaves.
        "wait" => {
            let store = opened.unwrap();
            say("ready");
            listen();
            let claim = claim(&line("lock"));
            acquire(&store, &claim).await;
            say("granted");
            store.withdraw(&claim.line, claim.id).await.unwrap();
        }
        // Takes the lock many times and says its tokens.
        "contend" => {
            let store = opened.unwrap();
            say("ready");
            listen();
            for _ in 0..50 {
                let claim = claim(&line("lock"));
                let grant = acquire(&store, &claim).await;
                say(grant.token);
                store.withdraw(&claim.line, claim.id).await.unwrap();
            }
        }
        // Holds the lock, watches its line, and does nothing more.
        "hold" => {
            let store = opened.unwrap();
            let ttl = Duration::from_millis(1_500);
            let grant = granted(store.claim(&Claim { ttl, ..claim(&line("lock")) }).await.unwrap());
            let mut wakeups = store.wakeups(&grant.line, None);
            hint(&mut wakeups).await;
            say(grant.token);
            listen();
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn tokens_grow_across_processes() {
    let place = Place::new();
    let mut helpers: Vec<_> =
        (0..3).map(|_| Helper::start(module_path!(), "contend", &place.file())).collect();
    for helper in &mut helpers {
        assert_eq!(helper.hear(), "ready");
    }
    for helper in &mut helpers {
        helper.tell("go");
    }
    let mut all = BTreeSet::new();
    for helper in &mut helpers {
        let tokens: Vec<u64> = (0..50).map(|_| helper.hear().parse().unwrap()).collect();
        assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
        all.extend(tokens);
    }
    assert_eq!(all.len(), 150, "no token twice");
}

#[tokio::test]
async fn a_new_file_may_be_opened_by_many_at_once() {
    for _ in 0..3 {
        let place = Place::new();
        let mut helpers: Vec<_> =
            (0..4).map(|_| Helper::start(module_path!(), "open", &place.file())).collect();
        for helper in &mut helpers {
            assert_eq!(helper.hear(), "open");
        }
    }
}

#[tokio::test]
async fn a_killed_holder_is_followed_when_its_lease_ends() {
    let place = Place::new();
    let store = place.open().await;
    let mut helper = Helper::start(module_path!(), "hold", &place.file());
    let token: u64 = helper.hear().parse().unwrap();
    let waiter = claim(&line("lock"));
    crate::common::waiting(store.claim(&waiter).await.unwrap());
    let pipes = || std::fs::read_dir(place.0.path().join("coord.db.wake")).unwrap().count();
    assert_eq!(pipes(), 2);
    helper.child.kill().unwrap();
    helper.child.wait().unwrap();
    let killed = Clock::System.now();
    let grant = acquire(&store, &waiter).await;
    let waited = Clock::System.now().since(killed);
    assert!(grant.token.get() > token);
    // TTL + 250 ms is what is promised.
    assert!(waited <= Duration::from_millis(1_750), "{waited:?}");
    assert_eq!(pipes(), 1, "its pipe is taken down by who had news for it");
}

/// Clock ticks of processor time that a process used.
#[cfg(target_os = "linux")]
fn ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // Behind the name, which may hold anything but ends with the last ')'.
    let fields: Vec<_> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_idle_waiter_uses_no_processor_time() {
    let place = Place::new();
    let store = place.open().await;
    let holder = Claim { ttl: LONG * 10, ..claim(&line("lock")) };
    granted(store.claim(&holder).await.unwrap());
    let mut helper = Helper::start(module_path!(), "wait", &place.file());
    assert_eq!(helper.hear(), "ready");
    helper.tell("join");
    let mut changes = store.wakeups(&holder.line, None);
    until_in_line(&store, &holder.line, &mut changes, 2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = ticks(helper.child.id());
    tokio::time::sleep(Duration::from_secs(4)).await;
    // A tick is 10 ms: 1 % of a core would be 4.
    let used = ticks(helper.child.id()) - before;
    assert!(used < 4, "{used} ticks in 4 s");
    store.withdraw(&holder.line, holder.id).await.unwrap();
    helper.hear();
}
