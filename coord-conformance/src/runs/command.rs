//! The command line of runs, which the program `coord-conformance` and the test target of a backend share.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::{Args, Parser, ValueEnum};

use super::{Judged, RunError, Settings, Wanted, history, picture};
use crate::Backend;

/// The options of a run.
#[derive(Debug, Clone, Args)]
#[non_exhaustive]
pub struct Options {
    /// Which faults strike: kill, stop (processes of workers); lose-replies, lose-requests, cut, delay, deaf (between
    /// workers and the store); server-kill, server-stop; leader-kill, leader-stop (of a cluster); workers, links,
    /// servers, all (that the backend can have); none.
    #[arg(long, value_name = "LIST", value_delimiter = ',', required = true)]
    pub faults: Vec<Wanted>,
    /// For how long faults strike. A few seconds come to that, in which everything has to come to rest.
    #[arg(long = "for", value_name = "DURATION", default_value = "12s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// Decides which fault strikes when, and what workers choose. Without it, it is drawn.
    #[arg(long)]
    pub seed: Option<u64>,
    /// How many histories, each with the next seed.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub repeat: u64,
    /// The folder for histories, `BACKEND-SEED.jsonl`. Without it, `coord-runs` where temporary files are.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// A run that has to go wrong.
    #[arg(long)]
    pub control: Option<Control>,
    /// How many worker processes.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub workers: u8,
    /// The TTL of all leases, if the backend can have it; else its least. Without it, a second.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub ttl: Option<Duration>,
}

/// Which control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[non_exhaustive]
pub enum Control {
    /// Nothing checks tokens, and updates have to be lost.
    Unfenced,
}

/// The command line of a test target with several backends.
#[derive(Debug, Parser)]
#[command(name = "run", about = "Runs with faults, each a history that is stored and judged")]
struct Line {
    /// Which backend of this target; the first one if none is named.
    #[arg(long)]
    backend: Option<String>,
    #[command(flatten)]
    options: Options,
}

/// What separates a run from a filter of cases that is called so.
const SIGN: &str = "--faults";

/// The arguments of a run, if these are: `run`, with `--faults` or `--help` behind it.
pub(crate) fn arguments(given: impl IntoIterator<Item = String>) -> Option<Vec<String>> {
    let mut given = given.into_iter().skip(1);
    given.next().filter(|first| first == "run")?;
    let rest: Vec<_> = given.collect();
    let is_run = rest.iter().any(|argument| argument.starts_with(SIGN) || argument == "--help");
    is_run.then(|| ["run".to_owned()].into_iter().chain(rest).collect())
}

/// Runs on one of these backends. The exit code is 1 if a history is not as it must be, and 2 if there is none.
pub(crate) fn main(backends: &[Arc<dyn Backend>], arguments: &[String]) -> ExitCode {
    let line = match Line::try_parse_from(arguments) {
        Ok(line) => line,
        Err(error) => error.exit(),
    };
    let named =
        |backend: &&Arc<dyn Backend>| line.backend.as_deref().is_none_or(|name| name == backend.name());
    let Some(backend) = backends.iter().find(named) else {
        let names: Vec<_> = backends.iter().map(|backend| backend.name()).collect();
        eprintln!("there is no such backend here, but {}", names.join(", "));
        return ExitCode::from(2);
    };
    match repeat(backend, &line.options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// Whether all histories are as they must be.
fn repeat(backend: &Arc<dyn Backend>, options: &Options) -> Result<bool, Box<dyn std::error::Error>> {
    let out = options.out.clone().unwrap_or_else(|| std::env::temp_dir().join("coord-runs"));
    std::fs::create_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    let first = options.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let mut passed = true;
    for seed in first..first.saturating_add(options.repeat) {
        let file = out.join(format!("{}-{seed}.jsonl", backend.name()));
        let judged = Judged::new(one(backend, &options.settings(seed))?);
        judged.recording.write(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        println!("{}: {judged}", file.display());
        if !judged.passes() {
            let drawn = file.with_extension("html");
            std::fs::write(&drawn, picture(&judged))
                .map_err(|error| format!("{}: {error}", drawn.display()))?;
            println!("drawn in {}", drawn.display());
            passed = false;
        }
    }
    Ok(passed)
}

/// One history, in a runtime of its own: nothing of it is left for the next.
fn one(backend: &Arc<dyn Backend>, settings: &Settings) -> Result<crate::history::Recording, RunError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| RunError::Failed(crate::Failure::new(error.to_string())))?;
    let recorded = runtime.block_on(history(backend, settings));
    runtime.shutdown_timeout(Duration::from_secs(5));
    recorded
}

impl Options {
    fn settings(&self, seed: u64) -> Settings {
        Settings {
            duration: self.duration,
            workers: usize::from(self.workers.max(1)),
            ttl: self.ttl,
            unfenced: self.control == Some(Control::Unfenced),
            ..Settings::new(self.faults.clone(), seed)
        }
    }

    /// The command line that gives these options.
    #[must_use]
    pub fn line(&self) -> Vec<String> {
        let faults: Vec<_> = self.faults.iter().map(Wanted::to_string).collect();
        let duration = |duration| humantime::format_duration(duration).to_string().replace(' ', "");
        let mut line = vec![
            format!("--faults={}", faults.join(",")),
            format!("--for={}", duration(self.duration)),
            format!("--repeat={}", self.repeat),
            format!("--workers={}", self.workers),
        ];
        line.extend(self.seed.map(|seed| format!("--seed={seed}")));
        line.extend(self.out.as_ref().map(|out| format!("--out={}", out.display())));
        line.extend(self.control.map(|_| "--control=unfenced".to_owned()));
        line.extend(self.ttl.map(|ttl| format!("--ttl={}", duration(ttl))));
        line
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Fault, *};

    fn given(line: &str) -> Option<Vec<String>> {
        arguments(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn a_filter_is_no_run() {
        assert_eq!(given("conformance run"), None);
        assert_eq!(given("conformance run --nocapture"), None);
        assert_eq!(given("conformance lock --faults=all"), None);
        assert_eq!(given("conformance run --faults all").unwrap(), ["run", "--faults", "all"]);
    }

    #[test]
    fn options_survive_their_line() {
        let line = "run --faults kill,servers --for 2m --seed 7 --repeat 3 --out a/b --control unfenced --ttl 1500ms";
        let first = Line::try_parse_from(line.split(' ')).unwrap().options;
        let second =
            Line::try_parse_from(["run".to_owned()].into_iter().chain(first.line())).unwrap().options;
        assert_eq!(format!("{first:?}"), format!("{second:?}"));
        assert_eq!(second.faults, [Wanted::One(Fault::Kill), Wanted::Servers]);
        assert_eq!((second.duration, second.repeat), (Duration::from_secs(120), 3));
    }
}
