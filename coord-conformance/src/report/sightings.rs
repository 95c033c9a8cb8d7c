//! How soon what was written is seen by those who watch.

use std::collections::{BTreeMap, HashMap};

use super::{
    strikes::Strikes,
    takeovers::{Measured, millis},
};
use crate::history::{Change, Event, Op, Outcome, Report, Seen, Stamp};

/// What is watched: a kind, and within it a key whose numbers grow: the versions of a value, the tokens of an instance,
/// the terms of an election.
type Key<'a> = (&'static str, &'a str);

/// Something that was written, from its call to its return.
struct Written<'a> {
    key: Key<'a>,
    number: u64,
    by: &'a str,
    from: Stamp,
    to: Stamp,
}

/// What one watcher reported, in the order in which it did.
#[derive(Default)]
struct Watcher<'a> {
    client: &'a str,
    began: Option<Stamp>,
    told: HashMap<Key<'a>, Vec<(u64, Stamp)>>,
}

impl Watcher<'_> {
    /// When it knew of this or of something later.
    fn knew(&self, key: Key<'_>, number: u64) -> Option<Stamp> {
        let told = self.told.get(&key)?;
        told.iter().find(|(told, _)| *told >= number).map(|(_, when)| *when)
    }
}

const CONFIG: &str = "a value";
const REGISTRY: &str = "an instance";
const ELECTION: &str = "a leader";

fn written(event: &Event) -> Option<Written<'_>> {
    let (key, number): (Key<'_>, u64) = match &event.op {
        Op::Put { value: Some(_), version: Some(version), .. } => ((CONFIG, &event.object), *version),
        Op::Register { id, token: Some(token), .. } => ((REGISTRY, id), *token),
        Op::Acquire { token: Some(token), .. } if event.object.starts_with("election/") => {
            ((ELECTION, &event.object), *token)
        }
        _ => return None,
    };
    let done = event.outcome == Outcome::Ok;
    done.then(|| Written { key, number, by: &event.client, from: event.from, to: event.to })
}

/// Which watcher of the client reported, of which kind, and which numbers of which keys.
type Told<'a> = (u64, &'static str, Vec<(&'a str, u64)>);

fn report(event: &Event) -> Option<Told<'_>> {
    match &event.op {
        Op::Followed { watcher, report } => {
            let seen = match report {
                Report::Snapshot(entries) | Report::Resync(entries) => {
                    entries.iter().map(|(key, _, version)| (key.as_str(), *version)).collect()
                }
                Report::Put(key, _, version) | Report::Deleted(key, version) => {
                    vec![(key.as_str(), *version)]
                }
            };
            Some((*watcher, CONFIG, seen))
        }
        Op::Watched { watcher, change } => {
            let there = !matches!(change, Change::Left(..));
            let members = change.members().into_iter().filter(|_| there);
            Some((*watcher, REGISTRY, members.map(|(id, token)| (id.as_str(), token)).collect()))
        }
        Op::Observed { watcher, seen } => {
            let seen = match seen {
                Seen::Elected(_, term) | Seen::Proclaimed(_, term) => vec![(event.object.as_str(), *term)],
                Seen::Vacant => Vec::new(),
            };
            Some((*watcher, ELECTION, seen))
        }
        _ => None,
    }
}

fn watchers(events: &[Event]) -> BTreeMap<(&str, u64), (&'static str, Watcher<'_>)> {
    let mut watchers = BTreeMap::new();
    let mut ordered: Vec<_> = events.iter().collect();
    ordered.sort_by_key(|event| event.to);
    for event in ordered {
        let Some((number, kind, seen)) = report(event) else { continue };
        let who = (event.client.as_str(), number);
        let (_, watcher) = watchers.entry(who).or_insert_with(|| (kind, Watcher::default()));
        watcher.client = &event.client;
        watcher.began.get_or_insert(event.to);
        for (key, number) in seen {
            watcher.told.entry((kind, key)).or_default().push((number, event.to));
        }
    }
    watchers
}

/// From the return of each write to the moment in which each watcher, who watched before its call, had seen it or
/// something later; nothing if it had by then. Who saw neither is not in it: the checkers judge that.
pub(super) fn sightings(events: &[Event]) -> Vec<Measured> {
    let (watchers, strikes) = (watchers(events), Strikes::of(events));
    let mut sightings = Vec::new();
    for write in events.iter().filter_map(written) {
        for (kind, watcher) in watchers.values() {
            let began = watcher.began.is_some_and(|began| began < write.from);
            if *kind != write.key.0 || !began {
                continue;
            }
            if let Some(seen) = watcher.knew(write.key, write.number) {
                let alone = strikes.quiet([watcher.client, write.by], write.from, seen.max(write.to));
                sightings.push(Measured {
                    kind: (*kind).into(),
                    millis: millis(write.to, seen).max(0.0),
                    alone,
                });
            }
        }
    }
    sightings
}

