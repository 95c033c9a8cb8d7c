//! The figures of one history: a function of its events alone.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::{
    sightings,
    takeovers::{self, Margin, Measured},
};
use crate::{
    checkers::Violation,
    history::{Event, Op, Outcome},
    runs::Judged,
};

/// What is said of a history in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// No checker found anything.
    Good,
    /// What was found has been declared to be possible under the faults of the run.
    Declared(Vec<String>),
    /// A control lost updates, as it must, and nothing else was found.
    Control,
    /// A control lost no update, so that it shows nothing.
    Silent,
    /// What was found.
    Violations(Vec<String>),
}

impl Verdict {
    pub(super) fn of(judged: &Judged) -> Self {
        let told = |found: &[Violation]| found.iter().map(ToString::to_string).collect::<Vec<_>>();
        match (judged.is_control(), judged.passes()) {
            (true, true) => Self::Control,
            (true, false) if judged.violations.is_empty() => Self::Silent,
            (false, true) if judged.declared.is_empty() => Self::Good,
            (false, true) => Self::Declared(told(&judged.declared)),
            (_, false) => Self::Violations(told(&judged.violations)),
        }
    }
}

/// What was measured in one history, or in several.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Figures {
    /// How many operations succeeded, failed, and have an unknown outcome.
    pub(super) outcomes: [usize; 3],
    pub(super) faults: BTreeMap<String, usize>,
    /// Items whose push was acknowledged before their queue was found empty.
    pub(super) items: usize,
    /// Those of them that nobody acknowledged.
    pub(super) lost_items: usize,
    /// Acknowledged updates that are not in the counter at the end.
    pub(super) lost_updates: usize,
    pub(super) takeovers: Vec<Measured>,
    pub(super) margins: Vec<Margin>,
    pub(super) redeliveries: Vec<Measured>,
    pub(super) sightings: Vec<Measured>,
    pub(super) after_heal: Vec<f64>,
}

impl Figures {
    pub(super) fn of(events: &[Event]) -> Self {
        let (items, lost_items) = items(events);
        Self {
            items,
            lost_items,
            lost_updates: lost_updates(events),
            takeovers: takeovers::takeovers(events),
            margins: takeovers::margins(events),
            redeliveries: takeovers::redeliveries(events),
            sightings: sightings::sightings(events),
            after_heal: sightings::after_heal(events),
            ..Self::default()
        }
    }

    pub(super) fn of_judged(judged: &Judged) -> Self {
        let recording = &judged.recording;
        let faults = recording.faults().into_iter().map(|(kind, times)| (kind.to_owned(), times));
        Self { outcomes: recording.outcomes(), faults: faults.collect(), ..Self::of(&recording.events) }
    }

    pub(super) fn add(&mut self, other: Self) {
        for (sum, more) in self.outcomes.iter_mut().zip(other.outcomes) {
            *sum += more;
        }
        for (kind, times) in other.faults {
            *self.faults.entry(kind).or_default() += times;
        }
        self.items += other.items;
        self.lost_items += other.lost_items;
        self.lost_updates += other.lost_updates;
        self.takeovers.extend(other.takeovers);
        self.margins.extend(other.margins);
        self.redeliveries.extend(other.redeliveries);
        self.sightings.extend(other.sightings);
        self.after_heal.extend(other.after_heal);
    }
}

fn items(events: &[Event]) -> (usize, usize) {
    let drained: BTreeMap<_, _> = events
        .iter()
        .filter(|event| event.op == Op::Drained)
        .map(|event| (event.object.as_str(), event.from))
        .collect();
    // One that may have been acknowledged, by a call whose answer was lost, is not lost.
    let gone: HashSet<_> = events
        .iter()
        .filter_map(|event| match &event.op {
            Op::Ack { item, .. } if !matches!(event.outcome, Outcome::Fail(_)) => {
                Some((event.object.as_str(), item.as_str()))
            }
            _ => None,
        })
        .collect();
    let (mut pushed, mut lost) = (0, 0);
    for event in events.iter().filter(|event| event.outcome == Outcome::Ok) {
        let Op::Push { item, .. } = &event.op else { continue };
        if drained.get(event.object.as_str()).is_some_and(|end| event.to < *end) {
            pushed += 1;
            lost += usize::from(!gone.contains(&(event.object.as_str(), item.as_str())));
        }
    }
    (pushed, lost)
}

