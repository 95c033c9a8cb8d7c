//! Judges of histories. Each is a function of the events alone, tested with good and bad histories, and shown by the
//! mutant tests to find a store or an engine that is broken in its field.
//!
//! | checker | what it refuses |
//! | --- | --- |
//! | [`tokens`] | a token given twice, or one that is not greater than those of grants before it |
//! | [`intervals`] | two guards that say *held* at once and exclude each other; a lost guard that came back |
//! | [`fifo`] | a grant past somebody who waits ahead |
//! | [`terms`] | two leaders of one term; an observer that invents, repeats or goes back, or stays behind |
//! | [`membership`] | a list that misses a live member or shows a ghost; a watcher that stays behind |
//! | [`fenced`] | writes accepted with tokens that go back; lost updates |
//! | [`register`] | reads and conditional writes of a value that no order in time explains |
//! | [`following`] | a watcher of values that invents, goes back, or stays behind |
//! | [`deliveries`] | an item lost, acknowledged twice, out of order, or in two hands at once |
//! | [`residue`] | claims left behind (it looks at the store, not at a history) |
//! | [`progress`] | waiting without end; what does not succeed when all faults have ended |

pub mod deliveries;
pub mod fenced;
pub mod fifo;
pub mod following;
pub mod intervals;
pub mod membership;
pub mod progress;
pub mod register;
pub mod residue;
pub mod terms;
pub mod tokens;

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
};

use crate::history::{Ask, AttemptId, Event, Op, Outcome, Stamp};

/// What a checker found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The checker's name.
    pub checker: &'static str,
    /// What is wrong.
    pub message: String,
    /// The events that show it and no others, in the order in which they began: a history of these alone is refused too.
    pub evidence: Vec<Event>,
}

impl Violation {
    /// A finding of this checker.
    pub fn new(checker: &'static str, message: impl Into<String>) -> Self {
        Self { checker, message: message.into(), evidence: Vec::new() }
    }

    /// With these events as evidence.
    #[must_use]
    pub fn shown_by<'a>(mut self, events: impl IntoIterator<Item = &'a Event>) -> Self {
        self.evidence.extend(events.into_iter().cloned());
        self.evidence.sort_by_key(|event| (event.from, event.to));
        self.evidence.dedup();
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.checker, self.message)
    }
}

impl std::error::Error for Violation {}

/// What a checker says.
pub type Judgement<T = ()> = Result<T, Violation>;

/// A checker of histories.
pub type Checker = fn(&[Event]) -> Judgement;

/// All checkers of histories, the most basic first.
pub const ALL: [Checker; 10] = [
    tokens::check,
    intervals::check,
    fifo::check,
    terms::check,
    membership::check,
    fenced::check,
    register::check,
    following::check,
    deliveries::check,
    progress::check,
];

/// Runs all checkers of histories.
///
/// # Errors
/// What the first checker found that found anything.
pub fn check(events: &[Event]) -> Judgement {
    ALL.iter().try_for_each(|checker| checker(events))
}

/// Runs all checkers of histories; what each of them found first, with the least evidence.
#[must_use]
pub fn check_all(events: &[Event]) -> Vec<Violation> {
    ALL.iter().filter_map(|checker| checker(events).err().map(|found| least(*checker, found))).collect()
}

/// Takes events out of the evidence for as long as the rest alone shows the same. What the checker of registers shows is the
/// least already, with the write of what was read, which nobody would know otherwise.
fn least(checker: Checker, mut found: Violation) -> Violation {
    if found.checker == register::NAME {
        return found;
    }
    for at in (0..found.evidence.len()).rev() {
        let mut rest = found.evidence.clone();
        rest.remove(at);
        let mut ended = rest.clone();
        ended.sort_by_key(|event| event.to);
        if checker(&ended).is_err_and(|same| same.message == found.message) {
            found.evidence = rest;
        }
    }
    found
}

