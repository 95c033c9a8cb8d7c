//! Elections.

use std::sync::Arc;

use coord_core::{Election, ElectionExt, Error, Result, spi::Kind};

use super::sweep::{sweep, work};
use crate::{Ctx, Verdict};

pub(super) async fn campaign(ctx: Ctx) -> Verdict {
    sweep!(ctx, Election, s => work(async move {
        s.client.campaign(&s.name, &s.ctx.campaign_options()).await.map(drop)
    }))
}

pub(super) async fn proclaim_and_resign(ctx: Ctx) -> Verdict {
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
pub(super) async fn hand_over(ctx: Ctx) -> Verdict {
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

pub(super) async fn run_an_election(ctx: Ctx) -> Verdict {
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

pub(super) async fn observe(ctx: Ctx) -> Verdict {
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
