//! The line of claims, as `coord_core::spi` describes it, on an SQLite file.

use std::{collections::HashSet, time::Duration};

use coord_core::{
    FencingToken,
    spi::{ALL, Claim, ClaimId, Claims, Grant, HandOver, Renewal, Standing},
};

use crate::common::{LONG, Place, claim, granted, ids, line, waiting};

const SHORT: Duration = Duration::from_millis(150);

#[tokio::test]
async fn first_in_first_out() {
    let place = Place::new();
    let (one, two) = (place.open().await, place.open().await);
    let line = line("fifo");
    let (a, b, c) = (claim(&line), claim(&line), claim(&line));
    let first = granted(one.claim(&a).await.unwrap());
    assert_eq!((first.id, first.ttl), (a.id, LONG));
    let (ahead, look_again) = waiting(two.claim(&b).await.unwrap());
    assert_eq!(ahead, 1);
    assert!(look_again <= LONG + Duration::from_millis(2), "{look_again:?}");
    assert_eq!(waiting(one.claim(&c).await.unwrap()).0, 2);
    assert_eq!(waiting(two.claim(&b).await.unwrap()).0, 1, "looking again does not join again");
    assert_eq!(ids(&one, &line).await, [a.id, b.id, c.id]);

    one.withdraw(&line, a.id).await.unwrap();
    assert_eq!(
        waiting(one.claim(&c).await.unwrap()).0,
        1,
        "the second in line is not granted before the first"
    );
    let second = granted(two.claim(&b).await.unwrap());
    two.withdraw(&line, b.id).await.unwrap();
    let third = granted(one.claim(&c).await.unwrap());
    assert!(first.token < second.token && second.token < third.token);
    one.withdraw(&line, c.id).await.unwrap();
    assert!(ids(&one, &line).await.is_empty());
}

#[tokio::test]
async fn everything_can_be_sent_again() {
    let place = Place::new();
    let store = place.open().await;
    let line = line("again");
    let a = claim(&line);
    let first = granted(store.claim(&a).await.unwrap());
    assert_eq!(granted(store.claim(&a).await.unwrap()), first);
    assert_eq!(ids(&store, &line).await, [a.id]);
    for _ in 0..2 {
        assert_eq!(store.renew(std::slice::from_ref(&first)).await.unwrap(), [Renewal::Renewed]);
    }
    let to = ClaimId::random();
    for _ in 0..2 {
        assert_eq!(store.adopt(&first, to).await.unwrap(), Renewal::Renewed);
    }
    for _ in 0..2 {
        store.withdraw(&line, to).await.unwrap();
    }
    assert!(ids(&store, &line).await.is_empty());
}

#[tokio::test]
async fn without_wait_no_trace() {
    let place = Place::new();
    let store = place.open().await;
    let line = line("no trace");
    let holder = Claim { owner: "the holder".into(), ..claim(&line) };
    let grant = granted(store.claim(&holder).await.unwrap());
    let before = store.line(&line).await.unwrap();
    let refused = store.claim(&Claim { wait: false, ..claim(&line) }).await.unwrap();
    let Standing::Refused(Some(by)) = refused else { panic!("{refused:?}") };
    assert_eq!((by.owner.as_str(), by.token), ("the holder", grant.token));
    let after = store.line(&line).await.unwrap();
    assert_eq!((after.revision, after.entries.len()), (before.revision, 1));

    // One that waited and does not want to any more.
    let waiter = claim(&line);
    waiting(store.claim(&waiter).await.unwrap());
    let refused = store.claim(&Claim { wait: false, ..waiter }).await.unwrap();
    assert!(matches!(refused, Standing::Refused(Some(_))), "{refused:?}");
    assert_eq!(ids(&store, &line).await, [holder.id]);
}

