//! Several clients at random work, judged by all checkers. Every failure names its seed; `COORD_SEED` repeats its choices.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use coord_core::{
    Instance, Lock, LockOptions, Name, RegisterOptions, Registration, Registry, RwLock, Semaphore,
    spi::{ALL, Claims, Kind},
};
use fastrand::Rng;
use tokio::{task::JoinSet, time::sleep};

use super::{cases, faulty::faulty_client};
use crate::{
    Client, Ctx, Failure, Verdict,
    checkers::{progress::within, residue},
    client::SAMPLE,
    faults::{Faults, Half},
    history::{Ask, Attempt, Op, line, object},
    watching,
};

cases! { "workload":
    locks,
    permits [Shared],
    elections,
    services,
    locks_under_faults,
}

/// How long is certainly long enough where nothing but a bug makes it long.
const NEVER: Duration = Duration::from_secs(30);

const CLIENTS: u64 = 4;

/// A seed, told in every failure.
pub(super) struct Seed(u64);

impl Seed {
    pub(super) fn new() -> Self {
        let given = std::env::var("COORD_SEED").ok().and_then(|seed| seed.parse().ok());
        Self(given.unwrap_or_else(|| fastrand::u64(..1 << 32)))
    }

    pub(super) fn rng(&self, of: u64) -> Rng {
        Rng::with_seed(self.0.wrapping_mul(1000).wrapping_add(of))
    }

    /// Waits for all of them; a failure names the seed.
    pub(super) async fn all(&self, mut tasks: JoinSet<Verdict>) -> Verdict {
        let ending = async {
            while let Some(ended) = tasks.join_next().await {
                ended??;
            }
            Ok(())
        };
        self.tell(async { within(NEVER, "the end of the work", ending).await? }).await
    }

    /// Does the work; a failure names the seed.
    pub(super) async fn tell(&self, work: impl Future<Output = Verdict>) -> Verdict {
        work.await.map_err(|failure| Failure {
            message: format!("COORD_SEED={}: {}", self.0, failure.message),
            ..failure
        })
    }
}

fn millis(rng: &mut Rng, most: u64) -> Duration {
    Duration::from_millis(rng.u64(..=most))
}

/// Notes which attempts wait in the line; they are known by their owner texts.
#[derive(Clone, Default)]
struct Sightings(Arc<Mutex<HashMap<String, Attempt>>>);

impl Sightings {
    /// The owner text by which an attempt is known.
    fn expect(&self, client: &Client, attempt: &Attempt) -> String {
        let mut expected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = format!("{} {}", client.owner(), client.recorder().number());
        expected.insert(owner.clone(), attempt.clone());
        owner
    }

    async fn look(&self, claims: &dyn Claims, kind: Kind, name: &Name) -> Verdict {
        let line = claims.line(&line(kind, name)).await?;
        let mut expected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in line.waiters() {
            if let Some(attempt) = expected.remove(&entry.owner) {
                attempt.queued();
            }
        }
        Ok(())
    }
}

/// Clients take turns; an onlooker notes who waits, so that the order can be judged.
async fn take_turns(ctx: Ctx, kind: Kind, rounds: u64, ask: fn(&mut Rng) -> Ask) -> Verdict {
    let (seed, name, sightings) = (Seed::new(), ctx.fresh_name(), Sightings::default());
    let mut tasks = JoinSet::new();
    for number in 0..CLIENTS {
        let (client, mut rng, name) = (ctx.client().await?, seed.rng(number), name.clone());
        let (sightings, options) = (sightings.clone(), ctx.lock_options());
        tasks.spawn(async move {
            for _ in 0..rounds {
                sleep(millis(&mut rng, 4)).await;
                let ask = ask(&mut rng);
                let attempt = client.attempt(kind, &name, ask.clone());
                let options = options.clone().with_owner(sightings.expect(&client, &attempt));
                let acquired = match (kind, ask.weight) {
                    (Kind::Semaphore, permits) => {
                        attempt.acquire(client.acquire_permits(&name, permits, ask.limit, &options)).await
                    }
                    (_, ALL) => attempt.acquire(client.acquire(&name, &options)).await,
                    _ => attempt.acquire(client.read(&name, &options)).await,
                };
                let held = acquired?;
                for _ in 0..rng.u64(..3) {
                    sleep(millis(&mut rng, 3)).await;
                    held.is_held();
                }
                // Now and then a guard is dropped.
                if rng.u8(..4) > 0 {
                    held.release().await?;
                }
            }
            Ok(())
        });
    }
    let claims = ctx.claims().await?;
    let looking = async {
        loop {
            sightings.look(&*claims, kind, &name).await?;
            sleep(Duration::from_millis(3)).await;
        }
    };
    tokio::select! {
        ended = seed.all(tasks) => ended?,
        failed = looking => return failed,
    }
    residue::empty(&*claims, &line(kind, &name)).await
}

