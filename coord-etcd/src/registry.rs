//! The claims of this client, each with the moment at which it ends unless it is renewed.
//!
//! Claims of one TTL share a lease, which goes on while any of them is renewed. So it is decided here, once and under a lock,
//! whether one of them has ended: from then on no renewal prolongs it, and its key is deleted before anything else prolongs the
//! lease it is on. The deadlines count from before the request was sent; the lease at the server runs longer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use coord_core::{
    clock::{Clock, Moment},
    spi::{ClaimId, LineId},
};
use tokio::sync::Notify;

use crate::{keys::claim_id, leases::Lease, lines::ClaimKeys, record::Record};

/// How long whoever sweeps may sleep.
const LONGEST: Duration = Duration::from_secs(3600);

/// The claims of this client.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    claims: Mutex<Claims>,
    /// Told when something may end sooner than before.
    pub(crate) changed: Notify,
}

#[derive(Debug, Default)]
struct Claims {
    next: u64,
    /// When whoever sweeps looks again by itself; `None`: it does not sleep.
    sleeps: Option<Moment>,
    by_id: HashMap<ClaimId, Held>,
    /// Those whose lease is gone, as a member said, with their tokens, and how long that is remembered. They may still be shown:
    /// a new leader may not know a lease yet, and says that there is none.
    over: HashMap<(ClaimId, i64), Moment>,
}

/// One claim of this client.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    /// Which entry of the registry this is: an id may enter again.
    pub(crate) serial: u64,
    pub(crate) line: LineId,
    pub(crate) keys: ClaimKeys,
    /// Whether the lease is its own.
    pub(crate) alone: bool,
    pub(crate) lease: Arc<Lease>,
    /// Whose turn it is to write it anew.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
    /// The lease to which a renewal is about to move it; the key may be on either.
    pub(crate) moving: Option<Arc<Lease>>,
    /// The key's create revision; `None` until it is known whether it was put.
    pub(crate) token: Option<i64>,
    /// The last revision of its record.
    pub(crate) version: i64,
    pub(crate) record: Record,
    /// When it ends.
    pub(crate) deadline: Moment,
    /// It ended, or is withdrawn: its key is to be deleted.
    pub(crate) ended: bool,
    /// Somebody is about to delete it.
    pub(crate) leaving: bool,
}

impl Held {
    /// The leases on which its key may be.
    pub(crate) fn leases(&self) -> impl Iterator<Item = &Arc<Lease>> {
        std::iter::once(&self.lease).chain(&self.moving)
    }
}

impl Claims {
    fn ended(&mut self, now: Moment) -> Vec<(ClaimId, Held)> {
        let ended = self.by_id.iter_mut().filter_map(|(id, held)| {
            held.ended |= held.deadline <= now || held.lease.is_gone();
            (held.ended && !held.leaving).then(|| (*id, held.clone()))
        });
        ended.collect()
    }
}

/// A claim that is being withdrawn. Once this is dropped, whoever sweeps deletes it, if it is still there.
#[must_use = "dropped, it leaves the claim to be swept"]
#[derive(Debug)]
pub(crate) struct Leaving<'a> {
    registry: &'a Registry,
    id: ClaimId,
    serial: u64,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut claims = self.registry.claims();
        if let Some(held) = claims.by_id.get_mut(&self.id).filter(|held| held.serial == self.serial) {
            held.leaving = false;
            drop(claims);
            self.registry.changed.notify_one();
        }
    }
}

impl Registry {
    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The claim of this id in this line, marked as ended if it is.
    pub(crate) fn get(&self, line: &LineId, id: ClaimId) -> Option<Held> {
        let now = Clock::System.now();
        let mut claims = self.claims();
        let held = claims.by_id.get_mut(&id).filter(|held| held.line == *line)?;
        held.ended |= held.deadline <= now;
        Some(held.clone())
    }

    /// Adds a claim, or puts it in the place of the one that had its id; the serial is given here.
    pub(crate) fn enter(&self, id: ClaimId, mut held: Held) -> u64 {
        let mut claims = self.claims();
        claims.next += 1;
        let serial = claims.next;
        held.serial = serial;
        let sooner = claims.sleeps.is_some_and(|until| held.deadline < until);
        claims.by_id.insert(id, held);
        drop(claims);
        if sooner {
            self.changed.notify_one();
        }
        serial
    }

    /// Changes the entry, unless it has ended or is another one. `None`: it has.
    pub(crate) fn update<T>(
        &self,
        id: ClaimId,
        serial: u64,
        change: impl FnOnce(&mut Held) -> T,
    ) -> Option<T> {
        let now = Clock::System.now();
        let mut claims = self.claims();
        let held = claims.by_id.get_mut(&id).filter(|held| held.serial == serial)?;
        held.ended |= held.deadline <= now || held.lease.is_gone();
        if held.ended { None } else { Some(change(held)) }
    }

    /// Whether this entry is there still.
    pub(crate) fn has(&self, id: ClaimId, serial: u64) -> bool {
        self.claims().by_id.get(&id).is_some_and(|held| held.serial == serial)
    }

