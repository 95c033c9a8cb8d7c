//! Hints within this process: who waits for what, and how a hint reaches them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use coord_core::spi::{ClaimId, Wakeup, Wakeups};
use futures_util::stream;
use tokio::sync::{Notify, mpsc};

use crate::keys::{LineKey, LineMark};

/// What a hint is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Note {
    /// A claim: it may have become eligible, or was taken away.
    Claim([u8; 16]),
    /// A line: something in it changed.
    Line(LineMark),
}

impl Note {
    /// The size of a hint on its way to another process.
    pub(crate) const SIZE: usize = 17;

    pub(crate) fn to_bytes(self) -> [u8; Self::SIZE] {
        let (tag, id) = match self {
            Self::Claim(id) => (b'c', id),
            Self::Line(mark) => (b'l', mark),
        };
        let mut bytes = [tag; Self::SIZE];
        bytes[1..].copy_from_slice(&id);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (tag, id) = bytes.split_first()?;
        let id = id.try_into().ok()?;
        match tag {
            b'c' => Some(Self::Claim(id)),
            b'l' => Some(Self::Line(id)),
            _ => None,
        }
    }
}

/// How long the store may go on believing that somebody waits at a queue.
const LINGER: Duration = Duration::from_secs(5);

/// The subscriptions of one client.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    subscriptions: Mutex<Subscriptions>,
    /// Told when the set of watched lines changed, or must be registered anew.
    pub(crate) watches_changed: Notify,
}

#[derive(Debug, Default)]
struct Subscriptions {
    next: u64,
    claims: HashMap<[u8; 16], Vec<Listener>>,
    lines: HashMap<LineMark, (LineKey, Vec<Listener>)>,
}

#[derive(Debug)]
struct Listener {
    number: u64,
    /// Whether the store must know of it.
    wanted: bool,
    // One place: hints that were not taken yet are one hint.
    sender: mpsc::Sender<()>,
}

impl Listener {
    fn hint(&self) {
        let _ = self.sender.try_send(());
    }
}

impl Hub {
    fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hints for one claim, from now on.
    pub(crate) fn claim(self: &Arc<Self>, id: ClaimId) -> Wakeups {
        let note = Note::Claim(*id.as_bytes());
        self.subscribe(note, |subscriptions, listener| {
            subscriptions.claims.entry(*id.as_bytes()).or_default().push(listener);
        })
    }

    /// Hints for a line, from the moment in which the store knows of this client's watch.
    pub(crate) fn line(self: &Arc<Self>, line: LineKey) -> Wakeups {
        let mark = line.mark();
        let wakeups = self.subscribe(Note::Line(mark), |subscriptions, listener| {
            subscriptions.lines.entry(mark).or_insert_with(|| (line, Vec::new())).1.push(listener);
        });
        self.watches_changed.notify_one();
        wakeups
    }

    /// The same, but the store need not know of the watch before the hints are first waited for, nor at once that they are
    /// not any more: who looks often and seldom waits does not write a watch each time.
    pub(crate) fn line_once_polled(self: &Arc<Self>, line: LineKey) -> Wakeups {
        let mark = line.mark();
        let (mut receiver, mut subscription) = self.enter(Note::Line(mark), |subscriptions, listener| {
            let listener = Listener { wanted: false, ..listener };
            subscriptions.lines.entry(mark).or_insert_with(|| (line, Vec::new())).1.push(listener);
        });
        subscription.lingers = true;
        let mut wanted = false;
        Wakeups::new(stream::poll_fn(move |context| {
            if !std::mem::replace(&mut wanted, true) {
                subscription.hub.want(mark, subscription.number);
            }
            receiver.poll_recv(context).map(|hint| hint.map(|()| Wakeup::LookAgain))
        }))
    }

    fn want(&self, mark: LineMark, number: u64) {
        let mut subscriptions = self.subscriptions();
        let Some((_, listeners)) = subscriptions.lines.get_mut(&mark) else { return };
        let known = listeners.iter().any(|listener| listener.wanted);
        listeners
            .iter_mut()
            .filter(|listener| listener.number == number)
            .for_each(|listener| listener.wanted = true);
        drop(subscriptions);
        if !known {
            self.watches_changed.notify_one();
        }
    }

    fn subscribe(self: &Arc<Self>, note: Note, add: impl FnOnce(&mut Subscriptions, Listener)) -> Wakeups {
        let (mut receiver, subscription) = self.enter(note, add);
        Wakeups::new(stream::poll_fn(move |context| {
            // Held by the stream, so that dropping it ends the subscription.
            let _held = &subscription;
            receiver.poll_recv(context).map(|hint| hint.map(|()| Wakeup::LookAgain))
        }))
    }

