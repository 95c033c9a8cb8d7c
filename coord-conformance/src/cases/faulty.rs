//! Lost and false hints, delays, partitions, outages.

use std::{sync::Arc, time::Duration};

use coord_core::{
    CampaignOptions, Election, Inspect, Instance, Lock, LockOptions, RegisterOptions, Registry, spi::Kind,
};
use tokio::time::sleep;

use super::cases;
use crate::{
    Client, Ctx, Verdict,
    checkers::{progress::within, residue},
    client::SAMPLE,
    ensure,
    faults::{Faults, Faulty, Operation},
    history::line,
    refused,
};

cases! { "faulty":
    lost_hints_cost_latency_only,
    false_hints_grant_nothing,
    a_partition_past_the_lease_loses_it_first,
    a_partition_past_the_term_loses_it_first,
    a_partition_shorter_than_the_lease_loses_nothing,
    a_vanished_waiter_does_not_block_the_line,
    late_replies_prolong_nothing,
    slow_requests_keep_the_lease,
    an_answer_later_than_the_lease_is_no_grant,
    an_outage_is_told_and_leaves_nothing,
    an_evicted_holder_learns_without_hints,
    a_lost_registration_comes_back,
}

/// How long is certainly long enough where nothing but a bug makes it long.
const NEVER: Duration = Duration::from_secs(20);

/// A client behind faults.
pub(super) async fn faulty_client(ctx: &Ctx) -> Verdict<(Client, Arc<Faults>)> {
    let (stores, faults) = Faulty::over_all(ctx.stores().await?);
    Ok((ctx.client_with(stores)?, faults))
}

/// A TTL that is renewed in time on a busy machine, and ends within a case.
fn middle_ttl(ctx: &Ctx) -> Duration {
    ctx.short_ttl().max(Duration::from_secs(1))
}

/// Without hints a waiter is still granted: after a release, and after a holder's lease ended.
async fn lost_hints_cost_latency_only(ctx: Ctx) -> Verdict {
    let (onlooker, name) = (ctx.client().await?, ctx.fresh_name());
    let options = LockOptions::default().with_ttl(middle_ttl(&ctx));
    let (waiter, deaf) = faulty_client(&ctx).await?;
    deaf.lose_hints(true);
    let guard = onlooker.lock(&name, &options).await?;
    let waiting = waiter.lock_later(&name, &options);
    ctx.until_waiting(&name, 1).await?;
    guard.release().await?;
    let guard = within(NEVER, "a grant after a release, without hints", waiting).await???;
    guard.release().await?;

    let (dying, cut) = faulty_client(&ctx).await?;
    let doomed = dying.lock(&name, &options).await?;
    let waiting = waiter.lock_later(&name, &options);
    ctx.until_waiting(&name, 1).await?;
    cut.partition(true);
    let guard = within(NEVER, "a grant after the end of a lease, without hints", waiting).await???;
    ensure!(!doomed.is_held(), "the holder that was cut off says that it is held");
    cut.partition(false);
    guard.release().await?;
    Ok(())
}

/// Hints that nothing caused make waiters look, and grant nothing.
async fn false_hints_grant_nothing(ctx: Ctx) -> Verdict {
    let (holder, name) = (ctx.client().await?, ctx.fresh_name());
    let options = ctx.lock_options();
    let guard = holder.lock(&name, &options).await?;
    let mut waiting = Vec::new();
    for number in 0..3 {
        let (waiter, faults) = faulty_client(&ctx).await?;
        faults.false_hints(Some(Duration::from_millis(20)));
        waiting.push(waiter.lock_later(&name, &options));
        within(NEVER, "a waiter in the line", ctx.until_waiting(&name, number + 1)).await??;
    }
    for _ in 0..40 {
        sleep(SAMPLE).await;
        ensure!(guard.is_held(), "the holder lost its lock");
    }
    ensure!(!waiting.iter().any(|waiting| waiting.is_finished()), "a false hint ended a wait");
    guard.release().await?;
    for waiting in waiting {
        let guard = within(NEVER, "a turn", waiting).await???;
        sleep(SAMPLE).await;
        ensure!(guard.is_held(), "a fresh guard is not held");
        guard.release().await?;
    }
    Ok(())
}

