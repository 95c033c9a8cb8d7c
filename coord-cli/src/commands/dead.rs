//! `coord queue dead`: items that were given up.

use clap::Args;
use coord_core::{Coordinator, DeadItem, ItemId, Name, Queue as _, limits};
use serde::Serialize;

use crate::{
    cli::{self, Globals},
    commands::queue::item_id,
    output::{self, Value},
    session::with_store,
    status::{self, Failure},
};

/// Shows the items of a queue that were given up, puts them back, or drops them.
///
/// The oldest first. JSON keys, one object for each: queue, id, attempts, priority, group, died, value (null if it is not
/// UTF-8, then value_bytes holds it). With --requeue or --drop it prints how many there were; JSON keys: queue, and requeued
/// or dropped; it exits with 1 if none of the ids was there.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord queue dead thumbs
  coord queue dead thumbs --requeue 6f0c8b8e-3f0e-4d4f-9d55-0d8f7c1a2b3c
  coord queue dead thumbs --requeue --all
  coord queue dead thumbs --drop --all")]
pub(super) struct Dead {
    /// The name of the queue
    queue: String,

    /// Puts these back at the end of the queue, with no attempts counted
    #[arg(long, value_name = "ID", num_args = 0.., value_parser = item_id, conflicts_with = "drop")]
    requeue: Option<Vec<ItemId>>,

    /// Drops these
    #[arg(long, value_name = "ID", num_args = 0.., value_parser = item_id)]
    drop: Option<Vec<ItemId>>,

    /// With --requeue or --drop: all that are dead now
    #[arg(long)]
    all: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    queue: &'a str,
    id: ItemId,
    attempts: u32,
    priority: i32,
    group: Option<&'a str>,
    died: String,
    #[serde(flatten)]
    value: Value<'a>,
}

impl Dead {
    pub(super) async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let queue = cli::name(&self.queue)?;
        let named = self.requeue.as_ref().or(self.drop.as_ref());
        if named.map_or(self.all, |ids| ids.is_empty() != self.all) {
            return Err(Failure::usage("say --requeue or --drop, and either which items or --all"));
        }
        with_store(globals, async |coordinator| match named {
            Some(ids) => self.settle(globals, &coordinator, &queue, ids).await,
            None => {
                each(&coordinator, &queue, |item| self.show(globals, item)).await?;
                Ok(status::OK)
            }
        })
        .await
    }

    async fn settle(
        &self,
        globals: &Globals,
        coordinator: &Coordinator,
        queue: &Name,
        named: &[ItemId],
    ) -> Result<u8, Failure> {
        let mut ids = named.to_vec();
        if self.all {
            // All are read first: an item that is put back may die again meanwhile.
            each(coordinator, queue, |item| {
                ids.push(item.id);
                Ok(())
            })
            .await?;
        }
        let done = if self.requeue.is_some() { "requeued" } else { "dropped" };
        let mut count = 0;
        for some in ids.chunks(limits::MAX_BATCH) {
            count += match self.requeue {
                Some(_) => coordinator.requeue(queue, some).await?,
                None => coordinator.drop_dead(queue, some).await?,
            };
        }
        let json = serde_json::json!({ "queue": self.queue, done: count });
        globals.output().print(&json, || format!("{done} {count}"))?;
        Ok(if count == 0 && !self.all { status::NOTHING } else { status::OK })
    }

    fn show(&self, globals: &Globals, item: &DeadItem) -> Result<(), Failure> {
        let (id, attempts, priority, group) = (item.id, item.attempts, item.priority, item.group.as_deref());
        let died = output::moment(item.died);
        let value = item.payload.as_slice().into();
        let json = Shown { queue: &self.queue, id, attempts, priority, group, died: died.clone(), value };
        globals.output().print(&json, || {
            let mut text = format!("{id}  {attempts} attempts  died {died}");
            if priority != 0 {
                text += &format!("  priority {priority}");
            }
            if let Some(group) = group {
                text += &format!("  group {group:?}");
            }
            format!("{text}  {}", output::value(&item.payload))
        })?;
        Ok(())
    }
}

/// All dead items, page by page.
async fn each(
    coordinator: &Coordinator,
    queue: &Name,
    mut look: impl FnMut(&DeadItem) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut after = None;
    loop {
        let page = coordinator.dead_letters(queue, after, PAGE).await?;
        for item in &page {
            look(item)?;
        }
        after = page.last().map(|item| item.id);
        if page.len() < PAGE as usize {
            return Ok(());
        }
    }
}

/// A page of payloads of the greatest size is small enough to hold.
const PAGE: u32 = 100;
