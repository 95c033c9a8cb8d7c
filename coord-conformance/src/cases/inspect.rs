//! Looking at a line, and breaking the glass.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use coord_core::{ErrorKind, Fence, FenceGate, FencingToken, Inspect, Lock, Name, Result, spi::Kind};

use super::cases;
use crate::{
    Client, Ctx, Verdict, ensure,
    history::{Op, object},
    refused,
};

cases! { "inspect":
    an_unknown_name_is_empty,
    waiters_are_shown_in_their_order,
    a_lease_is_shown_with_its_rest,
    force_release_of_nothing,
    force_release_fences_out_and_lets_the_next_in,
    the_fence_is_raised_before_the_claim_leaves,
    a_fence_that_fails_keeps_the_holder,
    force_release_evicts_all_readers_and_no_waiter [Shared],
}

/// Nobody ever used the name.
async fn an_unknown_name_is_empty(ctx: Ctx) -> Verdict {
    let client = ctx.client().await?;
    for kind in Kind::ALL {
        let line = client.inspect(kind, &ctx.fresh_name()).await?;
        ensure!(line.holders.is_empty() && line.waiters.is_empty(), "{kind}: {line:?}");
    }
    Ok(())
}

/// The first in line is shown first, and everybody moves up when one leaves.
async fn waiters_are_shown_in_their_order(ctx: Ctx) -> Verdict {
    let (clients, name, options) = (ctx.clients::<4>().await?, ctx.fresh_name(), ctx.lock_options());
    let holder = clients[0].lock(&name, &options).await?;
    let mut waiting = Vec::new();
    for (number, client) in clients[1..].iter().enumerate() {
        waiting.push(client.lock_later(&name, &options));
        ctx.until_waiting(&name, number + 1).await?;
    }
    let line = clients[3].inspect(Kind::Lock, &name).await?;
    let owners: Vec<_> = line.waiters.iter().map(|waiter| waiter.owner.as_str()).collect();
    let expected: Vec<_> = clients[1..].iter().map(|client| client.owner()).collect();
    ensure!(owners == expected, "{expected:?} wait and are shown as {owners:?}");
    let tokens: Vec<_> = line.holders.iter().chain(&line.waiters).map(|party| party.token).collect();
    ensure!(tokens.is_sorted_by(|a, b| a < b), "the tokens in the line are {tokens:?}");
    ensure!(line.holders[0].owner == clients[0].owner(), "the holder is shown as {line:?}");
    waiting.remove(0).abort();
    ctx.until_waiting(&name, 2).await?;
    let line = clients[0].inspect(Kind::Lock, &name).await?;
    ensure!(line.waiters[0].owner == clients[2].owner(), "nobody moved up: {line:?}");
    holder.release().await?;
    for next in waiting {
        ctx.soon("the next grant", next).await???.release().await?;
    }
    Ok(())
}

/// The rest of the lease, and since when it is held.
async fn a_lease_is_shown_with_its_rest(ctx: Ctx) -> Verdict {
    let (client, name, options) = (ctx.client().await?, ctx.fresh_name(), ctx.lock_options());
    let before = coord_core::clock::wall();
    let guard = client.lock(&name, &options.clone().without_renewal()).await?;
    let first = client.inspect(Kind::Lock, &name).await?.holders.remove(0);
    // The store's wall clock is this host's in every test; a minute is for coarse clocks.
    let minute = std::time::Duration::from_secs(60);
    ensure!(first.since + minute > before && first.since < coord_core::clock::wall() + minute, "{first:?}");
    ensure!(first.expires_in <= options.ttl && !first.expires_in.is_zero(), "{first:?}");
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let second = client.inspect(Kind::Lock, &name).await?.holders.remove(0);
    ensure!(second.expires_in < first.expires_in, "{:?}, later {:?}", first.expires_in, second.expires_in);
    ensure!(
        second.since == first.since,
        "it is held since {:?}, later since {:?}",
        first.since,
        second.since
    );
    guard.release().await?;
    Ok(())
}

/// Nobody holds it.
async fn force_release_of_nothing(ctx: Ctx) -> Verdict {
    let (client, name, gate) = (ctx.client().await?, ctx.fresh_name(), FenceGate::new());
    let evicted = client.force_release(Kind::Lock, &name, Some(&gate)).await?;
    ensure!(evicted.is_none(), "nobody held it, and it evicted {evicted:?}");
    gate.admit(FencingToken::MIN)?;
    Ok(())
}

