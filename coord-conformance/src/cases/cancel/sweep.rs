//! Polls futures a number of times, drops them, and looks at what is left.

use std::{pin::Pin, task::Poll, time::Duration};

use coord_core::{
    Lock, Name, Result, Semaphore,
    spi::{Claims, Kind},
};
use tokio::time::timeout;

use crate::{
    Client, Ctx, Failure, Verdict,
    cases::faulty::faulty_client,
    checkers::{progress::within, residue},
    ensure,
    faults::Half,
    history::line,
};

/// A future is taken to wait for somebody else when nothing has woken it for this long. Its own retries come sooner.
const STALL: Duration = Duration::from_millis(250);
/// Far beyond what an uncontended call takes, and below the long TTL.
const SOON: Duration = Duration::from_secs(5);

/// What is dropped half done. It owns everything that would keep a claim.
pub(crate) type Work = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// What a sweep works with: the client whose futures are dropped, and another one.
#[derive(Clone)]
pub(super) struct Stage {
    pub(super) ctx: Ctx,
    pub(super) client: Client,
    pub(super) other: Client,
    pub(super) kind: Kind,
    pub(super) name: Name,
    /// For what needs two.
    pub(super) second: Name,
}

/// Makes the future that is to be dropped, from a clean state. What it awaits itself is not dropped.
pub(super) type Make = fn(Stage) -> Pin<Box<dyn Future<Output = Verdict<Work>> + Send>>;

/// How polling ended.
pub(crate) enum End {
    Done(Result<()>),
    Dropped,
    Stalled,
}

/// Polls the work so many times, whenever it is woken, and drops it.
pub(crate) async fn poll_and_drop(mut work: Work, polls: u32) -> End {
    let mut count = 0;
    let polling = std::future::poll_fn(|cx| {
        if count == polls {
            return Poll::Ready(End::Dropped);
        }
        count += 1;
        match work.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(End::Done(outcome)),
            Poll::Pending if count == polls => Poll::Ready(End::Dropped),
            Poll::Pending => Poll::Pending,
        }
    });
    timeout(STALL, polling).await.unwrap_or(End::Stalled)
}

/// Drops the future after every number of polls; without faults, and with every single reply lost.
pub(super) async fn sweep(ctx: Ctx, kind: Kind, make: Make) -> Verdict {
    let other = ctx.client().await?;
    let (client, faults) = faulty_client(&ctx).await?;
    let onlooker = ctx.claims().await?;
    let mut used = Vec::new();
    // Dropped before a reply is lost, it makes no difference that it would be lost.
    let mut first = 0;
    for lost in 0.. {
        let mut since = None;
        for polls in first.. {
            ensure!(polls < 500, "the future never ends");
            let (client, other) = (client.clone(), other.clone());
            let (name, second) = (ctx.fresh_name(), ctx.fresh_name());
            let stage = Stage { ctx: ctx.clone(), client, other, kind, name, second };
            let work = make(stage.clone()).await?;
            if lost > 0 {
                faults.lose(Half::Reply, lost, None);
            }
            let end = poll_and_drop(work, polls).await;
            if lost > 0 && faults.pending() == 0 {
                since = since.or(Some(polls));
            }
            let told = |failure: Failure| Failure {
                message: format!("dropped after {polls} polls, reply {lost} lost: {}", failure.message),
                ..failure
            };
            clean(&stage, &*onlooker).await.map_err(told)?;
            next_call(&stage).await.map_err(told)?;
            faults.heal();
            used.push(stage);
            match end {
                End::Done(Err(error)) if lost == 0 || !error.is_retryable() => {
                    return Err(told(error.into()));
                }
                End::Done(_) | End::Stalled => break,
                End::Dropped => {}
            }
        }
        match since {
            Some(since) => first = since,
            None if lost > 0 => break,
            None => {}
        }
    }
    // What was clean stays clean: no call that was under way comes in late.
    tokio::time::sleep(residue::BOUND).await;
    for stage in used {
        clean(&stage, &*onlooker).await?;
    }
    Ok(())
}

/// The next call works: it may have to wait for what is being cleared away, but not for a lease.
async fn next_call(stage: &Stage) -> Verdict {
    let (client, name, options) = (&stage.client, &stage.name, stage.ctx.lock_options());
    let next = match stage.kind {
        Kind::Semaphore => client.acquire_permits(name, 3, 3, &options),
        _ => client.acquire(name, &options),
    };
    let guard = within(SOON, "the next call", next).await??;
    ensure!(guard.is_held(), "the next guard is not held");
    within(SOON, "the next release", guard.release()).await??;
    Ok(())
}

/// Nothing is left within a second.
async fn clean(stage: &Stage, onlooker: &dyn Claims) -> Verdict {
    for name in [&stage.name, &stage.second] {
        residue::empty(onlooker, &line(stage.kind, name)).await?;
    }
    Ok(())
}

/// A future that owns what it needs.
pub(super) fn work(work: impl Future<Output = Result<()>> + Send + 'static) -> Verdict<Work> {
    Ok(Box::pin(work))
}

/// As [`sweep`], for futures that are made of the stage alone.
macro_rules! sweep {
    ($ctx:expr, $kind:ident, $stage:ident => $make:expr) => {
        sweep($ctx, Kind::$kind, |$stage| Box::pin(async move { $make })).await
    };
}
