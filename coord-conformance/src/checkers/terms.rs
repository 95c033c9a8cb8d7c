//! Elections: one leader a term, and observers that never invent, repeat or go back.
//!
//! * A term belongs to one leadership.
//! * Every leader that was observed or read is a candidate who had begun to campaign before, and its term is not known to
//!   be somebody else's. A candidate whose campaigns all succeeded is never seen with another term than theirs.
//! * The terms that one observer reports grow; changes of value are those of the leader in office; a vacancy is reported
//!   once. Terms that are read one after the other never fall, and a leader who has resigned is not read again.
//! * Where the election is at rest, every observer's last report is the leader that is read.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Hold, Judgement, Violation, holds};
use crate::history::{Event, Op, Outcome, Seen, Stamp};

/// The checker's name.
pub const NAME: &str = "terms";

/// Checks a history.
///
/// # Errors
/// The first violation.
pub fn check(events: &[Event]) -> Judgement {
    let mut elections: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in events {
        elections.entry(&event.object).or_default().push(event);
    }
    let holds = holds(events);
    for (object, events) in elections {
        let about = events.iter().any(|event| matches!(event.op, Op::Leader { .. } | Op::Observed { .. }));
        if about {
            let candidates = Candidates::new(&events);
            let holds = holds.get(object).map_or(&[][..], Vec::as_slice);
            one_leader_a_term(object, holds)?;
            let last = observers(object, &events, &candidates)?;
            reads(object, &events, &candidates, holds)?;
            at_rest(object, &events, &last)?;
        }
    }
    Ok(())
}

fn fault(object: &str, message: impl std::fmt::Display) -> Violation {
    Violation::new(NAME, format!("{object}: {message}"))
}

fn one_leader_a_term(object: &str, holds: &[Hold<'_>]) -> Judgement {
    let mut leaders: HashMap<u64, &Hold<'_>> = HashMap::new();
    for hold in holds {
        if let Some(before) = leaders.insert(hold.token, hold) {
            return Err(fault(object, format!("term {} has two leaders: {before} and {hold}", hold.token)));
        }
    }
    Ok(())
}

/// Who can be seen as a leader of which term.
struct Candidates<'a> {
    /// When each began its first campaign.
    since: HashMap<&'a str, Stamp>,
    /// Whose campaign may have been granted without its knowing.
    uncertain: HashSet<&'a str>,
    leaders: HashMap<u64, &'a str>,
}

impl<'a> Candidates<'a> {
    fn new(events: &[&'a Event]) -> Self {
        let (mut since, mut uncertain, mut leaders) = (HashMap::new(), HashSet::new(), HashMap::new());
        for event in events {
            let Op::Acquire { ask, token, .. } = &event.op else { continue };
            let first = since.entry(ask.owner.as_str()).or_insert(event.from);
            *first = event.from.min(*first);
            match (token, &event.outcome) {
                (Some(token), Outcome::Ok) => {
                    leaders.insert(*token, ask.owner.as_str());
                }
                // Also one that failed may have been granted after its patience ended, until it was withdrawn.
                _ => {
                    uncertain.insert(ask.owner.as_str());
                }
            }
        }
        Self { since, uncertain, leaders }
    }

    /// What is wrong with this leader of this term, seen at this moment.
    fn invented(&self, id: &str, term: u64, seen: Stamp) -> Option<String> {
        if self.since.get(id).is_none_or(|since| *since > seen) {
            return Some(format!("{id:?} of term {term} was seen, but did not campaign before that"));
        }
        match self.leaders.get(&term) {
            Some(leader) if *leader == id => None,
            Some(leader) => Some(format!("{id:?} was seen in term {term}, which is that of {leader:?}")),
            None if self.uncertain.contains(id) => None,
            None => Some(format!("{id:?} was seen in term {term}, in which it never led")),
        }
    }
}

type Leader<'a> = Option<(&'a str, u64)>;

/// Follows every observer; its last report.
fn observers<'a>(
    object: &str,
    events: &[&'a Event],
    candidates: &Candidates<'_>,
) -> Judgement<BTreeMap<(&'a str, u64), Leader<'a>>> {
    let mut highest: HashMap<(&str, u64), u64> = HashMap::new();
    let mut last: BTreeMap<(&str, u64), Leader<'a>> = BTreeMap::new();
    for event in events {
        let Op::Observed { watcher, seen } = &event.op else { continue };
        let observer = (event.client.as_str(), *watcher);
        let current = last.get(&observer).copied();
        match seen {
            Seen::Elected(id, term) => {
                if let Some(wrong) = candidates.invented(id, *term, event.to) {
                    return Err(fault(object, wrong));
                }
                let before = highest.insert(observer, *term);
                if let Some(before) = before.filter(|before| before >= term) {
                    let how = if before == *term { "repeats" } else { "goes back to" };
                    return Err(fault(
                        object,
                        format!("the observer {observer:?} {how} term {term} after {before}"),
                    ));
                }
                last.insert(observer, Some((id, *term)));
            }
            Seen::Proclaimed(id, term) => {
                if current != Some(Some((id, *term))) {
                    let text = format!(
                        "{observer:?} reports a new value of {id:?} in term {term} after {current:?}"
                    );
                    return Err(fault(object, text));
                }
            }
            Seen::Vacant => {
                if current == Some(None) {
                    return Err(fault(object, format!("the observer {observer:?} reports a vacancy twice")));
                }
                last.insert(observer, None);
            }
        }
    }
    Ok(last)
}

fn reads(object: &str, events: &[&Event], candidates: &Candidates<'_>, holds: &[Hold<'_>]) -> Judgement {
    let mut reads: Vec<_> = events
        .iter()
        .filter(|event| event.outcome == Outcome::Ok)
        .filter_map(|event| match &event.op {
            Op::Leader { leader: Some((id, term)), .. } => Some((*event, id, *term)),
            _ => None,
        })
        .collect();
    for (event, id, term) in &reads {
        if let Some(wrong) = candidates.invented(id, *term, event.to) {
            return Err(fault(object, wrong));
        }
        let released = holds.iter().find(|hold| hold.token == *term).and_then(|hold| hold.released);
        if released.is_some_and(|released| released < event.from) {
            return Err(fault(
                object,
                format!("{id:?} was read as the leader of term {term} after it had resigned"),
            ));
        }
    }
    reads.sort_by_key(|(event, ..)| event.from);
    let mut returned: Vec<_> = reads.iter().map(|(event, _, term)| (event.to, *term)).collect();
    returned.sort_unstable();
    let (mut returned, mut highest) = (returned.into_iter().peekable(), 0);
    for (event, _, term) in &reads {
        while let Some((_, before)) = returned.next_if(|(to, _)| *to < event.from) {
            highest = highest.max(before);
        }
        if *term < highest {
            return Err(fault(object, format!("term {term} was read after term {highest}")));
        }
    }
    Ok(())
}

