//! Hints within this process: who waits for what, and how a hint reaches them.
//!
//! Each client has one stream of watches, and on it one watch for each prefix that somebody waits for. Watches begin at the
//! present, because one that begins in the past, be it by one revision, waits up to a tenth of a second for its first event on
//! etcd 3.4. When the server says that a watch is there, who looked before that is hinted once; of those who wait in one line, one
//! looks for all.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use coord_core::{
    clock::{Clock, Moment},
    spi::{ClaimId, Wakeup, Wakeups},
};
use futures_util::stream;
use tokio::sync::{Notify, mpsc};

use crate::{
    keys::claim_id,
    waiting::{Place, Waiter, Waiting},
};

/// How long the server may go on telling us what nobody here waits for.
pub(crate) const LINGER: Duration = Duration::from_secs(10);

/// How long a watch that was refused is left alone.
const REFUSED: Duration = Duration::from_secs(5);

/// Which changes of keys are of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(dead_code, reason = "an interface within the crate")]
pub(crate) enum Of {
    /// Keys that are written and keys that end.
    All,
    /// Keys that are written.
    Puts,
    /// Keys that end.
    Deletes,
    /// Keys behind `l/` that end, unless what is called the same behind `w/` ends with them: a lease was over, and nobody
    /// settled what stood under it.
    Lapses,
}

impl Of {
    /// Whether these are of interest, of a topic that begins with so many bytes.
    fn concerns(self, prefix: usize, deleted: &[(&[u8], i64)]) -> bool {
        let called = |wanted: &'static [u8]| {
            deleted.iter().filter_map(move |(key, revision)| {
                Some((key.get(prefix..)?.strip_prefix(wanted)?, *revision))
            })
        };
        self != Self::Lapses || called(b"l/").any(|lease| called(b"w/").all(|waited| waited != lease))
    }
}

/// What one watch is about: the keys that begin with this, and what happens to them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Topic {
    pub(crate) prefix: Vec<u8>,
    pub(crate) of: Of,
}

/// The subscriptions of one client.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    /// Where this client is told that a claim of it was taken away: the claim's id stands behind it.
    notices: Vec<u8>,
    subscriptions: Mutex<Subscriptions>,
    /// Told when the set of topics changed.
    pub(crate) topics_changed: Notify,
}

#[derive(Debug, Default)]
struct Subscriptions {
    next: u64,
    topics: BTreeMap<Topic, Watched>,
    claims: HashMap<ClaimId, Claimed>,
}

/// What is known of one topic.
#[derive(Debug, Default)]
struct Watched {
    listeners: Vec<Listener>,
    /// The claims of this client that wait in this line.
    waiting: Waiting,
    state: State,
    /// Wanted for good.
    lasting: bool,
    opened_before: bool,
    /// Since when nobody waits.
    idle: Option<Moment>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Closed,
    /// Asked for.
    Opening,
    /// Everything after this revision is told.
    Open(i64),
    /// The server does not allow it; not to be asked for before this moment.
    Refused(Moment),
}

/// Who waits for hints about one claim, and where it stands.
#[derive(Debug, Default)]
struct Claimed {
    listeners: Vec<Listener>,
    line: Option<Topic>,
}

#[derive(Debug)]
struct Listener {
    number: u64,
    /// Whether the server must know of it.
    wanted: bool,
    // One place: hints that were not taken yet are one hint.
    sender: mpsc::Sender<()>,
}

impl Listener {
    fn hint(&self) {
        let _ = self.sender.try_send(());
    }
}

impl Watched {
    fn is_wanted(&self) -> bool {
        self.lasting || !self.waiting.is_empty() || self.listeners.iter().any(|listener| listener.wanted)
    }
}

impl Subscriptions {
    fn hint_claims(&self, ids: &[ClaimId]) {
        for id in ids {
            self.claims.get(id).into_iter().flat_map(|claimed| &claimed.listeners).for_each(Listener::hint);
        }
    }

