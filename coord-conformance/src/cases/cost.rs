//! What operations cost, in operations of the store, and what they leave behind.

use std::time::Duration;

use coord_core::{Barrier, Election, Instance, Lock, Name, Registry, Semaphore};

use super::{cases, faulty::faulty_client};
use crate::{Client, Ctx, Failure, Verdict, ensure, faults::Operation};

cases! { "cost":
    an_uncontended_lock_is_one_operation_and_a_release_one,
    a_failed_try_is_one_operation,
    the_renewal_of_many_is_one_operation,
    an_idle_waiter_asks_seldom,
    names_used_once_leave_nothing [Size],
}

/// One round trip there, one back.
async fn an_uncontended_lock_is_one_operation_and_a_release_one(ctx: Ctx) -> Verdict {
    let ((client, counted), name) = (faulty_client(&ctx).await?, ctx.fresh_name());
    let guard = client.acquire(&name, &ctx.lock_options()).await?;
    ensure!(counted.total() == 1, "an uncontended lock took {} operations", counted.total());
    guard.release().await?;
    ensure!(counted.total() == 2, "a release took {} operations", counted.total() - 1);
    Ok(())
}

/// A refusal leaves nothing to clean up.
async fn a_failed_try_is_one_operation(ctx: Ctx) -> Verdict {
    let ((client, counted), name) = (faulty_client(&ctx).await?, ctx.fresh_name());
    let guard = ctx.client().await?.acquire(&name, &ctx.lock_options()).await?;
    let outcome = client.try_acquire(&name, &ctx.lock_options()).await;
    ensure!(outcome.is_err(), "two hold one lock");
    ensure!(counted.total() == 1, "a failed try took {} operations", counted.total());
    guard.release().await?;
    Ok(())
}

/// Sixty locks with one TTL are renewed together.
async fn the_renewal_of_many_is_one_operation(ctx: Ctx) -> Verdict {
    let (client, counted) = faulty_client(&ctx).await?;
    let (ttl, mut guards) = (ctx.short_ttl() * 6, Vec::new());
    for _ in 0..60 {
        guards.push(client.acquire(&ctx.fresh_name(), &ctx.lock_options().with_ttl(ttl)).await?);
    }
    let before = counted.count(Operation::Renew);
    tokio::time::sleep(ttl * 2).await;
    let renewals = counted.count(Operation::Renew) - before;
    ensure!(guards.iter().all(coord_core::Guard::is_held), "a lock that should be renewed was lost");
    // Six periods pass; one by one it would be 360.
    ensure!((1..60).contains(&renewals), "sixty locks took {renewals} renewals in two TTLs");
    for guard in guards {
        guard.release().await?;
    }
    Ok(())
}

/// A waiter sleeps; it does not poll.
async fn an_idle_waiter_asks_seldom(ctx: Ctx) -> Verdict {
    let ((client, counted), name) = (faulty_client(&ctx).await?, ctx.fresh_name());
    let guard = ctx.client().await?.lock(&name, &ctx.lock_options()).await?;
    let waiting = client.lock_later(&name, &ctx.lock_options());
    ctx.until_waiting(&name, 1).await?;
    let before = counted.total();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let asked = counted.total() - before;
    ensure!(asked <= 4, "an idle waiter with a TTL of ten seconds asked {asked} times in two seconds");
    guard.release().await?;
    ctx.soon("the grant", waiting).await???.release().await?;
    Ok(())
}

/// Many names, each used once by every recipe, leave a store no larger than a few of them do; and tokens still grow.
async fn names_used_once_leave_nothing(ctx: Ctx) -> Verdict {
    let (client, first) = (ctx.client().await?, ctx.fresh_name());
    let once = if ctx.backend().virtual_time() { 1000 } else { 60 };
    let token = use_once(&ctx, &client, &first, 0).await?;
    let mut number = 0;
    let mut sizes = Vec::new();
    for names in [once, once * 3] {
        for _ in 0..names {
            number += 1;
            use_once(&ctx, &client, &ctx.fresh_name(), number).await?;
        }
        // What a drop or a barrier does in the background is done soon; wait for its end.
        ctx.until(async || Ok(idle(&ctx).await?.then_some(()))).await?;
        sizes.push(
            ctx.size().await?.ok_or_else(|| Failure::new("the store does not tell its size any more"))?,
        );
    }
    ensure!(
        sizes[1] <= sizes[0] + sizes[0] / 4,
        "{once} names left {}, four times as many {}",
        sizes[0],
        sizes[1]
    );
    let again = use_once(&ctx, &client, &first, 0).await?;
    ensure!(again > token, "token {again} came after {token} for one name");
    Ok(())
}

/// Whether the store's size has come to rest.
async fn idle(ctx: &Ctx) -> Verdict<bool> {
    let before = ctx.size().await?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    Ok(ctx.size().await? == before)
}

async fn use_once(ctx: &Ctx, client: &Client, name: &Name, number: usize) -> Verdict<u64> {
    let lock = ctx.lock_options();
    let guard = client.acquire(name, &lock).await?;
    let token = guard.token().get();
    match number % 5 {
        0 => guard.release().await?,
        1 => drop(guard),
        2 => {
            guard.release().await?;
            client.campaign(name, &ctx.campaign_options()).await?.resign().await?;
        }
        3 => {
            guard.release().await?;
            let instance = Instance::new("i", "x");
            client.register(name, instance, &ctx.register_options()).await?.deregister().await?;
            client.wait(name, 1, &ctx.barrier_options()).await?;
        }
        _ => {
            guard.release().await?;
            if ctx.guarantees().features.shared {
                client.acquire_permits(name, 2, 3, &lock).await?.release().await?;
            }
        }
    }
    Ok(token)
}
