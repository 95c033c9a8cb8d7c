//! Measures everything that there is, and writes `docs/comparison/`; see `coord_benches::report`.

use std::{fs, path::PathBuf, process::ExitCode};

use clap::Parser;
use coord_benches::{
    Result,
    backend::Backend,
    contender,
    report::{self, BOUNDS, Plan, Report, Verdict},
};

/// Measures every backend that there is, beside the bare driver and other libraries, and writes the comparison.
#[derive(Debug, Parser)]
#[command(name = "report")]
struct Arguments {
    /// The folder to write to
    #[arg(long, default_value = "docs/comparison")]
    out: PathBuf,
    /// How often everything is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only these backends: redis, zk, etcd, pg, sqlite, memory
    #[arg(long, value_delimiter = ',')]
    backends: Vec<String>,
    /// Only shows that everything works: the figures mean nothing
    #[arg(long)]
    quick: bool,
    /// Says what changed beyond noise since this report.json
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Writes the page of this report.json anew instead of measuring
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    // Candidates of elections are processes of their own: this program, called as a contender.
    let arguments: Vec<_> = std::env::args().collect();
    if arguments.get(1).is_some_and(|first| first == "contender") {
        let status = contender::run(&contender::Arguments::parse_from(&arguments[1..])).await;
        std::process::exit(i32::from(status != ExitCode::SUCCESS));
    }
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn read(file: &PathBuf) -> Result<Report> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?)
}

async fn run(arguments: &Arguments) -> Result<()> {
    // Before minutes of measuring.
    let before = arguments.compare.as_ref().map(read).transpose()?;
    let report = match &arguments.from {
        Some(file) => read(file)?,
        None => report::measure(&plan(arguments)?).await?,
    };
    report::write(&report, &arguments.out)?;
    say(&report);
    if let Some(before) = before {
        compare(&before, &report);
    }
    println!("written to {}", arguments.out.display());
    Ok(())
}

fn plan(arguments: &Arguments) -> Result<Plan> {
    let named: Result<Vec<Backend>> = arguments.backends.iter().map(|name| name.parse()).collect();
    let named = named?;
    let backends = if named.is_empty() { Backend::ALL.to_vec() } else { named };
    let program = std::env::current_exe()?.to_string_lossy().into_owned();
    let plan = Plan::new(arguments.rounds.max(1), backends, vec![program, "contender".into()]);
    Ok(if arguments.quick { plan.quick() } else { plan })
}

/// What could not be measured, and what became of the bounds.
fn say(report: &Report) {
    for (backend, reason) in &report.missing {
        println!("{backend}: not measured: {reason}");
    }
    for row in report.rounds.iter().flatten() {
        if let Some(error) = &row.error
            && !error.contains("has no")
        {
            println!("{} of {} on {}: {error}", row.workload, row.system, row.backend);
        }
    }
    for bound in BOUNDS {
        let sign = if bound.at_most { "at most" } else { "at least" };
        let (verdict, figure) = match bound.judge(report) {
            Verdict::Met(figure) => ("met   ", format!("{figure:.3}")),
            Verdict::Missed(figure) => ("MISSED", format!("{figure:.3}")),
            Verdict::Unknown => ("?     ", "not measured".into()),
        };
        println!("{verdict} {:6} {}: {figure}, {sign} {}", bound.backend, bound.what, bound.limit);
    }
}

fn compare(before: &Report, after: &Report) {
    let changes = report::changes(before, after);
    if changes.is_empty() {
        println!("nothing changed beyond noise");
    }
    for change in changes {
        let (system, backend, result) = &change.of;
        let verdict = if change.is_better() { "better" } else { "WORSE " };
        let unit = if change.rate { "/s" } else { " us" };
        let percent = (change.after / change.before - 1.0) * 100.0;
        println!(
            "{verdict} {backend:6} {system:13} {result:16} {:.1}{unit} -> {:.1}{unit} ({percent:+.0} %)",
            change.before, change.after
        );
    }
}
