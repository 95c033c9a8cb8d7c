//! One workload on a server that runs; see `coord_benches::contender`.

use std::process::ExitCode;

use clap::Parser as _;
use coord_benches::contender;

#[tokio::main]
async fn main() -> ExitCode {
    let status = contender::run(&contender::Arguments::parse()).await;
    // A reading of the standard input may be under way, for which the runtime would wait.
    std::process::exit(i32::from(status != ExitCode::SUCCESS))
}
