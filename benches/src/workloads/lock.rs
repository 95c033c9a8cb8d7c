//! Locks: uncontended, handed off, independent.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use coord_core::clock::Moment;
use tokio::sync::{Barrier, mpsc};

use super::{Sizes, fresh, goes_on, within};
use crate::{
    Result,
    row::{Extra, Measured},
    systems::{Client, System},
    time::{Samples, now, processor, since},
};

/// How long one hand-off may take that should take milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// Pairs of acquire and release by one client, with a new name for each or one for all.
///
/// # Errors
/// What the system says.
pub async fn uncontended(system: &System, sizes: &Sizes, each_fresh: bool) -> Result<Vec<Measured>> {
    let client = system.client().await?;
    let name = fresh("lock");
    let (mut acquires, mut releases, mut pairs) =
        (Samples::default(), Samples::default(), Samples::default());
    let start = now();
    for at in 0..sizes.warm_up + sizes.pairs {
        if !goes_on(start, sizes.cap) {
            break;
        }
        let name = if each_fresh { format!("{name}-{at}") } else { name.clone() };
        let began = now();
        let held = client.acquire(&name).await?;
        let acquired = now();
        held.release().await?;
        let released = now();
        if at >= sizes.warm_up {
            acquires.add(acquired.since(began));
            releases.add(released.since(acquired));
            pairs.add(released.since(began));
        }
    }
    client.close().await?;
    let names = match each_fresh {
        true => ["W1.fresh.acquire", "W1.fresh.release", "W1.fresh.pair"],
        false => ["W1.same.acquire", "W1.same.release", "W1.same.pair"],
    };
    Ok(names
        .into_iter()
        .zip([acquires, releases, pairs])
        .map(|(name, samples)| Measured::each(name, samples))
        .collect())
}

/// What contenders share.
struct Contention {
    name: String,
    left: AtomicUsize,
    inside: AtomicU64,
    violations: AtomicU64,
    switches: AtomicU64,
    /// Who held last, and when it began to release.
    last: Mutex<Option<(usize, Moment)>>,
    samples: Mutex<Samples>,
}

/// Clients in a loop on one lock. A sample is a hand-off to another client.
///
/// # Errors
/// What the system says.
pub async fn tight(system: &System, sizes: &Sizes) -> Result<Vec<Measured>> {
    let shared = Arc::new(Contention {
        name: fresh("tight"),
        left: AtomicUsize::new(sizes.acquisitions),
        inside: AtomicU64::new(0),
        violations: AtomicU64::new(0),
        switches: AtomicU64::new(0),
        last: Mutex::new(None),
        samples: Mutex::default(),
    });
    let mut clients = Vec::new();
    for _ in 0..sizes.contenders {
        let client = system.client().await?;
        // Connections, leases and scripts are there.
        client.acquire(&fresh("warm")).await?.release().await?;
        clients.push(client);
    }
    // Nobody starts alone: where a lock costs a microsecond, the first would have had all of them before the second came.
    let keeper = system.client().await?;
    let gate = keeper.acquire(&shared.name).await?;
    let ready = Arc::new(Barrier::new(clients.len() + 1));
    let cap = sizes.contention_cap;
    let tasks: Vec<_> = clients
        .iter()
        .enumerate()
        .map(|(at, client)| tokio::spawn(contend(client.clone(), at, shared.clone(), ready.clone(), cap)))
        .collect();
    ready.wait().await;
    tokio::time::sleep(pause()).await;
    let (start, before) = (now(), processor());
    gate.release().await?;
    let mut each = Vec::new();
    for task in tasks {
        each.push(within(cap + PATIENCE, "the clients of one lock", async { task.await? }).await?);
    }
    let (elapsed, used) = (since(start), processor() - before);
    for client in clients.into_iter().chain([keeper]) {
        client.close().await?;
    }
    let acquisitions: u64 = each.iter().sum();
    let samples = std::mem::take(&mut *shared.samples.lock().map_err(|_| "a contender panicked")?);
    let extra = Extra {
        fair_max: each.iter().copied().max(),
        fair_min: each.iter().copied().min(),
        violations: Some(shared.violations.load(Ordering::Relaxed)),
        switches: Some(shared.switches.load(Ordering::Relaxed)),
        acquisitions: Some(acquisitions),
        cpu_s_per_1k: per_thousand(used, acquisitions),
    };
    let ops_per_s = Some(acquisitions as f64 / elapsed.as_secs_f64());
    Ok(vec![Measured { workload: "W2.handoff", samples, ops_per_s, extra }])
}

async fn contend(
    client: Arc<dyn Client>,
    at: usize,
    shared: Arc<Contention>,
    ready: Arc<Barrier>,
    cap: Duration,
) -> Result<u64> {
    ready.wait().await;
    let (start, mut acquisitions) = (now(), 0);
    while goes_on(start, cap) && take_one(&shared.left) {
        // Who is starved must not keep the others from ending.
        let left = cap.saturating_sub(since(start)).max(Duration::from_millis(1));
        let Ok(acquired) = tokio::time::timeout(left, client.acquire(&shared.name)).await else { break };
        let (held, granted) = (acquired?, now());
        if shared.inside.fetch_add(1, Ordering::SeqCst) != 0 {
            shared.violations.fetch_add(1, Ordering::Relaxed);
        }
        acquisitions += 1;
        {
            let mut last = shared.last.lock().map_err(|_| "a contender panicked")?;
            if let Some((who, released)) = *last
                && who != at
            {
                shared.switches.fetch_add(1, Ordering::Relaxed);
                shared.samples.lock().map_err(|_| "a contender panicked")?.add(granted.since(released));
            }
            *last = Some((at, now()));
        }
        shared.inside.fetch_sub(1, Ordering::SeqCst);
        held.release().await?;
    }
    Ok(acquisitions)
}

