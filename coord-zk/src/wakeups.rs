//! Hints within this process: who waits for what, and how an event of the server reaches them.
//!
//! All watches are one-shot ones, which the driver restores when it reconnects. A watch is set again before those who listen
//! are told that it fired, so that a change in between is seen by them or fires the new one.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use coord_core::spi::{Wakeup, Wakeups};
use futures_util::stream;
use tokio::sync::{Notify, mpsc};
use zookeeper_client as zk;

use crate::{
    client::Shared,
    error::{Asks, Failure},
    session::OneshotWatcher,
};

/// What about a node is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Watch {
    /// Its children come and go; it comes or goes.
    Children,
    /// It comes, goes or gets other data.
    Node,
    /// All of this.
    Both,
}

/// What a hint is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Topic {
    /// An own claim, by the stem of its node.
    Stem(String),
    /// A node of the tree.
    Node(String, Watch),
}

/// How long a watch stays when nobody listens any more.
const LINGER: Duration = Duration::from_secs(5);

/// The subscriptions of one client.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    subscriptions: Mutex<Subscriptions>,
}

#[derive(Debug, Default)]
struct Subscriptions {
    next: u64,
    listeners: HashMap<Topic, Vec<Listener>>,
    /// The nodes that are followed, and how to tell their followers that somebody came or went.
    followed: HashMap<Topic, Arc<Notify>>,
}

#[derive(Debug)]
struct Listener {
    number: u64,
    // One place: hints that were not taken yet are one hint.
    sender: mpsc::Sender<()>,
}

impl Hub {
    fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hints about an own claim, from now on.
    pub(crate) fn stem(self: &Arc<Self>, stem: String) -> Wakeups {
        let (mut receiver, subscription) = self.enter(Topic::Stem(stem));
        Wakeups::new(stream::poll_fn(move |context| {
            // Held by the stream, so that dropping it ends the subscription.
            let _held = &subscription;
            receiver.poll_recv(context).map(|hint| hint.map(|()| Wakeup::LookAgain))
        }))
    }

    fn enter(self: &Arc<Self>, topic: Topic) -> (mpsc::Receiver<()>, Subscription) {
        let (sender, receiver) = mpsc::channel(1);
        let mut subscriptions = self.subscriptions();
        let number = subscriptions.next;
        subscriptions.next += 1;
        subscriptions.listeners.entry(topic.clone()).or_default().push(Listener { number, sender });
        drop(subscriptions);
        (receiver, Subscription { hub: Arc::clone(self), topic, number })
    }

    /// Passes on a hint about an own claim.
    pub(crate) fn hint_stem(&self, stem: &str) {
        self.hint(&Topic::Stem(stem.to_owned()));
    }

    fn hint(&self, topic: &Topic) {
        let subscriptions = self.subscriptions();
        for listener in subscriptions.listeners.get(topic).into_iter().flatten() {
            let _ = listener.sender.try_send(());
        }
    }

    fn is_wanted(&self, topic: &Topic) -> bool {
        self.subscriptions().listeners.contains_key(topic)
    }

    /// Nobody wants it: it is not followed any more. False if somebody came meanwhile.
    fn unfollow(&self, topic: &Topic) -> bool {
        let mut subscriptions = self.subscriptions();
        let unwanted = !subscriptions.listeners.contains_key(topic);
        if unwanted {
            subscriptions.followed.remove(topic);
        }
        unwanted
    }
}

/// Hints about a node. The server is asked to tell of changes when the hints are first waited for; then there is a first hint,
/// for what changed before.
pub(crate) fn watch(shared: &Arc<Shared>, path: &str, watch: Watch) -> Wakeups {
    let topic = Topic::Node(path.to_owned(), watch);
    let (mut receiver, subscription) = shared.hub.enter(topic);
    let client = Arc::downgrade(shared);
    let mut followed = false;
    Wakeups::new(stream::poll_fn(move |context| {
        if !std::mem::replace(&mut followed, true) {
            subscription.follow(&client);
        }
        receiver.poll_recv(context).map(|hint| hint.map(|()| Wakeup::LookAgain))
    }))
}

struct Subscription {
    hub: Arc<Hub>,
    topic: Topic,
    number: u64,
}

