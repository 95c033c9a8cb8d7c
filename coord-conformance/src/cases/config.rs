//! Configuration: conditions, transactions, listings, history, watches.

use std::time::Duration;

use coord_core::{
    Change, Condition, Config, ConfigEvent, ConfigStore, ErrorKind, Name, Namespace, Watch, Write, limits,
};

use super::{cases, demand, faulty::faulty_client, refusal};
use crate::{Ctx, Failure, Verdict, checkers::progress::within};

cases! { "config":
    a_value_is_read_back [Values],
    conditions [Values],
    deletions [Values],
    a_version_never_comes_back [Values],
    pages [Values],
    prefixes_are_bytes [Values],
    several_writes_are_one [Values],
    history_of_a_key [Values],
    namespaces_are_apart [Values],
    limits_before_any_request [Values],
    a_watch_starts_with_the_present_state [Values],
    a_watch_of_one_key [Values],
    the_last_good_value_stays [Values],
}

/// The name under which failures of this file are reported.
const NAME: &str = "values";

/// Far beyond what one change takes to arrive.
const NEVER: Duration = Duration::from_secs(30);

fn key(text: &str) -> Verdict<Name> {
    Ok(Name::new(text)?)
}

fn put(key: &Name, value: &str, condition: Condition) -> Write {
    Write { key: key.clone(), condition, change: Change::Put(value.into()) }
}

pub(super) async fn next(watch: &mut Watch<ConfigEvent>) -> Verdict<ConfigEvent> {
    match within(NEVER, "an event of a watch", watch.next()).await? {
        Some(event) => Ok(event?),
        None => Err(Failure::by(NAME, "the watch ended")),
    }
}

async fn a_value_is_read_back(ctx: Ctx) -> Verdict {
    let ([one, other], key) = (ctx.clients().await?, ctx.fresh_name());
    demand!(one.get(&key).await?.is_none(), "there is a value that nobody wrote");
    let mut last = 0;
    for value in [Vec::new(), vec![0, 255, 10], vec![7; limits::MAX_VALUE], b"text".to_vec()] {
        let version = one.put(&key, value.clone(), Condition::Any).await?;
        demand!(version > last, "version {version} came after {last}");
        let Some(entry) = other.get(&key).await? else {
            return Err(Failure::by(NAME, "a value that was put is not there"));
        };
        demand!(entry.key == key && entry.value == value, "another value was read back");
        demand!(entry.version == version, "put says version {version}, get says {}", entry.version);
        demand!(entry.revision >= version, "the store's revision is behind");
        demand!(entry.by == one.owner() && entry.mark.is_none(), "{entry:?}");
        last = version;
    }
    Ok(())
}

async fn conditions(ctx: Ctx) -> Verdict {
    let ([one, two], key) = (ctx.clients().await?, ctx.fresh_name());
    let failed = ErrorKind::ConditionFailed;
    refusal(NAME, one.put(&key, b"0".to_vec(), Condition::Version(1)).await, failed)?;
    let first = one.put(&key, b"1".to_vec(), Condition::Absent).await?;
    refusal(NAME, two.put(&key, b"x".to_vec(), Condition::Absent).await, failed)?;
    let second = two.put(&key, b"2".to_vec(), Condition::Version(first)).await?;
    demand!(second > first, "version {second} came after {first}");
    let error = refusal(NAME, one.put(&key, b"x".to_vec(), Condition::Version(first)).await, failed)?;
    demand!(error.to_string().contains(&second.to_string()), "the error does not say what is there: {error}");
    refusal(NAME, one.put(&key, b"x".to_vec(), Condition::Version(second + 1)).await, failed)?;
    let value = one.get(&key).await?.map(|entry| (entry.value, entry.version));
    demand!(value == Some((b"2".to_vec(), second)), "a refused write changed it: {value:?}");
    Ok(())
}

