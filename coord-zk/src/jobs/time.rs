//! The store's time, as the servers tell it with every write, and as the own clock carries it on in between.
//!
//! Only delays of items and the memory of items that are gone are judged by it, so that what is said by one client holds for
//! all. Between two answers of the store the own clock is taken to run as fast as the servers', give or take a thousandth. A
//! step of the leader's clock, or another leader with another clock, moves all of this by as much. Leases do not depend on it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use coord_core::{
    Result,
    clock::{Clock, Moment},
};

use crate::session::{Session, Stat};

/// For how long the own clock carries on what the store said.
const YOUNG: Duration = Duration::from_secs(10);

/// What is known of the store's time.
#[derive(Debug, Default)]
pub(crate) struct StoreTime(Mutex<Option<Sample>>);

#[derive(Debug, Clone, Copy)]
struct Sample {
    /// What the store said, in milliseconds since 1970, between these two moments.
    at: u64,
    sent: Moment,
    received: Moment,
}

/// The store's time now, in milliseconds since 1970: it is between these two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Now {
    pub(super) earliest: u64,
    pub(super) latest: u64,
}

impl Sample {
    fn now(self, now: Moment) -> Option<Now> {
        let (least, most) = (now.since(self.received), now.since(self.sent));
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        (most < YOUNG).then(|| Now {
            earliest: self.at + millis(least - least / 1000),
            // The store cuts its time off to milliseconds, and so is the own one.
            latest: self.at + millis(most + most / 1000) + 2,
        })
    }
}

impl StoreTime {
    /// The store has written a node.
    pub(super) fn note(&self, stat: &Stat, sent: Moment) {
        let sample = Sample { at: stat.mtime.cast_unsigned(), sent, received: Clock::System.now() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sample);
    }

    /// The store's time. It is asked for by writing to a node if it did not say it lately.
    pub(super) async fn now(&self, session: &Session, clock: &str) -> Result<Now> {
        loop {
            let sample = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(now) = sample.and_then(|sample| sample.now(Clock::System.now())) {
                return Ok(now);
            }
            let sent = Clock::System.now();
            let stat = session.set(clock, b"", None).await?;
            self.note(&stat, sent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_carried_on_within_bounds() {
        let at = |millis| Moment::from_start(Duration::from_millis(millis));
        let sample = Sample { at: 1_000_000, sent: at(100), received: at(130) };
        assert_eq!(sample.now(at(130)), Some(Now { earliest: 1_000_000, latest: 1_000_032 }));
        assert_eq!(sample.now(at(5130)), Some(Now { earliest: 1_004_995, latest: 1_005_037 }));
        assert_eq!(sample.now(at(10_100)), None);
    }
}
