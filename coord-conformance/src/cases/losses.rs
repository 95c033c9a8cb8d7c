//! The loss of every single message: for every k, the request or the reply of the k-th operation of a program is lost.
//! The program must end well, there must never be two claims of one attempt, nothing may be left in the line, and the
//! next attempt by the same client must not wait for a claim of its own past.

use std::{pin::Pin, time::Duration};

use coord_core::{
    Barrier, Coordinator, Election, Error, ErrorKind, Instance, Lock, Name, Registry, Result,
    spi::{Claims, Kind},
};

use super::{cases, faulty::faulty_client};
use crate::{
    Client, Ctx, Failure, Verdict,
    checkers::{progress::within, residue},
    ensure,
    faults::Half,
    history::line,
};

cases! { "losses":
    of_a_lock,
    of_a_wait,
    of_a_wait_in_vain,
    of_several_locks,
    of_a_detached_lock [Resume],
    of_shared_claims [Shared],
    of_a_leadership,
    of_a_hand_over [HandOver],
    of_a_registration,
    of_a_barrier,
}

/// Far beyond what retries after one loss take, and far below the long TTL.
const SOON: Duration = Duration::from_secs(5);

/// What a program works with: the client whose messages get lost, a sound one, an onlooker and a name.
struct Stage {
    ctx: Ctx,
    client: Client,
    sound: Client,
    onlooker: std::sync::Arc<dyn Claims>,
    kind: Kind,
    name: Name,
}

type Program = for<'a> fn(&'a Stage) -> Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>;

impl Stage {
    /// Exactly so many claims are in the line.
    async fn claims(&self, expected: usize) -> Verdict {
        let line = self.onlooker.line(&line(self.kind, &self.name)).await?;
        let count = line.entries.len();
        ensure!(count == expected, "{count} claims are in the line, not {expected}: {:?}", line.entries);
        Ok(())
    }
}

/// Runs the program once for every message that it sends.
async fn every_loss(ctx: Ctx, kind: Kind, program: Program) -> Verdict {
    let sound = ctx.client().await?;
    let onlooker = ctx.claims().await?;
    for half in [Half::Request, Half::Reply] {
        for nth in 1.. {
            ensure!(nth < 100, "the program never ends");
            let (client, faults) = faulty_client(&ctx).await?;
            let (sound, onlooker, name) = (sound.clone(), onlooker.clone(), ctx.fresh_name());
            let stage = Stage { ctx: ctx.clone(), client, sound, onlooker, kind, name };
            faults.lose(half, nth, None);
            let lost = |failure: Failure| Failure {
                message: format!("the {half:?} of operation {nth} was lost: {}", failure.message),
                ..failure
            };
            within(SOON, "the end of the program", program(&stage))
                .await
                .and_then(|ended| ended)
                .map_err(lost)?;
            let line = line(kind, &stage.name);
            residue::empty(&*stage.onlooker, &line).await.map_err(lost)?;
            let came_about = faults.pending() == 0;
            faults.heal();
            let options = ctx.lock_options();
            let next = stage.client.try_acquire(&stage.name, &options);
            within(SOON, "the next attempt", next).await.map_err(lost)??.release().await?;
            if !came_about {
                ensure!(nth > 2, "only {} messages were lost", nth - 1);
                break;
            }
        }
    }
    Ok(())
}

/// Reads are not repeated by themselves: nothing hangs on them.
async fn reading<T, F: Future<Output = Result<T>>>(read: impl Fn() -> F) -> Result<T> {
    loop {
        match read().await {
            Err(error) if error.kind() == ErrorKind::Unavailable => {}
            outcome => return outcome,
        }
    }
}

async fn of_a_lock(ctx: Ctx) -> Verdict {
    every_loss(ctx, Kind::Lock, |stage| {
        Box::pin(async move {
            let guard = stage.client.lock(&stage.name, &stage.ctx.lock_options()).await?;
            stage.claims(1).await?;
            guard.guard().extend(stage.ctx.long_ttl()).await?;
            ensure!(guard.is_held(), "it was lost");
            guard.release().await?;
            stage.claims(0).await
        })
    })
    .await
}

async fn of_a_wait(ctx: Ctx) -> Verdict {
    every_loss(ctx, Kind::Lock, |stage| {
        Box::pin(async move {
            let options = stage.ctx.lock_options();
            let holder = stage.sound.lock(&stage.name, &options).await?;
            let waiting = stage.client.lock_later(&stage.name, &options);
            stage.ctx.until_waiting(&stage.name, 1).await?;
            stage.claims(2).await?;
            holder.release().await?;
            let guard = waiting.await??;
            stage.claims(1).await?;
            guard.release().await?;
            Ok(())
        })
    })
    .await
}

async fn of_a_wait_in_vain(ctx: Ctx) -> Verdict {
    every_loss(ctx, Kind::Lock, |stage| {
        Box::pin(async move {
            let options = stage.ctx.lock_options();
            let holder = stage.sound.lock(&stage.name, &options).await?;
            let patience = Duration::from_millis(300);
            let error = stage.client.lock(&stage.name, &options.clone().with_wait(patience)).await.err();
            ensure!(error.is_some_and(|error| error.is_not_granted()), "it was granted beside the holder");
            // One that gave up leaves in the background.
            let line = line(Kind::Lock, &stage.name);
            residue::check(&*stage.onlooker, &line, |line| line.entries.len() == 1).await?;
            let error = stage.client.try_acquire(&stage.name, &options).await.err();
            ensure!(error.is_some_and(|error| error.is_not_granted()), "it was granted beside the holder");
            stage.claims(1).await?;
            holder.release().await?;
            Ok(())
        })
    })
    .await
}

