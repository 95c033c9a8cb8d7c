//! Runs: worker processes at work on everything at once, while faults strike; their histories, stored and judged.
//!
//! A run is a history of some seconds. Its file ([`Recording`]) tells the seed, the settings and the versions, and then
//! every event; whoever has it can judge it anew, and draw it. [`docs/faults.md`][docs] tells how to run, what the checkers
//! demand and how to read a picture.
//!
//! The test target of a backend, which calls [`main`](crate::main()) or [`main_of_all`](crate::main_of_all), runs them too:
//! `cargo test -p <crate> --test conformance -- run --faults all --for 15s`. The program `coord-conformance` builds that
//! target and calls it so.
//!
//! [docs]: https://github.com/coord-rs/coord/blob/main/docs/faults.md

pub mod command;
mod conduct;
mod ending;
mod faults;
mod judged;
mod picture;
mod schedule;
pub mod soak;
mod wire;
mod work;

use std::{fmt, sync::Arc, time::Duration};

use coord_core::{ClockAssumption, Error};

use self::faults::Marks;
pub(crate) use self::work::{Watchers, work};
pub use self::{
    faults::{Fault, Wanted},
    judged::{DECLARED, Judged},
    picture::picture,
    work::Work,
};
use crate::{
    Backend, Ctx, Failure, Unavailable,
    history::{Header, Recording},
};

/// How to run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Which faults strike.
    pub faults: Vec<Wanted>,
    /// How long they do.
    pub duration: Duration,
    /// Decides which fault strikes when, and what workers choose.
    pub seed: u64,
    /// How many worker processes there are.
    pub workers: usize,
    /// The TTL of all leases; the backend's least if that is longer. `None` for a second.
    pub ttl: Option<Duration>,
    /// Nothing checks tokens: a control, in which updates have to be lost.
    pub unfenced: bool,
}

impl Settings {
    /// Four workers, for twelve seconds.
    #[must_use]
    pub fn new(faults: Vec<Wanted>, seed: u64) -> Self {
        let duration = Duration::from_secs(12);
        Self { faults, duration, seed, workers: 4, ttl: None, unfenced: false }
    }
}

/// Why there is no history.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError {
    /// The backend's stores are not shared between processes.
    NoProcesses {
        /// The backend.
        backend: String,
    },
    /// The backend cannot have this fault.
    NoSuchFault {
        /// The backend.
        backend: String,
        /// The fault.
        fault: Fault,
        /// Those that it can have.
        has: Vec<Fault>,
    },
    /// There is no server.
    Unavailable(Unavailable),
    /// The store could not be opened.
    Store(Error),
    /// The run itself failed.
    Failed(Failure),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoProcesses { backend } => {
                write!(
                    f,
                    "the stores of {backend} are not shared between processes, so there is nobody to strike"
                )
            }
            Self::NoSuchFault { backend, fault, has } => {
                let has: Vec<_> = has.iter().map(|fault| fault.name()).collect();
                write!(f, "{fault} cannot strike on {backend}; there are {}", has.join(", "))
            }
            Self::Unavailable(unavailable) => unavailable.fmt(f),
            Self::Store(error) => write!(f, "the store was not opened: {error}"),
            Self::Failed(failure) => write!(f, "the run failed: {failure}"),
        }
    }
}

impl std::error::Error for RunError {}

impl From<Failure> for RunError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// One history.
///
/// # Errors
/// If there is none. What goes wrong under faults is no error: it is in the history, for the checkers to judge.
pub async fn history(backend: &Arc<dyn Backend>, settings: &Settings) -> Result<Recording, RunError> {
    let store = backend.open_for_faults().await.map_err(|error| match Unavailable::within(&error) {
        Some(unavailable) => RunError::Unavailable(unavailable.clone()),
        None => RunError::Store(error),
    })?;
    let ctx = Ctx::new(backend.clone(), store, "run").await?;
    if ctx.url().is_none() {
        return Err(RunError::NoProcesses { backend: backend.name().into() });
    }
    let faults = chosen(backend.name(), &settings.faults, &marks(&ctx))?;
    let header = header(&ctx, settings, &faults);
    let events = conduct::conduct(&ctx, settings, &faults).await?;
    // The store goes away with its servers; who is in its way is not to keep the history from being judged.
    let _ = ctx.finish().await;
    Ok(Recording::new(header, events))
}

/// In a runtime of its own: nothing of it is left for the next.
pub(crate) fn within_runtime<T>(work: impl Future<Output = Result<T, RunError>>) -> Result<T, RunError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| RunError::Failed(Failure::new(error.to_string())))?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(5));
    result
}

