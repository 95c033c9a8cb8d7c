//! Barriers, single and double.

use std::time::Duration;

use coord_core::{Barrier, BarrierOptions, BarrierPass, Inside, Inspect, Name, Result, limits, spi::Kind};
use tokio::task::JoinHandle;

use super::cases;
use crate::{Client, Ctx, Verdict, ensure, refused};

cases! { "barrier":
    one_party_passes_at_once,
    all_parties_pass_together,
    is_reusable,
    more_parties_than_needed_form_two_rounds,
    a_party_that_gives_up_does_not_count,
    a_party_that_is_dropped_does_not_count,
    a_party_that_vanished_does_not_count,
    an_evicted_party_is_told,
    numbers_that_make_no_sense_are_refused,
    parties_enter_and_leave_together,
    a_party_that_vanished_inside_does_not_block,
    a_party_dropped_inside_does_not_block,
    leaving_ends_with_its_wait,
    double_rounds_follow_each_other,
}

fn wait_later(
    client: &Client,
    name: &Name,
    parties: u32,
    options: &BarrierOptions,
) -> JoinHandle<Result<BarrierPass>> {
    let (client, name, options) = (client.clone(), name.clone(), options.clone());
    tokio::spawn(async move { client.wait(&name, parties, &options).await })
}

fn enter_later(
    client: &Client,
    name: &Name,
    parties: u32,
    options: &BarrierOptions,
) -> JoinHandle<Result<Inside>> {
    let (client, name, options) = (client.clone(), name.clone(), options.clone());
    tokio::spawn(async move { client.enter(&name, parties, &options).await })
}

/// Waits until this many parties stand at the barrier.
async fn until_there(ctx: &Ctx, name: &Name, parties: usize) -> Verdict {
    ctx.soon("the arrival", ctx.until_line(Kind::Barrier, name, |there, _| there == parties)).await?
}

/// A barrier of one is no barrier.
async fn one_party_passes_at_once(ctx: Ctx) -> Verdict {
    let (client, name, options) = (ctx.client().await?, ctx.fresh_name(), ctx.barrier_options());
    let first = ctx.soon("the pass", client.wait(&name, 1, &options)).await??;
    let second = ctx.soon("the pass", client.wait(&name, 1, &options)).await??;
    ensure!(first.index == 0 && second.token > first.token, "{first:?}, then {second:?}");
    Ok(())
}

