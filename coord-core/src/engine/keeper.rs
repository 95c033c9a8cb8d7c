//! The keeper: which grants to renew and which to give up, and when. A pure state machine: events and `now` go in, steps
//! come out. It does no I/O, reads no clock and spawns nothing; [`super::shell`] does.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use crate::{
    clock::Moment,
    spi::{ClaimId, Grant, Renewal},
};

/// How long a grant may be believed in: its TTL from *before* the request was sent, less a margin for clocks whose
/// rates differ. The store counts from later, so it never ends a lease before this.
pub(crate) fn valid_until(sent: Moment, ttl: Duration) -> Moment {
    sent.after(ttl.saturating_sub((ttl / 100).max(Duration::from_millis(1))))
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send these renewals in one request and report by [`Keeper::renewed`] or [`Keeper::failed`].
    Renew(Vec<Grant>),
    /// Ask the store whether this plain lease is still there, and report by [`Keeper::remove`] if it is not.
    Verify(Grant),
    /// The grant is valid until then.
    Prolong(ClaimId, Moment),
    /// The grant is lost; the store may still have the claim.
    Lose(ClaimId),
}

#[derive(Debug)]
struct Kept {
    grant: Grant,
    valid_until: Moment,
    renew: bool,
}

/// All grants of one TTL are renewed together, so that the cost of staying alive does not grow with their number.
#[derive(Debug)]
struct Group {
    due: Moment,
    in_flight: bool,
    /// Something happened while a request was under way, which may not know of it.
    again: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Keeper {
    kept: HashMap<ClaimId, Kept>,
    groups: BTreeMap<Duration, Group>,
    /// Nothing is to be done before this. It may be too early, never too late; so the whole is looked through once a
    /// period and not at every event.
    wake: Option<Moment>,
}

impl Keeper {
    /// Takes care of a grant, or replaces what is known of it. `jitter` in `0.0..1.0` spreads the renewals of many
    /// clients: a period is between 0.9 and 1.0 of a third of the TTL. A grant that was slow to come is renewed earlier.
    pub(crate) fn add(&mut self, grant: Grant, valid_until: Moment, renew: bool, now: Moment, jitter: f64) {
        if renew {
            let due = now.after(period(grant.ttl, jitter).min(valid_until.since(now) / 2));
            let group = self.groups.entry(grant.ttl).or_insert(Group { due, in_flight: false, again: false });
            group.due = group.due.min(due);
            self.hurry(due);
        }
        self.hurry(valid_until);
        self.kept.insert(grant.id, Kept { grant, valid_until, renew });
    }

    /// Forgets a grant: it was released, detached or given up.
    pub(crate) fn remove(&mut self, id: ClaimId) -> bool {
        self.kept.remove(&id).is_some()
    }

    /// Something may have happened to this grant: asks the store soon, by a renewal unless it is a plain lease.
    pub(crate) fn poke(&mut self, id: ClaimId, now: Moment) -> Option<Step> {
        let kept = self.kept.get(&id)?;
        if !kept.renew {
            return Some(Step::Verify(kept.grant.clone()));
        }
        let group = self.groups.get_mut(&kept.grant.ttl)?;
        group.due = group.due.min(now);
        group.again |= group.in_flight;
        self.hurry(now);
        None
    }

    /// What is to be done at `now`.
    pub(crate) fn step(&mut self, now: Moment) -> Vec<Step> {
        if self.wake.is_none_or(|wake| now < wake) {
            return Vec::new();
        }
        let mut steps: Vec<_> = self
            .kept
            .values()
            .filter(|kept| kept.valid_until <= now)
            .map(|kept| Step::Lose(kept.grant.id))
            .collect();
        self.kept.retain(|_, kept| kept.valid_until > now);
        self.groups.retain(|ttl, group| {
            group.in_flight || self.kept.values().any(|kept| kept.renew && kept.grant.ttl == *ttl)
        });
        for (ttl, group) in &mut self.groups {
            if group.due <= now && !group.in_flight {
                group.in_flight = true;
                let grants = self.kept.values().filter(|kept| kept.renew && kept.grant.ttl == *ttl);
                steps.push(Step::Renew(grants.map(|kept| kept.grant.clone()).collect()));
            }
        }
        let due = self.groups.values().filter(|group| !group.in_flight).map(|group| group.due);
        self.wake = self.kept.values().map(|kept| kept.valid_until).chain(due).min();
        steps
    }

    /// When [`Keeper::step`] has something to do again, if nothing else happens.
    pub(crate) fn next(&self) -> Option<Moment> {
        self.wake
    }

    fn hurry(&mut self, until: Moment) {
        self.wake = Some(self.wake.map_or(until, |wake| wake.min(until)));
    }

    /// The answers to a [`Step::Renew`] that was sent at `sent`.
    pub(crate) fn renewed(
        &mut self,
        grants: &[Grant],
        answers: &[Renewal],
        sent: Moment,
        now: Moment,
        jitter: f64,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        for (grant, answer) in grants.iter().zip(answers) {
            let Some(kept) = self.kept.get_mut(&grant.id) else { continue };
            match answer {
                // Too late to count: this guard may already have said that it is lost.
                Renewal::Renewed if kept.valid_until <= now => {}
                Renewal::Renewed => {
                    kept.valid_until = kept.valid_until.max(valid_until(sent, grant.ttl));
                    steps.push(Step::Prolong(grant.id, kept.valid_until));
                }
                Renewal::StillHeld => {}
                Renewal::Lost => {
                    self.kept.remove(&grant.id);
                    steps.push(Step::Lose(grant.id));
                }
            }
        }
        self.settle(grants, |ttl| period(ttl, jitter), sent, now);
        steps
    }

