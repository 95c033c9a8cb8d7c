//! Worker processes that are killed and stopped while they write values.

use coord_core::{ConfigStore, FencedStore, Name};

use super::{cases, demand, workload::Seed};
use crate::{
    Ctx, Verdict,
    checkers::{fenced, progress::within},
    history::{Op, Outcome},
    nemesis::{Crew, NEVER, ask, stop_between_writes},
    worker::{Answer, Command, Reply, Worker},
    writing,
};

cases! { "processes":
    a_stopped_writer_is_refused_with_both_numbers [Processes, Values],
    killed_and_stopped_holders_write_one_after_the_other [Processes, Values],
    killed_writers_lose_no_update [Processes, Values],
}

/// The name under which failures of this file are reported.
const NAME: &str = "values";

/// A holder is stopped past its lease, between its read and its write. When it goes on, its write is refused, and the
/// refusal names both tokens. The control: without the fence, the same write is accepted and the other holder's update is
/// lost.
async fn a_stopped_writer_is_refused_with_both_numbers(ctx: Ctx) -> Verdict {
    let (client, name, ttl) = (ctx.client().await?, ctx.fresh_name(), ctx.short_ttl());
    let keys = [(ctx.fresh_name(), true), (ctx.fresh_name(), false)];
    let (stopped, other) = (Worker::start(&ctx)?, Worker::start(&ctx)?);
    let mut lock = stopped.ask(Command::Lock { name: name.clone(), ttl });
    let token = lock.granted().await?;
    for (key, fenced) in &keys {
        let read = ask(&stopped, read(key, *fenced, &lock)).await?;
        demand!(read == Answer::Value(0), "a fresh key has {read:?}");
    }
    let mut next = other.ask(Command::Lock { name: name.clone(), ttl: ctx.long_ttl() });
    ctx.until_waiting(&name, 1).await?;
    stop_between_writes(&ctx, &stopped).await?;
    let newer = within(NEVER, "a grant past the stopped", next.granted()).await??;
    demand!(newer > token, "token {newer} came after {token}");
    for (key, fenced) in &keys {
        let read = ask(&other, read(key, *fenced, &next)).await?;
        demand!(read == Answer::Value(0), "a value changed: {read:?}");
        let wrote = ask(&other, write(key, *fenced, &next)).await?;
        demand!(wrote == Answer::Written, "a good write was answered with {wrote:?}");
    }
    // It finds these when it goes on: the writes of one that does not look at its guard.
    let writes = keys.each_ref().map(|(key, fenced)| stopped.ask(write(key, *fenced, &lock)));
    stopped.go_on()?;
    let [mut refused, mut control] = writes;
    let refused = within(NEVER, "an answer of the woken", refused.answer()).await??;
    demand!(
        matches!(&refused, Answer::Failed { kind, message }
            if kind == "Fenced" && message.contains(&token.to_string()) && message.contains(&newer.to_string())),
        "a stale write with token {token} after {newer}: {refused:?}"
    );
    let accepted = within(NEVER, "an answer of the woken", control.answer()).await??;
    demand!(accepted == Answer::Written, "the control checks tokens: {accepted:?}");
    ask(&other, Command::Release { hold: next.hold() }).await?;

    let [(fenced_key, _), (control, _)] = keys;
    let mark = client.fenced_read(&fenced_key).await?.mark;
    demand!(mark == Some(newer), "the mark is {mark:?} after {newer}");
    let (log, number) = writing::accepted(&client, &fenced_key, 10).await?;
    demand!((log.len(), number) == (1, 1), "{} writes were accepted, and the number is {number}", log.len());
    log.into_iter().for_each(|event| ctx.history().record(event));
    // Two writes and a number of one: an update was lost, and the checker has to see that.
    let (log, number) = writing::accepted(&client, &control, 10).await?;
    demand!((log.len(), number) == (2, 1), "the control: {} writes and {number}", log.len());
    demand!(
        fenced::check(&log).is_err(),
        "the checker does not see that an update was lost without the fence"
    );
    Ok(())
}

fn read(key: &Name, fenced: bool, lock: &Reply) -> Command {
    Command::ReadKey { key: key.clone(), hold: lock.hold(), fenced }
}

/// As one that has read zero.
fn write(key: &Name, fenced: bool, lock: &Reply) -> Command {
    Command::WriteKey { key: key.clone(), hold: lock.hold(), read: 0, fenced }
}

/// Processes count in one fenced key, each time under a lock, and are killed and stopped past their leases at random. The
/// store's own history of the key shows that the writes of each token are together and that none was lost.
async fn killed_and_stopped_holders_write_one_after_the_other(ctx: Ctx) -> Verdict {
    let (seed, name, key, ttl) = (Seed::new(), ctx.fresh_name(), ctx.fresh_name(), ctx.short_ttl());
    let (client, times) = (ctx.client().await?, 15);
    let part = |_| Command::CountInKey { key: key.clone(), name: name.clone(), ttl, times };
    let work = async {
        let mut crew = Crew::start(&ctx, 4, part).await?;
        crew.trouble(&mut seed.rng(0), 6, ttl).await?;
        let answers = crew.finish().await?;
        demand!(answers.iter().all(|answer| *answer == Answer::Counted(times)), "{answers:?}");
        let (log, number) = writing::accepted(&client, &key, 500).await?;
        demand!(log.len() as u64 == number, "{} writes were accepted and the number is {number}", log.len());
        demand!(number >= 4 * times, "four processes counted {times} each: {number}");
        log.into_iter().for_each(|event| ctx.history().record(event));
        Ok(())
    };
    seed.tell(work).await
}

/// Processes add to one key by writes on condition of the version, and are killed and stopped at random. What was
/// acknowledged is in the sum, and nothing else but what nobody knows of. The checker of registers judges the history.
async fn killed_writers_lose_no_update(ctx: Ctx) -> Verdict {
    let (seed, key, client, times) = (Seed::new(), ctx.fresh_name(), ctx.client().await?, 30);
    let part = |_| Command::Increment { key: key.clone(), times };
    let work = async {
        let mut crew = Crew::start(&ctx, 4, part).await?;
        crew.trouble(&mut seed.rng(0), 6, ctx.short_ttl() / 4).await?;
        crew.finish().await?;
        let sum = writing::number(writing::read(&client, &key).await?.as_ref());
        let (mut known, mut unknown) = (0, 0);
        for event in ctx.history().events() {
            match (event.op, event.outcome) {
                (Op::Put { .. }, Outcome::Ok) => known += 1,
                (Op::Put { .. }, Outcome::Unknown(_)) => unknown += 1,
                _ => {}
            }
        }
        demand!(known >= 4 * times, "four processes added {times} each, and {known} were acknowledged");
        demand!(
            (known..=known + unknown).contains(&sum),
            "{known} additions were acknowledged, {unknown} may have been done, and the sum is {sum}"
        );
        let states = client.history(&key, 500).await?.len() as u64;
        demand!(states == sum, "the sum is {sum} after {states} changes");
        Ok(())
    };
    seed.tell(work).await
}
