//! Queues: what `coord_core::spi::jobs::Jobs` says, in transactions.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use async_trait::async_trait;
use coord_core::{
    Error, Result,
    spi::{
        Wakeups,
        jobs::{
            DeadItem, Delivered, ItemId, Jobs, NewItem, Push, Pushed, QueueId, QueueStats, Receive, Received,
            Settled, Settlement, Word,
        },
    },
};
use serde_json::{Value as Json, json};

use crate::{
    answers::{no_counters, row, rows, stored, wall},
    claims::{floor, start, ttl_ms},
    client::{Store, wall_micros},
    dialect::{Purpose, Row},
    keys::LineKey,
    news::hex,
    wakeups::Note,
};

/// How long items that are done are remembered, so that a push or an acknowledgement can be sent again.
pub(crate) const MEMORY: Duration = Duration::from_secs(600);

fn key(queue: &QueueId) -> String {
    format!("{}/{}", queue.namespace, queue.name)
}

fn wall_ms() -> i64 {
    wall_micros() / 1_000
}

fn ids<'a>(ids: impl IntoIterator<Item = &'a ItemId>) -> String {
    json!(ids.into_iter().map(|id| hex(id.as_bytes())).collect::<Vec<_>>()).to_string()
}

fn family(row: &Row, column: usize) -> Result<Option<String>> {
    if row.is_null(column) { Ok(None) } else { row.text(column).map(|text| Some(text.to_owned())) }
}

fn delivered(row: &Row) -> Result<Delivered> {
    Ok(Delivered {
        id: ItemId::from_bytes(row.id(0)?),
        token: stored(row.integer(1)?)?,
        attempt: row.number(2)?,
        payload: row.bytes(3)?.to_vec(),
        priority: row.number(4)?,
        group: family(row, 5)?,
        pushed: wall(row.integer(6)?),
    })
}

fn dead(row: &Row) -> Result<DeadItem> {
    Ok(DeadItem {
        id: ItemId::from_bytes(row.id(0)?),
        attempts: row.number(1)?,
        payload: row.bytes(2)?.to_vec(),
        priority: row.number(3)?,
        group: family(row, 4)?,
        died: wall(row.integer(5)?),
    })
}

/// An item that somebody speaks about, as it stands while the words are taken one by one.
enum Standing {
    Queued(Item),
    /// Acknowledged with this token, or dropped.
    Gone(Option<i64>),
    /// Given up by the word of this token, or because a lease had ended.
    Dead(Option<i64>),
}

#[derive(Clone, Copy)]
struct Item {
    token: Option<i64>,
    attempts: u32,
    returned: Option<i64>,
    expires_at: i64,
}

fn standing(row: &Row) -> Result<(ItemId, Standing)> {
    let standing = match row.integer(1)? {
        0 => Standing::Queued(Item {
            token: row.optional(2)?,
            attempts: row.number(3)?,
            returned: row.optional(4)?,
            expires_at: row.optional(5)?.unwrap_or(0),
        }),
        1 => Standing::Gone(row.optional(2)?),
        _ => Standing::Dead(row.optional(2)?),
    };
    Ok((ItemId::from_bytes(row.id(0)?), standing))
}

/// What settlements change, as the script takes it. A delivery ends once.
#[derive(Default)]
struct Settling {
    extended: HashMap<ItemId, i64>,
    returned: Vec<Json>,
    acked: Vec<Json>,
    buried: Vec<ItemId>,
}

impl Settling {
    fn say(&mut self, now: i64, said: &Settlement, items: &mut HashMap<ItemId, Standing>) -> Settled {
        let token = said.token.as_i64();
        let again = match items.get_mut(&said.id) {
            None => false,
            Some(Standing::Gone(acked)) => said.word == Word::Ack && *acked == Some(token),
            Some(Standing::Dead(buried)) => matches!(said.word, Word::Nack { .. }) && *buried == Some(token),
            Some(Standing::Queued(item)) if item.token == Some(token) => {
                let item = *item;
                items.insert(said.id, self.end(now, said, item));
                true
            }
            Some(Standing::Queued(item)) => {
                matches!(said.word, Word::Nack { .. } | Word::Return) && item.returned == Some(token)
            }
        };
        if again { Settled::Done } else { Settled::Stale }
    }

