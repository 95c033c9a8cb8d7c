//! An open store, from the first claim to the shutdown.

use std::time::Duration;

use coord_core::{Coordinator, Result};
use tracing::debug;

use crate::{
    cli::Globals,
    signals::Signals,
    status::{self, Failure},
    store::{self, Backend},
};

/// How long a release and the shutdown may take. What a silent store keeps longer ends with its lease.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens the store, works with it, and shuts it down whatever came out. Until it is open no signal is caught: nothing is
/// held that would have to be released.
pub(crate) async fn with_store(
    globals: &Globals,
    work: impl AsyncFnOnce(Coordinator) -> Result<u8, Failure>,
) -> Result<u8, Failure> {
    with_backend(globals, async |_, coordinator| work(coordinator).await).await
}

/// As [`with_store`], for what only the backend itself can tell.
pub(crate) async fn with_backend(
    globals: &Globals,
    work: impl AsyncFnOnce(&dyn Backend, Coordinator) -> Result<u8, Failure>,
) -> Result<u8, Failure> {
    let (backend, coordinator) = store::open(globals).await?;
    let outcome = work(&*backend, coordinator.clone()).await;
    match tokio::time::timeout(PATIENCE, coordinator.shutdown()).await {
        Ok(Ok(())) => debug!("the store is closed"),
        Ok(Err(error)) => warn(&format!("the store was not closed in order: {}", status::describe(&error))),
        Err(_) => warn(&format!(
            "the store did not close in {PATIENCE:?}; what was not released ends with its lease"
        )),
    }
    outcome
}

/// Waits for `work` unless coord is told to stop first: then `work` is dropped, which leaves the line.
pub(crate) async fn unless_told_to_stop<T>(
    signals: &mut Signals,
    work: impl Future<Output = Result<T, impl Into<Failure>>>,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        outcome = work => outcome.map_err(Into::into),
        caught = signals.told_to_stop() => Err(Failure::silent(status::of_signal(caught as i32))),
    }
}

/// Waits for a release. That it failed changes nothing for the command that has ended: it is a warning only.
pub(crate) async fn released(what: &str, release: impl Future<Output = Result<()>>) {
    match tokio::time::timeout(PATIENCE, release).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) if error.is_lost() => warn(&format!("{what} was lost before it was released")),
        Ok(Err(error)) => {
            warn(&format!("{what} was not released and ends with its lease: {}", status::describe(&error)));
        }
        Err(_) => warn(&format!("{what} was not released in {PATIENCE:?} and ends with its lease")),
    }
}

/// A warning that is shown whatever the log filter says.
pub(crate) fn warn(text: &str) {
    status::say(&format!("coord: warning: {text}"));
}
