//! Membership: reads are never behind, watchers tell no lies, and all of them converge.
//!
//! * A read lists every registration that had returned before the read began and whose end began after it, and none that
//!   had ended before it began. Only registrations that their owners ended in good order are judged by this: nobody can
//!   say when another one was over.
//! * Nobody is listed who did not begin to register before.
//! * A watcher starts with a snapshot; whoever leaves was there; nobody joins twice with one token, unless a
//!   later registration with the same id has hidden it in the meantime.
//! * Where the service is at rest, every watcher's set is the one that is read.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{Judgement, Violation, dead};
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
    let dead = dead(events);
    for (object, events) in services {
        let known = Known::new(&events);
        for event in events.iter().filter(|event| event.outcome == Outcome::Ok) {
            if let Op::Members { members, .. } = &event.op {
                read(object, event, members, &known)?;
            }
        }
        let watched = watchers(object, &events, &known)?;
        at_rest(object, &known, &events, &watched, &dead)?;
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

/// A registration that was ended in good order.
struct Stay<'a> {
    id: &'a str,
    token: u64,
    /// Its beginning. One that ended with another token than it began with was lost in between, and came back nobody knows
    /// when.
    begin: Option<&'a Event>,
    end: &'a Event,
}

struct Known<'a> {
    registers: Vec<&'a Event>,
    asked: HashMap<&'a str, Stamp>,
    stays: Vec<Stay<'a>>,
}

impl<'a> Known<'a> {
    fn new(events: &[&'a Event]) -> Self {
        let mut asked = HashMap::new();
        let mut begun: HashMap<(&str, u64), (&str, u64, &Event)> = HashMap::new();
        let (mut registers, mut stays) = (Vec::new(), Vec::new());
        for event in events {
            if let Op::Register { attempt, id, token } = &event.op {
                let first = asked.entry(id.as_str()).or_insert(event.from);
                *first = event.from.min(*first);
                registers.push(*event);
                if let Some(token) = token {
                    begun.insert((&event.client, *attempt), (id, *token, event));
                }
            }
        }
        for event in events.iter().filter(|event| event.outcome == Outcome::Ok) {
            if let Op::Deregister { attempt, token } = event.op
                && let Some((id, first, begin)) = begun.get(&(event.client.as_str(), attempt))
            {
                stays.push(Stay { id, token, begin: (*first == token).then_some(*begin), end: event });
            }
        }
        Self { registers, asked, stays }
    }

    /// These events, and the registrations of these members, who would be unknown otherwise.
    fn with<'b>(
        &self,
        members: impl IntoIterator<Item = (&'b String, u64)>,
        events: impl IntoIterator<Item = &'a Event>,
    ) -> Vec<&'a Event> {
        let ids: HashSet<&str> = members.into_iter().map(|(id, _)| id.as_str()).collect();
        let of_them =
            |event: &&Event| matches!(&event.op, Op::Register { id, .. } if ids.contains(id.as_str()));
        self.registers.iter().copied().filter(of_them).chain(events).collect()
    }

