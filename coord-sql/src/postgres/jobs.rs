//! The store of jobs: what [`coord_core::spi::jobs::Jobs`] says, one function of the server a step.

use std::time::Duration;

use async_trait::async_trait;
use coord_core::{
    Error, Result,
    spi::{
        Wakeups,
        jobs::{
            DeadItem, Delivered, ItemId, Jobs, Push, Pushed, QueueId, QueueStats, Receive, Received, Settled,
            Settlement, Word,
        },
    },
};
use sqlx::{postgres::PgRow, query};

use super::client::{PostgresStore, Shared};
use crate::{
    answers::{stored, wall},
    claims::ttl_ms,
    jobs::MEMORY,
    keys::LineKey,
};

const DEAD: &str = "SELECT id, attempts, payload, priority, family, died_at FROM coord.dead_items \
    WHERE queue = $1 \
      AND place > coalesce((SELECT place FROM coord.dead_items WHERE queue = $1 AND id = $2), -1) \
    ORDER BY place LIMIT $3";

fn key(queue: &QueueId) -> String {
    LineKey::of_queue(queue).as_str().to_owned()
}

fn ids<'a>(ids: impl IntoIterator<Item = &'a ItemId>) -> Vec<Vec<u8>> {
    ids.into_iter().map(|id| id.as_bytes().to_vec()).collect()
}

impl Shared {
    fn delivered(&self, row: &PgRow) -> Result<Delivered> {
        Ok(Delivered {
            id: ItemId::from_bytes(self.id(row, 0)?),
            token: stored(self.cell(row, 1)?)?,
            attempt: self.number(row, 2)?,
            payload: self.cell(row, 3)?,
            priority: self.cell(row, 4)?,
            group: self.cell(row, 5)?,
            pushed: wall(self.cell(row, 6)?),
        })
    }

    fn dead(&self, row: &PgRow) -> Result<DeadItem> {
        Ok(DeadItem {
            id: ItemId::from_bytes(self.id(row, 0)?),
            attempts: self.number(row, 1)?,
            payload: self.cell(row, 2)?,
            priority: self.cell(row, 3)?,
            group: self.cell(row, 4)?,
            died: wall(self.cell(row, 5)?),
        })
    }

    /// The number of items that a step answers.
    fn count(&self, row: &PgRow) -> Result<u64> {
        self.number(row, 0).map_err(Error::with_unknown_effect)
    }
}

/// A word as the function takes it: its number, a time, and after how many attempts an item is dead.
fn said(word: &Word) -> (i32, i64, Option<i64>) {
    match word {
        Word::Ack => (0, 0, None),
        Word::Nack { delay, max_attempts } => (1, ttl_ms(*delay), max_attempts.map(i64::from)),
        Word::Return => (2, 0, None),
        Word::Extend(visibility) => (3, ttl_ms(*visibility), None),
    }
}

#[async_trait]
impl Jobs for PostgresStore {
    async fn push(&self, push: &Push) -> Result<Pushed> {
        let capacity = push.capacity.map(|capacity| i64::try_from(capacity).unwrap_or(i64::MAX));
        let step = || {
            query("SELECT coord.push($1, $2, $3, $4, $5, $6, $7)")
                .bind(key(&push.queue))
                .bind(capacity)
                .bind(ids(push.items.iter().map(|item| &item.id)))
                .bind(push.items.iter().map(|item| item.priority).collect::<Vec<_>>())
                .bind(push.items.iter().map(|item| item.group.clone()).collect::<Vec<_>>())
                .bind(push.items.iter().map(|item| ttl_ms(item.delay)).collect::<Vec<_>>())
                .bind(push.items.iter().map(|item| item.payload.clone()).collect::<Vec<_>>())
        };
        let row = self.shared.ask_one(step).await?;
        let new: Option<i64> = self.shared.cell(&row, 0).map_err(Error::with_unknown_effect)?;
        Ok(new.map_or(Pushed::Full, |new| Pushed::Done { new: new.unsigned_abs() }))
    }

