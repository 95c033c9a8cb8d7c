//! First in, first out.
//!
//! * Whoever was seen waiting before another one of no higher priority asked has the smaller token.
//! * A claim is not granted past claims that stand ahead of it: those that hold with a smaller token, or wait, during the
//!   whole of its acquisition must leave room for it, whatever becomes of them later.

use std::collections::HashMap;

use super::{Hold, Judgement, Violation, holds};
use crate::history::{Ask, AttemptId, Event, Op, Stamp};

/// The checker's name.
pub const NAME: &str = "fifo";

/// Checks a history.
///
/// # Errors
/// The first violation.
pub fn check(events: &[Event]) -> Judgement {
    for (object, holds) in holds(events) {
        let waits = waits(object, events);
        for hold in &holds {
            in_order(object, hold, &holds)?;
            eligible(object, hold, &holds, &waits)?;
        }
    }
    Ok(())
}

/// An attempt that certainly stood in the line for a while.
struct Wait<'a> {
    client: &'a str,
    attempt: AttemptId,
    ask: &'a Ask,
    since: Stamp,
    /// When the acquisition ended in whatever way; `None` if it goes on.
    until: Option<Stamp>,
    /// The sighting, and the acquisition if it ended.
    facts: (&'a Event, Option<&'a Event>),
}

fn waits<'a>(object: &str, events: &'a [Event]) -> Vec<Wait<'a>> {
    let of_object = || events.iter().filter(|event| event.object == object);
    let ends: HashMap<_, _> = of_object()
        .filter_map(|event| match event.op {
            Op::Acquire { attempt, .. } => Some(((event.client.as_str(), attempt), event)),
            _ => None,
        })
        .collect();
    of_object()
        .filter_map(|event| match &event.op {
            Op::Queued { attempt, ask } => {
                let (client, attempt) = (event.client.as_str(), *attempt);
                let end = ends.get(&(client, attempt)).copied();
                let (since, until) = (event.to, end.map(|end| end.to));
                Some(Wait { client, attempt, ask, since, until, facts: (event, end) })
            }
            _ => None,
        })
        .collect()
}

fn in_order(object: &str, later: &Hold<'_>, holds: &[Hold<'_>]) -> Judgement {
    let before = |first: &&Hold<'_>| {
        first.queued.is_some_and(|queued| queued < later.acquire.from)
            && first.ask.priority >= later.ask.priority
            && first.token > later.token
    };
    match holds.iter().find(before) {
        Some(first) => Err(Violation::new(
            NAME,
            format!("{object}: {first} was waiting before {later} asked, and came after it"),
        )
        .shown_by(first.evidence().chain([later.acquire]))),
        None => Ok(()),
    }
}

fn eligible(object: &str, hold: &Hold<'_>, holds: &[Hold<'_>], waits: &[Wait<'_>]) -> Judgement {
    let (from, to) = (hold.acquire.from, hold.acquire.to);
    let held = holds.iter().filter(|other| {
        other.token < hold.token
            && other.acquire.to < from
            && other.certainly_to().is_some_and(|end| end > to)
    });
    let waited = waits.iter().filter(|wait| {
        wait.since < from
            && wait.until.is_none_or(|until| until > to)
            && wait.ask.priority >= hold.ask.priority
    });
    let mut evidence = vec![hold.acquire];
    let mut ahead = Vec::new();
    for other in held {
        evidence.extend(other.evidence());
        ahead.push((other.ask.weight, other.to_string()));
    }
    for wait in waited {
        evidence.extend([wait.facts.0].into_iter().chain(wait.facts.1));
        let text = format!("{} attempt {}, which was waiting", wait.client, wait.attempt);
        ahead.push((wait.ask.weight, text));
    }
    let taken: u64 = ahead.iter().map(|(weight, _)| u64::from(*weight)).sum();
    if ahead.is_empty() || taken + u64::from(hold.ask.weight) <= u64::from(hold.ask.limit) {
        return Ok(());
    }
    let ahead: Vec<_> = ahead.into_iter().map(|(_, text)| text).collect();
    let message = format!("{object}: {hold} was granted past {}", ahead.join(" and "));
    Err(Violation::new(NAME, message).shown_by(evidence))
}

#[cfg(test)]
mod tests {
    use super::{super::made::*, *};

    #[track_caller]
    fn found(events: &[Event]) -> String {
        super::super::made::found(check, events)
    }

    #[test]
    fn good() {
        check(&[
            acquire("a", 1, 0, 10, 1),
            release("a", 1, 20, 21),
            queued("b", 2, 12),
            acquire("b", 2, 11, 22, 2),
            release("b", 2, 23, 24),
            queued("c", 3, 14),
            acquire("c", 3, 13, 25, 3),
        ])
        .unwrap();
    }

    #[test]
    fn overtaken() {
        let events = [
            acquire("a", 1, 0, 10, 1),
            release("a", 1, 20, 21),
            queued("b", 2, 12),
            acquire("b", 2, 11, 25, 3),
            acquire("c", 3, 13, 22, 2),
            release("c", 3, 23, 24),
        ];
        assert!(found(&events).contains("came after it"));
    }

    #[test]
    fn a_higher_priority_may_overtake() {
        let events = |priority| {
            [
                queued_for("b", 2, 12, Ask::candidate("b", 0)),
                ask("b", 2, 11, 25, 3, Ask::candidate("b", 0)),
                ask("c", 3, 13, 22, 2, Ask::candidate("c", priority)),
            ]
        };
        check(&events(1)).unwrap();
        assert!(found(&events(0)).contains("came after it"));
    }

    #[test]
    fn granted_past_a_waiter_with_a_smaller_token() {
        let events = [queued("b", 2, 12), acquire("b", 2, 11, 25, 2), acquire("c", 3, 13, 22, 3)];
        assert!(found(&events).contains("granted past"));
    }

    #[test]
    fn granted_past_a_waiter_that_waits_for_ever() {
        assert!(found(&[queued("b", 2, 12), acquire("c", 3, 13, 22, 3)]).contains("granted past"));
        check(&[queued("b", 2, 14), acquire("c", 3, 13, 22, 3)]).unwrap();
    }

    #[test]
    fn few_permits_do_not_slip_past_many() {
        let events = |few| {
            [
                ask("a", 1, 0, 10, 1, Ask::permits(3, 4)),
                valid("a", 1, 30),
                queued_for("b", 2, 12, Ask::permits(2, 4)),
                ask("b", 2, 11, 40, 2, Ask::permits(2, 4)),
                ask("c", 3, 13, few, 3, Ask::permits(1, 4)),
            ]
        };
        check(&events(41)).unwrap();
        assert!(found(&events(22)).contains("granted past"));
    }
}
