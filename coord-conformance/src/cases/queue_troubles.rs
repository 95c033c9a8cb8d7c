//! Queues in trouble: dropped futures, lost messages, random work judged by the checkers.

use std::{pin::Pin, time::Duration};

use coord_core::{Item, ItemId, Name, PushOptions, Queue, QueueStats, ReceiveOptions};
use tokio::{task::JoinSet, time::sleep};

use super::{
    cancel::{End, Work, poll_and_drop},
    cases, demand,
    faulty::faulty_client,
    queue::{nothing, now, one, patient, push},
    workload::Seed,
};
use crate::{
    Client, Ctx, Failure, Verdict,
    checkers::progress::within,
    faults::Half,
    history::Op,
    working::{self, consume, produce, text},
};

cases! { "queue":
    a_dropped_receive_keeps_nothing [Jobs],
    a_dropped_push_is_done_once [Jobs],
    every_lost_message [Jobs],
    lost_hints_cost_latency_only [Jobs],
    random_work [Jobs],
    random_work_under_faults [Jobs],
    random_work_with_short_leases [Jobs],
}

/// The name under which failures of this file are reported.
const NAME: &str = "jobs";

/// Far beyond what retries after one loss take, and below the long TTL.
const SOON: Duration = Duration::from_secs(5);
/// How long is certainly long enough where nothing but a bug makes it long.
const NEVER: Duration = Duration::from_secs(30);

/// Makes the future that is to be dropped.
type Make = fn(Ctx, Client, Name, ItemId) -> Work;

/// Looks at what is left, as a sound client sees it; the last argument tells whether the future came to its end.
type After = fn(Ctx, Client, Name, ItemId, bool) -> Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// Polls what `make` makes once, twice and so on, and drops it; without faults, and with each of the first `replies` lost.
async fn every_drop(ctx: Ctx, replies: u64, make: Make, after: After) -> Verdict {
    let sound = ctx.client().await?;
    let (client, faults) = faulty_client(&ctx).await?;
    for lost in 0..=replies {
        for polls in 0.. {
            demand!(polls < 500, "the future never ends");
            let (queue, id) = (ctx.fresh_name(), ItemId::random());
            push(&sound, &queue, vec![Item::new("first")]).await?;
            if lost > 0 {
                faults.lose(Half::Reply, lost, None);
            }
            let end = poll_and_drop(make(ctx.clone(), client.clone(), queue.clone(), id), polls).await;
            faults.heal();
            let done = matches!(end, End::Done(_));
            let told = |failure: Failure| Failure {
                message: format!("dropped after {polls} polls, reply {lost} lost: {}", failure.message),
                ..failure
            };
            within(SOON, "the next call", after(ctx.clone(), sound.clone(), queue, id, done))
                .await
                .map_err(told)?
                .map_err(told)?;
            if !matches!(end, End::Dropped) {
                break;
            }
        }
    }
    Ok(())
}

async fn a_dropped_receive_keeps_nothing(ctx: Ctx) -> Verdict {
    let make = |ctx: Ctx, client: Client, queue: Name, _| -> Work {
        Box::pin(async move { client.receive(&queue, &patient(&ctx)).await.map(drop) })
    };
    // With a reply lost on top, the lease ends it.
    every_drop(ctx, 0, make, |ctx, sound, queue, _, done| {
        Box::pin(async move {
            let again = one(&sound, &queue, &patient(&ctx)).await?;
            // What was received and dropped counts; what was given up while it was received does not.
            demand!(done || again.attempt() == 1, "attempt {}", again.attempt());
            again.ack().await?;
            nothing(&ctx, &sound, &queue).await
        })
    })
    .await
}

async fn a_dropped_push_is_done_once(ctx: Ctx) -> Verdict {
    let make = |_, client: Client, queue: Name, id| -> Work {
        Box::pin(async move {
            let items = vec![Item::new("second").with_id(id)];
            client.push(&queue, items, &PushOptions::default()).await.map(drop)
        })
    };
    every_drop(ctx, 2, make, |ctx, sound, queue, id, _| {
        Box::pin(async move {
            push(&sound, &queue, vec![Item::new("second").with_id(id)]).await?;
            for expected in ["first", "second"] {
                let delivery = one(&sound, &queue, &now(&ctx)).await?;
                demand!(text(&delivery) == expected, "{} came when {expected} was next", text(&delivery));
                delivery.ack().await?;
            }
            nothing(&ctx, &sound, &queue).await
        })
    })
    .await
}

