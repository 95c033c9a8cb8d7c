//! How long nobody leads: after a leader was killed, and after one resigned.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use super::{fresh, within};
use crate::{Result, systems::System, time::monotonic};

/// How long anything may take beside the TTL.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a leader goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By `SIGKILL`.
    Kill,
    /// In order.
    Resign,
}

/// A candidate in a process of its own: the program [`contender`](crate::contender).
struct Candidate {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Candidate {
    async fn start(program: &[String], system: &System, name: &str, ttl: Duration) -> Result<Self> {
        let [program, arguments @ ..] = program else { return Err("no program".into()) };
        let ttl = ttl.as_secs_f64().to_string();
        let mut child = Command::new(program)
            .args(arguments)
            .args(["--system", system.name(), "--backend", system.backend().as_str()])
            .args(["--endpoint", system.url(), "--workload", "candidate", "--name", name, "--ttl", &ttl])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let mut candidate = Self { child, lines };
        candidate.says("WAITING", ttl_patience(Duration::ZERO)).await?;
        Ok(candidate)
    }

    /// When it said this.
    async fn says(&mut self, what: &str, patience: Duration) -> Result<i128> {
        let line = within(patience, what, async {
            self.lines.next_line().await?.ok_or_else(|| "a candidate has ended".into())
        });
        let line = line.await?;
        let moment = line.strip_prefix(what).ok_or_else(|| format!("a candidate says {line}"))?;
        Ok(moment.trim().parse()?)
    }
}

fn ttl_patience(ttl: Duration) -> Duration {
    ttl * 3 + PATIENCE
}

/// From the end of a leader to the next one, of `program`'s candidates in processes of their own.
///
/// # Errors
/// What the candidates say.
pub async fn failover(program: &[String], system: &System, ttl: Duration, end: End) -> Result<Duration> {
    let name = fresh("election");
    let mut leader = Candidate::start(program, system, &name, ttl).await?;
    leader.says("LEADER", ttl_patience(ttl)).await?;
    let mut next = Candidate::start(program, system, &name, ttl).await?;
    // It stands in the line, and a renewal of the leader's lies somewhere in between.
    tokio::time::sleep(Duration::from_millis(150) + ttl.mul_f64(fastrand::f64() / 3.0)).await;
    let gone = match end {
        End::Kill => {
            let moment = monotonic();
            leader.child.kill().await?;
            moment
        }
        End::Resign => {
            let mut input = leader.child.stdin.take().ok_or("no input")?;
            input.write_all(b"resign\n").await?;
            leader.says("RESIGN", ttl_patience(ttl)).await?
        }
    };
    let elected = next.says("LEADER", ttl_patience(ttl)).await?;
    next.child.kill().await?;
    if end == End::Resign {
        leader.child.wait().await?;
    }
    Ok(Duration::from_nanos(u64::try_from(elected - gone)?))
}
