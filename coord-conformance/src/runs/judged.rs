//! What is said of a history.

use std::fmt;

use crate::{
    checkers::{self, Violation, fenced, fifo, intervals, tokens},
    history::{Event, Op, Recording},
};

/// The setting of a run whose resources check no tokens: a control, in which updates have to be lost.
pub(super) const CONTROL: &str = "control";

/// The setting that says what a backend has declared to be possible under the faults of the run.
pub const DECLARED: &str = "declared";
/// Its value where leases may end early, by a wall clock that is stepped or a defect of the servers, so that two have one thing
/// at once.
pub(super) const EARLY: &str = "leases may end early";

/// A history and what all checkers say of it. Displayed, it is a line for a good one, and for a bad one the part that
/// shows each violation too.
#[derive(Debug)]
#[non_exhaustive]
pub struct Judged {
    /// The history.
    pub recording: Recording,
    /// What was found: of each checker the first.
    pub violations: Vec<Violation>,
    /// What was found, and has been declared to be possible under the faults of the run.
    pub declared: Vec<Violation>,
}

impl Judged {
    /// Asks all checkers.
    #[must_use]
    pub fn new(recording: Recording) -> Self {
        let events = recording.ended();
        let mut violations = checkers::check_all(&events);
        let mut declared = Vec::new();
        if recording.header.settings.get(DECLARED).is_some_and(|declared| declared == EARLY) {
            let events = without_leases(events);
            let mut undeclared = checkers::check_all(&events);
            let by_leases = [intervals::NAME, fifo::NAME, tokens::NAME];
            undeclared.retain(|violation| !by_leases.contains(&violation.checker));
            undeclared.extend(tokens::check_as_asked(&events).err());
            let found =
                |violation: &Violation| undeclared.iter().any(|other| other.checker == violation.checker);
            declared = violations.into_iter().filter(|violation| !found(violation)).collect();
            violations = undeclared;
        }
        Self { recording, violations, declared }
    }

    /// Whether it is a control: a run that is there to lose updates.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.recording.header.settings.contains_key(CONTROL)
    }

    /// Whether it is as it must be: no violations, and in a control lost updates and nothing else.
    #[must_use]
    pub fn passes(&self) -> bool {
        let lost = |violation: &Violation| violation.checker == fenced::NAME;
        match self.is_control() {
            true => !self.violations.is_empty() && self.violations.iter().all(lost),
            false => self.violations.is_empty(),
        }
    }

    /// One line about it.
    #[must_use]
    pub fn summary(&self) -> String {
        let header = &self.recording.header;
        let [ok, failed, unknown] = self.recording.outcomes();
        let faults: Vec<_> =
            self.recording.faults().iter().map(|(kind, times)| format!("{kind} {times}")).collect();
        let faults = if faults.is_empty() { "none".to_owned() } else { faults.join(", ") };
        let verdict = match (self.violations.len(), self.is_control(), self.passes()) {
            (0, false, _) if !self.declared.is_empty() => {
                let names: Vec<_> = self.declared.iter().map(|found| found.checker).collect();
                format!("no violations but what is declared: {}", names.join(", "))
            }
            (0, false, _) => "no violations".to_owned(),
            (0, true, _) => "the control lost no update, so it shows nothing".to_owned(),
            (_, true, true) => "the control lost updates, as it must".to_owned(),
            (1, ..) => "1 VIOLATION".to_owned(),
            (many, ..) => format!("{many} VIOLATIONS"),
        };
        format!(
            "{} seed {}: {} operations ({ok} ok, {failed} failed, {unknown} unknown), faults: {faults}; {verdict}",
            header.backend,
            header.seed,
            ok + failed + unknown,
        )
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())?;
        for violation in &self.violations {
            let (evidence, all) = (&violation.evidence, &self.recording.events);
            write!(f, "\n\n{violation}\n  shown by {} of {} events:", evidence.len(), all.len())?;
            evidence.iter().try_for_each(|event| write!(f, "\n    {event}"))?;
            let faults: Vec<_> = during(all, evidence).collect();
            if !faults.is_empty() {
                f.write_str("\n  in the meantime:")?;
                faults.iter().try_for_each(|event| write!(f, "\n    {event}"))?;
            }
        }
        Ok(())
    }
}

/// What is to be as ever if leases end early: without what is believed to be in hand, and who is a member meanwhile. Tokens and what they protect remain, and what nobody may lose, and how everything comes to rest.
fn without_leases(mut events: Vec<Event>) -> Vec<Event> {
    events.retain(|event| !matches!(event.op, Op::InHand { .. } | Op::Members { settled: false, .. }));
    events
}

/// The faults that struck between the first and the last of these events.
pub(super) fn during<'a>(all: &'a [Event], evidence: &[Event]) -> impl Iterator<Item = &'a Event> + use<'a> {
    let from = evidence.iter().map(|event| event.from).min();
    let to = evidence.iter().map(|event| event.to).max();
    all.iter().filter(move |event| {
        let fault = matches!(event.op, Op::Fault { .. } | Op::Died | Op::Healed);
        fault && from.is_some_and(|from| event.to >= from) && to.is_some_and(|to| event.from <= to)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Ask, Header, Outcome, Stamp};

    fn event(client: &str, from: u64, to: u64, op: Op) -> Event {
        let at = |at: u64| Stamp { at, tick: at };
        let (client, object) = (client.to_owned(), "lock/a".to_owned());
        Event { from: at(from), to: at(to), client, object, op, outcome: Outcome::Ok }
    }

    fn hold(client: &str, from: u64, to: u64, token: u64) -> [Event; 2] {
        let acquire = Op::Acquire { attempt: 1, ask: Ask::lock(), token: Some(token) };
        [event(client, from, to, acquire), event(client, 90, 91, Op::Valid { attempt: 1 })]
    }

    fn judge(declared: bool, second: u64) -> Judged {
        judged(declared, [hold("a", 1, 2, 5), hold("b", 10, 11, second)].concat())
    }

    fn judged(declared: bool, events: Vec<Event>) -> Judged {
        let mut header = Header::new("none", 1);
        if declared {
            header.settings.insert(DECLARED.into(), EARLY.into());
        }
        Judged::new(Recording::new(header, events))
    }

    #[test]
    fn two_holders_may_be_declared_and_tokens_may_not() {
        assert!(!judge(false, 6).passes());
        let declared = judge(true, 6);
        assert!(declared.passes() && !declared.declared.is_empty(), "{declared}");
        assert!(declared.summary().contains("but what is declared: intervals"), "{declared}");
        let back = judge(true, 4);
        assert_eq!(back.violations.iter().map(|found| found.checker).collect::<Vec<_>>(), ["tokens"]);
        // Granted before the other one, and told after it: its lease had ended on the way.
        let late = [hold("a", 10, 11, 5), hold("b", 5, 25, 4)].concat();
        assert!(judged(true, late.clone()).passes());
        assert!(!judged(false, late).passes());
    }
}