    /// The renewal failed or its reply was lost. That alone loses nothing; the deadline does. Tries again soon.
    pub(crate) fn failed(&mut self, grants: &[Grant], now: Moment, jitter: f64) {
        self.settle(grants, |ttl| period(ttl, jitter) / 6, now, now);
    }

    fn settle(&mut self, grants: &[Grant], pause: impl Fn(Duration) -> Duration, from: Moment, now: Moment) {
        let Some(ttl) = grants.first().map(|grant| grant.ttl) else { return };
        if let Some(group) = self.groups.get_mut(&ttl) {
            group.in_flight = false;
            let again = std::mem::take(&mut group.again);
            group.due = if again { now } else { from.after(pause(ttl)).max(now) };
            let due = group.due;
            self.hurry(due);
        }
    }
}

fn period(ttl: Duration, jitter: f64) -> Duration {
    (ttl / 3).mul_f64(0.9 + 0.1 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        FencingToken, Name, Namespace,
        spi::{Kind, LineId},
    };

    const TTL: Duration = Duration::from_secs(9);

    fn at(millis: u64) -> Moment {
        Moment::from_start(Duration::from_millis(millis))
    }

    fn grant(number: u64, ttl: Duration) -> Grant {
        let line = LineId {
            namespace: Namespace::default(),
            kind: Kind::Lock,
            name: Name::new(number.to_string()).unwrap(),
        };
        Grant { line, id: ClaimId::random(), token: FencingToken::new(number).unwrap(), ttl }
    }

    fn kept(grants: &[Grant]) -> Keeper {
        let mut keeper = Keeper::default();
        for grant in grants {
            keeper.add(grant.clone(), valid_until(at(0), grant.ttl), true, at(0), 1.0);
        }
        keeper
    }

    #[test]
    fn a_thousand_grants_are_one_request_a_period() {
        let grants: Vec<_> = (1..=1000).map(|number| grant(number, TTL)).collect();
        let mut keeper = kept(&grants);
        assert_eq!(keeper.step(at(2999)), []);
        let steps = keeper.step(at(3000));
        let [Step::Renew(sent)] = &steps[..] else { panic!("{} steps", steps.len()) };
        assert_eq!(sent.len(), 1000);
        assert_eq!(keeper.step(at(3001)), [], "one request at a time");
        let steps = keeper.renewed(sent, &[Renewal::Renewed; 1000], at(3000), at(3010), 1.0);
        assert_eq!(steps.len(), 1000);
        assert_eq!(keeper.next(), Some(at(6000)));
    }

    #[test]
    fn validity_counts_from_before_the_request() {
        let one = grant(1, TTL);
        let mut keeper = kept(std::slice::from_ref(&one));
        keeper.step(at(3000));
        let steps = keeper.renewed(std::slice::from_ref(&one), &[Renewal::Renewed], at(3000), at(4000), 1.0);
        assert_eq!(steps, [Step::Prolong(one.id, at(3000 + 9000 - 90))]);
    }

    #[test]
    fn one_failed_renewal_is_not_loss_but_the_deadline_is() {
        let one = grant(1, TTL);
        let mut keeper = kept(std::slice::from_ref(&one));
        let mut now = at(3000);
        let mut requests = 0;
        loop {
            match &keeper.step(now)[..] {
                [Step::Renew(grants)] => {
                    requests += 1;
                    keeper.failed(grants, now, 1.0);
                }
                [Step::Lose(id)] => {
                    assert_eq!(*id, one.id);
                    break;
                }
                other => panic!("{other:?}"),
            }
            now = keeper.next().unwrap();
        }
        assert_eq!(now, at(9000 - 90));
        assert!(requests > 5, "{requests}");
        assert_eq!(keeper.next(), None);
    }

    #[test]
    fn a_reply_after_the_deadline_revives_nothing() {
        let one = grant(1, TTL);
        let mut keeper = kept(std::slice::from_ref(&one));
        keeper.step(at(3000));
        assert_eq!(
            keeper.renewed(std::slice::from_ref(&one), &[Renewal::Renewed], at(3000), at(8910), 1.0),
            []
        );
        assert_eq!(keeper.step(at(8910)), [Step::Lose(one.id)]);
    }

    #[test]
    fn lost_still_held_and_forgotten() {
        let grants = [grant(1, TTL), grant(2, TTL), grant(3, TTL)];
        let mut keeper = kept(&grants);
        keeper.step(at(3000));
        keeper.remove(grants[2].id);
        let answers = [Renewal::Lost, Renewal::StillHeld, Renewal::Renewed];
        assert_eq!(keeper.renewed(&grants, &answers, at(3000), at(3001), 1.0), [Step::Lose(grants[0].id)]);
        assert_eq!(keeper.step(at(8910)), [Step::Lose(grants[1].id)]);
    }

    #[test]
    fn plain_leases_are_not_renewed_and_pokes_hurry() {
        let (plain, renewed) = (grant(1, TTL), grant(2, TTL));
        let mut keeper = Keeper::default();
        keeper.add(plain.clone(), valid_until(at(0), TTL), false, at(0), 1.0);
        assert_eq!(keeper.next(), Some(at(8910)));
        keeper.add(renewed.clone(), valid_until(at(0), TTL), true, at(0), 1.0);
        assert_eq!(keeper.poke(plain.id, at(5)), Some(Step::Verify(plain.clone())));
        assert_eq!(keeper.poke(renewed.id, at(5)), None);
        assert_eq!(keeper.step(at(5)), [Step::Renew(vec![renewed])]);
        assert!(keeper.step(at(8910)).contains(&Step::Lose(plain.id)));
    }
}
