//! Linearizability of a register: one order of all operations, in keeping with real time, must explain every answer.
//!
//! The search takes operations one by one, as G. Lowe's memoised form of the algorithm of Wing and Gong does: whatever
//! was called before the first remaining one returned may be next, and a set of taken operations that led nowhere with
//! some state is not tried with that state again. An operation of unknown outcome stays open: it may take effect at any
//! time after its call, also long after the client gave up, or never.

mod shrink;

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Judgement, Violation};
use crate::history::{Event, Given, Op, Outcome, Stamp};

/// The checker's name.
pub const NAME: &str = "register";

/// How many steps the search may take; far beyond what histories of the suite need.
const STEPS: usize = 2_000_000;

/// Checks a history.
///
/// # Errors
/// The first object whose history has no explanation.
pub fn check(events: &[Event]) -> Judgement {
    let mut objects = BTreeMap::<&str, Vec<&Event>>::new();
    for event in events {
        if matches!(event.op, Op::Read { .. } | Op::Put { .. }) {
            objects.entry(&event.object).or_default().push(event);
        }
    }
    objects.into_iter().try_for_each(|(object, events)| explain(object, &events))
}

/// One operation as the search sees it.
#[derive(Clone)]
struct Call<'a> {
    event: &'a Event,
    from: Stamp,
    /// When it had certainly taken effect; `None` if it may never.
    to: Option<Stamp>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Read(Option<u64>),
    Write {
        given: Given,
        value: Option<&'a str>,
    },
    /// The condition did not hold.
    Refused(Given),
}

/// The versions of values, as far as anybody saw them.
fn versions<'a>(object: &str, events: &[&'a Event]) -> Judgement<HashMap<&'a str, u64>> {
    let (mut versions, mut values) = (HashMap::new(), HashMap::new());
    for event in events {
        let seen = match &event.op {
            Op::Read { found: Some((value, version)) } => Some((value.as_str(), *version)),
            Op::Put { value: Some(value), version: Some(version), .. } => Some((value.as_str(), *version)),
            _ => None,
        };
        let Some((value, version)) = seen else { continue };
        let other = *versions.entry(value).or_insert(version);
        let twin = *values.entry(version).or_insert(value);
        if other != version || twin != value {
            let message = format!(
                "{object}: value {value:?} has version {version}, and there are {twin:?} and version {other}"
            );
            let told = |event: &&&Event| {
                let (value_of, version_of) = match &event.op {
                    Op::Read { found: Some((value, version)) } => (value, *version),
                    Op::Put { value: Some(value), version: Some(version), .. } => (value, *version),
                    _ => return false,
                };
                value_of == value && version_of == other || value_of == twin && version_of == version
            };
            let first = events.iter().find(told);
            return Err(Violation::new(NAME, message).shown_by(first.copied().into_iter().chain([*event])));
        }
    }
    Ok(versions)
}

fn calls<'a>(events: &[&'a Event]) -> Vec<Call<'a>> {
    let mut calls: Vec<_> = events
        .iter()
        .filter_map(|&event| {
            let (step, known) = match (&event.op, &event.outcome) {
                (Op::Read { found }, Outcome::Ok) => {
                    (Step::Read(found.as_ref().map(|(_, version)| *version)), true)
                }
                (Op::Put { given, value, .. }, Outcome::Ok) => {
                    (Step::Write { given: *given, value: value.as_deref() }, true)
                }
                (Op::Put { given, value, .. }, Outcome::Unknown(_)) => {
                    (Step::Write { given: *given, value: value.as_deref() }, false)
                }
                (Op::Put { given, .. }, Outcome::Fail(why)) if why.contains("ConditionFailed") => {
                    (Step::Refused(*given), true)
                }
                // A read that failed says nothing, and what failed without effect is as if it never was.
                _ => return None,
            };
            Some(Call { event, from: event.from, to: known.then_some(event.to), step })
        })
        .collect();
    calls.sort_by_key(|call| call.from);
    calls
}

/// What the register holds: the version of its value (zero if nobody ever saw it), and which write it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    present: Option<(usize, u64)>,
    /// The greatest version so far.
    highest: u64,
}

