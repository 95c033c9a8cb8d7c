//! The least part of a register's history that has no explanation.
//!
//! Only what leaves a good history good is taken away: the end, and operations together with all that leans on them.
//! What is left without an explanation then shows that the whole has none.

use std::collections::{HashMap, HashSet};

use super::{Call, Search, Step, search};
use crate::history::{Given, Stamp};

/// How many steps each search may take. One that takes more shows nothing, and what it left out stays.
const STEPS: usize = 100_000;

/// The least part that was found.
pub(super) fn shortest<'a>(mut calls: Vec<Call<'a>>, versions: &HashMap<&str, u64>) -> Vec<Call<'a>> {
    let unexplained = |calls: &[Call<'_>]| matches!(search(calls, versions, STEPS), Search::Stuck(_));
    calls = beginning(&calls, &unexplained);
    // What is read first, so that writes have less that leans on them.
    for writes in [false, true] {
        take_away(&mut calls, writes, versions, &unexplained);
    }
    // A write whose condition is forgotten needs nothing before it. What a good order explains, it explains then too.
    let mut careless = calls.clone();
    for call in &mut careless {
        if let Step::Write { given, .. } = &mut call.step {
            *given = Given::Anything;
        }
    }
    if unexplained(&careless) {
        calls = careless;
        take_away(&mut calls, true, versions, &unexplained);
    }
    calls
}

/// Takes away what can be, of writes or of all else, from the end to the beginning.
fn take_away(
    calls: &mut Vec<Call<'_>>,
    writes: bool,
    versions: &HashMap<&str, u64>,
    unexplained: &impl Fn(&[Call<'_>]) -> bool,
) {
    for at in (0..calls.len()).rev() {
        if at < calls.len() && writes == matches!(calls[at].step, Step::Write { .. }) {
            let rest = without(calls, at, versions);
            if unexplained(&rest) {
                *calls = rest;
            }
        }
    }
}

/// The shortest beginning that has no explanation: if it has none, no longer one has.
fn beginning<'a>(calls: &[Call<'a>], unexplained: &impl Fn(&[Call<'_>]) -> bool) -> Vec<Call<'a>> {
    let mut ends: Vec<_> = calls.iter().filter_map(|call| call.to).collect();
    ends.sort_unstable();
    // The number of the first end at which it has none; at the last one it has none.
    let (mut low, mut high) = (0, ends.len().saturating_sub(1));
    while low < high {
        let middle = low.midpoint(high);
        if unexplained(&until(calls, ends[middle])) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    let beginning = ends.get(high).map_or_else(Vec::new, |end| until(calls, *end));
    // The search may have given up on the way.
    if unexplained(&beginning) { beginning } else { calls.to_vec() }
}

/// What was known at a moment: a write under way is open, and a read or a refusal under way says nothing.
fn until<'a>(calls: &[Call<'a>], end: Stamp) -> Vec<Call<'a>> {
    let known = |call: &&Call<'a>| {
        let returned = call.to.is_some_and(|to| to <= end);
        call.from < end && (returned || matches!(call.step, Step::Write { .. }))
    };
    let call = |call: &Call<'a>| Call { to: call.to.filter(|to| *to <= end), ..call.clone() };
    calls.iter().filter(known).map(call).collect()
}

/// All but one, and but what leans on it.
fn without<'a>(calls: &[Call<'a>], at: usize, versions: &HashMap<&str, u64>) -> Vec<Call<'a>> {
    let mut gone = HashSet::from([at]);
    let mut open = vec![at];
    while let Some(at) = open.pop() {
        let Step::Write { value, .. } = calls[at].step else { continue };
        let version = value.map(|value| versions.get(value).copied().unwrap_or(0));
        for (other, call) in calls.iter().enumerate() {
            let leans = match (&call.step, version) {
                (Step::Read(Some(read)), Some(version)) => *read == version,
                (Step::Write { given: Given::Version(given), .. }, Some(version)) => *given == version,
                // That there was no value, or another one, may be because of this.
                (Step::Read(None) | Step::Write { given: Given::Absent, .. }, None)
                | (Step::Refused(_), _) => call.to.is_none_or(|to| to > calls[at].from),
                _ => false,
            };
            if leans && gone.insert(other) {
                open.push(other);
            }
        }
    }
    calls.iter().enumerate().filter(|(at, _)| !gone.contains(at)).map(|(_, call)| call.clone()).collect()
}
