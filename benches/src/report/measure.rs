//! Measuring everything, in rounds.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{Kept, Machine, Report, Server};
use crate::{
    Result,
    backend::Backend,
    row::{Measured, Row},
    servers::Servers,
    systems::{System, has, systems},
    time::Samples,
    workloads::{
        self, Sizes, WORKLOADS,
        election::{self, End},
        lock, renewal,
    },
};

/// What is measured, and how much of it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How often everything is measured.
    pub rounds: usize,
    /// Which backends.
    pub backends: Vec<Backend>,
    /// How much of each workload.
    pub sizes: Sizes,
    /// How many elections of each kind, in each round.
    pub elections: usize,
    /// How long a killed leader stays.
    pub ttl: Duration,
    /// How many locks are held.
    pub held: Vec<usize>,
    /// For how long.
    pub hold: Duration,
    /// The program `contender`, and what comes before its arguments.
    pub contender: Vec<String>,
}

impl Plan {
    /// The usual one, of so many rounds: some minutes each.
    #[must_use]
    pub fn new(rounds: usize, backends: Vec<Backend>, contender: Vec<String>) -> Self {
        let sizes = Sizes {
            pairs: 500,
            warm_up: 50,
            acquisitions: 400,
            parked: 40,
            independent: Duration::from_secs(2),
            items: 3_000,
            queue_cap: Duration::from_secs(5),
            values: 300,
            reads: 30,
            news: 30,
            ..Sizes::default()
        };
        let (ttl, held) = (Duration::from_secs(3), vec![1, 10, 100, 1_000]);
        Self { rounds, backends, sizes, elections: 3, ttl, held, hold: Duration::from_secs(4), contender }
    }

    /// One that only shows that everything works: its figures mean nothing.
    #[must_use]
    pub fn quick(mut self) -> Self {
        self.sizes = Sizes {
            pairs: 20,
            warm_up: 3,
            acquisitions: 40,
            parked: 3,
            independent: Duration::from_millis(100),
            items: 50,
            values: 10,
            instances: 20,
            reads: 3,
            news: 3,
            ..self.sizes
        };
        (self.elections, self.ttl) = (1, Duration::from_secs(2));
        (self.held, self.hold) = (vec![1, 20], Duration::from_secs(1));
        self
    }

    /// Everything that one round measures of a backend: the workload and the system.
    fn steps(&self, backend: Backend) -> Vec<(&'static str, &'static str)> {
        let mut steps = Vec::new();
        let others = ["W3.own", "E.kill", "E.resign", "renewal"];
        for workload in WORKLOADS.iter().map(|(name, _)| *name).chain(others) {
            let measured = systems(backend).iter().filter(|system| match workload {
                // Requests that share no connection: elsewhere the driver's pool or its one connection decides.
                "W3.own" => **system == "floor" && backend == Backend::Redis,
                "E.kill" | "E.resign" => has(system, backend, "candidate"),
                workload => has(system, backend, workload),
            });
            steps.extend(measured.map(|system| (workload, *system)));
        }
        steps
    }
}

/// Measures, and tells how far it is.
///
/// # Errors
/// If a server does not start. What a system cannot do is a row with an error.
pub async fn measure(plan: &Plan) -> Result<Report> {
    let servers = Servers::start(&plan.backends)?;
    let mut report = Report { machine: Machine::here(), ..Report::default() };
    for (backend, reason) in servers.missing() {
        report.missing.insert(backend.as_str().into(), reason.clone());
    }
    for backend in servers.backends() {
        let url = servers.url(backend).unwrap_or_default();
        report.servers.push(Server::ask(backend, &url).await?);
    }
    let all = servers.backends().map(|backend| plan.steps(backend).len()).sum::<usize>() * plan.rounds;
    let style =
        ProgressStyle::with_template("{elapsed_precise} {bar:30} {pos}/{len} {msg} (about {eta} left)")?;
    let progress = ProgressBar::new(all as u64).with_style(style);
    for round in 0..plan.rounds {
        let (mut rows, mut kept) = (Vec::new(), Vec::new());
        for backend in servers.backends() {
            let mut steps = plan.steps(backend);
            // Whoever was first is last the next time, within its workload.
            if round % 2 == 1 {
                steps.reverse();
            }
            for (workload, name) in steps {
                progress.set_message(format!(
                    "round {}: {workload} of {name} on {}",
                    round + 1,
                    backend.title()
                ));
                let system = System::new(name, backend, servers.url(backend).unwrap_or_default())?;
                match workload {
                    "renewal" => match keep(plan, &system, &servers).await {
                        Ok(costs) => kept.extend(costs),
                        Err(error) => rows.push(Row::failed(name, backend.as_str(), workload, &error)),
                    },
                    workload => rows.extend(step(plan, workload, &system).await),
                }
                progress.inc(1);
            }
        }
        report.rounds.push(rows);
        report.kept.push(kept);
    }
    progress.finish_and_clear();
    Ok(report)
}

/// One workload of one system.
async fn step(plan: &Plan, workload: &str, system: &System) -> Vec<Row> {
    let backend = system.backend().as_str();
    let measured = match workload {
        "W3.own" => lock::independent_clients(system, &plan.sizes).await.map(|mut measured| {
            measured[0].workload = "W3.own";
            measured
        }),
        "E.kill" => elections(plan, system, "E.kill", End::Kill).await,
        "E.resign" => elections(plan, system, "E.resign", End::Resign).await,
        _ => return workloads::run(workload, system, backend, &plan.sizes).await,
    };
    match measured {
        Ok(measured) => measured.iter().map(|measured| measured.row(system.name(), backend)).collect(),
        Err(error) => vec![Row::failed(system.name(), backend, workload, &error)],
    }
}

async fn elections(plan: &Plan, system: &System, name: &'static str, end: End) -> Result<Vec<Measured>> {
    let mut samples = Samples::default();
    for _ in 0..plan.elections {
        samples.add(election::failover(&plan.contender, system, plan.ttl, end).await?);
    }
    Ok(vec![Measured::each(name, samples)])
}

async fn keep(plan: &Plan, system: &System, servers: &Servers) -> Result<Vec<Kept>> {
    let mut kept = Vec::new();
    for locks in &plan.held {
        // Some periods of renewal.
        let keeping = renewal::keeping(system, servers, *locks, plan.hold * 3 / 2, plan.hold).await?;
        kept.push(Kept {
            backend: system.backend().as_str().into(),
            locks: *locks,
            requests_per_s: keeping.requests_per_s,
            cpu_ms_per_s: keeping.cpu_ms_per_s,
        });
    }
    Ok(kept)
}