fn at_rest(object: &str, events: &[&Event], last: &BTreeMap<(&str, u64), Leader<'_>>) -> Judgement {
    let settled = events.iter().rev().find_map(|event| match &event.op {
        Op::Leader { leader, settled: true } => Some(leader.as_ref().map(|(id, term)| (id.as_str(), *term))),
        _ => None,
    });
    let Some(settled) = settled else { return Ok(()) };
    match last.iter().find(|(_, reported)| **reported != settled) {
        Some((observer, reported)) => Err(fault(
            object,
            format!("the observer {observer:?} stays on {reported:?}; the leader is {settled:?}"),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::made::*, *};
    use crate::history::Ask;

    fn campaign(id: &str, attempt: u64, from: u64, to: u64, term: u64) -> Event {
        ask(id, attempt, from, to, term, Ask::candidate(id, 0))
    }

    fn observed(when: u64, seen: Seen) -> Event {
        event("o", "x", when, when, Op::Observed { watcher: 1, seen })
    }

    fn elected(when: u64, id: &str, term: u64) -> Event {
        observed(when, Seen::Elected(id.into(), term))
    }

    fn read(from: u64, to: u64, leader: Option<(&str, u64)>, settled: bool) -> Event {
        let leader = leader.map(|(id, term)| (id.to_owned(), term));
        event("r", "x", from, to, Op::Leader { leader, settled })
    }

    fn story() -> Vec<Event> {
        vec![
            observed(1, Seen::Vacant),
            campaign("a", 1, 2, 10, 3),
            elected(9, "a", 3),
            observed(12, Seen::Proclaimed("a".into(), 3)),
            campaign("b", 2, 4, 22, 5),
            release("a", 1, 20, 21),
            observed(21, Seen::Vacant),
            elected(23, "b", 5),
        ]
    }

    fn after(more: Event) -> String {
        let mut events = story();
        events.push(more);
        events.sort_by_key(|event| event.to);
        check(&events).unwrap_err().message
    }

    #[test]
    fn good() {
        let mut events = story();
        events.push(read(8, 11, Some(("a", 3)), false));
        events.push(read(30, 31, Some(("b", 5)), true));
        check(&events).unwrap();
    }

    #[test]
    fn two_leaders_of_one_term() {
        assert!(after(campaign("c", 3, 24, 25, 5)).contains("two leaders"));
    }

    #[test]
    fn observers_never_go_back_or_repeat() {
        assert!(after(elected(30, "b", 5)).contains("repeats"));
        assert!(after(elected(30, "a", 3)).contains("goes back"));
        assert!(after(observed(22, Seen::Vacant)).contains("twice"));
        assert!(after(observed(30, Seen::Proclaimed("a".into(), 3))).contains("new value"));
    }

    #[test]
    fn observers_never_invent() {
        assert!(after(elected(30, "z", 9)).contains("did not campaign"));
        assert!(after(elected(30, "b", 9)).contains("never led"));
        assert!(after(elected(1, "b", 5)).contains("did not campaign"));
        assert!(after(read(30, 31, Some(("a", 5)), false)).contains("which is that of"));
        // One that gave up may have been elected for a moment.
        let mut gave_up = campaign("c", 3, 23, 40, 0);
        gave_up.op = Op::Acquire { attempt: 3, ask: Ask::candidate("c", 0), token: None };
        gave_up.outcome = Outcome::Fail("NotGranted".into());
        let mut events = story();
        events.extend([elected(30, "c", 9), gave_up]);
        check(&events).unwrap();
    }

    #[test]
    fn reads_follow_the_order_of_time() {
        assert!(after(read(30, 31, Some(("a", 3)), false)).contains("resigned"));
        let mut events = story();
        events.retain(|event| !matches!(event.op, Op::Release { .. }));
        events.extend([read(24, 25, Some(("b", 5)), false), read(30, 31, Some(("a", 3)), false)]);
        assert!(check(&events).unwrap_err().message.contains("read after"));
    }

    #[test]
    fn the_last_state_is_not_missed() {
        assert!(after(read(30, 31, None, true)).contains("stays on"));
    }
}