fn lost_updates(events: &[Event]) -> usize {
    let (mut said, mut last) = (BTreeMap::<&str, u64>::new(), BTreeMap::<&str, (u64, u64)>::new());
    for event in events {
        match &event.op {
            Op::Write { .. } if event.outcome == Outcome::Ok => *said.entry(&event.object).or_default() += 1,
            Op::Accepted { sequence, write: Some((_, wrote)), .. } => {
                let end = last.entry(&event.object).or_default();
                *end = (*sequence, *wrote).max(*end);
            }
            _ => {}
        }
    }
    let lost = said.iter().filter_map(|(object, said)| Some(said.saturating_sub(last.get(object)?.1)));
    usize::try_from(lost.sum::<u64>()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkers::made::*,
        history::{Header, Recording},
    };

    fn push(from: u64, item: &str) -> Event {
        let op = Op::Push { item: item.into(), priority: 0, group: None };
        event("producer", "jobs", from, from + 1, op)
    }

    fn ack(from: u64, item: &str) -> Event {
        event("consumer", "jobs", from, from + 1, Op::Ack { item: item.into(), token: 1 })
    }

    #[test]
    fn a_lost_item_was_pushed_and_is_not_there_when_nothing_is_left() {
        let drained = event("run", "jobs", 90, 90, Op::Drained);
        let unknown = Event { outcome: Outcome::Unknown("Timeout".into()), ..ack(20, "b") };
        let failed = Event { outcome: Outcome::Fail("Lost".into()), ..ack(20, "c") };
        let events = [push(0, "a"), push(2, "b"), push(4, "c"), push(95, "d"), ack(8, "a"), unknown, failed];
        assert_eq!(items(&events), (0, 0));
        assert_eq!(items(&[&events[..], &[drained]].concat()), (3, 1));
    }

    #[test]
    fn lost_updates_are_those_that_the_counter_does_not_have() {
        let write = |read| event("a", "till/0", 5, 6, Op::Write { token: 1, read, wrote: read + 1 });
        let accepted = |sequence, wrote| {
            let write = Some((wrote - 1, wrote));
            event("the store", "till/0", 90, 90, Op::Accepted { sequence, token: 1, write })
        };
        let refused = Event { outcome: Outcome::Fail("Fenced".into()), ..write(1) };
        assert_eq!(lost_updates(&[write(0), write(1), refused, accepted(1, 1), accepted(2, 2)]), 0);
        // In the order of the log, two wrote the same.
        assert_eq!(
            lost_updates(&[write(0), write(0), write(1), accepted(3, 2), accepted(1, 1), accepted(2, 1)]),
            1
        );
    }

    fn judged(settings: &[(&str, &str)], events: &[Event]) -> Verdict {
        let mut header = Header::new("none", 1);
        header.settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Verdict::of(&Judged::new(Recording::new(header, events.to_vec())))
    }

    #[test]
    fn violations_are_told_unless_they_are_declared() {
        let two =
            [acquire("a", 1, 0, 10, 1), acquire("b", 1, 40, 500, 2), valid("a", 1, 530), valid("b", 1, 540)];
        let held = |found: &[String]| found[0].starts_with("[intervals] x: held at once");
        assert!(matches!(judged(&[], &two), Verdict::Violations(found) if held(&found)));
        let early = [("declared", "leases may end early")];
        assert!(matches!(judged(&early, &two), Verdict::Declared(found) if held(&found)));
        assert_eq!(judged(&early, &two[..2]), Verdict::Good);
    }

    #[test]
    fn a_control_is_no_good_history() {
        let control = [("control", "unfenced")];
        assert_eq!(judged(&control, &[]), Verdict::Silent);
        let lost = |token, sequence| {
            event("the store", "till", 90, 90, Op::Accepted { sequence, token, write: Some((0, 1)) })
        };
        assert_eq!(judged(&control, &[lost(1, 1), lost(2, 2)]), Verdict::Control);
        assert!(matches!(judged(&[], &[lost(1, 1), lost(2, 2)]), Verdict::Violations(_)));
    }
}
