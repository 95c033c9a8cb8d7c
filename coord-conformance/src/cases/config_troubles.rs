//! Configuration in trouble: lost messages, watches that were away, random work judged by the checkers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use coord_core::{
    Change, Condition, ConfigEvent, ConfigStore, FencedStore, FencingToken, Name, Write, limits,
};
use tokio::{task::JoinSet, time::sleep};

use super::{cases, config::next, demand, faulty::faulty_client, workload::Seed};
use crate::{
    Client, Ctx, Failure, Verdict,
    checkers::progress::within,
    faults::{Faults, Half},
    history::Given,
    writing,
};

cases! { "config":
    every_lost_message [Values],
    the_last_state_is_not_missed_without_hints [Values],
    the_last_state_is_not_missed_behind_a_partition [Values],
    nothing_is_missed_after_a_long_absence [Values],
    a_gap_is_announced [Values, BoundedLog],
    random_work [Values],
    random_work_under_faults [Values],
}

/// The name under which failures of this file are reported.
const NAME: &str = "values";

/// Far beyond what retries after one loss take.
const SOON: Duration = Duration::from_secs(5);
/// How long is certainly long enough where nothing but a bug makes it long.
const NEVER: Duration = Duration::from_secs(30);

/// A put, a conditional put, a transaction, a fence, a deletion. Each is done once.
async fn program(client: &Client, sound: &Client, key: &Name, other: &Name) -> Verdict {
    let first = client.put(key, b"1".to_vec(), Condition::Absent).await?;
    let second = client.put(key, b"2".to_vec(), Condition::Version(first)).await?;
    let write = |key: &Name, condition, change| Write { key: key.clone(), condition, change };
    let writes = vec![
        write(key, Condition::Version(second), Change::Delete),
        write(other, Condition::Absent, Change::Put(b"3".to_vec())),
    ];
    client.commit(writes).await?;
    let token = FencingToken::new(5)?;
    client.fence(other, token).await?;
    client.fenced_write(other, b"4".to_vec(), token).await?;
    let read = client.get(other).await?.map(|entry| entry.value);
    demand!(read == Some(b"4".to_vec()), "{read:?} was read");
    let (of_key, of_other) = (sound.history(key, 10).await?, sound.history(other, 10).await?);
    demand!(of_key.len() == 3, "three changes were done as {of_key:?}");
    demand!(of_other.len() == 2, "two changes were done as {of_other:?}");
    Ok(())
}

/// For every k, the request or the reply of the k-th operation is lost.
async fn every_lost_message(ctx: Ctx) -> Verdict {
    let sound = ctx.client().await?;
    for half in [Half::Request, Half::Reply] {
        for nth in 1.. {
            let ((client, faults), key, other) =
                (faulty_client(&ctx).await?, ctx.fresh_name(), ctx.fresh_name());
            faults.lose(half, nth, None);
            let lost = |failure: Failure| Failure {
                message: format!("the {half:?} of operation {nth} was lost: {}", failure.message),
                ..failure
            };
            within(SOON, "the end of the program", program(&client, &sound, &key, &other))
                .await
                .and_then(|ended| ended)
                .map_err(lost)?;
            if faults.pending() > 0 {
                demand!(nth > 6, "only {} messages were lost", nth - 1);
                break;
            }
        }
    }
    Ok(())
}

/// What a watcher knows, and how many gaps it was told of.
#[derive(Debug, Default)]
struct Known(BTreeMap<Name, (Vec<u8>, u64)>, u32);

impl Known {
    fn hear(&mut self, event: ConfigEvent) -> Verdict {
        self.1 += u32::from(matches!(event, ConfigEvent::Resync(_)));
        match event {
            ConfigEvent::Snapshot(entries) | ConfigEvent::Resync(entries) => {
                self.0 = entries.into_iter().map(|entry| (entry.key, (entry.value, entry.version))).collect();
            }
            ConfigEvent::Put(entry) => {
                let before = self.0.insert(entry.key.clone(), (entry.value, entry.version));
                let before = before.map_or(0, |(_, version)| version);
                demand!(entry.version > before, "version {} was told after {before}", entry.version);
            }
            ConfigEvent::Deleted { key, .. } => {
                self.0.remove(&key);
            }
            event => return Err(Failure::by(NAME, format!("{event:?} is unknown to the suite"))),
        }
        Ok(())
    }

