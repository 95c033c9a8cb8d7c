//! Elections: candidates, terms, leaders.

use std::{
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use coord_core::{Election, ElectionExt, ErrorKind, Inspect, limits, spi::Kind};
use tokio::sync::Notify;

use super::cases;
use crate::{Ctx, Failure, Verdict, ensure, refused, watching::leader};

cases! { "election":
    candidates_are_elected_in_their_order,
    the_leader_is_shown,
    a_campaign_ends_with_its_wait,
    a_resignation_elects_the_next_at_once,
    a_dropped_leadership_elects_the_next_at_once,
    a_higher_priority_is_elected_first [Priority],
    the_overtaken_have_greater_terms [Priority],
    a_leader_in_office_is_not_overtaken [Priority],
    hand_over_to_a_named_candidate [HandOver],
    hand_over_to_nobody_changes_nothing [HandOver],
    a_lost_leadership_cannot_be_handed_over [HandOver],
    proclaim_changes_the_value_within_the_term,
    a_lost_leadership_cannot_proclaim,
    an_evicted_leader_is_told,
    run_resigns_when_the_work_is_done,
    run_campaigns_again_after_a_loss,
    run_campaigns_again_when_told_to,
    a_dropped_run_resigns,
}

/// First come, first elected; every term is greater than the one before.
async fn candidates_are_elected_in_their_order(ctx: Ctx) -> Verdict {
    let (clients, name, options) = (ctx.clients::<4>().await?, ctx.fresh_name(), ctx.campaign_options());
    let mut office = clients[0].lead(&name, &options).await?;
    let mut waiting = Vec::new();
    for (number, client) in clients[1..].iter().enumerate() {
        waiting.push(client.lead_later(&name, &options));
        ctx.until_line(Kind::Election, &name, |_, waiting| waiting == number + 1).await?;
    }
    for (next, client) in waiting.into_iter().zip(&clients[1..]) {
        let term = office.token();
        ensure!(office.is_held(), "a leadership of ten seconds was lost");
        office.release().await?;
        office = ctx.soon("the next election", next).await???;
        ensure!(office.token() > term, "term {} came after {term}", office.token());
        let now = leader(client, &name, false).await?;
        ensure!(now.is_some_and(|now| now.id == client.owner()), "somebody else is shown as the leader");
    }
    office.release().await?;
    Ok(())
}

/// Everybody can ask who leads, with which term and value; nobody before the first and after the last.
async fn the_leader_is_shown(ctx: Ctx) -> Verdict {
    let ([one, two], name) = (ctx.clients().await?, ctx.fresh_name());
    ensure!(leader(&two, &name, false).await?.is_none(), "somebody leads before the first campaign");
    let options = ctx.campaign_options().with_id("node 1/🦀").with_value(*b"10.0.0.1:80\0");
    let office = one.lead(&name, &options).await?;
    for client in [&one, &two] {
        let Some(shown) = leader(client, &name, false).await? else {
            return Err(Failure::new("nobody is shown as the leader"));
        };
        ensure!(shown.id == "node 1/🦀" && shown.value == b"10.0.0.1:80\0", "it is shown as {shown:?}");
        ensure!(shown.term == office.token(), "term {} is shown as {}", office.token(), shown.term);
    }
    ensure!(office.guard().is_leader() && !office.guard().valid_for().is_zero(), "it does not lead");
    office.release().await?;
    ensure!(leader(&two, &name, false).await?.is_none(), "somebody leads after the resignation");
    Ok(())
}

/// A candidate that is not elected in time is told so and has left the line; a wait of zero is a try.
async fn a_campaign_ends_with_its_wait(ctx: Ctx) -> Verdict {
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.campaign_options());
    let office = one.lead(&name, &options).await?;
    for wait in [Duration::ZERO, Duration::from_millis(100)] {
        let outcome = ctx.soon("the end", two.campaign(&name, &options.clone().with_wait(wait))).await?;
        refused!(outcome, NotGranted);
        ctx.soon("leaving the line", ctx.until_line(Kind::Election, &name, |_, waiting| waiting == 0))
            .await??;
    }
    ensure!(office.is_held(), "a campaign that failed ended the leadership");
    office.release().await?;
    two.campaign(&name, &options.with_wait(Duration::ZERO)).await?.resign().await?;
    Ok(())
}

/// A resignation is heard of at once.
async fn a_resignation_elects_the_next_at_once(ctx: Ctx) -> Verdict {
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.campaign_options());
    let office = one.lead(&name, &options).await?;
    let next = two.lead_later(&name, &options);
    ctx.until_line(Kind::Election, &name, |_, waiting| waiting == 1).await?;
    office.release().await?;
    ctx.soon("the next election", next).await???.release().await?;
    Ok(())
}

