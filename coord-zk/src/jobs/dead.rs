//! Items that were given up, counts, and removals.

use coord_core::{
    Result,
    spi::jobs::{DeadItem, ItemId, QueueStats},
};

use super::{
    Desk,
    place::{Grave, Place, priority},
    room::{Line, Room, graves, number, unpack},
};
use crate::{
    batch::{Batch, Conflict, Pause},
    error::partly,
    session::{Look, Mode, Seen, Session},
    values::record::wall,
};

/// How many items are read or removed at a time: of the largest, some megabytes.
const PART: usize = 64;

async fn read(session: &Session, room: &Room) -> Result<Vec<(Grave, String)>> {
    let dead = room.dead();
    match session.read_fresh(room.root(), &[Look::Children(&dead)]).await?.pop() {
        Some(Seen::Children(names)) => Ok(graves(&names)),
        _ => Ok(Vec::new()),
    }
}

pub(super) async fn dead(
    session: &Session,
    room: &Room,
    after: Option<ItemId>,
    limit: u32,
) -> Result<Vec<DeadItem>> {
    let graves = read(session, room).await?;
    let start = after.and_then(|after| graves.iter().position(|(grave, _)| grave.id == after));
    let wanted = graves.iter().skip(start.map_or(0, |at| at + 1)).take(limit as usize).collect::<Vec<_>>();
    let mut items = Vec::new();
    for some in wanted.chunks(PART) {
        let paths: Vec<_> = some
            .iter()
            .flat_map(|(grave, name)| [format!("{}/{name}", room.dead()), room.item(grave.id)])
            .collect();
        let looks: Vec<_> = paths.iter().map(|path| Look::Data(path)).collect();
        let mut seen = session.read_all(&looks).await?.into_iter();
        for (grave, _) in some {
            let (Some(Seen::Data(_, died)), Some(Seen::Data(data, stat))) = (seen.next(), seen.next()) else {
                // It was put back or dropped meanwhile.
                continue;
            };
            let carried = unpack(data, &stat)?;
            items.push(DeadItem {
                id: grave.id,
                attempts: grave.attempts,
                payload: carried.payload,
                priority: priority(grave.urgency),
                group: carried.group,
                died: wall(died.ctime.cast_unsigned()),
            });
        }
    }
    Ok(items)
}

/// The dead among some items, those first that died first.
async fn named(session: &Session, room: &Room, items: &[ItemId]) -> Result<Vec<(Grave, String)>> {
    let items: std::collections::HashSet<_> = items.iter().collect();
    let mut dead = read(session, room).await?;
    dead.retain(|(grave, _)| items.contains(&grave.id));
    Ok(dead)
}

/// In steps, each of which is done or not.
pub(super) async fn requeue(session: &Session, room: &Room, items: &[ItemId]) -> Result<u64> {
    let mut count = 0;
    match requeue_all(session, room, items, &mut count).await {
        Ok(()) => Ok(count),
        Err(error) => Err(partly(count > 0)(error)),
    }
}

async fn requeue_all(session: &Session, room: &Room, items: &[ItemId], count: &mut u64) -> Result<()> {
    let mut pause = Pause::default();
    loop {
        let dead = named(session, room, items).await?;
        let some = &dead[..dead.len().min(PART)];
        if some.is_empty() {
            return Ok(());
        }
        let tail = room.tail();
        let Some(Seen::Data(next, stat)) = session.read_all(&[Look::Data(&tail)]).await?.pop() else {
            return Ok(());
        };
        let next = number(&next)?;
        let mut batch = Batch::default();
        batch.set(tail, (next + some.len() as u64).to_be_bytes().to_vec(), Some(stat.version));
        for (order, (grave, name)) in (next..).zip(some) {
            let Grave { urgency, id, group, .. } = *grave;
            let place =
                Place { urgency, order, id, attempts: 0, ready: 0, group, returned: None, delivered: false };
            batch.delete(format!("{}/{name}", room.dead()), None);
            batch.create(room.place(&place), Vec::new(), Mode::Persistent);
        }
        match batch.send(session).await? {
            Ok(_) => *count += some.len() as u64,
            Err(_) => pause.rest().await,
        }
    }
}

