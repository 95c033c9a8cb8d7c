//! What a client knows of a long queue, so that it need not be told all of it with every receive.
//!
//! A short queue is listed with every receive. Of a long one a client keeps what it was told, and follows what happens by a
//! watch on the same session, whose events arrive before the answer to a reading that saw them. The `cversion` of the folder,
//! which counts children that come and go, proves with every reading that none was missed; otherwise the queue is listed anew.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use coord_core::{
    Result,
    clock::{Clock, Moment},
};
use futures_util::FutureExt;
use tokio::sync::Mutex;
use zookeeper_client::{EventType, PersistentWatcher};

use super::room::{Head, Line, Room};
use crate::{
    client::Shared,
    session::{Look, Seen, Session, Stat},
};

/// From how many names on a queue is followed.
const MANY: usize = 100;
/// For how long a queue is followed that nobody receives from.
const IDLE: Duration = Duration::from_secs(15);
/// How often what happened is read from the watch though nobody receives.
const EVERY: Duration = Duration::from_secs(3);
/// How often a reading is repeated because more happens meanwhile.
const TRIES: usize = 3;

/// The queue as this client sees it, behind a lock: those of one client who receive do so one after the other.
pub(super) type Slot = Arc<Mutex<Sight>>;

/// A queue as it was seen last.
#[derive(Debug, Default)]
pub(super) struct Sight {
    pub(super) line: Line,
    following: Option<Following>,
    /// There were many items when nobody followed it.
    many: bool,
    used: Moment,
    /// A task looks after it.
    tended: bool,
}

#[derive(Debug)]
struct Following {
    watcher: PersistentWatcher,
    /// How often children came or went, as the server counts that, and how many there are.
    changes: i32,
    children: i32,
}

/// How what was followed agrees with what the server says.
enum Agreement {
    Exact,
    /// More is known already than when the server answered.
    Ahead,
    Lost,
}

impl Sight {
    /// Brings it up to date.
    pub(super) async fn refresh(
        &mut self,
        shared: &Arc<Shared>,
        session: &Session,
        room: &Room,
    ) -> Result<()> {
        self.used = Clock::System.now();
        let (head, folder) = (room.head(), room.line());
        for _ in 0..TRIES {
            if self.following.is_none() {
                break;
            }
            let seen = session.read_fresh(room.root(), &[Look::Data(&head), Look::Data(&folder)]).await?;
            let [Seen::Data(last, head), Seen::Data(_, stat)] = &seen[..] else { break };
            match self.catch_up(&folder, Some(stat)) {
                Agreement::Exact => {
                    self.line.head = Some(Head::new(last, head)?);
                    return Ok(());
                }
                Agreement::Ahead => {}
                Agreement::Lost => break,
            }
        }
        self.list(shared, session, room).await
    }

    /// Reads all of it, and follows it from then on if it was long.
    async fn list(&mut self, shared: &Arc<Shared>, session: &Session, room: &Room) -> Result<()> {
        let (head, folder) = (room.head(), room.line());
        let follow = self.many || self.following.is_some();
        let watching = follow.then(|| session.watch_below(&folder));
        let looks = [Look::Data(&head), Look::Data(&folder), Look::Children(&folder)];
        let seen = session.read_fresh(room.root(), &looks);
        let watcher = match watching {
            Some(watching) => watching.await.ok(),
            None => None,
        };
        let seen = seen.await?;
        let [Seen::Data(last, stat), Seen::Data(_, folder_stat), Seen::Children(names)] = &seen[..] else {
            *self = Self { used: self.used, tended: self.tended, ..Self::default() };
            return Ok(());
        };
        self.line = Line::parse(names);
        self.line.head = Some(Head::new(last, stat)?);
        self.many = names.len() >= MANY;
        self.following = watcher.filter(|_| self.many).and_then(|mut watcher| {
            // What happened before the reading is in it.
            while let Some(event) = watcher.changed().now_or_never() {
                if event.event_type == EventType::Session {
                    // It watches no more.
                    return None;
                }
            }
            Some(Following { watcher, changes: folder_stat.cversion, children: folder_stat.num_children })
        });
        if self.following.is_some() && !std::mem::replace(&mut self.tended, true) {
            tokio::spawn(tend(Arc::downgrade(shared), room.clone(), session.id()));
        }
        Ok(())
    }

    /// Applies what happened. `stat` is what the server says of the folder.
    fn catch_up(&mut self, folder: &str, stat: Option<&Stat>) -> Agreement {
        let Some(following) = &mut self.following else { return Agreement::Lost };
        while let Some(event) = following.watcher.changed().now_or_never() {
            let name = event.path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
            match (event.event_type, name) {
                (EventType::NodeCreated, Some(name)) => {
                    self.line.add(name);
                    following.children = following.children.wrapping_add(1);
                }
                (EventType::NodeDeleted, Some(name)) => {
                    self.line.remove(name);
                    following.children = following.children.wrapping_sub(1);
                }
                (EventType::NodeDataChanged, _) => continue,
                // The connection was lost and with it events; or the folder itself is gone.
                _ => {
                    self.following = None;
                    self.many = true;
                    return Agreement::Lost;
                }
            }
            following.changes = following.changes.wrapping_add(1);
        }
        let Some(stat) = stat else { return Agreement::Exact };
        match following.changes.wrapping_sub(stat.cversion) {
            0 if following.children == stat.num_children => Agreement::Exact,
            1.. => Agreement::Ahead,
            _ => Agreement::Lost,
        }
    }

    /// It need not be kept.
    pub(super) fn is_idle(&self) -> bool {
        self.following.is_none() && !self.many && !self.tended
    }
}

/// Looks after a queue that is followed, until nobody has received from it for a while.
async fn tend(shared: Weak<Shared>, room: Room, session: i64) {
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(shared) = shared.upgrade() else { return };
        let Some(slot) = shared.jobs.known_slot(&room, session) else { return };
        let Ok(mut sight) = slot.try_lock() else { continue };
        let used = Clock::System.now().since(sight.used) < IDLE;
        if !used || matches!(sight.catch_up(&room.line(), None), Agreement::Lost) {
            *sight = Sight::default();
            drop(sight);
            shared.jobs.forget_slot(&room, session);
            return;
        }
    }
}
