//! Consumers: a handler for every item.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use coord_core::{Consumer, ConsumerOptions, ErrorKind, Item, Name, Queue, QueueStats, ReceiveOptions};
use tokio::{sync::Notify, time::sleep};

use super::{cases, demand, queue::push, refusal};
use crate::{Client, Ctx, Verdict, checkers::progress::within};

cases! { "consumer":
    works_on_several_at_a_time [Jobs],
    gives_back_what_failed [Jobs],
    drains_when_it_is_stopped [Jobs],
    stops_a_handler_that_lost_its_item [Jobs],
    needs_concurrency [Jobs],
}

/// The name under which failures of this file are reported.
const NAME: &str = "jobs";

/// How long is certainly long enough where nothing but a bug makes it long.
const NEVER: Duration = Duration::from_secs(30);

fn options(ctx: &Ctx, concurrency: u32) -> ConsumerOptions {
    let receive = ReceiveOptions::default().with_visibility(ctx.long_ttl());
    let retry = Duration::from_millis(20);
    ConsumerOptions::default().with_receive(receive).with_concurrency(concurrency).with_retry_delay(retry)
}

fn items(count: usize) -> Vec<Item> {
    (0..count).map(|number| Item::new(number.to_string())).collect()
}

/// Waits until nothing is left in the queue.
async fn emptied(ctx: &Ctx, client: &Client, queue: &Name) -> Verdict {
    let looking = ctx.until(async || {
        let stats = client.queue_stats(queue).await?;
        Ok((stats == QueueStats::default()).then_some(()))
    });
    within(NEVER, "an empty queue", looking).await?
}

async fn works_on_several_at_a_time(ctx: Ctx) -> Verdict {
    let ([producer, consumer], queue) = (ctx.clients().await?, ctx.fresh_name());
    push(&producer, &queue, items(12)).await?;
    let (running, most, stop) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let consumer = Consumer::new((*consumer).clone(), queue.clone(), options(&ctx, 3));
    let (at_work, peak, stopping) = (running.clone(), most.clone(), stop.clone());
    let run = tokio::spawn(async move {
        let handler = move |_| {
            let (at_work, peak) = (at_work.clone(), peak.clone());
            async move {
                peak.fetch_max(at_work.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                sleep(Duration::from_millis(50)).await;
                at_work.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, String>(())
            }
        };
        consumer.run(stopping.notified(), handler).await
    });
    emptied(&ctx, &producer, &queue).await?;
    stop.notify_one();
    ctx.soon("the end of a consumer", run).await???;
    let most = most.load(Ordering::SeqCst);
    demand!(most > 1 && most <= 3, "{most} handlers ran at a time, and three may");
    demand!(running.load(Ordering::SeqCst) == 0, "a handler was left");
    Ok(())
}

async fn gives_back_what_failed(ctx: Ctx) -> Verdict {
    let ([producer, consumer], queue) = (ctx.clients().await?, ctx.fresh_name());
    push(&producer, &queue, items(5)).await?;
    let (calls, stop) = (Arc::new(Mutex::new(BTreeMap::<String, u32>::new())), Arc::new(Notify::new()));
    let consumer = Consumer::new((*consumer).clone(), queue.clone(), options(&ctx, 2));
    let (counted, stopping) = (calls.clone(), stop.clone());
    let run = tokio::spawn(async move {
        let handler = move |delivery: Arc<coord_core::Delivery>| {
            let item = String::from_utf8_lossy(delivery.payload()).into_owned();
            *counted.lock().unwrap_or_else(PoisonError::into_inner).entry(item.clone()).or_default() += 1;
            let attempt = delivery.attempt();
            async move {
                match (item.as_str(), attempt) {
                    ("1", 1 | 2) => Err("a failure that the case wants"),
                    ("3", 1) => panic!("a panic that the case wants"),
                    _ => Ok(()),
                }
            }
        };
        consumer.run(stopping.notified(), handler).await
    });
    emptied(&ctx, &producer, &queue).await?;
    stop.notify_one();
    ctx.soon("the end of a consumer", run).await???;
    let calls: Vec<_> = calls.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect();
    demand!(calls == [1, 3, 1, 2, 1], "{calls:?} attempts");
    Ok(())
}

async fn drains_when_it_is_stopped(ctx: Ctx) -> Verdict {
    let ([producer, consumer], queue) = (ctx.clients().await?, ctx.fresh_name());
    push(&producer, &queue, items(4)).await?;
    let (started, stop, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(Notify::new()));
    let consumer = Consumer::new((*consumer).clone(), queue.clone(), options(&ctx, 1));
    let (begun, stopping, going) = (started.clone(), stop.clone(), go.clone());
    let run = tokio::spawn(async move {
        let handler = move |_| {
            let (begun, going) = (begun.clone(), going.clone());
            async move {
                begun.notify_one();
                going.notified().await;
                Ok::<_, String>(())
            }
        };
        consumer.run(stopping.notified(), handler).await
    });
    within(NEVER, "the first item", started.notified()).await?;
    stop.notify_one();
    sleep(Duration::from_millis(50)).await;
    demand!(!run.is_finished(), "the consumer ended before its handler");
    go.notify_one();
    ctx.soon("the end of a consumer", run).await???;
    let stats = producer.queue_stats(&queue).await?;
    demand!(stats == QueueStats { ready: 3, ..QueueStats::default() }, "{stats:?} after it was stopped");
    Ok(())
}

/// A handler whose item another one may have is dropped, and its late success acknowledges nothing.
async fn stops_a_handler_that_lost_its_item(ctx: Ctx) -> Verdict {
    let ([producer, consumer], queue) = (ctx.clients().await?, ctx.fresh_name());
    push(&producer, &queue, items(1)).await?;
    let (calls, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let mut options = options(&ctx, 1);
    options.receive = options.receive.with_visibility(ctx.short_ttl()).without_renewal();
    let consumer = Consumer::new((*consumer).clone(), queue.clone(), options);
    let (counted, stopping) = (calls.clone(), stop.clone());
    let run = tokio::spawn(async move {
        let handler = move |_| {
            let call = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                if call == 0 {
                    std::future::pending::<()>().await;
                }
                Ok::<_, String>(())
            }
        };
        consumer.run(stopping.notified(), handler).await
    });
    emptied(&ctx, &producer, &queue).await?;
    stop.notify_one();
    ctx.soon("the end of a consumer", run).await???;
    let calls = calls.load(Ordering::SeqCst);
    demand!(calls == 2, "{calls} calls");
    Ok(())
}

async fn needs_concurrency(ctx: Ctx) -> Verdict {
    let (client, queue) = (ctx.client().await?, ctx.fresh_name());
    let consumer = Consumer::new((*client).clone(), queue, options(&ctx, 0));
    let ran = consumer.run(std::future::pending(), |_| async { Ok::<_, String>(()) }).await;
    refusal(NAME, ran, ErrorKind::InvalidOptions)?;
    Ok(())
}
