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

fn fault(object: &str, message: impl std::fmt::Display) -> Violation {
    Violation::new(NAME, format!("{object}: {message}"))
}

fn in_order(object: &str, log: &BTreeMap<u64, &Event>) -> Judgement {
    let (mut mark, mut value) = (0, None);
    for event in log.values() {
        let Op::Accepted { token, write, .. } = event.op else { continue };
        if token < mark {
            return Err(fault(object, format!("token {token} was accepted after {mark}: {event}")));
        }
        mark = token;
        if let Some((read, wrote)) = write {
            if let Some(value) = value.filter(|value| *value != read) {
                return Err(fault(
                    object,
                    format!("an update was lost: {value} was there, {read} was read: {event}"),
                ));
            }
            value = Some(wrote);
        }
    }
    Ok(())
}

fn acknowledged(object: &str, events: &[Event], log: &BTreeMap<u64, &Event>) -> Judgement {
    let mut accepted: HashMap<(u64, u64, u64), usize> = HashMap::new();
    for event in log.values() {
        if let Op::Accepted { token, write: Some((read, wrote)), .. } = event.op {
            *accepted.entry((token, read, wrote)).or_default() += 1;
        }
    }
    let mut certain: HashMap<(u64, u64, u64), usize> = HashMap::new();
    let mut possible = certain.clone();
    for event in events.iter().filter(|event| event.object == object) {
        let Op::Write { token, read, wrote } = event.op else { continue };
        let write = (token, read, wrote);
        match event.outcome {
            Outcome::Ok => {
                *certain.entry(write).or_default() += 1;
                *possible.entry(write).or_default() += 1;
            }
            Outcome::Unknown(_) => *possible.entry(write).or_default() += 1,
            Outcome::Fail(_) => {
                possible.entry(write).or_default();
            }
        }
    }
    for (write, times) in &certain {
        let there = accepted.get(write).copied().unwrap_or(0);
        if there < *times {
            return Err(fault(
                object,
                format!("an acknowledged write is gone: token, read and wrote {write:?}"),
            ));
        }
    }
    for (write, times) in possible {
        let there = accepted.get(&write).copied().unwrap_or(0);
        if there > times {
            return Err(fault(
                object,
                format!("a write that was refused took effect: token, read and wrote {write:?}"),
            ));
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
        check(&events).unwrap_err().message
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
        assert!(check(&events).unwrap_err().message.contains("refused took effect"));
    }
}
