//! Fenced storage: stale tokens are refused.

use coord_core::{
    Condition, ConfigStore, ErrorKind, FencedKey, FencedStore, FencingToken, Inspect, Lock, Name, spi::Kind,
};

use super::{cases, demand, refusal};
use crate::{Client, Ctx, Verdict, history::Op};

cases! { "fenced":
    lower_tokens_are_refused [Values],
    a_fence_precedes_the_first_write [Values],
    writes_without_a_token_are_refused [Values],
    the_mark_survives_a_deletion [Values],
    a_stale_holder_is_refused [Values],
    holders_lose_no_update [Values],
}

/// The name under which failures of this file are reported.
const NAME: &str = "values";

fn token(number: u64) -> Verdict<FencingToken> {
    Ok(FencingToken::new(number)?)
}

async fn lower_tokens_are_refused(ctx: Ctx) -> Verdict {
    let ([one, two], key) = (ctx.clients().await?, ctx.fresh_name());
    one.fenced_write(&key, b"1".to_vec(), token(1005)?).await?;
    one.fenced_write(&key, b"2".to_vec(), token(1005)?).await?;
    let lower = two.fenced_write(&key, b"x".to_vec(), token(1004)?).await;
    refusal(NAME, lower, ErrorKind::Fenced)?;
    two.fenced_write(&key, b"3".to_vec(), token(1007)?).await?;
    let error = refusal(NAME, one.fenced_write(&key, b"x".to_vec(), token(1005)?).await, ErrorKind::Fenced)?;
    let text = error.to_string();
    demand!(text.contains("1005") && text.contains("1007"), "both tokens are to be named: {text}");
    refusal(NAME, one.fence(&key, token(1006)?).await, ErrorKind::Fenced)?;
    one.fence(&key, token(1007)?).await?;
    let stale = one.put(&key, b"x".to_vec(), Condition::Token(token(1)?)).await;
    refusal(NAME, stale, ErrorKind::Fenced)?;
    let read = one.fenced_read(&key).await?;
    demand!(read.value.as_deref() == Some(b"3") && read.mark == Some(token(1007)?), "{read:?}");
    Ok(())
}

async fn a_fence_precedes_the_first_write(ctx: Ctx) -> Verdict {
    let (client, key) = (ctx.client().await?, ctx.fresh_name());
    client.fence(&key, token(7)?).await?;
    let read = client.fenced_read(&key).await?;
    demand!(read.value.is_none() && read.mark == Some(token(7)?), "{read:?}");
    demand!(client.get(&key).await?.is_none(), "a fence is no value");
    demand!(client.list("", None, 10).await?.entries.is_empty(), "a fence is listed");
    let lower = client.fenced_write(&key, b"x".to_vec(), token(6)?).await;
    refusal(NAME, lower, ErrorKind::Fenced)?;
    client.fenced_write(&key, b"1".to_vec(), token(7)?).await?;
    Ok(())
}

async fn writes_without_a_token_are_refused(ctx: Ctx) -> Verdict {
    let (client, key) = (ctx.client().await?, ctx.fresh_name());
    let version = client.put(&key, b"1".to_vec(), Condition::Any).await?;
    client.fence(&key, token(5)?).await?;
    for condition in [Condition::Any, Condition::Absent, Condition::Version(version)] {
        refusal(NAME, client.put(&key, b"x".to_vec(), condition).await, ErrorKind::Fenced)?;
        refusal(NAME, client.delete(&key, condition).await, ErrorKind::Fenced)?;
    }
    let entry = client.get(&key).await?.map(|entry| (entry.value, entry.mark));
    demand!(entry == Some((b"1".to_vec(), Some(token(5)?))), "{entry:?}");
    Ok(())
}

async fn the_mark_survives_a_deletion(ctx: Ctx) -> Verdict {
    let (client, key) = (ctx.client().await?, ctx.fresh_name());
    client.fenced_write(&key, b"1".to_vec(), token(5)?).await?;
    client.delete(&key, Condition::Token(token(6)?)).await?;
    let read = client.fenced_read(&key).await?;
    demand!(read.value.is_none() && read.mark == Some(token(6)?), "{read:?}");
    let lower = client.fenced_write(&key, b"x".to_vec(), token(5)?).await;
    refusal(NAME, lower, ErrorKind::Fenced)?;
    refusal(NAME, client.put(&key, b"x".to_vec(), Condition::Absent).await, ErrorKind::Fenced)?;
    client.fenced_write(&key, b"2".to_vec(), token(6)?).await?;
    Ok(())
}

/// A holder is thrown out by force behind a fence, and its write comes late.
async fn a_stale_holder_is_refused(ctx: Ctx) -> Verdict {
    let ([stale, next], name, key) = (ctx.clients().await?, ctx.fresh_name(), ctx.fresh_name());
    let options = ctx.lock_options();
    let guard = stale.acquire(&name, &options).await?;
    let token = guard.token();
    stale.fence(&key, token).await?;
    stale.fenced_write(&key, b"1".to_vec(), token).await?;
    let fence = FencedKey::new((*next).clone(), key.clone());
    next.force_release(Kind::Lock, &name, Some(&fence)).await?;
    refusal(NAME, stale.fenced_write(&key, b"x".to_vec(), token).await, ErrorKind::Fenced)?;
    let newer = next.acquire(&name, &options).await?;
    next.fenced_write(&key, b"2".to_vec(), newer.token()).await?;
    let value = next.fenced_read(&key).await?.value;
    demand!(value.as_deref() == Some(b"2"), "{value:?}");
    newer.release().await?;
    Ok(())
}

/// One round of read, add one, write under a lock.
async fn add_one(client: &Client, ctx: &Ctx, lock: &Name, key: &Name) -> Verdict {
    let guard = client.lock(lock, &ctx.lock_options()).await?;
    let token = guard.guard().token();
    client.fence(key, token).await?;
    let read = client.fenced_read(key).await?.value.unwrap_or_else(|| b"0".to_vec());
    let read: u64 = String::from_utf8_lossy(&read).parse().unwrap_or(u64::MAX / 2);
    let wrote = read + 1;
    let version = client.fenced_write(key, wrote.to_string().into(), token).await?;
    let accepted = Op::Accepted { sequence: version, token: token.get(), write: Some((read, wrote)) };
    client.recorder().note(key.as_str(), accepted);
    guard.release().await?;
    Ok(())
}

async fn holders_lose_no_update(ctx: Ctx) -> Verdict {
    let (lock, key, rounds) = (ctx.fresh_name(), ctx.fresh_name(), 5u64);
    let clients: [Client; 4] = ctx.clients().await?;
    let work = clients.iter().map(|client| async {
        for _ in 0..rounds {
            add_one(client, &ctx, &lock, &key).await?;
        }
        Ok::<_, crate::Failure>(())
    });
    futures_util::future::try_join_all(work).await?;
    let sum = clients[0].fenced_read(&key).await?.value;
    let expected = (clients.len() as u64 * rounds).to_string();
    demand!(sum == Some(expected.into_bytes()), "the sum is {sum:?}");
    Ok(())
}
