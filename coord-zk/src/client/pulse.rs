//! Signs of life of a session in an ensemble, so close together that a grant can count on the session.
//!
//! A server tells the leader of the signs of life of its clients with its answer to the leader's next heartbeat, each half a tick,
//! and dies with what it has not told. Requests that it passes on to the leader are no signs of life there. So when a server dies
//! behind the answer to a renewal, what the leader knows of the session is older than the renewal: by no more than half a tick, if
//! there was a sign of life between any two heartbeats, and otherwise by as much more as there was none. The driver itself gives
//! one only after up to half of the time after which it gives up a silent connection.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use coord_core::clock::{Clock, Moment};

use crate::session::Session;

/// Signs of life are no closer together than that.
const CLOSEST: Duration = Duration::from_millis(100);

/// The tick of servers where nobody set another.
const USUAL: Duration = Duration::from_secs(2);

/// How long after a lease and a tick the next holder may come.
const LATE: Duration = Duration::from_millis(500);

/// How often signs of life are given for servers of some tick, and what that promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rhythm {
    every: Duration,
    /// The time between the leader's heartbeats, at most: half a tick.
    half: Duration,
}

impl Rhythm {
    /// That for servers whose tick is known. Where it is not, it is taken that they take no sessions shorter than two of their
    /// ticks, or if they do, that nobody set a longer tick than the usual one.
    pub(crate) fn of(tick: Option<Duration>, shortest_session: Duration) -> Self {
        let presumed = shortest_session / 2;
        let (least, most) = tick.map_or((presumed.min(USUAL), presumed.max(USUAL)), |tick| (tick, tick));
        Self { every: (least / 4).max(CLOSEST), half: most / 2 }
    }

    /// The longest time without one that does no harm: one may come late by as much as there is between two.
    fn gap(self) -> Duration {
        self.every * 2
    }

    /// How much of a session's length a grant may not count on.
    pub(crate) fn margin(self) -> Duration {
        if self.gap() <= self.half { self.half } else { self.half + self.gap() }
    }

    /// By how much a lease is shorter than it was asked to be, so that after a holder's death the next is granted within what was
    /// asked, a tick and half a second. The leader hears of the last sign of life up to half a tick late, a session is longer
    /// than its leases by the margin, and it ends at the tick after it is over.
    pub(crate) fn forgone(self) -> Duration {
        (self.margin() + self.half).saturating_sub(LATE)
    }

    /// For how long signs of life must have been close together for that to hold.
    fn window(self) -> Duration {
        self.margin() + self.half
    }
}

/// The signs of life of one session.
#[derive(Debug)]
pub(crate) struct Pulse {
    rhythm: Rhythm,
    beats: Mutex<Beats>,
}

#[derive(Debug, Clone, Copy)]
struct Beats {
    last: Moment,
    /// Since when they are close together.
    steady: Moment,
}

impl Pulse {
    /// That of a new session, which the leader has just made.
    pub(crate) fn start(rhythm: Rhythm) -> Self {
        let beats = Beats { last: Clock::System.now(), steady: Moment::default() };
        Self { rhythm, beats: Mutex::new(beats) }
    }

    fn beat(&self, now: Moment, connected_before: bool) {
        let mut beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        if connected_before {
            beats.beat(self.rhythm, now);
        } else {
            // The leader was asked whether the session is still there, so it knows of this one.
            *beats = Beats { last: now, steady: Moment::default() };
        }
    }

    /// Waits until a grant can count on the session, if this process stood still lately.
    pub(crate) async fn steady(&self) {
        loop {
            let beats = *self.beats.lock().unwrap_or_else(PoisonError::into_inner);
            let wait = beats.steady_in(self.rhythm, Clock::System.now());
            if wait.is_zero() {
                return;
            }
            tokio::time::sleep(wait).await;
        }
    }
}

impl Beats {
    fn beat(&mut self, rhythm: Rhythm, now: Moment) {
        if now.since(self.last) > rhythm.gap() {
            self.steady = now;
        }
        self.last = now;
    }

    /// When there will have been enough of them.
    fn steady_in(self, rhythm: Rhythm, now: Moment) -> Duration {
        if now.since(self.last) > rhythm.gap() {
            return rhythm.every;
        }
        self.steady.after(rhythm.window()).since(now)
    }
}

