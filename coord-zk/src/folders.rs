//! Which folders of lines this client has seen.

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

/// How many are remembered before they are forgotten.
const MANY: usize = 4_096;

/// Folders that were there when this client last had to do with them. The server removes those that were empty for a while.
#[derive(Debug, Default)]
pub(crate) struct Folders {
    seen: Mutex<HashSet<String>>,
    /// Whether the last one that this client met was new to everybody.
    new: AtomicBool,
}

impl Folders {
    /// Whether this one is probably not there: who uses names that nobody used goes on with such names.
    pub(crate) fn lacks(&self, folder: &str) -> bool {
        self.new.load(Relaxed) && !self.seen.lock().unwrap_or_else(PoisonError::into_inner).contains(folder)
    }

    /// This one is there; this client made it.
    pub(crate) fn made(&self, folder: &str) {
        self.new.store(true, Relaxed);
        self.add(folder);
    }

    /// This one was there already.
    pub(crate) fn found(&self, folder: &str) {
        if self.add(folder) {
            self.new.store(false, Relaxed);
        }
    }

    /// Whether it was not seen before.
    fn add(&self, folder: &str) -> bool {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if all.contains(folder) {
            return false;
        }
        if all.len() >= MANY {
            all.clear();
        }
        all.insert(folder.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_is_expected_to_be_like_what_came() {
        let folders = Folders::default();
        assert!(!folders.lacks("a"), "nothing is known of anybody's names");
        folders.made("a");
        assert!(folders.lacks("b") && !folders.lacks("a"));
        folders.found("a");
        assert!(folders.lacks("b"), "what was known to be there says nothing of others");
        folders.found("b");
        assert!(!folders.lacks("c"));
    }

    #[test]
    fn the_memory_is_bounded() {
        let folders = Folders::default();
        for at in 0..=MANY {
            folders.made(&at.to_string());
            assert!(!folders.lacks(&at.to_string()));
        }
        assert!(folders.seen.lock().unwrap().len() <= MANY);
    }
}
