//! Elections: one leader a term, and observers that never invent, repeat or go back.
//!
//! * A term belongs to one leadership.
//! * Every leader that was observed or read is a candidate who had begun to campaign before, and its term is not known to
//!   be somebody else's. A candidate whose campaigns all succeeded is never seen with another term than theirs.
//! * The terms that one observer reports grow; changes of value are those of the leader in office; a vacancy is reported
//!   once. Terms that are read one after the other never fall, and a leader who has resigned is not read again.
//! * Where the election is at rest, every observer's last report is the leader that is read.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Hold, Judgement, Violation, dead, holds};
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
    let (holds, dead) = (holds(events), dead(events));
    for (object, events) in elections {
        let about = events.iter().find(|event| matches!(event.op, Op::Leader { .. } | Op::Observed { .. }));
        if let Some(about) = about {
            let candidates = Candidates::new(&events);
            let holds = holds.get(object).map_or(&[][..], Vec::as_slice);
            one_leader_a_term(object, holds).map_err(|violation| violation.shown_by([*about]))?;
            let last = observers(object, &events, &candidates)?;
            reads(object, &events, &candidates, holds)?;
            at_rest(object, &events, &candidates, &last, &dead)?;
        }
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

fn one_leader_a_term(object: &str, holds: &[Hold<'_>]) -> Judgement {
    let mut leaders: HashMap<u64, &Hold<'_>> = HashMap::new();
    for hold in holds {
        if let Some(before) = leaders.insert(hold.token, hold) {
            let message = format!("term {} has two leaders: {before} and {hold}", hold.token);
            return Err(fault(object, message, [before.acquire, hold.acquire]));
        }
    }
    Ok(())
}

/// Who can be seen as a leader of which term.
struct Candidates<'a> {
    /// The campaigns.
    campaigns: Vec<&'a Event>,
    /// When each began its first campaign.
    since: HashMap<&'a str, Stamp>,
    /// Whose campaign may have been granted without its knowing.
    uncertain: HashSet<&'a str>,
    leaders: HashMap<u64, &'a str>,
}

impl<'a> Candidates<'a> {
    fn new(events: &[&'a Event]) -> Self {
        let (mut since, mut uncertain, mut leaders) = (HashMap::new(), HashSet::new(), HashMap::new());
        let mut campaigns = Vec::new();
        for event in events {
            let Op::Acquire { ask, token, .. } = &event.op else { continue };
            campaigns.push(*event);
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
        Self { campaigns, since, uncertain, leaders }
    }

    /// The campaigns of this candidate, and those of this term.
    fn of(&self, id: &str, term: u64) -> impl Iterator<Item = &'a Event> {
        self.campaigns.iter().copied().filter(move |event| campaigned(event, id, term))
    }

    /// Whether the campaign by which it led later may have led to this term too: who is stopped or cut off may lead by the
    /// store's word and lose that, before it hears of it; then its campaign goes on with a greater token.
    fn may_have_led_before(&self, id: &str, term: u64, seen: Stamp) -> bool {
        self.campaigns.iter().any(|event| {
            let Op::Acquire { ask, token: Some(token), .. } = &event.op else { return false };
            ask.owner == id && event.from < seen && term < *token
        })
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
            None if self.may_have_led_before(id, term, seen) => None,
            None => Some(format!("{id:?} was seen in term {term}, in which it never led")),
        }
    }
}

type Leader<'a> = Option<(&'a str, u64)>;
/// What each observer reported last, and in which event.
type Reports<'a> = BTreeMap<(&'a str, u64), (Leader<'a>, &'a Event)>;