/// So is a drop.
async fn a_dropped_leadership_elects_the_next_at_once(ctx: Ctx) -> Verdict {
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.campaign_options());
    let office = one.lead(&name, &options).await?;
    let next = two.lead_later(&name, &options);
    ctx.until_line(Kind::Election, &name, |_, waiting| waiting == 1).await?;
    drop(office);
    ctx.soon("the next election", next).await???.release().await?;
    Ok(())
}

/// Among those who wait the highest priority goes first, and equal ones in the order in which they came.
async fn a_higher_priority_is_elected_first(ctx: Ctx) -> Verdict {
    let (clients, name, options) = (ctx.clients::<7>().await?, ctx.fresh_name(), ctx.campaign_options());
    let mut office = clients[0].lead(&name, &options).await?;
    let priorities = [0, 5, i32::MIN, 5, i32::MAX, 0];
    let mut waiting = Vec::new();
    for (number, (client, priority)) in clients[1..].iter().zip(priorities).enumerate() {
        waiting.push(Some(client.lead_later(&name, &options.clone().with_priority(priority))));
        ctx.until_line(Kind::Election, &name, |_, waiting| waiting == number + 1).await?;
    }
    let line = clients[0].inspect(Kind::Election, &name).await?;
    let order: Vec<_> = line.waiters.iter().map(|waiter| waiter.priority).collect();
    ensure!(order == [i32::MAX, 5, 5, 0, 0, i32::MIN], "the line is in the order {order:?}");
    for number in [4, 1, 3, 0, 5, 2] {
        let term = office.token();
        office.release().await?;
        let Some(next) = waiting[number].take() else { return Err(Failure::new("elected twice")) };
        office = ctx.soon("the next election", next).await???;
        ensure!(office.token() > term, "term {} came after {term}", office.token());
    }
    office.release().await?;
    Ok(())
}

/// Who is overtaken while it waits gets a term greater than that of whoever overtook it.
async fn the_overtaken_have_greater_terms(ctx: Ctx) -> Verdict {
    let ([one, two, three], name) = (ctx.clients().await?, ctx.fresh_name());
    let options = ctx.campaign_options();
    let office = one.lead(&name, &options).await?;
    let early = two.lead_later(&name, &options);
    ctx.until_line(Kind::Election, &name, |_, waiting| waiting == 1).await?;
    let before = one.inspect(Kind::Election, &name).await?.waiters[0].token;
    let important = three.lead_later(&name, &options.clone().with_priority(1));
    ctx.until_line(Kind::Election, &name, |_, waiting| waiting == 2).await?;
    let line = one.inspect(Kind::Election, &name).await?;
    ensure!(line.waiters[0].owner == three.owner(), "the important one did not overtake: {line:?}");
    let (important_token, early_token) = (line.waiters[0].token, line.waiters[1].token);
    ensure!(early_token > important_token && early_token > before, "the overtaken keeps its token: {line:?}");
    office.release().await?;
    let important = ctx.soon("the election of the important one", important).await???;
    ensure!(!early.is_finished(), "two lead");
    let term = important.token();
    important.release().await?;
    let early = ctx.soon("the election of the overtaken one", early).await???;
    ensure!(early.token() > term, "term {} came after {term}", early.token());
    early.release().await?;
    Ok(())
}

/// A challenger of the highest priority waits for the end of a term.
async fn a_leader_in_office_is_not_overtaken(ctx: Ctx) -> Verdict {
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.campaign_options());
    let ttl = ctx.short_ttl() * 2;
    let office = one.lead(&name, &options.clone().with_priority(i32::MIN).with_ttl(ttl)).await?;
    let term = office.token();
    let challenger = two.lead_later(&name, &options.with_priority(i32::MAX));
    ctx.until_line(Kind::Election, &name, |_, waiting| waiting == 1).await?;
    tokio::time::sleep(ttl * 2).await;
    ensure!(office.is_held() && office.token() == term, "a leader in office was overtaken");
    let shown = leader(&two, &name, false).await?;
    ensure!(shown.is_some_and(|shown| shown.term == term), "another one is shown as the leader");
    office.release().await?;
    ctx.soon("the challenger's election", challenger).await???.release().await?;
    Ok(())
}

