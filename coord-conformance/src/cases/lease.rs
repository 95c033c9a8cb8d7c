//! Leases and guards: renewal, extension, loss, detaching.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use coord_core::{Detached, Inspect, Lock, Namespace, spi::Kind};

use super::cases;
use crate::{Ctx, Verdict, client::SAMPLE, ensure, refused};

cases! { "lease":
    is_renewed_for_as_long_as_it_is_held,
    a_plain_lease_ends_by_itself,
    the_next_is_let_in_when_a_plain_lease_ends,
    a_waiter_outlives_its_own_ttl,
    extend_prolongs_a_plain_lease,
    extend_changes_the_ttl_of_renewals,
    a_lost_guard_stays_lost,
    a_late_release_does_not_harm_the_next_holder,
    run_returns_what_the_work_returns,
    run_drops_the_work_on_loss,
    detached_and_resumed_elsewhere [Resume],
    resumed_exactly_once [Resume],
    a_resumed_lease_is_renewed [Resume],
    nobody_renews_a_detached_lease [Resume],
    a_namespace_keeps_what_was_detached_in_it [Resume],
    permits_can_be_resumed [Resume, Shared],
}

/// A guard outlives its TTL several times over, and nobody else is let in meanwhile.
async fn is_renewed_for_as_long_as_it_is_held(ctx: Ctx) -> Verdict {
    let ([one, two], name) = (ctx.clients().await?, ctx.fresh_name());
    let ttl = ctx.short_ttl() * 2;
    let guard = one.lock(&name, &ctx.lock_options().with_ttl(ttl)).await?;
    let end = ctx.now().after(ttl * 3);
    while ctx.now() < end {
        ensure!(guard.is_held(), "a lease that should be renewed was lost");
        refused!(two.try_acquire(&name, &ctx.lock_options()).await, NotGranted);
        tokio::time::sleep(ttl / 8).await;
    }
    guard.release().await?;
    two.try_acquire(&name, &ctx.lock_options()).await?.release().await?;
    Ok(())
}

/// Without renewal a lease is over after its TTL: the guard says so by itself.
async fn a_plain_lease_ends_by_itself(ctx: Ctx) -> Verdict {
    let (client, name, ttl) = (ctx.client().await?, ctx.fresh_name(), ctx.short_ttl());
    let start = ctx.now();
    let guard = client.lock(&name, &ctx.lock_options().with_ttl(ttl).without_renewal()).await?;
    ctx.soon("the loss", guard.lost()).await?;
    ensure!(!guard.is_held() && guard.guard().valid_for().is_zero(), "it is lost and held");
    let lived = ctx.now().since(start);
    ensure!(lived >= ttl / 2, "a lease of {ttl:?} ended after {lived:?}");
    refused!(guard.release().await, Lost);
    Ok(())
}

/// The next in line is let in when a plain lease ends, not before its guard says that it is lost.
async fn the_next_is_let_in_when_a_plain_lease_ends(ctx: Ctx) -> Verdict {
    let ([one, two], name) = (ctx.clients().await?, ctx.fresh_name());
    let plain = ctx.lock_options().with_ttl(ctx.short_ttl()).without_renewal();
    let first = one.lock(&name, &plain).await?;
    let second = two.lock_later(&name, &ctx.lock_options());
    first.watch(SAMPLE).await;
    let second = ctx.soon("the next grant", second).await???;
    ensure!(!first.is_held(), "both are held");
    ensure!(second.token() > first.token(), "token {} came after {}", second.token(), first.token());
    second.release().await?;
    Ok(())
}

/// One who waits for longer than its TTL keeps its place.
async fn a_waiter_outlives_its_own_ttl(ctx: Ctx) -> Verdict {
    let ([one, two, three], name) = (ctx.clients().await?, ctx.fresh_name());
    let (holder, ttl) = (one.lock(&name, &ctx.lock_options()).await?, ctx.short_ttl() * 2);
    let second = two.lock_later(&name, &ctx.lock_options().with_ttl(ttl));
    ctx.until_waiting(&name, 1).await?;
    let third = three.lock_later(&name, &ctx.lock_options());
    ctx.until_waiting(&name, 2).await?;
    tokio::time::sleep(ttl * 2).await;
    let line = one.inspect(Kind::Lock, &name).await?;
    let owners: Vec<_> = line.waiters.iter().map(|waiter| waiter.owner.as_str()).collect();
    ensure!(owners == [two.owner(), three.owner()], "the line changed: {owners:?}");
    holder.release().await?;
    let second = ctx.soon("the grant to the first in line", second).await???;
    ensure!(!third.is_finished(), "both are granted");
    second.release().await?;
    ctx.soon("the grant to the second in line", third).await???.release().await?;
    Ok(())
}

