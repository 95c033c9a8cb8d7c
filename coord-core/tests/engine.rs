//! The engine on the memory store, under a paused clock: what no backend can change.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use coord_core::{ErrorKind, Features, clock::Clock, memory, prelude::*};
use tokio::time::{advance, sleep, timeout};

const TTL: Duration = Duration::from_secs(9);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn options() -> LockOptions {
    LockOptions::default().with_ttl(TTL)
}

#[tokio::test(start_paused = true)]
async fn an_uncontended_pair_is_two_round_trips() {
    let (coordinator, faults) = memory::Store::new().client_with_faults();
    let guard = coordinator.acquire(&name("a"), &options()).await.unwrap();
    assert_eq!(faults.operations(), 1);
    guard.release().await.unwrap();
    assert_eq!(faults.operations(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_locks_are_renewed_by_one_request_a_period() {
    let (coordinator, faults) = memory::Store::new().client_with_faults();
    let mut guards = Vec::new();
    for number in 0..1000 {
        guards.push(coordinator.acquire(&name(&number.to_string()), &options()).await.unwrap());
    }
    let before = faults.operations();
    sleep(TTL * 10).await;
    let periods = faults.operations() - before;
    assert!((29..=34).contains(&periods), "{periods} requests in ten TTLs");
    assert!(guards.iter().all(Guard::is_held));
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_found_again_and_never_doubled() {
    let store = memory::Store::new();
    let (coordinator, faults) = store.client_with_faults();
    faults.lose_replies(1);
    let guard = coordinator.acquire(&name("a"), &options()).await.unwrap();
    assert_eq!(store.size(), (1, 1));
    faults.lose_replies(1);
    guard.release().await.unwrap();
    assert_eq!(store.size(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn cut_off_past_its_lease_a_guard_is_lost_before_the_next_is_granted() {
    let store = memory::Store::new();
    let (one, faults) = store.client_with_faults();
    let two = store.client();
    let first = one.acquire(&name("a"), &options()).await.unwrap();
    let waiting = tokio::spawn({
        let two = two.clone();
        async move { two.acquire(&name("a"), &options()).await.map(|guard| (guard, Clock::Tokio.now())) }
    });
    sleep(TTL).await;
    faults.partition(true);
    let outcome = first.run(std::future::pending::<()>()).await;
    let told = Clock::Tokio.now();
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Lost);
    assert!(!first.is_held() && first.valid_for().is_zero());
    let (second, granted) = waiting.await.unwrap().unwrap();
    assert!(told < granted);
    assert!(second.token() > first.token());
    // Lost is final: the network comes back, the guard does not.
    faults.partition(false);
    sleep(TTL).await;
    assert!(!first.is_held());
    assert_eq!(first.extend(TTL).await.unwrap_err().kind(), ErrorKind::Lost);
    assert_eq!(first.release().await.unwrap_err().kind(), ErrorKind::Lost);
    assert!(second.is_held());
}

#[tokio::test(start_paused = true)]
async fn no_step_of_the_work_runs_after_the_deadline() {
    let coordinator = memory::Store::new().client();
    let guard = coordinator.acquire(&name("a"), &options().without_renewal()).await.unwrap();
    let mut steps = 0;
    // The executor is stuck for longer than the lease between two steps.
    let work = async {
        loop {
            steps += 1;
            advance(TTL * 2).await;
            tokio::task::yield_now().await;
        }
    };
    let outcome: Result<(), _> = guard.run(work).await;
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Lost);
    assert_eq!(steps, 1);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_hints_are_lost_looks_again_by_itself() {
    let store = memory::Store::new();
    let (two, faults) = store.client_with_faults();
    let first = store.client().acquire(&name("a"), &options()).await.unwrap();
    faults.lose_hints(true);
    let mut waiting = Box::pin(async { two.acquire(&name("a"), &options()).await });
    assert!(timeout(Duration::from_secs(1), &mut waiting).await.is_err());
    first.release().await.unwrap();
    let second = timeout(TTL, waiting).await.expect("looks again before a TTL is over").unwrap();
    assert!(second.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_waiter_leaves_the_line_and_a_dropped_guard_its_lock() {
    let store = memory::Store::new();
    let coordinator = store.client();
    let guard = coordinator.acquire(&name("a"), &options()).await.unwrap();
    let waiter = timeout(Duration::from_millis(50), coordinator.acquire(&name("a"), &options())).await;
    assert!(waiter.is_err());
    sleep(Duration::from_millis(1)).await;
    assert_eq!(store.size(), (1, 1));
    drop(guard);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(store.size(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn shutdown_drains_and_refuses() {
    let store = memory::Store::new();
    let coordinator = store.client();
    drop(coordinator.acquire(&name("a"), &options()).await.unwrap());
    coordinator.shutdown().await.unwrap();
    assert_eq!(store.size(), (0, 0));
    let error = coordinator.acquire(&name("a"), &options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_watches_at_once() {
    let coordinator = memory::Store::new().client();
    let mut events = coordinator.observe(&name("a"));
    assert!(matches!(events.next().await, Some(Ok(ElectionEvent::Vacant))));
    let ended = tokio::spawn(async move { events.next().await });
    tokio::task::yield_now().await;
    coordinator.shutdown().await.unwrap();
    let ended = timeout(Duration::from_millis(10), ended).await.expect("it ends at once").unwrap();
    assert_eq!(ended.unwrap().unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_detached_lock_is_resumed_exactly_once() {
    let store = memory::Store::new();
    let (one, two) = (store.client(), store.client());
    let guard = one.acquire(&name("a"), &options()).await.unwrap();
    let token = guard.token();
    let text = guard.detach().await.unwrap().to_string();
    let detached = text.parse().unwrap();
    let resumed = two.resume(&detached).await.unwrap();
    assert_eq!(resumed.token(), token);
    assert_eq!(one.resume(&detached).await.unwrap_err().kind(), ErrorKind::Lost);
    sleep(TTL * 3).await;
    assert!(resumed.is_held(), "it is renewed again");
    resumed.release().await.unwrap();
    assert_eq!(store.size(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn force_release_fences_first_and_tells_the_holder() {
    let store = memory::Store::new();
    let coordinator = store.client();
    let gate = FenceGate::new();
    let guard = coordinator.acquire(&name("a"), &options()).await.unwrap();
    gate.admit(guard.token()).unwrap();
    let (lock, plain) = (name("a"), options());
    let waiting = coordinator.acquire(&lock, &plain);
    let (evicted, next) = tokio::join!(
        async {
            sleep(Duration::from_secs(1)).await;
            let evicted =
                store.client().force_release(Kind::Lock, &name("a"), Some(&gate)).await.unwrap().unwrap();
            timeout(Duration::from_millis(10), guard.lost()).await.expect("it hears of it at once");
            evicted
        },
        waiting
    );
    let next = next.unwrap();
    assert!(guard.token() < evicted.fence && evicted.fence <= next.token());
    assert_eq!(gate.admit(guard.token()).unwrap_err().kind(), ErrorKind::Fenced);
    gate.admit(next.token()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_plain_lease_is_told_too_and_not_prolonged() {
    let store = memory::Store::new();
    let guard = store.client().acquire(&name("a"), &options().without_renewal()).await.unwrap();
    let left = guard.valid_for();
    let released = store.client().force_release(Kind::Lock, &name("a"), None).await.unwrap();
    assert_eq!(released.unwrap().holders.len(), 1);
    timeout(Duration::from_millis(10), guard.lost()).await.expect("it hears of it at once");
    let again = store.client().acquire(&name("a"), &options().without_renewal()).await.unwrap();
    assert!(again.valid_for() <= left);
    sleep(TTL).await;
    assert!(!again.is_held());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_promised_is_refused_before_any_request() {
    let store = memory::Store::new().with_features(Features::NONE);
    let (coordinator, faults) = store.client_with_faults();
    let kinds = [
        coordinator.read(&name("a"), &options()).await.unwrap_err().kind(),
        coordinator.acquire_permits(&name("a"), 1, 2, &options()).await.unwrap_err().kind(),
        coordinator
            .campaign(&name("a"), &CampaignOptions::default().with_priority(1))
            .await
            .unwrap_err()
            .kind(),
    ];
    assert_eq!(kinds, [ErrorKind::Unsupported; 3]);
    assert_eq!(faults.operations(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_is_overtaken_gets_a_greater_term() {
    let store = memory::Store::new();
    let campaign = |id: &'static str, priority| {
        let client = store.client();
        let options = CampaignOptions::default().with_id(id).with_priority(priority);
        tokio::spawn(async move { client.campaign(&name("a"), &options).await.unwrap() })
    };
    let first = campaign("first", 0).await.unwrap();
    let low = campaign("low", 0);
    sleep(Duration::from_millis(1)).await;
    let high = campaign("high", 1);
    sleep(Duration::from_millis(1)).await;
    let mut events = store.client().observe(&name("a"));
    let observer = tokio::spawn(async move {
        let mut terms = Vec::new();
        loop {
            match events.next().await.unwrap().unwrap() {
                ElectionEvent::Elected(leader) => {
                    terms.push(leader.term);
                    if leader.id == "low" {
                        return terms;
                    }
                }
                ElectionEvent::Proclaimed(leader) => assert_eq!(terms.last(), Some(&leader.term)),
                _ => {}
            }
        }
    });
    first.resign().await.unwrap();
    let high = high.await.unwrap();
    let late = campaign("late", 0);
    sleep(Duration::from_millis(1)).await;
    high.hand_over("late").await.unwrap();
    let late = late.await.unwrap();
    late.proclaim("here").await.unwrap();
    sleep(Duration::from_millis(1)).await;
    late.resign().await.unwrap();
    let low = low.await.unwrap();
    let held = low.term();
    let terms = observer.await.unwrap();
    assert!(terms.is_sorted() && terms.contains(&held), "{terms:?}");
}

#[tokio::test(start_paused = true)]
async fn run_campaigns_again_after_a_loss() {
    let store = memory::Store::new();
    let coordinator = store.client();
    let (mut terms, mut lost) = (Vec::new(), Vec::new());
    let done = coordinator
        .run(
            &name("a"),
            &CampaignOptions::default(),
            |leadership: Arc<coord_core::Leadership>| {
                terms.push(leadership.term());
                let (round, store) = (terms.len(), store.clone());
                async move {
                    if round < 3 {
                        store.expire_now(&Namespace::default(), Kind::Election, &name("a"));
                        std::future::pending::<()>().await;
                    }
                    ControlFlow::Break(round)
                }
            },
            |term| lost.push(term),
        )
        .await
        .unwrap();
    assert_eq!((done, &terms[..2]), (3, &lost[..]));
    assert!(terms.is_sorted());
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_was_lost_registers_again() {
    let store = memory::Store::new();
    let coordinator = store.client();
    let mut watch = store.client().watch_instances(&name("web"));
    assert_eq!(watch.next().await.unwrap().unwrap(), RegistryEvent::Snapshot(Vec::new()));
    let mut registration = coordinator
        .register(&name("web"), Instance::new("i1", "10.0.0.1:80"), &RegisterOptions::default())
        .await
        .unwrap();
    let first = registration.token();
    assert!(
        matches!(watch.next().await.unwrap().unwrap(), RegistryEvent::Joined(member) if member.token == first)
    );
    store.expire_now(&Namespace::default(), Kind::Registry, &name("web"));
    assert!(matches!(watch.next().await.unwrap().unwrap(), RegistryEvent::Left(_)));
    while !(registration.changed().await && registration.is_listed()) {}
    assert!(registration.token() > first);
    assert!(
        matches!(watch.next().await.unwrap().unwrap(), RegistryEvent::Joined(member) if member.token > first)
    );
    registration.update(Instance::new("i1", "10.0.0.2:80")).await.unwrap();
    assert!(
        matches!(watch.next().await.unwrap().unwrap(), RegistryEvent::Updated(member) if member.instance.address == "10.0.0.2:80")
    );
    registration.deregister().await.unwrap();
    assert!(matches!(watch.next().await.unwrap().unwrap(), RegistryEvent::Left(_)));
    assert_eq!(store.size(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_party_that_cannot_wait_still_completes_a_round() {
    let store = memory::Store::new();
    let at_once = BarrierOptions::default().with_wait(Duration::ZERO);
    assert_eq!(store.client().wait(&name("b"), 2, &at_once).await.unwrap_err().kind(), ErrorKind::NotGranted);
    sleep(Duration::from_millis(10)).await;
    let client = store.client();
    let waiting = tokio::spawn(async move { client.wait(&name("b"), 2, &BarrierOptions::default()).await });
    sleep(Duration::from_millis(10)).await;
    store.client().wait(&name("b"), 2, &at_once).await.unwrap();
    waiting.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn barrier_rounds_and_double_barrier() {
    let store = memory::Store::new();
    let party = |round: u32| {
        let client = store.client();
        tokio::spawn(async move {
            let mut tokens = Vec::new();
            for _ in 0..round {
                tokens.push(client.wait(&name("b"), 3, &BarrierOptions::default()).await.unwrap().token);
            }
            tokens
        })
    };
    let parties: Vec<_> = (0..3).map(|_| party(5)).collect();
    let mut rounds = Vec::new();
    for party in parties {
        rounds.push(party.await.unwrap());
    }
    for round in 1..5 {
        let before = rounds.iter().map(|tokens| tokens[round - 1]).max().unwrap();
        assert!(rounds.iter().all(|tokens| tokens[round] > before), "{rounds:?}");
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(store.size(), (0, 0));

    let inside = futures_util::future::join_all((0..2).map(|_| {
        let client = store.client();
        async move { client.enter(&name("d"), 2, &BarrierOptions::default()).await.unwrap() }
    }));
    let mut inside = inside.await;
    let (one, two) = (inside.pop().unwrap(), inside.pop().unwrap());
    let mut leaving = Box::pin(one.leave(None));
    assert!(timeout(Duration::from_secs(60), &mut leaving).await.is_err(), "it waits for the other");
    two.leave(None).await.unwrap();
    leaving.await.unwrap();
    assert_eq!(store.size(), (0, 0));
}
