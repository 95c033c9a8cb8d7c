//! The end of a coordinator.

use std::time::Duration;

use coord_core::{Barrier, Election, ErrorKind, Inspect, Instance, Lock, Registry, spi::Kind};

use super::cases;
use crate::{Ctx, Verdict, ensure, refused};

cases! { "shutdown":
    drains_what_was_dropped,
    refuses_new_work,
    ends_registrations,
    can_be_repeated,
    leaves_other_clients_alone,
    a_waiter_does_not_hang,
    what_is_still_held_is_lost,
}

/// When it returns, the claims of dropped guards are gone.
async fn drains_what_was_dropped(ctx: Ctx) -> Verdict {
    let ([one, two], mut names) = (ctx.clients().await?, Vec::new());
    for _ in 0..20 {
        let name = ctx.fresh_name();
        drop(one.acquire(&name, &ctx.lock_options()).await?);
        names.push(name);
    }
    one.shutdown().await?;
    for name in names {
        let line = two.inspect(Kind::Lock, &name).await?;
        ensure!(line.holders.is_empty(), "the claim of a dropped guard outlived its coordinator: {line:?}");
    }
    Ok(())
}

/// Every operation says that the coordinator is closed.
async fn refuses_new_work(ctx: Ctx) -> Verdict {
    let (client, name) = (ctx.client().await?, ctx.fresh_name());
    client.shutdown().await?;
    refused!(client.acquire(&name, &ctx.lock_options()).await, Closed);
    refused!(client.try_acquire(&name, &ctx.lock_options()).await, Closed);
    refused!(client.lock_all(std::slice::from_ref(&name), &ctx.lock_options()).await, Closed);
    refused!(client.campaign(&name, &ctx.campaign_options()).await, Closed);
    refused!(client.leader(&name).await, Closed);
    refused!(client.instances(&name).await, Closed);
    refused!(client.register(&name, Instance::new("a", "x"), &ctx.register_options()).await, Closed);
    refused!(client.wait(&name, 1, &ctx.barrier_options()).await, Closed);
    refused!(client.inspect(Kind::Lock, &name).await, Closed);
    refused!(client.force_release(Kind::Lock, &name, None).await, Closed);
    // Clones are one coordinator.
    refused!((*client).clone().acquire(&name, &ctx.lock_options()).await, Closed);
    Ok(())
}

/// Its instances leave their services, and their registrations know.
async fn ends_registrations(ctx: Ctx) -> Verdict {
    let ([one, two], service) = (ctx.clients().await?, ctx.fresh_name());
    let mut registration = one.register(&service, Instance::new("a", "x"), &ctx.register_options()).await?;
    one.shutdown().await?;
    ensure!(two.instances(&service).await?.is_empty(), "an instance outlived its coordinator");
    let over = async { while registration.changed().await {} };
    ctx.soon("the end of the registration", over).await?;
    refused!(registration.update(Instance::new("a", "y")).await, Closed);
    Ok(())
}

/// A second time it returns at once.
async fn can_be_repeated(ctx: Ctx) -> Verdict {
    let client = ctx.client().await?;
    client.shutdown().await?;
    ctx.soon("the second shutdown", client.shutdown()).await??;
    Ok(())
}

/// Other clients of the store go on.
async fn leaves_other_clients_alone(ctx: Ctx) -> Verdict {
    let ([one, two], name) = (ctx.clients().await?, ctx.fresh_name());
    let guard = two.lock(&name, &ctx.lock_options()).await?;
    one.shutdown().await?;
    guard.guard().extend(ctx.long_ttl()).await?;
    ensure!(guard.is_held(), "another client's shutdown ended the lease");
    guard.release().await?;
    two.lock(&name, &ctx.lock_options()).await?.release().await?;
    Ok(())
}

/// Whoever waits when the coordinator is shut down is told so, and leaves the line.
async fn a_waiter_does_not_hang(ctx: Ctx) -> Verdict {
    let ([one, two], name) = (ctx.clients().await?, ctx.fresh_name());
    let guard = one.lock(&name, &ctx.lock_options()).await?;
    let waiting = two.lock_later(&name, &ctx.lock_options());
    ctx.until_waiting(&name, 1).await?;
    ctx.soon("the shutdown", two.shutdown()).await??;
    let outcome = ctx.soon("the end of the wait", waiting).await??;
    let kind = outcome.err().map(|error| error.kind());
    ensure!(kind == Some(ErrorKind::Closed), "Closed was expected, not {kind:?}");
    ctx.soon("leaving the line", ctx.until_waiting(&name, 0)).await??;
    guard.release().await?;
    Ok(())
}

/// Guards that outlive their coordinator are not renewed; they say so in time, and the next is let in.
async fn what_is_still_held_is_lost(ctx: Ctx) -> Verdict {
    let ([one, two], name) = (ctx.clients().await?, ctx.fresh_name());
    let guard = one.lock(&name, &ctx.lock_options().with_ttl(ctx.short_ttl())).await?;
    let waiting = two.lock_later(&name, &ctx.lock_options());
    ctx.until_waiting(&name, 1).await?;
    one.shutdown().await?;
    guard.watch(Duration::from_millis(5)).await;
    let next = ctx.soon("the next grant", waiting).await???;
    ensure!(!guard.is_held(), "two hold one lock");
    next.release().await?;
    Ok(())
}
