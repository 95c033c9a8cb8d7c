//! Dropped futures leave nothing behind. Every public future is polled n times and dropped, for every n up to its end,
//! or up to where it waits for somebody else. Within a second its claims are out of the line, long before their leases
//! would end, and the next call works. The same once more for every reply of the store that can be lost.

#[macro_use]
mod sweep;
mod elections;
mod groups;

use std::time::Duration;

use coord_core::{Inspect, Lock, RwLock, Semaphore, spi::Kind};

pub(super) use self::sweep::{End, Work, poll_and_drop};
use self::{
    elections::{campaign, hand_over, observe, proclaim_and_resign, run_an_election},
    groups::{barrier_enter_and_leave, barrier_wait, register, update_and_deregister, watch_instances},
    sweep::{Stage, sweep, work},
};
use super::cases;
use crate::{Ctx, Failure, Verdict, checkers::residue, ensure, history::line};

cases! { "cancel":
    acquire,
    try_acquire,
    acquire_in_a_line,
    acquire_after_a_wait,
    lock_all,
    lock_all_at_once,
    read_and_write [Shared],
    acquire_permits [Shared],
    extend_run_and_lost,
    release,
    detach [Resume],
    resume [Resume],
    inspect_and_force_release,
    campaign,
    proclaim_and_resign,
    hand_over [HandOver],
    run_an_election,
    observe,
    register,
    update_and_deregister,
    watch_instances,
    barrier_wait,
    barrier_enter_and_leave,
    shutdown,
}

async fn acquire(ctx: Ctx) -> Verdict {
    sweep!(ctx, Lock, s => work(async move {
        s.client.acquire(&s.name, &s.ctx.lock_options()).await?.release().await
    }))
}

async fn try_acquire(ctx: Ctx) -> Verdict {
    sweep!(ctx, Lock, s => work(async move {
        s.client.try_acquire(&s.name, &s.ctx.lock_options()).await.map(drop)
    }))
}

/// It waits behind a holder, and is dropped up to where only the holder could wake it.
async fn acquire_in_a_line(ctx: Ctx) -> Verdict {
    sweep!(ctx, Lock, s => {
        let holder = s.other.acquire(&s.name, &s.ctx.lock_options()).await?;
        work(async move {
            let outcome = s.client.acquire(&s.name, &s.ctx.lock_options()).await.map(drop);
            drop(holder);
            outcome
        })
    })
}

/// It waits behind a holder that releases meanwhile.
async fn acquire_after_a_wait(ctx: Ctx) -> Verdict {
    sweep!(ctx, Lock, s => {
        let holder = s.other.acquire(&s.name, &s.ctx.lock_options()).await?;
        work(async move {
            let options = s.ctx.lock_options();
            let mut waiting = std::pin::pin!(s.client.acquire(&s.name, &options));
            // The holder lets go as soon as the waiter is in the line.
            let in_line = async {
                while s.other.inspect(Kind::Lock, &s.name).await?.waiters.is_empty() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                holder.release().await
            };
            let in_line = std::pin::pin!(in_line);
            match futures_util::future::select(&mut waiting, in_line).await {
                futures_util::future::Either::Left((guard, _)) => guard.map(drop),
                futures_util::future::Either::Right((released, _)) => {
                    released?;
                    waiting.await.map(drop)
                }
            }
        })
    })
}

/// One of the names is held by somebody else: it is dropped while it holds one and waits for the other.
async fn lock_all(ctx: Ctx) -> Verdict {
    sweep!(ctx, Lock, s => {
        let names = [s.name, s.second];
        let last = names.iter().max().unwrap_or(&names[1]);
        let holder = s.other.acquire(last, &s.ctx.lock_options()).await?;
        work(async move {
            let outcome = s.client.lock_all(&names, &s.ctx.lock_options()).await.map(drop);
            drop(holder);
            outcome
        })
    })
}

/// Nobody stands in the way.
async fn lock_all_at_once(ctx: Ctx) -> Verdict {
    sweep!(ctx, Lock, s => work(async move {
        let set = s.client.lock_all(&[s.name, s.second], &s.ctx.lock_options()).await?;
        set.run(tokio::task::yield_now()).await?;
        set.release().await
    }))
}

