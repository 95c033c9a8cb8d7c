//! Registries and barriers.

use std::time::Duration;

use coord_core::{Barrier, Instance, Registry, spi::Kind};
use tokio::time::timeout;

use super::sweep::{sweep, work};
use crate::{Client, Ctx, Verdict};

pub(super) async fn register(ctx: Ctx) -> Verdict {
    sweep!(ctx, Registry, s => work(async move {
        s.client.register(&s.name, Instance::new("i", "host:1"), &s.ctx.register_options()).await.map(drop)
    }))
}

pub(super) async fn update_and_deregister(ctx: Ctx) -> Verdict {
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

pub(super) async fn watch_instances(ctx: Ctx) -> Verdict {
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
pub(super) async fn barrier_wait(ctx: Ctx) -> Verdict {
    sweep!(ctx, Barrier, s => work(async move {
        let options = s.ctx.barrier_options();
        let other = s.other.wait(&s.name, 2, &options);
        let (one, two) = tokio::join!(s.client.wait(&s.name, 2, &options), other);
        one.and(two).map(drop)
    }))
}

pub(super) async fn barrier_enter_and_leave(ctx: Ctx) -> Verdict {
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