/// Nobody passes before the last one comes; then all do, each with a token of its own.
async fn all_parties_pass_together(ctx: Ctx) -> Verdict {
    let (clients, name, options) = (ctx.clients::<4>().await?, ctx.fresh_name(), ctx.barrier_options());
    let mut waiting = Vec::new();
    for (number, client) in clients[..3].iter().enumerate() {
        waiting.push(wait_later(client, &name, 4, &options));
        until_there(&ctx, &name, number + 1).await?;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    ensure!(!waiting.iter().any(JoinHandle::is_finished), "a party passed before the last one came");
    let mut passes = vec![ctx.soon("the last one's pass", clients[3].wait(&name, 4, &options)).await??];
    for party in waiting {
        passes.push(ctx.soon("a pass", party).await???);
    }
    ensure!(passes.iter().all(|pass| pass.index < 4), "four parties have the numbers {passes:?}");
    passes.sort_by_key(|pass| pass.token);
    ensure!(passes.windows(2).all(|pair| pair[0].token < pair[1].token), "two have one token: {passes:?}");
    ensure!(passes.iter().any(|pass| pass.index == 0), "nobody was the first: {passes:?}");
    Ok(())
}

/// Round after round, with no set-up in between; tokens grow from round to round.
async fn is_reusable(ctx: Ctx) -> Verdict {
    let (name, mut parties) = (ctx.fresh_name(), Vec::new());
    for _ in 0..3 {
        let (client, name, options) = (ctx.client().await?, name.clone(), ctx.barrier_options());
        parties.push(tokio::spawn(async move {
            let mut tokens = Vec::new();
            for _ in 0..6 {
                tokens.push(client.wait(&name, 3, &options).await?.token);
            }
            Ok::<_, coord_core::Error>(tokens)
        }));
    }
    let mut of_party = Vec::new();
    for party in parties {
        of_party.push(party.await??);
    }
    for round in 1..6 {
        let before = of_party.iter().map(|tokens| tokens[round - 1]).max();
        let now = of_party.iter().map(|tokens| tokens[round]).min();
        ensure!(now > before, "round {round} has a token {now:?}, the one before it {before:?}");
    }
    Ok(())
}

/// Of five at a barrier for three, three pass; a sixth lets the others pass.
async fn more_parties_than_needed_form_two_rounds(ctx: Ctx) -> Verdict {
    let (clients, name, options) = (ctx.clients::<6>().await?, ctx.fresh_name(), ctx.barrier_options());
    let mut waiting: Vec<_> =
        clients[..5].iter().map(|client| wait_later(client, &name, 3, &options)).collect();
    ctx.until(async || Ok((waiting.iter().filter(|party| party.is_finished()).count() >= 3).then_some(())))
        .await?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let passed = waiting.iter().filter(|party| party.is_finished()).count();
    ensure!(passed == 3, "{passed} of five passed a barrier for three");
    waiting.push(wait_later(&clients[5], &name, 3, &options));
    let mut tokens = Vec::new();
    for party in waiting {
        tokens.push(ctx.soon("a pass", party).await???.token);
    }
    tokens.sort();
    ensure!(tokens.windows(2).all(|pair| pair[0] < pair[1]), "two have one token: {tokens:?}");
    Ok(())
}

/// One waits for a short time and leaves; two of three are still too few.
async fn a_party_that_gives_up_does_not_count(ctx: Ctx) -> Verdict {
    let (clients, name, options) = (ctx.clients::<4>().await?, ctx.fresh_name(), ctx.barrier_options());
    let first = wait_later(&clients[0], &name, 3, &options);
    until_there(&ctx, &name, 1).await?;
    let short = options.clone().with_wait(Duration::from_millis(100));
    let outcome = ctx.soon("giving up", clients[1].wait(&name, 3, &short)).await?;
    refused!(outcome, NotGranted);
    until_there(&ctx, &name, 1).await?;
    two_more_complete_it(&ctx, &name, first, &clients[2], &clients[3]).await
}

/// One is dropped while it waits.
async fn a_party_that_is_dropped_does_not_count(ctx: Ctx) -> Verdict {
    let (clients, name, options) = (ctx.clients::<4>().await?, ctx.fresh_name(), ctx.barrier_options());
    let first = wait_later(&clients[0], &name, 3, &options);
    let dropped = wait_later(&clients[1], &name, 3, &options);
    until_there(&ctx, &name, 2).await?;
    dropped.abort();
    until_there(&ctx, &name, 1).await?;
    two_more_complete_it(&ctx, &name, first, &clients[2], &clients[3]).await
}

/// One is cut off while it waits: its lease ends.
async fn a_party_that_vanished_does_not_count(ctx: Ctx) -> Verdict {
    let (clients, name, options) = (ctx.clients::<3>().await?, ctx.fresh_name(), ctx.barrier_options());
    let (faulty, faults) = super::faulty::faulty_client(&ctx).await?;
    let first = wait_later(&clients[0], &name, 3, &options);
    let vanished = wait_later(&faulty, &name, 3, &options.with_ttl(ctx.short_ttl()));
    until_there(&ctx, &name, 2).await?;
    faults.partition(true);
    until_there(&ctx, &name, 1).await?;
    two_more_complete_it(&ctx, &name, first, &clients[1], &clients[2]).await?;
    let outcome = ctx.soon("telling the one that was cut off", vanished).await??;
    ensure!(outcome.is_err(), "one that was cut off passed: {outcome:?}");
    faults.heal();
    Ok(())
}

async fn two_more_complete_it(
    ctx: &Ctx,
    name: &Name,
    first: JoinHandle<Result<BarrierPass>>,
    second: &Client,
    third: &Client,
) -> Verdict {
    let second = wait_later(second, name, 3, &ctx.barrier_options());
    until_there(ctx, name, 2).await?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    ensure!(!first.is_finished() && !second.is_finished(), "two parties passed a barrier for three");
    ctx.soon("the last one's pass", third.wait(name, 3, &ctx.barrier_options())).await??;
    ctx.soon("a pass", first).await???;
    ctx.soon("a pass", second).await???;
    Ok(())
}

/// A party that is thrown out by force hears of it.
async fn an_evicted_party_is_told(ctx: Ctx) -> Verdict {
    let ([one, admin], name) = (ctx.clients().await?, ctx.fresh_name());
    let waiting = wait_later(&one, &name, 2, &ctx.barrier_options());
    until_there(&ctx, &name, 1).await?;
    admin.force_release(Kind::Barrier, &name, None).await?;
    let outcome = ctx.soon("the loss", waiting).await??;
    refused!(outcome, Lost);
    Ok(())
}

/// No parties, and too many.
async fn numbers_that_make_no_sense_are_refused(ctx: Ctx) -> Verdict {
    let (client, name, options) = (ctx.client().await?, ctx.fresh_name(), ctx.barrier_options());
    for parties in [0, limits::MAX_PARTIES + 1, u32::MAX] {
        refused!(client.wait(&name, parties, &options).await, InvalidOptions);
        refused!(client.enter(&name, parties, &options).await, InvalidOptions);
    }
    Ok(())
}

/// Double: nobody is inside before all have come, and nobody is out before all want to leave.
async fn parties_enter_and_leave_together(ctx: Ctx) -> Verdict {
    let ([one, two, three], name) = (ctx.clients().await?, ctx.fresh_name());
    let options = ctx.barrier_options();
    let entering = [enter_later(&one, &name, 3, &options), enter_later(&two, &name, 3, &options)];
    until_there(&ctx, &name, 2).await?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    ensure!(!entering.iter().any(JoinHandle::is_finished), "a party entered before the last one came");
    let last = ctx.soon("entering", three.enter(&name, 3, &options)).await??;
    let mut inside = Vec::new();
    for party in entering {
        inside.push(ctx.soon("entering", party).await???);
    }
    ensure!(inside.iter().all(Inside::is_held) && last.is_held(), "somebody who entered is not inside");
    let mut tokens: Vec<_> = inside.iter().map(Inside::token).chain([last.token()]).collect();
    tokens.sort();
    ensure!(tokens.windows(2).all(|pair| pair[0] < pair[1]), "two have one token: {tokens:?}");
    let leaving: Vec<_> = inside.into_iter().map(|party| tokio::spawn(party.leave(None))).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    ensure!(!leaving.iter().any(JoinHandle::is_finished), "a party left before the last one wanted to");
    ctx.soon("leaving", last.leave(None)).await??;
    for party in leaving {
        ctx.soon("leaving", party).await???;
    }
    until_there(&ctx, &name, 0).await
}

/// One of those inside is cut off; the others leave when its lease has ended.
async fn a_party_that_vanished_inside_does_not_block(ctx: Ctx) -> Verdict {
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.barrier_options());
    let (faulty, faults) = super::faulty::faulty_client(&ctx).await?;
    let short = options.clone().with_ttl(ctx.short_ttl());
    let entering = [
        enter_later(&one, &name, 3, &options),
        enter_later(&two, &name, 3, &options),
        enter_later(&faulty, &name, 3, &short),
    ];
    let mut inside = Vec::new();
    for party in entering {
        inside.push(ctx.soon("entering", party).await???);
    }
    faults.partition(true);
    if let Some(vanished) = inside.pop() {
        ctx.soon("the loss", vanished.lost()).await?;
        ensure!(!vanished.is_held(), "it is lost and inside");
    }
    let leaving: Vec<_> = inside.into_iter().map(|party| tokio::spawn(party.leave(None))).collect();
    for party in leaving {
        ctx.soon("leaving", party).await???;
    }
    faults.heal();
    Ok(())
}

