//! Pickers: which instance serves the next call.

use std::{
    collections::HashMap,
    fmt,
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use xxhash_rust::xxh3::xxh3_64;

use super::Member;

/// Chooses one of the members of a service.
pub trait Picker: fmt::Debug + Send + Sync {
    /// Chooses for a call about `key`; pickers that do not look at keys take any. `None` without members to choose
    /// from. Members of weight zero are never chosen.
    fn pick<'a>(&self, members: &'a [Member], key: &[u8]) -> Option<Choice<'a>>;
}

/// A chosen member. Keep it until the call is over: [`LeastOutstanding`] counts it until then.
#[must_use = "a choice counts as a call under way until it is dropped"]
#[derive(Debug)]
pub struct Choice<'a> {
    member: &'a Member,
    counted: Option<Arc<AtomicUsize>>,
}

impl Deref for Choice<'_> {
    type Target = Member;

    fn deref(&self) -> &Member {
        self.member
    }
}

impl Drop for Choice<'_> {
    fn drop(&mut self) {
        if let Some(counted) = &self.counted {
            counted.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl<'a> Choice<'a> {
    fn of(member: &'a Member) -> Self {
        Self { member, counted: None }
    }
}

fn willing(members: &[Member]) -> impl Iterator<Item = &Member> + Clone {
    members.iter().filter(|member| member.instance.weight > 0)
}

/// One after the other, whatever their weights.
#[derive(Debug, Default)]
pub struct RoundRobin {
    next: AtomicUsize,
}

impl Picker for RoundRobin {
    fn pick<'a>(&self, members: &'a [Member], _key: &[u8]) -> Option<Choice<'a>> {
        let count = willing(members).count();
        let turn = self.next.fetch_add(1, Ordering::Relaxed).checked_rem(count)?;
        willing(members).nth(turn).map(Choice::of)
    }
}

/// At random, in proportion to their weights.
#[derive(Debug, Default)]
pub struct Random;

impl Picker for Random {
    fn pick<'a>(&self, members: &'a [Member], _key: &[u8]) -> Option<Choice<'a>> {
        let total: u64 = willing(members).map(|member| u64::from(member.instance.weight)).sum();
        if total == 0 {
            return None;
        }
        let mut left = fastrand::u64(..total);
        willing(members)
            .find(|member| {
                let weight = u64::from(member.instance.weight);
                let found = left < weight;
                left = left.saturating_sub(weight);
                found
            })
            .map(Choice::of)
    }
}

/// The one with the fewest calls of *this* picker under way, in proportion to its weight.
#[derive(Debug, Default)]
pub struct LeastOutstanding {
    calls: Mutex<HashMap<String, Arc<AtomicUsize>>>,
}

impl Picker for LeastOutstanding {
    fn pick<'a>(&self, members: &'a [Member], _key: &[u8]) -> Option<Choice<'a>> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        // Members that went away are forgotten once their last call is over.
        calls
            .retain(|id, count| Arc::strong_count(count) > 1 || members.iter().any(|m| m.instance.id == *id));
        let under_way = |member: &Member| {
            calls.get(&member.instance.id).map_or(0, |count| count.load(Ordering::Relaxed)) as u128
        };
        // a/wa < b/wb, without division.
        let member = willing(members).min_by(|a, b| {
            let (a, b) = ((under_way(a), a.instance.weight), (under_way(b), b.instance.weight));
            (a.0 * u128::from(b.1)).cmp(&(b.0 * u128::from(a.1)))
        })?;
        let counted = calls.entry(member.instance.id.clone()).or_default().clone();
        counted.fetch_add(1, Ordering::Relaxed);
        Some(Choice { member, counted: Some(counted) })
    }
}

/// Points of a member of weight one on the ring.
const POINTS: u32 = 128;

/// A weighted consistent-hash ring: a key stays with its member while that member is there, and when members come or go
/// only about their share of the keys moves. Every process with the same members makes the same choice.
///
/// The points of a member are XXH3 of its id, a zero byte and the point's number (little-endian `u32`); a key belongs
/// to the first point at or after its own XXH3.
#[derive(Debug, Default)]
pub struct HashRing {
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    members: Vec<(String, u32)>,
    /// Sorted; the number of the member in `members`.
    points: Vec<(u64, usize)>,
}

