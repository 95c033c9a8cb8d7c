//! Queues: order, groups, ids, capacity, counts.

use std::time::Duration;

use coord_core::{
    Delivery, ErrorKind, Item, ItemId, Name, Namespace, PushOptions, Queue, QueueStats, ReceiveOptions,
    limits,
};
use tokio::time::sleep;

use super::{cases, demand, faulty::faulty_client, refusal};
use crate::{Client, Ctx, Failure, Verdict, checkers::progress::within, working::text};

cases! { "queue":
    first_in_first_out [Jobs],
    higher_priorities_go_first [Jobs],
    a_delayed_item_comes_later [Jobs],
    batches [Jobs],
    an_id_is_pushed_once [Jobs],
    a_group_is_strict_across_redelivery [Jobs],
    who_waits_is_served [Jobs],
    a_full_queue_refuses [Jobs],
    a_full_queue_makes_wait [Jobs],
    stats_and_purge [Jobs],
    queues_are_apart [Jobs],
    limits_before_any_request [Jobs],
}

/// The name under which failures of this file are reported.
const NAME: &str = "jobs";

/// Far beyond what one item takes to arrive.
const NEVER: Duration = Duration::from_secs(30);

/// Receiving at once or not at all.
pub(super) fn now(ctx: &Ctx) -> ReceiveOptions {
    ReceiveOptions::default().with_visibility(ctx.long_ttl()).with_wait(Duration::ZERO)
}

/// Receiving in the end.
pub(super) fn patient(ctx: &Ctx) -> ReceiveOptions {
    ReceiveOptions::default().with_visibility(ctx.long_ttl()).with_wait(NEVER)
}

pub(super) async fn push(client: &Client, queue: &Name, items: Vec<Item>) -> Verdict<Vec<ItemId>> {
    Ok(client.push(queue, items, &PushOptions::default()).await?)
}

/// Receives one item.
pub(super) async fn one(client: &Client, queue: &Name, options: &ReceiveOptions) -> Verdict<Delivery> {
    let mut deliveries = match client.receive(queue, options).await {
        Ok(deliveries) => deliveries,
        Err(error) => return Err(Failure::by(NAME, format!("{queue:?}: an item was expected: {error}"))),
    };
    demand!(deliveries.len() == 1, "{} items were received, not one", deliveries.len());
    deliveries.pop().ok_or_else(|| Failure::by(NAME, "an item was expected"))
}

/// There is nothing to be received.
pub(super) async fn nothing(ctx: &Ctx, client: &Client, queue: &Name) -> Verdict {
    refusal(NAME, client.receive(queue, &now(ctx)).await, ErrorKind::NotGranted).map(|_| ())
}

/// Receives and acknowledges everything, one by one; the payloads in their order.
async fn drain(ctx: &Ctx, client: &Client, queue: &Name) -> Verdict<Vec<String>> {
    let mut seen = Vec::new();
    while client.queue_stats(queue).await?.ready > 0 {
        let delivery = one(client, queue, &now(ctx)).await?;
        seen.push(text(&delivery));
        delivery.ack().await?;
    }
    Ok(seen)
}

async fn first_in_first_out(ctx: Ctx) -> Verdict {
    let ([a, b], queue) = (ctx.clients().await?, ctx.fresh_name());
    for number in 0..6 {
        let client = if number % 2 == 0 { &a } else { &b };
        push(client, &queue, vec![Item::new(format!("{number}a")), Item::new(format!("{number}b"))]).await?;
    }
    let mut last = 0;
    for number in 0..12 {
        let delivery = one(&b, &queue, &now(&ctx)).await?;
        let expected = format!("{}{}", number / 2, if number % 2 == 0 { 'a' } else { 'b' });
        demand!(text(&delivery) == expected, "{} came when {expected} was next", text(&delivery));
        demand!(delivery.token().get() > last, "token {} came after {last}", delivery.token());
        demand!(delivery.attempt() == 1, "attempt {}", delivery.attempt());
        last = delivery.token().get();
        delivery.ack().await?;
    }
    nothing(&ctx, &a, &queue).await
}