/// Readers and writers of one lock.
async fn locks(ctx: Ctx) -> Verdict {
    if ctx.guarantees().features.shared {
        take_turns(ctx, Kind::Lock, 25, |rng| if rng.bool() { Ask::lock() } else { Ask::reader() }).await
    } else {
        take_turns(ctx, Kind::Lock, 25, |_| Ask::lock()).await
    }
}

/// One to three of four permits.
async fn permits(ctx: Ctx) -> Verdict {
    take_turns(ctx, Kind::Semaphore, 25, |rng| Ask::permits(rng.u32(1..=3), 4)).await
}

/// Candidates lead, resign, vanish for a while and give up; observers follow.
async fn elections(ctx: Ctx) -> Verdict {
    let (seed, name) = (Seed::new(), ctx.fresh_name());
    let watcher = ctx.client().await?;
    let mut observers = [watching::observe(&watcher, &name), watching::observe(&watcher, &name)];
    let mut tasks = JoinSet::new();
    for number in 0..CLIENTS {
        let (client, mut rng, name) = (ctx.client().await?, seed.rng(number), name.clone());
        let options = ctx.campaign_options();
        tasks.spawn(async move {
            for _ in 0..12 {
                sleep(millis(&mut rng, 6)).await;
                // Half of them give up soon.
                let options = match rng.u64(..24) {
                    wait @ 1..12 => options.clone().with_wait(Duration::from_millis(wait)),
                    _ => options.clone(),
                };
                let leadership = match client.lead(&name, &options).await {
                    Ok(leadership) => leadership,
                    Err(error) if error.is_not_granted() => continue,
                    Err(error) => return Err(error.into()),
                };
                leadership.guard().proclaim(vec![rng.u8(..)]).await?;
                sleep(millis(&mut rng, 6)).await;
                leadership.is_held();
                leadership.release().await?;
                watching::leader(&client, &name, false).await?;
            }
            Ok(())
        });
    }
    {
        let [one, two] = &mut observers;
        tokio::select! {
            ended = seed.all(tasks) => ended?,
            failed = one.until(|_| false) => return failed.map(drop),
            failed = two.until(|_| false) => return failed.map(drop),
        }
    }
    // The last of all leads, and all observers come to see it.
    let last = watcher.lead(&name, &ctx.campaign_options().with_id("last")).await?;
    for observer in &mut observers {
        let seen = observer.until(|event| {
            matches!(event, coord_core::ElectionEvent::Elected(leader) if leader.term == last.token())
        });
        within(NEVER, "sight of the last leader", seen).await??;
    }
    watching::leader(&watcher, &name, true).await?;
    last.release().await?;
    Ok(())
}

/// Instances come and go; watchers follow and readers read.
async fn services(ctx: Ctx) -> Verdict {
    let (seed, service) = (Seed::new(), ctx.fresh_name());
    let watcher = ctx.client().await?;
    let mut watchers = [watching::watch(&watcher, &service), watching::watch(&watcher, &service)];
    let mut tasks = JoinSet::new();
    for number in 0..CLIENTS {
        let (client, mut rng, service) = (ctx.client().await?, seed.rng(number), service.clone());
        let options = ctx.register_options();
        tasks.spawn(async move {
            for round in 0..12 {
                sleep(millis(&mut rng, 6)).await;
                let stay =
                    Stay::begin(&client, &service, format!("{number}-{}", round % 2), &options).await?;
                watching::instances(&client, &service, false).await?;
                sleep(millis(&mut rng, 6)).await;
                stay.end(&client, &service).await?;
                watching::instances(&client, &service, false).await?;
            }
            Ok(())
        });
    }
    {
        let [one, two] = &mut watchers;
        tokio::select! {
            ended = seed.all(tasks) => ended?,
            failed = one.until(|_| false) => return failed.map(drop),
            failed = two.until(|_| false) => return failed.map(drop),
        }
    }
    let last = Stay::begin(&watcher, &service, "last".into(), &ctx.register_options()).await?;
    for watching in &mut watchers {
        let seen = watching.until(|event| {
            matches!(event, coord_core::RegistryEvent::Joined(member) if member.instance.id == "last")
        });
        within(NEVER, "sight of the last instance", seen).await??;
    }
    watching::instances(&watcher, &service, true).await?;
    last.end(&watcher, &service).await?;
    Ok(())
}

