//! Several locks at once.

use std::time::Duration;

use coord_core::{Inspect, Lock, Name, spi::Kind};

use super::cases;
use crate::{Ctx, Verdict, ensure, refused};

cases! { "lock_all":
    takes_all,
    takes_a_name_once,
    needs_a_name,
    takes_all_or_none,
    takes_them_in_one_order,
    crossing_sets_do_not_deadlock,
    has_one_deadline,
    is_lost_when_one_is_lost,
    dropped_it_leaves_nothing,
}

/// All names are held, each with a token, until the set is released.
async fn takes_all(ctx: Ctx) -> Verdict {
    let ([one, two], options) = (ctx.clients().await?, ctx.lock_options());
    let names = [ctx.fresh_name(), ctx.fresh_name(), ctx.fresh_name()];
    let set = one.lock_all(&names, &options).await?;
    ensure!(set.is_held() && set.guards().len() == 3, "not all are held: {set:?}");
    ensure!(!set.valid_for().is_zero() && set.valid_for() <= options.ttl, "it lasts {:?}", set.valid_for());
    for name in &names {
        ensure!(set.token(name).is_some(), "{name} has no token");
        refused!(two.try_acquire(name, &options).await, NotGranted);
    }
    ensure!(set.token(&ctx.fresh_name()).is_none(), "a name that was not asked for has a token");
    ensure!(set.run(async { 7 }).await? == 7, "the work did not run");
    set.release().await?;
    for name in &names {
        two.try_acquire(name, &options).await?.release().await?;
    }
    Ok(())
}

/// A name given twice counts once.
async fn takes_a_name_once(ctx: Ctx) -> Verdict {
    let (client, name) = (ctx.client().await?, ctx.fresh_name());
    let set = ctx.soon("the grant", client.lock_all(&[name.clone(), name], &ctx.lock_options())).await??;
    ensure!(set.guards().len() == 1, "one name has {} guards", set.guards().len());
    set.release().await?;
    Ok(())
}

/// Nothing to lock is a mistake.
async fn needs_a_name(ctx: Ctx) -> Verdict {
    let client = ctx.client().await?;
    refused!(client.lock_all(&[], &ctx.lock_options()).await, InvalidOptions);
    Ok(())
}

/// One of three is taken: when the wait is over, none of them is held.
async fn takes_all_or_none(ctx: Ctx) -> Verdict {
    let ([one, two], options) = (ctx.clients().await?, ctx.lock_options());
    let names = [ctx.fresh_name(), ctx.fresh_name(), ctx.fresh_name()];
    for (taken, wait) in
        names.iter().zip([Duration::ZERO, Duration::from_millis(50), Duration::from_millis(1)])
    {
        let guard = one.acquire(taken, &options).await?;
        refused!(two.lock_all(&names, &options.clone().with_wait(wait)).await, NotGranted);
        for name in names.iter().filter(|name| *name != taken) {
            ctx.soon("the release of what was taken", ctx.until_line(Kind::Lock, name, |h, w| h + w == 0))
                .await??;
        }
        let line = one.inspect(Kind::Lock, taken).await?;
        ensure!(line.waiters.is_empty(), "the one that was taken is still waited for");
        guard.release().await?;
    }
    Ok(())
}

/// Whatever the order given, names are taken in the order of names: who lacks the first holds none of the others.
async fn takes_them_in_one_order(ctx: Ctx) -> Verdict {
    let ([one, two], options) = (ctx.clients().await?, ctx.lock_options());
    let mut names = [ctx.fresh_name(), ctx.fresh_name(), ctx.fresh_name()];
    names.sort();
    let first = one.acquire(&names[0], &options).await?;
    let reversed: Vec<Name> = names.iter().rev().cloned().collect();
    let (client, opts) = (two.clone(), options.clone());
    let set = tokio::spawn(async move { client.lock_all(&reversed, &opts).await });
    ctx.until_waiting(&names[0], 1).await?;
    for name in &names[1..] {
        one.try_acquire(name, &options).await?.release().await?;
    }
    first.release().await?;
    let set = ctx.soon("the grant of the set", set).await???;
    let held: Vec<_> = set.guards().iter().map(|guard| guard.name()).collect();
    ensure!(held == names, "the guards are in the order {held:?}");
    set.release().await?;
    Ok(())
}

