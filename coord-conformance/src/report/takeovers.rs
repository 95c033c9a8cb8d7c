//! What becomes of what a holder leaves behind: when the next one is granted it, and how long before that the old guard had
//! stopped saying that it is held.

use std::collections::HashMap;

use serde::Serialize;

use super::strikes::Strikes;
use crate::{
    checkers::{Hold, holds},
    history::{AttemptId, Event, Op, Outcome, Stamp},
};

/// A time that was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Measured {
    /// What it is the time of, or what it began with.
    pub(super) kind: String,
    /// In milliseconds.
    pub(super) millis: f64,
    /// In the meantime no fault struck a server, or anybody else who took part.
    pub(super) alone: bool,
}

/// The time between an old guard and the next grant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Margin {
    /// What was held.
    pub(super) object: String,
    /// From the last moment at which the old guard said that it is held, in milliseconds. Less than nothing if two were held
    /// at once.
    pub(super) held: f64,
    /// From the answer by which it first said that it is lost, if it was asked before the end. That may come late.
    pub(super) noticed: Option<f64>,
}

/// From one moment to another, in milliseconds; less than nothing if they come the other way round.
pub(super) fn millis(from: Stamp, to: Stamp) -> f64 {
    (i128::from(to.at) - i128::from(from.at)) as f64 / 1e6
}

/// Grants of one object that exclude each other, one after the other, where the first was not let go by its holder.
struct Change<'a> {
    object: &'a str,
    old: Hold<'a>,
    /// The last moment at which the old guard said that it is held.
    last: Stamp,
    next: Hold<'a>,
}

fn changes(events: &[Event]) -> Vec<Change<'_>> {
    let mut let_go: HashMap<(&str, &str, AttemptId), Stamp> = HashMap::new();
    for event in events {
        if let Op::Release { attempt } = event.op {
            let_go.entry((&event.object, &event.client, attempt)).or_insert(event.from);
        }
    }
    let mut changes = Vec::new();
    for (object, mut holds) in holds(events) {
        holds.sort_by_key(|hold| hold.token);
        for pair in holds.windows(2) {
            let [old, next] = pair else { continue };
            let released = let_go.get(&(object, old.client, old.attempt));
            let kept = released.is_none_or(|released| *released > next.acquire.to) && old.evicted.is_none();
            if let (Some(last), true) = (old.valid_to, kept && old.is_exclusive_with(next)) {
                changes.push(Change { object, old: old.clone(), last, next: next.clone() });
            }
        }
    }
    changes
}

/// From the last sign of life of each holder that was killed or stopped to the next grant.
pub(super) fn takeovers(events: &[Event]) -> Vec<Measured> {
    let strikes = Strikes::of(events);
    let measured = changes(events).into_iter().filter_map(|Change { object, old, last, next }| {
        let to = next.acquire.to;
        let (kind, fault) = strikes.felled(old.client, last, to)?;
        let lost_before = old.lost.is_some_and(|lost| lost < fault.from);
        if last > to || lost_before {
            return None;
        }
        // Who was in the line with the next one, and may have been ahead of it.
        let in_line = events.iter().filter(|event| {
            let asks = matches!(event.op, Op::Acquire { .. }) && event.object == object;
            asks && event.client != old.client && event.from <= to && event.to >= last
        });
        let alone = strikes.quiet(in_line.map(|event| event.client.as_str()), last, to);
        Some(Measured { kind: kind.into(), millis: millis(last, to), alone })
    });
    measured.collect()
}

/// Between the end of each guard that was lost and the next grant. Of who was killed or stopped in between nothing can be said:
/// nobody asked the guard.
pub(super) fn margins(events: &[Event]) -> Vec<Margin> {
    let strikes = Strikes::of(events);
    let measured = changes(events).into_iter().filter_map(|Change { object, old, last, next }| {
        let to = next.acquire.to;
        if last <= to && strikes.felled(old.client, last, to).is_some() {
            return None;
        }
        let noticed = old.lost.map(|lost| millis(lost, to));
        Some(Margin { object: object.into(), held: millis(last, to), noticed })
    });
    measured.collect()
}