async fn higher_priorities_go_first(ctx: Ctx) -> Verdict {
    let (client, queue) = (ctx.client().await?, ctx.fresh_name());
    let item = |text: &str, priority| Item::new(text).with_priority(priority);
    let items =
        vec![item("low", i32::MIN), item("0a", 0), item("high", i32::MAX), item("0b", 0), item("1", 1)];
    push(&client, &queue, items).await?;
    let seen = drain(&ctx, &client, &queue).await?;
    demand!(seen == ["high", "1", "0a", "0b", "low"], "{seen:?}");
    Ok(())
}

async fn a_delayed_item_comes_later(ctx: Ctx) -> Verdict {
    let (client, queue) = (ctx.client().await?, ctx.fresh_name());
    let delay = Duration::from_millis(500);
    let start = ctx.now();
    let items = vec![Item::new("late").with_delay(delay), Item::new("now")];
    push(&client, &queue, items).await?;
    let first = one(&client, &queue, &now(&ctx)).await?;
    demand!(text(&first) == "now", "{} came first", text(&first));
    first.ack().await?;
    let late = within(NEVER, "a delayed item", one(&client, &queue, &patient(&ctx))).await??;
    demand!(ctx.now().since(start) >= delay, "it came {:?} after the push", ctx.now().since(start));
    late.ack().await?;
    Ok(())
}

async fn batches(ctx: Ctx) -> Verdict {
    let (client, queue) = (ctx.client().await?, ctx.fresh_name());
    push(&client, &queue, (0..7).map(|number| Item::new(number.to_string())).collect()).await?;
    let first = client.receive(&queue, &now(&ctx).with_batch(5)).await?;
    let second = client.receive(&queue, &now(&ctx).with_batch(5)).await?;
    let seen: Vec<_> = first.iter().chain(&second).map(text).collect();
    demand!((first.len(), second.len()) == (5, 2), "{} and {}", first.len(), second.len());
    demand!(seen == ["0", "1", "2", "3", "4", "5", "6"], "{seen:?}");
    for delivery in first.into_iter().chain(second) {
        delivery.ack().await?;
    }
    Ok(())
}

async fn an_id_is_pushed_once(ctx: Ctx) -> Verdict {
    let ([a, b], queue, id) = (ctx.clients().await?, ctx.fresh_name(), ItemId::random());
    let item = || vec![Item::new("x").with_id(id), Item::new("x").with_id(id)];
    for client in [&a, &b] {
        let ids = push(client, &queue, item()).await?;
        demand!(ids == [id, id], "{ids:?}");
    }
    let delivery = one(&a, &queue, &now(&ctx)).await?;
    demand!(delivery.id() == id, "{} came", delivery.id());
    push(&b, &queue, item()).await?;
    nothing(&ctx, &b, &queue).await?;
    delivery.ack().await?;
    push(&b, &queue, item()).await?;
    nothing(&ctx, &b, &queue).await
}

async fn a_group_is_strict_across_redelivery(ctx: Ctx) -> Verdict {
    let ([a, b], queue) = (ctx.clients().await?, ctx.fresh_name());
    let item = |text: &str, priority| Item::new(text).with_priority(priority).with_group("g");
    push(&a, &queue, vec![item("g1", 0), item("g2", 9), Item::new("alone"), item("g3", 0)]).await?;
    let taken = a.receive(&queue, &now(&ctx).with_batch(10)).await?;
    let seen: Vec<_> = taken.iter().map(text).collect();
    demand!(seen == ["g1", "alone"], "{seen:?} are in flight together");
    nothing(&ctx, &b, &queue).await?;
    for delivery in taken {
        if text(&delivery) == "g1" {
            delivery.nack(Duration::from_millis(200)).await?;
        } else {
            delivery.ack().await?;
        }
    }
    // The one that comes back later still holds up its group.
    nothing(&ctx, &b, &queue).await?;
    for (text, attempt) in [("g1", 2), ("g2", 1), ("g3", 1)] {
        let delivery = within(NEVER, "an item of a group", one(&b, &queue, &patient(&ctx))).await??;
        demand!(self::text(&delivery) == text, "{} came when {text} was next", self::text(&delivery));
        demand!(delivery.attempt() == attempt, "attempt {} of {text}", delivery.attempt());
        nothing(&ctx, &a, &queue).await?;
        delivery.ack().await?;
    }
    Ok(())
}

