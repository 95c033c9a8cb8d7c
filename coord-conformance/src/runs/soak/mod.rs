//! A soak: hours of work under mild faults, after each part of which everything has to be as small as before.
//!
//! A soak is made of rounds. In each one the same worker processes work, under other names than in the last one, while
//! faults strike; then everything comes to rest, is judged as any run is, and is cleared away. What is in use then is measured:
//! memory, file descriptors and tasks of the workers, and what the store and its servers keep. Nothing of it may grow with
//! the rounds.

mod course;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use coord_core::{FencedStore, Lock, LockOptions};
use serde::{Deserialize, Serialize};

pub use self::course::Course;
use super::{RunError, Settings, chosen, conduct, header, marks};
use crate::{
    Backend, Ctx, Failure, Unavailable, Verdict,
    history::{Given, Header, Recording},
    runs::{
        Judged,
        conduct::Folder,
        work::{KEYS, entries, named},
    },
    worker::{Answer, Command, Vitals},
    writing,
};

/// How long nothing happens before everything is measured: what was dropped has gone by then.
const REST: Duration = Duration::from_secs(4);
/// How many sets of names there are. Of a name that was used something may stay for days: its last token, which the next
/// has to exceed.
const NAMES: u64 = 16;
/// How often more it is asked how much the store keeps, if it does not tell.
const TRIES: u32 = 5;
/// How many times as long as in a run workers pause.
const PACE: u32 = 4;

/// What was in use when a round had ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs)]
pub struct Sample {
    /// The number of the round.
    pub round: u64,
    /// Seconds since the soak began.
    pub at: u64,
    /// Operations of the round: ok, failed, unknown.
    pub operations: [usize; 3],
    /// Faults of the round, by kind.
    pub faults: BTreeMap<String, usize>,
    /// What each worker uses that was there from the beginning.
    pub workers: Vec<Vitals>,
    /// What the store and its servers keep.
    pub kept: BTreeMap<String, u64>,
    /// What was not as it must be.
    pub violations: Vec<String>,
}

/// Soaks. `settings.duration` is how long in all; a round is `round` long, and its faults strike in the first third of it.
/// Each sample is told, with
/// the round as it was judged.
///
/// # Errors
/// If there is no soak, or nothing can be measured.
pub async fn soak(
    backend: &Arc<dyn Backend>,
    settings: &Settings,
    round: Duration,
    mut tell: impl FnMut(&Sample, &Judged),
) -> Result<Course, RunError> {
    let store = backend.open_for_faults().await.map_err(|error| match Unavailable::within(&error) {
        Some(unavailable) => RunError::Unavailable(unavailable.clone()),
        None => RunError::Store(error),
    })?;
    let ctx = Ctx::new(backend.clone(), store, "soak").await?;
    if ctx.url().is_none() {
        return Err(RunError::NoProcesses { backend: backend.name().into() });
    }
    let faults = chosen(backend.name(), &settings.faults, &marks(&ctx))?;
    let mut header = header(&ctx, settings, &faults);
    header.settings.insert("round".into(), humantime::format_duration(round).to_string());
    let folder = Folder::new().map_err(RunError::Failed)?;
    let mut field = conduct::Field::enter(&ctx, settings, &faults, &folder.0).await?;
    field.spared = settings.workers.saturating_sub(1).max(1);
    let (start, mut samples) = (ctx.now(), Vec::new());
    for number in 0.. {
        let begun = ctx.now();
        if begun.since(start) + round > settings.duration {
            break;
        }
        let part = Settings { duration: round / 3, seed: settings.seed + number, ..settings.clone() };
        field.begin(&part, format!("names-{}/", number % NAMES), PACE);
        field.work().await;
        field.run(&part, &faults).await;
        clear(&field).await?;
        let judged = Judged::new(Recording::new(round_header(&header, number), ctx.history().take()));
        tokio::time::sleep(REST.max(round.saturating_sub(ctx.now().since(begun)))).await;
        let sample = Sample {
            round: number,
            at: ctx.now().since(start).as_secs(),
            operations: judged.recording.outcomes(),
            faults: judged.recording.faults().into_iter().map(|(kind, times)| (kind.into(), times)).collect(),
            workers: vitals(&field).await?,
            kept: kept(&ctx).await?,
            violations: judged.violations.iter().map(ToString::to_string).collect(),
        };
        tell(&sample, &judged);
        samples.push(sample);
    }
    let _ = field.dismiss().await;
    let _ = ctx.finish().await;
    Ok(Course::new(header, samples))
}

fn round_header(header: &Header, number: u64) -> Header {
    let mut header = header.clone();
    header.settings.insert("round".into(), number.to_string());
    header
}

/// Removes all values of the round, and empties those that cannot be removed.
async fn clear(field: &conduct::Field) -> Verdict {
    let (client, prefix) = (&field.client, &field.work.prefix);
    for (key, ..) in entries(client, prefix).await? {
        writing::delete(client, &named(&key), Given::Anything).await?;
    }
    let options = LockOptions::default().with_ttl(field.ttl * 10);
    let guard = client.acquire(&field.work.name("till"), &options).await?;
    for (key, ..) in entries(client, KEYS).await? {
        client.fenced_write(&named(&key), b"[]".to_vec(), guard.token()).await?;
    }
    Ok(guard.release().await?)
}

/// Of the workers that are never killed.
async fn vitals(field: &conduct::Field) -> Verdict<Vec<Vitals>> {
    let answers = field.ask(&Command::Vitals).await?;
    let of = |answer| match answer {
        Answer::Vitals(vitals) => Ok(vitals),
        other => Err(Failure::new(format!("a worker cannot tell what it uses: {other:?}"))),
    };
    answers.into_iter().take(field.spared).map(of).collect()
}

async fn kept(ctx: &Ctx) -> Verdict<BTreeMap<String, u64>> {
    let mut kept = match ctx.servers() {
        Some(servers) => tokio::task::spawn_blocking(move || servers.kept()).await?,
        None => BTreeMap::new(),
    };
    let mut size = ctx.size().await;
    // On a busy machine a server may be slow to tell, which must not end hours of work.
    for _ in 0..TRIES {
        if size.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        size = ctx.size().await;
    }
    if let Some(size) = size? {
        kept.insert("store".into(), size);
    }
    Ok(kept)
}