/// The clients whose processes were killed: what they report last is no word on how the history ended.
pub(crate) fn dead(events: &[Event]) -> HashSet<&str> {
    events.iter().filter(|event| event.op == Op::Died).map(|event| event.client.as_str()).collect()
}

/// A grant and what is known of the guard's life.
#[derive(Debug, Clone)]
pub(crate) struct Hold<'a> {
    pub(crate) client: &'a str,
    pub(crate) attempt: AttemptId,
    pub(crate) ask: &'a Ask,
    pub(crate) token: u64,
    /// The acquisition itself.
    pub(crate) acquire: &'a Event,
    /// When it was seen waiting.
    pub(crate) queued: Option<Stamp>,
    /// The guard was certainly valid from its return up to here: the last moment before a question that was answered
    /// with yes. `None`: nobody asked.
    pub(crate) valid_to: Option<Stamp>,
    /// The first moment at which it was certainly over.
    pub(crate) lost: Option<Stamp>,
    /// Its holder was thrown out by force, from this moment.
    pub(crate) evicted: Option<Stamp>,
    /// When its release had succeeded.
    pub(crate) released: Option<Stamp>,
    /// It said that it is held after it had said that it is lost.
    pub(crate) revived: Option<Stamp>,
    /// The events behind these moments.
    facts: Facts<'a>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Facts<'a> {
    queued: Option<&'a Event>,
    valid: Option<&'a Event>,
    lost: Option<&'a Event>,
    released: Option<&'a Event>,
    revived: Option<&'a Event>,
}

impl<'a> Hold<'a> {
    /// The events that tell of it.
    pub(crate) fn evidence(&self) -> impl Iterator<Item = &'a Event> + use<'a> {
        let Facts { queued, valid, lost, released, revived } = self.facts;
        [Some(self.acquire), queued, valid, lost, released, revived].into_iter().flatten()
    }

    /// Until when the guard was certainly valid.
    pub(crate) fn certainly_to(&self) -> Option<Stamp> {
        let end = self.valid_to?;
        Some(self.evicted.map_or(end, |evicted| evicted.min(end))).filter(|end| *end > self.acquire.to)
    }

    pub(crate) fn is_exclusive_with(&self, other: &Self) -> bool {
        let together = u64::from(self.ask.weight) + u64::from(other.ask.weight);
        together > u64::from(self.ask.limit).min(u64::from(other.ask.limit))
    }
}

impl fmt::Display for Hold<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} attempt {} token {} (", self.client, self.attempt, self.token)?;
        let millis = |stamp: Stamp| stamp.at as f64 / 1e6;
        write!(f, "asked {:.3}, granted {:.3}", millis(self.acquire.from), millis(self.acquire.to))?;
        if let Some(end) = self.certainly_to() {
            write!(f, ", held at least to {:.3}", millis(end))?;
        }
        f.write_str(" ms)")
    }
}

