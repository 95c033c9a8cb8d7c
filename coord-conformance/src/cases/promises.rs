//! Declared guarantees: what a store does not promise is refused before any I/O.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use coord_core::{
    Detached, Durability, Election, ErrorKind, Features, Guarantees, Lock, Result, RwLock, Scope, Semaphore,
    limits,
    spi::{Claim, ClaimId, Claims, Grant, HandOver, Line, LineId, Renewal, Standing, Wakeups},
};

use super::cases;
use crate::{Ctx, Failure, Verdict, ensure, faults::Faulty, refused};

cases! { "promises":
    make_sense,
    can_be_insisted_on,
    features_that_are_missing_are_refused_before_io,
    ttls_out_of_range_are_refused_before_io,
}

/// A store that promises something else than the one inside.
#[derive(Debug)]
struct Promising {
    inner: Arc<dyn Claims>,
    guarantees: Guarantees,
}

#[async_trait]
impl Claims for Promising {
    fn guarantees(&self) -> Guarantees {
        self.guarantees.clone()
    }
    async fn claim(&self, claim: &Claim) -> Result<Standing> {
        self.inner.claim(claim).await
    }
    async fn renew(&self, grants: &[Grant]) -> Result<Vec<Renewal>> {
        self.inner.renew(grants).await
    }
    async fn set_value(&self, grant: &Grant, value: &[u8]) -> Result<Renewal> {
        self.inner.set_value(grant, value).await
    }
    async fn withdraw(&self, line: &LineId, id: ClaimId) -> Result<()> {
        self.inner.withdraw(line, id).await
    }
    async fn hand_over(&self, from: &Grant, to: ClaimId) -> Result<HandOver> {
        self.inner.hand_over(from, to).await
    }
    async fn adopt(&self, from: &Grant, to: ClaimId) -> Result<Renewal> {
        self.inner.adopt(from, to).await
    }
    async fn line(&self, line: &LineId) -> Result<Line> {
        self.inner.line(line).await
    }
    fn wakeups(&self, line: &LineId, id: Option<ClaimId>) -> Wakeups {
        self.inner.wakeups(line, id)
    }
    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

/// TTLs within the limits of all backends, and the same answer every time.
async fn make_sense(ctx: Ctx) -> Verdict {
    let (client, promised) = (ctx.client().await?, ctx.guarantees());
    ensure!(client.guarantees() == promised, "two clients of one store promise different things");
    ensure!(!promised.backend.is_empty(), "the backend has no name");
    ensure!(promised.min_ttl >= limits::MIN_TTL, "the shortest TTL is {:?}", promised.min_ttl);
    ensure!(promised.max_ttl <= limits::MAX_TTL, "the longest TTL is {:?}", promised.max_ttl);
    ensure!(promised.min_ttl <= Duration::from_secs(1), "the shortest TTL is {:?}", promised.min_ttl);
    ensure!(promised.max_ttl >= Duration::from_secs(3600), "the longest TTL is {:?}", promised.max_ttl);
    let shared = ctx.url().is_some();
    ensure!(!shared || promised.scope >= Scope::Host, "other processes reach it, and it promises less");
    Ok(())
}

/// A program can demand a scope and a durability, and is told what is missing.
async fn can_be_insisted_on(ctx: Ctx) -> Verdict {
    let promised = ctx.guarantees();
    promised.require(promised.scope, promised.durability)?;
    promised.require(Scope::Process, Durability::Process)?;
    for (scope, durability) in [(Scope::Network, Durability::Quorum), (Scope::Network, Durability::Process)] {
        if promised.scope < scope || promised.durability < durability {
            let text = refused!(promised.require(scope, durability), Unsupported).to_string();
            ensure!(text.contains(promised.backend), "it does not name the backend: {text}");
        }
    }
    Ok(())
}

/// Priorities, hand-over, resume and shared claims, where the store does not promise them.
async fn features_that_are_missing_are_refused_before_io(ctx: Ctx) -> Verdict {
    let (inner, counted) = Faulty::over(ctx.claims().await?);
    let guarantees = ctx.guarantees().clone().with_features(Features::NONE);
    let client = ctx.client_on(Arc::new(Promising { inner, guarantees }))?;
    let (name, lock) = (ctx.fresh_name(), ctx.lock_options());
    let detached: Detached = ctx.client().await?.acquire(&name, &lock).await?.detach().await?;
    let office = client.campaign(&name, &ctx.campaign_options()).await?;
    let before = counted.total();
    refused!(client.read(&name, &lock).await, Unsupported);
    refused!(client.try_read(&name, &lock).await, Unsupported);
    refused!(client.acquire_permits(&name, 1, 2, &lock).await, Unsupported);
    refused!(client.try_acquire_permits(&name, 1, 2, &lock).await, Unsupported);
    for priority in [1, -1, i32::MAX, i32::MIN] {
        let campaign = ctx.campaign_options().with_priority(priority);
        refused!(client.campaign(&name, &campaign).await, Unsupported);
    }
    refused!(client.resume(&detached).await, Unsupported);
    let Err(failed) = office.hand_over("somebody").await else {
        return Err(Failure::new("a hand-over succeeded that is not promised"));
    };
    ensure!(
        failed.error.kind() == ErrorKind::Unsupported,
        "Unsupported was expected, not {:?}",
        failed.error
    );
    let sent = counted.total() - before;
    ensure!(sent == 0, "{sent} operations were sent before it was refused");
    let Some(office) = failed.leadership else { return Err(Failure::new("the leadership is gone")) };
    ensure!(office.is_leader(), "a hand-over that was refused ended the leadership");
    office.resign().await?;
    // What is always promised still works.
    client.acquire(&ctx.fresh_name(), &lock).await?.release().await?;
    client.write(&ctx.fresh_name(), &lock).await?.release().await?;
    Ok(())
}

/// A store with a narrow range of TTLs.
async fn ttls_out_of_range_are_refused_before_io(ctx: Ctx) -> Verdict {
    let (inner, counted) = Faulty::over(ctx.claims().await?);
    let (min, max) = (Duration::from_secs(5), Duration::from_secs(20));
    let guarantees = ctx.guarantees().clone().with_ttls(min, max);
    let (client, name) = (ctx.client_on(Arc::new(Promising { inner, guarantees }))?, ctx.fresh_name());
    let tick = Duration::from_nanos(1);
    for ttl in [min - tick, max + tick, limits::MIN_TTL, limits::MAX_TTL] {
        let text =
            refused!(client.acquire(&name, &ctx.lock_options().with_ttl(ttl)).await, InvalidTtl).to_string();
        ensure!(text.contains("5s") && text.contains("20s"), "it does not say what is allowed: {text}");
    }
    ensure!(counted.total() == 0, "{} operations were sent before it was refused", counted.total());
    for ttl in [min, max] {
        client.acquire(&name, &ctx.lock_options().with_ttl(ttl)).await?.release().await?;
    }
    Ok(())
}