async fn deletions(ctx: Ctx) -> Verdict {
    let (client, key) = (ctx.client().await?, ctx.fresh_name());
    client.delete(&key, Condition::Any).await?;
    demand!(client.history(&key, 1).await?.is_empty(), "something happened where there was no value");
    let version = client.put(&key, b"1".to_vec(), Condition::Absent).await?;
    refusal(NAME, client.delete(&key, Condition::Absent).await, ErrorKind::ConditionFailed)?;
    let wrong = client.delete(&key, Condition::Version(version + 1)).await;
    refusal(NAME, wrong, ErrorKind::ConditionFailed)?;
    client.delete(&key, Condition::Version(version)).await?;
    demand!(client.get(&key).await?.is_none(), "a deleted value is there");
    let again = client.delete(&key, Condition::Version(version)).await;
    refusal(NAME, again, ErrorKind::ConditionFailed)?;
    Ok(())
}

async fn a_version_never_comes_back(ctx: Ctx) -> Verdict {
    let (client, key) = (ctx.client().await?, ctx.fresh_name());
    let mut last = 0;
    for round in 0..5 {
        let version = client.put(&key, b"same".to_vec(), Condition::Absent).await?;
        demand!(version > last, "round {round}: version {version} came after {last}");
        if last > 0 {
            let old = client.put(&key, b"x".to_vec(), Condition::Version(last)).await;
            refusal(NAME, old, ErrorKind::ConditionFailed)?;
        }
        client.delete(&key, Condition::Version(version)).await?;
        last = version;
    }
    Ok(())
}

async fn pages(ctx: Ctx) -> Verdict {
    let client = ctx.client().await?;
    let keys = (0..25).map(|number| key(&format!("list {number:02}"))).collect::<Verdict<Vec<_>>>()?;
    // Not in their order, and with others around them.
    for key in keys.iter().rev() {
        client.put(key, key.as_str().into(), Condition::Any).await?;
    }
    for other in ["lisa", "list", "lisu", "list 99 deleted"] {
        client.put(&key(other)?, b"x".to_vec(), Condition::Any).await?;
    }
    client.delete(&key("list 99 deleted")?, Condition::Any).await?;
    for limit in [1, 7, 24, 25, 26] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = client.list("list ", after.as_ref(), limit).await?;
            demand!(page.entries.len() <= limit as usize, "a page of {} entries", page.entries.len());
            after = page.entries.last().map(|entry| entry.key.clone()).or(after);
            seen.extend(page.entries.into_iter().map(|entry| entry.key));
            if !page.more {
                break;
            }
            demand!(seen.len() < 100, "the listing never ends");
        }
        demand!(seen == keys, "in pages of {limit}: {seen:?}");
    }
    Ok(())
}

async fn prefixes_are_bytes(ctx: Ctx) -> Verdict {
    let client = ctx.client().await?;
    let all = ["A", "a", "a%b", "a*b", "a_b", "axb", "a\\b", "a\u{10ffff}", "ä", "b"];
    for text in all {
        client.put(&key(text)?, text.into(), Condition::Any).await?;
    }
    for prefix in ["", "A", "a", "a%", "a*", "a_", "a\\", "a\u{10ffff}", "ä", "b", "c"] {
        let mut expected: Vec<_> = all.iter().copied().filter(|text| text.starts_with(prefix)).collect();
        expected.sort_unstable();
        let page = client.list(prefix, None, 100).await?;
        let found: Vec<_> = page.entries.iter().map(|entry| entry.key.as_str()).collect();
        demand!(found == expected, "{prefix:?} finds {found:?}, not {expected:?}");
        demand!(!page.more, "{prefix:?}: there are no more");
    }
    Ok(())
}

