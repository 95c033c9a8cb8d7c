//! Semaphores.

use std::time::Duration;

use coord_core::{Inspect, Semaphore, limits, spi::Kind};

use super::cases;
use crate::{Ctx, Verdict, ensure, refused};

cases! { "semaphore":
    gives_out_its_permits_and_no_more [Shared],
    permits_have_weights [Shared],
    who_waits_for_many_is_not_overtaken [Shared],
    one_release_lets_several_in [Shared],
    different_limits_are_each_kept [Shared],
    numbers_that_make_no_sense_are_refused [Shared],
    many_clients_share [Shared],
}

/// Three permits: three holders, and the fourth waits for one of them.
async fn gives_out_its_permits_and_no_more(ctx: Ctx) -> Verdict {
    let (clients, name, options) = (ctx.clients::<4>().await?, ctx.fresh_name(), ctx.lock_options());
    let mut guards = Vec::new();
    for client in &clients[..3] {
        guards.push(client.permits(&name, 1, 3, &options).await?);
    }
    ensure!(
        guards.windows(2).all(|pair| pair[0].token() < pair[1].token()),
        "tokens do not grow: {guards:?}"
    );
    refused!(clients[3].try_acquire_permits(&name, 1, 3, &options).await, NotGranted);
    let fourth = clients[3].permits_later(&name, 1, 3, &options);
    ctx.until_line(Kind::Semaphore, &name, |holding, waiting| (holding, waiting) == (3, 1)).await?;
    ensure!(guards.iter().all(|guard| guard.is_held()), "a permit was lost");
    guards.remove(1).release().await?;
    let fourth = ctx.soon("the fourth grant", fourth).await???;
    ensure!(fourth.token() > guards[1].token(), "token {} came after {}", fourth.token(), guards[1].token());
    fourth.release().await?;
    for guard in guards {
        guard.release().await?;
    }
    Ok(())
}

/// Two and three of five fit; another one does not.
async fn permits_have_weights(ctx: Ctx) -> Verdict {
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.lock_options());
    let pair = one.permits(&name, 2, 5, &options).await?;
    refused!(two.try_acquire_permits(&name, 4, 5, &options).await, NotGranted);
    let triple = two.permits(&name, 3, 5, &options).await?;
    refused!(one.try_acquire_permits(&name, 1, 5, &options).await, NotGranted);
    let line = one.inspect(Kind::Semaphore, &name).await?;
    let weights: Vec<_> = line.holders.iter().map(|holder| holder.weight).collect();
    ensure!(weights == [2, 3], "permits 2 and 3 are shown as {weights:?}");
    pair.release().await?;
    one.try_acquire_permits(&name, 2, 5, &options).await?.release().await?;
    triple.release().await?;
    one.try_acquire_permits(&name, 5, 5, &options).await?.release().await?;
    Ok(())
}

/// One permit is free; the first in line wants two, and the one behind it, who wants one, waits too.
async fn who_waits_for_many_is_not_overtaken(ctx: Ctx) -> Verdict {
    let ([one, two, three], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.lock_options());
    let first = one.permits(&name, 2, 3, &options).await?;
    let large = two.permits_later(&name, 2, 3, &options);
    ctx.until_line(Kind::Semaphore, &name, |_, waiting| waiting == 1).await?;
    refused!(three.try_acquire_permits(&name, 1, 3, &options).await, NotGranted);
    let small = three.permits_later(&name, 1, 3, &options);
    ctx.until_line(Kind::Semaphore, &name, |_, waiting| waiting == 2).await?;
    tokio::time::sleep(Duration::from_millis(30)).await;
    ensure!(!small.is_finished(), "a small request overtook a large one");
    first.release().await?;
    let large = ctx.soon("the large grant", large).await???;
    let small = ctx.soon("the small grant", small).await???;
    ensure!(large.is_held() && small.is_held(), "two and one of three do not hold together");
    ensure!(large.token() < small.token(), "token {} came before {}", small.token(), large.token());
    large.release().await?;
    small.release().await?;
    Ok(())
}

/// A release of many permits grants all who fit.
async fn one_release_lets_several_in(ctx: Ctx) -> Verdict {
    let ([one, two, three], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.lock_options());
    let all = one.permits(&name, 3, 3, &options).await?;
    let second = two.permits_later(&name, 1, 3, &options);
    ctx.until_line(Kind::Semaphore, &name, |_, waiting| waiting == 1).await?;
    let third = three.permits_later(&name, 2, 3, &options);
    ctx.until_line(Kind::Semaphore, &name, |_, waiting| waiting == 2).await?;
    all.release().await?;
    let second = ctx.soon("the second grant", second).await???;
    let third = ctx.soon("the third grant", third).await???;
    ensure!(second.is_held() && third.is_held(), "one and two of three do not hold together");
    second.release().await?;
    third.release().await?;
    Ok(())
}

/// Clients that disagree on the number of permits are each granted only within their own.
async fn different_limits_are_each_kept(ctx: Ctx) -> Verdict {
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.lock_options());
    let first = one.permits(&name, 2, 4, &options).await?;
    refused!(two.try_acquire_permits(&name, 1, 2, &options).await, NotGranted);
    let second = two.permits(&name, 1, 3, &options).await?;
    let third = two.permits(&name, 1, 4, &options).await?;
    for guard in [first, second, third] {
        guard.release().await?;
    }
    Ok(())
}

/// No permits, more than there are, more than there may be.
async fn numbers_that_make_no_sense_are_refused(ctx: Ctx) -> Verdict {
    let (client, name, options) = (ctx.client().await?, ctx.fresh_name(), ctx.lock_options());
    let most = limits::MAX_PERMITS;
    for (permits, of) in [(0, 0), (0, 1), (2, 1), (1, most + 1), (u32::MAX, u32::MAX)] {
        refused!(client.acquire_permits(&name, permits, of, &options).await, InvalidOptions);
        refused!(client.try_acquire_permits(&name, permits, of, &options).await, InvalidOptions);
    }
    client.acquire_permits(&name, most, most, &options).await?.release().await?;
    Ok(())
}

/// Clients take permits of different weights in many rounds; the checkers judge who held with whom.
async fn many_clients_share(ctx: Ctx) -> Verdict {
    let name = ctx.fresh_name();
    for number in 0..5_u64 {
        let (client, name, options) = (ctx.client().await?, name.clone(), ctx.lock_options());
        ctx.spawn(async move {
            let mut random = fastrand::Rng::with_seed(number);
            for _ in 0..8 {
                let guard = client.permits(&name, random.u32(1..=3), 4, &options).await?;
                tokio::time::sleep(Duration::from_millis(random.u64(0..4))).await;
                ensure!(guard.is_held(), "a lease of ten seconds was lost");
                guard.release().await?;
            }
            Ok(())
        });
    }
    Ok(())
}
