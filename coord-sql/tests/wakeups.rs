//! Hints: who wakes, who does not, and what becomes of clients that are gone.

use std::time::Duration;

use coord_core::spi::{Claim, ClaimId, Claims, Renewal, Wakeups};
use coord_sql::Store;
use futures_util::FutureExt;

use crate::common::{Place, claim, granted, hint, ids, line, quiet, waiting};

const SHORT: Duration = Duration::from_millis(150);

/// Hints of a line, once the watch is known to the store.
async fn watch(store: &Store, line: &coord_core::spi::LineId) -> Wakeups {
    let mut wakeups = store.wakeups(line, None);
    hint(&mut wakeups).await;
    quiet(&mut wakeups).await;
    wakeups
}

#[tokio::test]
async fn a_release_wakes_the_next_in_line_and_no_other() {
    let place = Place::new();
    let (holder, next, last) = (place.open().await, place.open().await, place.open().await);
    let line = line("herd");
    let (a, b, c) = (claim(&line), claim(&line), claim(&line));
    granted(holder.claim(&a).await.unwrap());
    let (mut of_b, mut of_c) = (next.wakeups(&line, Some(b.id)), last.wakeups(&line, Some(c.id)));
    waiting(next.claim(&b).await.unwrap());
    waiting(last.claim(&c).await.unwrap());
    holder.withdraw(&line, a.id).await.unwrap();
    hint(&mut of_b).await;
    granted(next.claim(&b).await.unwrap());
    next.withdraw(&line, b.id).await.unwrap();
    // This hint is the first: the release before did not wake it.
    hint(&mut of_c).await;
    assert!(of_c.next().now_or_never().is_none());
    granted(last.claim(&c).await.unwrap());
}

#[tokio::test]
async fn one_release_wakes_all_whom_it_makes_eligible() {
    let place = Place::new();
    let (holder, others) = (place.open().await, place.open().await);
    let line = line("readers");
    let writer = claim(&line);
    granted(holder.claim(&writer).await.unwrap());
    let readers: Vec<_> = (0..40).map(|_| Claim { weight: 1, ..claim(&line) }).collect();
    let mut wakeups = Vec::new();
    for reader in &readers {
        wakeups.push(others.wakeups(&line, Some(reader.id)));
        waiting(others.claim(reader).await.unwrap());
    }
    holder.withdraw(&line, writer.id).await.unwrap();
    for (wakeups, reader) in wakeups.iter_mut().zip(&readers) {
        hint(wakeups).await;
        granted(others.claim(reader).await.unwrap());
    }
}

#[tokio::test]
async fn a_holder_hears_that_its_claim_was_taken_away() {
    let place = Place::new();
    let (holder, other) = (place.open().await, place.open().await);
    let line = line("forced");
    let a = claim(&line);
    let grant = granted(holder.claim(&a).await.unwrap());
    let mut of_a = holder.wakeups(&line, Some(a.id));
    other.withdraw(&line, a.id).await.unwrap();
    hint(&mut of_a).await;

    let b = claim(&line);
    let second = granted(holder.claim(&b).await.unwrap());
    let mut of_b = holder.wakeups(&line, Some(b.id));
    let to = ClaimId::random();
    assert_eq!(other.adopt(&second, to).await.unwrap(), Renewal::Renewed);
    hint(&mut of_b).await;
    assert!(second.token > grant.token);
    // From now on the claim's hints go to its new client.
    let mut of_new = other.wakeups(&line, Some(to));
    holder.withdraw(&line, to).await.unwrap();
    hint(&mut of_new).await;
}

#[tokio::test]
async fn watchers_hear_of_every_change() {
    let place = Place::new();
    let (actor, watcher) = (place.open().await, place.open().await);
    let line = line("watched");
    let mut elsewhere = watch(&watcher, &crate::common::line("elsewhere")).await;
    let mut wakeups = watch(&watcher, &line).await;
    let (a, b) = (Claim { ttl: SHORT * 4, ..claim(&line) }, claim(&line));

    let grant = granted(actor.claim(&a).await.unwrap());
    hint(&mut wakeups).await;
    waiting(actor.claim(&b).await.unwrap());
    hint(&mut wakeups).await;
    assert_eq!(actor.set_value(&grant, b"new").await.unwrap(), Renewal::StillHeld);
    hint(&mut wakeups).await;
    let to = ClaimId::random();
    assert_eq!(actor.adopt(&grant, to).await.unwrap(), Renewal::Renewed);
    hint(&mut wakeups).await;
    tokio::time::sleep(SHORT * 6).await;
    // The purge of an expired claim, and the grant that it makes possible.
    granted(actor.claim(&b).await.unwrap());
    hint(&mut wakeups).await;
    quiet(&mut wakeups).await;
    actor.withdraw(&line, b.id).await.unwrap();
    hint(&mut wakeups).await;
    assert!(ids(&watcher, &line).await.is_empty());
    // Nothing to hear: nothing changed.
    quiet(&mut wakeups).await;
    actor.withdraw(&line, b.id).await.unwrap();
    let none = tokio::time::timeout(SHORT, wakeups.next()).await;
    assert!(none.is_err(), "a withdrawal of nothing is no change");
    assert!(elsewhere.next().now_or_never().is_none(), "another line is not concerned");
}