    /// Notes since when nobody waits for a topic, and forgets one that the server was never asked for.
    fn tidy(&mut self, topic: &Topic) {
        let Some(watched) = self.topics.get_mut(topic) else { return };
        if watched.is_wanted() {
            watched.idle = None;
        } else if watched.listeners.is_empty() && watched.state == State::Closed {
            self.topics.remove(topic);
        } else if watched.idle.is_none() {
            watched.idle = Some(Clock::System.now());
        }
    }

    fn leave(&mut self, id: ClaimId) {
        let topic = self.claims.get_mut(&id).and_then(|claimed| claimed.line.take());
        if let Some(topic) = topic {
            let next = self.topics.get_mut(&topic).and_then(|watched| watched.waiting.leave(id));
            self.hint_claims(next.as_slice());
            self.tidy(&topic);
        }
    }
}

impl Hub {
    pub(crate) fn new(notices: Vec<u8>) -> Self {
        Self { notices, ..Self::default() }
    }

    fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hints for one claim of this client, from now on.
    pub(crate) fn claim(self: &Arc<Self>, id: ClaimId) -> Wakeups {
        let (sender, receiver) = mpsc::channel(1);
        let mut subscriptions = self.subscriptions();
        let number = subscriptions.number();
        let listener = Listener { number, wanted: true, sender };
        subscriptions.claims.entry(id).or_default().listeners.push(listener);
        drop(subscriptions);
        hints(receiver, Subscription { hub: Arc::clone(self), note: Note::Claim(id), number })
    }

    /// Hints for changes of keys that begin with this. When the server knows of it, there is a first hint: what changed before
    /// that was not told.
    pub(crate) fn prefix(self: &Arc<Self>, prefix: impl Into<Vec<u8>>, of: Of) -> Wakeups {
        let (receiver, subscription) = self.enter(Topic { prefix: prefix.into(), of }, true);
        self.topics_changed.notify_one();
        hints(receiver, subscription)
    }

    /// The same, but the server need not know of it before the hints are first waited for: who looks often and seldom waits
    /// does not subscribe each time.
    #[allow(dead_code, reason = "an interface within the crate")]
    pub(crate) fn prefix_once_polled(self: &Arc<Self>, prefix: impl Into<Vec<u8>>, of: Of) -> Wakeups {
        let (mut receiver, subscription) = self.enter(Topic { prefix: prefix.into(), of }, false);
        let mut wanted = false;
        Wakeups::new(stream::poll_fn(move |context| {
            if !std::mem::replace(&mut wanted, true) {
                subscription.want();
            }
            receiver.poll_recv(context).map(|hint| hint.map(|()| Wakeup::LookAgain))
        }))
    }

    fn enter(self: &Arc<Self>, topic: Topic, wanted: bool) -> (mpsc::Receiver<()>, Subscription) {
        let (sender, receiver) = mpsc::channel(1);
        let mut subscriptions = self.subscriptions();
        let number = subscriptions.number();
        let watched = subscriptions.topics.entry(topic.clone()).or_default();
        if let State::Open(_) = watched.state
            && wanted
        {
            // The watch is there already: what changed before now is for the subscriber to read.
            let _ = sender.try_send(());
        }
        watched.listeners.push(Listener { number, wanted, sender });
        subscriptions.tidy(&topic);
        drop(subscriptions);
        (receiver, Subscription { hub: Arc::clone(self), note: Note::Topic(topic), number })
    }

    /// Has a claim of this client hinted when it may have become eligible: it looked at this revision and found `line`, all
    /// claims of the line, in any order.
    pub(crate) fn wait(&self, prefix: &[u8], waiter: Waiter, looked: i64, line: Vec<Place>) {
        let topic = Topic { prefix: prefix.to_vec(), of: Of::Deletes };
        let mut subscriptions = self.subscriptions();
        let id = waiter.id;
        // Nobody listens: nobody is to be hinted.
        let Some(claimed) = subscriptions.claims.get_mut(&id) else { return };
        claimed.line = Some(topic.clone());
        let watched = subscriptions.topics.entry(topic.clone()).or_default();
        let mut hinted = watched.waiting.join(waiter, looked, line);
        if let State::Open(since) = watched.state {
            hinted.extend(watched.waiting.opened(since));
        }
        let opens = watched.state == State::Closed;
        subscriptions.tidy(&topic);
        subscriptions.hint_claims(&hinted);
        drop(subscriptions);
        if opens {
            self.topics_changed.notify_one();
        }
    }

