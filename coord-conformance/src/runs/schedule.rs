//! Which fault strikes when: decided by the seed alone, before the run begins.

use std::time::Duration;

use fastrand::Rng;

use super::faults::{Fault, Struck};

/// One fault to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strike {
    /// When, from the beginning of the run.
    pub(super) at: Duration,
    pub(super) fault: Fault,
    /// Decides whom it strikes, and how.
    pub(super) choice: u64,
    /// How long it lasts, where it lasts.
    pub(super) length: Duration,
}

impl Strike {
    /// Whether one strikes whoever holds a lock.
    pub(super) fn wants_a_holder(choice: u64) -> bool {
        choice % 2 == 1
    }

    /// Makes it what a control needs, in which something has to go wrong: it strikes a holder, for longer than a lease.
    pub(super) fn worsen(&mut self, lease: Duration) {
        self.choice |= 1;
        if self.fault == Fault::Stop {
            self.length = self.length.max(lease.mul_f64(1.2));
        }
    }
}

/// The faults to come. Those of one row strike one after the other, rows at the same time.
pub(super) fn schedule(seed: u64, faults: &[Fault], lease: Duration, duration: Duration) -> Vec<Vec<Strike>> {
    [Struck::Processes, Struck::Links, Struck::Servers]
        .into_iter()
        .zip(0..)
        .map(|(struck, number)| {
            let faults: Vec<_> = faults.iter().copied().filter(|fault| fault.struck() == struck).collect();
            row(Rng::with_seed(seed.wrapping_mul(1000).wrapping_add(number)), &faults, lease, duration)
        })
        .collect()
}

fn row(mut rng: Rng, faults: &[Fault], lease: Duration, duration: Duration) -> Vec<Strike> {
    let (mut strikes, mut round) = (Vec::new(), Vec::new());
    if faults.is_empty() {
        return strikes;
    }
    let mut at = Duration::from_millis(rng.u64(300..1000));
    loop {
        // Each as often as the others, in any order.
        if round.is_empty() {
            round = faults.to_vec();
            rng.shuffle(&mut round);
        }
        let Some(fault) = round.pop() else { return strikes };
        let length = length(&mut rng, fault, lease);
        if at + length > duration {
            return strikes;
        }
        strikes.push(Strike { at, fault, choice: rng.u64(..), length });
        // Long enough to come back to work, and to be caught in the midst of it.
        let pause = match fault.struck() {
            Struck::Servers => rng.u64(500..2500),
            Struck::Processes | Struck::Links => rng.u64(100..900),
        };
        at += length + Duration::from_millis(pause);
    }
}

fn length(rng: &mut Rng, fault: Fault, lease: Duration) -> Duration {
    let mut between = |least: f64, most: f64| lease.mul_f64(least + (most - least) * rng.f64());
    match fault {
        Fault::Kill | Fault::LoseReplies | Fault::LoseRequests => Duration::ZERO,
        Fault::Stop => between(0.2, 2.5),
        Fault::Cut => between(0.2, 2.0),
        Fault::Delay | Fault::Deaf => between(0.5, 1.5),
        Fault::ServerKill | Fault::LeaderKill => between(0.1, 1.0),
        Fault::WireLose => Duration::ZERO,
        Fault::WireReset | Fault::WireRefuse | Fault::WireSlow => between(0.3, 1.5),
        Fault::WireFreeze | Fault::WireBlackhole | Fault::WireMute | Fault::WireDeaf => between(0.2, 2.0),
        Fault::ServerStop | Fault::LeaderStop => between(0.2, 2.0),
        Fault::Partition | Fault::WireApart => between(0.5, 4.0),
        Fault::ClockForward | Fault::ClockBack | Fault::ClockStrobe => between(0.5, 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(1);
    const DURATION: Duration = Duration::from_secs(15);

    #[test]
    fn the_seed_decides() {
        let of = |seed| schedule(seed, &Fault::ALL, LEASE, DURATION);
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn every_fault_strikes_and_ends_in_time() {
        // Every row has a turn for each of its faults.
        let long = DURATION * 4;
        for seed in 0..100 {
            let rows = schedule(seed, &Fault::ALL, LEASE, long);
            for strikes in &rows {
                assert!(strikes.iter().all(|strike| strike.at + strike.length <= long));
                let apart = |pair: &[Strike]| pair[0].at + pair[0].length < pair[1].at;
                assert!(strikes.windows(2).all(apart), "{strikes:?}");
            }
            let struck = |fault| rows.iter().flatten().any(|strike| strike.fault == fault);
            assert!(Fault::ALL.into_iter().all(struck));
        }
        assert!(schedule(1, &[], LEASE, DURATION).iter().all(Vec::is_empty));
    }
}