#[tokio::test]
async fn expired_claims_of_other_lines_are_purged_on_the_way() {
    let place = Place::new();
    let (crashed, watcher, actor) = (place.open().await, place.open().await, place.open().await);
    let line = line("crashed");
    let (a, b) = (Claim { ttl: SHORT, ..claim(&line) }, claim(&line));
    granted(crashed.claim(&a).await.unwrap());
    let mut of_b = watcher.wakeups(&line, Some(b.id));
    waiting(watcher.claim(&b).await.unwrap());
    let mut wakeups = watch(&watcher, &line).await;
    tokio::time::sleep(SHORT * 2).await;
    actor.claim(&claim(&crate::common::line("any other"))).await.unwrap();
    hint(&mut of_b).await;
    hint(&mut wakeups).await;
}

#[tokio::test]
async fn a_client_that_is_gone_leaves_no_watch_and_no_pipe() {
    let place = Place::new();
    let (actor, watcher) = (place.open().await, place.open().await);
    let line = line("gone");
    let pipes = || std::fs::read_dir(place.0.path().join("coord.db.wake")).unwrap().count();
    let database = sqlx::SqlitePool::connect(place.file().to_str().unwrap()).await.unwrap();
    let watches = async || {
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM coord_watches").fetch_one(&database).await.unwrap()
    };
    let wakeups = watch(&watcher, &line).await;
    assert_eq!((pipes(), watches().await), (2, 1));
    drop(wakeups);
    // A watch that nobody needs is taken out in the background.
    while watches().await > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _wakeups = watch(&watcher, &line).await;
    assert_eq!(watches().await, 1);
    drop(watcher);
    assert_eq!(pipes(), 1);
    // Who has news for it finds out that it is gone.
    granted(actor.claim(&claim(&line)).await.unwrap());
    while watches().await > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let third = place.open().await;
    let _wakeups = watch(&third, &line).await;
    third.close().await.unwrap();
    assert_eq!((pipes(), watches().await), (1, 0), "closing tidies up");
}

#[tokio::test]
async fn a_pipe_that_was_deleted_is_hung_again() {
    let place = Place::new();
    let (holder, waiter) = (place.open().await, place.open().await);
    let line = line("deleted pipe");
    std::fs::remove_dir_all(place.0.path().join("coord.db.wake")).unwrap();
    let (a, b) = (claim(&line), claim(&line));
    granted(holder.claim(&a).await.unwrap());
    let mut of_b = waiter.wakeups(&line, Some(b.id));
    waiting(waiter.claim(&b).await.unwrap());
    holder.withdraw(&line, a.id).await.unwrap();
    hint(&mut of_b).await;
}

#[tokio::test]
async fn without_pipes_waits_look_again_by_time() {
    let place = Place::new();
    // Where the folder of the pipes should be there is a file.
    std::fs::write(place.0.path().join("coord.db.wake"), "").unwrap();
    let (holder, waiter) = (place.open().await, place.open().await);
    let line = line("no pipes");
    granted(holder.claim(&claim(&line)).await.unwrap());
    let (_, look_again) = waiting(waiter.claim(&claim(&line)).await.unwrap());
    assert!(look_again <= Duration::from_millis(50), "{look_again:?}");
    let mut wakeups = waiter.wakeups(&line, None);
    for _ in 0..3 {
        hint(&mut wakeups).await;
    }
}

#[tokio::test]
async fn more_hints_than_a_pipe_holds() {
    let place = Place::new();
    let (actor, sleeper) = (place.open().await, place.open().await);
    let line = line("flood");
    let mut wakeups = watch(&sleeper, &line).await;
    let mine = claim(&crate::common::line("mine"));
    let mut of_mine = sleeper.wakeups(&mine.line, Some(mine.id));
    // Written as other processes would, while the sleeper does not read.
    let pipe = std::fs::read_dir(place.0.path().join("coord.db.wake"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect::<Vec<_>>();
    for pipe in pipe {
        use std::{io::Write, os::unix::fs::OpenOptionsExt};
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let mut pipe = std::fs::OpenOptions::new().write(true).custom_flags(nonblocking).open(pipe).unwrap();
        while pipe.write(&[b'c'; 17 * 30]).is_ok() {}
    }
    // This one is turned away, and yet nobody misses it.
    actor.claim(&claim(&line)).await.unwrap();
    hint(&mut wakeups).await;
    hint(&mut of_mine).await;
}
