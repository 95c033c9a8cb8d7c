//! Pushes: all items or none, in the order of their commits, each id once.

use std::collections::HashSet;

use coord_core::{
    Result,
    clock::Clock,
    spi::jobs::{ItemId, NewItem, Push, Pushed},
};

use super::{
    Desk,
    place::{Place, group_hash, urgency},
    room::{Line, Room, number, pack},
};
use crate::{
    batch::{Batch, Conflict, Pause},
    error::misread,
    session::{Done, Look, Mode, Seen, Session},
};

/// What was read before a push.
struct Known {
    /// The version of the tail and the next order; none if the queue was never used.
    tail: Option<(i32, u64)>,
    /// How many items there are, if that matters.
    items: u64,
    /// Those that were pushed before.
    ids: HashSet<ItemId>,
}

impl Known {
    async fn read(session: &Session, room: &Room, items: &[&NewItem], counted: bool) -> Result<Self> {
        let (tail, line) = (room.tail(), room.line());
        let places: Vec<_> = items.iter().flat_map(|new| [room.item(new.id), room.gone(new.id)]).collect();
        let mut looks = vec![Look::Data(&tail)];
        looks.extend(counted.then_some(Look::Children(&line)));
        looks.extend(places.iter().map(|path| Look::Data(path)));
        // What is added meanwhile changes the tail. A queue is said to be full only when all that left it is known.
        let seen = if counted {
            session.read_fresh(room.root(), &looks).await?
        } else {
            session.read_all(&looks).await?
        };
        let mut seen = seen.into_iter();
        let tail = match seen.next() {
            Some(Seen::Data(next, stat)) => Some((stat.version, number(&next)?)),
            _ => None,
        };
        let count = match counted.then(|| seen.next()).flatten() {
            Some(Seen::Children(names)) => Line::parse(&names).len() as u64,
            _ => 0,
        };
        let is_there = |seen: Option<Seen>| matches!(seen, Some(Seen::Data(..)));
        let mut ids = HashSet::new();
        for new in items {
            let (here, gone) = (is_there(seen.next()), is_there(seen.next()));
            if here || gone {
                ids.insert(new.id);
            }
        }
        Ok(Self { tail, items: count, ids })
    }
}

pub(super) async fn push(session: &Session, desk: &Desk, room: &Room, push: &Push) -> Result<Pushed> {
    let mut ids = HashSet::new();
    let items: Vec<_> = push.items.iter().filter(|new| ids.insert(new.id)).collect();
    let mut pause = Pause::default();
    loop {
        let known = Known::read(session, room, &items, push.capacity.is_some()).await?;
        let Some((version, next)) = known.tail else {
            room.make(session).await?;
            continue;
        };
        let new: Vec<_> = items.iter().filter(|new| !known.ids.contains(&new.id)).collect();
        if new.is_empty() {
            return Ok(Pushed::Done { new: 0 });
        }
        let count = new.len() as u64;
        if push.capacity.is_some_and(|capacity| capacity.saturating_sub(known.items) < count) {
            return Ok(Pushed::Full);
        }
        let now = if new.iter().any(|new| !new.delay.is_zero()) {
            desk.time.now(session, &room.clock()).await?.latest
        } else {
            0
        };
        let mut batch = Batch::default();
        batch.set(room.tail(), (next + count).to_be_bytes().to_vec(), Some(version));
        for (order, new) in (next..).zip(new) {
            let place = Place {
                urgency: urgency(new.priority),
                order,
                id: new.id,
                attempts: 0,
                ready: super::after(now, new.delay),
                group: new.group.as_deref().map(group_hash),
                returned: None,
                delivered: false,
            };
            batch.create(room.item(new.id), pack(new.group.as_deref(), &new.payload), Mode::Persistent);
            batch.create(room.place(&place), Vec::new(), Mode::Persistent);
        }
        let sent = Clock::System.now();
        match batch.send(session).await? {
            Ok(done) => {
                let Some(Done::Set(tail)) = done.first() else {
                    return Err(misread("the answer to a push").with_unknown_effect());
                };
                desk.time.note(tail, sent);
                return Ok(Pushed::Done { new: count });
            }
            Err(Conflict::NoFolder(_)) => room.make(session).await?,
            Err(Conflict::Changed) => {}
        }
        pause.rest().await;
    }
}