/// A registration that is recorded.
struct Stay {
    attempt: u64,
    registration: Registration,
}

impl Stay {
    async fn begin(client: &Client, service: &Name, id: String, options: &RegisterOptions) -> Verdict<Self> {
        let attempt = client.recorder().number();
        let registering = client.register(service, Instance::new(id.clone(), "here"), options);
        let op = |registration: Option<&Registration>| {
            let token = registration.map(|registration| registration.token().get());
            Op::Register { attempt, id: id.clone(), token }
        };
        let object = object(Kind::Registry, service);
        let registration = client.recorder().call(&object, registering, op).await?;
        Ok(Self { attempt, registration })
    }

    async fn end(self, client: &Client, service: &Name) -> Verdict {
        let (attempt, token) = (self.attempt, self.registration.token().get());
        let object = object(Kind::Registry, service);
        let op = |_: Option<&()>| Op::Deregister { attempt, token };
        Ok(client.recorder().call(&object, self.registration.deregister(), op).await?)
    }
}

/// Clients behind faults that come and go at random: lost messages, lost hints, delays, partitions shorter and longer
/// than a lease. Whatever fails, no two of them hold at once and tokens grow; and when all is healed, all is well.
async fn locks_under_faults(ctx: Ctx) -> Verdict {
    let (seed, name) = (Seed::new(), ctx.fresh_name());
    let options = LockOptions::default().with_ttl(ctx.short_ttl());
    let (mut tasks, mut faults, mut clients) = (JoinSet::new(), Vec::new(), Vec::new());
    for number in 0..CLIENTS {
        let (client, of_client) = faulty_client(&ctx).await?;
        faults.push(of_client);
        clients.push(client.clone());
        let (mut rng, name) = (seed.rng(number), name.clone());
        let options = options.clone().with_wait(ctx.short_ttl() * 4);
        tasks.spawn(async move {
            for _ in 0..12 {
                sleep(millis(&mut rng, 20)).await;
                // Whatever it says; the checkers look at those that were granted.
                if let Ok(held) = client.lock(&name, &options).await {
                    let _ = tokio::time::timeout(millis(&mut rng, 60), held.watch(SAMPLE)).await;
                    if rng.u8(..4) > 0 {
                        let _ = held.release().await;
                    }
                }
            }
            Ok(())
        });
    }
    let mut rng = seed.rng(CLIENTS);
    let trouble = async {
        loop {
            sleep(millis(&mut rng, 120)).await;
            let at = rng.usize(..faults.len());
            make_trouble(&faults[at], &mut rng, ctx.short_ttl());
        }
    };
    tokio::select! {
        ended = seed.all(tasks) => ended?,
        () = trouble => {}
    }
    faults.iter().for_each(|faults| faults.heal());
    for client in clients {
        let next = client.lock(&name, &options);
        within(NEVER, "a grant after all is healed", next).await??.release().await?;
    }
    residue::empty(&*ctx.claims().await?, &line(Kind::Lock, &name)).await
}

fn make_trouble(faults: &Arc<Faults>, rng: &mut Rng, ttl: Duration) {
    match rng.u8(..6) {
        0 => faults.lose(Half::Reply, rng.u64(1..4), None),
        1 => faults.lose(Half::Request, rng.u64(1..4), None),
        2 => faults.lose_hints(true),
        3 => faults.delay_replies(millis(rng, 80)),
        4 => {
            faults.partition(true);
            let (faults, length) = (faults.clone(), ttl.mul_f64(rng.f64() * 2.0));
            tokio::spawn(async move {
                sleep(length).await;
                faults.partition(false);
            });
        }
        _ => faults.heal(),
    }
}