/// A plain lease that is extended lasts beyond its first TTL.
async fn extend_prolongs_a_plain_lease(ctx: Ctx) -> Verdict {
    let ([one, two], name, ttl) = (ctx.clients().await?, ctx.fresh_name(), ctx.short_ttl());
    let guard = one.lock(&name, &ctx.lock_options().with_ttl(ttl).without_renewal()).await?;
    guard.guard().extend(ctx.long_ttl()).await?;
    ensure!(guard.guard().valid_for() > ttl, "it still ends in {:?}", guard.guard().valid_for());
    tokio::time::sleep(ttl * 2).await;
    ensure!(guard.is_held(), "an extended lease ended with its first TTL");
    refused!(two.try_acquire(&name, &ctx.lock_options()).await, NotGranted);
    guard.release().await?;
    Ok(())
}

/// Extending a lease that is renewed changes how long it lasts from then on; a TTL that is not allowed changes nothing.
async fn extend_changes_the_ttl_of_renewals(ctx: Ctx) -> Verdict {
    let (client, name, ttl) = (ctx.client().await?, ctx.fresh_name(), ctx.short_ttl() * 2);
    let guard = client.acquire(&name, &ctx.lock_options()).await?;
    refused!(guard.extend(Duration::ZERO).await, InvalidTtl);
    refused!(guard.extend(Duration::MAX).await, InvalidTtl);
    ensure!(guard.is_held(), "a TTL that was refused ended the lease");
    guard.extend(ttl).await?;
    ensure!(guard.valid_for() <= ttl, "it lasts {:?} after it was cut to {ttl:?}", guard.valid_for());
    tokio::time::sleep(ttl * 2).await;
    ensure!(guard.is_held(), "it is not renewed with its new TTL");
    ensure!(guard.valid_for() <= ttl, "a renewal for {ttl:?} lasts {:?}", guard.valid_for());
    guard.release().await?;
    Ok(())
}

/// Nothing brings a lost guard back: not time, not an extension, not a free line.
async fn a_lost_guard_stays_lost(ctx: Ctx) -> Verdict {
    let (client, name) = (ctx.client().await?, ctx.fresh_name());
    let plain = ctx.lock_options().with_ttl(ctx.short_ttl()).without_renewal();
    let guard = client.lock(&name, &plain).await?;
    guard.lost().await;
    refused!(guard.guard().extend(ctx.long_ttl()).await, Lost);
    ensure!(!guard.is_held(), "an extension revived a lost guard");
    let worked = guard.guard().run(async {}).await;
    refused!(worked, Lost);
    let next = client.lock(&name, &ctx.lock_options()).await?;
    ensure!(!guard.is_held(), "the next grant revived a lost guard");
    refused!(guard.guard().extend(ctx.long_ttl()).await, Lost);
    ensure!(next.is_held(), "an extension of a lost guard harmed the next holder");
    next.release().await?;
    Ok(())
}

/// Releasing or dropping a guard that was lost leaves the next holder alone.
async fn a_late_release_does_not_harm_the_next_holder(ctx: Ctx) -> Verdict {
    let ([one, two, three], name) = (ctx.clients().await?, ctx.fresh_name());
    let plain = ctx.lock_options().with_ttl(ctx.short_ttl()).without_renewal();
    let first = one.lock(&name, &plain).await?;
    let second = two.lock(&name, &plain).await?;
    let third = three.lock(&name, &ctx.lock_options()).await?;
    refused!(first.release().await, Lost);
    drop(second);
    // Whatever the drop does in the background is done when its client is shut down.
    two.shutdown().await?;
    ensure!(third.is_held(), "a late release took the lock from the next holder");
    refused!(one.try_acquire(&name, &ctx.lock_options()).await, NotGranted);
    third.release().await?;
    Ok(())
}

/// `run` drives the work to its end and returns its result.
async fn run_returns_what_the_work_returns(ctx: Ctx) -> Verdict {
    let (client, name, ttl) = (ctx.client().await?, ctx.fresh_name(), ctx.short_ttl() * 2);
    let guard = client.acquire(&name, &ctx.lock_options().with_ttl(ttl)).await?;
    let work = async {
        tokio::time::sleep(ttl * 2).await;
        7
    };
    let result = guard.run(work).await?;
    ensure!(result == 7, "the work returned 7, run {result}");
    guard.release().await?;
    Ok(())
}

/// On loss `run` returns, and the work is dropped where it stands.
async fn run_drops_the_work_on_loss(ctx: Ctx) -> Verdict {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let (client, name) = (ctx.client().await?, ctx.fresh_name());
    let plain = ctx.lock_options().with_ttl(ctx.short_ttl()).without_renewal();
    let guard = client.acquire(&name, &plain).await?;
    let dropped = Arc::new(AtomicBool::new(false));
    let canary = Dropped(dropped.clone());
    let work = async move {
        let _canary = canary;
        std::future::pending::<()>().await;
    };
    let outcome = ctx.soon("the loss", guard.run(work)).await?;
    refused!(outcome, Lost);
    ensure!(dropped.load(Ordering::SeqCst), "the work goes on after the loss");
    Ok(())
}