/// One of those inside is dropped: it leaves without waiting.
async fn a_party_dropped_inside_does_not_block(ctx: Ctx) -> Verdict {
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.barrier_options());
    let entering = enter_later(&one, &name, 2, &options);
    let second = ctx.soon("entering", two.enter(&name, 2, &options)).await??;
    let first = ctx.soon("entering", entering).await???;
    drop(first);
    ctx.soon("leaving", second.leave(None)).await??;
    until_there(&ctx, &name, 0).await
}

/// Who does not want to wait for the others any longer is told that they stay, and has left.
async fn leaving_ends_with_its_wait(ctx: Ctx) -> Verdict {
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.barrier_options());
    let entering = enter_later(&one, &name, 2, &options);
    let second = ctx.soon("entering", two.enter(&name, 2, &options)).await??;
    let first = ctx.soon("entering", entering).await???;
    let outcome = ctx.soon("the end", first.leave(Some(Duration::from_millis(100)))).await?;
    refused!(outcome, NotGranted);
    until_there(&ctx, &name, 1).await?;
    ctx.soon("leaving", second.leave(None)).await??;
    Ok(())
}

/// Enter, leave, enter again: phases do not mix.
async fn double_rounds_follow_each_other(ctx: Ctx) -> Verdict {
    let (name, inside) = (ctx.fresh_name(), std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0)));
    let order = std::sync::atomic::Ordering::SeqCst;
    for _ in 0..3 {
        let (client, name, options, inside) =
            (ctx.client().await?, name.clone(), ctx.barrier_options(), inside.clone());
        ctx.spawn(async move {
            for round in 0..4 {
                let party = client.enter(&name, 3, &options).await?;
                let count = inside.fetch_add(1, order) + 1;
                ensure!(count > round * 3 && count <= round * 3 + 3, "entry {count} is of round {round}");
                party.leave(None).await?;
                let count = inside.load(order);
                ensure!(count >= (round + 1) * 3, "a party left round {round} when {count} had entered");
            }
            Ok(())
        });
    }
    Ok(())
}
