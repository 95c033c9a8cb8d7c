//! Worker processes that are killed and stopped with items in their hands.

use std::time::Duration;

use coord_core::{FencingToken, Item, Name, Queue, QueueStats};

use super::{cases, demand, queue_troubles::empty, workload::Seed};
use crate::{
    Client, Ctx, Failure, Verdict,
    checkers::progress::within,
    history::{Op, Outcome},
    nemesis::{Crew, Lateness, NEVER, ask, in_time, stop_between_writes},
    worker::{Answer, Command, Reply, Worker},
    working,
};

cases! { "processes":
    a_killed_consumers_item_is_delivered_again_in_time [Processes, Jobs],
    late_words_of_a_stopped_consumer_are_refused [Processes, Jobs],
    a_group_stays_in_order_over_killed_and_stopped_consumers [Processes, Jobs],
    killed_and_stopped_processes_lose_no_item [Processes, Jobs],
}

/// The name under which failures of this file are reported.
const NAME: &str = "jobs";

fn receive(worker: &Worker, queue: &Name, visibility: Duration) -> Reply {
    worker.ask(Command::Receive { queue: queue.clone(), visibility })
}

async fn received(reply: &mut Reply, what: &str) -> Verdict<FencingToken> {
    within(NEVER, what, reply.granted()).await?
}

async fn acked(worker: &Worker, reply: &Reply) -> Verdict {
    let said = ask(worker, Command::Ack { hold: reply.hold() }).await?;
    demand!(said == Answer::Done, "an acknowledgement was answered with {said:?}");
    Ok(())
}

/// The present number of items in somebody's hands, once it is as wanted.
async fn until_in_flight(ctx: &Ctx, client: &Client, queue: &Name, wanted: u64) -> Verdict {
    let looking = ctx.until(async || {
        let stats = client.queue_stats(queue).await?;
        Ok((stats.in_flight == wanted).then_some(()))
    });
    within(NEVER, "items in other hands", looking).await?
}

/// Which deliveries there were: what the items carry, and the attempts, in the order of the tokens.
fn deliveries(ctx: &Ctx) -> Vec<(String, u32)> {
    let mut seen = Vec::new();
    for event in ctx.history().events() {
        if let (Op::Receive { items }, Outcome::Ok) = (event.op, event.outcome) {
            seen.extend(items.into_iter().map(|(item, token, attempt)| (token, item, attempt)));
        }
    }
    seen.sort();
    seen.into_iter().map(|(_, item, attempt)| (item, attempt)).collect()
}

/// The queue is empty, and all that was pushed is acknowledged.
async fn drained(client: &Client, queue: &Name) -> Verdict {
    let stats = client.queue_stats(queue).await?;
    demand!(stats == QueueStats::default(), "{stats:?} are left");
    client.recorder().note(queue.as_str(), Op::Drained);
    Ok(())
}

/// The consumer is killed while another one waits: that one has the item within the visibility timeout and a little.
async fn a_killed_consumers_item_is_delivered_again_in_time(ctx: Ctx) -> Verdict {
    let (client, queue, visibility) = (ctx.client().await?, ctx.fresh_name(), ctx.short_ttl() * 2);
    let (mut doomed, next) = (Worker::start(&ctx)?, Worker::start(&ctx)?);
    working::push(&client, &queue, Item::new("x")).await?;
    let token = received(&mut receive(&doomed, &queue, visibility), "an item").await?;
    let mut again = receive(&next, &queue, ctx.long_ttl());
    // It is kept alive for longer than it was leased for at first, with somebody waiting for it.
    let early = tokio::time::timeout(visibility * 2, again.granted()).await;
    demand!(early.is_err(), "an item that is being worked on was delivered again: {early:?}");
    let lateness = Lateness::measure(&ctx).await?;
    let died = doomed.kill().await?;
    let newer = received(&mut again, "a redelivery after the death").await?;
    in_time(&ctx, died, visibility, &lateness)?;
    demand!(newer > token, "token {newer} came after {token}");
    acked(&next, &again).await?;
    let seen = deliveries(&ctx);
    demand!(seen.is_sorted() && seen.len() >= 2, "{seen:?} were delivered");
    drained(&client, &queue).await
}

