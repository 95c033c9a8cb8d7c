//! Values, owners, TTLs, waits: at the limits they work, beyond them they are refused before any I/O.

use std::{sync::Arc, time::Duration};

use coord_core::{
    Barrier, Election, Error, ErrorKind, Inspect, Instance, Lock, LockOptions, Name, Registry, Result,
    RwLock, Semaphore, limits, spi::Kind,
};

use super::{cases, faulty::faulty_client};
use crate::{
    Client, Ctx, Verdict, ensure,
    faults::{Faults, Operation},
    refused,
};

cases! { "inputs":
    values_up_to_the_limit_come_back,
    values_over_the_limit_are_refused_before_io,
    owners_up_to_the_limit_come_back,
    owners_that_are_wrong_are_refused_before_io,
    instances_that_are_wrong_are_refused_before_io,
    ttls_that_are_wrong_are_refused_before_io,
    the_shortest_and_the_longest_ttl_work,
    odd_ttls_are_rounded_up,
    the_longest_wait_works,
}

/// How many operations were sent, but for renewals, which come in their own time.
fn sent(faults: &Faults) -> u64 {
    faults.total() - faults.count(Operation::Renew)
}

/// Fails unless it was refused with this kind, and nothing was sent.
fn nothing_sent<T>(what: &str, outcome: Result<T>, kind: ErrorKind, faults: &Faults, before: u64) -> Verdict {
    let found = outcome.err().as_ref().map(Error::kind);
    ensure!(found == Some(kind), "{what}: {kind:?} was expected, not {found:?}");
    let sent = sent(faults) - before;
    ensure!(sent == 0, "{what}: {sent} operations were sent before it was refused");
    Ok(())
}

async fn counting(ctx: &Ctx) -> Verdict<(Client, Arc<Faults>, Name)> {
    let (client, faults) = faulty_client(ctx).await?;
    Ok((client, faults, ctx.fresh_name()))
}

/// Empty, all bytes, and the limit.
async fn values_up_to_the_limit_come_back(ctx: Ctx) -> Verdict {
    let (client, name) = (ctx.client().await?, ctx.fresh_name());
    let every_byte: Vec<u8> = (0..=255).collect();
    for value in [vec![], every_byte.clone(), every_byte.repeat(limits::MAX_VALUE / 256)] {
        let guard = client.try_acquire(&name, &ctx.lock_options().with_value(value.clone())).await?;
        let line = client.inspect(Kind::Lock, &name).await?;
        ensure!(line.holders[0].value == value, "a value of {} bytes came back different", value.len());
        guard.release().await?;
        let office = client.campaign(&name, &ctx.campaign_options().with_value(value.clone())).await?;
        let leader = client.leader(&name).await?;
        ensure!(
            leader.is_some_and(|leader| leader.value == value),
            "a value of {} bytes was lost",
            value.len()
        );
        office.resign().await?;
    }
    Ok(())
}

/// One byte more, and ten million.
async fn values_over_the_limit_are_refused_before_io(ctx: Ctx) -> Verdict {
    let (client, faults, name) = counting(&ctx).await?;
    let office = client.campaign(&name, &ctx.campaign_options()).await?;
    for length in [limits::MAX_VALUE + 1, 10_000_000] {
        let (value, before) = (vec![7; length], sent(&faults));
        let lock = ctx.lock_options().with_value(value.clone());
        let refused = |what, outcome| nothing_sent(what, outcome, ErrorKind::TooLarge, &faults, before);
        refused("acquire", client.acquire(&name, &lock).await.map(drop))?;
        refused("try_acquire", client.try_acquire(&name, &lock).await.map(drop))?;
        refused("lock_all", client.lock_all(std::slice::from_ref(&name), &lock).await.map(drop))?;
        refused(
            "campaign",
            client.campaign(&name, &ctx.campaign_options().with_value(value.clone())).await.map(drop),
        )?;
        refused("proclaim", office.proclaim(value).await)?;
    }
    office.resign().await?;
    Ok(())
}