fn take_one(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// How long who takes over has to become a waiter. Not the same each time: pauses of those who poll would fall into step.
fn pause() -> Duration {
    Duration::from_micros(20_000 + fastrand::u64(0..20_000))
}

/// Hand-offs between two clients, of which the other one already waits. Of a system without waiting locks it is one write that
/// wakes one who waits.
///
/// # Errors
/// What the system says.
pub async fn parked(system: &System, sizes: &Sizes) -> Result<Vec<Measured>> {
    let (one, two) = (system.client().await?, system.client().await?);
    let samples = match system.name() {
        "floor" => woken(&one, &two, sizes).await?,
        _ => handed(&one, &two, sizes).await?,
    };
    one.close().await?;
    two.close().await?;
    Ok(vec![Measured::each("W2p.parked", samples)])
}

async fn handed(one: &Arc<dyn Client>, two: &Arc<dyn Client>, sizes: &Sizes) -> Result<Samples> {
    let (name, start, mut samples) = (fresh("parked"), now(), Samples::default());
    let (mut held, mut next, mut other) = (one.acquire(&name).await?, two, one);
    // The first ones make what is missing.
    for at in 0..sizes.parked + 3 {
        if !goes_on(start, sizes.cap) {
            break;
        }
        let (client, name) = (next.clone(), name.clone());
        let waiting = tokio::spawn(async move {
            let held = client.acquire(&name).await?;
            Ok::<_, crate::Error>((held, now()))
        });
        tokio::time::sleep(pause()).await;
        let released = now();
        held.release().await?;
        let (taken, granted) = within(PATIENCE, "a hand-off", async { waiting.await? }).await?;
        if at >= 3 {
            samples.add(granted.since(released));
        }
        held = taken;
        std::mem::swap(&mut next, &mut other);
    }
    held.release().await?;
    Ok(samples)
}

async fn woken(one: &Arc<dyn Client>, two: &Arc<dyn Client>, sizes: &Sizes) -> Result<Samples> {
    let (name, start, mut samples) = (fresh("parked"), now(), Samples::default());
    let mut feed = two.park(&name).await?;
    let (heard, mut moments) = mpsc::unbounded_channel();
    let listening =
        tokio::spawn(async move { while feed.next().await.is_ok() && heard.send(now()).is_ok() {} });
    for at in 0..sizes.parked + 3 {
        if !goes_on(start, sizes.cap) {
            break;
        }
        tokio::time::sleep(pause()).await;
        let woke = now();
        one.wake(&name).await?;
        let moment =
            within(PATIENCE, "a wake-up", async { moments.recv().await.ok_or("it has ended".into()) });
        let moment: Moment = moment.await?;
        if at >= 3 {
            samples.add(moment.since(woke));
        }
    }
    listening.abort();
    Ok(samples)
}

/// Tasks of one client, each in a loop on a lock of its own.
///
/// # Errors
/// What the system says.
pub async fn independent(system: &System, sizes: &Sizes) -> Result<Vec<Measured>> {
    let client = system.client().await?;
    let client = std::slice::from_ref(&client);
    independent_of(client, sizes).await
}

/// The same with a client for each task: no two requests share a connection.
///
/// # Errors
/// What the system says.
pub async fn independent_clients(system: &System, sizes: &Sizes) -> Result<Vec<Measured>> {
    let mut clients = Vec::new();
    for _ in 0..sizes.tasks {
        clients.push(system.client().await?);
    }
    independent_of(&clients, sizes).await
}

async fn independent_of(clients: &[Arc<dyn Client>], sizes: &Sizes) -> Result<Vec<Measured>> {
    let run = fresh("own");
    for client in clients {
        client.acquire(&fresh("warm")).await?.release().await?;
    }
    let (start, before) = (now(), processor());
    let tasks: Vec<_> = (0..sizes.tasks)
        .map(|at| {
            let (client, name) = (clients[at % clients.len()].clone(), format!("{run}-{at}"));
            let length = sizes.independent;
            tokio::spawn(async move {
                let mut samples = Samples::default();
                while goes_on(start, length) {
                    let began = now();
                    client.acquire(&name).await?.release().await?;
                    samples.add(since(began));
                }
                Ok::<_, crate::Error>(samples)
            })
        })
        .collect();
    let mut samples = Samples::default();
    for task in tasks {
        samples.extend(within(sizes.independent + PATIENCE, "a pair", async { task.await? }).await?);
    }
    let (elapsed, used) = (since(start), processor() - before);
    for client in clients {
        client.close().await?;
    }
    let count = samples.len() as u64;
    let extra = Extra { cpu_s_per_1k: per_thousand(used, count), ..Extra::default() };
    let ops_per_s = Some(count as f64 / elapsed.as_secs_f64());
    Ok(vec![Measured { workload: "W3.pairs", samples, ops_per_s, extra }])
}

fn per_thousand(used: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| used * 1e3 / count as f64)
}
