//! The values: random operations side by side with the memory backend, hints, and what is forgotten.

mod common;

use std::time::Duration;

use common::{
    Place, hint, quiet,
    words::{key, put},
};
use coord_core::{
    FencingToken, Name, Namespace,
    memory::Store as Memory,
    spi::{
        Claims,
        values::{
            Change, Changes, Committed, Condition, Prefix, Stored, Transaction, Values, Write, WriteId,
        },
    },
};
use coord_sql::Sqlite;
use fastrand::Rng;
use futures_util::FutureExt;

fn prefix(text: &str) -> Prefix {
    Prefix { namespace: Namespace::default(), text: text.into() }
}

type Shape = (Name, Option<Vec<u8>>, Option<FencingToken>, String);

/// What can be compared: versions differ.
fn shape(stored: &Stored) -> Shape {
    (stored.key.clone(), stored.value.clone(), stored.mark, stored.by.clone())
}

fn shapes(stored: &[Stored]) -> Vec<Shape> {
    stored.iter().map(shape).collect()
}

fn outcome(committed: &Committed) -> String {
    match committed {
        Committed::Done { .. } => "done".into(),
        Committed::Refused { at, found } => format!("refused {at} {:?}", found.as_ref().map(shape)),
    }
}

fn revision(committed: &Committed) -> Option<u64> {
    match committed {
        Committed::Done { revision } => Some(*revision),
        Committed::Refused { .. } => None,
    }
}

const KEYS: [&str; 7] = ["a", "a/b", "a\u{10ffff}c", "a\u{d7ff}", "b", "\"'\\", "\u{10ffff}"];
const PREFIXES: [&str; 6] = ["", "a", "a/", "a\u{10ffff}", "\u{10ffff}", "\""];

async fn run(seed: u64) {
    let place = Place::new();
    let store = place.open().await;
    let model = Memory::new().connect();
    let mut random = Rng::with_seed(seed);
    // Revisions of the same moment in either store.
    let mut moments = vec![(
        Values::get(&*store, &key("a")).await.unwrap().1,
        Values::get(&model, &key("a")).await.unwrap().1,
    )];
    let mut last: Option<(Transaction, Transaction)> = None;
    for step in 0..150u32 {
        let here = format!("seed {seed} step {step}");
        let (mut ours, mut theirs) = match &last {
            Some(both) if random.u8(0..12) == 0 => both.clone(),
            _ => {
                let id = WriteId::random();
                let mut keys = KEYS;
                random.shuffle(&mut keys);
                let (mut ours, mut theirs) = (Vec::new(), Vec::new());
                for name in &keys[..random.usize(1..4)] {
                    let one = Values::get(&*store, &key(name)).await.unwrap().0;
                    let other = Values::get(&model, &key(name)).await.unwrap().0;
                    let off = u64::from(random.u8(0..4) == 0);
                    let version = |stored: Option<Stored>| stored.map_or(9, |stored| stored.version + off);
                    let (one, other) = (version(one), version(other));
                    let token = Condition::Token(FencingToken::new(random.u64(1..9)).unwrap());
                    let what = random.u8(0..9);
                    let change = match random.u8(0..8) {
                        0..=4 => Change::Put(vec![0xff; random.usize(0..4)]),
                        5 | 6 => Change::Delete,
                        _ => Change::Fence,
                    };
                    let conditions = match what {
                        _ if change == Change::Fence => (token, token),
                        0..=2 => (Condition::Any, Condition::Any),
                        3 => (Condition::Absent, Condition::Absent),
                        4..=6 => (Condition::Version(one), Condition::Version(other)),
                        _ => (token, token),
                    };
                    let name = Name::new(name).unwrap();
                    ours.push(Write { key: name.clone(), condition: conditions.0, change: change.clone() });
                    theirs.push(Write { key: name, condition: conditions.1, change });
                }
                let whole = |writes| Transaction {
                    id,
                    by: format!("{step}"),
                    namespace: Namespace::default(),
                    writes,
                };
                (whole(ours), whole(theirs))
            }
        };
        let (one, other) = (store.commit(&ours).await.unwrap(), model.commit(&theirs).await.unwrap());
        assert_eq!(outcome(&one), outcome(&other), "{here}");
        if let (Some(one), Some(other)) = (revision(&one), revision(&other)) {
            moments.push((one, other));
        }
        (ours.by, theirs.by) = ("again".into(), "again".into());
        last = Some((ours, theirs));

        let name = key(random.choice(&KEYS).unwrap());
        let (one, other) =
            (Values::get(&*store, &name).await.unwrap(), Values::get(&model, &name).await.unwrap());
        assert_eq!(one.0.as_ref().map(shape), other.0.as_ref().map(shape), "{here}");
        let (one, other) = (store.history(&name, 5).await.unwrap(), model.history(&name, 5).await.unwrap());
        assert_eq!(shapes(&one), shapes(&other), "{here}");
        let prefix = prefix(random.choice(&PREFIXES).unwrap());
        let after = random.bool().then(|| Name::new(random.choice(&KEYS).unwrap()).unwrap());
        let limit = random.u32(1..5);
        let one = store.list(&prefix, after.as_ref(), limit).await.unwrap();
        let other = model.list(&prefix, after.as_ref(), limit).await.unwrap();
        assert_eq!((shapes(&one.entries), one.more), (shapes(&other.entries), other.more), "{here}");
        let since = *random.choice(&moments).unwrap();
        let one = store.changes(&prefix, since.0).await.unwrap();
        let other = model.changes(&prefix, since.1).await.unwrap();
        match (one, other) {
            (Changes::All { entries: one, .. }, Changes::All { entries: other, .. }) => {
                assert_eq!(shapes(&one), shapes(&other), "{here}");
                assert!(one.is_sorted_by_key(|stored| stored.version), "{here}");
            }
            (one, other) => assert_eq!(one, other, "{here}"),
        }
    }
}

