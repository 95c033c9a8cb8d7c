//! Deliveries: leases, late words, attempts, dead letters.

use std::time::Duration;

use coord_core::{ErrorKind, Item, Queue, QueueStats};
use tokio::time::sleep;

use super::{
    cases, demand,
    faulty::faulty_client,
    queue::{nothing, now, one, patient, push},
    refusal,
};
use crate::{Ctx, Verdict, checkers::progress::within, faults::Operation, working::text};

cases! { "queue":
    an_item_comes_back_when_its_lease_ends [Jobs],
    late_words_are_refused [Jobs],
    an_item_is_kept_alive [Jobs],
    a_lease_can_be_extended [Jobs],
    a_late_extension_prolongs_nothing [Jobs],
    a_lost_delivery_says_so_first [Jobs],
    a_lease_counts_from_the_first_request [Jobs],
    an_item_given_back_waits [Jobs],
    a_dropped_delivery_goes_back [Jobs],
    a_dead_item_is_put_back [Jobs],
    a_dead_item_is_dropped [Jobs],
    an_item_dies_of_lost_leases [Jobs],
}

/// The name under which failures of this file are reported.
const NAME: &str = "jobs";

/// Far beyond the short TTL.
const NEVER: Duration = Duration::from_secs(30);

async fn an_item_comes_back_when_its_lease_ends(ctx: Ctx) -> Verdict {
    let ([a, b], queue) = (ctx.clients().await?, ctx.fresh_name());
    push(&a, &queue, vec![Item::new("x"), Item::new("y")]).await?;
    let (short, start) = (patient(&ctx).with_visibility(ctx.short_ttl()).without_renewal(), ctx.now());
    let first = one(&a, &queue, &short).await?;
    demand!(text(&first) == "x", "{} came first", text(&first));
    one(&b, &queue, &patient(&ctx)).await?.ack().await?;
    let again = within(NEVER, "a redelivery", one(&b, &queue, &patient(&ctx))).await??;
    let passed = ctx.now().since(start);
    // A consumer that sees its lease end gives the item back, a little before the store would take it.
    demand!(passed * 2 >= ctx.short_ttl(), "it came back after {passed:?}");
    demand!(text(&again) == "x" && again.id() == first.id(), "another item came");
    demand!(again.attempt() == 2, "attempt {}", again.attempt());
    demand!(again.token() > first.token(), "{} came after {}", again.token(), first.token());
    demand!(!first.is_held(), "both say that the item is in their hands");
    again.ack().await?;
    Ok(())
}

/// A word about a delivery whose item was delivered again, or may be, changes nothing.
async fn late_words_are_refused(ctx: Ctx) -> Verdict {
    let ((a, faults), b) = (faulty_client(&ctx).await?, ctx.client().await?);
    let queue = ctx.fresh_name();
    let short = patient(&ctx).with_visibility(ctx.short_ttl()).with_max_attempts(None);
    for word in ["ack", "nack", "extend"] {
        push(&a, &queue, vec![Item::new(word)]).await?;
        let late = one(&a, &queue, &short).await?;
        faults.partition(true);
        let again = within(NEVER, "a redelivery", one(&b, &queue, &patient(&ctx))).await??;
        demand!(again.token() > late.token(), "{} came after {}", again.token(), late.token());
        faults.partition(false);
        let said = match word {
            "ack" => late.ack().await,
            "nack" => late.nack(Duration::ZERO).await,
            _ => late.extend(ctx.long_ttl()).await,
        };
        refusal(NAME, said, ErrorKind::Lost)?;
        let stats = b.queue_stats(&queue).await?;
        demand!(stats == QueueStats { in_flight: 1, ..QueueStats::default() }, "late {word}: {stats:?}");
        demand!(again.is_held(), "a late {word} took it away");
        again.ack().await?;
        demand!(b.queue_stats(&queue).await? == QueueStats::default(), "{word}: something is left");
    }
    Ok(())
}

async fn an_item_is_kept_alive(ctx: Ctx) -> Verdict {
    let ([a, b], queue) = (ctx.clients().await?, ctx.fresh_name());
    push(&a, &queue, vec![Item::new("x")]).await?;
    let ttl = ctx.short_ttl().max(Duration::from_secs(1));
    let delivery = one(&a, &queue, &now(&ctx).with_visibility(ttl)).await?;
    let looking = b.receive(&queue, &now(&ctx).with_wait(ttl * 3)).await;
    refusal(NAME, looking, ErrorKind::NotGranted)?;
    demand!(delivery.is_held(), "it was lost");
    delivery.ack().await?;
    Ok(())
}