/// The holder is told, its writes are refused from then on, and the next in line is granted and may write.
async fn force_release_fences_out_and_lets_the_next_in(ctx: Ctx) -> Verdict {
    let ([one, two, admin], name) = (ctx.clients().await?, ctx.fresh_name());
    let (options, gate) = (ctx.lock_options(), FenceGate::new());
    let holder = one.lock(&name, &options).await?;
    gate.admit(holder.token())?;
    let next = two.lock_later(&name, &options);
    ctx.until_waiting(&name, 1).await?;
    let evicted = evict(&admin, &name, Some(&gate)).await?;
    let Some(evicted) = evicted else { return Err(crate::Failure::new("it evicted nobody")) };
    ensure!(evicted.holders.len() == 1 && evicted.holders[0].token == holder.token(), "{evicted:?}");
    ensure!(
        evicted.fence > holder.token(),
        "the mark {} does not fence {} out",
        evicted.fence,
        holder.token()
    );
    ensure!(gate.admit(holder.token()).is_err(), "a write of the evicted holder was accepted");
    ctx.soon("telling the holder", holder.lost()).await?;
    ensure!(!holder.is_held(), "it is lost and held");
    let next = ctx.soon("the next grant", next).await???;
    ensure!(next.token() >= evicted.fence, "the mark {} fences the next holder out", evicted.fence);
    gate.admit(next.token())?;
    refused!(holder.release().await, Lost);
    ensure!(next.is_held(), "the evicted holder's release took the lock from the next one");
    next.release().await?;
    Ok(())
}

/// `force_release`, recorded.
async fn evict(
    admin: &Client,
    name: &Name,
    fence: Option<&dyn Fence>,
) -> Result<Option<coord_core::Evicted>> {
    let op = |evicted: Option<&Option<coord_core::Evicted>>| {
        let holders = evicted.into_iter().flatten().flat_map(|evicted| &evicted.holders);
        Op::Evict { tokens: holders.map(|holder| holder.token.get()).collect() }
    };
    let force = admin.force_release(Kind::Lock, name, fence);
    admin.recorder().call(&object(Kind::Lock, name), force, op).await
}

/// A fence that looks at the line in the moment in which it is raised.
struct Onlooker {
    client: Client,
    name: Name,
    holds: AtomicBool,
    outcome: Result<(), ErrorKind>,
}

#[async_trait]
impl Fence for Onlooker {
    async fn fence(&self, _: FencingToken) -> Result<()> {
        let line = self.client.inspect(Kind::Lock, &self.name).await?;
        self.holds.store(line.holders.len() == 1, Ordering::SeqCst);
        self.outcome.map_err(|kind| coord_core::Error::new(kind, "the resource says no"))
    }
}

/// When the fence is raised the holder is still in the line: nobody else can be in before the mark is up.
async fn the_fence_is_raised_before_the_claim_leaves(ctx: Ctx) -> Verdict {
    let ([one, admin], name) = (ctx.clients().await?, ctx.fresh_name());
    let holder = one.lock(&name, &ctx.lock_options()).await?;
    let fence =
        Onlooker { client: one.clone(), name: name.clone(), holds: AtomicBool::default(), outcome: Ok(()) };
    evict(&admin, &name, Some(&fence)).await?;
    ensure!(fence.holds.load(Ordering::SeqCst), "the claim had left before the fence was raised");
    ctx.soon("telling the holder", holder.lost()).await?;
    Ok(())
}

/// If the fence cannot be raised nobody is evicted.
async fn a_fence_that_fails_keeps_the_holder(ctx: Ctx) -> Verdict {
    let ([one, admin], name) = (ctx.clients().await?, ctx.fresh_name());
    let holder = one.lock(&name, &ctx.lock_options()).await?;
    let outcome = Err(ErrorKind::Fenced);
    let fence = Onlooker { client: one.clone(), name: name.clone(), holds: AtomicBool::default(), outcome };
    refused!(admin.force_release(Kind::Lock, &name, Some(&fence)).await, Fenced);
    holder.guard().extend(ctx.long_ttl()).await?;
    ensure!(holder.is_held(), "the holder was evicted though the fence was not raised");
    refused!(admin.try_acquire(&name, &ctx.lock_options()).await, NotGranted);
    holder.release().await?;
    Ok(())
}

/// All who hold together are evicted together; who waits stays.
async fn force_release_evicts_all_readers_and_no_waiter(ctx: Ctx) -> Verdict {
    let ([one, two, three, admin], name) = (ctx.clients().await?, ctx.fresh_name());
    let (options, gate) = (ctx.lock_options(), FenceGate::new());
    let readers = [one.share(&name, &options).await?, two.share(&name, &options).await?];
    let writer = three.lock_later(&name, &options);
    ctx.until_waiting(&name, 1).await?;
    let evicted = evict(&admin, &name, Some(&gate)).await?;
    let evicted = evicted.map_or(0, |evicted| evicted.holders.len());
    ensure!(evicted == 2, "two readers held, and it evicted {evicted}");
    for reader in &readers {
        ctx.soon("telling a reader", reader.lost()).await?;
        ensure!(gate.admit(reader.token()).is_err(), "a write of an evicted reader was accepted");
    }
    let writer = ctx.soon("the writer's grant", writer).await???;
    gate.admit(writer.token())?;
    writer.release().await?;
    Ok(())
}
