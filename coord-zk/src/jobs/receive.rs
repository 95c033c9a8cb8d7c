//! Receives: what is next, leased.

use std::{collections::HashSet, sync::Arc, time::Duration};

use coord_core::{
    Effect, Error, Result,
    clock::Clock,
    spi::jobs::{Delivered, Receive, Received},
};

use super::{
    Desk, Held,
    place::{Marker, Place, priority},
    room::{Head, Line, Room, unpack},
};
use crate::{
    batch::{Batch, Pause},
    client::Shared,
    error::misread,
    leases::Leases,
    session::{Done, Look, Mode, Seen, Session},
};

/// When time alone makes an item ready, it is so a moment later.
const TICK: Duration = Duration::from_millis(1);

/// How many items one receive leases at most: of the largest, some megabytes.
const MOST: usize = 256;

/// Leases what is next, by a session that is kept for as long as the deliveries shall be.
pub(super) async fn receive(
    shared: &Arc<Shared>,
    session: &Arc<Session>,
    room: &Room,
    receive: &Receive,
) -> Result<Received> {
    let (desk, mut pause) = (&shared.jobs, Pause::default());
    let slot = desk.slot(room, session.id());
    let mut sight = slot.lock().await;
    loop {
        sight.refresh(shared, session, room).await?;
        if sight.is_idle() {
            desk.forget_slot(room, session.id());
        }
        let line = &sight.line;
        let Some(head) = line.head else { return Ok(nothing(None)) };
        let again = taken_before(shared, room, line, receive);
        if !again.is_empty() {
            let carried = session.read_all(&looks(&paths(room, &again))).await?;
            return Ok(Received { deliveries: deliveries(again, carried)?, look_again_in: None });
        }
        let delayed = line.free().any(|place| place.ready > 0);
        let now = if delayed { desk.time.now(session, &room.clock()).await?.earliest } else { 0 };
        let plan = Plan::new(room, line, head, receive, now, shared.config.max_packet() / 2)?;
        if plan.batch.is_empty() {
            let wait = plan.next.map(|ready| Duration::from_millis(ready.saturating_sub(now)));
            let wait = wait.into_iter().chain(own_leases(shared, room, line)).min();
            return Ok(nothing(wait.map(|wait| wait + TICK)));
        }
        if let Some((_, marker)) = plan.taken.last() {
            desk.floors.reserve(session, room, marker.token.get(), head.zxid).await?;
        }
        let sent = Clock::System.now();
        let stems: Vec<_> = plan.taken.iter().map(|(_, marker)| room.marker(marker)).collect();
        for stem in &stems {
            shared.leases.begin(stem, session, sent.after(receive.visibility));
        }
        let forget = || stems.iter().for_each(|stem| shared.leases.forget(stem));
        // What the items carry is asked for in the same breath.
        let (commit, carried) =
            (plan.batch.send(session), session.read_all(&looks(&paths(room, &plan.taken))));
        match commit.await {
            Ok(Ok(done)) => {
                let Some(Done::Set(head)) = done.first() else {
                    return Err(misread("the answer to a receive").with_unknown_effect());
                };
                desk.time.note(head, sent);
                for stem in &stems {
                    shared.leases.made(stem, stem, head.mzxid);
                }
                desk.take(room, &plan.taken, &shared.leases);
                if plan.taken.is_empty() {
                    // It came to nothing but burials.
                    continue;
                }
                let carried = carried.await.map_err(|failure| Error::from(failure).with_unknown_effect())?;
                return Ok(Received { deliveries: deliveries(plan.taken, carried)?, look_again_in: None });
            }
            Ok(Err(_)) => forget(),
            Err(error) => {
                // With an unknown effect the leases stay, to be found again or to be swept.
                if error.effect() == Effect::None {
                    forget();
                }
                return Err(error);
            }
        }
        pause.rest().await;
    }
}

fn nothing(look_again_in: Option<Duration>) -> Received {
    Received { deliveries: Vec::new(), look_again_in }
}

/// What an earlier attempt has leased.
fn taken_before(shared: &Shared, room: &Room, line: &Line, receive: &Receive) -> Vec<(Place, Marker)> {
    let now = Clock::System.now();
    let mut taken: Vec<_> = line
        .leased()
        .filter(|(_, marker)| {
            // Without a lease here, the node is on its way out.
            marker.receive == receive.id
                && shared.leases.get(&room.marker(marker), now).is_some_and(|lease| !lease.over)
        })
        .map(|(place, marker)| (place.clone(), marker.clone()))
        .collect();
    taken.sort_by_key(|(_, marker)| marker.token);
    if !taken.is_empty() {
        for (_, marker) in &taken {
            let stem = room.marker(marker);
            shared.leases.made(&stem, &stem, 0);
        }
        shared.jobs.take(room, &taken, &shared.leases);
    }
    taken
}

