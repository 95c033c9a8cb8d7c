//! `cargo bench`: every workload on every backend that is there, beside the bare driver and other libraries.
//!
//! The name of a benchmark is `what/backend/how/system`, such as `lock/uncontended/redis/same/coord`; so `cargo bench -- redis`
//! and `cargo bench -- lock/uncontended` choose some. Only servers that are needed are started.

use std::{process::ExitCode, time::Duration};

use clap::Parser as _;

use coord_benches::{
    Result,
    backend::Backend,
    contender,
    row::Measured,
    servers::Servers,
    systems::{System, has, systems},
    workloads::{
        Sizes, config,
        election::{self, End},
        lock, queue, registry, renewal,
    },
};
use criterion::{Criterion, Throughput};
use tokio::runtime::Runtime;

/// How long a killed leader stays.
const TTL: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // Candidates of elections are processes of their own: this program, called as a contender.
    let arguments: Vec<_> = std::env::args().collect();
    if arguments.get(1).is_some_and(|first| first == "contender") {
        let runtime = Runtime::new().expect("a runtime");
        let status = runtime.block_on(contender::run(&contender::Arguments::parse_from(&arguments[1..])));
        // A reading of the standard input may be under way, for which the runtime would wait.
        std::process::exit(i32::from(status != ExitCode::SUCCESS));
    }
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .sample_size(10)
        .configure_from_args();
    let wanted: Vec<_> = Backend::ALL.into_iter().filter(|backend| may_be_chosen(*backend)).collect();
    let servers = Servers::start(&wanted).unwrap_or_else(|error| panic!("{error}"));
    for (backend, reason) in servers.missing() {
        eprintln!("{backend}: not measured: {reason}");
    }
    // What is measured is bounded by numbers.
    let long = Duration::from_secs(600);
    let sizes = Sizes { warm_up: 5, cap: long, contention_cap: long, queue_cap: long, ..Sizes::default() };
    let bench = Bench { runtime: Runtime::new().expect("a runtime"), servers, sizes };
    for backend in bench.servers.backends() {
        for name in systems(backend) {
            let url = bench.servers.url(backend).unwrap_or_default();
            let system = System::new(name, backend, url).expect("a system of this backend");
            bench.locks(&mut criterion, &system);
            bench.holding(&mut criterion, &system);
            bench.others(&mut criterion, &system);
        }
    }
    criterion.final_summary();
    ExitCode::SUCCESS
}

/// Whether the filter among the arguments may mean something of this backend: a server that is started in vain costs seconds.
fn may_be_chosen(backend: Backend) -> bool {
    let mut words = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let names =
        |word: &String| Backend::ALL.iter().any(|one| word.split('/').any(|part| part == one.as_str()));
    match words.find(names) {
        Some(word) => word.split('/').any(|part| part == backend.as_str()),
        None => true,
    }
}

struct Bench {
    runtime: Runtime,
    servers: Servers,
    sizes: Sizes,
}

/// The sum of what was measured one after the other.
fn sum(measured: Vec<Measured>, which: &str) -> Result<Duration> {
    let found = measured.into_iter().find(|measured| measured.workload == which).ok_or("no such result")?;
    Ok(found.samples.into_iter().sum())
}

/// How long so many take of what is done by many at once.
fn at_rate(measured: &[Measured], count: u64) -> Result<Duration> {
    let rate = measured.first().and_then(|measured| measured.ops_per_s).ok_or("no rate")?;
    Ok(Duration::from_secs_f64(count as f64 / rate))
}

impl Bench {
    /// One benchmark, if the system has the workload. `work` tells how long so many take.
    fn measure(
        &self,
        criterion: &mut Criterion,
        (what, how): (&str, &str),
        (system, workload): (&System, &str),
        mut work: impl AsyncFnMut(usize) -> Result<Duration>,
    ) {
        let backend = system.backend();
        if !has(system.name(), backend, workload) {
            return;
        }
        let mut group = criterion.benchmark_group(format!("{what}/{backend}/{how}"));
        group.throughput(Throughput::Elements(1));
        group.bench_function(system.name(), |bencher| {
            bencher.iter_custom(|count| {
                let count = usize::try_from(count).expect("a number of iterations");
                let measured = self.runtime.block_on(work(count));
                measured.unwrap_or_else(|error| panic!("{what} of {} on {backend}: {error}", system.name()))
            });
        });
        group.finish();
    }