/// From the end of all faults to the moment in which each watcher had seen all that was written before, or something later.
pub(super) fn after_heal(events: &[Event]) -> Vec<f64> {
    let Some(healed) = events.iter().find(|event| event.op == Op::Healed).map(|event| event.from) else {
        return Vec::new();
    };
    let mut last: HashMap<Key<'_>, u64> = HashMap::new();
    for write in events.iter().filter_map(written).filter(|write| write.to <= healed) {
        let number = last.entry(write.key).or_default();
        *number = write.number.max(*number);
    }
    let dead = crate::checkers::dead(events);
    let watchers = watchers(events);
    let watching = watchers.values().filter(|(_, watcher)| {
        watcher.began.is_some_and(|began| began < healed) && !dead.contains(watcher.client)
    });
    let caught_up = watching.map(|(kind, watcher)| {
        let of_kind = last.iter().filter(|(key, _)| key.0 == *kind);
        let seen = of_kind.filter_map(|(key, number)| watcher.knew(*key, *number));
        seen.map(|seen| millis(healed, seen)).fold(0.0, f64::max)
    });
    caught_up.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checkers::made::event, history::Given};

    fn put(from: u64, to: u64, version: u64) -> Event {
        let op =
            Op::Put { given: Given::Anything, value: Some(format!("{version}")), version: Some(version) };
        event("writer", "config/a", from, to, op)
    }

    fn followed(when: u64, report: Report) -> Event {
        event("w", "config/", when, when, Op::Followed { watcher: 1, report })
    }

    fn saw(when: u64, version: u64) -> Event {
        followed(when, Report::Put("config/a".into(), format!("{version}"), version))
    }

    fn millis_of(events: &[Event]) -> Vec<f64> {
        sightings(events).into_iter().map(|seen| seen.millis).collect()
    }

    #[test]
    fn a_value_is_seen_when_it_or_a_later_one_is_reported() {
        let start = followed(0, Report::Snapshot(Vec::new()));
        assert_eq!(millis_of(&[start.clone(), put(10, 12, 1), saw(15, 1)]), [3.0]);
        assert_eq!(millis_of(&[start.clone(), put(10, 12, 1), saw(11, 1)]), [0.0]);
        let skipped = [start.clone(), put(10, 12, 1), put(14, 16, 2), saw(20, 2)];
        assert_eq!(millis_of(&skipped), [8.0, 4.0]);
        let gone = followed(30, Report::Deleted("config/a".into(), 3));
        assert_eq!(millis_of(&[start.clone(), put(10, 12, 1), gone]), [18.0]);
        let anew = followed(40, Report::Resync(vec![("config/a".into(), "1".into(), 1)]));
        assert_eq!(millis_of(&[start.clone(), put(10, 12, 1), anew]), [28.0]);
        // Never seen, or written before anybody watched.
        assert_eq!(millis_of(&[start, put(10, 12, 1)]), [0.0; 0]);
        assert_eq!(
            millis_of(&[put(10, 12, 1), followed(20, Report::Snapshot(Vec::new())), saw(25, 1)]),
            [0.0; 0]
        );
    }

    #[test]
    fn faults_of_the_watcher_are_told() {
        let fault = event("nemesis", "w", 5, 11, Op::Fault { kind: "deaf".into() });
        let events = [followed(0, Report::Snapshot(Vec::new())), put(10, 12, 1), saw(15, 1), fault];
        assert!(!sightings(&events)[0].alone);
        assert!(sightings(&events[..3])[0].alone);
    }

    #[test]
    fn instances_and_leaders_are_seen_too() {
        let registered = Op::Register { attempt: 1, id: "one".into(), token: Some(3) };
        let joined = |token| Op::Watched { watcher: 2, change: Change::Joined("one".into(), token) };
        let lead = Op::Acquire { attempt: 2, ask: crate::history::Ask::candidate("one", 0), token: Some(4) };
        let elected = Op::Observed { watcher: 3, seen: Seen::Elected("one".into(), 4) };
        let events = [
            event("w", "registry/r", 0, 0, Op::Watched { watcher: 2, change: Change::Snapshot(vec![]) }),
            event("w", "election/e", 0, 0, Op::Observed { watcher: 3, seen: Seen::Vacant }),
            event("one", "registry/r", 10, 11, registered),
            event("w", "registry/r", 13, 13, joined(3)),
            event("one", "election/e", 20, 21, lead),
            event("w", "election/e", 26, 26, elected),
        ];
        let seen: Vec<_> = sightings(&events).into_iter().map(|seen| (seen.kind, seen.millis)).collect();
        assert_eq!(seen, [("an instance".into(), 2.0), ("a leader".into(), 5.0)]);
    }

    #[test]
    fn after_the_end_of_all_faults_watchers_catch_up() {
        let healed = event("nemesis", "all", 100, 100, Op::Healed);
        let start = followed(0, Report::Snapshot(Vec::new()));
        let late = [start.clone(), put(10, 12, 1), healed.clone(), saw(130, 1)];
        assert_eq!(after_heal(&late), [30.0]);
        // What is written later does not count, nor who is dead.
        assert_eq!(
            after_heal(&[start, put(10, 12, 1), saw(15, 1), healed, put(110, 111, 2), saw(200, 2)]),
            [0.0]
        );
        let died = event("w", "process", 50, 50, Op::Died);
        assert_eq!(after_heal(&[&late[..], &[died]].concat()), [0.0; 0]);
        assert_eq!(after_heal(&late[..2]), [0.0; 0]);
    }
}
