//! Values that everybody reads, writes and watches.

use std::time::Duration;

use coord_core::{ConfigEvent, ConfigStore, Entry, Result};
use fastrand::Rng;

use super::{Hands, Work, shrug};
use crate::{
    Client, Failure, Verdict,
    history::{Given, Op, Report},
    watching::Watching,
    writing,
};

/// How long the same keys are in use: the search for an order of all that was seen of one key must not take for ever.
const STRETCH: Duration = Duration::from_secs(3);
/// How many of them there are.
const KEYS: u64 = 3;

impl Hands {
    pub(super) async fn configure(self, mut rng: Rng) -> Result<()> {
        let client = &self.client;
        while self.goes_on() {
            self.pause(&mut rng, 0..80).await;
            let key = self.work.name(&format!("config/{}-{}", self.stretch(STRETCH), rng.u64(..KEYS)));
            let found = match rng.u8(..10) {
                // A blind write.
                0 | 1 => None,
                choice => match shrug(writing::read(client, &key).await).await? {
                    Some(found) if choice < 7 => {
                        Some(found.map_or(Given::Absent, |entry| Given::Version(entry.version)))
                    }
                    _ => continue,
                },
            };
            let given = found.unwrap_or(Given::Anything);
            if rng.u8(..8) == 0 {
                shrug(writing::delete(client, &key, given).await).await?;
            } else {
                let value = format!("{} {}", client.owner(), client.recorder().number());
                shrug(writing::put(client, &key, value, given).await).await?;
            }
        }
        Ok(())
    }
}

fn listed(entries: &[Entry]) -> Vec<(String, String, u64)> {
    entries.iter().map(one).collect()
}

fn one(entry: &Entry) -> (String, String, u64) {
    let value = String::from_utf8_lossy(&entry.value).into_owned();
    (entry.key.as_str().into(), value, entry.version)
}

/// Watches all of them, recorded.
pub(super) fn follow(client: &Client, work: &Work) -> Watching<ConfigEvent> {
    let op = |watcher, event: &ConfigEvent| {
        let report = match event {
            ConfigEvent::Snapshot(entries) => Report::Snapshot(listed(entries)),
            ConfigEvent::Resync(entries) => Report::Resync(listed(entries)),
            ConfigEvent::Put(entry) => {
                let (key, value, version) = one(entry);
                Report::Put(key, value, version)
            }
            ConfigEvent::Deleted { key, version } => Report::Deleted(key.as_str().into(), *version),
            other => unreachable!("a report that the suite does not know: {other:?}"),
        };
        Op::Followed { watcher, report }
    };
    Watching::new(client, work.config(), client.watch_prefix(&work.config()), op)
}

/// All of them, with keys, values and versions.
pub(in crate::runs) async fn entries(client: &Client, prefix: &str) -> Verdict<Vec<(String, String, u64)>> {
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let after = all.last().map(|entry| entry.key.clone());
        let page = client.list(prefix, after.as_ref(), 100).await?;
        let more = page.more;
        if more && page.entries.is_empty() {
            return Err(Failure::new("a page is empty, and there is more"));
        }
        all.extend(page.entries);
        if !more {
            return Ok(listed(&all));
        }
    }
}
