//! How many others seem to wait at a queue, so that those who are woken by one item do not all reach for it at once.
//!
//! Every push wakes all who wait. Each that finds the item ready asks for a lease and tries to take it, and all but one do so for
//! nothing. So a client that lost an item to others waits a moment at random before it looks the next time, longer each time it
//! loses, and no more once it wins. Who never lost waits for nothing, nor does one that just received something.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use coord_core::spi::jobs::QueueId;

/// How many queues a client remembers.
const QUEUES: usize = 1_000;

/// The longest moment, in milliseconds.
const LONGEST: u32 = 16;

/// What this client met with at its queues.
#[derive(Debug, Default)]
pub(crate) struct Crowds(Mutex<HashMap<QueueId, Crowd>>);

#[derive(Debug, Clone, Copy, Default)]
struct Crowd {
    /// The longest moment to wait, in milliseconds.
    level: u32,
    /// Whether the last receive found nothing.
    idle: bool,
}

impl Crowds {
    fn lock(&self) -> MutexGuard<'_, HashMap<QueueId, Crowd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long to wait before the first look of a receive.
    pub(super) fn pause(&self, queue: &QueueId) -> Duration {
        let crowd = self.lock().get(queue).copied().unwrap_or_default();
        if !crowd.idle || crowd.level == 0 {
            return Duration::ZERO;
        }
        Duration::from_micros(fastrand::u64(..=u64::from(crowd.level) * 1_000))
    }

    /// All that was ready was taken by others.
    pub(super) fn lost(&self, queue: &QueueId) {
        let mut crowds = self.lock();
        if crowds.len() >= QUEUES && !crowds.contains_key(queue) {
            crowds.clear();
        }
        let crowd = crowds.entry(queue.clone()).or_default();
        crowd.level = (crowd.level * 2).clamp(1, LONGEST);
    }

    /// A receive ended, with something or with nothing.
    pub(super) fn ended(&self, queue: &QueueId, won: bool) {
        let mut crowds = self.lock();
        // Who never lost is not remembered.
        if let Some(crowd) = crowds.get_mut(queue) {
            crowd.idle = !won;
            crowd.level = crowd.level.saturating_sub(u32::from(won));
            if crowd.level == 0 {
                crowds.remove(queue);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use coord_core::{Name, Namespace};

    use super::*;

    #[test]
    fn who_loses_waits_and_who_wins_does_not() {
        let (crowds, queue) =
            (Crowds::default(), QueueId { namespace: Namespace::default(), name: Name::new("q").unwrap() });
        crowds.ended(&queue, false);
        assert_eq!(crowds.pause(&queue), Duration::ZERO, "it never lost");
        for _ in 0..10 {
            crowds.lost(&queue);
        }
        crowds.ended(&queue, false);
        let longest = (0..1_000).map(|_| crowds.pause(&queue)).max().unwrap();
        assert!(longest > Duration::from_millis(8) && longest <= Duration::from_millis(16), "{longest:?}");
        crowds.ended(&queue, true);
        assert_eq!(crowds.pause(&queue), Duration::ZERO, "it has just won");
        for _ in 0..20 {
            crowds.ended(&queue, true);
        }
        assert!(crowds.lock().is_empty());
    }
}
