//! What the engine does when the store fails in awkward orders, on the memory store under a paused clock.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use coord_core::{
    Coordinator, Error, ErrorKind, Guarantees, Result,
    clock::Clock,
    memory,
    prelude::*,
    spi::{
        Claim, ClaimId, Claims, Grant, HandOver, Line, LineId, Renewal, Standing, Wakeups,
        jobs::{
            DeadItem, ItemId, Jobs, Push, Pushed, QueueId, QueueStats, Receive, Received, Settled,
            Settlement, Word,
        },
    },
};
use tokio::time::{sleep, timeout};

const TTL: Duration = Duration::from_secs(9);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn options() -> LockOptions {
    LockOptions::default().with_ttl(TTL)
}

/// A store whose first claim takes effect but is not answered, and whose second is refused without an effect.
#[derive(Debug)]
struct Fickle {
    inner: memory::Client,
    claims: AtomicU32,
    second: ErrorKind,
}

#[async_trait]
impl Claims for Fickle {
    fn guarantees(&self) -> Guarantees {
        self.inner.guarantees()
    }

    async fn claim(&self, claim: &Claim) -> Result<Standing> {
        match self.claims.fetch_add(1, Ordering::SeqCst) {
            0 => {
                self.inner.claim(claim).await?;
                Err(Error::new(ErrorKind::Unavailable, "the reply was lost").with_unknown_effect())
            }
            1 => Err(Error::new(self.second, "not now")),
            _ => self.inner.claim(claim).await,
        }
    }

    async fn renew(&self, grants: &[Grant]) -> Result<Vec<Renewal>> {
        self.inner.renew(grants).await
    }

    async fn set_value(&self, grant: &Grant, value: &[u8]) -> Result<Renewal> {
        self.inner.set_value(grant, value).await
    }

    async fn withdraw(&self, line: &LineId, id: ClaimId) -> Result<()> {
        self.inner.withdraw(line, id).await
    }

    async fn hand_over(&self, from: &Grant, to: ClaimId) -> Result<HandOver> {
        self.inner.hand_over(from, to).await
    }

    async fn adopt(&self, from: &Grant, to: ClaimId) -> Result<Renewal> {
        self.inner.adopt(from, to).await
    }

    async fn line(&self, line: &LineId) -> Result<Line> {
        self.inner.line(line).await
    }

    fn wakeups(&self, line: &LineId, id: Option<ClaimId>) -> Wakeups {
        Claims::wakeups(&self.inner, line, id)
    }
}