/// Clients lock overlapping sets in different orders, again and again, and all of them come to an end.
async fn crossing_sets_do_not_deadlock(ctx: Ctx) -> Verdict {
    let names = [ctx.fresh_name(), ctx.fresh_name(), ctx.fresh_name(), ctx.fresh_name()];
    for number in 0..4 {
        let (client, mut names, options) = (ctx.client().await?, names.to_vec(), ctx.lock_options());
        names.rotate_left(number);
        names.truncate(3);
        ctx.spawn(async move {
            for round in 0..6 {
                if round % 2 == 1 {
                    names.reverse();
                }
                let set = client.lock_all(&names, &options).await?;
                tokio::time::sleep(Duration::from_millis(1)).await;
                ensure!(set.is_held(), "a lease of ten seconds was lost");
                set.release().await?;
            }
            Ok(())
        });
    }
    Ok(())
}

/// The wait is one deadline for all, not one for each: the time spent on the first is missing for the second.
async fn has_one_deadline(ctx: Ctx) -> Verdict {
    let ([one, two], options) = (ctx.clients().await?, ctx.lock_options());
    let mut names = [ctx.fresh_name(), ctx.fresh_name()];
    names.sort();
    let (first, second) = (one.acquire(&names[0], &options).await?, one.acquire(&names[1], &options).await?);
    let (wait, start) = (Duration::from_secs(2), ctx.now());
    let client = two.clone();
    let (set, waiting) = (names.clone(), options.with_wait(wait));
    let outcome = tokio::spawn(async move { client.lock_all(&set, &waiting).await });
    ctx.until_waiting(&names[0], 1).await?;
    tokio::time::sleep(wait * 3 / 4).await;
    first.release().await?;
    let outcome = outcome.await?;
    let waited = ctx.now().since(start);
    refused!(outcome, NotGranted);
    // With a deadline for each it would be one and three quarters of the wait.
    ensure!(waited >= wait && waited < wait * 3 / 2, "it was to wait {wait:?} for all and took {waited:?}");
    second.release().await?;
    Ok(())
}

/// If one of the set is taken away, the set is lost, and `run` ends.
async fn is_lost_when_one_is_lost(ctx: Ctx) -> Verdict {
    let ([one, two], options) = (ctx.clients().await?, ctx.lock_options());
    let names = [ctx.fresh_name(), ctx.fresh_name(), ctx.fresh_name()];
    let set = one.lock_all(&names, &options).await?;
    two.force_release(Kind::Lock, &names[1], None).await?;
    let outcome = ctx.soon("the loss", set.run(std::future::pending::<()>())).await?;
    refused!(outcome, Lost);
    ctx.soon("the loss", set.lost()).await?;
    ensure!(!set.is_held() && set.valid_for().is_zero(), "the set is lost and held");
    refused!(set.release().await, Lost);
    for name in &names {
        ctx.soon("the release of the others", two.acquire(name, &options)).await??.release().await?;
    }
    Ok(())
}

/// Dropped while it waits for one of them, it lets go of the others.
async fn dropped_it_leaves_nothing(ctx: Ctx) -> Verdict {
    let ([one, two], options) = (ctx.clients().await?, ctx.lock_options());
    let mut names = [ctx.fresh_name(), ctx.fresh_name()];
    names.sort();
    let last = one.acquire(&names[1], &options).await?;
    let (client, set) = (two.clone(), names.clone());
    let waiting = tokio::spawn(async move { client.lock_all(&set, &options).await });
    ctx.until_waiting(&names[1], 1).await?;
    waiting.abort();
    ctx.soon("the release", ctx.until_line(Kind::Lock, &names[0], |h, w| h + w == 0)).await??;
    ctx.soon("leaving the line", ctx.until_waiting(&names[1], 0)).await??;
    last.release().await?;
    Ok(())
}