/// A detached lock stays held, travels as text, and is resumed by another client with the same token.
async fn detached_and_resumed_elsewhere(ctx: Ctx) -> Verdict {
    let ([one, two, three], name) = (ctx.clients().await?, ctx.fresh_name());
    let guard = one.lock(&name, &ctx.lock_options().with_value(*b"kept")).await?;
    let token = guard.token();
    let text = guard.into_inner().detach().await?.to_string();
    refused!(three.try_acquire(&name, &ctx.lock_options()).await, NotGranted);
    let detached: Detached = text.parse()?;
    ensure!(detached.token() == token && *detached.name() == name, "the text says {detached:?}");
    let resumed = two.resume(&detached).await?;
    ensure!(resumed.token() == token, "token {token} became {}", resumed.token());
    ensure!(resumed.is_held() && resumed.name() == name, "the resumed guard is not held");
    refused!(three.try_acquire(&name, &ctx.lock_options()).await, NotGranted);
    let line = three.inspect(Kind::Lock, &name).await?;
    ensure!(line.holders[0].value == b"kept", "the value was lost: {line:?}");
    resumed.release().await?;
    let next = three.lock(&name, &ctx.lock_options()).await?;
    ensure!(next.token() > token, "token {} came after {token}", next.token());
    next.release().await?;
    Ok(())
}

/// Of several who resume at once exactly one succeeds, and nobody succeeds later.
async fn resumed_exactly_once(ctx: Ctx) -> Verdict {
    let (clients, name) = (ctx.clients::<6>().await?, ctx.fresh_name());
    let detached = clients[0].acquire(&name, &ctx.lock_options()).await?.detach().await?;
    let tries = clients[1..].iter().map(|client| client.resume(&detached));
    let mut resumed = Vec::new();
    for outcome in futures_util::future::join_all(tries).await {
        match outcome {
            Ok(guard) => resumed.push(guard),
            Err(error) => {
                refused!(Err::<(), _>(error), Lost);
            }
        }
    }
    ensure!(resumed.len() == 1, "{} clients resumed one lock", resumed.len());
    refused!(clients[0].resume(&detached).await, Lost);
    let guard = resumed.remove(0);
    ensure!(guard.is_held(), "a late resume took the lock away");
    guard.release().await?;
    refused!(clients[0].resume(&detached).await, Lost);
    Ok(())
}

/// What was renewed before is renewed again after it was resumed; a plain lease stays plain.
async fn a_resumed_lease_is_renewed(ctx: Ctx) -> Verdict {
    let ([one, two], ttl) = (ctx.clients().await?, ctx.short_ttl() * 2);
    let options = ctx.lock_options().with_ttl(ttl);
    let renewed = one.acquire(&ctx.fresh_name(), &options).await?.detach().await?;
    let renewed = two.resume(&renewed).await?;
    tokio::time::sleep(ttl * 2).await;
    ensure!(renewed.is_held(), "a resumed lease is not renewed");
    renewed.release().await?;
    let plain = one.acquire(&ctx.fresh_name(), &options.without_renewal()).await?.detach().await?;
    let plain = two.resume(&plain).await?;
    ctx.soon("the end of a plain lease", plain.lost()).await?;
    Ok(())
}

/// A detached lock that nobody resumes ends with its lease; then it is too late.
async fn nobody_renews_a_detached_lease(ctx: Ctx) -> Verdict {
    let ([one, two], name) = (ctx.clients().await?, ctx.fresh_name());
    let options = ctx.lock_options().with_ttl(ctx.short_ttl());
    let detached = one.acquire(&name, &options).await?.detach().await?;
    let next = two.lock(&name, &ctx.lock_options()).await?;
    ensure!(next.token() > detached.token(), "token {} came after {}", next.token(), detached.token());
    refused!(one.resume(&detached).await, Lost);
    ensure!(next.is_held(), "a late resume took the lock away");
    next.release().await?;
    Ok(())
}

/// A lock can be resumed in its own namespace only.
async fn a_namespace_keeps_what_was_detached_in_it(ctx: Ctx) -> Verdict {
    let (client, name) = (ctx.client().await?, ctx.fresh_name());
    let detached = client.acquire(&name, &ctx.lock_options()).await?.detach().await?;
    let elsewhere = client.with_namespace(Namespace::new("elsewhere")?);
    refused!(elsewhere.resume(&detached).await, InvalidOptions);
    client.resume(&detached).await?.release().await?;
    Ok(())
}

/// Permits and shared locks can be detached and resumed too, and keep what they take.
async fn permits_can_be_resumed(ctx: Ctx) -> Verdict {
    let ([one, two], name) = (ctx.clients().await?, ctx.fresh_name());
    let detached = one.permits(&name, 2, 3, &ctx.lock_options()).await?.into_inner().detach().await?;
    let resumed = two.resume(&detached).await?;
    let refusal = one.permits(&name, 2, 3, &ctx.lock_options().with_wait(Duration::ZERO)).await;
    refused!(refusal, NotGranted);
    resumed.release().await?;
    one.permits(&name, 3, 3, &ctx.lock_options()).await?.release().await?;
    Ok(())
}
