//! Whoever waits is served in the end.
//!
//! * What is tried when all faults have ended succeeds, within the time that is given to it.

use std::time::Duration;

use super::{Judgement, Violation};
use crate::{
    Failure, Verdict,
    history::{Event, Op, Outcome},
};

/// The checker's name.
pub const NAME: &str = "progress";

/// Checks a history.
///
/// # Errors
/// The first violation.
pub fn check(events: &[Event]) -> Judgement {
    for event in events {
        let Op::Probe { bound } = event.op else { continue };
        let (object, took) = (&event.object, Duration::from_nanos(event.to.at.saturating_sub(event.from.at)));
        let bound = Duration::from_millis(bound);
        let message = match &event.outcome {
            Outcome::Ok if took <= bound => continue,
            Outcome::Ok => format!("{object}: after all had healed it took {took:?}, not {bound:?} at most"),
            Outcome::Fail(why) | Outcome::Unknown(why) => {
                format!("{object}: it had not succeeded {bound:?} after all had healed: {why}")
            }
        };
        let healed = events.iter().filter(|event| event.op == Op::Healed);
        return Err(Violation::new(NAME, message).shown_by(healed.chain([event])));
    }
    Ok(())
}

/// Waits for something that has to happen within this time.
///
/// The time is a bound on *liveness*, to be chosen generously: it separates late from never.
///
/// # Errors
/// If it did not happen.
pub async fn within<T>(bound: Duration, what: &str, work: impl Future<Output = T>) -> Verdict<T> {
    tokio::time::timeout(bound, work)
        .await
        .map_err(|_| Failure::by(NAME, format!("{what}: it has not happened in {bound:?}")))
}

#[cfg(test)]
mod tests {
    use super::{super::made::event, *};

    #[tokio::test(start_paused = true)]
    async fn late_and_never() {
        let second = Duration::from_secs(1);
        within(second * 2, "late", tokio::time::sleep(second)).await.unwrap();
        let failure = within(second * 2, "never", std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(failure.checker, Some(NAME));
    }

    #[test]
    fn probes() {
        let probe = |to| event("probe", "lock/x", 10, to, Op::Probe { bound: 20 });
        check(&[probe(30)]).unwrap();
        assert!(check(&[probe(31)]).unwrap_err().message.contains("it took 21ms"));
        let failed = Event { outcome: Outcome::Unknown("dropped".into()), ..probe(12) };
        assert!(check(&[probe(11), failed]).unwrap_err().message.contains("dropped"));
    }
}