impl Ring {
    fn new(members: Vec<(String, u32)>) -> Self {
        let mut points = Vec::new();
        for (number, (id, weight)) in members.iter().enumerate() {
            // A weight beyond a thousand would only cost memory.
            for point in 0..POINTS * (*weight).min(1000) {
                let mut text = id.clone().into_bytes();
                text.push(0);
                text.extend(point.to_le_bytes());
                points.push((xxh3_64(&text), number));
            }
        }
        points.sort_unstable();
        Self { members, points }
    }

    fn owner(&self, key: &[u8]) -> Option<&str> {
        let hash = xxh3_64(key);
        let at = self.points.partition_point(|(point, _)| *point < hash);
        let (_, number) = self.points.get(at).or(self.points.first())?;
        self.members.get(*number).map(|(id, _)| id.as_str())
    }
}

impl Picker for HashRing {
    fn pick<'a>(&self, members: &'a [Member], key: &[u8]) -> Option<Choice<'a>> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let same = ring.members.len() == willing(members).count()
            && willing(members).all(|member| {
                let place = ring.members.binary_search_by(|(id, _)| id.cmp(&member.instance.id));
                place.is_ok_and(|at| ring.members[at].1 == member.instance.weight)
            });
        if !same {
            let mut now: Vec<_> =
                willing(members).map(|m| (m.instance.id.clone(), m.instance.weight)).collect();
            now.sort();
            *ring = Ring::new(now);
        }
        let owner = ring.owner(key)?;
        members.iter().find(|member| member.instance.id == owner).map(Choice::of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FencingToken, Instance, clock};

    fn members(weights: &[u32]) -> Vec<Member> {
        let member = |(number, weight): (usize, &u32)| Member {
            instance: Instance::new(format!("i{number}"), "").with_weight(*weight),
            token: FencingToken::MIN,
            since: clock::wall(),
        };
        weights.iter().enumerate().map(member).collect()
    }

    fn shares(picker: &dyn Picker, members: &[Member], calls: u32) -> Vec<u32> {
        let mut counts = vec![0; members.len()];
        for call in 0..calls {
            let id = picker.pick(members, &call.to_le_bytes()).unwrap().instance.id.clone();
            counts[members.iter().position(|member| member.instance.id == id).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn none_without_members_to_choose_from() {
        let pickers: [&dyn Picker; 4] =
            [&RoundRobin::default(), &Random, &LeastOutstanding::default(), &HashRing::default()];
        for picker in pickers {
            assert!(picker.pick(&[], b"").is_none());
            assert!(picker.pick(&members(&[0, 0]), b"").is_none());
        }
    }

    #[test]
    fn round_robin_takes_turns() {
        assert_eq!(shares(&RoundRobin::default(), &members(&[1, 0, 5]), 10), [5, 0, 5]);
    }

    #[test]
    fn random_and_ring_follow_the_weights() {
        for picker in [&Random as &dyn Picker, &HashRing::default()] {
            let counts = shares(picker, &members(&[1, 3, 0]), 8000);
            assert!((1000..3000).contains(&counts[0]) && counts[2] == 0, "{picker:?}: {counts:?}");
        }
    }

    #[test]
    fn least_outstanding_evens_out() {
        let (picker, members) = (LeastOutstanding::default(), members(&[1, 2]));
        let under_way: Vec<_> = (0..9).map(|_| picker.pick(&members, b"").unwrap()).collect();
        assert_eq!(under_way.iter().filter(|choice| choice.instance.id == "i0").count(), 3);
        drop(under_way);
        assert_eq!(picker.pick(&members, b"").unwrap().instance.id, "i0");
    }

    #[test]
    fn a_ring_moves_only_the_share_of_who_left() {
        let (ring, all) = (HashRing::default(), members(&[1; 8]));
        let owner = |members: &[Member], key: u32| {
            ring.pick(members, &key.to_le_bytes()).unwrap().instance.id.clone()
        };
        let before: Vec<_> = (0..2000).map(|key| owner(&all, key)).collect();
        for (key, was) in (0..2000).zip(&before) {
            let now = owner(&all[1..], key);
            assert!(*was == "i0" || *was == now, "key {key} moved from {was} to {now}");
        }
    }
}