    /// Listens until this is what there is.
    async fn converge(
        &mut self,
        watch: &mut coord_core::Watch<ConfigEvent>,
        expected: &BTreeMap<Name, (Vec<u8>, u64)>,
    ) -> Verdict {
        let hearing = async {
            while self.0 != *expected {
                self.hear(next(watch).await?)?;
            }
            Ok(())
        };
        within(NEVER, "the last state at a watcher", hearing).await?
    }
}

/// Writes and deletes, here and there; what there is in the end.
async fn busy(writer: &Client, rounds: u64) -> Verdict<BTreeMap<Name, (Vec<u8>, u64)>> {
    let mut all = BTreeMap::new();
    for round in 0..rounds {
        let key = Name::new(format!("busy {}", round % 7))?;
        if round % 5 == 4 {
            writer.delete(&key, Condition::Any).await?;
            all.remove(&key);
        } else {
            let value = round.to_string().into_bytes();
            let version = writer.put(&key, value.clone(), Condition::Any).await?;
            all.insert(key, (value, version));
        }
    }
    Ok(all)
}

async fn the_last_state_is_not_missed_without_hints(ctx: Ctx) -> Verdict {
    let (writer, (reader, faults)) = (ctx.client().await?, faulty_client(&ctx).await?);
    faults.lose_hints(true);
    let (mut watch, mut known) = (reader.watch_prefix("busy "), Known::default());
    known.hear(next(&mut watch).await?)?;
    let all = busy(&writer, 33).await?;
    known.converge(&mut watch, &all).await
}

async fn the_last_state_is_not_missed_behind_a_partition(ctx: Ctx) -> Verdict {
    let (writer, (reader, faults)) = (ctx.client().await?, faulty_client(&ctx).await?);
    let (mut watch, mut known) = (reader.watch_prefix("busy "), Known::default());
    known.hear(next(&mut watch).await?)?;
    faults.partition(true);
    let all = busy(&writer, 33).await?;
    let early = tokio::time::timeout(Duration::from_millis(300), next(&mut watch)).await;
    demand!(early.is_err(), "a watch that is cut off reports {early:?}");
    faults.partition(false);
    known.converge(&mut watch, &all).await
}

/// Writes to so many keys, some of them those of other rounds.
async fn many(
    writer: &Client,
    round: usize,
    keys: usize,
    all: &mut BTreeMap<Name, (Vec<u8>, u64)>,
) -> Verdict {
    let keys = (0..keys)
        .map(|number| Ok(Name::new(format!("many {}", number + round * 10))?))
        .collect::<Verdict<Vec<_>>>()?;
    let value = round.to_string().into_bytes();
    let write = |key: &Name| {
        let (key, condition) = (key.clone(), Condition::Any);
        Write { key, condition, change: Change::Put(value.clone()) }
    };
    let version = writer.commit(keys.iter().map(write).collect()).await?;
    all.extend(keys.into_iter().map(|key| (key, (value.clone(), version))));
    Ok(())
}

/// So much happens meanwhile that the store may have forgotten some of it. The watcher is told everything, or that there
/// is a gap; the latter only by a store that is said to forget.
async fn nothing_is_missed_after_a_long_absence(ctx: Ctx) -> Verdict {
    let ([writer, reader], mut all) = (ctx.clients().await?, BTreeMap::new());
    let (mut watch, mut known) = (reader.watch_prefix("many "), Known::default());
    known.hear(next(&mut watch).await?)?;
    for round in 0..5 {
        many(&writer, round, limits::MAX_BATCH, &mut all).await?;
    }
    known.converge(&mut watch, &all).await?;
    let forgets = ctx.remembered_changes().is_some();
    demand!(forgets || known.1 == 0, "a store that is said to forget nothing announces a gap");
    Ok(())
}

