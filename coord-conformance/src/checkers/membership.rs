//! Membership: reads are never behind, watchers tell no lies, and all of them converge.
//!
//! * A read lists every registration that had returned before the read began and whose end began after it, and none that
//!   had ended before it began. Only registrations that their owners ended in good order are judged by this: nobody can
//!   say when another one was over.
//! * Nobody is listed who did not begin to register before.
//! * A watcher starts with a snapshot; whoever leaves was there; nobody joins twice with one token.
//! * Where the service is at rest, every watcher's set is the one that is read.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Judgement, Violation};
use crate::history::{Change, Event, Op, Outcome, Stamp};

/// The checker's name.
pub const NAME: &str = "membership";

type Members = BTreeMap<String, u64>;

/// Checks a history.
///
/// # Errors
/// The first violation.
pub fn check(events: &[Event]) -> Judgement {
    let mut services: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in events {
        let about = matches!(
            event.op,
            Op::Register { .. } | Op::Deregister { .. } | Op::Members { .. } | Op::Watched { .. }
        );
        if about {
            services.entry(&event.object).or_default().push(event);
        }
    }
    for (object, events) in services {
        let known = Known::new(&events);
        for event in events.iter().filter(|event| event.outcome == Outcome::Ok) {
            if let Op::Members { members, .. } = &event.op {
                read(object, event, members, &known)?;
            }
        }
        let watched = watchers(object, &events, &known)?;
        at_rest(object, &events, &watched)?;
    }
    Ok(())
}

fn fault(object: &str, message: impl std::fmt::Display) -> Violation {
    Violation::new(NAME, format!("{object}: {message}"))
}

/// A registration that was ended in good order.
struct Stay<'a> {
    id: &'a str,
    token: u64,
    since: Stamp,
    end: &'a Event,
}

struct Known<'a> {
    asked: HashMap<&'a str, Stamp>,
    stays: Vec<Stay<'a>>,
}