    /// From now on nothing prolongs it, and the caller deletes it.
    pub(crate) fn leave(&self, id: ClaimId, serial: u64) -> Leaving<'_> {
        let mut claims = self.claims();
        if let Some(held) = claims.by_id.get_mut(&id).filter(|held| held.serial == serial) {
            (held.ended, held.leaving) = (true, true);
        }
        Leaving { registry: self, id, serial }
    }

    /// Forgets it; but not that it is over, if its lease is gone.
    pub(crate) fn remove(&self, id: ClaimId, serial: u64) {
        let mut claims = self.claims();
        if claims.by_id.get(&id).is_none_or(|held| held.serial != serial) {
            return;
        }
        if let Some(Held { token: Some(token), lease, .. }) = claims.by_id.remove(&id)
            && lease.is_gone()
        {
            let now = Clock::System.now();
            claims.over.retain(|_, until| now < *until);
            // Nobody keeps that lease alive, and a new leader lets it run once more at most.
            claims.over.insert((id, token), now.after(lease.granted * 2));
        }
    }

    /// All that have ended by now, and that nobody is about to delete.
    pub(crate) fn ended(&self) -> Vec<(ClaimId, Held)> {
        self.claims().ended(Clock::System.now())
    }

    /// The same, and how long until the next one ends. Whoever asks looks again by then, or when it is [told](Self::changed) of one
    /// that ends sooner.
    pub(crate) fn ended_or_next(&self) -> (Vec<(ClaimId, Held)>, Duration) {
        let now = Clock::System.now();
        let mut claims = self.claims();
        let ended = claims.ended(now);
        let next = claims.by_id.values().filter(|held| !held.ended).map(|held| held.deadline).min();
        let next = next.unwrap_or_else(|| now.after(LONGEST));
        claims.sleeps = Some(next);
        (ended, next.since(now))
    }

    /// Whether any claim is on this lease, or may be.
    pub(crate) fn uses(&self, lease: i64) -> bool {
        self.claims().by_id.values().any(|held| held.leases().any(|one| one.id == lease))
    }

    /// Whether this key belongs to a claim, perhaps one that somebody overtook and that has not looked since.
    pub(crate) fn knows(&self, key: &[u8]) -> bool {
        let claims = self.claims();
        let name = key.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        name.get(..32).and_then(claim_id).is_some_and(|id| claims.by_id.contains_key(&id))
            || claims.by_id.values().any(|held| held.keys.place == key || held.keys.record == key)
    }

    /// How long a claim of this client still runs; zero if it has ended.
    pub(crate) fn left(&self, id: ClaimId, token: i64) -> Option<Duration> {
        let now = Clock::System.now();
        let claims = self.claims();
        let Some(held) = claims.by_id.get(&id).filter(|held| held.token == Some(token)) else {
            return claims.over.contains_key(&(id, token)).then_some(Duration::ZERO);
        };
        // One that is being withdrawn is in the line until the server says that it is not: others see it there.
        Some(if held.ended && !held.leaving { Duration::ZERO } else { held.deadline.since(now) })
    }
}

#[cfg(test)]
mod tests {
    use coord_core::{
        Name, Namespace,
        spi::{Claim, Kind},
    };

    use super::*;
    use crate::{config::Layout, lines::LineKeys};

    fn held(claim: &Claim, token: i64) -> Held {
        let now = Clock::System.now();
        Held {
            serial: 0,
            line: claim.line.clone(),
            keys: LineKeys::of(&claim.line, Layout::default()).of_claim(claim.id, 1, 7),
            alone: false,
            lease: Arc::new(Lease::new(7, 10, claim.ttl, now)),
            turn: Arc::default(),
            moving: None,
            token: Some(token),
            version: token,
            record: Record::new(claim, "client"),
            deadline: now.after(claim.ttl),
            ended: false,
            leaving: false,
        }
    }

    #[test]
    fn what_is_over_is_over_until_it_enters_again() {
        let name = Name::new("x").unwrap();
        let line = LineId { namespace: Namespace::default(), kind: Kind::Registry, name };
        let claim = Claim {
            line,
            id: ClaimId::random(),
            weight: 1,
            limit: u32::MAX,
            ttl: Duration::from_secs(10),
            priority: 0,
            wait: false,
            owner: String::new(),
            value: Vec::new(),
        };
        let registry = Registry::default();
        assert_eq!(registry.left(claim.id, 5), None, "nobody knows of it");
        for _ in 0..2 {
            // Found again at the server, it has the token that it had.
            let held = held(&claim, 5);
            let serial = registry.enter(claim.id, held.clone());
            assert!(registry.left(claim.id, 5).is_some_and(|left| !left.is_zero()), "it runs");
            held.lease.end();
            registry.remove(claim.id, serial);
            assert_eq!(registry.left(claim.id, 5), Some(Duration::ZERO), "it is over, whoever shows it");
            assert_eq!(registry.left(claim.id, 6), None, "one with another token is another one");
        }
        let serial = registry.enter(claim.id, held(&claim, 7));
        registry.remove(claim.id, serial);
        assert_eq!(registry.left(claim.id, 7), None, "its lease runs: it may be somebody else's by now");
    }
}