    fn end(&mut self, now: i64, said: &Settlement, mut item: Item) -> Standing {
        let (id, token) = (hex(said.id.as_bytes()), said.token.as_i64());
        match &said.word {
            Word::Ack => {
                self.acked.push(json!([id, token]));
                return Standing::Gone(Some(token));
            }
            Word::Extend(visibility) => {
                item.expires_at = item.expires_at.max(start(now) + ttl_ms(*visibility));
                self.extended.insert(said.id, item.expires_at);
                return Standing::Queued(item);
            }
            Word::Nack { max_attempts: Some(max), .. } if item.attempts >= *max => {
                self.buried.push(said.id);
                return Standing::Dead(Some(token));
            }
            Word::Nack { delay, .. } => {
                let (ready, due) = moments(now, *delay);
                self.returned.push(json!([id, item.attempts, token, ready, due]));
            }
            Word::Return => {
                item.attempts = item.attempts.saturating_sub(1);
                self.returned.push(json!([id, item.attempts, token, null, null]));
            }
        }
        (item.token, item.returned) = (None, Some(token));
        Standing::Queued(item)
    }

    /// Whether an item may have become ready, or there is room.
    fn frees(&self) -> bool {
        !(self.returned.is_empty() && self.acked.is_empty() && self.buried.is_empty())
    }
}

/// When a delay from now has passed, on the host's clock and on the wall's.
fn moments(now: i64, delay: Duration) -> (i64, i64) {
    if delay.is_zero() {
        return (now, wall_ms());
    }
    (start(now) + ttl_ms(delay), wall_ms() + ttl_ms(delay))
}

/// `[id, priority, group, ready, due, payload]`.
fn pushed(now: i64, item: &NewItem) -> Json {
    let (ready, due) = moments(now, item.delay);
    json!([hex(item.id.as_bytes()), item.priority, item.group, ready, due, hex(&item.payload)])
}

#[async_trait]
impl Jobs for Store {
    async fn push(&self, push: &Push) -> Result<Pushed> {
        let queue = key(&push.queue);
        let asked = ids(push.items.iter().map(|item| &item.id));
        let mut session = self.write(Purpose::Tokens).await?;
        let now = session.now();
        let capacity = push.capacity.map(|capacity| i64::try_from(capacity).unwrap_or(i64::MAX));
        let arguments = [queue.as_str().into(), asked.as_str().into(), now.into()];
        let answers = session.run(self.statements().jobs.known, &arguments).await?;
        let (mut known, mut there) = (HashSet::new(), 0);
        for row in rows(&answers, 0) {
            match row.is_null(0) {
                true => there = row.integer(1)?,
                false => _ = known.insert(ItemId::from_bytes(row.id(0)?)),
            }
        }
        let new: Vec<_> = push.items.iter().filter(|item| known.insert(item.id)).collect();
        let room = capacity.map(|capacity| (capacity - there).max(0).unsigned_abs());
        if new.is_empty() || room.is_some_and(|room| room < new.len() as u64) {
            session.abandon().await;
            return Ok(if new.is_empty() { Pushed::Done { new: 0 } } else { Pushed::Full });
        }
        let count = new.len() as u64;
        let items = json!(new.into_iter().map(|item| pushed(now, item)).collect::<Vec<_>>()).to_string();
        let arguments = [queue.as_str().into(), now.into(), items.as_str().into(), wall_ms().into()];
        let answers = session.finish(self.statements().jobs.push, &arguments).await?;
        self.wake(&push.queue, rows(&answers, 2));
        Ok(Pushed::Done { new: count })
    }

    async fn receive(&self, receive: &Receive) -> Result<Received> {
        let queue = key(&receive.queue);
        let session = self.write(Purpose::Tokens).await?;
        let now = session.now();
        let arguments = [
            queue.as_str().into(),
            now.into(),
            receive.id.as_bytes().into(),
            receive.max_attempts.map(i64::from).into(),
            receive.limit.into(),
            (start(now) + ttl_ms(receive.visibility)).into(),
            receive.owner.as_str().into(),
            floor().into(),
            wall_ms().into(),
        ];
        let answers = session.finish(self.statements().jobs.receive, &arguments).await?;
        let read = || {
            let deliveries = rows(&answers, 6).iter().map(delivered).collect::<Result<Vec<_>>>()?;
            let next = row(&answers, 7).ok_or_else(no_counters)?;
            let next = [next.optional(0)?, next.optional(1)?].into_iter().flatten().min();
            let look_again_in = next
                .filter(|_| deliveries.is_empty())
                .map(|next| Duration::from_millis(next.saturating_sub(now).max(0).unsigned_abs() + 1));
            Ok(Received { deliveries, look_again_in })
        };
        read().map_err(Error::with_unknown_effect)
    }