fn marks(ctx: &Ctx) -> Marks {
    let servers = ctx.servers();
    Marks {
        servers: servers.as_ref().map_or(0, |servers| servers.names().len()),
        requests: servers.is_some() && ctx.url().is_some_and(|url| wire::protocol(&url).is_some()),
        partitions: servers.as_ref().is_some_and(|servers| servers.can_be_apart()),
        clocks: servers.is_some_and(|servers| servers.have_clocks()),
        fragile: ctx.guarantees().clock == ClockAssumption::NoSteps,
    }
}

fn chosen(backend: &str, wanted: &[Wanted], marks: &Marks) -> Result<Vec<Fault>, RunError> {
    let mut faults = Vec::new();
    for wanted in wanted {
        let of = wanted.faults(marks).map_err(|fault| RunError::NoSuchFault {
            backend: backend.into(),
            fault,
            has: Fault::ALL.into_iter().filter(|fault| fault.has_a_mark(marks)).collect(),
        })?;
        faults.extend(of);
    }
    faults.sort_unstable();
    faults.dedup();
    Ok(faults)
}

fn header(ctx: &Ctx, settings: &Settings, faults: &[Fault]) -> Header {
    let mut header = Header::new(ctx.backend().name(), settings.seed);
    let names: Vec<_> = faults.iter().map(|fault| fault.name()).collect();
    let ttl = settings.ttl.unwrap_or(Duration::from_secs(1)).max(ctx.guarantees().min_ttl);
    let mut set = |name: &str, value: String| _ = header.settings.insert(name.into(), value);
    set("faults", names.join(","));
    set("for", humantime::format_duration(settings.duration).to_string());
    set("ttl", humantime::format_duration(ttl).to_string());
    set("workers", settings.workers.to_string());
    let (steps, early) = (ctx.guarantees().clock == ClockAssumption::NoSteps, ctx.early_under());
    if faults.iter().any(|fault| steps && fault.is_of_clocks() || early.contains(fault)) {
        set(DECLARED, judged::EARLY.into());
    }
    if settings.unfenced {
        set(judged::CONTROL, "unfenced".into());
    }
    let mut version = |name: &str, value: String| _ = header.versions.insert(name.into(), value);
    version("coord", env!("CARGO_PKG_VERSION").into());
    version("build", if cfg!(debug_assertions) { "debug" } else { "release" }.into());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    version("system", format!("{} {} {}", std::env::consts::OS, std::env::consts::ARCH, kernel.trim()));
    if let Some(server) = ctx.servers().and_then(|servers| servers.version()) {
        version("server", server);
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_refused_with_what_can() {
        let all: Vec<_> = Fault::ALL.iter().map(|fault| fault.name().parse().unwrap()).collect();
        let three = Marks { servers: 3, requests: true, partitions: true, clocks: true, ..Marks::default() };
        assert_eq!(chosen("three", &all, &three).unwrap(), Fault::ALL);
        let (embedded, one) = (Marks::default(), Marks { servers: 1, ..Marks::default() });
        let refused =
            chosen("embedded", &[Wanted::One(Fault::ServerKill)], &embedded).unwrap_err().to_string();
        assert!(
            refused.starts_with("server-kill cannot strike on embedded; there are kill, stop,"),
            "{refused}"
        );
        assert!(!refused.ends_with("server-stop"), "{refused}");
        for wanted in [Wanted::Servers, Wanted::Wires, Wanted::Clocks] {
            chosen("embedded", &[wanted], &embedded).unwrap_err();
        }
        for fault in [Fault::LeaderStop, Fault::Partition, Fault::WireLose, Fault::ClockBack] {
            chosen("one", &[Wanted::One(fault)], &one).unwrap_err();
        }
        assert_eq!(chosen("embedded", &[Wanted::None, Wanted::All], &embedded).unwrap().len(), 7);
        // Who cannot part servers cuts clients off from one.
        let here = Marks { partitions: false, ..three };
        let of = |marks| chosen("three", &[Wanted::Servers], marks).unwrap();
        assert!(of(&here).contains(&Fault::WireApart) && !of(&here).contains(&Fault::Partition));
        assert!(of(&three).contains(&Fault::Partition) && !of(&three).contains(&Fault::WireApart));
        // What a backend says that it does not stand comes by its name alone.
        let fragile = Marks { fragile: true, ..three };
        assert!(!chosen("fragile", &[Wanted::All], &fragile).unwrap().contains(&Fault::ClockBack));
        assert_eq!(chosen("fragile", &[Wanted::Clocks], &fragile).unwrap().len(), 3);
        assert!("nothing".parse::<Wanted>().unwrap_err().contains("lose-replies"));
    }
}
