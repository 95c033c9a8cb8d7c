//! What is measured. Each workload takes a [`System`] and gives results; `contender`, `cargo bench` and the report share them.
//!
//! | workload | results | what |
//! | --- | --- | --- |
//! | `W1` | `W1.fresh.acquire`, `.release`, `.pair`; `W1.same.…` | one client, a lock that nobody else wants: a new name each time, and one name |
//! | `W2` | `W2.handoff` | 8 clients in a loop on one lock; from the call of release to the next one's grant, where that is another client |
//! | `W2p` | `W2p.parked` | the same where the other one is already waiting |
//! | `W3` | `W3.pairs` | 64 tasks of one client, each with a lock of its own |
//! | `W5` | `W5.1x1.sat`, `W5.4x4.sat`, `W5.1x1.paced` | a queue with as many producers and consumers, flat out and at 200 items a second; from the call of push to the item in hand |
//! | `W6` | `W6.watch` | from the call that writes a value to another client's sight of it |
//! | `W7` | `W7.register`, `W7.discover`, `W7.propagate` | a service of 1,000 instances: listing one, reading all, hearing of one |
//!
//! Names are new for every run, so that a server can be used again.

pub mod config;
pub mod election;
pub mod lock;
pub mod queue;
pub mod registry;
pub mod renewal;

use std::time::Duration;

use coord_core::clock::Moment;

use crate::{
    Result,
    row::{Measured, Row},
    systems::{System, has},
    time::since,
};

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// Pairs of acquire and release (`PEERS_W1_N`).
    pub pairs: usize,
    /// Those before that are not counted (`PEERS_W1_WARM`).
    pub warm_up: usize,
    /// How long anything may take that has no bound of its own (`PEERS_CAP_S`).
    pub cap: Duration,
    /// Clients in a loop on one lock (`PEERS_W2_K`).
    pub contenders: usize,
    /// Acquisitions of all of them (`PEERS_W2_N`).
    pub acquisitions: usize,
    /// How long that may take (`PEERS_W2_CAP_S`).
    pub contention_cap: Duration,
    /// Hand-offs to one who waits (`PEERS_W2P_N`).
    pub parked: usize,
    /// Tasks with locks of their own (`PEERS_W3_T`).
    pub tasks: usize,
    /// How long they go on (`PEERS_W3_SECS`).
    pub independent: Duration,
    /// Items of a queue (`PEERS_W5_N`).
    pub items: usize,
    /// How long that may take (`PEERS_W5_CAP_S`).
    pub queue_cap: Duration,
    /// Values that are written (`PEERS_W6_N`).
    pub values: usize,
    /// Instances of a service (`PEERS_W7_N`).
    pub instances: usize,
    /// How often all of them are read.
    pub reads: usize,
    /// Of how many new ones somebody hears.
    pub news: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            pairs: 1_000,
            warm_up: 100,
            cap: Duration::from_secs(15),
            contenders: 8,
            acquisitions: 1_000,
            contention_cap: Duration::from_secs(20),
            parked: 60,
            tasks: 64,
            independent: Duration::from_secs(4),
            items: 4_000,
            queue_cap: Duration::from_secs(8),
            values: 500,
            instances: 1_000,
            reads: 50,
            news: 50,
        }
    }
}

impl Sizes {
    /// The sizes that the environment asks for; the default for those of which it says nothing.
    ///
    /// # Errors
    /// For a value that is not a number.
    pub fn from_environment() -> Result<Self> {
        fn read<T: std::str::FromStr>(name: &str, default: T) -> Result<T> {
            match std::env::var(name) {
                Ok(value) if !value.is_empty() => {
                    value.parse().map_err(|_| format!("{name} is {value:?}, which is no number").into())
                }
                _ => Ok(default),
            }
        }
        let seconds = |name: &str, default: Duration| -> Result<Duration> {
            let seconds = read(name, default.as_secs_f64())?;
            Duration::try_from_secs_f64(seconds).map_err(|error| format!("{name}: {error}").into())
        };
        let default = Self::default();
        Ok(Self {
            pairs: read("PEERS_W1_N", default.pairs)?,
            warm_up: read("PEERS_W1_WARM", default.warm_up)?,
            cap: seconds("PEERS_CAP_S", default.cap)?,
            contenders: read("PEERS_W2_K", default.contenders)?,
            acquisitions: read("PEERS_W2_N", default.acquisitions)?,
            contention_cap: seconds("PEERS_W2_CAP_S", default.contention_cap)?,
            parked: read("PEERS_W2P_N", default.parked)?,
            tasks: read("PEERS_W3_T", default.tasks)?,
            independent: seconds("PEERS_W3_SECS", default.independent)?,
            items: read("PEERS_W5_N", default.items)?,
            queue_cap: seconds("PEERS_W5_CAP_S", default.queue_cap)?,
            values: read("PEERS_W6_N", default.values)?,
            instances: read("PEERS_W7_N", default.instances)?,
            ..default
        })
    }
}