    /// The claim waits no more.
    pub(crate) fn settled(&self, id: ClaimId) {
        self.subscriptions().leave(id);
    }

    /// Has claims of this client hinted that others take away.
    pub(crate) fn hear_notices(&self) {
        let topic = Topic { prefix: self.notices.clone(), of: Of::Puts };
        let mut subscriptions = self.subscriptions();
        let watched = subscriptions.topics.entry(topic).or_default();
        if !std::mem::replace(&mut watched.lasting, true) {
            drop(subscriptions);
            self.topics_changed.notify_one();
        }
    }

    /// Hints one claim.
    pub(crate) fn hint_claim(&self, id: ClaimId) {
        self.subscriptions().hint_claims(&[id]);
    }
}

/// What the task does that speaks to the server.
impl Hub {
    /// The topics that are to be opened now. They count as being opened from now on.
    pub(crate) fn to_open(&self) -> Vec<Topic> {
        let now = Clock::System.now();
        let mut subscriptions = self.subscriptions();
        let open = subscriptions.topics.iter_mut().filter(|(_, watched)| {
            let due = match watched.state {
                State::Closed => true,
                State::Refused(until) => until <= now,
                State::Opening | State::Open(_) => false,
            };
            due && watched.is_wanted()
        });
        open.map(|(topic, watched)| {
            watched.state = State::Opening;
            topic.clone()
        })
        .collect()
    }

    /// The topics that nobody has waited for in a while. They count as closed from now on.
    pub(crate) fn to_close(&self) -> Vec<Topic> {
        let now = Clock::System.now();
        let mut subscriptions = self.subscriptions();
        let mut closed = Vec::new();
        subscriptions.topics.retain(|topic, watched| {
            let over = watched.idle.is_some_and(|since| now.since(since) >= LINGER);
            if over && !watched.is_wanted() {
                if matches!(watched.state, State::Opening | State::Open(_)) {
                    closed.push(topic.clone());
                }
                watched.state = State::Closed;
                watched.idle = None;
                return !watched.listeners.is_empty();
            }
            true
        });
        closed
    }

    /// Whether the server has to know of anything.
    pub(crate) fn is_wanted(&self) -> bool {
        self.subscriptions().topics.values().any(Watched::is_wanted)
    }

    /// The server tells everything after this revision from now on.
    pub(crate) fn opened(&self, topic: &Topic, revision: i64) {
        let mut subscriptions = self.subscriptions();
        let Some(watched) = subscriptions.topics.get_mut(topic) else { return };
        watched.state = State::Open(revision);
        watched.listeners.iter().filter(|listener| listener.wanted).for_each(Listener::hint);
        let looks = watched.waiting.opened(revision);
        // Notices may have been missed by those that are held.
        let again = watched.lasting && std::mem::replace(&mut watched.opened_before, true);
        subscriptions.hint_claims(looks.as_slice());
        if again {
            let held = subscriptions.claims.values().filter(|claimed| claimed.line.is_none());
            held.flat_map(|claimed| &claimed.listeners).for_each(Listener::hint);
        }
    }

    /// The server ended the watch, or refused it.
    pub(crate) fn ended(&self, topic: &Topic, refused: bool) {
        let mut subscriptions = self.subscriptions();
        let Some(watched) = subscriptions.topics.get_mut(topic) else { return };
        watched.state =
            if refused { State::Refused(Clock::System.now().after(REFUSED)) } else { State::Closed };
        watched.listeners.iter().for_each(Listener::hint);
        watched.waiting.closed();
        if !refused {
            self.topics_changed.notify_one();
        }
    }

