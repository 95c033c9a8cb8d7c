//! Fenced resources: what was accepted, in the order of the resource's own log.
//!
//! * Tokens never go back.
//! * Every write was made by somebody who had read the value that it replaced: no update is lost.
//! * Every write that was acknowledged is in the log once; one that was refused is not.

use std::collections::{BTreeMap, HashMap};

use super::{Judgement, Violation};
use crate::history::{Event, Op, Outcome};

/// The checker's name.
pub const NAME: &str = "fenced";

/// Checks a history.
///
/// # Errors
/// The first violation.
pub fn check(events: &[Event]) -> Judgement {
    let mut logs: BTreeMap<&str, BTreeMap<u64, &Event>> = BTreeMap::new();
    for event in events {
        if let Op::Accepted { sequence, .. } = &event.op {
            logs.entry(&event.object).or_default().insert(*sequence, event);
        }
    }
    for (object, log) in logs {
        in_order(object, &log)?;
        acknowledged(object, events, &log)?;
    }
    Ok(())
}

fn fault<'a>(
    object: &str,
    message: impl std::fmt::Display,
    evidence: impl IntoIterator<Item = &'a Event>,
) -> Violation {
    Violation::new(NAME, format!("{object}: {message}")).shown_by(evidence)
}

fn in_order(object: &str, log: &BTreeMap<u64, &Event>) -> Judgement {
    // The last one, and the last one that wrote.
    let (mut last, mut written): (Option<&Event>, Option<(&Event, u64)>) = (None, None);
    for event in log.values() {
        let Op::Accepted { token, write, .. } = event.op else { continue };
        if let Some(before) = last
            && let Op::Accepted { token: mark, .. } = before.op
            && token < mark
        {
            let message = format!("token {token} was accepted after {mark}: {event}");
            return Err(fault(object, message, [before, event]));
        }
        last = Some(event);
        if let Some((read, wrote)) = write {
            if let Some((before, value)) = written.filter(|(_, value)| *value != read) {
                let message = format!("an update was lost: {value} was there, {read} was read: {event}");
                return Err(fault(object, message, [before, event]));
            }
            written = Some((event, wrote));
        }
    }
    Ok(())
}

/// Token, value read and value written: by this a write is known.
type Key = (u64, u64, u64);

fn acknowledged(object: &str, events: &[Event], log: &BTreeMap<u64, &Event>) -> Judgement {
    let mut accepted: HashMap<Key, Vec<&Event>> = HashMap::new();
    for event in log.values() {
        if let Op::Accepted { token, write: Some((read, wrote)), .. } = event.op {
            accepted.entry((token, read, wrote)).or_default().push(event);
        }
    }
    let mut said: BTreeMap<Key, Vec<&Event>> = BTreeMap::new();
    for event in events.iter().filter(|event| event.object == object) {
        if let Op::Write { token, read, wrote } = event.op {
            said.entry((token, read, wrote)).or_default().push(event);
        }
    }
    for (key, said) in said {
        let there = accepted.get(&key).map_or(&[][..], Vec::as_slice);
        let certain = said.iter().filter(|event| event.outcome == Outcome::Ok).count();
        let possible = said.iter().filter(|event| !matches!(event.outcome, Outcome::Fail(_))).count();
        if there.len() < certain {
            // What stands in its place, if anything does.
            let instead = log.values().find(
                |event| matches!(event.op, Op::Accepted { write: Some((read, _)), .. } if read == key.1),
            );
            let evidence = said.iter().copied().chain(instead.or(log.values().next()).copied());
            let message = format!("an acknowledged write is gone: token, read and wrote {key:?}");
            return Err(fault(object, message, evidence));
        }
        if there.len() > possible {
            let message = format!("a write that was refused took effect: token, read and wrote {key:?}");
            return Err(fault(object, message, said.into_iter().chain(there.iter().copied())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::made::*, *};

    fn accepted(sequence: u64, token: u64, write: Option<(u64, u64)>) -> Event {
        event("log", "x", 99, 99, Op::Accepted { sequence, token, write })
    }

    fn write(token: u64, read: u64, wrote: u64) -> Event {
        event("a", "x", 1, 2, Op::Write { token, read, wrote })
    }

    fn story() -> Vec<Event> {
        vec![
            accepted(1, 5, None),
            accepted(2, 5, Some((0, 1))),
            accepted(3, 7, None),
            accepted(4, 7, Some((1, 2))),
            accepted(5, 7, Some((2, 3))),
            write(5, 0, 1),
            write(7, 1, 2),
            write(7, 2, 3),
        ]
    }

    fn with(more: Event) -> String {
        let mut events = story();
        events.push(more);
        found(check, &events)
    }

    #[test]
    fn good() {
        let mut events = story();
        let mut refused = write(5, 1, 2);
        refused.outcome = Outcome::Fail("Fenced".into());
        // Its writer was killed: nobody knows, and the log says that it came through.
        events.extend([refused, accepted(6, 9, Some((3, 4)))]);
        check(&events).unwrap();
    }

    #[test]
    fn tokens_go_back() {
        assert!(with(accepted(6, 5, None)).contains("was accepted after"));
    }

    #[test]
    fn lost_update() {
        assert!(with(accepted(6, 7, Some((1, 2)))).contains("an update was lost"));
    }

    #[test]
    fn acknowledged_or_refused() {
        assert!(with(write(7, 3, 4)).contains("is gone"));
        let mut refused = write(9, 3, 4);
        refused.outcome = Outcome::Fail("Fenced".into());
        let mut events = story();
        events.extend([refused, accepted(6, 9, Some((3, 4)))]);
        assert!(found(check, &events).contains("refused took effect"));
    }
}
