//! Shared and exclusive locks.

use std::time::Duration;

use coord_core::{Inspect, Lock, RwLock, spi::Kind};

use super::cases;
use crate::{Ctx, Verdict, ensure, refused};

cases! { "rwlock":
    readers_share [Shared],
    a_writer_excludes_everybody [Shared],
    a_lock_is_a_writer [Shared],
    a_reader_waits_for_a_waiting_writer [Shared],
    a_writer_waits_for_all_readers [Shared],
    readers_behind_a_writer_enter_together [Shared],
    a_writer_has_a_greater_token_than_readers_before [Shared],
    neither_side_starves [Shared],
}

/// Readers hold together, each with a token of its own.
async fn readers_share(ctx: Ctx) -> Verdict {
    let (clients, name, options) = (ctx.clients::<4>().await?, ctx.fresh_name(), ctx.lock_options());
    let mut guards = Vec::new();
    for client in &clients {
        guards.push(client.share(&name, &options).await?);
    }
    ensure!(
        guards.windows(2).all(|pair| pair[0].token() < pair[1].token()),
        "tokens do not grow: {guards:?}"
    );
    let line = clients[0].inspect(Kind::Lock, &name).await?;
    ensure!(line.holders.len() == 4 && line.waiters.is_empty(), "four readers are shown as {line:?}");
    ensure!(guards.iter().all(|guard| guard.is_held()), "a reader lost its lock to another one");
    for guard in guards {
        guard.release().await?;
    }
    Ok(())
}

/// While a writer holds, nobody else does.
async fn a_writer_excludes_everybody(ctx: Ctx) -> Verdict {
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.lock_options());
    let writer = one.write(&name, &options).await?;
    refused!(two.try_read(&name, &options).await, NotGranted);
    refused!(two.try_write(&name, &options).await, NotGranted);
    writer.release().await?;
    let reader = one.try_read(&name, &options).await?;
    refused!(two.try_write(&name, &options).await, NotGranted);
    two.try_read(&name, &options).await?.release().await?;
    reader.release().await?;
    two.try_write(&name, &options).await?.release().await?;
    Ok(())
}

/// The lock of a name and its read-write lock exclude each other.
async fn a_lock_is_a_writer(ctx: Ctx) -> Verdict {
    let ([one, two], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.lock_options());
    let lock = one.lock(&name, &options).await?;
    refused!(two.try_read(&name, &options).await, NotGranted);
    refused!(two.try_write(&name, &options).await, NotGranted);
    lock.release().await?;
    let reader = two.share(&name, &options).await?;
    refused!(one.try_acquire(&name, &options).await, NotGranted);
    reader.release().await?;
    Ok(())
}

/// A reader that comes after a waiting writer waits behind it, so that writers do not starve.
async fn a_reader_waits_for_a_waiting_writer(ctx: Ctx) -> Verdict {
    let ([one, two, three], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.lock_options());
    let first = one.share(&name, &options).await?;
    let writer = two.lock_later(&name, &options);
    ctx.until_waiting(&name, 1).await?;
    refused!(three.try_read(&name, &options).await, NotGranted);
    let late = three.share_later(&name, &options);
    ctx.until_waiting(&name, 2).await?;
    first.release().await?;
    let writer = ctx.soon("the writer's grant", writer).await???;
    ensure!(!late.is_finished(), "a reader overtook a writer");
    let token = writer.token();
    writer.release().await?;
    let late = ctx.soon("the late reader's grant", late).await???;
    ensure!(late.token() > token, "token {} came after {token}", late.token());
    late.release().await?;
    Ok(())
}

/// A writer is granted when the last of several readers has left, whichever it is.
async fn a_writer_waits_for_all_readers(ctx: Ctx) -> Verdict {
    let ([one, two, three], name, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.lock_options());
    let (first, second) = (one.share(&name, &options).await?, two.share(&name, &options).await?);
    let writer = three.lock_later(&name, &options);
    ctx.until_waiting(&name, 1).await?;
    second.release().await?;
    tokio::time::sleep(Duration::from_millis(30)).await;
    ensure!(!writer.is_finished() && first.is_held(), "a writer holds beside a reader");
    first.release().await?;
    ctx.soon("the writer's grant", writer).await???.release().await?;
    Ok(())
}

/// All readers behind a writer enter when it leaves, up to the next writer.
async fn readers_behind_a_writer_enter_together(ctx: Ctx) -> Verdict {
    let ([one, two, three, four], name) = (ctx.clients().await?, ctx.fresh_name());
    let options = ctx.lock_options();
    let writer = one.lock(&name, &options).await?;
    let readers = [two.share_later(&name, &options), three.share_later(&name, &options)];
    ctx.until_waiting(&name, 2).await?;
    let last = four.lock_later(&name, &options);
    ctx.until_waiting(&name, 3).await?;
    writer.release().await?;
    let mut held = Vec::new();
    for reader in readers {
        held.push(ctx.soon("a reader's grant", reader).await???);
    }
    ensure!(held.iter().all(|guard| guard.is_held()), "the readers do not hold together");
    ensure!(!last.is_finished(), "a writer holds beside readers");
    for guard in held {
        guard.release().await?;
    }
    ctx.soon("the last writer's grant", last).await???.release().await?;
    Ok(())
}

/// So that a reader that was paused cannot write behind a writer's back.
async fn a_writer_has_a_greater_token_than_readers_before(ctx: Ctx) -> Verdict {
    let (client, name, options) = (ctx.client().await?, ctx.fresh_name(), ctx.lock_options());
    let mut highest = None;
    for _ in 0..3 {
        let readers = [client.share(&name, &options).await?, client.share(&name, &options).await?];
        for reader in readers {
            ensure!(Some(reader.token()) > highest, "token {} came after {highest:?}", reader.token());
            highest = highest.max(Some(reader.token()));
            reader.release().await?;
        }
        let writer = client.lock(&name, &options).await?;
        ensure!(Some(writer.token()) > highest, "token {} came after {highest:?}", writer.token());
        highest = Some(writer.token());
        writer.release().await?;
    }
    Ok(())
}

/// Readers and writers contend; all of them come to their turn, and the checkers judge who held with whom.
async fn neither_side_starves(ctx: Ctx) -> Verdict {
    let name = ctx.fresh_name();
    for number in 0..6_u64 {
        let (client, name, options) = (ctx.client().await?, name.clone(), ctx.lock_options());
        ctx.spawn(async move {
            let mut random = fastrand::Rng::with_seed(number);
            for _ in 0..8 {
                let guard = if number < 4 {
                    client.share(&name, &options).await?
                } else {
                    client.lock(&name, &options).await?
                };
                tokio::time::sleep(Duration::from_millis(random.u64(0..4))).await;
                ensure!(guard.is_held(), "a lease of ten seconds was lost");
                guard.release().await?;
            }
            Ok(())
        });
    }
    Ok(())
}