/// The leader hands over to the third in line; those ahead of it come later, with greater terms.
async fn hand_over_to_a_named_candidate(ctx: Ctx) -> Verdict {
    let (clients, name, options) = (ctx.clients::<4>().await?, ctx.fresh_name(), ctx.campaign_options());
    let office = clients[0].lead(&name, &options.clone().with_id("a")).await?;
    let mut waiting = Vec::new();
    for (number, (client, id)) in clients[1..].iter().zip(["b", "c", "d"]).enumerate() {
        waiting.push(client.lead_later(&name, &options.clone().with_id(id)));
        ctx.until_line(Kind::Election, &name, |_, waiting| waiting == number + 1).await?;
    }
    let mut term = office.token();
    office.into_inner().hand_over("d").await?;
    for (id, next) in [("d", waiting.remove(2)), ("b", waiting.remove(0)), ("c", waiting.remove(0))] {
        let next = ctx.soon("the next election", next).await???;
        let shown = leader(&clients[0], &name, false).await?.map(|shown| shown.id);
        ensure!(shown.as_deref() == Some(id), "it is the turn of {id}, and {shown:?} leads");
        ensure!(next.token() > term, "term {} came after {term}", next.token());
        term = next.token();
        next.release().await?;
    }
    Ok(())
}

/// A hand-over to one who does not wait fails, and the leader goes on.
async fn hand_over_to_nobody_changes_nothing(ctx: Ctx) -> Verdict {
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.campaign_options());
    let mut office = one.campaign(&name, &options.clone().with_id("a")).await?;
    let term = office.term();
    let waiting = two.lead_later(&name, &options.with_id("b"));
    ctx.until_line(Kind::Election, &name, |_, waiting| waiting == 1).await?;
    for nobody in ["c", "", "a"] {
        let Err(failed) = office.hand_over(nobody).await else {
            return Err(Failure::new(format!("a hand-over to {nobody:?} succeeded")));
        };
        ensure!(failed.error.kind() == ErrorKind::NotFound, "NotFound was expected, not {:?}", failed.error);
        let Some(kept) = failed.leadership else { return Err(Failure::new("the leadership is gone")) };
        office = kept;
        ensure!(office.is_leader() && office.term() == term, "the leadership ended");
    }
    office.proclaim(*b"still here").await?;
    office.hand_over("b").await?;
    ctx.soon("the election of the named one", waiting).await???.release().await?;
    Ok(())
}

/// A leadership that was lost cannot be given to anybody.
async fn a_lost_leadership_cannot_be_handed_over(ctx: Ctx) -> Verdict {
    let ([one, two, three], name) = (ctx.clients().await?, ctx.fresh_name());
    let options = ctx.campaign_options();
    let office = one.campaign(&name, &options).await?;
    two.force_release(Kind::Election, &name, None).await?;
    ctx.soon("the loss", office.lost()).await?;
    let second = two.lead(&name, &options).await?;
    let third = three.lead_later(&name, &options);
    ctx.until_line(Kind::Election, &name, |_, waiting| waiting == 1).await?;
    let Err(failed) = office.hand_over(three.owner()).await else {
        return Err(Failure::new("a lost leadership was handed over"));
    };
    ensure!(failed.error.kind() == ErrorKind::Lost, "Lost was expected, not {:?}", failed.error);
    ensure!(second.is_held() && !third.is_finished(), "a lost leader unseated the present one");
    second.release().await?;
    ctx.soon("the next election", third).await???.release().await?;
    Ok(())
}

/// The value changes, the term stays; a value over the limit is refused and changes nothing.
async fn proclaim_changes_the_value_within_the_term(ctx: Ctx) -> Verdict {
    let ([one, two], name) = (ctx.clients().await?, ctx.fresh_name());
    let office = one.lead(&name, &ctx.campaign_options().with_value(*b"first")).await?;
    for value in [vec![], b"second".to_vec(), vec![0; limits::MAX_VALUE]] {
        office.guard().proclaim(value.clone()).await?;
        let shown = leader(&two, &name, false).await?;
        ensure!(
            shown.is_some_and(|shown| shown.value == value && shown.term == office.token()),
            "a value of {} bytes is not shown",
            value.len()
        );
        refused!(office.guard().proclaim(vec![0; limits::MAX_VALUE + 1]).await, TooLarge);
        ensure!(office.is_held(), "a value that was refused ended the leadership");
    }
    office.release().await?;
    Ok(())
}

/// What a former leader says is not heard.
async fn a_lost_leadership_cannot_proclaim(ctx: Ctx) -> Verdict {
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.campaign_options());
    let office = one.campaign(&name, &options).await?;
    two.force_release(Kind::Election, &name, None).await?;
    let second = two.lead(&name, &options.with_value(*b"second")).await?;
    refused!(office.proclaim(*b"first").await, Lost);
    let shown = leader(&one, &name, false).await?;
    ensure!(shown.is_some_and(|shown| shown.value == b"second"), "a former leader is heard");
    refused!(office.resign().await, Lost);
    ensure!(second.is_held(), "a former leader's resignation unseated the present one");
    second.release().await?;
    Ok(())
}

