//! Clocks, and what a set of lengths of time comes to.

use std::time::Duration;

use coord_core::clock::{Clock, Moment};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// The present moment.
#[must_use]
pub fn now() -> Moment {
    Clock::System.now()
}

/// How long it is since this moment.
#[must_use]
pub fn since(start: Moment) -> Duration {
    now().since(start)
}

/// The processor time that this process has used, in seconds.
#[must_use]
pub fn processor() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// `CLOCK_MONOTONIC` in nanoseconds, which all processes of a host read alike.
#[must_use]
pub fn monotonic() -> i128 {
    let time = clock_gettime(ClockId::Monotonic);
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

/// Lengths of time that were measured.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<Duration>);

/// What samples come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many there are.
    pub n: usize,
    /// Half of them are at most as long, in microseconds.
    pub p50_us: f64,
    /// All but a hundredth are at most as long, in microseconds.
    pub p99_us: f64,
    /// The mean in microseconds.
    pub mean_us: f64,
}

impl Samples {
    /// One more.
    pub fn add(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What they come to.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
        // The least of the samples that so many are not longer than.
        let quantile = |part: f64| {
            let rank = (sorted.len() as f64 * part).ceil() as usize;
            sorted.get(rank.max(1) - 1).copied().map_or(0.0, micros)
        };
        let total: Duration = sorted.iter().sum();
        let mean_us = if sorted.is_empty() { 0.0 } else { micros(total) / sorted.len() as f64 };
        Summary { n: sorted.len(), p50_us: quantile(0.5), p99_us: quantile(0.99), mean_us }
    }
}

impl Extend<Duration> for Samples {
    fn extend<T: IntoIterator<Item = Duration>>(&mut self, samples: T) {
        self.0.extend(samples);
    }
}

impl IntoIterator for Samples {
    type Item = Duration;
    type IntoIter = std::vec::IntoIter<Duration>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<T: IntoIterator<Item = Duration>>(samples: T) -> Self {
        Self(samples.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let samples: Samples = (1..=200).rev().map(Duration::from_micros).collect();
        let summary = samples.summary();
        assert_eq!(summary, Summary { n: 200, p50_us: 100.0, p99_us: 198.0, mean_us: 100.5 });
        assert_eq!(Samples::default().summary(), Summary::default());
        let one: Samples = [Duration::from_micros(7)].into_iter().collect();
        assert_eq!(one.summary(), Summary { n: 1, p50_us: 7.0, p99_us: 7.0, mean_us: 7.0 });
    }
}
