//! Kills and stops workers, and tells how late this machine is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use coord_core::{Lock, clock::Moment};
use fastrand::Rng;
use tokio::{
    sync::{Mutex, MutexGuard},
    time::sleep,
};

use crate::{
    Ctx, Failure, Verdict,
    checkers::progress::within,
    ensure,
    worker::{Answer, Command, Reply, Worker},
};

/// How long is certainly long enough where nothing but a bug makes it long.
pub(crate) const NEVER: Duration = Duration::from_secs(20);

/// How late this machine runs what is due, and how long its store takes to write: a bound on time means nothing without
/// them.
pub(crate) struct Lateness {
    worst: Arc<AtomicU64>,
    slowest: Arc<AtomicU64>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

fn note(worst: &AtomicU64, took: Duration) {
    worst.fetch_max(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

impl Lateness {
    pub(crate) async fn measure(ctx: &Ctx) -> Verdict<Self> {
        let (worst, slowest) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (client, options, clock) = (ctx.client().await?, ctx.lock_options(), ctx.clock());
        let (late, name, nap) = (worst.clone(), ctx.fresh_name(), Duration::from_millis(5));
        let napping = tokio::spawn(async move {
            loop {
                let before = clock.now();
                sleep(nap).await;
                note(&late, clock.now().since(before).saturating_sub(nap));
            }
        });
        let slow = slowest.clone();
        let writing = tokio::spawn(async move {
            loop {
                let before = clock.now();
                // Whatever it says: that it took so long counts.
                if let Ok(guard) = client.try_acquire(&name, &options).await {
                    let _ = guard.release().await;
                }
                note(&slow, clock.now().since(before));
                sleep(nap * 10).await;
            }
        });
        Ok(Self { worst, slowest, tasks: [napping, writing] })
    }

    /// Several steps in a row may each have been that late, and that slow.
    fn allowance(&self) -> Duration {
        let of = |worst: &AtomicU64| Duration::from_micros(worst.load(Ordering::Relaxed));
        (of(&self.worst) + of(&self.slowest)) * 4
    }
}

impl Drop for Lateness {
    fn drop(&mut self) {
        self.tasks.iter().for_each(|task| task.abort());
    }
}

/// The takeover was in time.
pub(crate) fn in_time(ctx: &Ctx, died: Moment, ttl: Duration, lateness: &Lateness) -> Verdict {
    let (took, bound) = (ctx.now().since(died), ttl + ctx.takeover() + lateness.allowance());
    ensure!(took <= bound, "the next one was granted {took:?} after the death, not within {bound:?}");
    Ok(())
}

/// Stops a worker while it writes nothing. A process that is stopped within a transaction keeps the file of an embedded
/// store locked for everybody; it goes on then, and is stopped anew.
pub(crate) async fn stop_between_writes(ctx: &Ctx, worker: &Worker) -> Verdict {
    let client = ctx.client().await?;
    loop {
        worker.stop()?;
        let (name, options) = (ctx.fresh_name(), ctx.lock_options());
        let probe = async { client.try_acquire(&name, &options).await?.release().await };
        if tokio::time::timeout(Duration::from_secs(1), probe).await.is_ok_and(|outcome| outcome.is_ok()) {
            return Ok(());
        }
        worker.go_on()?;
        sleep(Duration::from_millis(20)).await;
    }
}

/// The answer of a worker.
pub(crate) async fn ask(worker: &Worker, command: Command) -> Verdict<Answer> {
    within(NEVER, "an answer of a worker", worker.ask(command).answer()).await?
}

/// Whose crew is at work. Several at a time would keep the machine so busy that their stores are out of reach.
static TURN: Mutex<()> = Mutex::const_new(());

/// Workers at one task, each with a part of its own. Who is killed is replaced.
pub(crate) struct Crew<'a> {
    ctx: &'a Ctx,
    part: Box<dyn FnMut(usize) -> Command + Send + 'a>,
    members: Vec<(Worker, Reply)>,
    started: usize,
    _turn: MutexGuard<'static, ()>,
}

impl<'a> Crew<'a> {
    /// Starts so many. `part` makes the command of each one, by its number.
    pub(crate) async fn start(
        ctx: &'a Ctx,
        size: usize,
        part: impl FnMut(usize) -> Command + Send + 'a,
    ) -> Verdict<Self> {
        let mut crew =
            Self { ctx, part: Box::new(part), members: Vec::new(), started: 0, _turn: TURN.lock().await };
        for _ in 0..size {
            let member = crew.hire()?;
            crew.members.push(member);
        }
        Ok(crew)
    }

    fn hire(&mut self) -> Verdict<(Worker, Reply)> {
        let worker = Worker::start(self.ctx)?;
        let reply = worker.ask((self.part)(self.started));
        self.started += 1;
        Ok((worker, reply))
    }

    /// Kills and stops members, in an order, at moments and with choices at random: as often the one as the other. Who is
    /// stopped sleeps past leases of this length.
    pub(crate) async fn trouble(&mut self, rng: &mut Rng, times: usize, lease: Duration) -> Verdict {
        let mut kinds: Vec<_> = (0..times).map(|number| number % 2 == 0).collect();
        rng.shuffle(&mut kinds);
        for kill in kinds {
            sleep(Duration::from_millis(rng.u64(20..200))).await;
            let at = rng.usize(..self.members.len());
            if kill {
                self.members[at].0.kill().await?;
                self.members[at] = self.hire()?;
            } else {
                self.members[at].0.stop()?;
                sleep(lease + lease.mul_f64(rng.f64())).await;
                self.members[at].0.go_on()?;
            }
        }
        Ok(())
    }

    /// Waits for the answers of all who live.
    pub(crate) async fn finish(mut self) -> Verdict<Vec<Answer>> {
        let mut answers = Vec::new();
        for (worker, reply) in &mut self.members {
            let answer = within(NEVER * 2, "the end of a worker's part", reply.answer()).await??;
            if let Answer::Failed { kind, message } = &answer {
                return Err(Failure::new(format!("{} failed: {kind}: {message}", worker.name())));
            }
            answers.push(answer);
        }
        Ok(answers)
    }
}
