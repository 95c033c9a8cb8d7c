//! Exclusive locks: acquire, try, wait, release.

use std::time::Duration;

use coord_core::{ErrorKind, Inspect, Lock, LockOptions, spi::Kind};

use super::cases;
use crate::{Ctx, Verdict, ensure, history::Ask, refused};

cases! { "lock":
    is_exclusive,
    try_acquire_does_not_wait,
    a_refused_try_leaves_no_claim,
    zero_wait_is_a_try,
    the_wait_ends_and_leaves_the_line,
    first_in_first_out,
    one_that_gives_up_makes_room,
    release_lets_the_next_in_at_once,
    drop_lets_the_next_in_at_once,
    tokens_grow_over_release_and_drop,
    tokens_grow_over_expiry,
    is_not_reentrant,
    names_do_not_interfere,
    the_value_and_the_owner_are_shown,
    many_clients_take_turns,
}

/// Of two clients one holds; the other one is granted after the release, with a greater token.
async fn is_exclusive(ctx: Ctx) -> Verdict {
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.lock_options());
    let first = one.lock(&name, &options).await?;
    ensure!(first.is_held(), "a fresh guard is not held");
    ensure!(first.guard().name() == name, "the guard has another name: {}", first.guard().name());
    let left = first.guard().valid_for();
    ensure!(left <= options.ttl && !left.is_zero(), "a fresh lease of {:?} lasts {left:?}", options.ttl);
    let waiting = two.lock_later(&name, &options);
    ctx.until_waiting(&name, 1).await?;
    ensure!(first.is_held() && !waiting.is_finished(), "two clients hold one lock");
    let token = first.token();
    first.release().await?;
    let second = waiting.await??;
    ensure!(second.token() > token, "token {} came after {token}", second.token());
    second.release().await?;
    Ok(())
}

/// A try says at once that the lock is held, and by whom.
async fn try_acquire_does_not_wait(ctx: Ctx) -> Verdict {
    let ([one, two], name) = (ctx.clients().await?, ctx.fresh_name());
    let options = ctx.lock_options().with_owner("the holder");
    let guard = one.try_acquire(&name, &options).await?;
    let refusal = ctx.soon("a refusal", two.try_acquire(&name, &options)).await?;
    let text = refused!(refusal, NotGranted).to_string();
    let token = guard.token().to_string();
    ensure!(text.contains("the holder") && text.contains(&token), "it does not say who holds: {text}");
    guard.release().await?;
    two.try_acquire(&name, &options).await?.release().await?;
    Ok(())
}

/// A try that was refused is not in the line, and takes nothing when the lock becomes free.
async fn a_refused_try_leaves_no_claim(ctx: Ctx) -> Verdict {
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.lock_options());
    let guard = one.lock(&name, &options).await?;
    refused!(two.try_acquire(&name, &options).await, NotGranted);
    let line = one.inspect(Kind::Lock, &name).await?;
    ensure!(line.waiters.is_empty() && line.holders.len() == 1, "a refused try waits: {line:?}");
    guard.release().await?;
    let line = one.inspect(Kind::Lock, &name).await?;
    ensure!(line.holders.is_empty() && line.waiters.is_empty(), "a released lock has a line: {line:?}");
    Ok(())
}

/// `acquire` with a wait of zero is `try_acquire`.
async fn zero_wait_is_a_try(ctx: Ctx) -> Verdict {
    let ([one, two], name) = (ctx.clients().await?, ctx.fresh_name());
    let options = ctx.lock_options().with_wait(Duration::ZERO);
    let guard = one.acquire(&name, &options).await?;
    let refusal = ctx.soon("a refusal", two.acquire(&name, &options)).await?;
    refused!(refusal, NotGranted);
    guard.release().await?;
    two.acquire(&name, &options).await?.release().await?;
    Ok(())
}

/// When the wait is over the caller is told so, not before, and its claim is gone.
async fn the_wait_ends_and_leaves_the_line(ctx: Ctx) -> Verdict {
    let ([one, two], name) = (ctx.clients().await?, ctx.fresh_name());
    let guard = one.lock(&name, &ctx.lock_options()).await?;
    let (wait, start) = (Duration::from_millis(300), ctx.now());
    let outcome =
        ctx.soon("the end of a wait", two.acquire(&name, &ctx.lock_options().with_wait(wait))).await?;
    refused!(outcome, NotGranted);
    let waited = ctx.now().since(start);
    ensure!(waited >= wait, "it was to wait {wait:?} and gave up after {waited:?}");
    ctx.soon("leaving the line", ctx.until_line(Kind::Lock, &name, |_, waiting| waiting == 0)).await??;
    guard.release().await?;
    two.try_acquire(&name, &ctx.lock_options()).await?.release().await?;
    Ok(())
}

