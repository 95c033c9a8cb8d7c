//! Removes nodes that are remembered for some time only.

use coord_core::Result;
use tracing::debug;

use crate::{
    batch::Batch,
    session::{Look, Seen, Session, Stat},
};

/// How many nodes are looked at, at a time.
const PART: usize = 500;

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
