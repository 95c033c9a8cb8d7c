//! Queues: flat out, and at a pace that anybody keeps.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use coord_core::clock::Moment;
use tokio::{sync::mpsc, task::JoinSet};

use super::{Sizes, fresh, goes_on};
use crate::{
    Result,
    row::{Extra, Measured},
    systems::{Client, Consumer, System},
    time::{Samples, now, processor, since},
};

/// The bytes of an item.
const SIZE: usize = 100;

/// How many items a consumer has in hand at most. It acknowledges each by itself.
const BATCH: u32 = 16;

/// Items a second where there is a pace.
const PACE: f64 = 200.0;

/// An item: its number, and when it was pushed.
fn item(number: usize) -> Vec<u8> {
    let mut item = vec![0; SIZE];
    item[..8].copy_from_slice(&(number as u64).to_be_bytes());
    item[8..16].copy_from_slice(&(now().since_start().as_nanos() as u64).to_be_bytes());
    item
}

fn read(item: &[u8]) -> Result<(usize, Moment)> {
    let number = |at: usize| Some(u64::from_be_bytes(item.get(at..at + 8)?.try_into().ok()?));
    let (Some(which), Some(pushed)) = (number(0), number(8)) else {
        return Err("an item is cut short".into());
    };
    Ok((which as usize, Moment::from_start(Duration::from_nanos(pushed))))
}

/// As many producers as consumers, all as fast as they can.
///
/// # Errors
/// What the system says; a lost item.
pub async fn flat_out(system: &System, sizes: &Sizes, width: usize) -> Result<Vec<Measured>> {
    let name = if width == 1 { "W5.1x1.sat" } else { "W5.4x4.sat" };
    Ok(vec![work(system, sizes, name, width, BATCH, None).await?])
}

/// One producer at a pace, and one consumer.
///
/// # Errors
/// What the system says; a lost item.
pub async fn paced(system: &System, sizes: &Sizes) -> Result<Vec<Measured>> {
    let most = (sizes.queue_cap.as_secs_f64() * PACE * 0.9) as usize;
    let sizes = Sizes { items: sizes.items.min(most.max(1)), ..sizes.clone() };
    let between = Duration::from_secs_f64(1.0 / PACE);
    Ok(vec![work(system, &sizes, "W5.1x1.paced", 1, BATCH, Some(between)).await?])
}

async fn work(
    system: &System,
    sizes: &Sizes,
    workload: &'static str,
    width: usize,
    batch: u32,
    pace: Option<Duration>,
) -> Result<Measured> {
    let queue = fresh("queue");
    let (mut clients, mut consumers) = (Vec::new(), Vec::new());
    for _ in 0..width {
        let client = system.client().await?;
        consumers.push(client.consumer(&queue, batch).await?);
        clients.push(client);
        clients.push(system.client().await?);
    }
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let (start, before) = (now(), processor());
    let mut working = JoinSet::new();
    for consumer in consumers {
        working.spawn(consume(consumer, arrived.clone()));
    }
    drop(arrived);
    let left = Arc::new(AtomicUsize::new(0));
    let mut pushing = JoinSet::new();
    for producer in clients.iter().skip(1).step_by(2) {
        pushing.spawn(produce(producer.clone(), queue.clone(), left.clone(), sizes.clone(), pace));
    }
    let mut seen = vec![false; sizes.items];
    let (mut samples, mut doubles, mut last) = (Samples::default(), 0, start);
    let end = tokio::time::sleep(sizes.queue_cap);
    tokio::pin!(end);
    while samples.len() < sizes.items {
        tokio::select! {
            () = &mut end => break,
            arrival = arrivals.recv() => {
                let Some((number, pushed, moment)) = arrival else { break };
                if std::mem::replace(seen.get_mut(number).ok_or("an item of nobody's")?, true) {
                    doubles += 1;
                } else {
                    samples.add(Moment::since(moment, pushed));
                    last = moment;
                }
            }
            Some(ended) = pushing.join_next() => ended??,
            Some(ended) = working.join_next() => ended??,
        }
    }
    let (elapsed, used) = (last.since(start), processor() - before);
    // Without the time that there was all must have come.
    if samples.len() < sizes.items && goes_on(start, sizes.queue_cap) {
        return Err(format!("{} of {} items came", samples.len(), sizes.items).into());
    }
    pushing.shutdown().await;
    working.shutdown().await;
    for client in clients {
        client.close().await?;
    }
    let count = samples.len();
    let cpu_s_per_1k = (count > 0).then(|| used * 1e3 / count as f64);
    let extra = Extra { violations: Some(doubles), cpu_s_per_1k, ..Extra::default() };
    let ops_per_s = Some(count as f64 / elapsed.as_secs_f64().max(1e-9));
    Ok(Measured { workload, samples, ops_per_s, extra })
}

async fn produce(
    client: Arc<dyn Client>,
    queue: String,
    next: Arc<AtomicUsize>,
    sizes: Sizes,
    pace: Option<Duration>,
) -> Result<()> {
    let start = now();
    while goes_on(start, sizes.queue_cap) {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= sizes.items {
            break;
        }
        if let Some(pace) = pace {
            let due = pace * u32::try_from(number)?;
            tokio::time::sleep(due.saturating_sub(since(start))).await;
        }
        client.push(&queue, item(number)).await?;
    }
    Ok(())
}

async fn consume(
    mut consumer: Box<dyn Consumer>,
    arrived: mpsc::UnboundedSender<(usize, Moment, Moment)>,
) -> Result<()> {
    loop {
        let item = consumer.next().await?;
        let moment = now();
        consumer.done().await?;
        // An item counts once it is acknowledged.
        let (number, pushed) = read(&item)?;
        if arrived.send((number, pushed, moment)).is_err() {
            return Ok(());
        }
    }
}
