//! One line of claims: the rules of [`crate::spi`], in their plainest form.

use std::time::{Duration, SystemTime};

use crate::{
    FencingToken,
    clock::Moment,
    spi::{Claim, ClaimId, Entry, Holder},
};

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: ClaimId,
    pub(super) token: FencingToken,
    pub(super) claim: Claim,
    pub(super) granted: Option<SystemTime>,
    pub(super) joined: SystemTime,
    pub(super) expires: Moment,
}

/// Live claims in the order of their tokens.
#[derive(Debug, Default)]
pub(super) struct Slots(Vec<Slot>);

impl Slots {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&mut self, id: ClaimId) -> Option<&mut Slot> {
        self.0.iter_mut().find(|slot| slot.id == id)
    }

    /// A claim of this id and token that is granted.
    pub(super) fn granted(&mut self, id: ClaimId, token: FencingToken) -> Option<&mut Slot> {
        self.get(id).filter(|slot| slot.token == token && slot.granted.is_some())
    }

    pub(super) fn remove(&mut self, id: ClaimId) -> Option<Slot> {
        let at = self.0.iter().position(|slot| slot.id == id)?;
        Some(self.0.remove(at))
    }

    /// Takes out what has expired; true if there was anything.
    pub(super) fn purge(&mut self, now: Moment) -> bool {
        let before = self.0.len();
        self.0.retain(|slot| slot.expires > now);
        self.0.len() < before
    }

    pub(super) fn expire_all(&mut self) {
        self.0.clear();
    }

    /// Who would stand ahead of a claim that joins now: the granted, and who waits with at least its priority.
    fn ahead_of_new(&self, claim: &Claim) -> impl Iterator<Item = &Slot> {
        self.0.iter().filter(|slot| slot.granted.is_some() || slot.claim.priority >= claim.priority)
    }

    /// Whether a claim that joins now would be eligible.
    pub(super) fn would_be_eligible(&self, claim: &Claim) -> bool {
        let ahead: u64 = self.ahead_of_new(claim).map(|slot| u64::from(slot.claim.weight)).sum();
        ahead + u64::from(claim.weight) <= u64::from(claim.limit)
    }

    /// Joins at the end; claims that wait with a lower priority join again behind it.
    pub(super) fn join(
        &mut self,
        claim: &Claim,
        expires: Moment,
        joined: SystemTime,
        mut next: impl FnMut() -> FencingToken,
    ) {
        let (id, token) = (claim.id, next());
        self.0.push(Slot { id, token, claim: claim.clone(), granted: None, joined, expires });
        let priority = claim.priority;
        self.overtake(|slot| slot.id != id && slot.claim.priority < priority, next);
    }

    /// Claims that wait and are chosen join again at the end, in the order in which they stood.
    pub(super) fn overtake(
        &mut self,
        chosen: impl Fn(&Slot) -> bool,
        mut next: impl FnMut() -> FencingToken,
    ) {
        for slot in self.0.iter_mut().filter(|slot| slot.granted.is_none() && chosen(slot)) {
            slot.token = next();
        }
        self.0.sort_by_key(|slot| slot.token);
    }

    fn weight_ahead(&self, at: usize) -> u64 {
        self.0[..at].iter().map(|slot| u64::from(slot.claim.weight)).sum()
    }

    fn is_eligible(&self, at: usize) -> bool {
        let claim = &self.0[at].claim;
        self.weight_ahead(at) + u64::from(claim.weight) <= u64::from(claim.limit)
    }

    /// Grants the claim if it is eligible; its token if it is granted now. `None` also if it is not there.
    pub(super) fn grant(&mut self, id: ClaimId, wall: SystemTime) -> Option<FencingToken> {
        let at = self.0.iter().position(|slot| slot.id == id)?;
        if self.0[at].granted.is_none() && self.is_eligible(at) {
            self.0[at].granted = Some(wall);
        }
        self.0[at].granted.map(|_| self.0[at].token)
    }

    /// Claims that are eligible and have not looked.
    pub(super) fn eligible(&self) -> impl Iterator<Item = ClaimId> {
        (0..self.0.len())
            .filter(|at| self.0[*at].granted.is_none() && self.is_eligible(*at))
            .map(|at| self.0[at].id)
    }

    /// How many stand ahead, and when the first of them expires.
    pub(super) fn ahead(&self, id: ClaimId, now: Moment) -> (u32, Duration) {
        let at = self.0.iter().position(|slot| slot.id == id).unwrap_or(self.0.len());
        let expiry = self.0[..at].iter().map(|slot| slot.expires.since(now)).min();
        (u32::try_from(at).unwrap_or(u32::MAX), expiry.unwrap_or_default())
    }

    pub(super) fn first_holder(&self) -> Option<Holder> {
        let first = self.0.first()?;
        Some(Holder { owner: first.claim.owner.clone(), token: first.token })
    }

    pub(super) fn entries(&self, now: Moment) -> Vec<Entry> {
        let entry = |slot: &Slot| Entry {
            id: slot.id,
            token: slot.token,
            weight: slot.claim.weight,
            limit: slot.claim.limit,
            priority: slot.claim.priority,
            granted: slot.granted,
            joined: slot.joined,
            expires_in: slot.expires.since(now),
            owner: slot.claim.owner.clone(),
            value: slot.claim.value.clone(),
        };
        self.0.iter().map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Name, Namespace, clock,
        spi::{Kind, LineId},
    };

    #[derive(Debug, Clone)]
    enum Event {
        Join { priority: i32, weight: u32, wait: bool },
        Look(prop::sample::Index),
        Leave(prop::sample::Index),
        HandOver(prop::sample::Index, prop::sample::Index),
    }

    fn event() -> impl Strategy<Value = Event> {
        let index = any::<prop::sample::Index>;
        prop_oneof![
            (0..3i32, 1..4u32, any::<bool>()).prop_map(|(priority, weight, wait)| Event::Join {
                priority,
                weight,
                wait
            }),
            index().prop_map(Event::Look),
            index().prop_map(Event::Leave),
            (index(), index()).prop_map(|(from, to)| Event::HandOver(from, to)),
        ]
    }

    fn claim(priority: i32, weight: u32, limit: u32, wait: bool) -> Claim {
        let line =
            LineId { namespace: Namespace::default(), kind: Kind::Election, name: Name::new("x").unwrap() };
        let (ttl, owner, value) = (Duration::from_secs(1), "x".into(), Vec::new());
        Claim { line, id: ClaimId::random(), weight, limit, ttl, priority, wait, owner, value }
    }

    proptest! {
        /// Whatever joins, overtakes, leaves and is handed over: grants never exceed the limit, a grant is never taken
        /// back, no token is used twice, and tokens grow in the order of grants.
        #[test]
        fn tokens_grow_in_the_order_of_grants(limit in 1..4u32, events in prop::collection::vec(event(), 1..60)) {
            let (mut slots, mut last) = (Slots::default(), 0);
            let (mut granted, mut highest) = (Vec::<(ClaimId, FencingToken)>::new(), None);
            let expires = Moment::from_start(Duration::from_secs(1));
            for event in events {
                let mut next = || { last += 1; FencingToken::new(last).unwrap() };
                let ids: Vec<_> = slots.0.iter().map(|slot| slot.id).collect();
                let pick = |index: prop::sample::Index| (!ids.is_empty()).then(|| *index.get(&ids));
                let mut looks = None;
                match event {
                    Event::Join { priority, weight, wait } => {
                        let claim = claim(priority, weight.min(limit), limit, wait);
                        let eligible = slots.would_be_eligible(&claim);
                        if wait || eligible {
                            slots.join(&claim, expires, clock::wall(), next);
                            looks = Some(claim.id);
                            prop_assert_eq!(eligible, slots.grant(claim.id, clock::wall()).is_some());
                        }
                    }
                    Event::Look(index) => looks = pick(index),
                    Event::Leave(index) => {
                        if let Some(slot) = pick(index).and_then(|id| slots.remove(id)) {
                            granted.retain(|(id, _)| *id != slot.id);
                        }
                    }
                    Event::HandOver(from, to) => {
                        let from = pick(from).filter(|id| granted.iter().any(|(holder, _)| holder == id));
                        let place = pick(to).and_then(|id| slots.get(id)).filter(|slot| slot.granted.is_none());
                        if let (Some(from), Some(place)) = (from, place.map(|slot| slot.token)) {
                            slots.overtake(|slot| slot.token < place, &mut next);
                            slots.remove(from);
                            granted.retain(|(id, _)| *id != from);
                        }
                    }
                }
                if let Some((id, token)) = looks.and_then(|id| Some((id, slots.grant(id, clock::wall())?)))
                    && !granted.contains(&(id, token))
                {
                    prop_assert!(!granted.iter().any(|(holder, _)| *holder == id), "its token changed");
                    // With permits several wait for nothing but their look, and look in any order.
                    prop_assert!(limit > 1 || highest < Some(token), "{highest:?} then {token}");
                    highest = highest.max(Some(token));
                    granted.push((id, token));
                }
                prop_assert!(slots.0.windows(2).all(|pair| pair[0].token < pair[1].token));
                prop_assert!(slots.0.iter().all(|slot| slot.token.get() <= last));
                let out: u32 = slots.0.iter().filter(|slot| slot.granted.is_some()).map(|slot| slot.claim.weight).sum();
                prop_assert!(out <= limit, "{out} of {limit} are out");
                for (id, token) in &granted {
                    let slot = slots.0.iter().find(|slot| slot.id == *id);
                    prop_assert!(slot.is_some_and(|slot| slot.granted.is_some() && slot.token == *token));
                }
            }
        }
    }
}
