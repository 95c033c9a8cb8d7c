//! The one place that reads a clock.
//!
//! Leases are judged on a clock that keeps counting while the machine sleeps and that nobody can set: on Linux
//! `CLOCK_BOOTTIME`, elsewhere the system's monotonic clock. A wall clock is read only to show a time to a person.

#![allow(clippy::disallowed_methods)]

use std::{
    sync::OnceLock,
    time::{Duration, SystemTime},
};

/// A point on a [`Clock`], as the time since an arbitrary start of that clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(Duration);

impl Moment {
    /// The time since the clock's start.
    #[must_use]
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// The moment this long after the clock's start.
    #[must_use]
    pub const fn from_start(duration: Duration) -> Self {
        Self(duration)
    }

    /// The moment `duration` later, or the end of time.
    #[must_use]
    pub const fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// The time from `earlier` to this moment; zero if it lies in the past of `earlier`.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A source of moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Clock {
    /// The host's clock: `CLOCK_BOOTTIME` on Linux. All processes of one host read the same one.
    #[default]
    System,
    /// Tokio's clock, which a test can pause and advance.
    Tokio,
}

impl Clock {
    /// The present moment.
    #[must_use]
    pub fn now(self) -> Moment {
        match self {
            Self::System => Moment(system()),
            Self::Tokio => {
                // An hour back, so that it lies before the clock of every runtime that a test paused.
                static START: OnceLock<std::time::Instant> = OnceLock::new();
                let start = *START.get_or_init(|| {
                    let now = std::time::Instant::now();
                    now.checked_sub(Duration::from_secs(3600)).unwrap_or(now)
                });
                let now = tokio::time::Instant::now();
                Moment(now.saturating_duration_since(tokio::time::Instant::from_std(start)))
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn system() -> Duration {
    since_boot(rustix::time::clock_gettime(rustix::time::ClockId::Boottime))
}

#[cfg(all(unix, not(target_os = "linux")))]
fn system() -> Duration {
    since_boot(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic))
}

#[cfg(unix)]
fn since_boot(time: rustix::time::Timespec) -> Duration {
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(not(unix))]
fn system() -> Duration {
    static START: OnceLock<std::time::Instant> = OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

/// The wall clock, to show to a person and to seed token floors; never to judge a lease.
#[must_use]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