/// Pushes, receives, gives back, receives again, extends, acknowledges.
async fn program(ctx: &Ctx, client: &Client, sound: &Client, queue: &Name) -> Verdict {
    push(client, queue, vec![Item::new("a"), Item::new("b")]).await?;
    let stats = sound.queue_stats(queue).await?;
    demand!(stats.ready == 2, "two items were pushed as {stats:?}");
    let options = patient(ctx).with_max_attempts(Some(2));
    one(client, queue, &options).await?.nack(Duration::ZERO).await?;
    let again = one(client, queue, &options).await?;
    demand!(text(&again) == "a" && again.attempt() == 2, "attempt {} of {}", again.attempt(), text(&again));
    again.extend(ctx.long_ttl()).await?;
    again.ack().await?;
    let other = one(client, queue, &options).await?;
    demand!(text(&other) == "b" && other.attempt() == 1, "attempt {} of {}", other.attempt(), text(&other));
    other.ack().await?;
    let stats = sound.queue_stats(queue).await?;
    demand!(stats == QueueStats::default(), "{stats:?} are left");
    Ok(())
}

/// For every k, the request or the reply of the k-th operation is lost.
async fn every_lost_message(ctx: Ctx) -> Verdict {
    let sound = ctx.client().await?;
    for half in [Half::Request, Half::Reply] {
        for nth in 1.. {
            let ((client, faults), queue) = (faulty_client(&ctx).await?, ctx.fresh_name());
            faults.lose(half, nth, None);
            let lost = |failure: Failure| Failure {
                message: format!("the {half:?} of operation {nth} was lost: {}", failure.message),
                ..failure
            };
            within(SOON, "the end of the program", program(&ctx, &client, &sound, &queue))
                .await
                .and_then(|ended| ended)
                .map_err(lost)?;
            if faults.pending() > 0 {
                demand!(nth > 8, "only {} messages were lost", nth - 1);
                break;
            }
        }
    }
    Ok(())
}

async fn lost_hints_cost_latency_only(ctx: Ctx) -> Verdict {
    let (producer, (consumer, faults)) = (ctx.client().await?, faulty_client(&ctx).await?);
    let queue = ctx.fresh_name();
    faults.lose_hints(true);
    let receiving = tokio::spawn({
        let (queue, options) = (queue.clone(), patient(&ctx));
        async move { one(&consumer, &queue, &options).await }
    });
    sleep(Duration::from_millis(100)).await;
    push(&producer, &queue, vec![Item::new("x")]).await?;
    within(NEVER, "an item without hints", receiving).await???.ack().await?;
    Ok(())
}

/// Producers and consumers at random work, until the queue is empty.
async fn work(ctx: Ctx, visibility: Duration, renew: bool, faulty: bool) -> Verdict {
    let (seed, queue, mut tasks) = (Seed::new(), ctx.fresh_name(), JoinSet::new());
    // Longer than the longest pause between two items, so that the last consumer does not leave too early.
    let mut options = working::options(visibility).with_wait(visibility + Duration::from_secs(1));
    options.renew = renew;
    for number in 0..3 {
        let ((client, faults), rng) = (faulty_client(&ctx).await?, seed.rng(number));
        let queue = queue.clone();
        tasks.spawn(async move {
            let faults = faulty.then_some(&faults);
            Ok(produce(&client, rng, &queue, 15, Duration::from_millis(4), faults).await?)
        });
    }
    for number in 3..6 {
        let ((client, faults), rng) = (faulty_client(&ctx).await?, seed.rng(number));
        let (queue, options) = (queue.clone(), options.clone());
        tasks.spawn(async move {
            let faults = faulty.then_some(&faults);
            Ok(consume(&client, rng, &queue, &options, faults).await?)
        });
    }
    seed.all(tasks).await?;
    let onlooker = ctx.client().await?;
    empty(&onlooker, seed.rng(6), &queue, &options).await
}

/// Works on what is left in a queue.
pub(super) async fn empty(
    client: &Client,
    mut rng: fastrand::Rng,
    queue: &Name,
    options: &ReceiveOptions,
) -> Verdict {
    let options = options.clone().with_wait(Duration::ZERO);
    let emptying = async {
        while client.queue_stats(queue).await? != QueueStats::default() {
            consume(client, rng.fork(), queue, &options, None).await?;
            sleep(Duration::from_millis(50)).await;
        }
        Ok::<_, Failure>(())
    };
    within(NEVER, "an empty queue", emptying).await??;
    client.recorder().note(queue.as_str(), Op::Drained);
    Ok(())
}

async fn random_work(ctx: Ctx) -> Verdict {
    let visibility = ctx.long_ttl();
    work(ctx, visibility, true, false).await
}

async fn random_work_under_faults(ctx: Ctx) -> Verdict {
    let visibility = ctx.short_ttl().max(Duration::from_secs(1));
    work(ctx, visibility, true, true).await
}

async fn random_work_with_short_leases(ctx: Ctx) -> Verdict {
    let visibility = ctx.guarantees().min_ttl;
    work(ctx, visibility, false, false).await
}