#[tokio::test]
async fn weights_and_limits() {
    let place = Place::new();
    let store = place.open().await;
    let line = line("weights");
    let permits = |weight, limit| Claim { weight, limit, ..claim(&line) };
    let (two, one, three) = (permits(2, 3), permits(1, 3), permits(3, 3));
    granted(store.claim(&two).await.unwrap());
    granted(store.claim(&one).await.unwrap());
    waiting(store.claim(&three).await.unwrap());
    // It would fit once `two` is gone, but stands behind `three`.
    let late = permits(1, 3);
    waiting(store.claim(&late).await.unwrap());
    store.withdraw(&line, two.id).await.unwrap();
    waiting(store.claim(&three).await.unwrap());
    waiting(store.claim(&late).await.unwrap());
    store.withdraw(&line, one.id).await.unwrap();
    granted(store.claim(&three).await.unwrap());
    waiting(store.claim(&late).await.unwrap());

    // Readers and a writer: sums beyond 32 bits.
    let line = crate::common::line("readers");
    let reader = || Claim { weight: 1, limit: ALL, ..claim(&line) };
    let (r1, r2, writer, r3) = (reader(), reader(), claim(&line), reader());
    granted(store.claim(&r1).await.unwrap());
    granted(store.claim(&r2).await.unwrap());
    waiting(store.claim(&writer).await.unwrap());
    waiting(store.claim(&r3).await.unwrap());
    store.withdraw(&line, r1.id).await.unwrap();
    waiting(store.claim(&writer).await.unwrap());
    store.withdraw(&line, r2.id).await.unwrap();
    granted(store.claim(&writer).await.unwrap());
    waiting(store.claim(&r3).await.unwrap());
    store.withdraw(&line, writer.id).await.unwrap();
    granted(store.claim(&r3).await.unwrap());

    // Members do not stand in each other's way.
    let line = crate::common::line("members");
    for _ in 0..5 {
        granted(store.claim(&Claim { weight: 0, limit: 0, ..claim(&line) }).await.unwrap());
    }
    assert_eq!(ids(&store, &line).await.len(), 5);
}

#[tokio::test]
async fn priority_overtakes_only_who_waits() {
    let place = Place::new();
    let store = place.open().await;
    let line = line("priority");
    let of = |priority| Claim { priority, weight: 1, limit: 1, ..claim(&line) };
    let (holder, low, middle, other_low, high) = (of(0), of(0), of(1), of(0), of(2));
    let held = granted(store.claim(&holder).await.unwrap());
    waiting(store.claim(&low).await.unwrap());
    waiting(store.claim(&middle).await.unwrap());
    assert_eq!(ids(&store, &line).await, [holder.id, middle.id, low.id]);
    waiting(store.claim(&other_low).await.unwrap());
    let before = store.line(&line).await.unwrap().entries;
    assert_eq!(waiting(store.claim(&high).await.unwrap()).0, 1);
    let after = store.line(&line).await.unwrap().entries;
    let order: Vec<_> = after.iter().map(|entry| entry.id).collect();
    assert_eq!(order, [holder.id, high.id, middle.id, low.id, other_low.id]);
    assert_eq!(after[0].token, held.token, "who is granted keeps its token");
    let greatest_before = before.iter().map(|entry| entry.token).max().unwrap();
    assert!(after[1..].iter().all(|entry| entry.token > greatest_before), "the overtaken joined again");
    assert!(after.is_sorted_by_key(|entry| entry.token));

    // An eligible claim that has not looked yet can be overtaken too.
    store.withdraw(&line, holder.id).await.unwrap();
    let highest = of(9);
    let first = granted(store.claim(&highest).await.unwrap());
    waiting(store.claim(&high).await.unwrap());
    store.withdraw(&line, highest.id).await.unwrap();
    assert!(granted(store.claim(&high).await.unwrap()).token > first.token);

    // Without waiting, nobody is disturbed unless it is granted.
    let before = store.line(&line).await.unwrap();
    let refused = store.claim(&Claim { wait: false, ..of(7) }).await.unwrap();
    assert!(matches!(refused, Standing::Refused(Some(_))), "{refused:?}");
    let after = store.line(&line).await.unwrap();
    assert_eq!(before.revision, after.revision);
}

