//! Removes nodes that are remembered for some time only.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use coord_core::{
    Result,
    clock::{Clock, Moment},
};
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
pub(crate) struct Looked(Mutex<HashMap<String, Moment>>);

impl Looked {
    /// Whether it is time to look through this one. Then the next time comes later.
    fn is_time(&self, folder: &str, every: Duration, now: Moment) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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

/// Removes the nodes of a folder that were kept for this long. If it does not come to that, the next one does it.
///
/// Nearly all of them are to be kept still, and many on a busy day; so this client looks through a folder only once in an eighth of
/// that time.
pub(crate) async fn old(
    session: &Session,
    folder: &str,
    memory: Duration,
    old: impl Fn(&Stat) -> bool,
) -> Result<()> {
    if !session.looked().is_time(folder, memory / 8, Clock::System.now()) {
        return Ok(());
    }
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
    fn a_folder_is_looked_through_seldom() {
        let (looked, second) = (Looked::default(), Duration::from_secs(1));
        let at = |millis| Moment::from_start(Duration::from_millis(millis));
        assert!(looked.is_time("a", second, at(5000)) && looked.is_time("b", second, at(5000)));
        assert!(!looked.is_time("a", second, at(5999)) && looked.is_time("a", second, at(6000)));
        for folder in 0..2 * MANY {
            assert!(looked.is_time(&folder.to_string(), second, at(8000)));
        }
        looked.is_time("c", second, at(9000));
        assert_eq!(looked.0.lock().unwrap().len(), 1);
    }
}