async fn a_lease_can_be_extended(ctx: Ctx) -> Verdict {
    let ([a, b], queue) = (ctx.clients().await?, ctx.fresh_name());
    push(&a, &queue, vec![Item::new("x")]).await?;
    let ttl = ctx.short_ttl().max(Duration::from_secs(1));
    let delivery = one(&a, &queue, &now(&ctx).with_visibility(ttl).without_renewal()).await?;
    delivery.extend(ctx.long_ttl()).await?;
    let looking = b.receive(&queue, &now(&ctx).with_wait(ttl * 2)).await;
    refusal(NAME, looking, ErrorKind::NotGranted)?;
    demand!(delivery.is_held(), "it was lost");
    delivery.ack().await?;
    Ok(())
}

/// An extension that arrives after the item was delivered again is refused, and the other delivery ends as it would.
async fn a_late_extension_prolongs_nothing(ctx: Ctx) -> Verdict {
    let ((slow, faults), (b, cut), c) =
        (faulty_client(&ctx).await?, faulty_client(&ctx).await?, ctx.client().await?);
    let (queue, visibility) = (ctx.fresh_name(), ctx.short_ttl());
    push(&c, &queue, vec![Item::new("x")]).await?;
    let short = patient(&ctx).with_visibility(visibility).without_renewal();
    let late = one(&slow, &queue, &short).await?;
    // Sent while the lease lasts, and long on its way.
    faults.delay_requests(visibility * 2);
    let (extended, again) = tokio::join!(late.extend(ctx.long_ttl() * 6), async {
        let options = short.clone().with_visibility(visibility * 3);
        let again = within(NEVER, "a redelivery", one(&b, &queue, &options)).await?;
        // It cannot give the item back by itself.
        cut.partition(true);
        again
    });
    refusal(NAME, extended, ErrorKind::Lost)?;
    let again = again?;
    demand!(again.attempt() == 2, "attempt {}", again.attempt());
    let last = within(NEVER, "the end of the other lease", one(&c, &queue, &patient(&ctx))).await??;
    demand!(last.attempt() == 3 && !again.is_held(), "attempt {}", last.attempt());
    faults.heal();
    cut.heal();
    last.ack().await?;
    Ok(())
}

/// A consumer that is cut off knows that it lost its item before another one can have it.
async fn a_lost_delivery_says_so_first(ctx: Ctx) -> Verdict {
    let ((cut_off, faults), other) = (faulty_client(&ctx).await?, ctx.client().await?);
    let queue = ctx.fresh_name();
    push(&other, &queue, vec![Item::new("x")]).await?;
    let lost = one(&cut_off, &queue, &now(&ctx).with_visibility(ctx.short_ttl())).await?;
    faults.partition(true);
    let again = within(NEVER, "a redelivery", one(&other, &queue, &patient(&ctx))).await??;
    demand!(!lost.is_held(), "it says that the item is in its hands when another one has it");
    within(NEVER, "the news of the loss", lost.lost()).await?;
    refusal(NAME, lost.run(std::future::pending::<()>()).await, ErrorKind::Lost)?;
    faults.heal();
    refusal(NAME, lost.ack().await, ErrorKind::Lost)?;
    again.ack().await?;
    Ok(())
}

/// The reply to a receive is lost, and the next requests too. The one that finds the item does not prolong its lease: when
/// another consumer can have the item, the first one says that it is lost.
async fn a_lease_counts_from_the_first_request(ctx: Ctx) -> Verdict {
    let ((a, faults), b) = (faulty_client(&ctx).await?, ctx.client().await?);
    let (queue, visibility) = (ctx.fresh_name(), ctx.short_ttl() * 2);
    push(&b, &queue, vec![Item::new("x")]).await?;
    faults.lose_reply(1, Some(Operation::Receive));
    for nth in 2..=3 {
        faults.lose_request(nth, Some(Operation::Receive));
    }
    let short = patient(&ctx).with_visibility(visibility).without_renewal();
    let first = within(NEVER, "an item after lost messages", one(&a, &queue, &short)).await??;
    faults.partition(true);
    let again = within(NEVER, "a redelivery", one(&b, &queue, &patient(&ctx))).await??;
    demand!(!first.is_held(), "it says that the item is in its hands when another one has it");
    demand!(again.token() > first.token(), "{} came after {}", again.token(), first.token());
    faults.heal();
    again.ack().await?;
    Ok(())
}

async fn an_item_given_back_waits(ctx: Ctx) -> Verdict {
    let ([a, b], queue) = (ctx.clients().await?, ctx.fresh_name());
    push(&a, &queue, vec![Item::new("x"), Item::new("y")]).await?;
    // Long enough that the operations before its end are over by then on a busy machine too.
    let (delay, start) = (Duration::from_secs(3), ctx.now());
    one(&a, &queue, &now(&ctx)).await?.nack(delay).await?;
    let other = one(&b, &queue, &now(&ctx)).await?;
    demand!(text(&other) == "y", "{} came first", text(&other));
    other.nack(Duration::ZERO).await?;
    let at_once = one(&b, &queue, &now(&ctx)).await?;
    demand!(text(&at_once) == "y" && at_once.attempt() == 2, "{}", text(&at_once));
    let late = within(NEVER, "an item given back", one(&b, &queue, &patient(&ctx))).await??;
    let passed = ctx.now().since(start);
    demand!(text(&late) == "x" && passed >= delay, "{} came after {passed:?}", text(&late));
    demand!(late.attempt() == 2, "attempt {}", late.attempt());
    late.ack().await?;
    at_once.ack().await?;
    Ok(())
}