/// Five clients join one after the other and are granted in that order, with growing tokens.
async fn first_in_first_out(ctx: Ctx) -> Verdict {
    let (name, options) = (ctx.fresh_name(), ctx.lock_options());
    let holder = ctx.client().await?.lock(&name, &options).await?;
    let (granted, mut order) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..5_usize {
        let client = ctx.client().await?;
        let attempt = client.attempt(Kind::Lock, &name, Ask::lock());
        let (its_attempt, its_name, options, granted) =
            (attempt.clone(), name.clone(), options.clone(), granted.clone());
        ctx.spawn(async move {
            let guard = its_attempt.acquire(client.acquire(&its_name, &options)).await?;
            let _ = granted.send((number, guard.token()));
            tokio::time::sleep(Duration::from_millis(5)).await;
            guard.release().await?;
            Ok(())
        });
        ctx.until_waiting(&name, number + 1).await?;
        attempt.queued();
    }
    drop(granted);
    let mut last = holder.token();
    holder.release().await?;
    for expected in 0..5 {
        let next = ctx.soon("the next grant", order.recv()).await?;
        let Some((number, token)) = next else {
            return Err(crate::Failure::new(format!("client {expected} was never granted")));
        };
        ensure!(number == expected, "client {number} was granted when it was the turn of {expected}");
        ensure!(token > last, "token {token} was granted after {last}");
        last = token;
    }
    Ok(())
}

/// One in the middle of the line gives up; the one behind it is granted when the holder leaves.
async fn one_that_gives_up_makes_room(ctx: Ctx) -> Verdict {
    let ([one, two, three], name) = (ctx.clients().await?, ctx.fresh_name());
    let options = ctx.lock_options();
    let holder = one.lock(&name, &options).await?;
    let second = two.lock_later(&name, &options);
    ctx.until_waiting(&name, 1).await?;
    let third = three.lock_later(&name, &options);
    ctx.until_waiting(&name, 2).await?;
    second.abort();
    ctx.soon("leaving the line", ctx.until_waiting(&name, 1)).await??;
    holder.release().await?;
    ctx.soon("the grant to the one behind", third).await???.release().await?;
    Ok(())
}

/// A release is heard of by the next in line, long before any lease ends.
async fn release_lets_the_next_in_at_once(ctx: Ctx) -> Verdict {
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.lock_options());
    let first = one.lock(&name, &options).await?;
    let second = two.lock_later(&name, &options);
    ctx.until_waiting(&name, 1).await?;
    first.release().await?;
    ctx.soon("the next grant", second).await???.release().await?;
    Ok(())
}

/// So is the drop of a guard.
async fn drop_lets_the_next_in_at_once(ctx: Ctx) -> Verdict {
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.lock_options());
    let first = one.lock(&name, &options).await?;
    let second = two.lock_later(&name, &options);
    ctx.until_waiting(&name, 1).await?;
    drop(first);
    ctx.soon("the next grant", second).await???.release().await?;
    Ok(())
}

/// Tokens grow whoever acquires, and however the lock became free.
async fn tokens_grow_over_release_and_drop(ctx: Ctx) -> Verdict {
    let (clients, name, options) = (ctx.clients::<3>().await?, ctx.fresh_name(), ctx.lock_options());
    let mut last = None;
    for round in 0..30 {
        let guard = clients[round % 3].lock(&name, &options).await?;
        ensure!(Some(guard.token()) > last, "token {} came after {last:?}", guard.token());
        last = Some(guard.token());
        if round % 2 == 0 {
            guard.release().await?;
        }
    }
    Ok(())
}

