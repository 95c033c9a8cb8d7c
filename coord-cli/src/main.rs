//! The `coord` command: runs programs under a fenced lock, an election or a registration, on any store.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `cli` | the command line |
//! | `commands` | one file for each family of commands |
//! | `store` | opens the store that a URL names |
//! | `session` | an open store, from the first claim to the shutdown |
//! | `process`, `terminal`, `signals` | the child: its group, its terminal, its signals |
//! | `item` | the child of one item of a queue |
//! | `input` | what a command is given: an argument, a file, standard input |
//! | `output`, `status` | what is printed, and with which status coord exits |

mod cli;
mod commands;
mod input;
mod item;
mod output;
mod process;
mod session;
mod signals;
mod status;
mod store;
mod terminal;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::{cli::Cli, status::Failure};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.globals.json;
    status::finish(start(cli), json)
}

fn start(cli: Cli) -> Result<u8, Failure> {
    log(cli.globals.verbose)?;
    // The engine renews on a thread of its own, whatever the main thread does with the terminal.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let outcome = runtime.block_on(cli.command.run(&cli.globals));
    // A call to a store that hangs is not waited for.
    runtime.shutdown_background();
    outcome
}

fn log(verbose: u8) -> Result<(), Failure> {
    let set = ["COORD_LOG", "RUST_LOG"].into_iter().find_map(|key| Some((key, std::env::var(key).ok()?)));
    let filter = match set.filter(|_| verbose == 0) {
        Some((key, filter)) => EnvFilter::try_new(filter)
            .map_err(|error| Failure::usage(format!("{key} is no filter: {error}")))?,
        None => EnvFilter::new(match verbose {
            0 => "error",
            1 => "warn,coord=info,coord_core=info,coord_sql=info,coord_redis=info",
            2 => "warn,coord=debug,coord_core=debug,coord_sql=debug,coord_redis=debug",
            _ => "trace",
        }),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}
