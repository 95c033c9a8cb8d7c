//! What is remembered of tokens outside of a queue's nodes, so that they grow even if somebody removes those.
//!
//! The token of a delivery is greater than the zxid of the last change of the head, and than all before. New nodes have a greater
//! zxid, so tokens that are hardly greater than that need no memory; but a receive takes many tokens and one zxid. Those that are
//! greater are reserved first, many at a time, in the folder of all queues of the namespace, where new queues begin.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use coord_core::Result;

use super::room::{Room, number};
use crate::{
    error::Failure,
    session::{Look, Seen, Session},
};

/// How far tokens may be above the zxid without being reserved: fewer changes than it takes to remove a queue and make it again.
const NEAR: u64 = 4;
/// How many are reserved at a time.
const BLOCK: u64 = 1 << 16;

/// The greatest token that is known to be reserved, by the folder of queues.
#[derive(Debug, Default)]
pub(super) struct Floors(Mutex<HashMap<String, u64>>);

impl Floors {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called before tokens up to this one are given out.
    pub(super) async fn reserve(&self, session: &Session, room: &Room, token: u64, zxid: u64) -> Result<()> {
        let folder = room.folder();
        while token > zxid + NEAR && self.lock().get(folder).is_none_or(|floor| *floor < token) {
            let (data, stat) = session.get(folder).await?;
            let mut floor = number(&data)?;
            if floor < token {
                floor = token + BLOCK;
                match session.set(folder, &floor.to_be_bytes(), Some(stat.version)).await {
                    Ok(_) => {}
                    Err(Failure::BadVersion) => continue,
                    Err(failure) => return Err(failure.into()),
                }
            }
            self.lock().insert(folder.to_owned(), floor);
        }
        Ok(())
    }
}

/// Where the tokens of a new queue begin.
pub(super) async fn first(session: &Session, room: &Room) -> Result<Vec<u8>> {
    match session.read_fresh(room.folder(), &[Look::Data(room.folder())]).await?.pop() {
        Some(Seen::Data(data, _)) => Ok(data),
        _ => Ok(Vec::new()),
    }
}