async fn who_waits_is_served(ctx: Ctx) -> Verdict {
    let ([producer, consumer], queue) = (ctx.clients().await?, ctx.fresh_name());
    let (waiting, options) = (consumer.clone(), patient(&ctx));
    let receiving = tokio::spawn({
        let queue = queue.clone();
        async move { waiting.receive(&queue, &options).await }
    });
    sleep(Duration::from_millis(50)).await;
    push(&producer, &queue, vec![Item::new("x")]).await?;
    for delivery in ctx.soon("an item for somebody who waits", receiving).await??? {
        delivery.ack().await?;
    }
    Ok(())
}

async fn a_full_queue_refuses(ctx: Ctx) -> Verdict {
    let (client, queue) = (ctx.client().await?, ctx.fresh_name());
    let bounded = PushOptions::default().with_capacity(2).with_wait(Duration::ZERO);
    let (id, other) = (ItemId::random(), ItemId::random());
    client.push(&queue, vec![Item::new("a").with_id(id)], &bounded).await?;
    let two = vec![Item::new("b").with_id(other), Item::new("c")];
    refusal(NAME, client.push(&queue, two, &bounded).await, ErrorKind::QueueFull)?;
    client.push(&queue, vec![Item::new("b").with_id(other)], &bounded).await?;
    refusal(NAME, client.push(&queue, vec![Item::new("c")], &bounded).await, ErrorKind::QueueFull)?;
    // What is known takes no room, and what is in somebody's hands does.
    client.push(&queue, vec![Item::new("a").with_id(id)], &bounded).await?;
    let delivery = one(&client, &queue, &now(&ctx)).await?;
    refusal(NAME, client.push(&queue, vec![Item::new("c")], &bounded).await, ErrorKind::QueueFull)?;
    delivery.ack().await?;
    client.push(&queue, vec![Item::new("c")], &bounded).await?;
    let three = vec![Item::new("x"), Item::new("y"), Item::new("z")];
    refusal(NAME, client.push(&queue, three, &bounded).await, ErrorKind::InvalidOptions)?;
    let seen = drain(&ctx, &client, &queue).await?;
    demand!(seen == ["b", "c"], "{seen:?}");
    Ok(())
}

async fn a_full_queue_makes_wait(ctx: Ctx) -> Verdict {
    let ([producer, consumer], queue) = (ctx.clients().await?, ctx.fresh_name());
    let bounded = PushOptions::default().with_capacity(1);
    producer.push(&queue, vec![Item::new("a")], &bounded).await?;
    let pushing = tokio::spawn({
        let (producer, queue) = (producer.clone(), queue.clone());
        async move { producer.push(&queue, vec![Item::new("b")], &bounded).await }
    });
    sleep(Duration::from_millis(100)).await;
    demand!(!pushing.is_finished(), "it was pushed into a full queue");
    one(&consumer, &queue, &now(&ctx)).await?.ack().await?;
    ctx.soon("room for an item", pushing).await???;
    let seen = drain(&ctx, &consumer, &queue).await?;
    demand!(seen == ["b"], "{seen:?}");
    Ok(())
}

