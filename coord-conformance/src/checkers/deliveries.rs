//! Deliveries of queues.
//!
//! * Every delivery has a token of its own, greater than those of the deliveries before it.
//! * What is delivered was pushed.
//! * An item is acknowledged once, with the token of its last delivery, and is not delivered after that.
//! * An item is not in two hands at once.
//! * Items are first delivered by priority, and by the order of their pushes within one. Of a group, whatever the
//!   priorities, the next item comes after the one before it was acknowledged.
//! * Once the queue is drained, all that was pushed is acknowledged.

use std::collections::{BTreeMap, HashMap};

use super::{Judgement, Violation};
use crate::history::{Event, KILLED, Op, Outcome, Stamp};

/// The checker's name.
pub const NAME: &str = "deliveries";

/// Checks a history.
///
/// # Errors
/// The first violation.
pub fn check(events: &[Event]) -> Judgement {
    let mut objects = BTreeMap::<&str, Vec<&Event>>::new();
    for event in events {
        let of_queue = matches!(
            event.op,
            Op::Push { .. }
                | Op::Receive { .. }
                | Op::InHand { .. }
                | Op::Ack { .. }
                | Op::Nack { .. }
                | Op::Drained
        );
        if of_queue {
            objects.entry(&event.object).or_default().push(event);
        }
    }
    // A receive that was struck may have taken items that nobody saw, and given them back as if nothing had been. Only
    // the killed give nothing back.
    let struck = events.iter().any(|event| matches!(&event.op, Op::Fault { kind } if kind != "kill"));
    for (object, events) in objects {
        let mut queue = Queue::new(object, events);
        queue.blind |= struck;
        queue.tokens()?;
        queue.pushed()?;
        queue.once()?;
        queue.one_hand()?;
        queue.order()?;
        queue.groups()?;
        queue.nothing_lost()?;
    }
    Ok(())
}

/// The part of an event that is about these items.
fn part(event: &Event, items: &[&str]) -> Option<Event> {
    let op = match &event.op {
        Op::Push { item, .. } | Op::InHand { item, .. } | Op::Ack { item, .. } | Op::Nack { item, .. } => {
            items.contains(&item.as_str()).then(|| event.op.clone())
        }
        Op::Receive { items: received } => {
            let own: Vec<_> =
                received.iter().filter(|(item, ..)| items.contains(&item.as_str())).cloned().collect();
            (!own.is_empty()).then_some(Op::Receive { items: own })
        }
        _ => None,
    };
    op.map(|op| Event { op, ..event.clone() })
}

struct Pushed<'a> {
    item: &'a str,
    priority: i32,
    group: Option<&'a str>,
    from: Stamp,
    to: Stamp,
    outcome: &'a Outcome,
}

#[derive(Clone, Copy)]
struct Delivered<'a> {
    item: &'a str,
    token: u64,
    attempt: u32,
    from: Stamp,
    to: Stamp,
}

struct Said<'a> {
    item: &'a str,
    token: u64,
    from: Stamp,
    to: Stamp,
    outcome: &'a Outcome,
}

struct Queue<'a> {
    object: &'a str,
    events: Vec<&'a Event>,
    pushes: Vec<Pushed<'a>>,
    /// In the order of their tokens.
    deliveries: Vec<Delivered<'a>>,
    acks: Vec<Said<'a>>,
    in_hand: Vec<(&'a str, u64, Stamp)>,
    drained: Option<Stamp>,
    /// Somebody received and did not see what: there may be deliveries that are not in the history.
    blind: bool,
}