#[tokio::test]
async fn the_store_does_what_the_specification_does() {
    let seeds = std::env::var("COORD_TEST_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(8);
    for seed in 0..seeds {
        run(seed).await;
    }
}

#[tokio::test]
async fn watchers_of_a_prefix_hear_of_its_keys_and_no_others() {
    let place = Place::new();
    let (writer, watcher) = (place.open().await, place.open().await);
    let mut wakeups = Values::wakeups(&*watcher, &prefix("a/"));
    let mut other = Values::wakeups(&*watcher, &prefix("b"));
    for wakeups in [&mut wakeups, &mut other] {
        hint(wakeups).await;
        quiet(wakeups).await;
    }
    writer.commit(&put("a/key", b"1")).await.unwrap();
    hint(&mut wakeups).await;
    writer.commit(&put("a", b"1")).await.unwrap();
    writer.commit(&put("b", b"1")).await.unwrap();
    // The notes of one client come in order.
    hint(&mut other).await;
    assert!(wakeups.next().now_or_never().is_none());
    watcher.commit(&put("a/own", b"1")).await.unwrap();
    hint(&mut wakeups).await;
}

#[tokio::test]
async fn what_is_long_past_is_forgotten_and_said_to_be() {
    let place = Place::new();
    let store = place.open().await;
    let (_, start) = Values::get(&*store, &key("k")).await.unwrap();
    assert!(matches!(store.changes(&prefix(""), start).await.unwrap(), Changes::All { .. }));
    for number in 0..1_100u32 {
        store.commit(&put("k", &number.to_be_bytes())).await.unwrap();
    }
    assert_eq!(store.changes(&prefix(""), start).await.unwrap(), Changes::Gap);
    let states = store.history(&key("k"), 2_000).await.unwrap();
    assert_eq!(states.len(), 1_000);
    assert_eq!(states[0].value.as_deref(), Some(&1_099u32.to_be_bytes()[..]));
    let since = states[10].version;
    let Changes::All { entries, .. } = store.changes(&prefix("k"), since).await.unwrap() else {
        panic!("a gap")
    };
    assert_eq!(shapes(&entries), shapes(&states[..1]));
}

#[tokio::test]
async fn versions_go_on_growing_in_a_new_file() {
    let place = Place::new();
    let store = place.open().await;
    let Committed::Done { revision } = store.commit(&put("k", b"old")).await.unwrap() else {
        panic!("refused")
    };
    store.close().await.unwrap();
    drop(store);
    // The new file's first moment is a whole second.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", place.file().display()));
    }
    let store = Sqlite::open(place.config()).await.unwrap();
    assert_eq!(store.changes(&prefix(""), revision).await.unwrap(), Changes::Gap);
    let Committed::Done { revision: new } = store.commit(&put("k", b"new")).await.unwrap() else {
        panic!("refused")
    };
    assert!(new > revision);
}
