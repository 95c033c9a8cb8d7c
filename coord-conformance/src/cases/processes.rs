//! Worker processes that are killed and stopped while they hold, wait and work.

use coord_core::{ElectionEvent, FencingToken, Registry, spi::Kind};
use tokio::time::sleep;

use super::cases;
use crate::{
    Ctx, Failure, Verdict,
    checkers::{fenced, progress::within, residue},
    ensure,
    history::line,
    nemesis::{Lateness, NEVER, ask, in_time, stop_between_writes},
    watching,
    worker::{Answer, Command, Worker, resource::Resource},
};

cases! { "processes":
    a_killed_holder_is_followed_within_its_lease [Processes],
    a_killed_waiter_does_not_block_the_line [Processes],
    a_killed_leader_is_followed [Processes],
    a_killed_member_vanishes [Processes],
    a_release_wakes_the_next_process [Processes],
    a_stopped_holder_wakes_up_lost_and_fenced_out [Processes],
    work_of_a_stopped_holder_goes_no_further [Processes],
    a_lock_moves_between_processes [Processes, Resume],
    many_processes_count_without_loss [Processes],
}

/// A resource in a folder of its own.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> Verdict<Self> {
        let number = format!("coord-conformance-{}-{:016x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(number);
        std::fs::create_dir(&path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        Ok(Self(path))
    }

    fn resource(&self, name: &str, fenced: bool) -> Resource {
        Resource::new(self.0.join(name), fenced)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The holder is killed with two processes in the line: they are granted one after the other, the first of them within
/// the lease and a little.
async fn a_killed_holder_is_followed_within_its_lease(ctx: Ctx) -> Verdict {
    let (name, ttl) = (ctx.fresh_name(), ctx.short_ttl() * 2);
    ctx.client().await?;
    let (mut holder, first, second) = (Worker::start(&ctx)?, Worker::start(&ctx)?, Worker::start(&ctx)?);
    let token = holder.ask(Command::Lock { name: name.clone(), ttl }).granted().await?;
    let mut one = first.ask(Command::Lock { name: name.clone(), ttl: ctx.long_ttl() });
    ctx.until_waiting(&name, 1).await?;
    let mut two = second.ask(Command::Lock { name: name.clone(), ttl: ctx.long_ttl() });
    ctx.until_waiting(&name, 2).await?;
    let lateness = Lateness::measure(&ctx).await?;
    let died = holder.kill().await?;
    let next = within(NEVER, "a grant after the death", one.granted()).await??;
    in_time(&ctx, died, ttl, &lateness)?;
    ensure!(next > token, "token {next} came after {token}");
    ensure!(ask(&first, Command::IsHeld { hold: one.hold() }).await? == Answer::Held(true), "it is lost");
    ask(&first, Command::Release { hold: one.hold() }).await?;
    let last = within(NEVER, "the next grant", two.granted()).await??;
    ensure!(last > next, "token {last} came after {next}");
    Ok(())
}

/// A process that is killed while it waits holds nobody up for longer than its lease.
async fn a_killed_waiter_does_not_block_the_line(ctx: Ctx) -> Verdict {
    let (client, name, ttl) = (ctx.client().await?, ctx.fresh_name(), ctx.short_ttl() * 2);
    let guard = client.lock(&name, &ctx.lock_options()).await?;
    let mut waiter = Worker::start(&ctx)?;
    let _reply = waiter.ask(Command::Lock { name: name.clone(), ttl });
    ctx.until_waiting(&name, 1).await?;
    let next = ctx.client().await?.lock_later(&name, &ctx.lock_options());
    ctx.until_waiting(&name, 2).await?;
    let lateness = Lateness::measure(&ctx).await?;
    let died = waiter.kill().await?;
    guard.release().await?;
    let guard = within(NEVER, "a grant past the dead", next).await???;
    in_time(&ctx, died, ttl, &lateness)?;
    guard.release().await?;
    Ok(())
}

/// A leader is killed; the other candidate leads a greater term, and an observer sees both.
async fn a_killed_leader_is_followed(ctx: Ctx) -> Verdict {
    let (client, name, ttl) = (ctx.client().await?, ctx.fresh_name(), ctx.short_ttl() * 2);
    let (mut first, second) = (Worker::start(&ctx)?, Worker::start(&ctx)?);
    let term = first.ask(Command::Lead { name: name.clone(), ttl }).granted().await?;
    let mut observer = watching::observe(&client, &name);
    let seen = |term: FencingToken| move |event: &ElectionEvent| matches!(event, ElectionEvent::Elected(leader) if leader.term == term);
    within(NEVER, "sight of the first leader", observer.until(seen(term))).await??;
    let mut candidacy = second.ask(Command::Lead { name: name.clone(), ttl });
    ctx.until_line(Kind::Election, &name, |_, waiting| waiting == 1).await?;
    let lateness = Lateness::measure(&ctx).await?;
    let died = first.kill().await?;
    let next = within(NEVER, "the next term", candidacy.granted()).await??;
    in_time(&ctx, died, ttl, &lateness)?;
    ensure!(next > term, "term {next} came after {term}");
    within(NEVER, "sight of the second leader", observer.until(seen(next))).await??;
    watching::leader(&client, &name, true).await?;
    Ok(())
}

/// A member that is killed is listed until its lease ends, and no longer.
async fn a_killed_member_vanishes(ctx: Ctx) -> Verdict {
    let (client, service, ttl) = (ctx.client().await?, ctx.fresh_name(), ctx.short_ttl() * 2);
    let mut worker = Worker::start(&ctx)?;
    let id = "doomed".to_owned();
    worker.ask(Command::Register { service: service.clone(), id, ttl }).granted().await?;
    let line = line(Kind::Registry, &service);
    let claims = ctx.claims().await?;
    ensure!(claims.line(&line).await?.entries.len() == 1, "it is not listed");
    let lateness = Lateness::measure(&ctx).await?;
    let died = worker.kill().await?;
    let gone = ctx.until(async || {
        let listed = client.instances(&service).await?;
        Ok(listed.is_empty().then_some(()))
    });
    within(NEVER, "the end of the listing", gone).await??;
    in_time(&ctx, died, ttl, &lateness)
}

/// A release in one process wakes the one that waits in another, long before that would look again by itself.
async fn a_release_wakes_the_next_process(ctx: Ctx) -> Verdict {
    let (name, ttl) = (ctx.fresh_name(), ctx.long_ttl());
    ctx.client().await?;
    let (one, two) = (Worker::start(&ctx)?, Worker::start(&ctx)?);
    let mut holds =
        [one.ask(Command::Lock { name: name.clone(), ttl }), two.ask(Command::Lock { name, ttl })];
    let [first, second] = &mut holds;
    // Whoever comes first.
    let (holder, next) = tokio::select! {
        granted = first.granted() => { granted?; ((&one, first.hold()), (&two, second)) }
        granted = second.granted() => { granted?; ((&two, second.hold()), (&one, first)) }
    };
    ask(holder.0, Command::Release { hold: holder.1 }).await?;
    // By itself it would look after a third of its TTL.
    within(ttl / 5, "a wake-up in another process", next.1.granted()).await??;
    ask(next.0, Command::Release { hold: next.1.hold() }).await?;
    Ok(())
}

/// A holder is stopped past its lease, between its read and its write. When it goes on, its guard says at its first use
/// that it is lost, and its write is refused. The control: without the fence, the same write is accepted and the other
/// holder's update is lost.
async fn a_stopped_holder_wakes_up_lost_and_fenced_out(ctx: Ctx) -> Verdict {
    let (name, ttl, folder) = (ctx.fresh_name(), ctx.short_ttl(), Folder::new()?);
    ctx.client().await?;
    let resources = [folder.resource("fenced", true), folder.resource("control", false)];
    let (stopped, other) = (Worker::start(&ctx)?, Worker::start(&ctx)?);
    let mut lock = stopped.ask(Command::Lock { name: name.clone(), ttl });
    let token = lock.granted().await?;
    let hold = lock.hold();
    for resource in &resources {
        ensure!(read(&stopped, resource, hold).await? == Answer::Value(0), "a fresh resource is not zero");
    }
    let mut next = other.ask(Command::Lock { name: name.clone(), ttl: ctx.long_ttl() });
    ctx.until_waiting(&name, 1).await?;
    stop_between_writes(&ctx, &stopped).await?;
    let newer = within(NEVER, "a grant past the stopped", next.granted()).await??;
    ensure!(newer > token, "token {newer} came after {token}");
    for resource in &resources {
        ensure!(read(&other, resource, next.hold()).await? == Answer::Value(0), "a value changed");
        ensure!(write(&other, resource, next.hold()).await? == Answer::Written, "a good write was refused");
    }
    // It finds these when it goes on: its first use of the guard, and the writes of one that does not look.
    let mut first_use = stopped.ask(Command::IsHeld { hold });
    let writes = resources.each_ref().map(|resource| write(&stopped, resource, hold));
    stopped.go_on()?;
    let held = within(NEVER, "an answer of the woken", first_use.answer()).await??;
    ensure!(held == Answer::Held(false), "a guard that slept past its lease says {held:?}");
    let [fenced, control] = writes;
    let refused = within(NEVER, "an answer of the woken", fenced).await??;
    ensure!(
        matches!(&refused, Answer::Failed { kind, .. } if kind == "Fenced"),
        "a stale write: {refused:?} with token {token} after {newer}"
    );
    let accepted = within(NEVER, "an answer of the woken", control).await??;
    ensure!(accepted == Answer::Written, "the control checks tokens: {accepted:?}");
    ask(&other, Command::Release { hold: next.hold() }).await?;

    let [fenced, control] = resources;
    ensure!(fenced.value()? == 1, "the fenced resource has {}", fenced.value()?);
    for event in fenced.log(ctx.history())? {
        ctx.history().record(event);
    }
    // Two writes and a value of one: an update was lost, and the checker has to see that.
    ensure!(control.value()? == 1, "the control has {}", control.value()?);
    let verdict = fenced::check(&control.log(ctx.history())?);
    ensure!(verdict.is_err(), "the checker does not see that an update was lost without the fence");
    Ok(())
}

/// Work that runs under a guard makes no further step after its process was stopped past the lease.
async fn work_of_a_stopped_holder_goes_no_further(ctx: Ctx) -> Verdict {
    let (client, name, ttl) = (ctx.client().await?, ctx.fresh_name(), ctx.short_ttl());
    let worker = Worker::start(&ctx)?;
    let mut lock = worker.ask(Command::Lock { name: name.clone(), ttl });
    lock.granted().await?;
    let mut work = worker.ask(Command::Run { hold: lock.hold() });
    sleep(ttl).await;
    stop_between_writes(&ctx, &worker).await?;
    let guard = within(NEVER, "a grant past the stopped", client.lock(&name, &ctx.lock_options())).await??;
    let granted = ctx.now().since_start().as_nanos();
    worker.go_on()?;
    let Answer::Worked(steps) = within(NEVER, "the end of the work", work.answer()).await?? else {
        return Err(Failure::new("the worker did something else"));
    };
    ensure!(!steps.is_empty(), "it never worked");
    // It may have been stopped after the look at the clock and before the step that it allowed; no lock can help that.
    let late = steps.iter().filter(|step| u128::from(**step) > granted).count();
    ensure!(late <= 1, "{late} steps were made after somebody else was granted");
    guard.release().await?;
    Ok(())
}

/// A lock is detached in one process, which is killed then, and resumed in another; a third one comes too late.
async fn a_lock_moves_between_processes(ctx: Ctx) -> Verdict {
    let (name, ttl) = (ctx.fresh_name(), ctx.long_ttl());
    let (mut from, to, late) = (Worker::start(&ctx)?, Worker::start(&ctx)?, Worker::start(&ctx)?);
    let mut lock = from.ask(Command::Lock { name: name.clone(), ttl });
    let token = lock.granted().await?;
    let Answer::Detached(text) = ask(&from, Command::Detach { hold: lock.hold() }).await? else {
        return Err(Failure::new("it was not detached"));
    };
    from.kill().await?;
    let mut resumed = to.ask(Command::Resume { text: text.clone() });
    let same = within(NEVER, "the lock in the other process", resumed.granted()).await??;
    ensure!(same == token, "the token changed from {token} to {same}");
    let refused = ask(&late, Command::Resume { text }).await?;
    ensure!(matches!(&refused, Answer::Failed { kind, .. } if kind == "Lost"), "resumed twice: {refused:?}");
    ask(&to, Command::Release { hold: resumed.hold() }).await?;
    residue::empty(&*ctx.claims().await?, &line(Kind::Lock, &name)).await?;
    Ok(())
}

/// Several processes count in one fenced resource; one of them is killed and one is stopped past its lease. Nothing that
/// was acknowledged is lost, and nothing is counted twice.
async fn many_processes_count_without_loss(ctx: Ctx) -> Verdict {
    let (name, ttl, folder, times) = (ctx.fresh_name(), ctx.short_ttl(), Folder::new()?, 15);
    let resource = folder.resource("counter", true);
    let mut workers = Vec::new();
    for _ in 0..4 {
        workers.push(Worker::start(&ctx)?);
    }
    let count = || {
        let (resource, name) = (resource.path().to_owned(), name.clone());
        Command::Count { resource, name, ttl, times }
    };
    let mut replies: Vec<_> = workers.iter().map(|worker| worker.ask(count())).collect();
    let written = ctx.until(async || Ok((resource.value()? >= 8).then_some(())));
    within(NEVER, "the first writes", written).await??;
    workers[0].kill().await?;
    workers[1].stop()?;
    sleep(ttl * 2).await;
    workers[1].go_on()?;
    for reply in &mut replies[1..] {
        let counted = within(NEVER * 2, "the end of the count", reply.answer()).await??;
        ensure!(counted == Answer::Counted(times), "a worker ended with {counted:?}");
    }
    let log = resource.log(ctx.history())?;
    let writes =
        log.iter().filter(|event| matches!(event.op, crate::history::Op::Accepted { write: Some(_), .. }));
    let (value, writes) = (resource.value()?, writes.count() as u64);
    ensure!(value == writes, "{writes} writes were accepted and the value is {value}");
    ensure!((3 * times..=4 * times).contains(&value), "three workers counted {times} each: {value}");
    for event in log {
        ctx.history().record(event);
    }
    // The dead worker may have left a claim, which ends with its lease.
    let client = ctx.client().await?;
    let options = ctx.lock_options();
    let next = client.lock(&name, &options);
    within(NEVER, "a grant past the dead", next).await??.release().await?;
    Ok(())
}

fn read(worker: &Worker, resource: &Resource, hold: u64) -> impl Future<Output = Verdict<Answer>> + use<> {
    let fenced = resource.is_fenced();
    let mut reply = worker.ask(Command::Read { resource: resource.path().to_owned(), hold, fenced });
    async move { reply.answer().await }
}

/// Writes as one that has read zero.
fn write(worker: &Worker, resource: &Resource, hold: u64) -> impl Future<Output = Verdict<Answer>> + use<> {
    let fenced = resource.is_fenced();
    let mut reply =
        worker.ask(Command::Write { resource: resource.path().to_owned(), hold, read: 0, fenced });
    async move { reply.answer().await }
}