    /// Something happened in a topic: these keys were written, and these ended, each at this revision.
    pub(crate) fn tell(&self, topic: &Topic, written: &[&[u8]], deleted: &[(&[u8], i64)]) {
        let mut subscriptions = self.subscriptions();
        if topic.prefix == self.notices {
            let ids: Vec<_> =
                written.iter().filter_map(|key| claim_id(key.get(topic.prefix.len()..)?)).collect();
            subscriptions.hint_claims(&ids);
        }
        let Some(watched) = subscriptions.topics.get_mut(topic) else { return };
        if topic.of.concerns(topic.prefix.len(), deleted) {
            watched.listeners.iter().for_each(Listener::hint);
        }
        if topic.of != Of::Deletes {
            return;
        }
        // Also while nobody waits: the look of one who is about to may be on its way.
        for (key, revision) in deleted {
            watched.waiting.ended(key, *revision);
        }
        let eligible = watched.waiting.eligible();
        subscriptions.hint_claims(&eligible);
    }

    /// There is no stream any more: nothing is told until everything is opened again.
    pub(crate) fn disconnected(&self) {
        let mut subscriptions = self.subscriptions();
        for watched in subscriptions.topics.values_mut() {
            if !matches!(watched.state, State::Refused(_)) {
                watched.state = State::Closed;
            }
            watched.waiting.closed();
            watched.listeners.iter().for_each(Listener::hint);
        }
        let topics: Vec<_> = subscriptions.topics.keys().cloned().collect();
        topics.iter().for_each(|topic| subscriptions.tidy(topic));
    }
}

