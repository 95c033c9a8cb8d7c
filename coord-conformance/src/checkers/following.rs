//! Watchers of values: they invent nothing, never go back, and come to see the last state.
//!
//! * A watcher starts with a snapshot; the versions that it reports of one key grow. After a gap it starts anew, and that
//!   does not go back either.
//! * What it reports was put by somebody, who had begun to before.
//! * Where the values are at rest, what every watcher knows is what is read.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Judgement, Violation, dead};
use crate::history::{Event, Op, Report, Stamp};

/// The checker's name.
pub const NAME: &str = "following";

/// Checks a history.
///
/// # Errors
/// The first violation.
pub fn check(events: &[Event]) -> Judgement {
    let mut prefixes: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    let mut puts: HashMap<(&str, &str), &Event> = HashMap::new();
    for event in events {
        match &event.op {
            Op::Followed { .. } | Op::Entries { .. } => {
                prefixes.entry(&event.object).or_default().push(event)
            }
            Op::Put { value: Some(value), .. } => _ = puts.entry((&event.object, value)).or_insert(event),
            _ => {}
        }
    }
    let dead = dead(events);
    for (object, events) in prefixes {
        let watchers = follow(object, &events, &puts)?;
        at_rest(object, &events, &watchers, &puts, &dead)?;
    }
    Ok(())
}

type Puts<'a> = HashMap<(&'a str, &'a str), &'a Event>;
type Entries = BTreeMap<String, (String, u64)>;

/// What one watcher knows.
#[derive(Default)]
struct Watcher<'a> {
    /// Its reports.
    told: Vec<&'a Event>,
    known: Entries,
    /// The last version of each key, also of those that are gone.
    versions: BTreeMap<&'a str, (u64, &'a Event)>,
}

impl Report {
    /// The values in it.
    fn values(&self) -> Vec<(&str, &str, u64)> {
        match self {
            Self::Snapshot(entries) | Self::Resync(entries) => {
                entries.iter().map(|(key, value, version)| (key.as_str(), value.as_str(), *version)).collect()
            }
            Self::Put(key, value, version) => vec![(key, value, *version)],
            Self::Deleted(..) => Vec::new(),
        }
    }
}

fn fault<'a>(
    object: &str,
    message: impl std::fmt::Display,
    told: impl IntoIterator<Item = &'a Event>,
    puts: &Puts<'a>,
) -> Violation {
    let told: Vec<_> = told.into_iter().collect();
    let values = told.iter().flat_map(|event| match &event.op {
        Op::Followed { report, .. } => report.values(),
        _ => Vec::new(),
    });
    // Whoever put them would be unknown otherwise.
    let put = values.filter_map(|(key, value, _)| puts.get(&(key, value)).copied());
    Violation::new(NAME, format!("{object}: {message}")).shown_by(put.chain(told.iter().copied()))
}

