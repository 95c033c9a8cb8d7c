//! The program `contender`: one workload on a server that runs already, for harnesses that compare programs of any language.
//!
//! It prints one JSON object a line, see [`Row`]. A failure is a line too, with `"n": 0` and its `error`. The
//! sizes are in the environment, see [`Sizes`].
//!
//! With `--workload candidate` it stands in an election until it leads, and leads until it is told to `resign` by a line on its
//! standard input. It prints what happens and when, on `CLOCK_MONOTONIC` in nanoseconds:
//!
//! | line | when |
//! | --- | --- |
//! | `WAITING t` | just before it stands |
//! | `LEADER t` | it leads |
//! | `RESIGN t` | just before it resigns |
//! | `RESIGNED t` | it has resigned; then it ends |
//! | `LOST t` | its leadership was lost; then it ends with status 1 |

use std::{io::Write as _, process::ExitCode, time::Duration};

use clap::Parser;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    Result,
    backend::Backend,
    row::Row,
    systems::{System, TTL},
    time::monotonic,
    workloads::{self, Sizes},
};

/// Measures one workload on a server that runs, and prints one JSON object a line.
#[derive(Debug, Parser)]
#[command(name = "contender")]
pub struct Arguments {
    /// Whose: coord, floor, rslock, redis-blmove, redis-streams, etcd-lock-rpc, zk-recipe
    #[arg(long, default_value = "coord")]
    system: String,
    /// redis, zk, etcd, pg, sqlite or memory; a suffix after a dash is repeated and means nothing
    #[arg(long)]
    backend: String,
    /// HOST:PORT or a URL; for sqlite a file
    #[arg(long, default_value = "")]
    endpoint: String,
    /// W1, W2, W2p, W3, W5, W6, W7 or candidate
    #[arg(long)]
    workload: String,
    /// In which election a candidate stands
    #[arg(long, default_value = "election")]
    name: String,
    /// How long a dead leader stays, in seconds
    #[arg(long, default_value_t = TTL.as_secs_f64())]
    ttl: f64,
}

/// Does what the arguments say.
pub async fn run(arguments: &Arguments) -> ExitCode {
    if arguments.workload == "candidate" {
        return match candidate(arguments).await {
            Ok(status) => status,
            Err(error) => {
                let Arguments { system, backend, workload, .. } = arguments;
                say_row(&Row::failed(system, backend, workload, &error));
                ExitCode::FAILURE
            }
        };
    }
    let mut failed = false;
    for row in measure(arguments).await {
        failed |= row.error.is_some();
        say_row(&row);
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn system(arguments: &Arguments) -> Result<System> {
    let backend: Backend = arguments.backend.parse()?;
    if arguments.endpoint.is_empty() && backend != Backend::Memory {
        return Err("--endpoint is missing".into());
    }
    System::new(&arguments.system, backend, backend.url(&arguments.endpoint))
}

async fn measure(arguments: &Arguments) -> Vec<Row> {
    let Arguments { system: name, backend, workload, .. } = arguments;
    match system(arguments).and_then(|system| Ok((system, Sizes::from_environment()?))) {
        Ok((system, sizes)) => workloads::run(workload, &system, backend, &sizes).await,
        Err(error) => {
            let names = workloads::results(workload).map(<[_]>::to_vec).unwrap_or(vec![workload.as_str()]);
            names.into_iter().map(|result| Row::failed(name, backend, result, &error)).collect()
        }
    }
}

async fn candidate(arguments: &Arguments) -> Result<ExitCode> {
    let ttl = Duration::try_from_secs_f64(arguments.ttl)?;
    let client = system(arguments)?.client_of(ttl).await?;
    let id = format!("candidate-{}", std::process::id());
    say("WAITING", monotonic());
    let leadership = client.campaign(&arguments.name, &id).await?;
    say("LEADER", monotonic());
    let told = async {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line.trim() == "resign" {
                return;
            }
        }
        // Nobody can tell it any more: it leads until it is killed.
        std::future::pending().await
    };
    tokio::select! {
        () = leadership.lost() => {
            say("LOST", monotonic());
            return Ok(ExitCode::FAILURE);
        }
        () = told => {}
    }
    say("RESIGN", monotonic());
    leadership.release().await?;
    say("RESIGNED", monotonic());
    client.close().await?;
    Ok(ExitCode::SUCCESS)
}

fn say(what: &str, moment: i128) {
    line(&format!("{what} {moment}"));
}

fn say_row(row: &Row) {
    line(&serde_json::to_string(row).unwrap_or_else(|error| format!("{{\"n\": 0, \"error\": \"{error}\"}}")));
}

/// Whoever reads it is told at once; if nobody does any more, there is nobody to tell.
fn line(text: &str) {
    let mut output = std::io::stdout().lock();
    let _ = writeln!(output, "{text}").and_then(|()| output.flush());
}