    async fn settle(&self, queue: &QueueId, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        let name = key(queue);
        let asked = ids(settlements.iter().map(|said| &said.id).collect::<HashSet<_>>());
        let lasting = |said: &Settlement| matches!(said.word, Word::Ack | Word::Nack { .. });
        // What a lost lease undoes by itself needs no wait for the disk.
        let purpose = if settlements.iter().any(lasting) { Purpose::Tokens } else { Purpose::Leases };
        let mut session = self.write(purpose).await?;
        let now = session.now();
        let arguments = [name.as_str().into(), now.into(), asked.as_str().into()];
        let answers = session.run(self.statements().jobs.standing, &arguments).await?;
        let mut items = rows(&answers, 1).iter().map(standing).collect::<Result<HashMap<_, _>>>()?;
        let mut settling = Settling::default();
        let settled = settlements.iter().map(|said| settling.say(now, said, &mut items)).collect();
        if !settling.frees() && settling.extended.is_empty() {
            session.abandon().await;
            return Ok(settled);
        }
        let frees = settling.frees();
        let extended = settling.extended.iter().map(|(id, until)| json!([hex(id.as_bytes()), until]));
        let (extended, buried) = (json!(extended.collect::<Vec<_>>()).to_string(), ids(&settling.buried));
        let (returned, acked) = (json!(settling.returned).to_string(), json!(settling.acked).to_string());
        let arguments = [
            name.as_str().into(),
            now.into(),
            extended.as_str().into(),
            returned.as_str().into(),
            acked.as_str().into(),
            (start(now) + ttl_ms(MEMORY)).into(),
            buried.as_str().into(),
            wall_ms().into(),
        ];
        let answers = session.finish(self.statements().jobs.settle, &arguments).await?;
        if frees {
            self.wake(queue, rows(&answers, 7));
        }
        Ok(settled)
    }

    async fn dead(&self, queue: &QueueId, after: Option<ItemId>, limit: u32) -> Result<Vec<DeadItem>> {
        let queue = key(queue);
        let after = after.as_ref().map_or(&[][..], |after| &after.as_bytes()[..]);
        let arguments = [queue.as_str().into(), after.into(), limit.into()];
        let answers = self.look(self.statements().jobs.dead, &arguments).await?;
        rows(&answers, 0).iter().map(dead).collect()
    }

    async fn requeue(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64> {
        let (name, asked) = (key(queue), ids(items));
        let session = self.write(Purpose::Tokens).await?;
        let arguments = [name.as_str().into(), session.now().into(), wall_ms().into(), asked.as_str().into()];
        let answers = session.finish(self.statements().jobs.requeue, &arguments).await?;
        let count = rows(&answers, 1).len() as u64;
        if count > 0 {
            self.wake(queue, rows(&answers, 2));
        }
        Ok(count)
    }

    async fn drop_dead(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64> {
        let (name, asked) = (key(queue), ids(items));
        let session = self.write(Purpose::Tokens).await?;
        let now = session.now();
        let until = start(now) + ttl_ms(MEMORY);
        let arguments = [name.as_str().into(), now.into(), until.into(), asked.as_str().into()];
        let answers = session.finish(self.statements().jobs.drop_dead, &arguments).await?;
        Ok(rows(&answers, 1).len() as u64)
    }

    async fn stats(&self, queue: &QueueId) -> Result<QueueStats> {
        self.shared.follow();
        let mut session = self.shared.dialect.read().await?;
        let (queue, now) = (key(queue), session.now());
        let answers = session.run(self.statements().jobs.stats, &[queue.as_str().into(), now.into()]).await?;
        let row = row(&answers, 0).ok_or_else(no_counters)?;
        let (all, delayed, in_flight): (u64, u64, u64) = (row.number(0)?, row.number(1)?, row.number(2)?);
        let ready = all.saturating_sub(delayed + in_flight);
        Ok(QueueStats { ready, delayed, in_flight, dead: row.number(3)? })
    }

    async fn purge(&self, queue: &QueueId) -> Result<u64> {
        let name = key(queue);
        let session = self.write(Purpose::Tokens).await?;
        let arguments = [name.as_str().into(), session.now().into()];
        let answers = session.finish(self.statements().jobs.purge, &arguments).await?;
        let count = row(&answers, 1).ok_or_else(no_counters).and_then(|row| row.number(0));
        let count = count.map_err(Error::with_unknown_effect)?;
        if count > 0 {
            self.wake(queue, rows(&answers, 4));
        }
        Ok(count)
    }

    fn wakeups(&self, queue: &QueueId) -> Wakeups {
        self.shared.hub.line_once_polled(LineKey::of_queue(queue))
    }
}

impl Store {
    /// Tells the clients that wait at a queue.
    fn wake(&self, queue: &QueueId, clients: &[Row]) {
        let note = Note::Line(LineKey::of_queue(queue).mark());
        // They are hints: what cannot be read is not worth an error after the commit.
        self.shared.announce(clients.iter().filter_map(|row| Some((row.id(0).ok()?, note))).collect());
    }
}
