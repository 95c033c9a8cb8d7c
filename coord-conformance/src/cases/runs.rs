//! Short runs with faults, on servers of their own: the short tier of what [`runs`](crate::runs) do for long.

use std::time::Duration;

use super::cases;
use crate::{
    Ctx, Failure, Verdict,
    checkers::fenced,
    ensure,
    history::Op,
    runs::{self, Fault, Judged, RunError, Settings, Wanted},
};

cases! { "runs":
    struck_processes_and_links_break_nothing [Processes, Turn],
    struck_connections_break_nothing [Processes, Turn],
    struck_servers_break_nothing [Processes, Turn],
    stepped_clocks_break_nothing_but_what_is_declared [Processes, Turn],
    without_tokens_updates_are_lost [Processes, Turn],
}

/// How long faults strike.
const SHORT: Duration = Duration::from_secs(6);

async fn judged(ctx: &Ctx, settings: &Settings) -> Verdict<Judged> {
    let (backend, settings) = (ctx.backend().clone(), settings.clone());
    let run = move || runs::within_runtime(runs::history(&backend, &settings));
    match tokio::task::spawn_blocking(run).await? {
        Ok(recording) => Ok(Judged::new(recording)),
        Err(RunError::NoSuchFault { fault, .. }) => {
            Err(Failure::ignored(format!("{fault} cannot strike this backend here")))
        }
        Err(RunError::Unavailable(unavailable)) if !unavailable.fails() => {
            Err(Failure::ignored(unavailable.reason()))
        }
        Err(error) => Err(Failure::new(error.to_string())),
    }
}

/// The history, which is as it must be; else it is kept.
async fn good(ctx: &Ctx, settings: &Settings) -> Verdict<Judged> {
    let judged = judged(ctx, settings).await?;
    if judged.passes() {
        let recording = &judged.recording;
        // Each part of the work was done, and came to rest.
        let done = |wanted: fn(&Op) -> bool| recording.events.iter().any(|event| wanted(&event.op));
        ensure!(recording.outcomes()[0] > 50, "next to nothing was done: {judged}");
        ensure!(done(|op| matches!(op, Op::Accepted { write: Some(_), .. })), "nothing was counted");
        ensure!(done(|op| matches!(op, Op::Members { settled: true, .. })), "no registry came to rest");
        ensure!(done(|op| matches!(op, Op::Leader { settled: true, .. })), "no election came to rest");
        ensure!(!ctx.has_jobs() || done(|op| matches!(op, Op::Drained)), "no queue was emptied");
        ensure!(!ctx.has_values() || done(|op| matches!(op, Op::Entries { .. })), "no values came to rest");
        return Ok(judged);
    }
    let file = std::env::temp_dir().join(format!("coord-run-{}-{}.jsonl", ctx.backend().name(), ctx.case()));
    let kept = match judged.recording.write(&file) {
        Ok(()) => format!("; the history is kept in {}", file.display()),
        Err(_) => String::new(),
    };
    let text = format!("{judged}{kept}");
    Err(match judged.violations.first() {
        Some(violation) => Failure::by(violation.checker, text),
        None => Failure::new(text),
    })
}

async fn struck_by(ctx: &Ctx, faults: &[Wanted], seed: u64) -> Verdict {
    let settings = Settings { duration: SHORT, ..Settings::new(faults.to_vec(), seed) };
    let judged = good(ctx, &settings).await?;
    ensure!(!judged.recording.faults().is_empty(), "nothing struck");
    Ok(())
}

/// Workers are killed and stopped, and messages between them and the store are lost.
async fn struck_processes_and_links_break_nothing(ctx: Ctx) -> Verdict {
    struck_by(&ctx, &[Wanted::Workers, Wanted::Links], 7).await
}

/// Connections are reset, refused, frozen, swallowed and slowed down, and replies are lost on them.
async fn struck_connections_break_nothing(ctx: Ctx) -> Verdict {
    struck_by(&ctx, &[Wanted::Wires], 7).await
}

/// Servers are killed and stopped; of a cluster the leader too, and one is cut off from the others.
async fn struck_servers_break_nothing(ctx: Ctx) -> Verdict {
    struck_by(&ctx, &[Wanted::Servers], 7).await
}

/// Where leases end by a wall clock, two may hold at once while it is stepped. Tokens and what they protect stay as they are.
async fn stepped_clocks_break_nothing_but_what_is_declared(ctx: Ctx) -> Verdict {
    struck_by(&ctx, &[Wanted::Clocks], 7).await
}

/// The control: holders are stopped, nothing checks their tokens, and they overwrite what others wrote meanwhile. On a busy
/// machine a history may have none of these.
async fn without_tokens_updates_are_lost(ctx: Ctx) -> Verdict {
    for seed in 7..10 {
        let stop = vec![Wanted::One(Fault::Stop)];
        let settings = Settings { duration: SHORT * 3 / 2, unfenced: true, ..Settings::new(stop, seed) };
        let judged = judged(&ctx, &settings).await?;
        if judged.violations.iter().any(|violation| violation.checker == fenced::NAME) {
            return Ok(());
        }
    }
    Err(Failure::new("no update was lost in three histories"))
}