/// Gives signs of life for as long as the session is there and not over.
pub(crate) async fn keep(session: Weak<Session>, pulse: Arc<Pulse>) {
    let mut connected = true;
    loop {
        tokio::time::sleep(pulse.rhythm.every).await;
        let Some(session) = session.upgrade().filter(|session| !session.is_over()) else { return };
        // Nobody hears one without a connection.
        let before = std::mem::replace(&mut connected, session.give_sign());
        if connected {
            pulse.beat(Clock::System.now(), before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn at(millis: u64) -> Moment {
        Moment::from_start(ms(millis))
    }

    /// The oldest that a leader's knowledge can be when a server dies behind an answer.
    fn oldest(tick: u64, beats: impl Fn(u64) -> u64) -> u64 {
        let mut oldest = 0;
        for phase in 0..tick / 2 {
            // The server dies just before its next heartbeat.
            let end = 10 * tick + phase;
            let last_heartbeat = end + 1 - tick / 2;
            // Told at a heartbeat: what happened since the one before.
            let told = (0..).map(&beats).take_while(|beat| *beat <= last_heartbeat).last().unwrap();
            let mut heartbeat = last_heartbeat;
            while heartbeat - tick / 2 >= told {
                heartbeat -= tick / 2;
            }
            oldest = oldest.max(end - heartbeat);
        }
        oldest
    }

    #[test]
    fn a_session_ends_within_what_was_asked_a_tick_and_half_a_second() {
        for tick in [100, 200, 300, 500, 1000, 2000, 3000] {
            let rhythm = Rhythm::of(Some(ms(tick)), ms(1));
            let asked = ms(10 * tick);
            let session = asked - rhythm.forgone() + rhythm.margin();
            // Heard of half a tick late, and looked at each tick.
            let end = ms(tick / 2) + session + ms(tick);
            assert!(end <= asked + ms(tick) + LATE, "{tick}");
        }
        // Half a second is enough for short ticks.
        assert_eq!(Rhythm::of(Some(ms(100)), ms(1)).forgone(), Duration::ZERO);
        assert_eq!(Rhythm::of(Some(ms(500)), ms(1)).forgone(), Duration::ZERO);
        assert_eq!(Rhythm::of(Some(ms(2000)), ms(1)).forgone(), ms(1500));
    }

    #[test]
    fn the_margin_covers_what_a_leader_may_not_know() {
        for tick in [100, 200, 300, 500, 1000, 2000] {
            let rhythm = Rhythm::of(Some(ms(tick)), ms(1));
            let gap = u64::try_from(rhythm.gap().as_millis()).unwrap();
            assert!(ms(oldest(tick, |beat| beat * gap)) <= rhythm.margin(), "{tick}");
        }
        // With the driver's own signs of life, half a tick is not enough.
        assert!(ms(oldest(500, |beat| beat * 1000)) > Rhythm::of(Some(ms(500)), ms(1)).margin());
        assert_eq!(Rhythm::of(Some(ms(2000)), ms(1)).margin(), ms(1000));
        assert_eq!(Rhythm::of(None, ms(4000)), Rhythm::of(Some(ms(2000)), ms(1)));
        assert_eq!(Rhythm::of(None, ms(1000)).margin(), ms(1000), "two seconds may be hidden");
        assert_eq!(Rhythm::of(Some(ms(500)), ms(1)).margin(), ms(250));
        assert_eq!(Rhythm::of(Some(ms(100)), ms(1)).margin(), ms(250));
    }

    #[test]
    fn who_stood_still_is_steady_later() {
        let rhythm = Rhythm::of(Some(ms(2000)), ms(1));
        let mut beats = Beats { last: at(10_000), steady: Moment::default() };
        for beat in [10_500, 11_000, 12_000] {
            beats.beat(rhythm, at(beat));
            assert_eq!(beats.steady_in(rhythm, at(beat + 100)), Duration::ZERO);
        }
        assert_eq!(beats.steady_in(rhythm, at(13_001)), ms(500), "a sign of life is missing");
        beats.beat(rhythm, at(15_000));
        assert_eq!(beats.steady_in(rhythm, at(15_100)), ms(1900));
        for beat in [15_500, 16_000, 16_500] {
            beats.beat(rhythm, at(beat));
        }
        assert_eq!(beats.steady_in(rhythm, at(17_000)), Duration::ZERO);
    }
}