/// A holder that is cut off for longer than its lease says that it is lost before anybody else is granted, with the
/// network still down.
async fn a_partition_past_the_lease_loses_it_first(ctx: Ctx) -> Verdict {
    let (other, name) = (ctx.client().await?, ctx.fresh_name());
    let options = LockOptions::default().with_ttl(ctx.short_ttl());
    let (client, faults) = faulty_client(&ctx).await?;
    let guard = Arc::new(client.lock(&name, &options).await?);
    let next = other.lock_later(&name, &ctx.lock_options());
    ctx.until_waiting(&name, 1).await?;
    faults.partition(true);
    let watched = guard.clone();
    let lost = tokio::spawn(async move { tokio::join!(watched.lost(), watched.watch(SAMPLE)) });
    let successor = within(NEVER, "a grant after the lease", next).await???;
    ensure!(!guard.is_held(), "the holder that was cut off says that it is held");
    // On a paused clock nobody is told late.
    ensure!(lost.is_finished() || !ctx.backend().virtual_time(), "the loss was told after the next grant");
    within(NEVER, "the notice of loss", lost).await??;
    faults.partition(false);
    ensure!(!guard.is_held(), "the guard came back with the network");
    ensure!(successor.is_held(), "the successor lost its lock to a holder that came back");
    let token = guard.token();
    ensure!(token < successor.token(), "token {} came after {token}", successor.token());
    let guard = Arc::into_inner(guard).ok_or_else(|| crate::Failure::new("the guard is still shared"))?;
    refused!(guard.release().await, Lost);
    successor.release().await?;
    client.lock(&name, &options).await?.release().await?;
    Ok(())
}

/// The same for leaderships.
async fn a_partition_past_the_term_loses_it_first(ctx: Ctx) -> Verdict {
    let (other, name) = (ctx.client().await?, ctx.fresh_name());
    let options = CampaignOptions::default().with_ttl(ctx.short_ttl());
    let (client, faults) = faulty_client(&ctx).await?;
    let leader = client.lead(&name, &options).await?;
    let next = other.lead_later(&name, &ctx.campaign_options());
    ctx.until_line(Kind::Election, &name, |_, waiting| waiting == 1).await?;
    faults.partition(true);
    let (successor, ()) = tokio::join!(within(NEVER, "the next leader", next), leader.watch(SAMPLE));
    let successor = successor???;
    ensure!(successor.token() > leader.token(), "terms do not grow");
    faults.partition(false);
    ensure!(!leader.is_held(), "the leader came back with the network");
    let elected = other.leader(&name).await?.map(|leader| leader.term);
    ensure!(elected == Some(successor.token()), "the leader is of term {elected:?}");
    successor.release().await?;
    Ok(())
}

/// One that vanishes while it waits holds nobody up for longer than its lease.
async fn a_vanished_waiter_does_not_block_the_line(ctx: Ctx) -> Verdict {
    let ([holder, next], name) = (ctx.clients().await?, ctx.fresh_name());
    let (client, faults) = faulty_client(&ctx).await?;
    let guard = holder.lock(&name, &ctx.lock_options()).await?;
    let vanishing = client.lock_later(&name, &LockOptions::default().with_ttl(ctx.short_ttl()));
    ctx.until_waiting(&name, 1).await?;
    let next = next.lock_later(&name, &ctx.lock_options());
    ctx.until_waiting(&name, 2).await?;
    faults.partition(true);
    guard.release().await?;
    let guard = within(NEVER, "a grant past the vanished", next).await???;
    faults.partition(false);
    guard.release().await?;
    // It was told of the outage, or had its turn after all.
    if let Ok(guard) = within(NEVER, "the end of the wait", vanishing).await?? {
        guard.release().await?;
    }
    Ok(())
}

/// One that is cut off for less than its lease keeps it, whatever happens to single renewals.
async fn a_partition_shorter_than_the_lease_loses_nothing(ctx: Ctx) -> Verdict {
    let name = ctx.fresh_name();
    let ttl = ctx.short_ttl().max(Duration::from_secs(3));
    let (client, faults) = faulty_client(&ctx).await?;
    let guard = client.lock(&name, &LockOptions::default().with_ttl(ttl)).await?;
    // Two periods of renewal, of which the first attempts fail.
    sleep(ttl / 4).await;
    faults.partition(true);
    sleep(ttl / 4).await;
    faults.partition(false);
    for _ in 0..8 {
        sleep(ttl / 8).await;
        ensure!(guard.is_held(), "it was lost, though it was cut off for a quarter of its lease only");
    }
    ensure!(faults.count(Operation::Renew) > 1, "no renewal was tried again");
    guard.release().await?;
    Ok(())
}

/// A lease runs from the request: however late the reply to a renewal comes, the guard is lost before the store gives
/// the lock away.
async fn late_replies_prolong_nothing(ctx: Ctx) -> Verdict {
    let (other, name) = (ctx.client().await?, ctx.fresh_name());
    let ttl = middle_ttl(&ctx);
    let late = ttl / 4;
    let (client, faults) = faulty_client(&ctx).await?;
    let guard = client.lock(&name, &LockOptions::default().with_ttl(ttl)).await?;
    let next = other.lock_later(&name, &ctx.lock_options());
    ctx.until_waiting(&name, 1).await?;
    faults.delay_replies(late);
    let sent = faults.count(Operation::Renew);
    let renewed = ctx.until(async || Ok((faults.count(Operation::Renew) > sent).then_some(())));
    within(NEVER, "a renewal", renewed).await??;
    // Its reply is the last thing that the holder hears.
    sleep(late + SAMPLE).await;
    faults.partition(true);
    let (successor, ()) = tokio::join!(within(NEVER, "a grant after the lease", next), guard.watch(SAMPLE));
    let successor = successor???;
    faults.heal();
    successor.release().await?;
    Ok(())
}

