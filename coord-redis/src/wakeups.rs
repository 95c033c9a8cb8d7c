//! Hints within this process: who waits for what, and how a hint reaches them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use coord_core::spi::{ClaimId, Wakeup, Wakeups};
use futures_util::stream;
use tokio::sync::{Notify, mpsc};

use crate::keys::Channel;

/// What a hint is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Note {
    /// A claim: it may have become eligible, or was taken away.
    Claim([u8; 16]),
    /// A channel: something that it tells of changed.
    Channel(Channel),
}

/// How long the server may go on telling us what nobody here waits for.
const LINGER: Duration = Duration::from_secs(5);

/// The subscriptions of one client.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    subscriptions: Mutex<Subscriptions>,
    /// Told when the set of channels changed.
    pub(crate) channels_changed: Notify,
}

#[derive(Debug, Default)]
struct Subscriptions {
    next: u64,
    claims: HashMap<[u8; 16], Vec<Listener>>,
    channels: HashMap<Channel, Vec<Listener>>,
}

#[derive(Debug)]
struct Listener {
    number: u64,
    /// Whether the server must know of it.
    wanted: bool,
    /// Only changes of keys that begin with this.
    prefix: Option<String>,
    // One place: hints that were not taken yet are one hint.
    sender: mpsc::Sender<()>,
}

impl Listener {
    /// Whether a message on its channel concerns it.
    fn is_meant(&self, message: &[u8]) -> bool {
        let Some(prefix) = &self.prefix else { return true };
        message.is_empty() || keys(message).any(|key| key.starts_with(prefix.as_bytes()))
    }

    fn hint(&self) {
        let _ = self.sender.try_send(());
    }
}

/// The keys that a message names, each behind its length.
fn keys(mut message: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = message.split_first()?;
        let (key, rest) = rest.split_at_checked(usize::from(*length))?;
        message = rest;
        Some(key)
    })
}

fn wanted(listeners: &[Listener]) -> bool {
    listeners.iter().any(|listener| listener.wanted)
}

impl Hub {
    fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hints for one claim, from now on.
    pub(crate) fn claim(self: &Arc<Self>, id: ClaimId) -> Wakeups {
        let (receiver, subscription) = self.enter(Note::Claim(*id.as_bytes()), true, None);
        hints(receiver, subscription)
    }

    /// Hints of a channel. When the server knows of the subscription, there is a first one: what changed before that was
    /// not told.
    pub(crate) fn channel(self: &Arc<Self>, channel: Channel) -> Wakeups {
        self.news(channel, None)
    }

    /// The same for changes of keys that begin with this.
    pub(crate) fn keys(self: &Arc<Self>, channel: Channel, prefix: String) -> Wakeups {
        self.news(channel, Some(prefix))
    }

    fn news(self: &Arc<Self>, channel: Channel, prefix: Option<String>) -> Wakeups {
        let (receiver, subscription) = self.enter(Note::Channel(channel), true, prefix);
        self.channels_changed.notify_one();
        hints(receiver, subscription)
    }

    /// The same, but the server need not know of the subscription before the hints are first waited for, nor at once that it
    /// is over: who looks often and seldom waits does not subscribe each time.
    pub(crate) fn channel_once_polled(self: &Arc<Self>, channel: Channel) -> Wakeups {
        let (mut receiver, mut subscription) = self.enter(Note::Channel(channel), false, None);
        subscription.lingers = true;
        let mut wanted = false;
        Wakeups::new(stream::poll_fn(move |context| {
            if !std::mem::replace(&mut wanted, true) {
                subscription.want();
            }
            receiver.poll_recv(context).map(|hint| hint.map(|()| Wakeup::LookAgain))
        }))
    }

    fn enter(
        self: &Arc<Self>,
        note: Note,
        wanted: bool,
        prefix: Option<String>,
    ) -> (mpsc::Receiver<()>, Subscription) {
        let (sender, receiver) = mpsc::channel(1);
        let mut subscriptions = self.subscriptions();
        let number = subscriptions.next;
        subscriptions.next += 1;
        let listener = Listener { number, wanted, prefix, sender };
        match &note {
            Note::Claim(id) => subscriptions.claims.entry(*id).or_default().push(listener),
            Note::Channel(channel) => {
                subscriptions.channels.entry(channel.clone()).or_default().push(listener);
            }
        }
        drop(subscriptions);
        (receiver, Subscription { hub: Arc::clone(self), note, number, lingers: false })
    }