async fn of_several_locks(ctx: Ctx) -> Verdict {
    every_loss(ctx, Kind::Lock, |stage| {
        Box::pin(async move {
            let others = [stage.ctx.fresh_name(), stage.ctx.fresh_name()];
            let names = [others[0].clone(), stage.name.clone(), others[1].clone()];
            let guards = stage.client.lock_all(&names, &stage.ctx.lock_options()).await?;
            ensure!(guards.is_held() && guards.guards().len() == 3, "not all are held: {guards:?}");
            guards.release().await?;
            for name in &others {
                residue::empty(&*stage.onlooker, &line(Kind::Lock, name)).await?;
            }
            Ok(())
        })
    })
    .await
}

async fn of_a_detached_lock(ctx: Ctx) -> Verdict {
    every_loss(ctx, Kind::Lock, |stage| {
        Box::pin(async move {
            let guard = stage.client.acquire(&stage.name, &stage.ctx.lock_options()).await?;
            let token = guard.token();
            let detached = guard.detach().await?;
            stage.claims(1).await?;
            let guard = stage.client.resume(&detached).await?;
            ensure!(guard.token() == token, "the token changed from {token} to {}", guard.token());
            stage.claims(1).await?;
            let second = stage.sound.resume(&detached).await;
            ensure!(second.is_err_and(|error| error.is_lost()), "it was resumed twice");
            guard.release().await?;
            Ok(())
        })
    })
    .await
}

async fn of_shared_claims(ctx: Ctx) -> Verdict {
    every_loss(ctx, Kind::Semaphore, |stage| {
        Box::pin(async move {
            let options = stage.ctx.lock_options();
            let two = stage.client.permits(&stage.name, 2, 3, &options).await?;
            let one = stage.sound.permits(&stage.name, 1, 3, &options).await?;
            stage.claims(2).await?;
            two.release().await?;
            let two = stage.client.permits(&stage.name, 2, 3, &options).await?;
            one.release().await?;
            two.release().await?;
            let reader = stage.client.share(&stage.name, &options).await?;
            stage.sound.share(&stage.name, &options).await?.release().await?;
            reader.release().await?;
            Ok(())
        })
    })
    .await
}

async fn of_a_leadership(ctx: Ctx) -> Verdict {
    every_loss(ctx, Kind::Election, |stage| {
        Box::pin(async move {
            let options = stage.ctx.campaign_options().with_value("first");
            let leadership = stage.client.lead(&stage.name, &options).await?;
            stage.claims(1).await?;
            leadership.guard().proclaim("second").await?;
            let leader = reading(|| stage.client.leader(&stage.name)).await?;
            let shown = leader.map(|leader| (leader.term, leader.value));
            ensure!(shown == Some((leadership.token(), b"second".to_vec())), "{shown:?} leads");
            leadership.release().await?;
            Ok(())
        })
    })
    .await
}

async fn of_a_hand_over(ctx: Ctx) -> Verdict {
    every_loss(ctx, Kind::Election, |stage| {
        Box::pin(async move {
            let options = stage.ctx.campaign_options();
            let mut leadership = stage.client.campaign(&stage.name, &options).await?;
            let chosen = stage.sound.lead_later(&stage.name, &options.clone().with_id("chosen"));
            stage.ctx.until_line(Kind::Election, &stage.name, |_, waiting| waiting == 1).await?;
            loop {
                match leadership.hand_over("chosen").await {
                    Ok(()) => break,
                    // The line could not be read; it goes on.
                    Err(failed) if failed.error.is_retryable() => match failed.leadership {
                        Some(same) => leadership = same,
                        None => return Err(failed.into()),
                    },
                    Err(failed) => return Err(failed.into()),
                }
            }
            let chosen = chosen.await??;
            stage.claims(1).await?;
            chosen.release().await?;
            Ok(())
        })
    })
    .await
}

async fn of_a_registration(ctx: Ctx) -> Verdict {
    every_loss(ctx, Kind::Registry, |stage| {
        Box::pin(async move {
            let instance = Instance::new("i", "host:1");
            let options = stage.ctx.register_options();
            let registration = stage.client.register(&stage.name, instance.clone(), &options).await?;
            stage.claims(1).await?;
            registration.update(Instance::new("i", "host:2")).await?;
            let listed = reading(|| stage.client.instances(&stage.name)).await?;
            let shown: Vec<_> =
                listed.iter().map(|member| (member.instance.address.as_str(), member.token)).collect();
            ensure!(shown == [("host:2", registration.token())], "{shown:?} is listed");
            registration.deregister().await?;
            stage.claims(0).await
        })
    })
    .await
}

async fn of_a_barrier(ctx: Ctx) -> Verdict {
    every_loss(ctx, Kind::Barrier, |stage| {
        Box::pin(async move {
            let options = stage.ctx.barrier_options();
            let pass = |coordinator: Coordinator| {
                let (name, options) = (stage.name.clone(), options.clone());
                async move {
                    let inside = coordinator.enter(&name, 2, &options).await?;
                    inside.leave(None).await?;
                    coordinator.wait(&name, 2, &options).await?;
                    Ok::<_, Error>(())
                }
            };
            let (one, two) = tokio::join!(pass((*stage.client).clone()), pass((*stage.sound).clone()));
            one?;
            two?;
            Ok(())
        })
    })
    .await
}