impl<'a> Queue<'a> {
    fn new(object: &'a str, events: Vec<&'a Event>) -> Self {
        let mut queue = Self {
            object,
            events: Vec::new(),
            pushes: Vec::new(),
            deliveries: Vec::new(),
            acks: Vec::new(),
            in_hand: Vec::new(),
            drained: None,
            blind: false,
        };
        for event in &events {
            let Event { from, to, outcome, .. } = event;
            let (from, to) = (*from, *to);
            match &event.op {
                Op::Push { item, priority, group } => {
                    let (group, priority) = (group.as_deref(), *priority);
                    queue.pushes.push(Pushed { item, priority, group, from, to, outcome });
                }
                Op::Receive { items } => {
                    // Who was killed gave nothing back: what it received counts as an attempt.
                    queue.blind |= matches!(outcome, Outcome::Unknown(why) if why != KILLED);
                    let delivered = items.iter().map(|(item, token, attempt)| {
                        let (token, attempt) = (*token, *attempt);
                        Delivered { item, token, attempt, from, to }
                    });
                    queue.deliveries.extend(delivered);
                }
                Op::InHand { item, token } => queue.in_hand.push((item, *token, from)),
                Op::Ack { item, token } => {
                    queue.acks.push(Said { item, token: *token, from, to, outcome });
                }
                Op::Drained => queue.drained = Some(from),
                _ => {}
            }
        }
        queue.deliveries.sort_by_key(|delivery| delivery.token);
        queue.events = events;
        queue
    }

    /// Refuses the history for what happened to these items.
    fn refuse(&self, items: &[&str], message: impl std::fmt::Display) -> Judgement {
        let evidence: Vec<_> = self.events.iter().filter_map(|event| part(event, items)).collect();
        Err(Violation::new(NAME, format!("{}: {message}", self.object)).shown_by(&evidence))
    }

    fn tokens(&self) -> Judgement {
        for pair in self.deliveries.windows(2) {
            let [before, after] = pair else { continue };
            if before.token == after.token {
                return self.refuse(
                    &[before.item, after.item],
                    format_args!(
                        "{:?} and {:?} were delivered with one token, {}",
                        before.item, after.item, after.token
                    ),
                );
            }
        }
        // The latest call of all that have smaller tokens.
        let mut latest: Option<Delivered<'_>> = None;
        for delivery in &self.deliveries {
            if let Some(before) = latest
                && delivery.to < before.from
            {
                return self.refuse(
                    &[delivery.item, before.item],
                    format_args!(
                        "{:?} was delivered with token {} before {:?} was, with the smaller token {}",
                        delivery.item, delivery.token, before.item, before.token
                    ),
                );
            }
            latest = latest.filter(|before| before.from > delivery.from).or(Some(*delivery));
        }
        Ok(())
    }

    fn pushed(&self) -> Judgement {
        let pushes: HashMap<_, _> = self.pushes.iter().map(|push| (push.item, push)).collect();
        let invented = self.deliveries.iter().find(|delivery| {
            pushes
                .get(delivery.item)
                .is_none_or(|push| delivery.to < push.from || matches!(push.outcome, Outcome::Fail(_)))
        });
        match invented {
            Some(delivery) => self
                .refuse(&[delivery.item], format_args!("{:?} was delivered and not pushed", delivery.item)),
            None => Ok(()),
        }
    }

    fn once(&self) -> Judgement {
        let mut done = HashMap::new();
        for ack in self.acks.iter().filter(|ack| *ack.outcome == Outcome::Ok) {
            if let Some(other) = done.insert(ack.item, ack.token) {
                return self.refuse(
                    &[ack.item],
                    format_args!(
                        "{:?} was acknowledged twice, with tokens {other} and {}",
                        ack.item, ack.token
                    ),
                );
            }
            let again = self
                .deliveries
                .iter()
                .find(|delivery| delivery.item == ack.item && delivery.token > ack.token);
            if let Some(again) = again {
                return self.refuse(
                    &[ack.item],
                    format_args!(
                        "{:?} was acknowledged with token {}, and delivered with token {} too",
                        ack.item, ack.token, again.token
                    ),
                );
            }
        }
        Ok(())
    }

    fn one_hand(&self) -> Judgement {
        for (item, token, when) in &self.in_hand {
            let other = self
                .deliveries
                .iter()
                .find(|delivery| delivery.item == *item && delivery.token > *token && delivery.to < *when);
            if let Some(other) = other {
                return self.refuse(
                    &[item],
                    format_args!(
                        "{item:?} was in hand with token {token} when it had been delivered with token {}",
                        other.token
                    ),
                );
            }
        }
        Ok(())
    }

    /// The first delivery of every item, unless nobody saw it: a delivery whose lease ended on its way is kept from the
    /// consumer, and counts as an attempt.
    fn first(&self) -> HashMap<&'a str, Delivered<'a>> {
        let mut first = HashMap::new();
        for delivery in &self.deliveries {
            first.entry(delivery.item).or_insert(*delivery);
        }
        first.retain(|_, delivery| delivery.attempt == 1);
        first
    }