/// Taken away by force, a leadership ends at once, and so does its work.
async fn an_evicted_leader_is_told(ctx: Ctx) -> Verdict {
    let ([one, two], name) = (ctx.clients().await?, ctx.fresh_name());
    let office = one.campaign(&name, &ctx.campaign_options()).await?;
    let work = office.run(std::future::pending::<()>());
    let evict = async {
        let evicted = two.force_release(Kind::Election, &name, None).await?;
        ensure!(evicted.is_some(), "nobody led");
        Ok(())
    };
    let (outcome, evicted) = ctx.soon("the loss", async { tokio::join!(work, evict) }).await?;
    evicted?;
    refused!(outcome, Lost);
    ensure!(!office.is_leader() && office.valid_for().is_zero(), "it is lost and leads");
    Ok(())
}

/// `run` returns the work's value and leaves the office free.
async fn run_resigns_when_the_work_is_done(ctx: Ctx) -> Verdict {
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.campaign_options());
    let work = one.run(&name, &options, |office| async move { ControlFlow::Break(office.term()) }, |_| {});
    let term = ctx.soon("the end of the work", work).await??;
    let next = two.campaign(&name, &options.with_wait(Duration::ZERO)).await?;
    ensure!(next.term() > term, "term {} came after {term}", next.term());
    next.resign().await?;
    Ok(())
}

/// After a loss the work is dropped, the loss is told with its term, and the next term begins by itself.
async fn run_campaigns_again_after_a_loss(ctx: Ctx) -> Verdict {
    let ([one, admin], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.campaign_options());
    let (elected, mut terms) = tokio::sync::mpsc::unbounded_channel();
    let lost = Arc::new(Mutex::new(Vec::new()));
    let (told, its_name) = (lost.clone(), name.clone());
    let running = tokio::spawn(async move {
        let mut rounds = 0;
        let on_elected = |office: Arc<coord_core::Leadership>| {
            rounds += 1;
            let last = rounds == 3;
            let _ = elected.send(office.term());
            async move {
                if !last {
                    std::future::pending::<()>().await;
                }
                ControlFlow::Break("done")
            }
        };
        let on_lost = |term| told.lock().expect("no panic holds it").push(term);
        one.run(&its_name, &options, on_elected, on_lost).await
    });
    let mut seen = Vec::new();
    for round in 0..3 {
        let Some(term) = ctx.soon("the next term", terms.recv()).await? else {
            return Err(Failure::new("it stopped campaigning"));
        };
        seen.push(term);
        if round < 2 {
            admin.force_release(Kind::Election, &name, None).await?;
        }
    }
    let value = ctx.soon("the end of the work", running).await???;
    ensure!(value == "done", "the work said done, run {value}");
    ensure!(seen.is_sorted_by(|a, b| a < b), "the terms were {seen:?}");
    let lost = lost.lock().expect("no panic holds it").clone();
    ensure!(lost == seen[..2], "the terms {:?} were lost, and it told of {lost:?}", &seen[..2]);
    Ok(())
}

/// With `Continue` it resigns and stands again, so that others come to their turn.
async fn run_campaigns_again_when_told_to(ctx: Ctx) -> Verdict {
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.campaign_options());
    let other = one.lead(&name, &options).await?;
    let mut terms = Vec::new();
    let running = async {
        two.run(
            &name,
            &options,
            |office| {
                terms.push(office.term());
                let round = terms.len();
                async move { if round < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) } }
            },
            |_| {},
        )
        .await
    };
    let resign = async {
        ctx.until_line(Kind::Election, &name, |_, waiting| waiting == 1).await?;
        other.release().await?;
        Ok::<_, Failure>(())
    };
    let (ran, resigned) = ctx.soon("three terms", async { tokio::join!(running, resign) }).await?;
    resigned?;
    ran?;
    ensure!(terms.len() == 3 && terms.is_sorted_by(|a, b| a < b), "the terms were {terms:?}");
    Ok(())
}

/// Dropped while it leads, `run` drops the work and resigns.
async fn a_dropped_run_resigns(ctx: Ctx) -> Verdict {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.campaign_options());
    let (dropped, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let (canary, begins, its_name, its_options) =
        (dropped.clone(), begun.clone(), name.clone(), options.clone());
    let running = tokio::spawn(async move {
        let on_elected = |_| {
            let (canary, begins) = (Dropped(canary.clone()), begins.clone());
            async move {
                let _canary = canary;
                begins.notify_one();
                std::future::pending::<ControlFlow<()>>().await
            }
        };
        one.run(&its_name, &its_options, on_elected, |_| {}).await
    });
    // Others may see it lead before it knows, and then there is no work to drop.
    ctx.soon("the work", begun.notified()).await?;
    running.abort();
    ctx.soon("the next election", two.campaign(&name, &options)).await??.resign().await?;
    ensure!(dropped.load(Ordering::SeqCst), "the work goes on without the leadership");
    Ok(())
}