async fn a_dropped_delivery_goes_back(ctx: Ctx) -> Verdict {
    let ([a, b], queue) = (ctx.clients().await?, ctx.fresh_name());
    push(&a, &queue, vec![Item::new("x")]).await?;
    drop(one(&a, &queue, &now(&ctx)).await?);
    let options = patient(&ctx);
    let again = ctx.soon("an item that was dropped", one(&b, &queue, &options)).await??;
    demand!(again.attempt() == 2, "attempt {}", again.attempt());
    again.ack().await?;
    Ok(())
}

async fn a_dead_item_is_put_back(ctx: Ctx) -> Verdict {
    let ([a, b], queue) = (ctx.clients().await?, ctx.fresh_name());
    let options = now(&ctx).with_max_attempts(Some(2));
    push(&a, &queue, vec![Item::new("x").with_priority(3).with_group("g")]).await?;
    for attempt in 1..=2 {
        let delivery = one(&a, &queue, &options).await?;
        demand!(delivery.attempt() == attempt, "attempt {}, not {attempt}", delivery.attempt());
        delivery.nack(Duration::ZERO).await?;
    }
    nothing(&ctx, &b, &queue).await?;
    push(&a, &queue, vec![Item::new("y").with_priority(3).with_group("g")]).await?;
    let dead = b.dead_letters(&queue, None, 10).await?;
    demand!(dead.len() == 1 && dead[0].attempts == 2 && dead[0].payload == b"x", "{dead:?}");
    demand!(dead[0].priority == 3 && dead[0].group.as_deref() == Some("g"), "{dead:?}");
    demand!(b.requeue(&queue, &[dead[0].id]).await? == 1, "it was not put back");
    demand!(b.requeue(&queue, &[dead[0].id]).await? == 0, "it was put back twice");
    for expected in ["y", "x"] {
        let delivery = one(&b, &queue, &options).await?;
        demand!(text(&delivery) == expected && delivery.attempt() == 1, "{} came", text(&delivery));
        delivery.ack().await?;
    }
    nothing(&ctx, &b, &queue).await
}

async fn a_dead_item_is_dropped(ctx: Ctx) -> Verdict {
    let (client, queue) = (ctx.client().await?, ctx.fresh_name());
    let options = now(&ctx).with_max_attempts(Some(1));
    let items = (0..5).map(|number| Item::new(number.to_string())).collect();
    let ids = push(&client, &queue, items).await?;
    for _ in 0..5 {
        one(&client, &queue, &options).await?.nack(Duration::ZERO).await?;
    }
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = client.dead_letters(&queue, after, 2).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        listed.extend(page.into_iter().map(|dead| dead.id));
        demand!(listed.len() <= 5, "the listing never ends");
    }
    demand!(listed == ids, "{listed:?} are not in the order of their deaths");
    demand!(client.drop_dead(&queue, &ids[1..3]).await? == 2, "two were dropped");
    demand!(client.drop_dead(&queue, &ids[1..3]).await? == 0, "two were dropped twice");
    demand!(client.requeue(&queue, &ids[1..3]).await? == 0, "the dropped were put back");
    demand!(client.queue_stats(&queue).await?.dead == 3, "three are left");
    Ok(())
}

/// An item whose consumers vanish dies too.
async fn an_item_dies_of_lost_leases(ctx: Ctx) -> Verdict {
    let (client, queue) = (ctx.client().await?, ctx.fresh_name());
    let short = patient(&ctx).with_visibility(ctx.short_ttl()).without_renewal().with_max_attempts(Some(2));
    push(&client, &queue, vec![Item::new("x")]).await?;
    let mut lost = Vec::new();
    for attempt in 1..=2 {
        let delivery = within(NEVER, "a redelivery", one(&client, &queue, &short)).await??;
        demand!(delivery.attempt() == attempt, "attempt {}, not {attempt}", delivery.attempt());
        lost.push(delivery);
    }
    sleep(ctx.short_ttl() + Duration::from_millis(50)).await;
    let third = client.receive(&queue, &short.with_wait(Duration::ZERO)).await;
    refusal(NAME, third, ErrorKind::NotGranted)?;
    let dead = client.dead_letters(&queue, None, 10).await?;
    demand!(dead.len() == 1 && dead[0].attempts == 2, "{dead:?}");
    for late in lost {
        refusal(NAME, late.ack().await, ErrorKind::Lost)?;
    }
    Ok(())
}