/// Follows every observer; its last report.
fn observers<'a>(object: &str, events: &[&'a Event], candidates: &Candidates<'_>) -> Judgement<Reports<'a>> {
    let mut highest: HashMap<(&str, u64), (u64, &Event)> = HashMap::new();
    let mut last = Reports::new();
    for event in events {
        let Op::Observed { watcher, seen } = &event.op else { continue };
        let observer = (event.client.as_str(), *watcher);
        let current = last.get(&observer).copied();
        match seen {
            Seen::Elected(id, term) => {
                if let Some(wrong) = candidates.invented(id, *term, event.to) {
                    return Err(fault(object, wrong, candidates.of(id, *term).chain([*event])));
                }
                let before = highest.insert(observer, (*term, *event));
                if let Some((before, report)) = before.filter(|(before, _)| before >= term) {
                    let how = if before == *term { "repeats" } else { "goes back to" };
                    let message = format!("the observer {observer:?} {how} term {term} after {before}");
                    let campaigns = candidates.of(id, *term).chain(candidates.of(id, before));
                    return Err(fault(object, message, campaigns.chain([report, *event])));
                }
                last.insert(observer, (Some((id, *term)), *event));
            }
            Seen::Proclaimed(id, term) => {
                let reported = current.map(|(leader, _)| leader);
                if reported != Some(Some((id, *term))) {
                    let text = format!(
                        "{observer:?} reports a new value of {id:?} in term {term} after {reported:?}"
                    );
                    let before = current.map(|(_, report)| report);
                    return Err(fault(object, text, before.into_iter().chain([*event])));
                }
            }
            Seen::Vacant => {
                if let Some((None, report)) = current {
                    let message = format!("the observer {observer:?} reports a vacancy twice");
                    return Err(fault(object, message, [report, *event]));
                }
                last.insert(observer, (None, *event));
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
            return Err(fault(object, wrong, candidates.of(id, *term).chain([*event])));
        }
        let resigned = holds
            .iter()
            .find(|hold| hold.token == *term && hold.released.is_some_and(|released| released < event.from));
        if let Some(hold) = resigned {
            let message = format!("{id:?} was read as the leader of term {term} after it had resigned");
            return Err(fault(object, message, hold.evidence().chain([*event])));
        }
    }
    reads.sort_by_key(|(event, ..)| event.from);
    let mut returned = reads.clone();
    returned.sort_by_key(|(event, ..)| event.to);
    let (mut returned, mut highest): (_, Option<(&Event, u64)>) = (returned.into_iter().peekable(), None);
    for (event, id, term) in &reads {
        while let Some((read, _, before)) = returned.next_if(|(read, ..)| read.to < event.from) {
            highest = highest.filter(|(_, highest)| *highest >= before).or(Some((read, before)));
        }
        if let Some((read, highest)) = highest.filter(|(_, highest)| highest > term) {
            let message = format!("term {term} was read after term {highest}");
            let campaigns = candidates.of(id, *term).chain(candidates.of(id, highest));
            return Err(fault(object, message, campaigns.chain([read, *event])));
        }
    }
    Ok(())
}

fn at_rest(
    object: &str,
    events: &[&Event],
    candidates: &Candidates<'_>,
    last: &Reports<'_>,
    dead: &HashSet<&str>,
) -> Judgement {
    let settled = events.iter().rev().find_map(|event| match &event.op {
        Op::Leader { leader, settled: true } => {
            Some((leader.as_ref().map(|(id, term)| (id.as_str(), *term)), *event))
        }
        _ => None,
    });
    let Some((settled, read)) = settled else { return Ok(()) };
    let behind = last.iter().find(|((client, _), (leader, _))| *leader != settled && !dead.contains(client));
    match behind {
        Some((observer, (leader, report))) => Err(fault(
            object,
            format!("the observer {observer:?} stays on {leader:?}; the leader is {settled:?}"),
            // With the campaigns of both, who would be unknown otherwise.
            [*leader, settled]
                .into_iter()
                .flatten()
                .flat_map(|(id, term)| candidates.of(id, term))
                .chain([*report, read]),
        )),
        None => Ok(()),
    }
}

fn campaigned(event: &Event, id: &str, term: u64) -> bool {
    matches!(&event.op, Op::Acquire { ask, token, .. } if ask.owner == id || *token == Some(term))
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
        found(check, &events)
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
        // One that led by the store's word and never heard of it.
        let mut events = story();
        events.insert(6, elected(21, "b", 4));
        check(&events).unwrap();
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
        assert!(found(check, &events).contains("read after"));
    }

    #[test]
    fn the_last_state_is_not_missed() {
        assert!(after(read(30, 31, None, true)).contains("stays on"));
    }
}