/// From the fault that killed or stopped a consumer to the next delivery of each item that it had in hand.
pub(super) fn redeliveries(events: &[Event]) -> Vec<Measured> {
    let strikes = Strikes::of(events);
    let mut settled: HashMap<(&str, &str, u64), Stamp> = HashMap::new();
    let mut deliveries: HashMap<(&str, &str), Vec<(u64, &Event)>> = HashMap::new();
    for event in events {
        match &event.op {
            Op::Ack { item, token } | Op::Nack { item, token } => {
                settled.entry((&event.object, item, *token)).or_insert(event.from);
            }
            Op::Receive { items } if event.outcome == Outcome::Ok => {
                for (item, token, _) in items {
                    deliveries.entry((&event.object, item)).or_default().push((*token, event));
                }
            }
            _ => {}
        }
    }
    let mut measured = Vec::new();
    for ((object, item), mut deliveries) in deliveries {
        deliveries.sort_by_key(|(token, _)| *token);
        for pair in deliveries.windows(2) {
            let [(token, old), (_, next)] = pair else { continue };
            let Some((kind, fault)) = strikes.felled(&old.client, old.to, next.to) else { continue };
            let end = settled.get(&(object, item, *token)).copied();
            if end.is_some_and(|end| end <= next.to) {
                continue;
            }
            let alone = strikes.quiet([next.client.as_str()], fault.from, next.to);
            measured.push(Measured { kind: kind.into(), millis: millis(fault.from, next.to), alone });
        }
    }
    measured.sort_by(|one, other| one.millis.total_cmp(&other.millis));
    measured
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::made::*;

    fn fault(kind: &str, whom: &str, from: u64, to: u64) -> Event {
        event("nemesis", whom, from, to, Op::Fault { kind: kind.into() })
    }

    fn killed() -> Vec<Event> {
        vec![
            acquire("a", 1, 0, 10, 1),
            valid("a", 1, 95),
            fault("kill", "a", 100, 104),
            acquire("b", 1, 40, 1110, 2),
        ]
    }

    fn measured(kind: &str, millis: f64, alone: bool) -> Vec<Measured> {
        vec![Measured { kind: kind.into(), millis, alone }]
    }

    #[test]
    fn a_takeover_counts_from_the_last_sign_of_life() {
        assert_eq!(takeovers(&killed()), measured("kill", 1015.0, true));
        // Nobody heard the guard of the dead one.
        assert_eq!(margins(&killed()), []);
    }

    #[test]
    fn what_else_strikes_is_told() {
        let with = |more: Event| takeovers(&[killed(), vec![more]].concat());
        // A server; the next holder; somebody who waited with it.
        assert_eq!(with(fault("server-stop", "server", 500, 600)), measured("kill", 1015.0, false));
        assert_eq!(with(fault("delay", "b", 900, 1200)), measured("kill", 1015.0, false));
        let waiter = ask_in_vain("c", 3, 60, 800);
        let both = [killed(), vec![waiter, fault("cut", "c", 300, 400)]].concat();
        assert_eq!(takeovers(&both), measured("kill", 1015.0, false));
        // Before or after it, or somebody who had nothing to do with it.
        assert_eq!(with(fault("delay", "b", 10, 90)), measured("kill", 1015.0, true));
        assert_eq!(with(valid("d", 9, 5)), measured("kill", 1015.0, true));
        let other = [killed(), vec![valid("d", 9, 5), fault("cut", "d", 300, 400)]].concat();
        assert_eq!(takeovers(&other), measured("kill", 1015.0, true));
    }

    fn ask_in_vain(client: &str, attempt: u64, from: u64, to: u64) -> Event {
        let asked = ask(client, attempt, from, to, 0, crate::history::Ask::lock());
        let op = Op::Acquire { attempt, ask: crate::history::Ask::lock(), token: None };
        Event { op, outcome: Outcome::Fail("Timeout".into()), ..asked }
    }

    #[test]
    fn what_was_let_go_is_not_taken_over() {
        let mut events = killed();
        events.push(release("a", 1, 97, 98));
        assert_eq!(takeovers(&events), []);
        // Who was stopped for a short time only goes on, and releases.
        let mut events = killed();
        events[2] = fault("stop", "a", 100, 200);
        events.extend([valid("a", 1, 205), release("a", 1, 206, 208)]);
        assert_eq!((takeovers(&events), margins(&events)), (vec![], vec![]));
    }

    #[test]
    fn who_is_stopped_for_long_comes_back_too_late() {
        let mut events = killed();
        events[2] = fault("stop", "a", 100, 2500);
        let failed = Event { outcome: Outcome::Fail("Lost".into()), ..release("a", 1, 2502, 2503) };
        events.extend([lost("a", 1, 2501), failed]);
        assert_eq!(takeovers(&events), measured("stop", 1015.0, true));
        assert_eq!(margins(&events), []);
    }

    #[test]
    fn a_margin_is_between_the_last_yes_and_the_next_grant() {
        let lost = [
            acquire("a", 1, 0, 10, 1),
            valid("a", 1, 990),
            lost("a", 1, 996),
            fault("cut", "a", 100, 1500),
            acquire("b", 1, 40, 1110, 2),
        ];
        let margin = Margin { object: "x".into(), held: 120.0, noticed: Some(114.0) };
        assert_eq!((margins(&lost), takeovers(&lost)), (vec![margin], vec![]));
    }

    #[test]
    fn two_holders_have_a_margin_below_zero() {
        let two = [acquire("a", 1, 0, 10, 1), acquire("b", 1, 40, 500, 2), valid("a", 1, 530)];
        let margin = |held| vec![Margin { object: "x".into(), held, noticed: None }];
        assert_eq!(margins(&two), margin(-30.0));
        // Though it was stopped before, or releases later.
        let stopped = [&two[..], &[fault("stop", "a", 100, 510), release("a", 1, 540, 550)]].concat();
        assert_eq!(margins(&stopped), margin(-40.0));
        assert_eq!(takeovers(&stopped), []);
    }

    #[test]
    fn readers_take_nothing_over_from_each_other() {
        let reader = crate::history::Ask::reader;
        let both = [ask("a", 1, 0, 10, 1, reader()), valid("a", 1, 90), ask("b", 1, 20, 30, 2, reader())];
        assert_eq!(margins(&both), []);
    }

    fn receive(client: &str, from: u64, to: u64, token: u64) -> Event {
        event(client, "jobs", from, to, Op::Receive { items: vec![("a".into(), token, 1)] })
    }

    #[test]
    fn an_item_comes_again_after_its_consumer_was_killed() {
        let start = [receive("a", 0, 10, 1), fault("kill", "a", 100, 104)];
        let again =
            |more: &[Event]| redeliveries(&[&start[..], &[receive("b", 900, 1150, 2)], more].concat());
        assert_eq!(again(&[]), measured("kill", 1050.0, true));
        assert_eq!(again(&[fault("server-kill", "server", 1000, 1100)]), measured("kill", 1050.0, false));
        // It was given back before, or in that moment.
        let nack = event("a", "jobs", 98, 99, Op::Nack { item: "a".into(), token: 1 });
        assert_eq!(again(&[nack]), []);
        assert_eq!(redeliveries(&start), []);
    }
}