/// A consumer is stopped past the visibility timeout. When it goes on, its delivery says at once that it is lost, and
/// whatever it says about the item is refused: another one has it, and keeps it.
async fn late_words_of_a_stopped_consumer_are_refused(ctx: Ctx) -> Verdict {
    let (client, queue, visibility) = (ctx.client().await?, ctx.fresh_name(), ctx.short_ttl());
    let (stopped, other) = (Worker::start(&ctx)?, Worker::start(&ctx)?);
    for word in ["ack", "nack", "extend"] {
        working::push(&client, &queue, Item::new(word)).await?;
        let mut late = receive(&stopped, &queue, visibility);
        let token = received(&mut late, "an item").await?;
        let hold = late.hold();
        stop_between_writes(&ctx, &stopped).await?;
        let mut again = receive(&other, &queue, ctx.long_ttl());
        let newer = received(&mut again, "a redelivery past the stopped").await?;
        demand!(newer > token, "token {newer} came after {token}");
        // It finds these when it goes on: a look at the delivery, and the word of one that did not look.
        let mut look = stopped.ask(Command::IsHeld { hold });
        stopped.go_on()?;
        let held = within(NEVER, "an answer of the woken", look.answer()).await??;
        demand!(held == Answer::Held(false), "a delivery that slept past its lease says {held:?}");
        let said = match word {
            "ack" => Command::Ack { hold },
            "nack" => Command::Nack { hold },
            _ => Command::Extend { hold, visibility: ctx.long_ttl() },
        };
        let said = ask(&stopped, said).await?;
        demand!(
            matches!(&said, Answer::Failed { kind, .. } if kind == "Lost"),
            "a late {word} with token {token} after {newer}: {said:?}"
        );
        let stats = client.queue_stats(&queue).await?;
        demand!(stats == QueueStats { in_flight: 1, ..stats }, "a late {word} changed something: {stats:?}");
        let held = ask(&other, Command::IsHeld { hold: again.hold() }).await?;
        demand!(held == Answer::Held(true), "a late {word} took it away: {held:?}");
        acked(&other, &again).await?;
        drained(&client, &queue).await?;
    }
    Ok(())
}

/// The first item of a group is in the hands of one that is stopped, then of one that is killed. The next one is
/// delivered only when the first is acknowledged, with consumers waiting all the time.
async fn a_group_stays_in_order_over_killed_and_stopped_consumers(ctx: Ctx) -> Verdict {
    let (client, queue, visibility) = (ctx.client().await?, ctx.fresh_name(), ctx.short_ttl());
    let (stopped, mut doomed, last) = (Worker::start(&ctx)?, Worker::start(&ctx)?, Worker::start(&ctx)?);
    for item in ["a", "b", "c"] {
        working::push(&client, &queue, Item::new(item).with_group("g")).await?;
    }
    let mut one = receive(&stopped, &queue, visibility);
    received(&mut one, "the first of a group").await?;
    let mut two = receive(&doomed, &queue, visibility);
    stop_between_writes(&ctx, &stopped).await?;
    received(&mut two, "the first of a group, past the stopped").await?;
    stopped.go_on()?;
    // Two wait, and may have nothing as long as the first is in somebody's hands.
    let (mut three, mut four) =
        (receive(&stopped, &queue, ctx.long_ttl()), receive(&last, &queue, ctx.long_ttl()));
    let early = tokio::time::timeout(visibility * 2, async {
        tokio::select! {
            early = three.granted() => early,
            early = four.granted() => early,
        }
    });
    let early = early.await;
    demand!(early.is_err(), "a second delivery of a group is in flight: {early:?}");
    doomed.kill().await?;
    for item in ["a", "b", "c"] {
        let (worker, reply) = within(NEVER, "the next of a group", async {
            tokio::select! {
                granted = three.granted() => granted.map(|_| (&stopped, &mut three)),
                granted = four.granted() => granted.map(|_| (&last, &mut four)),
            }
        })
        .await??;
        until_in_flight(&ctx, &client, &queue, 1).await?;
        let seen = deliveries(&ctx).pop().map(|(item, _)| item);
        demand!(seen.as_deref() == Some(item), "{seen:?} came when {item} was next");
        acked(worker, reply).await?;
        *reply = receive(worker, &queue, ctx.long_ttl());
    }
    let seen = deliveries(&ctx);
    // On a busy machine a lease can end on its way to the consumer.
    demand!(seen.is_sorted() && seen.len() >= 5, "{seen:?} were delivered");
    drained(&client, &queue).await
}

/// Producers and consumers at random work are killed and stopped at random. All that was acknowledged as pushed is
/// acknowledged once by a consumer; order, groups and hands are as they must be. The checkers judge the history.
async fn killed_and_stopped_processes_lose_no_item(ctx: Ctx) -> Verdict {
    let (seed, queue, visibility) = (Seed::new(), ctx.fresh_name(), ctx.short_ttl());
    let onlooker = ctx.client().await?;
    let mut seeds = seed.rng(0);
    let part = |number: usize| {
        let (queue, seed) = (queue.clone(), seeds.u64(..));
        if number.is_multiple_of(3) {
            Command::Produce { queue, items: 40, pause: Duration::from_millis(80), seed }
        } else {
            Command::Consume { queue, visibility, wait: visibility + Duration::from_secs(1), seed }
        }
    };
    let work = async {
        let mut crew = Crew::start(&ctx, 6, part).await?;
        crew.trouble(&mut seed.rng(1), 10, visibility).await?;
        crew.finish().await?;
        let options = working::options(visibility);
        empty(&onlooker, seed.rng(2), &queue, &options).await?;
        let pushed = |event: &crate::history::Event| {
            matches!(event.op, Op::Push { .. }) && event.outcome == Outcome::Ok
        };
        let pushed = ctx.history().events().iter().filter(|event| pushed(event)).count();
        if pushed < 40 {
            return Err(Failure::by(NAME, format!("only {pushed} items were pushed")));
        }
        Ok(())
    };
    seed.tell(work).await
}
