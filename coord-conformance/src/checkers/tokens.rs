//! Tokens are unique, and they grow in the order of grants.
//!
//! * No two grants of an object have the same token.
//! * If a grant had returned before another was asked for, its token is smaller. That holds for all recipes.
//! * Of two grants that exclude each other, the one that returned first has the smaller token, even if the other was
//!   asked for earlier. A guard is only returned while it is valid, so the order of returns is the order of grants.
//!   Evicted holders are left out: a grant may still be under way while its holder is thrown out.

use std::collections::HashMap;

use super::{Hold, Judgement, Violation, holds};
use crate::history::Event;

/// The checker's name.
pub const NAME: &str = "tokens";

/// Checks a history.
///
/// # Errors
/// The first violation.
pub fn check(events: &[Event]) -> Judgement {
    for (object, holds) in holds(events) {
        unique(object, &holds)?;
        ordered(object, &holds)?;
        excluding(object, &holds)?;
    }
    Ok(())
}

/// The same where a lease may end before its holder thinks so: there a guard may be returned after the next one, and the order of
/// returns says nothing.
///
/// # Errors
/// As of [`check`].
pub(crate) fn check_as_asked(events: &[Event]) -> Judgement {
    for (object, holds) in holds(events) {
        unique(object, &holds)?;
        ordered(object, &holds)?;
    }
    Ok(())
}

fn unique(object: &str, holds: &[Hold<'_>]) -> Judgement {
    let mut seen: HashMap<u64, &Hold<'_>> = HashMap::new();
    for hold in holds {
        if let Some(before) = seen.insert(hold.token, hold) {
            return Err(Violation::new(
                NAME,
                format!("{object}: one token for two grants: {before} and {hold}"),
            )
            .shown_by([before.acquire, hold.acquire]));
        }
    }
    Ok(())
}

/// A sweep over time: whatever was asked for now must be above the highest token that had returned by now.
fn ordered(object: &str, holds: &[Hold<'_>]) -> Judgement {
    let mut asked: Vec<_> = holds.iter().collect();
    asked.sort_by_key(|hold| hold.acquire.from);
    let mut returned = holds.iter().peekable();
    let mut highest: Option<&Hold<'_>> = None;
    for hold in asked {
        while let Some(before) = returned.next_if(|before| before.acquire.to < hold.acquire.from) {
            highest = highest.filter(|highest| highest.token >= before.token).or(Some(before));
        }
        if let Some(highest) = highest.filter(|highest| highest.token >= hold.token) {
            return Err(Violation::new(
                NAME,
                format!("{object}: the token does not grow: first {highest}, later {hold}"),
            )
            .shown_by([highest.acquire, hold.acquire]));
        }
    }
    Ok(())
}

fn excluding(object: &str, holds: &[Hold<'_>]) -> Judgement {
    let known: Vec<_> =
        holds.iter().filter(|hold| hold.evicted.is_none() && hold.valid_to.is_some()).collect();
    for (at, second) in known.iter().enumerate() {
        let wrong =
            known[..at].iter().find(|first| first.token > second.token && first.is_exclusive_with(second));
        if let Some(first) = wrong {
            return Err(Violation::new(
                NAME,
                format!("{object}: tokens do not follow the order of grants: first {first}, then {second}"),
            )
            .shown_by(first.evidence().chain(second.evidence())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::made::*, *};
    use crate::history::{Ask, Op, Outcome};

    #[track_caller]
    fn found(events: &[Event]) -> String {
        super::super::made::found(check, events)
    }

    #[test]
    fn good() {
        let mut failed = acquire("c", 3, 0, 90, 1);
        failed.outcome = Outcome::Fail("NotGranted".into());
        check(&[
            acquire("a", 1, 0, 10, 5),
            release("a", 1, 20, 30),
            // Asked before the first was released, granted after it.
            acquire("b", 2, 5, 25, 7),
            failed,
            // Together with another one, returned in any order.
            ask("d", 4, 50, 70, 9, Ask::reader()),
            ask("e", 5, 51, 60, 10, Ask::reader()),
        ])
        .unwrap();
        check(&[]).unwrap();
    }

    #[test]
    fn one_token_twice() {
        assert!(found(&[acquire("a", 1, 0, 10, 5), acquire("b", 2, 5, 25, 5)]).contains("one token for two"));
        let elsewhere = event("b", "y", 20, 30, Op::Acquire { attempt: 2, ask: Ask::lock(), token: Some(5) });
        check(&[acquire("a", 1, 0, 10, 5), elsewhere]).unwrap();
    }

    #[test]
    fn a_later_token_is_smaller() {
        let events = [acquire("a", 1, 0, 10, 5), acquire("b", 2, 0, 11, 4), acquire("c", 3, 12, 13, 3)];
        assert!(found(&events).contains("does not grow"));
        check_as_asked(&events).unwrap_err();
    }

    #[test]
    fn a_waiter_is_granted_later_with_a_smaller_token() {
        let mut events = vec![
            acquire("a", 1, 10, 11, 5),
            valid("a", 1, 12),
            release("a", 1, 20, 21),
            acquire("b", 2, 5, 25, 4),
            valid("b", 2, 26),
        ];
        assert!(found(&events).contains("order of grants"));
        check_as_asked(&events).unwrap();
        events.push(event("c", "x", 19, 22, Op::Evict { tokens: vec![4] }));
        check(&events).unwrap();
    }
}
