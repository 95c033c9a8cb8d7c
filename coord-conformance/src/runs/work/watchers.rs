//! What somebody watches while others work.

use std::sync::{Mutex, PoisonError};

use tokio::task::JoinSet;

use super::{Work, values::follow};
use crate::{Client, watching};

/// The watches of one client, recorded. They end when this is dropped, or before.
#[derive(Debug, Default)]
pub(crate) struct Watchers(Mutex<JoinSet<()>>);

impl Watchers {
    /// Watches everything that changes in this work.
    pub(in crate::runs) fn add_all(&self, client: &Client, work: &Work) {
        let mut observing = watching::observe(client, &work.name("office"));
        let mut watching = watching::watch(client, &work.name("crew"));
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.spawn(async move { _ = observing.until(|_| false).await });
        tasks.spawn(async move { _ = watching.until(|_| false).await });
        if work.values {
            let mut following = follow(client, work);
            tasks.spawn(async move { _ = following.until(|_| false).await });
        }
    }

    /// Ends them all.
    pub(crate) fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = JoinSet::new();
    }
}