async fn several_writes_are_one(ctx: Ctx) -> Verdict {
    let (client, a, b, c) = (ctx.client().await?, ctx.fresh_name(), ctx.fresh_name(), ctx.fresh_name());
    let both = vec![put(&a, "1", Condition::Absent), put(&b, "1", Condition::Absent)];
    let version = client.commit(both).await?;
    for key in [&a, &b] {
        let found = client.get(key).await?.map(|entry| entry.version);
        demand!(found == Some(version), "{key:?} has version {found:?}, not {version}");
    }
    let half = vec![put(&c, "2", Condition::Any), put(&a, "2", Condition::Absent)];
    refusal(NAME, client.commit(half).await, ErrorKind::ConditionFailed)?;
    demand!(client.get(&c).await?.is_none(), "half of a refused transaction was done");
    let mixed = vec![
        Write { key: a.clone(), condition: Condition::Version(version), change: Change::Delete },
        put(&b, "2", Condition::Version(version)),
        put(&c, "2", Condition::Absent),
    ];
    let second = client.commit(mixed).await?;
    demand!(client.get(&a).await?.is_none(), "the deletion is missing");
    let found = client.get(&c).await?.map(|entry| entry.version);
    demand!(found == Some(second) && second > version, "{found:?} after {version}");
    let twice = vec![put(&a, "3", Condition::Any), put(&a, "4", Condition::Any)];
    refusal(NAME, client.commit(twice).await, ErrorKind::InvalidOptions)?;
    refusal(NAME, client.commit(Vec::new()).await, ErrorKind::InvalidOptions)?;
    Ok(())
}

async fn history_of_a_key(ctx: Ctx) -> Verdict {
    let (client, key, other) = (ctx.client().await?, ctx.fresh_name(), ctx.fresh_name());
    let first = client.put(&key, b"1".to_vec(), Condition::Any).await?;
    client.put(&other, b"x".to_vec(), Condition::Any).await?;
    client.delete(&key, Condition::Any).await?;
    let third = client.put(&key, b"3".to_vec(), Condition::Any).await?;
    let states = client.history(&key, 10).await?;
    let values: Vec<_> = states.iter().map(|state| state.value.as_deref()).collect();
    demand!(values == [Some(&b"3"[..]), None, Some(b"1")], "{values:?}");
    demand!(states[0].version == third && states[2].version == first, "{states:?}");
    demand!(states[0].by == client.owner(), "{:?} wrote it", states[0].by);
    demand!(client.history(&key, 2).await?.len() == 2, "the limit does not hold");
    Ok(())
}

async fn namespaces_are_apart(ctx: Ctx) -> Verdict {
    let (client, key) = (ctx.client().await?, ctx.fresh_name());
    let other = client.with_namespace(Namespace::new("other")?);
    client.put(&key, b"here".to_vec(), Condition::Absent).await?;
    demand!(other.get(&key).await?.is_none(), "it is seen from another namespace");
    other.put(&key, b"there".to_vec(), Condition::Absent).await?;
    demand!(other.list("", None, 10).await?.entries.len() == 1, "a listing of one namespace");
    other.delete(&key, Condition::Any).await?;
    let value = client.get(&key).await?.map(|entry| entry.value);
    demand!(value == Some(b"here".to_vec()), "{value:?}");
    Ok(())
}

async fn limits_before_any_request(ctx: Ctx) -> Verdict {
    let ((client, faults), key) = (faulty_client(&ctx).await?, ctx.fresh_name());
    let too_long = vec![0; limits::MAX_VALUE + 1];
    refusal(NAME, client.put(&key, too_long, Condition::Any).await, ErrorKind::TooLarge)?;
    let writes = |count: usize, value: &str| {
        let write = |number| Ok(put(&self::key(&format!("k {number}"))?, value, Condition::Any));
        (0..count).map(write).collect::<Verdict<Vec<_>>>()
    };
    let many = client.commit(writes(limits::MAX_BATCH + 1, "x")?).await;
    refusal(NAME, many, ErrorKind::TooLarge)?;
    let big = "x".repeat(limits::MAX_VALUE);
    let much = client.commit(writes(limits::MAX_BATCH_BYTES / limits::MAX_VALUE + 1, &big)?).await;
    refusal(NAME, much, ErrorKind::TooLarge)?;
    for limit in [0, limits::MAX_BATCH as u32 + 1] {
        refusal(NAME, client.list("", None, limit).await, ErrorKind::InvalidOptions)?;
        refusal(NAME, client.history(&key, limit).await, ErrorKind::InvalidOptions)?;
    }
    demand!(faults.total() == 0, "{} requests were sent", faults.total());
    client.commit(writes(limits::MAX_BATCH, "x")?).await?;
    client.commit(writes(limits::MAX_BATCH_BYTES / limits::MAX_VALUE, &big)?).await?;
    Ok(())
}