/// One byte and the limit.
async fn owners_up_to_the_limit_come_back(ctx: Ctx) -> Verdict {
    let (client, name) = (ctx.client().await?, ctx.fresh_name());
    for owner in ["x".to_owned(), "x".repeat(limits::MAX_OWNER), "🦀".repeat(63), " / .. '\"".to_owned()] {
        let guard = client.try_acquire(&name, &ctx.lock_options().with_owner(&owner)).await?;
        let line = client.inspect(Kind::Lock, &name).await?;
        ensure!(line.holders[0].owner == owner, "{owner:?} is shown as {:?}", line.holders[0].owner);
        guard.release().await?;
    }
    Ok(())
}

/// Empty, too long, with control characters.
async fn owners_that_are_wrong_are_refused_before_io(ctx: Ctx) -> Verdict {
    let (client, faults, name) = counting(&ctx).await?;
    let long = ("x".repeat(limits::MAX_OWNER + 1), ErrorKind::TooLarge);
    let huge = ("x".repeat(10_000_000), ErrorKind::TooLarge);
    let control = [String::new(), "\0".into(), "a\nb".into()].map(|owner| (owner, ErrorKind::InvalidOptions));
    for (owner, kind) in control.into_iter().chain([long, huge]) {
        let before = sent(&faults);
        let refused = |what, outcome| nothing_sent(what, outcome, kind, &faults, before);
        let lock = ctx.lock_options().with_owner(&owner);
        refused("acquire", client.acquire(&name, &lock).await.map(drop))?;
        refused("campaign", client.campaign(&name, &ctx.campaign_options().with_id(&owner)).await.map(drop))?;
        refused("wait", client.wait(&name, 1, &ctx.barrier_options().with_owner(&owner)).await.map(drop))?;
        let instance = Instance::new(&owner, "x");
        refused("register", client.register(&name, instance, &ctx.register_options()).await.map(drop))?;
    }
    Ok(())
}

/// Address and metadata together are one value.
async fn instances_that_are_wrong_are_refused_before_io(ctx: Ctx) -> Verdict {
    let (client, faults, name) = counting(&ctx).await?;
    let registration = client.register(&name, Instance::new("kept", "x"), &ctx.register_options()).await?;
    let half = "x".repeat(limits::MAX_VALUE / 2);
    let large = [
        Instance::new("kept", "x".repeat(limits::MAX_VALUE)),
        Instance::new("kept", half.clone()).with_metadata("k", half.clone()),
        Instance::new("kept", "x").with_metadata("x".repeat(10_000_000), ""),
    ];
    for instance in large {
        let before = sent(&faults);
        let refused = |what, outcome| nothing_sent(what, outcome, ErrorKind::TooLarge, &faults, before);
        refused(
            "register",
            client.register(&name, instance.clone(), &ctx.register_options()).await.map(drop),
        )?;
        refused("update", registration.update(instance).await)?;
    }
    let fits = Instance::new("fits", half.clone()).with_metadata("k", "x".repeat(limits::MAX_VALUE / 3));
    client.register(&name, fits, &ctx.register_options()).await?.deregister().await?;
    registration.deregister().await?;
    Ok(())
}

