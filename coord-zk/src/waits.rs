//! The watches of claims that wait: each on the one claim ahead whose leaving can make it eligible.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::task::AbortHandle;

use crate::{session::OneshotWatcher, wakeups::Hub};

/// The watches of one client, by the stems of the claims that wait.
#[derive(Debug, Default)]
pub(crate) struct Waits(Mutex<HashMap<String, Wait>>);

/// What a claim waits for.
#[derive(Debug)]
struct Wait {
    /// The node that must go; `None` if several things can end the wait.
    target: Option<String>,
    ahead: u32,
    fired: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Waits {
    fn waits(&self) -> MutexGuard<'_, HashMap<String, Wait>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hints the claim when the watch fires.
    pub(crate) fn set(
        &self,
        hub: &Arc<Hub>,
        stem: &str,
        target: Option<String>,
        ahead: u32,
        watcher: OneshotWatcher,
    ) {
        let fired = Arc::new(AtomicBool::new(false));
        let (flag, hub, name) = (Arc::clone(&fired), Arc::clone(hub), stem.to_owned());
        let task = tokio::spawn(async move {
            watcher.changed().await;
            flag.store(true, Ordering::Release);
            hub.hint_stem(&name);
        });
        let wait = Wait { target, ahead, fired, task: task.abort_handle() };
        self.waits().insert(stem.to_owned(), wait);
    }

    /// The node that a claim still waits for, and how many stood ahead when it was looked for. `None` if it has to look again.
    pub(crate) fn target(&self, stem: &str) -> Option<(String, u32)> {
        let waits = self.waits();
        let wait = waits.get(stem).filter(|wait| !wait.fired.load(Ordering::Acquire))?;
        Some((wait.target.clone()?, wait.ahead))
    }

    /// Whether the claim has waited, and what it waited for has come.
    pub(crate) fn has_fired(&self, stem: &str) -> bool {
        self.waits().get(stem).is_some_and(|wait| wait.fired.load(Ordering::Acquire))
    }

    /// It waits no more.
    pub(crate) fn end(&self, stem: &str) {
        self.waits().remove(stem);
    }

    /// Nobody waits any more.
    pub(crate) fn end_all(&self) {
        self.waits().clear();
    }
}