/// When own leases end, of which the hints may be missing.
fn own_leases(shared: &Shared, room: &Room, line: &Line) -> Option<Duration> {
    let now = Clock::System.now();
    let until = line
        .leased()
        .filter_map(|(_, marker)| Some(shared.leases.get(&room.marker(marker), now)?.until.since(now)));
    until.min()
}

fn paths(room: &Room, taken: &[(Place, Marker)]) -> Vec<String> {
    taken.iter().map(|(place, _)| room.item(place.id)).collect()
}

fn looks(paths: &[String]) -> Vec<Look<'_>> {
    paths.iter().map(|path| Look::Data(path)).collect()
}

fn deliveries(taken: Vec<(Place, Marker)>, carried: Vec<Seen>) -> Result<Vec<Delivered>> {
    let delivered = |((place, marker), seen): ((Place, Marker), Seen)| {
        let Seen::Data(data, stat) = seen else {
            // It was acknowledged by an earlier attempt meanwhile.
            return Ok(None);
        };
        let carried = unpack(data, &stat)?;
        Ok(Some(Delivered {
            id: place.id,
            token: marker.token,
            attempt: place.attempts,
            payload: carried.payload,
            priority: priority(place.urgency),
            group: carried.group,
            pushed: carried.pushed,
        }))
    };
    taken.into_iter().zip(carried).filter_map(|pair| delivered(pair).transpose()).collect()
}

/// What a receive does.
struct Plan {
    batch: Batch,
    /// What is leased, as it is then.
    taken: Vec<(Place, Marker)>,
    /// When the next item is ready, by the store's time.
    next: Option<u64>,
}

impl Plan {
    /// `most` is how many bytes the batch may have, about.
    fn new(room: &Room, line: &Line, head: Head, receive: &Receive, now: u64, most: usize) -> Result<Self> {
        let (mut steps, mut buried, mut groups, mut ready, mut next) =
            (Batch::default(), false, HashSet::new(), Vec::new(), None);
        for place in line.places() {
            let free = line.lease(place).is_none();
            let spent = free && place.is_spent(receive.max_attempts);
            if spent && steps.bytes() < most {
                bury(&mut steps, room, place, None);
                buried = true;
                continue;
            }
            let first = place.group.is_none_or(|group| groups.insert(group));
            // What is spent and not buried yet is so in the next round.
            if first && free && !spent {
                if place.ready <= now {
                    ready.push(place);
                } else {
                    next = next.into_iter().chain([place.ready]).min();
                }
            }
        }
        ready.sort_by_key(|place| (place.urgency, place.order));
        let mut taken = Vec::new();
        for place in ready.into_iter().take(MOST.min(receive.limit as usize)) {
            if steps.bytes() >= most {
                break;
            }
            let marker = Marker { order: place.order, token: head.token(taken.len())?, receive: receive.id };
            let delivered = Place { attempts: place.attempts + 1, delivered: true, ..place.clone() };
            steps.delete(room.place(place), None);
            steps.create(room.place(&delivered), Vec::new(), Mode::Persistent);
            steps.create(room.marker(&marker), receive.owner.as_bytes().to_vec(), Mode::Ephemeral);
            taken.push((delivered, marker));
        }
        let mut batch = Batch::default();
        if !steps.is_empty() {
            let last = match taken.last() {
                Some((_, marker)) => marker.token,
                None => head.token(0)?,
            };
            batch.set(room.head(), last.get().to_be_bytes().to_vec(), Some(head.version));
            if buried {
                // There is room for others, and nobody's lease ended just now.
                batch.set(room.line(), Vec::new(), None);
            }
            batch.append(steps);
        }
        Ok(Self { batch, taken, next })
    }
}

/// Gives an item up.
pub(super) fn bury(batch: &mut Batch, room: &Room, place: &Place, token: Option<coord_core::FencingToken>) {
    batch.delete(room.place(place), None);
    let stem = format!("{}/{}", room.dead(), place.grave(token).stem());
    batch.create(stem, Vec::new(), Mode::PersistentSequential);
}

impl Desk {
    /// Remembers where deliveries are.
    fn take(&self, room: &Room, taken: &[(Place, Marker)], leases: &Leases) {
        for (place, marker) in taken {
            let held = Held { place: place.clone(), marker: marker.clone() };
            self.keep(room, held, leases);
        }
    }
}
