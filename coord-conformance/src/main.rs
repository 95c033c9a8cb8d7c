//! Runs with faults, and what their histories say: `cargo run -p coord-conformance -- --help`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use coord_conformance::{history::Recording, runs::Judged};

/// Judges and draws the histories of runs with faults.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Judges stored histories anew. The exit code is 1 if one is not as it must be, and 2 if one cannot be read.
    Check {
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check { files } => check(&files),
    }
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