    fn locks(&self, criterion: &mut Criterion, system: &System) {
        for (how, result, each_fresh) in [("same", "W1.same.pair", false), ("fresh", "W1.fresh.pair", true)] {
            self.measure(criterion, ("lock/uncontended", how), (system, "W1"), async |pairs| {
                let sizes = Sizes { pairs, ..self.sizes.clone() };
                sum(lock::uncontended(system, &sizes, each_fresh).await?, result)
            });
        }
        self.measure(criterion, ("lock/handoff", "parked"), (system, "W2p"), async |parked| {
            sum(lock::parked(system, &Sizes { parked, ..self.sizes.clone() }).await?, "W2p.parked")
        });
        let mut fairness = None;
        self.measure(criterion, ("lock/handoff", "tight"), (system, "W2"), async |acquisitions| {
            let acquisitions_of_all = acquisitions.max(20 * self.sizes.contenders);
            let sizes = Sizes { acquisitions: acquisitions_of_all, ..self.sizes.clone() };
            let measured = lock::tight(system, &sizes).await?;
            fairness = measured.first().map(|measured| measured.extra.clone());
            at_rate(&measured, acquisitions as u64)
        });
        if let Some((most, least)) = fairness.and_then(|extra| extra.fair_max.zip(extra.fair_min)) {
            eprintln!(
                "  of {} clients one had {most} acquisitions, another one {least}",
                self.sizes.contenders
            );
        }
        let mut processor = None;
        self.measure(criterion, ("lock/independent", "64"), (system, "W3"), async |pairs| {
            let sizes = Sizes { independent: Duration::from_millis(300), ..self.sizes.clone() };
            let measured = lock::independent(system, &sizes).await?;
            processor = measured.first().and_then(|measured| measured.extra.cpu_s_per_1k);
            at_rate(&measured, pairs as u64)
        });
        if let Some(seconds) = processor {
            eprintln!("  {seconds:.4} s of the processor's time for 1,000 pairs");
        }
    }

    fn holding(&self, criterion: &mut Criterion, system: &System) {
        let mut cost = None;
        // Of the processor's time, each second.
        self.measure(criterion, ("lock/renewal", "1000"), (system, "renewal"), async |seconds| {
            let (ttl, length) = (Duration::from_secs(6), Duration::from_secs(2));
            let keeping = renewal::keeping(system, &self.servers, 1_000, ttl, length).await?;
            cost = Some(keeping);
            Ok(Duration::from_secs_f64(keeping.cpu_ms_per_s / 1e3 * seconds as f64))
        });
        if let Some(requests) = cost.and_then(|keeping| keeping.requests_per_s) {
            eprintln!("  {requests:.0} requests a second for 1,000 locks with a TTL of 6 s");
        }
        let this = std::env::current_exe().expect("the path of this program");
        let program = [this.to_string_lossy().into_owned(), "contender".to_owned()];
        for (how, end) in [("kill", End::Kill), ("resign", End::Resign)] {
            self.measure(criterion, ("election/failover", how), (system, "candidate"), async |times| {
                let mut total = Duration::ZERO;
                for _ in 0..times {
                    total += election::failover(&program, system, TTL, end).await?;
                }
                Ok(total)
            });
        }
    }

    fn others(&self, criterion: &mut Criterion, system: &System) {
        for (how, width) in [("1x1", 1), ("4x4", 4)] {
            self.measure(criterion, ("queue/flat-out", how), (system, "W5"), async |items| {
                let sizes = Sizes { items: items.max(500), ..self.sizes.clone() };
                at_rate(&queue::flat_out(system, &sizes, width).await?, items as u64)
            });
        }
        self.measure(criterion, ("queue/paced", "1x1"), (system, "W5"), async |items| {
            sum(queue::paced(system, &Sizes { items, ..self.sizes.clone() }).await?, "W5.1x1.paced")
        });
        self.measure(criterion, ("config/watch", "put"), (system, "W6"), async |values| {
            sum(config::watch(system, &Sizes { values, ..self.sizes.clone() }).await?, "W6.watch")
        });
        for (how, result) in
            [("register", "W7.register"), ("discover", "W7.discover"), ("propagate", "W7.propagate")]
        {
            if result == "W7.propagate" && system.name() != "coord" {
                continue;
            }
            self.measure(criterion, ("registry/1000", how), (system, "W7"), async |times| {
                let sizes = Sizes { reads: times.min(500), news: times.min(500), ..self.sizes.clone() };
                let measured = registry::service(system, &sizes).await?;
                let found = measured.iter().find(|measured| measured.workload == result);
                let mean = found.ok_or("no such result")?.samples.summary().mean_us;
                Ok(Duration::from_secs_f64(mean / 1e6 * times as f64))
            });
        }
    }
}