/// The workloads, and the results of each.
pub const WORKLOADS: [(&str, &[&str]); 7] = [
    (
        "W1",
        &[
            "W1.fresh.acquire",
            "W1.fresh.release",
            "W1.fresh.pair",
            "W1.same.acquire",
            "W1.same.release",
            "W1.same.pair",
        ],
    ),
    ("W2", &["W2.handoff"]),
    ("W2p", &["W2p.parked"]),
    ("W3", &["W3.pairs"]),
    ("W5", &["W5.1x1.sat", "W5.4x4.sat", "W5.1x1.paced"]),
    ("W6", &["W6.watch"]),
    ("W7", &["W7.register", "W7.discover", "W7.propagate"]),
];

/// The results of a workload.
///
/// # Errors
/// If there is none of this name.
pub fn results(workload: &str) -> Result<&'static [&'static str]> {
    let found = WORKLOADS.iter().find(|(name, _)| *name == workload);
    let known = || WORKLOADS.map(|(name, _)| name).join(", ");
    found
        .map(|(_, results)| *results)
        .ok_or_else(|| format!("there is no workload {workload:?}; known are {}, candidate", known()).into())
}

/// Runs a workload: one row for each of its results, also for those that there are not, with the reason.
///
/// `backend` is what the rows call the backend.
pub async fn run(workload: &str, system: &System, backend: &str, sizes: &Sizes) -> Vec<Row> {
    let names = match results(workload) {
        Ok(names) => names,
        Err(error) => return vec![Row::failed(system.name(), backend, workload, &error)],
    };
    if !has(system.name(), system.backend(), workload) {
        let failed = |name: &&str| {
            Row::failed(
                system.name(),
                backend,
                name,
                &format!("this system has no {workload} on this backend"),
            )
        };
        return names.iter().map(failed).collect();
    }
    let mut outcomes: Vec<Result<Vec<Measured>>> = Vec::new();
    match workload {
        "W1" => {
            outcomes.push(lock::uncontended(system, sizes, true).await);
            outcomes.push(lock::uncontended(system, sizes, false).await);
        }
        "W2" => outcomes.push(lock::tight(system, sizes).await),
        "W2p" => outcomes.push(lock::parked(system, sizes).await),
        "W3" => outcomes.push(lock::independent(system, sizes).await),
        "W5" => {
            outcomes.push(queue::flat_out(system, sizes, 1).await);
            outcomes.push(queue::flat_out(system, sizes, 4).await);
            outcomes.push(queue::paced(system, sizes).await);
        }
        "W6" => outcomes.push(config::watch(system, sizes).await),
        _ => outcomes.push(registry::service(system, sizes).await),
    }
    let (mut measured, mut errors) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        match outcome {
            Ok(results) => measured.extend(results),
            Err(error) if errors.contains(&error.to_string()) => {}
            Err(error) => errors.push(error.to_string()),
        }
    }
    let row = |name: &&str| match measured.iter().find(|result| result.workload == *name) {
        Some(result) if !result.samples.is_empty() => result.row(system.name(), backend),
        Some(_) => {
            Row::failed(system.name(), backend, name, &"nothing was measured in the time that there was")
        }
        None if errors.is_empty() => {
            Row::failed(system.name(), backend, name, &"this system has no such result")
        }
        None => Row::failed(system.name(), backend, name, &errors.join("; ")),
    };
    names.iter().map(row).collect()
}

/// A name that nobody has used.
#[must_use]
pub fn fresh(what: &str) -> String {
    format!("{what}-{:016x}", fastrand::u64(..))
}

/// Whether there is time left.
fn goes_on(start: Moment, cap: Duration) -> bool {
    since(start) < cap
}

/// Fails what should have been over long ago, with what it was about.
async fn within<T>(cap: Duration, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(cap, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("{what}: no end within {} s", cap.as_secs_f64()).into()),
    }
}