    fn channel_ended(self: &Arc<Self>, lingers: bool) {
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if lingers => {
                let hub = Arc::downgrade(self);
                runtime.spawn(async move {
                    tokio::time::sleep(LINGER).await;
                    if let Some(hub) = hub.upgrade() {
                        hub.channels_changed.notify_one();
                    }
                });
            }
            _ => self.channels_changed.notify_one(),
        }
    }

    /// Passes a hint on.
    pub(crate) fn hint(&self, note: &Note) {
        let subscriptions = self.subscriptions();
        let listeners = match note {
            Note::Claim(id) => subscriptions.claims.get(id),
            Note::Channel(channel) => subscriptions.channels.get(channel),
        };
        listeners.into_iter().flatten().for_each(Listener::hint);
    }

    /// Passes a message on a channel on, to those whom it concerns.
    pub(crate) fn tell(&self, channel: &Channel, message: &[u8]) {
        let subscriptions = self.subscriptions();
        let listeners = subscriptions.channels.get(channel).into_iter().flatten();
        listeners.filter(|listener| listener.is_meant(message)).for_each(Listener::hint);
    }

    /// Passes hints for claims on: their ids, one after the other.
    pub(crate) fn hint_claims(&self, ids: &[u8]) {
        let subscriptions = self.subscriptions();
        for id in ids.chunks_exact(16) {
            subscriptions.claims.get(id).into_iter().flatten().for_each(Listener::hint);
        }
    }

    /// Hints everybody: some hints may have been lost.
    pub(crate) fn hint_all(&self) {
        let subscriptions = self.subscriptions();
        subscriptions.claims.values().flatten().for_each(Listener::hint);
        subscriptions.channels.values().flatten().for_each(Listener::hint);
    }

    /// The channels that the server must tell us of.
    pub(crate) fn channels(&self) -> Vec<Channel> {
        let subscriptions = self.subscriptions();
        let channels = subscriptions.channels.iter().filter(|(_, listeners)| wanted(listeners));
        channels.map(|(channel, _)| channel.clone()).collect()
    }
}

fn hints(mut receiver: mpsc::Receiver<()>, subscription: Subscription) -> Wakeups {
    Wakeups::new(stream::poll_fn(move |context| {
        // Held by the stream, so that dropping it ends the subscription.
        let _held = &subscription;
        receiver.poll_recv(context).map(|hint| hint.map(|()| Wakeup::LookAgain))
    }))
}

struct Subscription {
    hub: Arc<Hub>,
    note: Note,
    number: u64,
    lingers: bool,
}

impl Subscription {
    /// Has the server know of it from now on.
    fn want(&self) {
        let Note::Channel(channel) = &self.note else { return };
        let mut subscriptions = self.hub.subscriptions();
        let Some(listeners) = subscriptions.channels.get_mut(channel) else { return };
        let known = wanted(listeners);
        let own = listeners.iter_mut().filter(|listener| listener.number == self.number);
        own.for_each(|listener| listener.wanted = true);
        drop(subscriptions);
        if !known {
            self.hub.channels_changed.notify_one();
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut subscriptions = self.hub.subscriptions();
        match &self.note {
            Note::Claim(id) => {
                if let Some(listeners) = subscriptions.claims.get_mut(id) {
                    listeners.retain(|listener| listener.number != self.number);
                    if listeners.is_empty() {
                        subscriptions.claims.remove(id);
                    }
                }
            }
            Note::Channel(channel) => {
                let Some(listeners) = subscriptions.channels.get_mut(channel) else { return };
                let before = wanted(listeners);
                listeners.retain(|listener| listener.number != self.number);
                let ended = before && !wanted(listeners);
                if listeners.is_empty() {
                    subscriptions.channels.remove(channel);
                }
                drop(subscriptions);
                if ended {
                    self.hub.channel_ended(self.lingers);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn hints_reach_those_who_wait_and_nobody_else() {
        let hub = Arc::new(Hub::default());
        let channel = Channel::from("a".to_owned());
        let (one, other) = (ClaimId::random(), ClaimId::random());
        let (mut first, mut second, mut stranger) = (hub.claim(one), hub.claim(one), hub.claim(other));
        let mut news = hub.channel(channel.clone());
        assert_eq!(hub.channels(), std::slice::from_ref(&channel));
        hub.hint(&Note::Claim(*one.as_bytes()));
        hub.hint_claims(&[&one.as_bytes()[..], b"rest"].concat());
        assert!(first.next().now_or_never().is_some());
        assert!(first.next().now_or_never().is_none(), "hints that were not taken are one");
        assert!(second.next().now_or_never().is_some());
        assert!(stranger.next().now_or_never().is_none());
        assert!(news.next().now_or_never().is_none());
        hub.hint(&Note::Channel(channel));
        assert!(news.next().now_or_never().is_some());
        hub.hint_all();
        assert!(stranger.next().now_or_never().is_some());
        drop((first, second, stranger, news));
        assert!(hub.channels().is_empty());
        assert!(hub.subscriptions().claims.is_empty());
    }

    #[test]
    fn who_watches_keys_hears_of_those_alone() {
        let hub = Arc::new(Hub::default());
        let channel = Channel::from("a".to_owned());
        let mut news = hub.keys(channel.clone(), "ab".into());
        for (message, meant) in [
            (&b"\x02ab"[..], true),
            (b"\x01a\x03abc", true),
            (b"\x01a\x01b\x03bab", false),
            (b"\x02xx\x09ab", false),
            (b"", true),
        ] {
            hub.tell(&channel, message);
            assert_eq!(news.next().now_or_never().is_some(), meant, "{message:?}");
        }
        hub.hint(&Note::Channel(channel));
        assert!(news.next().now_or_never().is_some());
    }

    #[test]
    fn the_server_hears_of_a_lazy_subscription_when_it_is_polled() {
        let hub = Arc::new(Hub::default());
        let channel = Channel::from("a".to_owned());
        let mut news = hub.channel_once_polled(channel.clone());
        assert!(hub.channels().is_empty());
        assert!(news.next().now_or_never().is_none());
        assert_eq!(hub.channels(), [channel]);
    }
}
