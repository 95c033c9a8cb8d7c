//! Who is told what about a line.

use std::time::Duration;

use coord_core::spi::{Claim, Claims, Kind, LineId};
use futures_util::FutureExt;

use crate::common::{LONG, claim, granted, hint, line, open, server, waiting};

const SHORT: Duration = Duration::from_millis(200);

fn permits(name: &str) -> LineId {
    LineId { kind: Kind::Semaphore, ..line(name) }
}

/// The one who looks after leases ended removes them, and tells the others for whom there is room now.
#[tokio::test]
async fn whoever_finds_leases_ended_tells_the_others() {
    let Some(server) = server() else { return };
    let (one, two, line) = (open(&server).await, open(&server).await, permits("two"));
    let permit = |ttl| Claim { weight: 1, limit: 2, ttl, ..claim(&line) };
    let (dead, other) = (permit(SHORT), permit(SHORT));
    granted(one.claim(&dead).await.unwrap());
    granted(one.claim(&other).await.unwrap());
    let (first, second, third) = (permit(LONG), permit(LONG), permit(LONG));
    for claim in [&first, &second, &third] {
        let (_, rest) = waiting(two.claim(claim).await.unwrap());
        assert!(rest <= SHORT + Duration::from_millis(2), "{rest:?}");
    }
    let mut hints = [&dead, &first, &second, &third].map(|claim| two.wakeups(&line, Some(claim.id)));
    let mut lost = one.wakeups(&line, Some(dead.id));
    tokio::time::sleep(SHORT * 2).await;
    granted(two.claim(&first).await.unwrap());
    assert!(hints[2].next().now_or_never().is_some(), "the second has room too");
    assert!(hints[3].next().now_or_never().is_none(), "the third has none");
    hint(&mut lost).await;
    granted(two.claim(&second).await.unwrap());
    waiting(two.claim(&third).await.unwrap());
}

/// In a line of locks one looks when the lease directly ahead ends, so it is told when somebody else stands there.
#[tokio::test]
async fn who_stands_behind_another_one_is_told() {
    let Some(server) = server() else { return };
    let (store, line) = (open(&server).await, line("order"));
    let holder = Claim { ttl: LONG * 2, ..claim(&line) };
    let (ahead, behind) = (Claim { ttl: LONG, ..claim(&line) }, Claim { ttl: LONG * 5, ..claim(&line) });
    let last = claim(&line);
    granted(store.claim(&holder).await.unwrap());
    for claim in [&ahead, &behind, &last] {
        waiting(store.claim(claim).await.unwrap());
    }
    let mut hints = [&behind, &last].map(|claim| store.wakeups(&line, Some(claim.id)));
    store.withdraw(&line, ahead.id).await.unwrap();
    assert!(hints[0].next().now_or_never().is_some());
    assert!(hints[1].next().now_or_never().is_none());
    let (_, rest) = waiting(store.claim(&behind).await.unwrap());
    assert!(rest > LONG, "it looks when the holder's lease ends: {rest:?}");
    // One of a higher priority comes between.
    let urgent = Claim { priority: 1, ..claim(&line) };
    waiting(store.claim(&urgent).await.unwrap());
    assert!(hints[0].next().now_or_never().is_some());
    assert!(hints[1].next().now_or_never().is_none());
}
