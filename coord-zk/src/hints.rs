//! Hints by a watch of all that is below a node.
//!
//! The watch is one of the server's recursive ones (ZooKeeper 3.6 and newer): it tells the path of every node that is made,
//! changed or removed there, so that only what matters wakes somebody. The driver does not make such a watch anew when it
//! connects again, so that is done here, with a hint after it for what was missed.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use coord_core::spi::{Wakeup, Wakeups};
use futures_util::stream;
use zookeeper_client::{EventType, PersistentWatcher, SessionState, WatchedEvent};

use crate::client::Shared;

/// How long to wait before a watch is tried again that could not be made.
const RETRY: Duration = Duration::from_secs(1);

/// Hints that something happened below a node that is wanted. The first one comes when the watch is there.
pub(crate) fn below(
    shared: &Arc<Shared>,
    path: String,
    wanted: impl Fn(EventType, &str) -> bool + Send + 'static,
) -> Wakeups {
    // Whoever waits for hints does not keep the client's sessions.
    let start = (Arc::downgrade(shared), path, wanted, None::<PersistentWatcher>);
    Wakeups::new(stream::unfold(start, async |(shared, path, wanted, mut watching)| {
        loop {
            match &mut watching {
                None => match watch(&shared, &path).await {
                    Some(watcher) => {
                        watching = Some(watcher);
                        break;
                    }
                    None => tokio::time::sleep(RETRY).await,
                },
                Some(watcher) => {
                    let event = watcher.changed().await;
                    if needs_another(&event) {
                        watching = None;
                    } else if event.event_type != EventType::Session && wanted(event.event_type, &event.path)
                    {
                        break;
                    }
                }
            }
        }
        Some((Wakeup::LookAgain, (shared, path, wanted, watching)))
    }))
}

async fn watch(shared: &Weak<Shared>, path: &str) -> Option<PersistentWatcher> {
    let session = shared.upgrade()?.main().await.ok()?;
    session.watch_below(path).await.ok()
}

/// Whether the watch does not watch any more.
fn needs_another(event: &WatchedEvent) -> bool {
    event.event_type == EventType::Session && event.session_state != SessionState::Disconnected
}