impl Subscription {
    fn follow(&self, client: &Weak<Shared>) {
        let Topic::Node(path, watch) = &self.topic else { return };
        let mut subscriptions = self.hub.subscriptions();
        if subscriptions.followed.contains_key(&self.topic) {
            return;
        }
        let changed = Arc::new(Notify::new());
        subscriptions.followed.insert(self.topic.clone(), Arc::clone(&changed));
        drop(subscriptions);
        let follower = Follower {
            client: Weak::clone(client),
            hub: Arc::clone(&self.hub),
            topic: self.topic.clone(),
            path: path.clone(),
            watch: *watch,
            changed,
            children: None,
            node: None,
        };
        tokio::spawn(follower.run());
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut subscriptions = self.hub.subscriptions();
        let Some(listeners) = subscriptions.listeners.get_mut(&self.topic) else { return };
        listeners.retain(|listener| listener.number != self.number);
        if listeners.is_empty() {
            subscriptions.listeners.remove(&self.topic);
            if let Some(changed) = subscriptions.followed.get(&self.topic) {
                changed.notify_one();
            }
        }
    }
}

type Fired = Pin<Box<dyn Future<Output = zk::WatchedEvent> + Send>>;

/// Watches a node for as long as somebody listens.
struct Follower {
    client: Weak<Shared>,
    hub: Arc<Hub>,
    topic: Topic,
    path: String,
    watch: Watch,
    changed: Arc<Notify>,
    children: Option<Fired>,
    node: Option<Fired>,
}

impl Follower {
    async fn run(mut self) {
        let mut pause = Duration::from_millis(50);
        loop {
            let Some(client) = self.client.upgrade() else { return };
            let armed = client.within(Asks::Reading, self.arm(&client)).await;
            drop(client);
            match armed {
                Ok(()) => {
                    pause = Duration::from_millis(50);
                    self.hub.hint(&self.topic);
                    if !self.until_fired().await {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, path = self.path, "a node is not watched now");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                    if !self.hub.is_wanted(&self.topic) && self.hub.unfollow(&self.topic) {
                        return;
                    }
                }
            }
        }
    }

    /// Sets what fired, or was never set.
    async fn arm(&mut self, client: &Arc<Shared>) -> Result<(), Failure> {
        let session = client.main().await?;
        // The node may come and go between the two looks.
        for _ in 0..8 {
            let wants_node = self.node.is_none() && self.watch != Watch::Children;
            let node = wants_node.then(|| session.exists_and_watch(&self.path));
            let wants_children = self.children.is_none() && self.watch != Watch::Node;
            let children = wants_children.then(|| session.list_and_watch(&self.path));
            if let Some(node) = node {
                self.node = Some(fired(node.await?.1));
            }
            let Some(children) = children else { return Ok(()) };
            match children.await {
                Ok((_, _, watcher)) => {
                    self.children = Some(fired(watcher));
                    return Ok(());
                }
                Err(Failure::NoNode) => {}
                Err(failure) => return Err(failure),
            }
            // It fires when the node comes.
            let (stat, watcher) = session.exists_and_watch(&self.path).await?;
            if stat.is_none() {
                self.children = Some(fired(watcher));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits until something fires. False if nobody has listened for a while.
    async fn until_fired(&mut self) -> bool {
        loop {
            let wanted = self.hub.is_wanted(&self.topic);
            tokio::select! {
                _ = next(&mut self.children) => {
                    self.children = None;
                    return true;
                }
                _ = next(&mut self.node) => {
                    self.node = None;
                    return true;
                }
                () = self.changed.notified() => {}
                () = tokio::time::sleep(LINGER), if !wanted => {
                    if self.hub.unfollow(&self.topic) {
                        return false;
                    }
                }
            }
        }
    }
}

fn fired(watcher: OneshotWatcher) -> Fired {
    Box::pin(watcher.changed())
}

async fn next(fired: &mut Option<Fired>) -> zk::WatchedEvent {
    match fired {
        Some(fired) => fired.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn hints_reach_those_who_wait_and_nobody_else() {
        let hub = Arc::new(Hub::default());
        let (mut first, mut second) = (hub.stem("/a/1".into()), hub.stem("/a/1".into()));
        let mut stranger = hub.stem("/a/2".into());
        hub.hint_stem("/a/1");
        hub.hint_stem("/a/1");
        assert!(first.next().now_or_never().is_some());
        assert!(first.next().now_or_never().is_none(), "hints that were not taken are one");
        assert!(second.next().now_or_never().is_some());
        assert!(stranger.next().now_or_never().is_none());
        drop((first, second, stranger));
        assert!(hub.subscriptions().listeners.is_empty());
    }
}
