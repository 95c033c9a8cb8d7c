//! Observers of elections.

use std::time::Duration;

use coord_core::{ElectionEvent, Inspect, spi::Kind};

use super::cases;
use crate::{
    Ctx, Verdict, ensure,
    watching::{leader, observe},
};

cases! { "observe":
    starts_with_the_present_state,
    reports_every_change_that_lasts,
    reports_an_eviction,
    reports_a_leader_that_vanished,
    many_observers_agree,
}

/// A vacancy before the first leader; the leader for one who comes late.
async fn starts_with_the_present_state(ctx: Ctx) -> Verdict {
    let ([one, two], name) = (ctx.clients().await?, ctx.fresh_name());
    let mut early = observe(&two, &name);
    let first = ctx.soon("the first report", early.next()).await??;
    ensure!(first == ElectionEvent::Vacant, "nobody leads, and it reports {first:?}");
    let office = one.lead(&name, &ctx.campaign_options().with_value(*b"x")).await?;
    let mut late = observe(&two, &name);
    for observer in [&mut early, &mut late] {
        match ctx.soon("the report of the leader", observer.next()).await?? {
            ElectionEvent::Elected(seen) => {
                ensure!(
                    seen.term == office.token() && seen.id == one.owner() && seen.value == b"x",
                    "{seen:?}"
                );
            }
            other => ensure!(false, "{} leads, and it reports {other:?}", one.owner()),
        }
    }
    leader(&two, &name, true).await?;
    office.release().await?;
    Ok(())
}

/// Elected, proclaimed, vacant, elected again: in this order and nothing else.
async fn reports_every_change_that_lasts(ctx: Ctx) -> Verdict {
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.campaign_options());
    let mut observer = observe(&two, &name);
    ctx.soon("the first report", observer.next()).await??;
    for round in 0..3_u8 {
        let office = one.lead(&name, &options.clone().with_value([round])).await?;
        let event = ctx.soon("the election", observer.next()).await??;
        let ElectionEvent::Elected(seen) = event else {
            return Err(crate::Failure::new(format!("an election is reported as {event:?}")));
        };
        ensure!(seen.term == office.token() && seen.value == [round], "{seen:?}");
        office.guard().proclaim([round, round]).await?;
        let event = ctx.soon("the proclamation", observer.next()).await??;
        let ElectionEvent::Proclaimed(seen) = event else {
            return Err(crate::Failure::new(format!("a proclamation is reported as {event:?}")));
        };
        ensure!(seen.term == office.token() && seen.value == [round, round], "{seen:?}");
        office.release().await?;
        let event = ctx.soon("the resignation", observer.next()).await??;
        ensure!(event == ElectionEvent::Vacant, "a resignation is reported as {event:?}");
    }
    leader(&two, &name, true).await?;
    Ok(())
}

/// A leader that is thrown out by force is reported as gone.
async fn reports_an_eviction(ctx: Ctx) -> Verdict {
    let ([one, two], name) = (ctx.clients().await?, ctx.fresh_name());
    let office = one.lead(&name, &ctx.campaign_options()).await?;
    let mut observer = observe(&two, &name);
    ctx.soon("the first report", observer.next()).await??;
    two.force_release(Kind::Election, &name, None).await?;
    let event = ctx.soon("the eviction", observer.next()).await??;
    ensure!(event == ElectionEvent::Vacant, "an eviction is reported as {event:?}");
    ctx.soon("telling the leader", office.lost()).await?;
    Ok(())
}

/// So is one whose lease ended without a word.
async fn reports_a_leader_that_vanished(ctx: Ctx) -> Verdict {
    let (two, name) = (ctx.client().await?, ctx.fresh_name());
    let (one, faults) = super::faulty::faulty_client(&ctx).await?;
    let office = one.lead(&name, &ctx.campaign_options().with_ttl(ctx.short_ttl())).await?;
    let mut observer = observe(&two, &name);
    ctx.soon("the first report", observer.until(|event| matches!(event, ElectionEvent::Elected(_))))
        .await??;
    faults.partition(true);
    let event = ctx.soon("the end of the lease", observer.next()).await??;
    ensure!(event == ElectionEvent::Vacant, "the end of a lease is reported as {event:?}");
    ensure!(!office.is_held(), "the store let go of a leadership that its holder still believes in");
    faults.heal();
    Ok(())
}

/// Candidates come and go; observers on several clients see the terms in their order and agree at the end.
async fn many_observers_agree(ctx: Ctx) -> Verdict {
    let name = ctx.fresh_name();
    let (observers, candidates) = (ctx.clients::<2>().await?, ctx.clients::<3>().await?);
    let mut work = Vec::new();
    for (number, client) in candidates.into_iter().enumerate() {
        let (name, options) = (name.clone(), ctx.campaign_options());
        work.push(tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(number as u64);
            for _ in 0..6 {
                let office = client.lead(&name, &options).await?;
                tokio::time::sleep(Duration::from_millis(random.u64(0..8))).await;
                ensure!(office.is_held(), "a leadership of ten seconds was lost");
                office.release().await?;
            }
            Ok::<_, crate::Failure>(())
        }));
    }
    let last = ctx.client().await?;
    let mut watching = Vec::new();
    for client in observers {
        let (name, id) = (name.clone(), last.owner().to_owned());
        watching.push(tokio::spawn(async move {
            let mut observer = observe(&client, &name);
            let is_last =
                |event: &ElectionEvent| matches!(event, ElectionEvent::Elected(now) if now.id == id);
            observer.until(is_last).await?;
            Ok::<_, crate::Failure>(())
        }));
    }
    for candidate in work {
        candidate.await??;
    }
    let office = last.lead(&name, &ctx.campaign_options()).await?;
    for observer in watching {
        ctx.soon("the last report", observer).await???;
    }
    leader(&last, &name, true).await?;
    office.release().await?;
    Ok(())
}