#[tokio::test]
async fn hand_over_to_a_named_claim() {
    let place = Place::new();
    let store = place.open().await;
    let line = line("hand over");
    let (holder, a, b, c) = (claim(&line), claim(&line), claim(&line), claim(&line));
    let grant = granted(store.claim(&holder).await.unwrap());
    for claim in [&a, &b, &c] {
        waiting(store.claim(claim).await.unwrap());
    }
    assert_eq!(store.hand_over(&grant, ClaimId::random()).await.unwrap(), HandOver::NotFound);
    assert_eq!(store.hand_over(&grant, holder.id).await.unwrap(), HandOver::NotFound);
    let stale = Grant { token: grant.token.successor().unwrap(), ..grant.clone() };
    assert_eq!(store.hand_over(&stale, b.id).await.unwrap(), HandOver::Lost);
    assert_eq!(ids(&store, &line).await, [holder.id, a.id, b.id, c.id]);

    assert_eq!(store.hand_over(&grant, b.id).await.unwrap(), HandOver::Done);
    assert_eq!(ids(&store, &line).await, [b.id, c.id, a.id], "who waited ahead joined again");
    waiting(store.claim(&a).await.unwrap());
    let next = granted(store.claim(&b).await.unwrap());
    assert!(next.token > grant.token);
    assert_eq!(store.hand_over(&grant, a.id).await.unwrap(), HandOver::Lost);
}

#[tokio::test]
async fn adoption_has_one_winner() {
    let place = Place::new();
    let mut stores = Vec::new();
    for _ in 0..4 {
        stores.push(place.open().await);
    }
    let line = line("adopt");
    let holder = claim(&line);
    let grant = granted(stores[0].claim(&holder).await.unwrap());
    let tries = stores.iter().map(|store| {
        let (store, grant, to) = (store.clone(), grant.clone(), ClaimId::random());
        tokio::spawn(async move { (to, store.adopt(&grant, to).await.unwrap()) })
    });
    let mut winners = Vec::new();
    for outcome in futures_util::future::join_all(tries).await {
        let (to, renewal) = outcome.unwrap();
        match renewal {
            Renewal::Renewed => winners.push(to),
            other => assert_eq!(other, Renewal::Lost),
        }
    }
    let [winner] = winners[..] else { panic!("{} adopted it", winners.len()) };
    let entries = stores[0].line(&line).await.unwrap().entries;
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].id, entries[0].token), (winner, grant.token), "the token stays");
    assert_eq!(stores[0].renew(std::slice::from_ref(&grant)).await.unwrap(), [Renewal::Lost]);
    assert_eq!(stores[0].renew(&[Grant { id: winner, ..grant }]).await.unwrap(), [Renewal::Renewed]);
}

#[tokio::test]
async fn values_change_and_leases_do_not() {
    let place = Place::new();
    let store = place.open().await;
    let line = line("value");
    let grant = granted(store.claim(&Claim { ttl: SHORT, ..claim(&line) }).await.unwrap());
    let before = store.line(&line).await.unwrap();
    assert_eq!(store.set_value(&grant, b"\0other\xff").await.unwrap(), Renewal::StillHeld);
    let after = store.line(&line).await.unwrap();
    assert_eq!(after.entries[0].value, b"\0other\xff");
    assert!(after.revision > before.revision);
    assert!(after.entries[0].expires_in <= before.entries[0].expires_in);
    let stale = Grant { token: FencingToken::MIN, ..grant.clone() };
    assert_eq!(store.set_value(&stale, b"x").await.unwrap(), Renewal::Lost);
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(store.set_value(&grant, b"x").await.unwrap(), Renewal::Lost);
}

#[tokio::test]
async fn an_expired_lease_is_over() {
    let place = Place::new();
    let store = place.open().await;
    let line = line("expiry");
    let holder = Claim { ttl: SHORT, ..claim(&line) };
    let grant = granted(store.claim(&holder).await.unwrap());
    let waiter = claim(&line);
    let (_, look_again) = waiting(store.claim(&waiter).await.unwrap());
    assert!(look_again <= SHORT + Duration::from_millis(2), "{look_again:?}");
    let seen = store.line(&line).await.unwrap();
    assert_eq!(seen.entries.len(), 2);
    tokio::time::sleep(look_again + Duration::from_millis(20)).await;
    let line_after = store.line(&line).await.unwrap();
    assert_eq!(line_after.entries.len(), 1, "expired claims are not in it");
    assert!(line_after.revision > seen.revision, "and that is a change");
    assert_eq!(
        store.renew(std::slice::from_ref(&grant)).await.unwrap(),
        [Renewal::Lost],
        "it is not revived"
    );
    assert_eq!(store.adopt(&grant, ClaimId::random()).await.unwrap(), Renewal::Lost);
    assert_eq!(store.hand_over(&grant, waiter.id).await.unwrap(), HandOver::Lost);
    assert!(granted(store.claim(&waiter).await.unwrap()).token > grant.token);
    // The expired one joins again, at the end.
    assert_eq!(waiting(store.claim(&holder).await.unwrap()).0, 1);
}