/// Zero, one millisecond, ten years, the greatest numbers: for every recipe.
async fn ttls_that_are_wrong_are_refused_before_io(ctx: Ctx) -> Verdict {
    let (client, faults, name) = counting(&ctx).await?;
    let (min, max) = (ctx.guarantees().min_ttl, ctx.guarantees().max_ttl);
    let guard = client.acquire(&ctx.fresh_name(), &ctx.lock_options()).await?;
    let wrong = [
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::from_millis(1),
        min - Duration::from_nanos(1),
        max + Duration::from_nanos(1),
        Duration::from_secs(10 * 365 * 24 * 3600),
        Duration::from_millis(u64::MAX),
        Duration::from_secs(u64::MAX),
        Duration::MAX,
    ];
    for ttl in wrong {
        let before = sent(&faults);
        let refused = |what, outcome| {
            nothing_sent(&format!("{what} with {ttl:?}"), outcome, ErrorKind::InvalidTtl, &faults, before)
        };
        let lock = LockOptions::default().with_ttl(ttl);
        refused("acquire", client.acquire(&name, &lock).await.map(drop))?;
        refused("try_acquire", client.try_acquire(&name, &lock).await.map(drop))?;
        refused("lock_all", client.lock_all(std::slice::from_ref(&name), &lock).await.map(drop))?;
        refused("write", client.write(&name, &lock).await.map(drop))?;
        if ctx.guarantees().features.shared {
            refused("read", client.read(&name, &lock).await.map(drop))?;
            refused("acquire_permits", client.acquire_permits(&name, 1, 2, &lock).await.map(drop))?;
        }
        refused("campaign", client.campaign(&name, &ctx.campaign_options().with_ttl(ttl)).await.map(drop))?;
        let (instance, register) = (Instance::new("a", "x"), ctx.register_options().with_ttl(ttl));
        refused("register", client.register(&name, instance, &register).await.map(drop))?;
        refused("wait", client.wait(&name, 1, &ctx.barrier_options().with_ttl(ttl)).await.map(drop))?;
        refused("enter", client.enter(&name, 1, &ctx.barrier_options().with_ttl(ttl)).await.map(drop))?;
        refused("extend", guard.extend(ttl).await)?;
    }
    ensure!(guard.is_held(), "an extension that was refused ended the lease");
    guard.release().await?;
    Ok(())
}

/// What the backend declares it does.
async fn the_shortest_and_the_longest_ttl_work(ctx: Ctx) -> Verdict {
    let (client, name) = (ctx.client().await?, ctx.fresh_name());
    let (min, max) = (ctx.guarantees().min_ttl, ctx.guarantees().max_ttl);
    let guard = client.acquire(&name, &ctx.lock_options().with_ttl(max)).await?;
    let line = client.inspect(Kind::Lock, &name).await?;
    ensure!(
        line.holders[0].expires_in > max / 2,
        "a lease of {max:?} ends in {:?}",
        line.holders[0].expires_in
    );
    ensure!(guard.valid_for() > max / 2, "a lease of {max:?} is valid for {:?}", guard.valid_for());
    guard.release().await?;
    // Whether so short a lease can be kept up depends on the machine; that it ends does not.
    let guard = client.acquire(&name, &ctx.lock_options().with_ttl(min).without_renewal()).await?;
    ctx.soon("the end of the lease", guard.lost()).await?;
    ctx.soon("the next grant", client.acquire(&name, &ctx.lock_options())).await??.release().await?;
    Ok(())
}

/// A TTL that is no whole number of milliseconds is no shorter than asked.
async fn odd_ttls_are_rounded_up(ctx: Ctx) -> Verdict {
    let (client, name) = (ctx.client().await?, ctx.fresh_name());
    let odd = ctx.long_ttl() + Duration::from_nanos(1);
    let guard = client.acquire(&name, &ctx.lock_options().with_ttl(odd)).await?;
    let detached = guard.detach().await?.to_string();
    let whole = (ctx.long_ttl() + Duration::from_millis(1)).as_millis().to_string();
    ensure!(detached.contains(&whole), "{odd:?} is not {whole} ms: {detached}");
    Ok(())
}

/// No overflow: it waits, and is granted.
async fn the_longest_wait_works(ctx: Ctx) -> Verdict {
    let ([one, two], name) = (ctx.clients().await?, ctx.fresh_name());
    let options = ctx.lock_options().with_wait(Duration::MAX);
    let guard = one.lock(&name, &options).await?;
    let waiting = two.lock_later(&name, &options);
    ctx.until_waiting(&name, 1).await?;
    refused!(one.try_acquire(&name, &options).await, NotGranted);
    guard.release().await?;
    ctx.soon("the grant", waiting).await???.release().await?;
    Ok(())
}