impl State {
    fn holds(self, given: Given) -> bool {
        match (given, self.present) {
            (Given::Anything, _) | (Given::Absent, None) => true,
            // Nobody has version zero, in which a write that nobody ever saw is kept here.
            (Given::Version(version), Some((_, present))) => version == present && version > 0,
            _ => false,
        }
    }

    /// The state after a call, if the call can happen in this one.
    fn after(self, at: usize, call: &Call<'_>, versions: &HashMap<&str, u64>) -> Option<Self> {
        match &call.step {
            Step::Read(found) => {
                let present = self.present.map(|(_, version)| version);
                (present == *found).then_some(self)
            }
            Step::Refused(given) => (!self.holds(*given)).then_some(self),
            Step::Write { given, .. } if !self.holds(*given) => None,
            Step::Write { value: None, .. } => Some(Self { present: None, ..self }),
            Step::Write { value: Some(value), .. } => {
                let version = versions.get(value).copied().unwrap_or(0);
                (version == 0 || version > self.highest)
                    .then(|| Self { present: Some((at, version)), highest: self.highest.max(version) })
            }
        }
    }
}

fn explain(object: &str, events: &[&Event]) -> Judgement {
    let versions = versions(object, events)?;
    let calls = calls(events);
    let message = match search(&calls, &versions, STEPS) {
        Search::Explained => return Ok(()),
        Search::Stuck(at) => {
            let at = at.map(|at| calls[at].event.to_string()).unwrap_or_default();
            format!("{object}: no order explains what was seen; the search gets as far as {at}")
        }
        Search::GaveUp => {
            return Err(Violation::new(NAME, format!("{object}: no explanation in {STEPS} steps")));
        }
    };
    let shortest = shrink::shortest(calls, &versions);
    Err(Violation::new(NAME, message).shown_by(shortest.iter().map(|call| call.event)))
}

/// How a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Search {
    Explained,
    /// No order is one; the operation that no order gets past.
    Stuck(Option<usize>),
    /// It took too many steps.
    GaveUp,
}