fn follow<'a>(
    object: &str,
    events: &[&'a Event],
    puts: &Puts<'a>,
) -> Judgement<BTreeMap<(&'a str, u64), Watcher<'a>>> {
    let mut watchers: BTreeMap<(&str, u64), Watcher<'a>> = BTreeMap::new();
    for event in events {
        let Op::Followed { watcher, report } = &event.op else { continue };
        let who = (event.client.as_str(), *watcher);
        for (key, value, _) in report.values() {
            if !begun(puts, key, value, event.to) {
                let message = format!("the watcher {who:?} reports {value:?} of {key}, which nobody had put");
                return Err(fault(object, message, [*event], &Puts::new()));
            }
        }
        let first = !watchers.contains_key(&who);
        if first != matches!(report, Report::Snapshot(_)) {
            let message = format!("the watcher {who:?} does not start with one snapshot: {event}");
            let before = watchers.get(&who).and_then(|watcher| watcher.told.first().copied());
            return Err(fault(object, message, before.into_iter().chain([*event]), puts));
        }
        let watcher = watchers.entry(who).or_default();
        watcher.told.push(event);
        let anew = matches!(report, Report::Snapshot(_) | Report::Resync(_));
        if anew {
            watcher.known.clear();
        }
        let gone = match report {
            Report::Deleted(key, version) => Some((key.as_str(), None, *version)),
            _ => None,
        };
        let there = report.values().into_iter().map(|(key, value, version)| (key, Some(value), version));
        for (key, value, version) in there.chain(gone) {
            let before = watcher.versions.insert(key, (version, event));
            // Whoever starts anew may find what it knew.
            if let Some((before, report)) =
                before.filter(|(before, _)| *before > version || *before == version && !anew)
            {
                let message =
                    format!("the watcher {who:?} reports version {version} of {key} after {before}");
                return Err(fault(object, message, [watcher.told[0], report, *event], puts));
            }
            match value {
                Some(value) => _ = watcher.known.insert(key.to_owned(), (value.to_owned(), version)),
                None => _ = watcher.known.remove(key),
            }
        }
    }
    Ok(watchers)
}

fn begun(puts: &Puts<'_>, key: &str, value: &str, seen: Stamp) -> bool {
    puts.get(&(key, value)).is_some_and(|put| put.from < seen)
}

fn at_rest<'a>(
    object: &str,
    events: &[&'a Event],
    watchers: &BTreeMap<(&'a str, u64), Watcher<'a>>,
    puts: &Puts<'a>,
    dead: &HashSet<&str>,
) -> Judgement {
    let settled = events.iter().rev().find_map(|event| match &event.op {
        Op::Entries { entries } => Some((entries, *event)),
        _ => None,
    });
    let Some((entries, read)) = settled else { return Ok(()) };
    let settled: Entries =
        entries.iter().map(|(key, value, version)| (key.clone(), (value.clone(), *version))).collect();
    for (who, watcher) in watchers.iter().filter(|((client, _), _)| !dead.contains(client)) {
        let keys: HashSet<_> = watcher.known.keys().chain(settled.keys()).collect();
        let differs = keys.into_iter().find(|key| watcher.known.get(*key) != settled.get(*key));
        let Some(key) = differs else { continue };
        let (known, there) = (watcher.known.get(key), settled.get(key));
        let message = format!("the watcher {who:?} stays on {known:?} of {key}; there is {there:?}");
        let last = watcher.versions.get(key.as_str()).map(|(_, event)| *event);
        let told = [watcher.told[0]].into_iter().chain(last).chain([read]);
        return Err(fault(object, message, told, puts));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::made::event, *};
    use crate::history::Given;

    fn put(from: u64, value: &str, version: u64) -> Event {
        let op = Op::Put { given: Given::Anything, value: Some(value.into()), version: Some(version) };
        event("writer", "config/a", from, from + 1, op)
    }

    fn told(when: u64, report: Report) -> Event {
        event("w", "config/", when, when, Op::Followed { watcher: 1, report })
    }

    fn entry(value: &str, version: u64) -> (String, String, u64) {
        ("config/a".into(), value.into(), version)
    }

    fn new(when: u64, value: &str, version: u64) -> Event {
        let (key, value, version) = entry(value, version);
        told(when, Report::Put(key, value, version))
    }

    fn settled(entries: &[(String, String, u64)]) -> Event {
        event("r", "config/", 90, 91, Op::Entries { entries: entries.to_vec() })
    }

    fn story() -> Vec<Event> {
        vec![
            put(0, "x", 1),
            told(5, Report::Snapshot(vec![entry("x", 1)])),
            put(10, "y", 2),
            put(20, "z", 4),
            new(25, "z", 4),
        ]
    }

    #[track_caller]
    fn found(more: &[Event], what: &str) {
        let violation = check(&[&story()[..], more].concat()).unwrap_err();
        assert!(violation.message.contains(what), "{violation}");
        assert!(check(&violation.evidence).is_err(), "{:?} show nothing", violation.evidence);
    }

    #[test]
    fn good() {
        let gone = told(30, Report::Deleted("config/a".into(), 5));
        check(&[&story()[..], &[gone, settled(&[])]].concat()).unwrap();
        let again = told(30, Report::Resync(vec![entry("z", 4)]));
        check(&[&story()[..], &[again, settled(&[entry("z", 4)])]].concat()).unwrap();
    }

    #[test]
    fn it_goes_back() {
        found(&[new(30, "y", 2)], "after 4");
        found(&[new(30, "z", 4)], "after 4");
        found(&[told(30, Report::Resync(vec![entry("y", 2)]))], "after 4");
    }

    #[test]
    fn it_invents() {
        found(&[new(30, "w", 9)], "nobody had put");
        found(&[told(30, Report::Snapshot(vec![entry("z", 4)]))], "one snapshot");
    }

    #[test]
    fn it_stays_behind() {
        found(&[put(30, "w", 9), settled(&[entry("w", 9)])], "stays on");
        found(&[settled(&[])], "stays on");
        let died = event("w", "process", 80, 80, Op::Died);
        check(&[&story()[..], &[died, settled(&[])]].concat()).unwrap();
    }
}
