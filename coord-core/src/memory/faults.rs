//! Faults on the way between one client and the store.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{task::yield_now, time::sleep};

use crate::{Error, ErrorKind, Result};

/// Faults on the way between one client and the store. All are off at first.
#[derive(Debug, Default)]
pub struct Faults {
    partitioned: AtomicBool,
    lost_replies: AtomicU32,
    lost_requests: AtomicU32,
    deaf: AtomicBool,
    request_delay: Mutex<Duration>,
    reply_delay: Mutex<Duration>,
    operations: AtomicU32,
}

/// How long a client waits for a store that is cut off.
const SILENCE: Duration = Duration::from_millis(500);

impl Faults {
    /// Cuts the client off, or heals it: nothing gets through in either direction, hints included, and operations
    /// fail after half a second with an unknown effect.
    pub fn partition(&self, cut: bool) {
        self.partitioned.store(cut, Ordering::SeqCst);
    }

    /// The next `count` operations take effect, but their replies are lost.
    pub fn lose_replies(&self, count: u32) {
        self.lost_replies.store(count, Ordering::SeqCst);
    }

    /// The next `count` operations do not reach the store, which the client cannot know.
    pub fn lose_requests(&self, count: u32) {
        self.lost_requests.store(count, Ordering::SeqCst);
    }

    /// Loses all hints, or none.
    pub fn lose_hints(&self, lose: bool) {
        self.deaf.store(lose, Ordering::SeqCst);
    }

    /// Requests take this long to reach the store.
    pub fn delay_requests(&self, delay: Duration) {
        *self.request_delay.lock().unwrap_or_else(PoisonError::into_inner) = delay;
    }

    /// Replies take this long to reach the client.
    pub fn delay_replies(&self, delay: Duration) {
        *self.reply_delay.lock().unwrap_or_else(PoisonError::into_inner) = delay;
    }

    /// How many operations the client has sent, to count round trips.
    #[must_use]
    pub fn operations(&self) -> u32 {
        self.operations.load(Ordering::SeqCst)
    }

    pub(super) fn hears(&self) -> bool {
        !self.deaf.load(Ordering::SeqCst) && !self.partitioned.load(Ordering::SeqCst)
    }

    pub(super) async fn request(&self) -> Result<()> {
        self.operations.fetch_add(1, Ordering::SeqCst);
        // A point at which the caller can be dropped, as on a real network.
        yield_now().await;
        pass(&self.request_delay).await;
        if take(&self.lost_requests) {
            return Err(silent());
        }
        self.connected().await
    }

    pub(super) async fn reply(&self) -> Result<()> {
        yield_now().await;
        pass(&self.reply_delay).await;
        if take(&self.lost_replies) {
            return Err(silent());
        }
        self.connected().await
    }

    async fn connected(&self) -> Result<()> {
        if self.partitioned.load(Ordering::SeqCst) {
            sleep(SILENCE).await;
            return Err(silent());
        }
        Ok(())
    }
}

async fn pass(delay: &Mutex<Duration>) {
    let delay = *delay.lock().unwrap_or_else(PoisonError::into_inner);
    if !delay.is_zero() {
        sleep(delay).await;
    }
}

fn take(count: &AtomicU32) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1)).is_ok()
}

fn silent() -> Error {
    Error::new(ErrorKind::Unavailable, "the memory store did not answer: a fault was injected")
        .with_unknown_effect()
}