    fn order(&self) -> Judgement {
        if self.blind {
            return Ok(());
        }
        let first = self.first();
        let alone: Vec<_> = self
            .pushes
            .iter()
            .filter(|push| push.group.is_none() && *push.outcome == Outcome::Ok)
            .filter_map(|push| Some((push, first.get(push.item)?)))
            .collect();
        for (push, delivery) in &alone {
            let passed = alone.iter().find(|(before, late)| {
                let ahead = before.priority > push.priority
                    || (before.priority == push.priority && before.to < push.from);
                ahead && before.to < delivery.from && late.token > delivery.token
            });
            if let Some((before, _)) = passed {
                return self.refuse(
                    &[push.item, before.item],
                    format_args!("{:?} was delivered before {:?}", push.item, before.item),
                );
            }
        }
        Ok(())
    }

    fn groups(&self) -> Judgement {
        for before in self.pushes.iter().filter(|push| push.group.is_some()) {
            // Of an item that was certainly acknowledged, the others that may have been are known to have failed.
            let acks = || self.acks.iter().filter(|ack| ack.item == before.item);
            let certain = acks().find(|ack| *ack.outcome == Outcome::Ok);
            let possible = || acks().find(|ack| matches!(ack.outcome, Outcome::Unknown(_)));
            let Some(ack) = certain.or_else(possible) else { continue };
            let behind =
                self.pushes.iter().filter(|push| push.group == before.group && before.to < push.from);
            for after in behind {
                let early = self
                    .deliveries
                    .iter()
                    .find(|delivery| delivery.item == after.item && delivery.to < ack.from);
                if early.is_some() {
                    return self.refuse(
                        &[after.item, before.item],
                        format_args!(
                            "{:?} was delivered before {:?} of its group was acknowledged",
                            after.item, before.item
                        ),
                    );
                }
            }
        }
        Ok(())
    }

