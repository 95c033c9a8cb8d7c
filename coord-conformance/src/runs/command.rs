//! The command line of runs, which the program `coord-conformance` and the test target of a backend share.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::{Args, Parser, ValueEnum};

use super::{Judged, Settings, Wanted, history, picture, soak::Sample, within_runtime};
use crate::Backend;

/// The options of a run.
#[derive(Debug, Clone, Args)]
#[non_exhaustive]
pub struct Options {
    /// Which faults strike: kill, stop (processes of workers); lose-replies, lose-requests, cut, delay, deaf (between
    /// workers and the store, made in the worker); wire-reset, wire-refuse, wire-freeze, wire-blackhole, wire-mute,
    /// wire-deaf, wire-slow, wire-lose (connections, by a proxy), wire-apart (of all workers with one server of a cluster);
    /// server-kill, server-stop; leader-kill, leader-stop, partition (of a cluster); clock-forward, clock-back, clock-strobe (of servers); workers, links, wires, servers, clocks,
    /// all (that the backend can have and does not say to break it); none.
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

/// The options of a soak.
#[derive(Debug, Clone, Args)]
#[non_exhaustive]
pub struct SoakOptions {
    /// Which faults strike, as those of a run.
    #[arg(long, value_name = "LIST", value_delimiter = ',', required = true)]
    pub faults: Vec<Wanted>,
    /// How long in all.
    #[arg(long = "for", value_name = "DURATION", default_value = "2h", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// How long a round is. Faults strike in the first third of it.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub round: Duration,
    /// Decides which fault strikes when, and what workers choose.
    #[arg(long)]
    pub seed: Option<u64>,
    /// The folder for the samples, `BACKEND-soak.jsonl`. Without it, where temporary files are.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// How many worker processes. One of them is killed now and then; the others stay, and are measured.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub workers: u8,
}

impl SoakOptions {
    /// The command line that gives these options.
    #[must_use]
    pub fn line(&self) -> Vec<String> {
        let faults: Vec<_> = self.faults.iter().map(Wanted::to_string).collect();
        let mut line = vec![
            format!("--faults={}", faults.join(",")),
            format!("--for={}", compact(self.duration)),
            format!("--round={}", compact(self.round)),
            format!("--workers={}", self.workers),
        ];
        line.extend(self.seed.map(|seed| format!("--seed={seed}")));
        line.extend(self.out.as_ref().map(|out| format!("--out={}", out.display())));
        line
    }
}

/// As an argument: without spaces.
fn compact(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// The command line of a test target with several backends.
#[derive(Debug, Parser)]
#[command(name = "soak", about = "Hours of work under mild faults, in which nothing may grow")]
struct SoakLine {
    /// Which backend of this target; the first one if none is named.
    #[arg(long)]
    backend: Option<String>,
    #[command(flatten)]
    options: SoakOptions,
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

/// What a test target was called for.
enum Called {
    Run(Options),
    Soak(SoakOptions),
}

/// What separates a run from a filter of cases that is called so.
const SIGN: &str = "--faults";

/// The arguments of a run or a soak, if these are: `run` or `soak`, with `--faults` or `--help` behind it.
pub(crate) fn arguments(given: impl IntoIterator<Item = String>) -> Option<Vec<String>> {
    let mut given = given.into_iter().skip(1);
    let first = given.next().filter(|first| first == "run" || first == "soak")?;
    let rest: Vec<_> = given.collect();
    let is_run = rest.iter().any(|argument| argument.starts_with(SIGN) || argument == "--help");
    is_run.then(|| [first].into_iter().chain(rest).collect())
}

/// Runs or soaks one of these backends. The exit code is 1 if something is not as it must be, and 2 if nothing is known.
pub(crate) fn main(backends: &[Arc<dyn Backend>], arguments: &[String]) -> ExitCode {
    let (name, line) = if arguments[0] == "soak" {
        let line = SoakLine::parse_from(arguments);
        (line.backend, Called::Soak(line.options))
    } else {
        let line = Line::parse_from(arguments);
        (line.backend, Called::Run(line.options))
    };
    let named = |backend: &&Arc<dyn Backend>| name.as_deref().is_none_or(|name| name == backend.name());
    let Some(backend) = backends.iter().find(named) else {
        let names: Vec<_> = backends.iter().map(|backend| backend.name()).collect();
        eprintln!("there is no such backend here, but {}", names.join(", "));
        return ExitCode::from(2);
    };
    let done = match line {
        Called::Run(options) => repeat(backend, &options),
        Called::Soak(options) => soak(backend, &options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything is as it must be.
type Done = Result<bool, Box<dyn std::error::Error>>;

fn repeat(backend: &Arc<dyn Backend>, options: &Options) -> Done {
    let out = options.out.clone().unwrap_or_else(|| std::env::temp_dir().join("coord-runs"));
    std::fs::create_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    let first = options.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let mut passed = true;
    for seed in first..first.saturating_add(options.repeat) {
        let file = out.join(format!("{}-{seed}.jsonl", backend.name()));
        let judged = Judged::new(within_runtime(history(backend, &options.settings(seed)))?);
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

fn soak(backend: &Arc<dyn Backend>, options: &SoakOptions) -> Done {
    let mut settings = Settings::new(options.faults.clone(), options.seed.unwrap_or(1));
    (settings.duration, settings.workers) = (options.duration, usize::from(options.workers.max(2)));
    let name = format!("{}-soak.jsonl", backend.name());
    let file = options.out.clone().unwrap_or_else(std::env::temp_dir).join(name);
    let tell = |sample: &Sample, judged: &Judged| {
        println!("{}", serde_json::to_string(sample).unwrap_or_default());
        if !judged.passes() {
            let history = file.with_extension(format!("{}.jsonl", sample.round));
            match judged.recording.write(&history) {
                Ok(()) => println!("{}: {judged}", history.display()),
                Err(error) => println!("{}: {error}; {judged}", history.display()),
            }
        }
    };
    let course = within_runtime(super::soak::soak(backend, &settings, options.round, tell))?;
    course.write(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    println!("{}\n{course}", file.display());
    course.growth().iter().for_each(|grown| println!("GREW: {grown}"));
    Ok(course.passes())
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
        let mut line = vec![
            format!("--faults={}", faults.join(",")),
            format!("--for={}", compact(self.duration)),
            format!("--repeat={}", self.repeat),
            format!("--workers={}", self.workers),
        ];
        line.extend(self.seed.map(|seed| format!("--seed={seed}")));
        line.extend(self.out.as_ref().map(|out| format!("--out={}", out.display())));
        line.extend(self.control.map(|_| "--control=unfenced".to_owned()));
        line.extend(self.ttl.map(|ttl| format!("--ttl={}", compact(ttl))));
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