/// In steps, each of which is done or not.
pub(super) async fn drop_dead(session: &Session, room: &Room, items: &[ItemId]) -> Result<u64> {
    let mut count = 0;
    match drop_dead_all(session, room, items, &mut count).await {
        Ok(()) => Ok(count),
        Err(error) => Err(partly(count > 0)(error)),
    }
}

async fn drop_dead_all(session: &Session, room: &Room, items: &[ItemId], count: &mut u64) -> Result<()> {
    let mut pause = Pause::default();
    loop {
        let dead = named(session, room, items).await?;
        let some = &dead[..dead.len().min(PART)];
        if some.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        for (grave, name) in some {
            batch.create(room.gone(grave.id), Vec::new(), Mode::Persistent);
            batch.delete(format!("{}/{name}", room.dead()), None);
            batch.delete(room.item(grave.id), None);
        }
        match batch.send(session).await? {
            Ok(_) => *count += some.len() as u64,
            Err(Conflict::NoFolder(folder)) => room.make_bucket(session, &folder).await?,
            Err(Conflict::Changed) => pause.rest().await,
        }
    }
}

/// In steps, each of which is done or not.
pub(super) async fn purge(session: &Session, room: &Room) -> Result<u64> {
    let mut count = 0;
    match purge_all(session, room, &mut count).await {
        Ok(()) => Ok(count),
        Err(error) => Err(partly(count > 0)(error)),
    }
}

async fn purge_all(session: &Session, room: &Room, count: &mut u64) -> Result<()> {
    let mut pause = Pause::default();
    loop {
        let (line, dead) = (room.line(), room.dead());
        let looks = [Look::Children(&line), Look::Children(&dead)];
        let seen = session.read_fresh(room.root(), &looks).await?;
        let [Seen::Children(names), Seen::Children(buried)] = &seen[..] else { return Ok(()) };
        let parsed = Line::parse(names);
        let places = parsed.free().map(|place| (room.place(place), place.id));
        let buried = graves(buried).into_iter().map(|(grave, name)| (format!("{dead}/{name}"), grave.id));
        let all: Vec<_> = places.chain(buried).collect();
        if all.is_empty() {
            return Ok(());
        }
        for some in all.chunks(PART) {
            let mut batch = Batch::default();
            // Tells those who wait for room.
            batch.set(line.clone(), Vec::new(), None);
            for (path, id) in some {
                batch.delete(path.clone(), None);
                batch.delete(room.item(*id), None);
            }
            match batch.send(session).await? {
                Ok(_) => *count += some.len() as u64,
                Err(_) => {
                    pause.rest().await;
                    break;
                }
            }
        }
    }
}

pub(super) async fn stats(session: &Session, desk: &Desk, room: &Room) -> Result<QueueStats> {
    let (line, dead) = (room.line(), room.dead());
    let looks = [Look::Children(&line), Look::Children(&dead)];
    let seen = session.read_fresh(room.root(), &looks).await?;
    let [Seen::Children(names), Seen::Children(buried)] = &seen[..] else { return Ok(QueueStats::default()) };
    let (line, buried) = (Line::parse(names), graves(buried));
    let delayed = line.free().any(|place| place.ready > 0);
    let now = if delayed { desk.time.now(session, &room.clock()).await?.earliest } else { 0 };
    let mut stats = QueueStats { dead: buried.len() as u64, ..QueueStats::default() };
    for place in line.places() {
        match line.lease(place) {
            Some(_) => stats.in_flight += 1,
            None if place.ready > now => stats.delayed += 1,
            None => stats.ready += 1,
        }
    }
    Ok(stats)
}