    fn nothing_lost(&self) -> Judgement {
        let Some(end) = self.drained else { return Ok(()) };
        let lost = self.pushes.iter().find(|push| {
            *push.outcome == Outcome::Ok
                && push.to < end
                && !self.acks.iter().any(|ack| {
                    ack.item == push.item && ack.to < end && !matches!(ack.outcome, Outcome::Fail(_))
                })
        });
        match lost {
            Some(push) => {
                let drained = self.events.iter().copied().filter(|event| event.op == Op::Drained);
                let lost = self.refuse(&[push.item], format_args!("{:?} was pushed, and is lost", push.item));
                lost.map_err(|violation| violation.shown_by(drained))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::made::event, *};

    fn push(from: u64, item: &str, priority: i32, group: Option<&str>) -> Event {
        let (item, group) = (item.to_owned(), group.map(str::to_owned));
        event("producer", "q", from, from + 1, Op::Push { item, priority, group })
    }

    fn receive(from: u64, item: &str, token: u64) -> Event {
        event("consumer", "q", from, from + 1, Op::Receive { items: vec![(item.to_owned(), token, 1)] })
    }

    fn ack(from: u64, item: &str, token: u64) -> Event {
        event("consumer", "q", from, from + 1, Op::Ack { item: item.to_owned(), token })
    }

    fn in_hand(when: u64, item: &str, token: u64) -> Event {
        event("consumer", "q", when, when, Op::InHand { item: item.to_owned(), token })
    }

    fn drained(when: u64) -> Event {
        event("consumer", "q", when, when, Op::Drained)
    }

    #[track_caller]
    fn found(events: &[Event], what: &str) {
        let message = super::super::made::found(check, events);
        assert!(message.contains(what), "{message}");
    }

    #[test]
    fn good() {
        check(&[
            push(0, "a", 0, None),
            push(2, "b", 0, None),
            push(4, "c", 1, None),
            receive(10, "c", 1),
            receive(12, "a", 2),
            in_hand(14, "a", 2),
            receive(20, "a", 3),
            receive(22, "b", 4),
            ack(24, "a", 3),
            ack(26, "b", 4),
            ack(28, "c", 1),
            drained(30),
        ])
        .unwrap();
    }

    #[test]
    fn tokens() {
        let both = [push(0, "a", 0, None), push(0, "b", 0, None)];
        let after = |token| [&both[..], &[receive(4, "a", 2), receive(8, "b", token)]].concat();
        check(&after(3)).unwrap();
        found(&after(2), "one token");
        found(&after(1), "smaller token");
    }

    #[test]
    fn invented() {
        found(&[receive(4, "a", 2)], "not pushed");
    }

    #[test]
    fn acknowledged_twice_and_too_late() {
        let start = [push(0, "a", 0, None), receive(4, "a", 1), receive(8, "a", 2)];
        found(&[&start[..], &[ack(10, "a", 1), ack(12, "a", 2)]].concat(), "too");
        found(&[&start[..], &[ack(10, "a", 2), ack(12, "a", 2)]].concat(), "twice");
        check(&[&start[..], &[ack(12, "a", 2)]].concat()).unwrap();
    }

    #[test]
    fn in_two_hands() {
        let start = [push(0, "a", 0, None), receive(4, "a", 1), receive(8, "a", 2)];
        check(&[&start[..], &[in_hand(9, "a", 1)]].concat()).unwrap();
        found(&[&start[..], &[in_hand(10, "a", 1)]].concat(), "in hand");
    }

    #[test]
    fn out_of_order() {
        let two = |second| {
            [push(0, "a", 0, None), push(2, "b", second, None), receive(4, "b", 1), receive(6, "a", 2)]
        };
        check(&two(1)).unwrap();
        found(&two(0), "before");
        found(&two(-1), "before");
    }

    #[test]
    fn a_group_out_of_order() {
        let group = |when| {
            [
                push(0, "a", 0, Some("g")),
                push(2, "b", 0, Some("g")),
                receive(4, "a", 1),
                ack(8, "a", 1),
                receive(when, "b", 2),
            ]
        };
        check(&group(10)).unwrap();
        found(&group(5), "of its group");
    }

    fn killed(event: Event) -> Event {
        Event { outcome: Outcome::Unknown(KILLED.into()), ..event }
    }

    #[test]
    fn what_the_killed_did_is_open() {
        let doomed = [push(0, "a", 0, Some("g")), push(2, "b", 0, Some("g")), receive(4, "a", 1)];
        let acking = [&doomed[..], &[killed(ack(6, "a", 1))]].concat();
        check(&[&acking[..], &[receive(8, "b", 2), ack(10, "b", 2), drained(12)]].concat()).unwrap();
        let again = [receive(20, "a", 2), ack(24, "a", 2), drained(40)];
        let after = |when| [&acking[..], &again, &[receive(when, "b", 3), ack(when + 2, "b", 3)]].concat();
        check(&after(26)).unwrap();
        found(&after(21), "of its group");
    }

    #[test]
    fn the_order_is_judged_over_the_killed() {
        let blind = Event { op: Op::Receive { items: Vec::new() }, ..receive(4, "a", 1) };
        let second = Op::Receive { items: vec![("a".into(), 3, 2)] };
        let pushes = [push(0, "a", 0, None), push(2, "b", 0, None)];
        // The first delivery of one of them was seen by nobody.
        let unseen = [killed(blind.clone()), receive(6, "b", 2), Event { op: second, ..receive(8, "a", 3) }];
        check(&[&pushes[..], &unseen].concat()).unwrap();
        let seen = [killed(blind), receive(6, "b", 2), receive(8, "a", 3)];
        found(&[&pushes[..], &seen].concat(), "before");
    }

    #[test]
    fn where_faults_struck_no_order_is_known() {
        let story = [push(0, "a", 0, None), push(2, "b", 0, None), receive(4, "b", 1), receive(6, "a", 2)];
        let with = |kind: &str| {
            [&story[..], &[event("nemesis", "worker", 3, 4, Op::Fault { kind: kind.into() })]].concat()
        };
        check(&with("cut")).unwrap();
        found(&with("kill"), "before");
    }

    #[test]
    fn lost() {
        let start = [push(0, "a", 0, None), receive(2, "a", 1), drained(9)];
        found(&start, "is lost");
        check(&[&start[..], &[ack(4, "a", 1)]].concat()).unwrap();
    }
}