    fn enter(
        self: &Arc<Self>,
        note: Note,
        add: impl FnOnce(&mut Subscriptions, Listener),
    ) -> (mpsc::Receiver<()>, Subscription) {
        let (sender, receiver) = mpsc::channel(1);
        let mut subscriptions = self.subscriptions();
        let number = subscriptions.next;
        subscriptions.next += 1;
        add(&mut subscriptions, Listener { number, wanted: true, sender });
        drop(subscriptions);
        (receiver, Subscription { hub: Arc::clone(self), note, number, lingers: false })
    }

    fn unsubscribe(self: &Arc<Self>, note: Note, number: u64, lingers: bool) {
        let mut subscriptions = self.subscriptions();
        match note {
            Note::Claim(id) => {
                if let Some(listeners) = subscriptions.claims.get_mut(&id) {
                    listeners.retain(|listener| listener.number != number);
                    if listeners.is_empty() {
                        subscriptions.claims.remove(&id);
                    }
                }
            }
            Note::Line(mark) => {
                let Some((_, listeners)) = subscriptions.lines.get_mut(&mark) else { return };
                let wanted = |listeners: &[Listener]| listeners.iter().any(|listener| listener.wanted);
                let before = wanted(listeners);
                listeners.retain(|listener| listener.number != number);
                let ended = before && !wanted(listeners);
                if listeners.is_empty() {
                    subscriptions.lines.remove(&mark);
                }
                drop(subscriptions);
                if ended {
                    self.watch_ended(lingers);
                }
            }
        }
    }

    fn watch_ended(self: &Arc<Self>, lingers: bool) {
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if lingers => {
                let hub = Arc::downgrade(self);
                runtime.spawn(async move {
                    tokio::time::sleep(LINGER).await;
                    if let Some(hub) = hub.upgrade() {
                        hub.watches_changed.notify_one();
                    }
                });
            }
            _ => self.watches_changed.notify_one(),
        }
    }

    /// Passes a hint on.
    pub(crate) fn hint(&self, note: Note) {
        let subscriptions = self.subscriptions();
        let listeners = match note {
            Note::Claim(id) => subscriptions.claims.get(&id),
            Note::Line(mark) => subscriptions.lines.get(&mark).map(|(_, listeners)| listeners),
        };
        listeners.into_iter().flatten().for_each(Listener::hint);
    }

    /// Hints everybody: some hints may have been lost.
    pub(crate) fn hint_all(&self) {
        let subscriptions = self.subscriptions();
        subscriptions.claims.values().flatten().for_each(Listener::hint);
        subscriptions.lines.values().flat_map(|(_, listeners)| listeners).for_each(Listener::hint);
    }

    /// Hints every watcher of a line.
    pub(crate) fn hint_lines(&self) {
        let subscriptions = self.subscriptions();
        subscriptions.lines.values().flat_map(|(_, listeners)| listeners).for_each(Listener::hint);
    }

    /// The lines that somebody here watches.
    pub(crate) fn lines(&self) -> Vec<LineKey> {
        let subscriptions = self.subscriptions();
        let wanted = |listeners: &[Listener]| listeners.iter().any(|listener| listener.wanted);
        subscriptions
            .lines
            .values()
            .filter(|(_, listeners)| wanted(listeners))
            .map(|(line, _)| line.clone())
            .collect()
    }
}

struct Subscription {
    hub: Arc<Hub>,
    note: Note,
    number: u64,
    lingers: bool,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.unsubscribe(self.note, self.number, self.lingers);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn notes_survive_the_way() {
        for note in [Note::Claim([7; 16]), Note::Line([9; 16])] {
            assert_eq!(Note::from_bytes(&note.to_bytes()), Some(note));
        }
        assert_eq!(Note::from_bytes(&[b'x'; Note::SIZE]), None);
        assert_eq!(Note::from_bytes(b"c"), None);
        assert_eq!(Note::from_bytes(b""), None);
    }

    #[test]
    fn hints_reach_those_who_wait_and_nobody_else() {
        let hub = Arc::new(Hub::default());
        let (one, other) = (ClaimId::random(), ClaimId::random());
        let (mut first, mut second, mut stranger) = (hub.claim(one), hub.claim(one), hub.claim(other));
        let mut line = hub.line(LineKey::stored("lock/default/a"));
        assert_eq!(hub.lines().len(), 1);
        hub.hint(Note::Claim(*one.as_bytes()));
        hub.hint(Note::Claim(*one.as_bytes()));
        assert!(first.next().now_or_never().is_some());
        assert!(first.next().now_or_never().is_none(), "hints that were not taken are one");
        assert!(second.next().now_or_never().is_some());
        assert!(stranger.next().now_or_never().is_none());
        assert!(line.next().now_or_never().is_none());
        hub.hint(Note::Line(LineKey::stored("lock/default/a").mark()));
        assert!(line.next().now_or_never().is_some());
        hub.hint_all();
        assert!(stranger.next().now_or_never().is_some());
        drop((first, second, stranger, line));
        assert!(hub.lines().is_empty());
        assert!(hub.subscriptions().claims.is_empty());
    }
}
