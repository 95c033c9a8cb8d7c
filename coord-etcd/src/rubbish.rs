//! Leases for what is kept for a while and then ends by itself. Many keys share one, so that they cost no lease each.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use coord_core::{
    Result,
    clock::{Clock, Moment},
};

use crate::client::{Shared, seconds};

/// The present lease for each life.
#[derive(Debug, Default)]
pub(crate) struct Rubbish {
    leases: Mutex<HashMap<Duration, Bucket>>,
    /// Whose turn it is to make one.
    granting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    lease: i64,
    /// When it was asked for.
    since: Moment,
    granted: Duration,
}

impl Rubbish {
    fn fresh(&self, life: Duration) -> Option<i64> {
        let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = leases.get(&life)?;
        let age = Clock::System.now().since(bucket.since);
        // Clocks of different rates; a second for the way to the server.
        let needed = life + life / 50 + Duration::from_secs(1);
        (age + needed <= bucket.granted).then_some(bucket.lease)
    }
}

impl Shared {
    /// A lease that runs for at least `life` from now and at most for about twice as long. It is shared by all who ask for the
    /// same life, and nobody keeps it alive or revokes it.
    ///
    /// Should a request that names it answer that [the lease is gone](crate::error::is_lease_gone), call
    /// [`Shared::forget_rubbish`] and ask again.
    pub(crate) async fn rubbish(&self, life: Duration) -> Result<i64> {
        if let Some(lease) = self.rubbish.fresh(life) {
            return Ok(lease);
        }
        let _turn = self.rubbish.granting.lock().await;
        if let Some(lease) = self.rubbish.fresh(life) {
            return Ok(lease);
        }
        let since = Clock::System.now();
        let wanted = Duration::from_secs(u64::try_from(seconds(life * 2)).unwrap_or(u64::MAX) + 2);
        let (lease, granted) = self.grant(wanted).await?;
        let mut leases = self.rubbish.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.insert(life, Bucket { lease, since, granted });
        Ok(lease)
    }

    /// Forgets a lease that has ended before its time: somebody revoked it, or the server lost it.
    pub(crate) fn forget_rubbish(&self, lease: i64) {
        let mut leases = self.rubbish.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.retain(|_, bucket| bucket.lease != lease);
    }

    /// Forgets all of them.
    pub(crate) fn forget_all_rubbish(&self) {
        self.rubbish.leases.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