impl<'a> Known<'a> {
    fn new(events: &[&'a Event]) -> Self {
        let mut asked = HashMap::new();
        let mut begun: HashMap<(&str, u64), (&str, Stamp)> = HashMap::new();
        let mut stays = Vec::new();
        for event in events {
            if let Op::Register { attempt, id, token } = &event.op {
                let first = asked.entry(id.as_str()).or_insert(event.from);
                *first = event.from.min(*first);
                if token.is_some() {
                    begun.insert((&event.client, *attempt), (id, event.to));
                }
            }
        }
        for event in events.iter().filter(|event| event.outcome == Outcome::Ok) {
            if let Op::Deregister { attempt, token } = event.op
                && let Some((id, since)) = begun.get(&(event.client.as_str(), attempt))
            {
                stays.push(Stay { id, token, since: *since, end: event });
            }
        }
        Self { asked, stays }
    }

    fn invented(&self, object: &str, id: &str, seen: Stamp) -> Judgement {
        match self.asked.get(id) {
            Some(since) if *since < seen => Ok(()),
            _ => Err(fault(object, format!("{id:?} is listed but had not begun to register"))),
        }
    }
}

fn read(object: &str, event: &Event, members: &[(String, u64)], known: &Known<'_>) -> Judgement {
    for (id, _) in members {
        known.invented(object, id, event.to)?;
    }
    let listed: BTreeSet<_> = members.iter().map(|(id, token)| (id.as_str(), *token)).collect();
    for stay in &known.stays {
        let there = listed.contains(&(stay.id, stay.token));
        if there && stay.end.to < event.from {
            return Err(fault(
                object,
                format!("{:?} is still listed after it had deregistered: {event}", stay.id),
            ));
        }
        // With another token it was lost in between and came back.
        let other = members.iter().any(|(id, _)| id == stay.id);
        if !there && !other && stay.since < event.from && stay.end.from > event.to {
            return Err(fault(object, format!("{:?} is alive and not listed: {event}", stay.id)));
        }
    }
    Ok(())
}

fn watchers<'a>(
    object: &str,
    events: &[&'a Event],
    known: &Known<'_>,
) -> Judgement<BTreeMap<(&'a str, u64), Members>> {
    let mut sets: BTreeMap<(&str, u64), Members> = BTreeMap::new();
    let mut joined: BTreeSet<(&str, u64, &str, u64)> = BTreeSet::new();
    for event in events {
        let Op::Watched { watcher, change } = &event.op else { continue };
        let who = (event.client.as_str(), *watcher);
        let wrong = |what: &str| fault(object, format!("the watcher {who:?} {what}: {event}"));
        if let Change::Snapshot(members) = change {
            for (id, token) in members {
                known.invented(object, id, event.to)?;
                joined.insert((who.0, who.1, id, *token));
            }
            if sets.insert(who, members.iter().cloned().collect()).is_some() {
                return Err(wrong("starts anew"));
            }
            continue;
        }
        let Some(set) = sets.get_mut(&who) else { return Err(wrong("reports a change before its snapshot")) };
        match change {
            Change::Snapshot(_) => {}
            Change::Joined(id, token) => {
                known.invented(object, id, event.to)?;
                if !joined.insert((who.0, who.1, id, *token)) {
                    return Err(wrong("reports one registration twice"));
                }
                set.insert(id.clone(), *token);
            }
            Change::Updated(id, token) => {
                if set.get(id) != Some(token) {
                    return Err(wrong("reports new data of somebody who is not there"));
                }
            }
            Change::Left(id, token) => {
                if set.get(id) != Some(token) {
                    return Err(wrong("reports that somebody left who was not there"));
                }
                set.remove(id);
            }
        }
    }
    Ok(sets)
}

fn at_rest(object: &str, events: &[&Event], watched: &BTreeMap<(&str, u64), Members>) -> Judgement {
    let settled = events.iter().rev().find_map(|event| match &event.op {
        Op::Members { members, settled: true } => Some(members.iter().cloned().collect::<Members>()),
        _ => None,
    });
    let Some(settled) = settled else { return Ok(()) };
    match watched.iter().find(|(_, set)| **set != settled) {
        Some((who, set)) => {
            Err(fault(object, format!("the watcher {who:?} stays on {set:?}; the members are {settled:?}")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::made::*, *};

    fn register(id: &str, attempt: u64, from: u64, to: u64, token: u64) -> Event {
        event(id, "s", from, to, Op::Register { attempt, id: id.into(), token: Some(token) })
    }

    fn deregister(id: &str, attempt: u64, from: u64, to: u64, token: u64) -> Event {
        event(id, "s", from, to, Op::Deregister { attempt, token })
    }

    fn list(members: &[(&str, u64)]) -> Vec<(String, u64)> {
        members.iter().map(|(id, token)| ((*id).to_owned(), *token)).collect()
    }

    fn read(from: u64, to: u64, members: &[(&str, u64)], settled: bool) -> Event {
        event("r", "s", from, to, Op::Members { members: list(members), settled })
    }

    fn watched(when: u64, change: Change) -> Event {
        event("w", "s", when, when, Op::Watched { watcher: 1, change })
    }

    fn story() -> Vec<Event> {
        vec![
            watched(1, Change::Snapshot(vec![])),
            register("a", 1, 2, 10, 3),
            register("b", 2, 2, 11, 4),
            watched(12, Change::Joined("a".into(), 3)),
            watched(12, Change::Joined("b".into(), 4)),
            watched(13, Change::Updated("a".into(), 3)),
            deregister("a", 1, 20, 30, 3),
            watched(31, Change::Left("a".into(), 3)),
        ]
    }

    fn with(more: Event) -> String {
        let mut events = story();
        events.push(more);
        events.sort_by_key(|event| event.to);
        check(&events).unwrap_err().message
    }

    #[test]
    fn good() {
        let mut events = story();
        events.push(read(5, 9, &[("a", 3)], false));
        events.push(read(12, 19, &[("a", 3), ("b", 4)], false));
        events.push(read(25, 40, &[("a", 3), ("b", 4)], false));
        events.push(read(31, 40, &[("b", 4)], true));
        check(&events).unwrap();
    }

    #[test]
    fn reads_miss_nobody_and_show_no_ghost() {
        assert!(with(read(12, 19, &[("b", 4)], false)).contains("not listed"));
        assert!(with(read(31, 40, &[("a", 3), ("b", 4)], false)).contains("still listed"));
        assert!(with(read(31, 40, &[("z", 9)], false)).contains("had not begun"));
        assert!(with(read(0, 1, &[("a", 3)], false)).contains("had not begun"));
    }

    #[test]
    fn watchers_tell_no_lies() {
        assert!(with(watched(40, Change::Left("a".into(), 3))).contains("was not there"));
        assert!(with(watched(40, Change::Joined("a".into(), 3))).contains("twice"));
        assert!(with(watched(40, Change::Joined("z".into(), 9))).contains("had not begun"));
        assert!(with(watched(40, Change::Updated("a".into(), 3))).contains("not there"));
        assert!(with(watched(40, Change::Snapshot(vec![]))).contains("anew"));
        assert!(with(watched(0, Change::Left("a".into(), 3))).contains("before its snapshot"));
    }

    #[test]
    fn watchers_converge() {
        assert!(with(read(40, 41, &[], true)).contains("stays on"));
        assert!(with(read(40, 41, &[("b", 5)], true)).contains("stays on"));
    }
}
