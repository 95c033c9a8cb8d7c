//! What this client knows of a line in which some of its claims wait: who stands ahead of them, and so which of them a leaving
//! claim makes eligible. It serves hints only; a claim is granted by what the server says.

use std::collections::{BTreeMap, HashMap, VecDeque};

use coord_core::spi::ClaimId;

/// How many claims that left are remembered, for looks whose answer comes after the news.
const REMEMBERED: usize = 1000;

/// A claim of this client that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub(crate) id: ClaimId,
    pub(crate) token: i64,
    pub(crate) weight: u32,
    pub(crate) limit: u32,
}

/// A claim of anybody in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) token: i64,
    pub(crate) key: Vec<u8>,
    pub(crate) weight: u32,
}

/// One line, as far as it is known.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// By token, each with the revision of its last look.
    waiters: BTreeMap<i64, (Waiter, i64)>,
    tokens: HashMap<ClaimId, i64>,
    /// Everyone who stood in the line when it was last looked at, without those who left since.
    places: BTreeMap<i64, Place>,
    by_key: HashMap<Vec<u8>, i64>,
    looked: i64,
    /// Everything after this revision is told.
    told_since: i64,
    /// Who left, each at this revision.
    left: VecDeque<(i64, Vec<u8>)>,
}

impl Waiting {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// A claim waits, having looked at this revision. Answers whom of this client to hint.
    pub(crate) fn join(&mut self, waiter: Waiter, looked: i64, line: Vec<Place>) -> Vec<ClaimId> {
        self.leave_quietly(waiter.id);
        if self.waiters.is_empty() || looked >= self.looked {
            self.looked = looked;
            // What one sees, it sees for all.
            self.waiters.values_mut().for_each(|(_, last)| *last = looked);
            self.places = line.into_iter().map(|place| (place.token, place)).collect();
            self.by_key = self.places.values().map(|place| (place.key.clone(), place.token)).collect();
            let late: Vec<_> = self.left.iter().filter(|(at, _)| *at > looked).cloned().collect();
            late.iter().for_each(|(_, key)| self.remove(key));
        }
        self.tokens.insert(waiter.id, waiter.token);
        self.waiters.insert(waiter.token, (waiter, looked));
        let mut hinted = self.eligible();
        if !self.places.contains_key(&waiter.token) {
            // It left, or others looked when it was not there yet.
            hinted.push(waiter.id);
        }
        hinted
    }

    /// A claim waits no more. Answers whom to hint in its place.
    pub(crate) fn leave(&mut self, id: ClaimId) -> Option<ClaimId> {
        self.leave_quietly(id);
        if self.waiters.is_empty() {
            let left = std::mem::take(&mut self.left);
            *self = Self { told_since: self.told_since, left, ..Self::default() };
        }
        self.who_looks()
    }

    /// Everything after this revision is told from now on. Answers whom to hint: one who looks for all.
    pub(crate) fn opened(&mut self, revision: i64) -> Option<ClaimId> {
        self.told_since = revision;
        self.who_looks()
    }

    /// Nothing is told any more.
    pub(crate) fn closed(&mut self) {
        self.told_since = 0;
        if self.waiters.is_empty() {
            self.left.clear();
        }
    }

    /// Something may have happened between the last look and the beginning of the watch: who is to look again.
    fn who_looks(&self) -> Option<ClaimId> {
        let (waiter, looked) = self.waiters.values().next()?;
        (*looked < self.told_since).then_some(waiter.id)
    }

    fn leave_quietly(&mut self, id: ClaimId) {
        if let Some(token) = self.tokens.remove(&id) {
            self.waiters.remove(&token);
        }
    }

    /// A key of the line ended.
    pub(crate) fn ended(&mut self, key: &[u8], revision: i64) {
        self.remove(key);
        self.left.push_back((revision, key.to_vec()));
        if self.left.len() > REMEMBERED {
            self.left.pop_front();
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(token) = self.by_key.remove(key) {
            self.places.remove(&token);
        }
    }

    /// The waiting claims of this client that are eligible, or that are not there any more.
    pub(crate) fn eligible(&self) -> Vec<ClaimId> {
        let most = self.waiters.values().map(|(waiter, _)| u64::from(waiter.limit)).max().unwrap_or_default();
        let mut found: Vec<_> =
            self.waiters.keys().filter(|token| !self.places.contains_key(token)).copied().collect();
        let mut ahead = 0_u64;
        for (token, place) in &self.places {
            // Who weighs nothing fits beside as much as its limit.
            if ahead > most {
                break;
            }
            if let Some((waiter, _)) = self.waiters.get(token)
                && ahead + u64::from(waiter.weight) <= u64::from(waiter.limit)
            {
                found.push(*token);
            }
            ahead += u64::from(place.weight);
        }
        found.into_iter().filter_map(|token| self.waiters.get(&token)).map(|(waiter, _)| waiter.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(token: i64, weight: u32) -> Place {
        Place { token, key: vec![u8::try_from(token).unwrap()], weight }
    }

    fn waiter(token: i64, weight: u32, limit: u32) -> Waiter {
        Waiter { id: ClaimId::random(), token, weight, limit }
    }

    #[test]
    fn weights_count() {
        let mut line = Waiting::default();
        let places = || vec![place(1, 2), place(2, 1), place(3, 2), place(4, 1)];
        let (three, four) = (waiter(3, 2, 4), waiter(4, 1, 4));
        assert_eq!(line.join(three, 9, places()), []);
        assert_eq!(line.join(four, 9, places()), []);
        line.ended(&[2], 10);
        assert_eq!(line.eligible(), [three.id], "2 + 2 fit into 4, and then nothing more");
        line.ended(&[1], 11);
        assert_eq!(line.eligible(), [three.id, four.id]);
        line.leave(three.id);
        line.leave(four.id);
        assert!(line.is_empty());
    }

    #[test]
    fn who_weighs_nothing_is_hinted_too() {
        let mut line = Waiting::default();
        let two = waiter(2, 0, 0);
        assert_eq!(line.join(two, 9, vec![place(1, 1), place(2, 0)]), []);
        line.ended(&[1], 10);
        assert_eq!(line.eligible(), [two.id]);
    }

    #[test]
    fn news_may_come_before_the_answer_of_the_look() {
        let mut line = Waiting::default();
        let (two, three) = (waiter(2, 1, 1), waiter(3, 1, 1));
        assert_eq!(line.join(two, 2, vec![place(1, 1), place(2, 1)]), []);
        line.ended(&[1], 4);
        line.ended(&[2], 5);
        assert_eq!(line.eligible(), [two.id], "it is gone, which it has to learn");
        // Looked before both had left.
        let hinted = line.join(three, 3, vec![place(1, 1), place(2, 1), place(3, 1)]);
        assert!(hinted.contains(&three.id));
    }

    #[test]
    fn who_looked_before_the_watch_began_may_have_missed_something_and_one_looks_for_all() {
        let mut line = Waiting::default();
        let (two, three) = (waiter(2, 1, 1), waiter(3, 1, 1));
        let places = || vec![place(1, 1), place(2, 1), place(3, 1)];
        line.join(two, 6, places());
        line.join(three, 7, places());
        assert_eq!(line.opened(7), None);
        line.closed();
        assert_eq!(line.opened(8), Some(two.id));
        assert_eq!(line.leave(two.id), Some(three.id), "it goes without having looked");
        assert_eq!(line.join(three, 8, vec![place(3, 1)]), [three.id]);
        assert_eq!(line.opened(8), None);
    }
}