/// The grants of every object, in the order in which they returned.
pub(crate) fn holds(events: &[Event]) -> BTreeMap<&str, Vec<Hold<'_>>> {
    let mut holds: BTreeMap<&str, Vec<Hold<'_>>> = BTreeMap::new();
    for event in events {
        if let (Op::Acquire { attempt, ask, token: Some(token) }, Outcome::Ok) = (&event.op, &event.outcome) {
            holds.entry(&event.object).or_default().push(Hold {
                client: &event.client,
                attempt: *attempt,
                ask,
                token: *token,
                acquire: event,
                queued: None,
                valid_to: None,
                lost: None,
                evicted: None,
                released: None,
                revived: None,
                facts: Facts::default(),
            });
        }
    }
    for of_object in holds.values_mut() {
        of_object.sort_by_key(|hold| hold.acquire.to);
    }
    let mut ordered: Vec<_> = events.iter().collect();
    ordered.sort_by_key(|event| event.from);
    for event in ordered {
        let Some(of_object) = holds.get_mut(event.object.as_str()) else { continue };
        if let Op::Evict { tokens } = &event.op {
            for hold in of_object.iter_mut().filter(|hold| tokens.contains(&hold.token)) {
                hold.evicted = Some(hold.evicted.map_or(event.from, |before| before.min(event.from)));
            }
            continue;
        }
        let (Op::Queued { attempt, .. }
        | Op::Valid { attempt }
        | Op::Lost { attempt }
        | Op::Release { attempt }) = &event.op
        else {
            continue;
        };
        let own = |hold: &&mut Hold<'_>| hold.attempt == *attempt && hold.client == event.client;
        // Sightings in the line are noted by whoever looked.
        let Some(hold) = of_object.iter_mut().find(own) else { continue };
        match (&event.op, &event.outcome) {
            (Op::Queued { .. }, _) => {
                hold.queued = hold.queued.or(Some(event.to));
                hold.facts.queued = hold.facts.queued.or(Some(event));
            }
            (Op::Valid { .. }, _) => {
                if hold.lost.is_some_and(|lost| lost < event.from) {
                    hold.revived = hold.revived.or(Some(event.from));
                    hold.facts.revived = hold.facts.revived.or(Some(event));
                }
                hold.valid_to = hold.valid_to.max(Some(event.from));
                hold.facts.valid = Some(event);
            }
            (Op::Lost { .. }, _) => {
                hold.lost = hold.lost.or(Some(event.to));
                hold.facts.lost = hold.facts.lost.or(Some(event));
            }
            // A release that succeeded was one of a guard that was still valid when it was called.
            (Op::Release { .. }, Outcome::Ok) => {
                hold.valid_to = hold.valid_to.max(Some(event.from));
                hold.released = hold.released.or(Some(event.to));
                hold.facts.released = hold.facts.released.or(Some(event));
            }
            _ => {}
        }
    }
    holds
}

#[cfg(test)]
pub(crate) mod made {
    //! Histories by hand.

    use super::*;

    /// What the checker finds, which its evidence alone has to show too.
    #[track_caller]
    pub(crate) fn found(check: Checker, events: &[Event]) -> String {
        let violation = check(events).unwrap_err();
        let alone = check(&ended(&violation.evidence));
        assert!(alone.is_err(), "{violation} is not shown by {:?}", violation.evidence);
        violation.message
    }

    fn ended(events: &[Event]) -> Vec<Event> {
        let mut events = events.to_vec();
        events.sort_by_key(|event| event.to);
        events
    }

    pub(crate) fn at(millis: u64) -> Stamp {
        Stamp { at: millis * 1_000_000, tick: 0 }
    }

    pub(crate) fn event(client: &str, object: &str, from: u64, to: u64, op: Op) -> Event {
        let (client, object) = (client.to_owned(), object.to_owned());
        Event { from: at(from), to: at(to), client, object, op, outcome: Outcome::Ok }
    }

    pub(crate) fn acquire(client: &str, attempt: u64, from: u64, to: u64, token: u64) -> Event {
        ask(client, attempt, from, to, token, Ask::lock())
    }

    pub(crate) fn ask(client: &str, attempt: u64, from: u64, to: u64, token: u64, ask: Ask) -> Event {
        event(client, "x", from, to, Op::Acquire { attempt, ask, token: Some(token) })
    }

    pub(crate) fn valid(client: &str, attempt: u64, when: u64) -> Event {
        event(client, "x", when, when, Op::Valid { attempt })
    }

    pub(crate) fn lost(client: &str, attempt: u64, when: u64) -> Event {
        event(client, "x", when, when, Op::Lost { attempt })
    }

    pub(crate) fn release(client: &str, attempt: u64, from: u64, to: u64) -> Event {
        event(client, "x", from, to, Op::Release { attempt })
    }

    pub(crate) fn queued(client: &str, attempt: u64, when: u64) -> Event {
        queued_for(client, attempt, when, Ask::lock())
    }

    pub(crate) fn queued_for(client: &str, attempt: u64, when: u64, ask: Ask) -> Event {
        event(client, "x", when, when, Op::Queued { attempt, ask })
    }
}