fn fickle(store: &memory::Store, second: ErrorKind) -> Coordinator {
    let inner = store.connect();
    let claims = Fickle { inner, claims: AtomicU32::new(0), second };
    Coordinator::builder(Arc::new(claims)).clock(Clock::Tokio).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_error_without_effect_does_not_excuse_an_earlier_unknown_one() {
    let store = memory::Store::new();
    let error = fickle(&store, ErrorKind::Permission).acquire(&name("a"), &options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission);
    sleep(Duration::from_millis(10)).await;
    assert_eq!(store.size(), (0, 0), "the first try's claim is withdrawn");

    // Dropped in the pause after the second try.
    let client = fickle(&store, ErrorKind::Unavailable);
    let attempt = timeout(Duration::from_millis(70), client.acquire(&name("a"), &options())).await;
    assert!(attempt.is_err());
    sleep(Duration::from_millis(10)).await;
    assert_eq!(store.size(), (0, 0), "the first try's claim is withdrawn");
}

#[tokio::test(start_paused = true)]
async fn run_tells_of_a_loss_while_the_store_is_away() {
    let store = memory::Store::new();
    let (client, faults) = store.client_with_faults();
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let runner = tokio::spawn(async move {
        let options = CampaignOptions::default().with_ttl(TTL);
        let elected = |_| std::future::pending::<ControlFlow<()>>();
        client.run(&name("e"), &options, elected, move |term| told.send(term).unwrap()).await
    });
    sleep(Duration::from_secs(1)).await;
    faults.partition(true);
    let told = timeout(TTL + Duration::from_millis(100), hears.recv()).await;
    assert!(told.expect("at the deadline, with the network down").is_some());
    runner.abort();
}

#[tokio::test(start_paused = true)]
async fn a_release_of_a_silent_store_answers_long_before_a_long_lease_ends() {
    let store = memory::Store::new();
    let (client, faults) = store.client_with_faults();
    let day = Duration::from_secs(24 * 3600);
    let guard = client.acquire(&name("a"), &options().with_ttl(day)).await.unwrap();
    faults.partition(true);
    let released = timeout(Duration::from_secs(60), guard.release()).await.expect("it answers");
    let error = released.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, coord_core::Effect::Unknown));
    // The withdrawal goes on.
    faults.partition(false);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(store.size(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_store_slower_than_the_lease_is_told_and_not_blocked_for_ever() {
    let store = memory::Store::new();
    let (client, faults) = store.client_with_faults();
    let short = Duration::from_millis(200);
    faults.delay_replies(short * 2);
    let outcome = timeout(TTL * 10, client.acquire(&name("a"), &options().with_ttl(short))).await;
    assert_eq!(outcome.expect("it gives up").unwrap_err().kind(), ErrorKind::Unavailable);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(store.size(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_was_slow_to_come_is_renewed_in_time() {
    let store = memory::Store::new();
    let (client, faults) = store.client_with_faults();
    faults.delay_replies(TTL * 3 / 4);
    let guard = client.acquire(&name("a"), &options()).await.unwrap();
    faults.delay_replies(Duration::ZERO);
    sleep(TTL * 2).await;
    assert!(guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_granted_after_a_shutdown() {
    let store = memory::Store::new();
    let (client, faults) = store.client_with_faults();
    faults.delay_replies(Duration::from_secs(2));
    let attempt = tokio::spawn({
        let client = client.clone();
        async move { client.acquire(&name("a"), &options()).await }
    });
    sleep(Duration::from_millis(10)).await;
    let _ = client.shutdown().await;
    assert_eq!(attempt.await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(store.size(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn news_that_come_during_a_renewal_are_not_lost() {
    let store = memory::Store::new();
    let (client, faults) = store.client_with_faults();
    let day = Duration::from_secs(24 * 3600);
    let guard = client.acquire(&name("a"), &options().with_ttl(day)).await.unwrap();
    // The first wake-up has the keeper ask; the claim is taken away after the store has answered that.
    faults.delay_replies(Duration::from_secs(1));
    sleep(day / 3 + Duration::from_millis(500)).await;
    store.client().force_release(Kind::Lock, &name("a"), None).await.unwrap();
    timeout(Duration::from_secs(10), guard.lost()).await.expect("it hears of it");
}

#[tokio::test(start_paused = true)]
async fn a_proclamation_that_was_dropped_does_not_undo_a_later_one() {
    let store = memory::Store::new();
    let (client, faults) = store.client_with_faults();
    let leadership = client.campaign(&name("e"), &CampaignOptions::default().with_ttl(TTL)).await.unwrap();
    faults.delay_requests(Duration::from_secs(1));
    let dropped = timeout(Duration::from_millis(100), leadership.proclaim("early")).await;
    assert!(dropped.is_err());
    faults.delay_requests(Duration::ZERO);
    leadership.proclaim("late").await.unwrap();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(client.leader(&name("e")).await.unwrap().unwrap().value, b"late");
}

/// A store of jobs that extends nothing in the queue `bad`.
#[derive(Debug)]
struct Partial(Arc<memory::Client>);

#[async_trait]
impl Jobs for Partial {
    async fn push(&self, push: &Push) -> Result<Pushed> {
        self.0.push(push).await
    }

    async fn receive(&self, receive: &Receive) -> Result<Received> {
        self.0.receive(receive).await
    }

    async fn settle(&self, queue: &QueueId, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        let extends = settlements.iter().any(|said| matches!(said.word, Word::Extend(_)));
        if extends && queue.name == name("bad") {
            return Err(Error::new(ErrorKind::Corrupt, "an item cannot be read"));
        }
        self.0.settle(queue, settlements).await
    }

    async fn dead(&self, queue: &QueueId, after: Option<ItemId>, limit: u32) -> Result<Vec<DeadItem>> {
        self.0.dead(queue, after, limit).await
    }

    async fn requeue(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64> {
        self.0.requeue(queue, items).await
    }

    async fn drop_dead(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64> {
        self.0.drop_dead(queue, items).await
    }

    async fn stats(&self, queue: &QueueId) -> Result<QueueStats> {
        self.0.stats(queue).await
    }

    async fn purge(&self, queue: &QueueId) -> Result<u64> {
        self.0.purge(queue).await
    }

    fn wakeups(&self, queue: &QueueId) -> Wakeups {
        Jobs::wakeups(&*self.0, queue)
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_cannot_be_extended_takes_no_other_with_it() {
    let client = Arc::new(memory::Store::new().connect());
    let jobs = Arc::new(Partial(client.clone()));
    let coordinator = Coordinator::builder(client).jobs(jobs).clock(Clock::Tokio).build().unwrap();
    let receive = ReceiveOptions::default().with_visibility(TTL);
    let mut taken = Vec::new();
    for queue in ["bad", "good"] {
        coordinator.push(&name(queue), vec![Item::new("x")], &PushOptions::default()).await.unwrap();
        taken.extend(coordinator.receive(&name(queue), &receive).await.unwrap());
    }
    let guard = coordinator.acquire(&name("l"), &options()).await.unwrap();
    sleep(TTL * 3).await;
    assert_eq!(taken.iter().map(Delivery::is_held).collect::<Vec<_>>(), [false, true]);
    assert!(guard.is_held());
}
