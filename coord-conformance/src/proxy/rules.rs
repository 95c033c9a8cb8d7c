//! What passed, and what is to be lost of it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A request or a reply that is to be lost, and the connection with it.
///
/// Its connection is reset when the lost part is due, so that the client learns at once that it does not know; or, if it is
/// [silent](Loss::silent), nothing comes any more and the client has to give up by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    pub(super) half: Half,
    /// How many requests are left to this one.
    left: u64,
    kind: Option<String>,
    pub(super) silent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Request,
    Reply,
}

impl Loss {
    /// The server gets the `nth` request from now on, and its reply is lost; the next request is the first.
    ///
    /// # Panics
    /// If `nth` is zero.
    #[must_use]
    pub fn reply(nth: u64) -> Self {
        Self::new(Half::Reply, nth)
    }

    /// The server does not get the `nth` request from now on; the next is the first.
    ///
    /// # Panics
    /// If `nth` is zero.
    #[must_use]
    pub fn request(nth: u64) -> Self {
        Self::new(Half::Request, nth)
    }

    fn new(half: Half, nth: u64) -> Self {
        assert!(nth > 0, "requests are counted from one");
        Self { half, left: nth, kind: None, silent: false }
    }

    /// Counts requests of this kind alone: `multi`, `EVALSHA`; each framer says what its kinds are.
    #[must_use]
    pub fn of(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// Leaves the connection as it is, but nothing more passes in the direction of what is lost.
    #[must_use]
    pub fn silent(mut self) -> Self {
        self.silent = true;
        self
    }
}

/// What passed through a proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Connections that were taken.
    pub connections: u64,
    /// Connections that the proxy reset, whatever the reason.
    pub resets: u64,
    /// Bytes that went on to the server.
    pub to_server: u64,
    /// Bytes that went on to the client.
    pub to_client: u64,
    /// Requests by their kinds, if the proxy knows the protocol; also those that were lost.
    pub requests: BTreeMap<String, u64>,
    /// What the server told unasked, such as messages and watches.
    pub events: u64,
    /// What was lost as [`Proxy::lose`](super::Proxy::lose) says.
    pub lost: u64,
}

impl Counts {
    /// How many requests there were.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.requests.values().sum()
    }

    /// How many requests of this kind there were.
    #[must_use]
    pub fn of(&self, kind: &str) -> u64 {
        self.requests.get(kind).copied().unwrap_or(0)
    }
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    losses: Vec<Loss>,
}

#[derive(Debug, Default)]
pub(super) struct Rules(Mutex<State>);

impl Rules {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lose(&self, loss: Loss) {
        self.state().losses.push(loss);
    }

    pub(super) fn forget_losses(&self) {
        self.state().losses.clear();
    }

    pub(super) fn counts(&self) -> Counts {
        self.state().counts.clone()
    }

    pub(super) fn reset(&self) -> Counts {
        std::mem::take(&mut self.state().counts)
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.state().counts);
    }

    /// A request is about to go on: what is to be lost with it.
    pub(super) fn request(&self, kind: &str) -> Option<Loss> {
        let mut state = self.state();
        *state.counts.requests.entry(kind.to_owned()).or_default() += 1;
        for loss in &mut state.losses {
            if loss.kind.as_deref().is_none_or(|wanted| wanted == kind) {
                // One that is due and was overtaken by another is due with the next request.
                loss.left = loss.left.saturating_sub(1);
            }
        }
        let due = state
            .losses
            .iter()
            .position(|loss| loss.left == 0 && loss.kind.as_deref().is_none_or(|wanted| wanted == kind))?;
        Some(state.losses.remove(due))
    }
}

#[cfg(test)]
mod tests {
    use super::{Loss, Rules};

    #[test]
    fn a_loss_meets_the_request_that_was_meant() {
        let rules = Rules::default();
        rules.lose(Loss::reply(2).of("b"));
        rules.lose(Loss::request(5));
        let met: Vec<_> = ["a", "b", "a", "b", "a", "b"].map(|kind| rules.request(kind)).into();
        let meets: Vec<_> = met.iter().map(|loss| loss.as_ref().map(|loss| loss.kind.as_deref())).collect();
        assert_eq!(meets, [None, None, None, Some(Some("b")), Some(None), None]);
        assert_eq!((rules.counts().total(), rules.counts().of("a")), (6, 3));
    }

    #[test]
    fn what_was_to_come_is_forgotten() {
        let rules = Rules::default();
        rules.lose(Loss::reply(1));
        rules.forget_losses();
        assert_eq!(rules.request("a"), None);
    }
}
