//! Removes nodes that are remembered for some time only.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use coord_core::{Result, clock::Moment};
use tracing::debug;

use crate::{
    batch::Batch,
    session::{Look, Seen, Session, Stat},
};

/// How many nodes are looked at, at a time.
const PART: usize = 500;
/// How many folders are remembered before some are forgotten.
const MANY: usize = 1_000;

/// When this client last looked through folders.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    folders: Mutex<HashMap<String, Moment>>,
    turns: Mutex<HashMap<String, Turn>>,
}

/// Whose turn it is among folders that are looked through one after the other.
#[derive(Debug, Clone, Copy)]
struct Turn {
    since: Moment,
    next: usize,
}

impl Looked {
    /// Which of so many folders it is time to look through, for a client that has known them for a while; all of them have
    /// their turn within a quarter of the time that their nodes are kept. Who asks seldom catches up: each time that it asks,
    /// one more has the turn that it missed. (Of those that were looked through a moment ago the next turn is passed over.)
    pub(crate) fn turn(&self, of: &str, folders: usize, memory: Duration, now: Moment) -> Option<usize> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = memory / 4 / u32::try_from(folders).unwrap_or(u32::MAX);
        if let Some(turn) = turns.get_mut(of) {
            let at = turn.next;
            if now.since(turn.since) < pause {
                return None;
            }
            let earliest = Moment::from_start(now.since_start().saturating_sub(memory / 4 - pause));
            *turn = Turn { since: turn.since.after(pause).max(earliest), next: (at + 1) % folders };
            return Some(at);
        }
        if turns.len() >= MANY {
            turns.retain(|_, turn| now.since(turn.since) < memory);
        }
        if turns.len() < MANY {
            // Clients begin at different ones.
            turns.insert(of.to_owned(), Turn { since: now, next: fastrand::usize(..folders) });
        }
        None
    }

    /// Whether it is time to look through this one, whose nodes are kept for this long. Then the next time comes later: nearly all
    /// nodes are to be kept still, and many on a busy day, so a client looks through a folder only once in an eighth of that time.
    pub(crate) fn is_time(&self, folder: &str, memory: Duration, now: Moment) -> bool {
        let every = memory / 8;
        let mut all = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(folder).is_some_and(|last| now.since(*last) < every) {
            return false;
        }
        if all.len() >= MANY {
            all.retain(|_, last| now.since(*last) < every);
        }
        all.insert(folder.to_owned(), now);
        true
    }
}

/// Removes the nodes of a folder that are old. If it does not come to that, the next one does it.
pub(crate) async fn old(session: &Session, folder: &str, old: impl Fn(&Stat) -> bool) -> Result<()> {
    let listed = session.read(&[Look::Children(folder)]).await?.pop();
    let Some(Seen::Children(names)) = listed else { return Ok(()) };
    for some in names.chunks(PART) {
        let paths: Vec<_> = some.iter().map(|name| format!("{folder}/{name}")).collect();
        let looks: Vec<_> = paths.iter().map(|path| Look::Data(path)).collect();
        let mut batch = Batch::default();
        for (path, seen) in paths.iter().zip(session.read(&looks).await?) {
            if let Seen::Data(_, stat) = seen
                && old(&stat)
            {
                batch.delete(path.clone(), None);
            }
        }
        if !batch.is_empty()
            && let Err(conflict) = batch.send(session).await?
        {
            debug!(?conflict, folder, "somebody else removes old nodes");
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_folders_have_their_turn() {
        let (looked, memory) = (Looked::default(), Duration::from_secs(80));
        let turn = |seconds| looked.turn("a", 4, memory, Moment::from_start(Duration::from_secs(seconds)));
        assert_eq!((turn(1), turn(5)), (None, None));
        let turns: Vec<_> = [6, 11, 16, 21].into_iter().map(|second| turn(second).unwrap()).collect();
        let first = turns[0];
        assert_eq!(turns, [0, 1, 2, 3].map(|at| (first + at) % 4));
        assert_eq!(turn(25), None);
        assert_eq!(turn(26), Some(first));
    }

    #[test]
    fn who_asks_seldom_catches_up() {
        let (looked, memory) = (Looked::default(), Duration::from_secs(80));
        let turn = |seconds| looked.turn("a", 4, memory, Moment::from_start(Duration::from_secs(seconds)));
        assert_eq!(turn(1), None);
        let first = turn(500).expect("a turn");
        let turns: Vec<_> = [500, 501, 501].into_iter().map(|second| turn(second).unwrap()).collect();
        assert_eq!(turns, [1, 2, 3].map(|at| (first + at) % 4));
        assert_eq!(turn(504), None);
        assert_eq!(turn(505), Some(first));
    }

    #[test]
    fn a_folder_is_looked_through_seldom() {
        let (looked, memory) = (Looked::default(), Duration::from_secs(8));
        let at = |millis| Moment::from_start(Duration::from_millis(millis));
        assert!(looked.is_time("a", memory, at(5000)) && looked.is_time("b", memory, at(5000)));
        assert!(!looked.is_time("a", memory, at(5999)) && looked.is_time("a", memory, at(6000)));
        for folder in 0..2 * MANY {
            assert!(looked.is_time(&folder.to_string(), memory, at(8000)));
        }
        looked.is_time("c", memory, at(9000));
        assert_eq!(looked.folders.lock().unwrap().len(), 1);
    }
}