    async fn receive(&self, receive: &Receive) -> Result<Received> {
        let step = || {
            query("SELECT * FROM coord.receive($1, $2, $3, $4, $5, $6)")
                .bind(key(&receive.queue))
                .bind(receive.id.as_bytes().to_vec())
                .bind(i32::try_from(receive.limit).unwrap_or(i32::MAX))
                .bind(ttl_ms(receive.visibility))
                .bind(receive.max_attempts.map(i64::from))
                .bind(receive.owner.clone())
        };
        let rows = self.shared.ask(step).await?;
        let read = || {
            let there =
                |row: &&PgRow| matches!(self.shared.cell::<Option<i64>>(row, 1), Ok(Some(_)) | Err(_));
            let deliveries = rows.iter().filter(there).map(|row| self.shared.delivered(row));
            let deliveries = deliveries.collect::<Result<Vec<_>>>()?;
            let look_again_in = match rows.first() {
                Some(row) if deliveries.is_empty() => self.shared.cell::<Option<i64>>(row, 7)?,
                _ => None,
            };
            let look_again_in = look_again_in.map(|left| Duration::from_millis(left.max(1).unsigned_abs()));
            Ok(Received { deliveries, look_again_in })
        };
        read().map_err(Error::with_unknown_effect)
    }

    async fn settle(&self, queue: &QueueId, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        let words: Vec<_> = settlements.iter().map(|settlement| said(&settlement.word)).collect();
        let step = || {
            query("SELECT coord.settle($1, $2, $3, $4, $5, $6, $7)")
                .bind(key(queue))
                .bind(ids(settlements.iter().map(|settlement| &settlement.id)))
                .bind(settlements.iter().map(|settlement| settlement.token.as_i64()).collect::<Vec<_>>())
                .bind(words.iter().map(|word| word.0).collect::<Vec<_>>())
                .bind(words.iter().map(|word| word.1).collect::<Vec<_>>())
                .bind(words.iter().map(|word| word.2).collect::<Vec<_>>())
                .bind(ttl_ms(MEMORY))
        };
        let row = self.shared.ask_one(step).await?;
        let counts: Vec<bool> = self.shared.cell(&row, 0).map_err(Error::with_unknown_effect)?;
        Ok(counts.into_iter().map(|counts| if counts { Settled::Done } else { Settled::Stale }).collect())
    }

    async fn dead(&self, queue: &QueueId, after: Option<ItemId>, limit: u32) -> Result<Vec<DeadItem>> {
        let step = || {
            query(DEAD)
                .bind(key(queue))
                .bind(after.map(|after| after.as_bytes().to_vec()))
                .bind(i64::from(limit))
        };
        self.shared.ask(step).await?.iter().map(|row| self.shared.dead(row)).collect()
    }

    async fn requeue(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64> {
        let step = || query("SELECT coord.requeue($1, $2)").bind(key(queue)).bind(ids(items));
        self.shared.count(&self.shared.ask_one(step).await?)
    }

    async fn drop_dead(&self, queue: &QueueId, items: &[ItemId]) -> Result<u64> {
        let step = || {
            query("SELECT coord.drop_dead($1, $2, $3)").bind(key(queue)).bind(ids(items)).bind(ttl_ms(MEMORY))
        };
        self.shared.count(&self.shared.ask_one(step).await?)
    }

    async fn stats(&self, queue: &QueueId) -> Result<QueueStats> {
        let row = self.shared.ask_one(|| query("SELECT * FROM coord.stats($1)").bind(key(queue))).await?;
        Ok(QueueStats {
            ready: self.shared.number(&row, 0)?,
            delayed: self.shared.number(&row, 1)?,
            in_flight: self.shared.number(&row, 2)?,
            dead: self.shared.number(&row, 3)?,
        })
    }

    async fn purge(&self, queue: &QueueId) -> Result<u64> {
        let row = self.shared.ask_one(|| query("SELECT coord.purge_queue($1)").bind(key(queue))).await?;
        self.shared.count(&row)
    }

    fn wakeups(&self, queue: &QueueId) -> Wakeups {
        self.shared.hub.line_once_polled(LineKey::of_queue(queue))
    }
}