async fn stats_and_purge(ctx: Ctx) -> Verdict {
    let ([a, b], queue) = (ctx.clients().await?, ctx.fresh_name());
    demand!(a.queue_stats(&queue).await? == QueueStats::default(), "an unknown queue is not empty");
    let items = vec![
        Item::new("in flight"),
        Item::new("dead"),
        Item::new("ready"),
        Item::new("later").with_delay(ctx.long_ttl() * 10),
        Item::new("ready too"),
    ];
    push(&a, &queue, items).await?;
    let options = now(&ctx).with_max_attempts(Some(1));
    let held = one(&a, &queue, &options).await?;
    one(&a, &queue, &options).await?.nack(Duration::ZERO).await?;
    let stats = b.queue_stats(&queue).await?;
    let expected = QueueStats { ready: 2, delayed: 1, in_flight: 1, dead: 1 };
    demand!(stats == expected, "{stats:?}, not {expected:?}");
    let purged = b.purge(&queue).await?;
    demand!(purged == 4, "{purged} items were purged");
    let stats = b.queue_stats(&queue).await?;
    demand!(stats == QueueStats { in_flight: 1, ..QueueStats::default() }, "{stats:?} after a purge");
    held.ack().await?;
    demand!(b.queue_stats(&queue).await? == QueueStats::default(), "something is left");
    Ok(())
}

async fn queues_are_apart(ctx: Ctx) -> Verdict {
    let (client, queue, second) = (ctx.client().await?, ctx.fresh_name(), ctx.fresh_name());
    let other = client.with_namespace(Namespace::new("other")?);
    push(&client, &queue, vec![Item::new("here")]).await?;
    nothing(&ctx, &client, &second).await?;
    refusal(NAME, other.receive(&queue, &now(&ctx)).await, ErrorKind::NotGranted)?;
    demand!(other.purge(&queue).await? == 0, "a purge of another namespace's queue");
    let seen = drain(&ctx, &client, &queue).await?;
    demand!(seen == ["here"], "{seen:?}");
    Ok(())
}

async fn limits_before_any_request(ctx: Ctx) -> Verdict {
    let ((client, faults), queue) = (faulty_client(&ctx).await?, ctx.fresh_name());
    let options = PushOptions::default();
    let long = vec![Item::new(vec![0; limits::MAX_VALUE + 1])];
    refusal(NAME, client.push(&queue, long, &options).await, ErrorKind::TooLarge)?;
    let items = |count, size| (0..count).map(|_| Item::new(vec![7; size])).collect::<Vec<_>>();
    refusal(NAME, client.push(&queue, items(limits::MAX_BATCH + 1, 1), &options).await, ErrorKind::TooLarge)?;
    let most = limits::MAX_BATCH_BYTES / limits::MAX_VALUE;
    let much = client.push(&queue, items(most + 1, limits::MAX_VALUE), &options).await;
    refusal(NAME, much, ErrorKind::TooLarge)?;
    refusal(NAME, client.push(&queue, Vec::new(), &options).await, ErrorKind::InvalidOptions)?;
    let late = vec![Item::new("x").with_delay(limits::MAX_TTL + Duration::from_secs(1))];
    refusal(NAME, client.push(&queue, late, &options).await, ErrorKind::InvalidOptions)?;
    let group = vec![Item::new("x").with_group("g".repeat(limits::MAX_OWNER + 1))];
    refusal(NAME, client.push(&queue, group, &options).await, ErrorKind::TooLarge)?;
    for batch in [0, limits::MAX_BATCH as u32 + 1] {
        let receive = client.receive(&queue, &now(&ctx).with_batch(batch)).await;
        refusal(NAME, receive, ErrorKind::InvalidOptions)?;
        refusal(NAME, client.dead_letters(&queue, None, batch).await, ErrorKind::InvalidOptions)?;
    }
    let never = client.receive(&queue, &now(&ctx).with_max_attempts(Some(0))).await;
    refusal(NAME, never, ErrorKind::InvalidOptions)?;
    let short = client.receive(&queue, &now(&ctx).with_visibility(Duration::from_millis(1))).await;
    refusal(NAME, short, ErrorKind::InvalidTtl)?;
    demand!(faults.total() == 0, "{} requests were sent", faults.total());
    push(&client, &queue, items(most, limits::MAX_VALUE)).await?;
    push(&client, &queue, items(limits::MAX_BATCH, 1)).await?;
    let stats = client.queue_stats(&queue).await?;
    demand!(stats.ready == (most + limits::MAX_BATCH) as u64, "{stats:?}");
    Ok(())
}