async fn read_and_write(ctx: Ctx) -> Verdict {
    sweep!(ctx, Lock, s => work(async move {
        let options = s.ctx.lock_options();
        let one = s.client.read(&s.name, &options).await?;
        let two = s.client.try_read(&s.name, &options).await?;
        drop(one);
        two.release().await?;
        s.client.write(&s.name, &options).await?.release().await?;
        s.client.write(&s.name, &options).await.map(drop)
    }))
}

async fn acquire_permits(ctx: Ctx) -> Verdict {
    sweep!(ctx, Semaphore, s => work(async move {
        let options = s.ctx.lock_options();
        let one = s.client.acquire_permits(&s.name, 2, 3, &options).await?;
        let two = s.client.try_acquire_permits(&s.name, 1, 3, &options).await?;
        one.release().await?;
        drop(two);
        Ok(())
    }))
}

async fn extend_run_and_lost(ctx: Ctx) -> Verdict {
    sweep!(ctx, Lock, s => {
        let guard = s.client.acquire(&s.name, &s.ctx.lock_options()).await?;
        work(async move {
            guard.extend(s.ctx.long_ttl() * 2).await?;
            guard.run(tokio::task::yield_now()).await?;
            guard.lost().await;
            Ok(())
        })
    })
}

async fn release(ctx: Ctx) -> Verdict {
    sweep!(ctx, Lock, s => {
        let guard = s.client.acquire(&s.name, &s.ctx.lock_options()).await?;
        work(guard.release())
    })
}

async fn detach(ctx: Ctx) -> Verdict {
    sweep!(ctx, Lock, s => {
        let guard = s.client.acquire(&s.name, &s.ctx.lock_options()).await?;
        work(async move {
            let detached = guard.detach().await?;
            // It is meant to stay until somebody resumes it.
            let resumed = tokio::spawn(async move { s.other.resume(&detached).await?.release().await });
            resumed.await.unwrap_or(Ok(()))
        })
    })
}

/// Dropped halfway, the lock is released or still there to be resumed: whoever has the text can clear it away.
async fn resume(ctx: Ctx) -> Verdict {
    sweep!(ctx, Lock, s => {
        let guard = s.client.acquire(&s.name, &s.ctx.lock_options()).await?;
        let detached = guard.detach().await?;
        let again = Again { stage: s.clone(), detached: detached.clone() };
        work(async move {
            let _again = again;
            s.client.resume(&detached).await.map(drop)
        })
    })
}

/// Resumes a detached lock when it is dropped, as its owner would who hears of no success, and releases it.
struct Again {
    stage: Stage,
    detached: coord_core::Detached,
}

impl Drop for Again {
    fn drop(&mut self) {
        let (other, detached) = (self.stage.other.clone(), self.detached.clone());
        tokio::spawn(async move {
            if let Ok(guard) = other.resume(&detached).await {
                drop(guard);
            }
        });
    }
}

async fn inspect_and_force_release(ctx: Ctx) -> Verdict {
    sweep!(ctx, Lock, s => {
        let holder = s.other.acquire(&s.name, &s.ctx.lock_options()).await?;
        work(async move {
            s.client.inspect(Kind::Lock, &s.name).await?;
            s.client.force_release(Kind::Lock, &s.name, None).await?;
            holder.lost().await;
            Ok(())
        })
    })
}

/// A coordinator that is shut down lets go of everything that was dropped, even if nobody waits for it. What it still
/// holds ends with its lease.
async fn shutdown(ctx: Ctx) -> Verdict {
    let onlooker = ctx.claims().await?;
    for polls in 0..50 {
        let (client, name) = (ctx.client().await?, ctx.fresh_name());
        let guard = client.acquire(&name, &ctx.lock_options()).await?;
        drop(guard);
        let coordinator = (*client).clone();
        let end = poll_and_drop(Box::pin(async move { coordinator.shutdown().await }), polls).await;
        residue::empty(&*onlooker, &line(Kind::Lock, &name)).await?;
        let refused = client.try_acquire(&name, &ctx.lock_options()).await;
        match end {
            End::Done(outcome) => {
                outcome?;
                let error = refused.err();
                ensure!(
                    error.as_ref().is_some_and(|error| error.kind() == coord_core::ErrorKind::Closed),
                    "after the shutdown: {error:?}"
                );
                return Ok(());
            }
            End::Dropped => drop(refused),
            End::Stalled => return Err(Failure::new("the shutdown waits for something")),
        }
    }
    Err(Failure::new("the shutdown never ends"))
}