/// A slow way to the store costs no lease, as long as it is faster than the renewals need.
async fn slow_requests_keep_the_lease(ctx: Ctx) -> Verdict {
    let name = ctx.fresh_name();
    let ttl = ctx.short_ttl().max(Duration::from_secs(3));
    let (client, faults) = faulty_client(&ctx).await?;
    faults.delay_requests(ttl / 20);
    faults.delay_replies(ttl / 20);
    let guard = client.lock(&name, &LockOptions::default().with_ttl(ttl)).await?;
    for _ in 0..12 {
        sleep(ttl / 8).await;
        ensure!(guard.is_held(), "it was lost on a way that takes a tenth of its lease");
    }
    guard.release().await?;
    Ok(())
}

/// A grant whose answer comes after its lease is no grant. The attempt goes on, and its guard is valid when it comes.
async fn an_answer_later_than_the_lease_is_no_grant(ctx: Ctx) -> Verdict {
    let (other, name) = (ctx.client().await?, ctx.fresh_name());
    let ttl = ctx.short_ttl();
    let (client, faults) = faulty_client(&ctx).await?;
    faults.delay_replies(ttl * 2);
    let late = client.lock_later(&name, &LockOptions::default().with_ttl(ttl));
    let asked = ctx.until_line(Kind::Lock, &name, |holding, _| holding == 1);
    within(NEVER, "a grant in the store", asked).await??;
    faults.delay_replies(Duration::ZERO);
    let guard = within(NEVER, "a turn after the late one", other.lock(&name, &ctx.lock_options())).await??;
    for _ in 0..4 {
        sleep(ttl).await;
        ensure!(guard.is_held() && !late.is_finished(), "an answer that was too late took the lock away");
    }
    guard.release().await?;
    let guard = within(NEVER, "a turn of the late one", late).await???;
    guard.release().await?;
    Ok(())
}

/// A store that is away is told to the caller, and what was asked for in vain does not come about later.
async fn an_outage_is_told_and_leaves_nothing(ctx: Ctx) -> Verdict {
    let (other, name) = (ctx.client().await?, ctx.fresh_name());
    let (client, faults) = faulty_client(&ctx).await?;
    faults.partition(true);
    let told = within(NEVER, "word of the outage", client.acquire(&name, &ctx.lock_options())).await?;
    let error = refused!(told, Unavailable);
    ensure!(error.is_retryable(), "it does not say that one may try again: {error:?}");
    faults.partition(false);
    let line = line(Kind::Lock, &name);
    residue::empty(&*ctx.claims().await?, &line).await?;
    other.try_acquire(&name, &ctx.lock_options()).await?.release().await?;
    client.try_acquire(&name, &ctx.lock_options()).await?.release().await?;
    Ok(())
}

/// One that was thrown out by force and hears no hint says so after its next renewal at the latest.
async fn an_evicted_holder_learns_without_hints(ctx: Ctx) -> Verdict {
    let (other, name) = (ctx.client().await?, ctx.fresh_name());
    let (client, faults) = faulty_client(&ctx).await?;
    faults.lose_hints(true);
    let guard = client.acquire(&name, &LockOptions::default().with_ttl(middle_ttl(&ctx))).await?;
    let evicted = other.force_release(Kind::Lock, &name, None).await?;
    ensure!(evicted.is_some_and(|evicted| evicted.fence > guard.token()), "nobody was evicted");
    within(NEVER, "the notice of loss", guard.lost()).await?;
    ensure!(!guard.is_held(), "the notice of loss came, and it says that it is held");
    Ok(())
}

/// A registration whose session was lost registers again by itself, with a greater token, when the network is back.
async fn a_lost_registration_comes_back(ctx: Ctx) -> Verdict {
    let (other, service) = (ctx.client().await?, ctx.fresh_name());
    let (client, faults) = faulty_client(&ctx).await?;
    let options = RegisterOptions::default().with_ttl(ctx.short_ttl());
    let mut registration = client.register(&service, Instance::new("i", "host:1"), &options).await?;
    let first = registration.token();
    faults.partition(true);
    within(NEVER, "the loss", registration.changed()).await?;
    ensure!(!registration.is_listed(), "it says that it is listed while it is cut off");
    let gone = ctx.until(async || Ok(other.instances(&service).await?.is_empty().then_some(())));
    within(NEVER, "the end of the listing", gone).await??;
    faults.partition(false);
    while !registration.is_listed() {
        within(NEVER, "a new registration", registration.changed()).await?;
    }
    let listed = other.instances(&service).await?;
    ensure!(
        listed.len() == 1 && listed[0].token >= registration.token() && registration.token() > first,
        "{listed:?} is listed after {first}"
    );
    registration.deregister().await?;
    ensure!(other.instances(&service).await?.is_empty(), "it is still listed");
    Ok(())
}
