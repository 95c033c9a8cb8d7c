//! Runs with faults, and what their histories say: `cargo run -p coord-conformance -- --help`.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use clap::{Args, Parser, Subcommand};
use coord_conformance::{
    history::Recording,
    report::publish,
    runs::{
        Judged,
        command::{Options, SoakOptions},
        picture,
    },
};

/// Runs a backend under faults, and judges histories.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Runs worker processes under faults, and stores and judges the histories. The exit code is 1 if one is not as it
    /// must be, and 2 if there is none.
    Run(Run),
    /// Works for hours under mild faults, and measures what is in use after each round. The exit code is 1 if something
    /// grew or a round is not as it must be, and 2 if nothing is known.
    Soak(Soak),
    /// Judges stored histories anew. The exit code is 1 if one is not as it must be, and 2 if one cannot be read.
    Check {
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Draws a stored history: who held what, with which tokens, and what struck whom. It is one HTML file.
    Picture {
        /// The file of the history.
        file: PathBuf,
        /// Where to draw it. Without it, beside the history, with the ending `html`.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Makes a page, drawings and figures of stored histories. The exit code is 1 if one is not as it must be, and 2 if one
    /// cannot be read.
    Report {
        /// The files, or folders with files.
        #[arg(required = true)]
        from: Vec<PathBuf>,
        /// The folder for the page.
        #[arg(long, default_value = "docs/proof")]
        out: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
struct Soak {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    options: SoakOptions,
}

/// The test target of a backend.
#[derive(Debug, Args)]
struct Target {
    /// The backend, as its test target calls it: sqlite, postgres, redis, etcd, zookeeper, or another one with its
    /// package.
    #[arg(long)]
    backend: String,
    /// On its cluster of three.
    #[arg(long)]
    cluster: bool,
    /// The package with the test target, if the backend is none of this workspace.
    #[arg(long)]
    package: Option<String>,
    /// The test target.
    #[arg(long, default_value = "conformance")]
    test: String,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        What::Run(run) => run.target.call("run", run.options.line()),
        What::Soak(soak) => soak.target.call("soak", soak.options.line()),
        What::Check { files } => check(&files),
        What::Picture { file, out } => draw(&file, out).unwrap_or_else(|error| {
            eprintln!("{}: {error}", file.display());
            ExitCode::from(2)
        }),
        What::Report { from, out } => report(&from, &out),
    }
}

fn report(from: &[PathBuf], out: &Path) -> ExitCode {
    match publish(from, out) {
        Ok(published) => {
            println!("{}: {} histories, {} bad", out.display(), published.histories, published.bad);
            if published.bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

impl Target {
    fn call(&self, what: &str, line: Vec<String>) -> ExitCode {
        self.try_call(what, line).unwrap_or_else(|error| {
            eprintln!("{error}");
            ExitCode::from(2)
        })
    }

    /// Builds the test target of the backend, which is the only one who knows the backend, and runs that.
    fn try_call(&self, what: &str, line: Vec<String>) -> Result<ExitCode, String> {
        let name = if self.cluster { format!("{}-of-three", self.backend) } else { self.backend.clone() };
        let target = self.build()?;
        let mut command = Command::new(target);
        if self.cluster {
            command.env("COORD_TEST_CLUSTERS", "1");
        }
        command.args([what, "--backend", &name]).args(line);
        let status = command.status().map_err(|error| format!("the test target does not start: {error}"))?;
        // Ended by a signal it has no code.
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::from(2), ExitCode::from))
    }

    /// The program that Cargo builds, as fast as this one is.
    fn build(&self) -> Result<PathBuf, String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        let package = self.package.as_deref().unwrap_or_else(|| package(&self.backend));
        command.args([
            "test",
            "--no-run",
            "--quiet",
            "--message-format=json",
            "-p",
            package,
            "--test",
            &self.test,
        ]);
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        let output = command.stderr(Stdio::inherit()).output().map_err(|error| format!("cargo: {error}"))?;
        let built =
            String::from_utf8_lossy(&output.stdout).lines().find_map(|line| executable(line, &self.test));
        built.filter(|_| output.status.success()).ok_or_else(|| {
            format!("the test target {} of {package} was not built; see --package and --test", self.test)
        })
    }
}

/// In which package of this workspace a backend is.
fn package(backend: &str) -> &str {
    match backend {
        "sqlite" | "postgres" => "coord-sql",
        "redis" | "redis-interop" => "coord-redis",
        "etcd" => "coord-etcd",
        "zookeeper" => "coord-zk",
        other => other,
    }
}

/// The program of a target, if this message of Cargo is about that.
fn executable(message: &str, target: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    (message["target"]["name"] == target).then_some(())?;
    Some(Path::new(message["executable"].as_str()?).to_owned())
}

fn draw(file: &Path, out: Option<PathBuf>) -> std::io::Result<ExitCode> {
    let judged = Judged::new(Recording::read(file)?);
    let out = out.unwrap_or_else(|| file.with_extension("html"));
    std::fs::write(&out, picture(&judged))?;
    println!("{}", out.display());
    Ok(ExitCode::SUCCESS)
}

fn check(files: &[PathBuf]) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for file in files {
        match Recording::read(file).map(Judged::new) {
            Ok(judged) => {
                println!("{}: {judged}", file.display());
                if !judged.passes() {
                    code = ExitCode::FAILURE;
                }
            }
            Err(error) => {
                eprintln!("{}: {error}", file.display());
                return ExitCode::from(2);
            }
        }
    }
    code
}
