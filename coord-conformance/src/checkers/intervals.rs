//! Guards that exclude each other are never valid at once, and a lost guard stays lost.
//!
//! A guard counts as valid from the return of its acquisition to the last question whether it is held that was answered
//! with yes, or to a release that found it valid. The moment taken is the one *before* the question, so that no pause of
//! a task or a process between answer and record makes a good guard look bad.

use super::{Hold, Judgement, Violation, holds};
use crate::history::{Event, Stamp};

/// The checker's name.
pub const NAME: &str = "intervals";

/// Checks a history.
///
/// # Errors
/// The first violation.
pub fn check(events: &[Event]) -> Judgement {
    for (object, holds) in holds(events) {
        if let Some(hold) = holds.iter().find(|hold| hold.revived.is_some()) {
            return Err(Violation::new(
                NAME,
                format!("{object}: a lost guard says again that it is held: {hold}"),
            )
            .shown_by(hold.evidence()));
        }
        let mut valid: Vec<(&Hold<'_>, Stamp)> = Vec::new();
        // In the order in which they began: when one begins, all that are valid then must fit together.
        for hold in &holds {
            let Some(end) = hold.certainly_to() else { continue };
            let start = hold.acquire.to;
            valid.retain(|(_, end)| *end >= start);
            valid.push((hold, end));
            valid.sort_by_key(|(hold, _)| hold.token);
            fit(object, &valid)?;
        }
    }
    Ok(())
}

/// The one predicate that grants every recipe: a claim's own weight and all weights ahead of it are within its limit.
fn fit(object: &str, valid: &[(&Hold<'_>, Stamp)]) -> Judgement {
    let mut taken = 0u64;
    for (at, (hold, _)) in valid.iter().enumerate() {
        taken += u64::from(hold.ask.weight);
        if taken > u64::from(hold.ask.limit) {
            let together: Vec<_> = valid[..=at].iter().map(|(hold, _)| hold.to_string()).collect();
            let message = format!("{object}: held at once: {}", together.join(" and "));
            let evidence = valid[..=at].iter().flat_map(|(hold, _)| hold.evidence());
            return Err(Violation::new(NAME, message).shown_by(evidence));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::made::*, *};
    use crate::history::{Ask, Op};

    #[track_caller]
    fn found(events: &[Event]) -> String {
        super::super::made::found(check, events)
    }

    #[test]
    fn good() {
        check(&[
            acquire("a", 1, 0, 10, 1),
            valid("a", 1, 19),
            release("a", 1, 20, 40),
            // Granted while the answer to the release is still under way.
            acquire("b", 2, 5, 25, 2),
            valid("b", 2, 45),
            // Noticed late; the last yes counts.
            lost("b", 2, 90),
            acquire("c", 3, 5, 50, 3),
            valid("c", 3, 60),
        ])
        .unwrap();
    }

    #[test]
    fn two_at_once() {
        let mut events =
            vec![acquire("a", 1, 0, 10, 1), valid("a", 1, 30), acquire("b", 2, 5, 25, 2), valid("b", 2, 26)];
        assert!(found(&events).contains("held at once"));
        events.push(event("c", "x", 24, 40, Op::Evict { tokens: vec![1] }));
        check(&events).unwrap();
    }

    #[test]
    fn a_release_that_succeeded_too_late() {
        let events = [
            acquire("a", 1, 0, 10, 1),
            release("a", 1, 30, 31),
            acquire("b", 2, 5, 25, 2),
            valid("b", 2, 26),
        ];
        assert!(found(&events).contains("held at once"));
    }

    #[test]
    fn back_from_the_dead() {
        let events = [acquire("a", 1, 0, 10, 1), lost("a", 1, 20), valid("a", 1, 30)];
        assert!(found(&events).contains("again"));
    }

    #[test]
    fn readers_share_and_writers_do_not() {
        let readers = [
            ask("a", 1, 0, 10, 1, Ask::reader()),
            valid("a", 1, 50),
            ask("b", 2, 0, 11, 2, Ask::reader()),
            valid("b", 2, 50),
        ];
        check(&readers).unwrap();
        let writer = [ask("c", 3, 0, 20, 3, Ask::lock()), valid("c", 3, 21)];
        assert!(found(&[&readers[..], &writer].concat()).contains("held at once"));
    }

    #[test]
    fn permits_are_counted() {
        let permits = |client, attempt, token, permits| {
            [ask(client, attempt, 0, 10 + token, token, Ask::permits(permits, 4)), valid(client, attempt, 50)]
        };
        let three = [permits("a", 1, 1, 2), permits("b", 2, 2, 1), permits("c", 3, 3, 1)].concat();
        check(&three).unwrap();
        let four = [three, permits("d", 4, 4, 1).to_vec()].concat();
        assert!(found(&four).contains("held at once"));
    }
}
