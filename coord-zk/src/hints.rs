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
use tokio::sync::mpsc;
use zookeeper_client::{EventType, PersistentWatcher, SessionState, WatchedEvent};

use crate::client::Shared;

/// How long to wait before a watch is tried again that could not be made.
const RETRY: Duration = Duration::from_secs(1);

/// Hints that something happened below a node that is wanted. The first one comes when the watch is there, which is set when the
/// hints are first waited for.
pub(crate) fn below(
    shared: &Arc<Shared>,
    path: String,
    wanted: impl Fn(EventType, &str) -> bool + Send + 'static,
) -> Wakeups {
    // One place: hints that were not taken yet are one hint.
    let (sender, mut receiver) = mpsc::channel(1);
    // Whoever waits for hints does not keep the client's sessions.
    let mut follower = Some(follow(Arc::downgrade(shared), path, wanted, sender));
    Wakeups::new(stream::poll_fn(move |context| {
        if let Some(follower) = follower.take() {
            tokio::spawn(follower);
        }
        receiver.poll_recv(context).map(|hint| hint.map(|()| Wakeup::LookAgain))
    }))
}

/// Watches for as long as somebody has the hints. It is a task of its own because the driver keeps every event until it is read:
/// they would pile up behind hints that nobody waits for.
async fn follow(
    shared: Weak<Shared>,
    path: String,
    wanted: impl Fn(EventType, &str) -> bool,
    hints: mpsc::Sender<()>,
) {
    let (mut watching, news) = (None::<PersistentWatcher>, hints.clone());
    let following = async move {
        loop {
            let Some(watcher) = &mut watching else {
                match watch(&shared, &path).await {
                    Some(watcher) => {
                        watching = Some(watcher);
                        let _ = news.try_send(());
                    }
                    None => tokio::time::sleep(RETRY).await,
                }
                continue;
            };
            let event = watcher.changed().await;
            if needs_another(&event) {
                watching = None;
            } else if event.event_type != EventType::Session && wanted(event.event_type, &event.path) {
                let _ = news.try_send(());
            }
        }
    };
    tokio::select! {
        () = following => {}
        () = hints.closed() => {}
    }
}

async fn watch(shared: &Weak<Shared>, path: &str) -> Option<PersistentWatcher> {
    let session = shared.upgrade()?.main().await.ok()?;
    session.watch_below(path).await.ok()
}

/// Whether the watch does not watch any more.
fn needs_another(event: &WatchedEvent) -> bool {
    event.event_type == EventType::Session && event.session_state != SessionState::Disconnected
}