#[tokio::test]
async fn a_waiting_lease_ends_too_and_joins_again_behind() {
    let place = Place::new();
    let store = place.open().await;
    let line = line("waiting expiry");
    granted(store.claim(&claim(&line)).await.unwrap());
    let (short, steady) = (Claim { ttl: SHORT, ..claim(&line) }, claim(&line));
    waiting(store.claim(&short).await.unwrap());
    waiting(store.claim(&steady).await.unwrap());
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(waiting(store.claim(&steady).await.unwrap()).0, 1);
    assert_eq!(waiting(store.claim(&short).await.unwrap()).0, 2);
}

#[tokio::test]
async fn leases_are_renewed_and_rearmed() {
    let place = Place::new();
    let store = place.open().await;
    let line = line("renew");
    let ttl = Duration::from_secs(2);
    let holder = Claim { ttl, ..claim(&line) };
    let grant = granted(store.claim(&holder).await.unwrap());
    let waiter = Claim { ttl, ..claim(&line) };
    waiting(store.claim(&waiter).await.unwrap());
    let left = async || {
        let entries = store.line(&line).await.unwrap().entries;
        (entries[0].expires_in, entries[1].expires_in)
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = left().await;
    let other = Grant { id: ClaimId::random(), ..grant.clone() };
    let renewals = store.renew(&[other, grant.clone()]).await.unwrap();
    assert_eq!(renewals, [Renewal::Lost, Renewal::Renewed], "the answers are in the order of the grants");
    let after_renewal = left().await;
    assert!(after_renewal.0 > before.0 && after_renewal.0 <= ttl);
    assert!(after_renewal.1 <= before.1);
    waiting(store.claim(&waiter).await.unwrap());
    let after_claim = left().await;
    assert!(after_claim.1 > before.1 && after_claim.1 <= ttl);
    // A waiting claim is not renewed as a grant.
    let waiting_grant = Grant { id: waiter.id, ..grant };
    assert_eq!(store.renew(&[waiting_grant]).await.unwrap(), [Renewal::Lost]);
}

#[tokio::test]
async fn names_do_not_collide() {
    let place = Place::new();
    let store = place.open().await;
    let names = ["a", "A", "a ", "a/b", "/", "..", "%61", "e\u{301}", "\u{e9}", "🦀", "'; --", "*", "a_"];
    let mut tokens = HashSet::new();
    for name in names {
        let grant = granted(store.claim(&Claim { wait: false, ..claim(&line(name)) }).await.unwrap());
        assert!(tokens.insert(grant.token));
    }
    for name in names {
        assert_eq!(ids(&store, &line(name)).await.len(), 1, "{name}");
    }
}

#[tokio::test]
async fn what_was_asked_is_shown() {
    let place = Place::new();
    let store = place.open().await;
    let line = line("shown");
    let asked = Claim {
        weight: 3,
        limit: 7,
        priority: -5,
        owner: "host:1 🦀".into(),
        value: vec![0; 64 * 1024],
        ..claim(&line)
    };
    let grant = granted(store.claim(&asked).await.unwrap());
    let waiter = Claim { weight: 5, limit: 7, ..claim(&line) };
    waiting(store.claim(&waiter).await.unwrap());
    let shown = place.open().await.line(&line).await.unwrap();
    let [first, second] = &shown.entries[..] else { panic!("{shown:?}") };
    assert_eq!((first.id, first.token), (asked.id, grant.token));
    assert_eq!((first.weight, first.limit, first.priority), (3, 7, -5));
    assert_eq!((first.owner.as_str(), first.value.len()), ("host:1 🦀", 64 * 1024));
    assert!(first.granted.is_some_and(|granted| granted >= first.joined));
    assert!(first.expires_in <= LONG);
    assert_eq!(second.granted, None);
    assert_eq!((shown.holders().count(), shown.waiters().count()), (1, 1));
}
