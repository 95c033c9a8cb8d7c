//! What is said of a history.

use std::fmt;

use crate::{
    checkers::{self, Violation, fenced},
    history::{Event, Op, Recording},
};

/// The setting of a run whose resources check no tokens: a control, in which updates have to be lost.
pub(super) const CONTROL: &str = "control";

/// A history and what all checkers say of it. Displayed, it is a line for a good one, and for a bad one the part that
/// shows each violation too.
#[derive(Debug)]
#[non_exhaustive]
pub struct Judged {
    /// The history.
    pub recording: Recording,
    /// What was found: of each checker the first.
    pub violations: Vec<Violation>,
}

impl Judged {
    /// Asks all checkers.
    #[must_use]
    pub fn new(recording: Recording) -> Self {
        let violations = checkers::check_all(&recording.ended());
        Self { recording, violations }
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

/// The faults that struck between the first and the last of these events.
pub(super) fn during<'a>(all: &'a [Event], evidence: &[Event]) -> impl Iterator<Item = &'a Event> + use<'a> {
    let from = evidence.iter().map(|event| event.from).min();
    let to = evidence.iter().map(|event| event.to).max();
    all.iter().filter(move |event| {
        let fault = matches!(event.op, Op::Fault { .. } | Op::Died | Op::Healed);
        fault && from.is_some_and(|from| event.to >= from) && to.is_some_and(|to| event.from <= to)
    })
}