/// A watcher is cut off, and another one is away, while more changes happen than the store remembers. Each is told that there is a gap, and what
/// there is now; after that it is told every change again.
async fn a_gap_is_announced(ctx: Ctx) -> Verdict {
    let (writer, (reader, faults)) = (ctx.client().await?, faulty_client(&ctx).await?);
    let size = usize::try_from(ctx.remembered_changes().unwrap_or(0)).unwrap_or(usize::MAX);
    let (mut all, mut known, gone) = (BTreeMap::new(), Known::default(), Name::new("many gone")?);
    let version = writer.put(&gone, b"x".to_vec(), Condition::Any).await?;
    all.insert(gone.clone(), (b"x".to_vec(), version));
    let (mut watch, mut of_one) = (reader.watch_prefix("many "), reader.watch(&gone));
    known.converge(&mut watch, &all).await?;
    next(&mut of_one).await?;
    faults.partition(true);
    writer.delete(&gone, Condition::Any).await?;
    all.remove(&gone);
    for round in 0..=size / 100 {
        many(&writer, round, 100, &mut all).await?;
    }
    let early = tokio::time::timeout(Duration::from_millis(300), next(&mut watch)).await;
    demand!(early.is_err(), "a watch that is cut off reports something");
    faults.partition(false);
    let event = next(&mut watch).await?;
    demand!(matches!(event, ConfigEvent::Resync(_)), "a gap was passed over: {}", kind(&event));
    known.hear(event)?;
    demand!(known.0 == all, "after a gap the watcher is told something else than what there is");
    let event = next(&mut of_one).await?;
    demand!(event == ConfigEvent::Resync(Vec::new()), "a gap was passed over: {}", kind(&event));
    // One of them is watched twice.
    let version = writer.put(&gone, b"y".to_vec(), Condition::Absent).await?;
    for watch in [&mut watch, &mut of_one] {
        let event = next(watch).await?;
        demand!(matches!(&event, ConfigEvent::Put(put) if put.version == version), "{}", kind(&event));
    }
    Ok(())
}

/// What an event is, without all that it brings.
fn kind(event: &ConfigEvent) -> &'static str {
    match event {
        ConfigEvent::Snapshot(_) => "a snapshot",
        ConfigEvent::Resync(_) => "a resync",
        ConfigEvent::Put(_) => "a put",
        ConfigEvent::Deleted { .. } => "a deletion",
        _ => "another event",
    }
}

/// One operation at random, recorded.
async fn act(client: &Client, rng: &mut fastrand::Rng, key: &Name, seen: &mut u64) -> Verdict {
    let given = match rng.u32(..4) {
        0 => Given::Anything,
        1 => Given::Absent,
        _ => Given::Version(*seen),
    };
    let done = match rng.u32(..10) {
        0..3 => {
            let read = writing::read(client, key).await;
            read.map(|entry| *seen = entry.map_or(0, |entry| entry.version))
        }
        3 => writing::delete(client, key, given).await,
        _ => {
            let value = format!("{} {}", client.owner(), client.recorder().number());
            writing::put(client, key, value, given).await.map(|version| *seen = version)
        }
    };
    match done {
        Err(error) if error.kind() == coord_core::ErrorKind::ConditionFailed => Ok(()),
        Err(error) if error.is_retryable() => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// Clients work on two keys; some calls are given up halfway. A watcher must see where it ends.
async fn work(ctx: Ctx, faulty: bool) -> Verdict {
    let (seed, mut tasks) = (Seed::new(), JoinSet::new());
    let keys = [ctx.fresh_name(), ctx.fresh_name()];
    let onlooker = ctx.client().await?;
    let mut watch = onlooker.watch_prefix("");
    let mut known = Known::default();
    known.hear(next(&mut watch).await?)?;
    for number in 0..4 {
        let (client, faults) = faulty_client(&ctx).await?;
        let (mut rng, keys) = (seed.rng(number), keys.clone());
        tasks.spawn(async move {
            let mut seen = [0; 2];
            for round in 0..20u32 {
                sleep(Duration::from_millis(rng.u64(..3))).await;
                let at = rng.usize(..2);
                if faulty {
                    trouble(&mut rng, &faults);
                }
                let acting = act(&client, &mut rng, &keys[at], &mut seen[at]);
                if faulty && round % 7 == 3 {
                    // Given up halfway: nobody knows what becomes of it.
                    if let Ok(outcome) = tokio::time::timeout(Duration::from_millis(1), acting).await {
                        outcome?;
                    }
                } else {
                    acting.await?;
                }
                faults.heal();
            }
            Ok(())
        });
    }
    seed.all(tasks).await?;
    // What was given up may still arrive; after a while it has.
    sleep(Duration::from_millis(500)).await;
    let mut all = BTreeMap::new();
    for key in keys {
        let found = writing::read(&onlooker, &key).await?;
        all.extend(found.map(|entry| (key, (entry.value, entry.version))));
    }
    known.converge(&mut watch, &all).await
}

fn trouble(rng: &mut fastrand::Rng, faults: &Arc<Faults>) {
    match rng.u32(..4) {
        0 => faults.lose_reply(1, None),
        1 => faults.lose_request(1, None),
        2 => faults.delay_replies(Duration::from_millis(rng.u64(..4))),
        _ => {}
    }
}

async fn random_work(ctx: Ctx) -> Verdict {
    work(ctx, false).await
}

async fn random_work_under_faults(ctx: Ctx) -> Verdict {
    work(ctx, true).await
}