impl Subscriptions {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

fn hints(mut receiver: mpsc::Receiver<()>, subscription: Subscription) -> Wakeups {
    Wakeups::new(stream::poll_fn(move |context| {
        // Held by the stream, so that dropping it ends the subscription.
        let _held = &subscription;
        receiver.poll_recv(context).map(|hint| hint.map(|()| Wakeup::LookAgain))
    }))
}

enum Note {
    Claim(ClaimId),
    Topic(Topic),
}

struct Subscription {
    hub: Arc<Hub>,
    note: Note,
    number: u64,
}

impl Subscription {
    /// Has the server know of it from now on.
    fn want(&self) {
        let Note::Topic(topic) = &self.note else { return };
        let mut subscriptions = self.hub.subscriptions();
        let Some(watched) = subscriptions.topics.get_mut(topic) else { return };
        let open = matches!(watched.state, State::Open(_));
        for listener in watched.listeners.iter_mut().filter(|listener| listener.number == self.number) {
            listener.wanted = true;
            if open {
                listener.hint();
            }
        }
        subscriptions.tidy(topic);
        drop(subscriptions);
        if !open {
            self.hub.topics_changed.notify_one();
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut subscriptions = self.hub.subscriptions();
        match &self.note {
            Note::Claim(id) => {
                let Some(claimed) = subscriptions.claims.get_mut(id) else { return };
                claimed.listeners.retain(|listener| listener.number != self.number);
                if claimed.listeners.is_empty() {
                    subscriptions.leave(*id);
                    subscriptions.claims.remove(id);
                }
            }
            Note::Topic(topic) => {
                let Some(watched) = subscriptions.topics.get_mut(topic) else { return };
                watched.listeners.retain(|listener| listener.number != self.number);
                subscriptions.tidy(topic);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_topic_is_opened_while_somebody_waits() {
        let hub = Arc::new(Hub::default());
        let topic = Topic { prefix: b"a/".to_vec(), of: Of::All };
        let mut news = hub.prefix("a/", Of::All);
        assert_eq!(hub.to_open(), std::slice::from_ref(&topic));
        assert!(hub.to_open().is_empty(), "it is being opened");
        assert!(news.next().now_or_never().is_none());
        hub.opened(&topic, 5);
        assert!(news.next().now_or_never().is_some(), "what changed before");
        hub.tell(&topic, &[], &[]);
        assert!(news.next().now_or_never().is_some());
        assert!(news.next().now_or_never().is_none());
        hub.disconnected();
        assert!(news.next().now_or_never().is_some());
        assert_eq!(hub.to_open(), [topic]);
        drop(news);
        assert!(!hub.is_wanted());
    }

    #[test]
    fn what_is_settled_is_no_lapse() {
        let hub = Arc::new(Hub::default());
        let topic = Topic { prefix: b"q/".to_vec(), of: Of::Lapses };
        let mut news = hub.prefix("q/", Of::Lapses);
        for (deleted, meant) in [
            (&[(&b"q/l/a"[..], 5), (b"q/w/a", 5)][..], false),
            (&[(b"q/w/a", 5)], false),
            (&[(b"q/l/a", 5)], true),
            (&[(b"q/l/a", 5), (b"q/w/a", 6)], true),
            (&[(b"q/w/b", 5), (b"q/l/a", 5), (b"q/l/b", 5)], true),
        ] {
            hub.tell(&topic, &[], deleted);
            assert_eq!(news.next().now_or_never().is_some(), meant, "{deleted:?}");
        }
    }

    #[test]
    fn the_server_hears_of_a_lazy_subscription_when_it_is_polled() {
        let hub = Arc::new(Hub::default());
        let mut news = hub.prefix_once_polled("a/", Of::Puts);
        assert!(hub.to_open().is_empty());
        assert!(news.next().now_or_never().is_none());
        assert_eq!(hub.to_open().len(), 1);
    }

    #[test]
    fn only_those_who_may_be_eligible_are_hinted() {
        let hub = Arc::new(Hub::default());
        let topic = Topic { prefix: b"l/".to_vec(), of: Of::Deletes };
        let (one, two) = (ClaimId::random(), ClaimId::random());
        let (mut first, mut second) = (hub.claim(one), hub.claim(two));
        let place = |token: i64, key: &str| Place { token, key: key.into(), weight: 1 };
        let line = || vec![place(1, "l/0"), place(2, "l/1"), place(3, "l/2")];
        hub.wait(b"l/", Waiter { id: one, token: 2, weight: 1, limit: 1 }, 3, line());
        hub.wait(b"l/", Waiter { id: two, token: 3, weight: 1, limit: 1 }, 3, line());
        assert_eq!(hub.to_open(), std::slice::from_ref(&topic));
        hub.opened(&topic, 3);
        assert!(first.next().now_or_never().is_none(), "it looked at that revision");
        hub.tell(&topic, &[], &[(b"l/0", 4)]);
        assert!(first.next().now_or_never().is_some());
        assert!(second.next().now_or_never().is_none());
        hub.settled(one);
        hub.tell(&topic, &[], &[(b"l/1", 5)]);
        assert!(second.next().now_or_never().is_some());
        drop(second);
        assert!(!hub.is_wanted());
    }

    #[test]
    fn what_is_told_before_somebody_waits_counts() {
        let hub = Arc::new(Hub::default());
        let topic = Topic { prefix: b"l/".to_vec(), of: Of::Deletes };
        let place = |token: i64, key: &str| Place { token, key: key.into(), weight: 1 };
        for waited_before in [false, true] {
            let (before, id) = (ClaimId::random(), ClaimId::random());
            let (mut first, mut hints) = (hub.claim(before), hub.claim(id));
            let waiter = |id, token| Waiter { id, token, weight: 1, limit: 1 };
            hub.wait(b"l/", waiter(before, 2), 3, vec![place(1, "l/0"), place(2, "l/1")]);
            hub.to_open();
            hub.opened(&topic, 3);
            if waited_before {
                hub.tell(&topic, &[], &[(b"l/0", 5)]);
                hub.settled(before);
            } else {
                hub.settled(before);
                hub.tell(&topic, &[], &[(b"l/0", 5)]);
            }
            assert_eq!(first.next().now_or_never().is_some(), waited_before);
            // It looked before that.
            hub.wait(b"l/", waiter(id, 3), 4, vec![place(1, "l/0"), place(3, "l/2")]);
            assert!(hints.next().now_or_never().is_some(), "waited before: {waited_before}");
            hub.settled(id);
            hub.disconnected();
        }
    }

    #[test]
    fn who_lost_a_claim_to_others_is_hinted() {
        let hub = Arc::new(Hub::new(b"n/".to_vec()));
        let (one, two) = (ClaimId::random(), ClaimId::random());
        let (mut first, mut second) = (hub.claim(one), hub.claim(two));
        hub.hear_notices();
        let [topic] = &hub.to_open()[..] else { panic!("one topic") };
        let key = [b"n/", crate::keys::hex(one.as_bytes()).as_bytes()].concat();
        hub.tell(topic, &[&key], &[]);
        assert!(first.next().now_or_never().is_some());
        assert!(second.next().now_or_never().is_none());
    }
}