    /// What a watcher told of the members that it is about, from its first report.
    fn story(&self, events: &[&'a Event], who: (&str, u64), about: impl Fn(&str) -> bool) -> Vec<&'a Event> {
        let mut reports = Vec::new();
        for event in events {
            let Op::Watched { watcher, change } = &event.op else { continue };
            let own = (event.client.as_str(), *watcher) == who;
            let first = matches!(change, Change::Snapshot(_));
            if own && (first || change.members().iter().any(|(id, _)| about(id))) {
                reports.push((*event, change.members()));
            }
        }
        let members: Vec<_> = reports.iter().flat_map(|(_, members)| members.iter().copied()).collect();
        self.with(members, reports.iter().map(|(event, _)| *event))
    }

    fn invented(&self, object: &str, id: &str, seen: &Event) -> Judgement {
        match self.asked.get(id) {
            Some(since) if *since < seen.to => Ok(()),
            _ => Err(fault(object, format!("{id:?} is listed but had not begun to register"), [seen])),
        }
    }
}

fn listed_as(members: &[(String, u64)]) -> impl Iterator<Item = (&String, u64)> {
    members.iter().map(|(id, token)| (id, *token))
}

fn read<'a>(object: &str, event: &'a Event, members: &[(String, u64)], known: &Known<'a>) -> Judgement {
    for (id, _) in members {
        known.invented(object, id, event)?;
    }
    let listed: BTreeSet<_> = members.iter().map(|(id, token)| (id.as_str(), *token)).collect();
    for stay in &known.stays {
        let there = listed.contains(&(stay.id, stay.token));
        if there && stay.end.to < event.from {
            let message = format!("{:?} is still listed after it had deregistered: {event}", stay.id);
            return Err(fault(object, message, known.with(listed_as(members), [stay.end, event])));
        }
        // With another token it was lost in between and came back.
        let other = members.iter().any(|(id, _)| id == stay.id);
        let begin = stay.begin.filter(|begin| begin.to < event.from);
        if !there
            && !other
            && stay.end.from > event.to
            && let Some(begin) = begin
        {
            let message = format!("{:?} is alive and not listed: {event}", stay.id);
            return Err(fault(object, message, known.with(listed_as(members), [begin, stay.end, event])));
        }
    }
    Ok(())
}

type Watchers<'a> = BTreeMap<(&'a str, u64), Members>;

fn watchers<'a>(object: &str, events: &[&'a Event], known: &Known<'a>) -> Judgement<Watchers<'a>> {
    let mut sets = Watchers::new();
    let mut joined: HashMap<(&str, u64, &str), u64> = HashMap::new();
    for (at, event) in events.iter().enumerate() {
        let Op::Watched { watcher, change } = &event.op else { continue };
        let who = (event.client.as_str(), *watcher);
        let wrong = |what: &str| {
            let about = |member: &str| change.members().iter().any(|(id, _)| *id == member);
            let story = known.story(&events[..=at], who, about);
            fault(object, format!("the watcher {who:?} {what}: {event}"), story)
        };
        if let Change::Snapshot(members) = change {
            members.iter().try_for_each(|(id, _)| known.invented(object, id, event))?;
            joined.extend(members.iter().map(|(id, token)| ((who.0, who.1, id.as_str()), *token)));
            if sets.insert(who, members.iter().cloned().collect()).is_some() {
                return Err(wrong("starts anew"));
            }
            continue;
        }
        let Some(set) = sets.get_mut(&who) else { return Err(wrong("reports a change before its snapshot")) };
        match change {
            Change::Snapshot(_) => {}
            Change::Joined(id, token) => {
                known.invented(object, id, event)?;
                if joined.insert((who.0, who.1, id), *token) == Some(*token) {
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

fn at_rest(
    object: &str,
    known: &Known<'_>,
    events: &[&Event],
    watched: &Watchers<'_>,
    dead: &HashSet<&str>,
) -> Judgement {
    let settled = events.iter().rev().find_map(|event| match &event.op {
        Op::Members { members, settled: true } => {
            Some((members.iter().cloned().collect::<Members>(), *event))
        }
        _ => None,
    });
    let Some((settled, read)) = settled else { return Ok(()) };
    match watched.iter().find(|((client, _), set)| **set != settled && !dead.contains(client)) {
        Some((who, set)) => {
            let differs = |id: &str| set.get(id) != settled.get(id);
            let mut evidence = known.story(events, *who, differs);
            evidence.extend(known.with(settled.iter().map(|(id, token)| (id, *token)), [read]));
            let message = format!("the watcher {who:?} stays on {set:?}; the members are {settled:?}");
            Err(fault(object, message, evidence))
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
        found(check, &events)
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
    fn a_later_registration_hides_an_earlier_one_for_a_while() {
        let mut events = story();
        events.extend([
            register("b", 3, 32, 35, 7),
            watched(36, Change::Joined("b".into(), 7)),
            deregister("b", 3, 40, 41, 7),
            watched(42, Change::Joined("b".into(), 4)),
        ]);
        check(&events).unwrap();
    }

    #[test]
    fn watchers_converge() {
        assert!(with(read(40, 41, &[], true)).contains("stays on"));
        assert!(with(read(40, 41, &[("b", 5)], true)).contains("stays on"));
    }
}
