//! Dropped futures leave nothing behind. Every public future is polled n times and dropped, for every n up to its end,
//! or up to where it waits for somebody else. Within a second its claims are out of the line, long before their leases
//! would end, and the next call works. The same once more for every reply of the store that can be lost.

use std::{pin::Pin, sync::Arc, task::Poll, time::Duration};

use coord_core::{
    Barrier, Election, ElectionExt, Error, Inspect, Instance, Lock, Name, Registry, Result, RwLock,
    Semaphore,
    spi::{Claims, Kind},
};
use tokio::time::timeout;

use super::{cases, faulty::faulty_client};
use crate::{
    Client, Ctx, Failure, Verdict,
    checkers::{progress::within, residue},
    ensure,
    faults::Half,
    history::line,
};

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

/// A future is taken to wait for somebody else when nothing has woken it for this long. Its own retries come sooner.
const STALL: Duration = Duration::from_millis(250);
/// Far beyond what an uncontended call takes, and below the long TTL.
const SOON: Duration = Duration::from_secs(5);

/// What is dropped half done. It owns everything that would keep a claim.
pub(super) type Work = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// What a sweep works with: the client whose futures are dropped, and another one.
#[derive(Clone)]
struct Stage {
    ctx: Ctx,
    client: Client,
    other: Client,
    kind: Kind,
    name: Name,
    /// For what needs two.
    second: Name,
}

/// Makes the future that is to be dropped, from a clean state. What it awaits itself is not dropped.
type Make = fn(Stage) -> Pin<Box<dyn Future<Output = Verdict<Work>> + Send>>;

/// How polling ended.
pub(super) enum End {
    Done(Result<()>),
    Dropped,
    Stalled,
}

/// Polls the work so many times, whenever it is woken, and drops it.
pub(super) async fn poll_and_drop(mut work: Work, polls: u32) -> End {
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
async fn sweep(ctx: Ctx, kind: Kind, make: Make) -> Verdict {
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
fn work(work: impl Future<Output = Result<()>> + Send + 'static) -> Verdict<Work> {
    Ok(Box::pin(work))
}

/// As [`sweep`], for futures that are made of the stage alone.
macro_rules! sweep {
    ($ctx:expr, $kind:ident, $stage:ident => $make:expr) => {
        sweep($ctx, Kind::$kind, |$stage| Box::pin(async move { $make })).await
    };
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

async fn campaign(ctx: Ctx) -> Verdict {
    sweep!(ctx, Election, s => work(async move {
        s.client.campaign(&s.name, &s.ctx.campaign_options()).await.map(drop)
    }))
}

async fn proclaim_and_resign(ctx: Ctx) -> Verdict {
    sweep!(ctx, Election, s => {
        let leadership = s.client.campaign(&s.name, &s.ctx.campaign_options()).await?;
        work(async move {
            leadership.proclaim("value").await?;
            s.client.leader(&s.name).await?;
            leadership.resign().await
        })
    })
}

/// The leadership and the candidacy both end: in office, or waiting, or handed over.
async fn hand_over(ctx: Ctx) -> Verdict {
    sweep!(ctx, Election, s => {
        let leadership = s.client.campaign(&s.name, &s.ctx.campaign_options()).await?;
        let (candidate, name) = (s.other.clone(), s.name.clone());
        let options = s.ctx.campaign_options().with_id("candidate");
        let candidate = Candidate(tokio::spawn(async move { candidate.campaign(&name, &options).await }));
        s.ctx.until_line(Kind::Election, &s.name, |_, waiting| waiting == 1).await?;
        work(async move {
            let _candidate = candidate;
            leadership.hand_over("candidate").await.map_err(Error::from)
        })
    })
}

/// A candidacy that ends with its owner.
struct Candidate(tokio::task::JoinHandle<Result<coord_core::Leadership>>);

impl Drop for Candidate {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn run_an_election(ctx: Ctx) -> Verdict {
    sweep!(ctx, Election, s => work(async move {
        let mut rounds = 0;
        let on_elected = |_leadership: Arc<coord_core::Leadership>| {
            rounds += 1;
            let round = rounds;
            async move {
                tokio::task::yield_now().await;
                if round < 2 { std::ops::ControlFlow::Continue(()) } else { std::ops::ControlFlow::Break(()) }
            }
        };
        s.client.run(&s.name, &s.ctx.campaign_options(), on_elected, |_| {}).await
    }))
}

async fn observe(ctx: Ctx) -> Verdict {
    sweep!(ctx, Election, s => {
        let leadership = s.other.campaign(&s.name, &s.ctx.campaign_options()).await?;
        work(async move {
            let mut events = s.client.observe(&s.name);
            for _ in 0..2 {
                events.next().await.transpose()?;
            }
            drop(leadership);
            Ok(())
        })
    })
}

async fn register(ctx: Ctx) -> Verdict {
    sweep!(ctx, Registry, s => work(async move {
        s.client.register(&s.name, Instance::new("i", "host:1"), &s.ctx.register_options()).await.map(drop)
    }))
}

async fn update_and_deregister(ctx: Ctx) -> Verdict {
    sweep!(ctx, Registry, s => {
        let instance = Instance::new("i", "host:1");
        let mut registration = s.client.register(&s.name, instance, &s.ctx.register_options()).await?;
        work(async move {
            registration.update(Instance::new("i", "host:2")).await?;
            s.client.instances(&s.name).await?;
            // Nothing changes here; that it can be dropped is enough.
            let _ = timeout(Duration::from_millis(5), registration.changed()).await;
            registration.deregister().await
        })
    })
}

async fn watch_instances(ctx: Ctx) -> Verdict {
    sweep!(ctx, Registry, s => {
        let instance = Instance::new("i", "host:1");
        let registration = s.other.register(&s.name, instance, &s.ctx.register_options()).await?;
        work(async move {
            let mut events = s.client.watch_instances(&s.name);
            for _ in 0..2 {
                events.next().await.transpose()?;
            }
            drop(registration);
            Ok(())
        })
    })
}

/// One of two parties; the other one comes, passes, and is never dropped halfway.
async fn barrier_wait(ctx: Ctx) -> Verdict {
    sweep!(ctx, Barrier, s => work(async move {
        let options = s.ctx.barrier_options();
        let other = s.other.wait(&s.name, 2, &options);
        let (one, two) = tokio::join!(s.client.wait(&s.name, 2, &options), other);
        one.and(two).map(drop)
    }))
}

async fn barrier_enter_and_leave(ctx: Ctx) -> Verdict {
    sweep!(ctx, Barrier, s => work(async move {
        let options = s.ctx.barrier_options();
        let pass = async |client: &Client| {
            let inside = client.enter(&s.name, 2, &options).await?;
            inside.leave(None).await
        };
        let (one, two) = tokio::join!(pass(&s.client), pass(&s.other));
        one.and(two)
    }))
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