fn search(calls: &[Call<'_>], versions: &HashMap<&str, u64>, steps: usize) -> Search {
    let mut tried = HashSet::new();
    let mut open = vec![(vec![0u64; calls.len().div_ceil(64)], State { present: None, highest: 0 })];
    let has = |taken: &[u64], at: usize| taken[at / 64] >> (at % 64) & 1 == 1;
    let (mut furthest, mut stuck) = (0, None);
    while let Some((taken, state)) = open.pop() {
        let remaining = || (0..calls.len()).filter(|at| !has(&taken, *at));
        // Whatever was called after this cannot be next.
        let Some(first) = remaining().filter_map(|at| calls[at].to).min() else { return Search::Explained };
        if tried.len() > steps {
            return Search::GaveUp;
        }
        let done = calls.len() - remaining().count();
        if done >= furthest {
            (furthest, stuck) = (done, remaining().find(|at| calls[*at].to == Some(first)));
        }
        let mut next: Vec<_> = remaining().take_while(|at| calls[*at].from < first).collect();
        // The last is tried first: what certainly happened, the earlier it ended the sooner.
        next.sort_by_key(|at| std::cmp::Reverse(calls[*at].to.map_or((1, None), |to| (0, Some(to)))));
        for at in next {
            let Some(state) = state.after(at, &calls[at], versions) else { continue };
            let mut taken = taken.clone();
            taken[at / 64] |= 1 << (at % 64);
            if tried.insert((taken.clone(), state)) {
                open.push((taken, state));
            }
        }
    }
    Search::Stuck(stuck)
}

#[cfg(test)]
mod tests {
    use super::{super::made::*, *};

    fn read(from: u64, to: u64, found: Option<(&str, u64)>) -> Event {
        let found = found.map(|(value, version)| (value.to_owned(), version));
        event("reader", "k", from, to, Op::Read { found })
    }

    fn put(from: u64, to: u64, given: Given, value: &str, version: u64) -> Event {
        let value = Some(value.to_owned());
        event("writer", "k", from, to, Op::Put { given, value, version: Some(version) })
    }

    fn unknown(from: u64, to: u64, given: Given, value: Option<&str>) -> Event {
        let op = Op::Put { given, value: value.map(str::to_owned), version: None };
        Event { outcome: Outcome::Unknown("dropped".into()), ..event("writer", "k", from, to, op) }
    }

    fn refused(from: u64, to: u64, given: Given) -> Event {
        let op = Op::Put { given, value: Some(format!("refused {from}")), version: None };
        Event { outcome: Outcome::Fail("ConditionFailed".into()), ..event("writer", "k", from, to, op) }
    }

    #[test]
    fn good() {
        check(&[
            put(0, 10, Given::Absent, "a", 1),
            read(5, 12, None),
            read(6, 12, Some(("a", 1))),
            put(20, 40, Given::Version(1), "b", 2),
            refused(21, 39, Given::Version(1)),
            read(30, 35, Some(("b", 2))),
        ])
        .unwrap();
    }

    #[test]
    fn a_stale_read() {
        let events = [
            put(0, 10, Given::Absent, "a", 1),
            put(20, 30, Given::Anything, "b", 2),
            read(31, 32, Some(("a", 1))),
        ];
        assert!(found(check, &events).contains("no order"));
    }

    #[test]
    fn the_evidence_is_the_least_that_has_no_order() {
        let mut events = vec![put(0, 1, Given::Absent, "v0", 1)];
        for at in 1..60 {
            let when = at * 10;
            let (before, value) = (format!("v{}", at - 1), format!("v{at}"));
            events.push(read(when, when + 1, Some((&before, at))));
            events.push(refused(when + 1, when + 2, Given::Absent));
            events.push(unknown(when + 2, when + 3, Given::Version(1), Some(&format!("never {at}"))));
            events.push(put(when + 4, when + 5, Given::Version(at), &value, at + 1));
        }
        events.push(read(603, 604, Some(("v30", 31))));
        events.push(read(605, 606, Some(("v59", 60))));
        let evidence = check(&events).unwrap_err().evidence;
        let told: Vec<_> = evidence.iter().map(|event| event.from.at / 1_000_000).collect();
        // The write of what was read too late, one after it, and the read.
        assert_eq!(evidence.len(), 3, "{told:?}");
        assert!(check(&evidence).is_err());
    }

    #[test]
    fn two_writes_on_one_version() {
        let events = [
            put(0, 10, Given::Absent, "a", 1),
            put(20, 40, Given::Version(1), "b", 2),
            put(20, 40, Given::Version(1), "c", 3),
        ];
        assert!(check(&events).is_err());
    }

    #[test]
    fn a_refusal_without_reason() {
        assert!(check(&[put(0, 10, Given::Absent, "a", 1), refused(20, 30, Given::Version(1))]).is_err());
    }

    #[test]
    fn a_write_that_nobody_saw_has_no_version_to_be_met() {
        check(&[
            unknown(0, 1, Given::Anything, Some("never seen")),
            refused(10, 11, Given::Absent),
            refused(20, 21, Given::Version(0)),
        ])
        .unwrap();
    }

    #[test]
    fn a_version_that_comes_back() {
        let events = [put(0, 10, Given::Anything, "a", 1), put(20, 30, Given::Anything, "b", 1)];
        assert!(found(check, &events).contains("version 1"));
        let back = [put(0, 10, Given::Anything, "a", 2), put(20, 30, Given::Anything, "b", 1)];
        assert!(check(&back).is_err());
    }

    #[test]
    fn what_is_unknown_stays_open() {
        let late = |read| {
            [
                put(0, 10, Given::Absent, "a", 1),
                unknown(11, 12, Given::Version(1), Some("b")),
                unknown(11, 12, Given::Anything, None),
                self::read(20, 21, Some(("a", 1))),
                read,
            ]
        };
        check(&late(read(30, 31, Some(("b", 2))))).unwrap();
        check(&late(read(30, 31, Some(("a", 1))))).unwrap();
        check(&late(read(30, 31, None))).unwrap();
        assert!(check(&late(read(30, 31, Some(("c", 3))))).is_err());
    }
}