async fn a_watch_starts_with_the_present_state(ctx: Ctx) -> Verdict {
    let ([writer, reader], a) = (ctx.clients().await?, key("watched a")?);
    let (b, other) = (key("watched b")?, key("other")?);
    writer.put(&a, b"1".to_vec(), Condition::Any).await?;
    writer.put(&other, b"x".to_vec(), Condition::Any).await?;
    let mut watch = reader.watch_prefix("watched ");
    match next(&mut watch).await? {
        ConfigEvent::Snapshot(entries) => {
            demand!(entries.len() == 1 && entries[0].key == a, "{entries:?}");
        }
        event => return Err(Failure::by(NAME, format!("a watch starts with {event:?}"))),
    }
    writer.put(&other, b"y".to_vec(), Condition::Any).await?;
    let version = writer.put(&b, b"2".to_vec(), Condition::Any).await?;
    match next(&mut watch).await? {
        ConfigEvent::Put(entry) => {
            demand!(entry.key == b && entry.value == b"2" && entry.version == version, "{entry:?}");
        }
        event => return Err(Failure::by(NAME, format!("{event:?} for a put"))),
    }
    writer.delete(&a, Condition::Any).await?;
    match next(&mut watch).await? {
        ConfigEvent::Deleted { key, version: deletion } => {
            demand!(key == a && deletion > version, "{key:?} {deletion}");
        }
        event => return Err(Failure::by(NAME, format!("{event:?} for a deletion"))),
    }
    Ok(())
}

async fn a_watch_of_one_key(ctx: Ctx) -> Verdict {
    let ([writer, reader], key) = (ctx.clients().await?, ctx.fresh_name());
    let longer = Name::new(format!("{} and more", key.as_str()))?;
    let mut watch = reader.watch(&key);
    let start = next(&mut watch).await?;
    demand!(start == ConfigEvent::Snapshot(Vec::new()), "{start:?}");
    writer.put(&longer, b"x".to_vec(), Condition::Any).await?;
    writer.put(&key, b"1".to_vec(), Condition::Any).await?;
    match next(&mut watch).await? {
        ConfigEvent::Put(entry) => demand!(entry.key == key, "{entry:?} is another key"),
        event => return Err(Failure::by(NAME, format!("{event:?} for a put"))),
    }
    Ok(())
}

async fn the_last_good_value_stays(ctx: Ctx) -> Verdict {
    let ([writer, reader], key) = (ctx.clients().await?, ctx.fresh_name());
    let positive = |value: &i64| if *value > 0 { Ok(()) } else { Err("it must be positive".into()) };
    let mut config = Config::open_with((*reader).clone(), key.clone(), positive).await?;
    demand!(config.get().is_none(), "there is a value that nobody wrote");
    let version = config.put(&5, Condition::Absent).await?;
    demand!(within(NEVER, "the first value", config.changed()).await?, "the watch ended");
    demand!(config.get().as_deref() == Some(&5) && config.version() == version, "{config:?}");
    refusal(NAME, config.put(&-1, Condition::Any).await, ErrorKind::InvalidValue)?;
    for bad in ["nonsense", "-7"] {
        writer.put(&key, bad.into(), Condition::Any).await?;
        let reported = ctx.until(|| async { Ok(config.error()) });
        let error = within(NEVER, "the error of a bad value", reported).await??;
        demand!(error.kind() == ErrorKind::InvalidValue, "{error:?}");
        demand!(config.get().as_deref() == Some(&5), "{bad:?} replaced the last good value");
    }
    writer.put(&key, b"7".to_vec(), Condition::Any).await?;
    demand!(within(NEVER, "a good value", config.changed()).await?, "the watch ended");
    demand!(config.get().as_deref() == Some(&7) && config.error().is_none(), "{config:?}");
    Ok(())
}