/// They also grow when leases end and the line was empty in between.
async fn tokens_grow_over_expiry(ctx: Ctx) -> Verdict {
    let ([one, two], name) = (ctx.clients().await?, ctx.fresh_name());
    let options = ctx.lock_options().with_ttl(ctx.short_ttl()).without_renewal();
    let mut last = None;
    for _ in 0..3 {
        for client in [&one, &two] {
            let guard = client.lock(&name, &options).await?;
            ensure!(Some(guard.token()) > last, "token {} came after {last:?}", guard.token());
            last = Some(guard.token());
            guard.lost().await;
            // Its own view ends before the store's. Wait for that too, so that the line is empty.
            ctx.until_line(Kind::Lock, &name, |holding, _| holding == 0).await?;
        }
    }
    Ok(())
}

/// A holder that asks again waits like anybody else.
async fn is_not_reentrant(ctx: Ctx) -> Verdict {
    let (client, name, options) = (ctx.client().await?, ctx.fresh_name(), ctx.lock_options());
    let guard = client.lock(&name, &options).await?;
    refused!(client.try_acquire(&name, &options).await, NotGranted);
    let again = client.lock_later(&name, &options);
    ctx.until_waiting(&name, 1).await?;
    guard.release().await?;
    ctx.soon("the second grant", again).await???.release().await?;
    Ok(())
}

/// One client holds many names at once, and releasing one leaves the others.
async fn names_do_not_interfere(ctx: Ctx) -> Verdict {
    let ([one, two], options) = (ctx.clients().await?, ctx.lock_options());
    let mut guards = Vec::new();
    for _ in 0..10 {
        guards.push(one.lock(&ctx.fresh_name(), &options).await?);
    }
    let first = guards.remove(0);
    let free = first.guard().name();
    first.release().await?;
    two.try_acquire(&free, &options).await?.release().await?;
    for guard in guards {
        ensure!(guard.is_held(), "{} was lost", guard.guard().name());
        refused!(two.try_acquire(&guard.guard().name(), &options).await, NotGranted);
        guard.release().await?;
    }
    Ok(())
}

/// Others see the value and the owner of the holder and of those who wait; without one the client's own owner text.
async fn the_value_and_the_owner_are_shown(ctx: Ctx) -> Verdict {
    let ([one, two], name) = (ctx.clients().await?, ctx.fresh_name());
    let (value, shown) = (vec![0, 255, b'\'', b'"', b'\\', 0], ctx.lock_options());
    let guard = one.lock(&name, &shown.clone().with_value(value.clone()).with_owner("Zoë's 🦀 %s")).await?;
    let waiting = two.lock_later(&name, &shown.with_value(*b"waits"));
    ctx.until_waiting(&name, 1).await?;
    let line = two.inspect(Kind::Lock, &name).await?;
    let (holder, waiter) = (&line.holders[0], &line.waiters[0]);
    ensure!(holder.owner == "Zoë's 🦀 %s", "the holder is shown as {:?}", holder.owner);
    ensure!(holder.value == value, "the value {value:?} is shown as {:?}", holder.value);
    ensure!(holder.token == guard.token(), "the token {} is shown as {}", guard.token(), holder.token);
    ensure!(waiter.owner == two.owner(), "{:?} is shown as {:?}", two.owner(), waiter.owner);
    ensure!(waiter.value == b"waits", "the waiter's value is shown as {:?}", waiter.value);
    guard.release().await?;
    waiting.await??.release().await?;
    Ok(())
}

/// Six clients contend in many rounds, some with tries and short waits; the checkers judge tokens and intervals.
async fn many_clients_take_turns(ctx: Ctx) -> Verdict {
    let name = ctx.fresh_name();
    for number in 0..6_u64 {
        let (client, name, options) = (ctx.client().await?, name.clone(), ctx.lock_options());
        ctx.spawn(async move {
            let mut random = fastrand::Rng::with_seed(number);
            for _ in 0..10 {
                let wait = Duration::from_millis(random.u64(0..40));
                let options: LockOptions =
                    if random.bool() { options.clone() } else { options.clone().with_wait(wait) };
                match client.lock(&name, &options).await {
                    Ok(guard) => {
                        tokio::time::sleep(Duration::from_millis(random.u64(0..4))).await;
                        ensure!(guard.is_held(), "a lease of ten seconds was lost");
                        guard.release().await?;
                    }
                    Err(error) => {
                        ensure!(error.kind() == ErrorKind::NotGranted, "{error:?}");
                    }
                }
            }
            Ok(())
        });
    }
    Ok(())
}
