//! One run: workers at their work, and the faults that strike them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use coord_core::clock::Moment;
use tokio::{sync::Mutex, time::sleep};

use super::{
    Settings, ending,
    faults::{Fault, Struck},
    schedule::{Strike, schedule},
    work::{Work, follow, named},
};
use crate::{
    Client, Ctx, Failure, Servers, Verdict,
    faults::Half,
    history::{Event, Op, Outcome, Recorder},
    watching,
    worker::{Answer, Command, Reply, Trouble, Worker},
};

/// What a run has in hand.
pub(super) struct Field {
    pub(super) ctx: Ctx,
    /// The run's own client, which no fault strikes but those of servers.
    pub(super) client: Client,
    pub(super) ttl: Duration,
    pub(super) work: Work,
    crew: Vec<Mutex<Member>>,
    servers: Option<Arc<dyn Servers>>,
    nemesis: Recorder,
}

/// A place in the crew, and who has it.
struct Member {
    worker: Worker,
    reply: Reply,
    /// Of those who were killed nobody heard how their work ended.
    hired: u64,
}

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Verdict<Self> {
        let name = format!("coord-run-{}-{:016x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs, and comes to rest. What goes wrong on the way is put down, so that there is a history of it.
pub(super) async fn conduct(ctx: &Ctx, settings: &Settings, faults: &[Fault]) -> Verdict<Vec<Event>> {
    let folder = Folder::new()?;
    let field = Field::enter(ctx, settings, &folder.0).await?;
    let watching = field.watch();
    let from = ctx.history().stamp();
    if let Err(failure) = field.run(settings, faults).await {
        let outcome = Outcome::Fail(failure.to_string());
        field.nemesis.since(from, "the run itself", Op::Probe { bound: 0 }, outcome);
    }
    for task in watching {
        task.abort();
    }
    Ok(ctx.history().events())
}

impl Field {
    async fn enter(ctx: &Ctx, settings: &Settings, folder: &Path) -> Verdict<Self> {
        let client = ctx.client().await?;
        let ttl = settings.ttl.unwrap_or(Duration::from_secs(1)).max(ctx.guarantees().min_ttl);
        let start = ctx.history().stamp().at;
        let until = start + u64::try_from(settings.duration.as_nanos()).unwrap_or(u64::MAX / 2);
        let work = Work {
            start,
            until,
            ttl,
            seed: settings.seed,
            folder: folder.to_owned(),
            fenced: !settings.unfenced,
            shared: ctx.guarantees().features.shared,
            values: ctx.has_values(),
            jobs: ctx.has_jobs(),
        };
        let nemesis = ctx.history().client("nemesis");
        let servers = ctx.servers();
        let mut field = Self { ctx: ctx.clone(), client, ttl, work, crew: Vec::new(), servers, nemesis };
        for place in 0..settings.workers {
            let member = field.hire(place, 0)?;
            field.crew.push(Mutex::new(member));
        }
        Ok(field)
    }

    async fn run(&self, settings: &Settings, faults: &[Fault]) -> Verdict {
        let mut strikes = schedule(settings.seed, faults, self.ttl, settings.duration);
        if settings.unfenced {
            strikes.iter_mut().flatten().for_each(|strike| strike.worsen(self.ttl));
        }
        let [processes, links, servers] = [Struck::Processes, Struck::Links, Struck::Servers]
            .map(|struck| strikes.get(struck as usize).map_or(&[][..], Vec::as_slice));
        tokio::try_join!(self.row(processes), self.row(links), self.row(servers))?;
        self.sleep_until(settings.duration).await;
        for place in 0..self.crew.len() {
            self.tell(place, &[Trouble::Heal]).await;
        }
        self.nemesis.note("all", Op::Healed);
        ending::come_to_rest(self).await
    }

    fn hire(&self, place: usize, hired: u64) -> Verdict<Member> {
        let worker = Worker::start_behind_faults(&self.ctx)?;
        let seed = self.work.seed.wrapping_mul(1000).wrapping_add(10 + hired * 100 + place as u64);
        let reply = worker.ask(Command::Work(Box::new(Work { seed, ..self.work.clone() })));
        Ok(Member { worker, reply, hired })
    }

    /// The run's own observers.
    fn watch(&self) -> Vec<tokio::task::JoinHandle<()>> {
        let mut observing = watching::observe(&self.client, &named("office"));
        let mut watching = watching::watch(&self.client, &named("crew"));
        let mut tasks = vec![
            tokio::spawn(async move { _ = observing.until(|_| false).await }),
            tokio::spawn(async move { _ = watching.until(|_| false).await }),
        ];
        if self.work.values {
            let mut following = follow(&self.client);
            tasks.push(tokio::spawn(async move { _ = following.until(|_| false).await }));
        }
        tasks
    }

    async fn sleep_until(&self, since_start: Duration) {
        let moment = Moment::from_start(Duration::from_nanos(self.work.start)).after(since_start);
        sleep(moment.since(self.ctx.now())).await;
    }

    async fn row(&self, strikes: &[Strike]) -> Verdict {
        for strike in strikes {
            self.sleep_until(strike.at).await;
            self.strike(strike).await?;
        }
        Ok(())
    }

    async fn strike(&self, strike: &Strike) -> Verdict {
        match strike.fault.struck() {
            Struck::Processes => self.strike_process(strike).await,
            Struck::Links => self.strike_link(strike).await,
            Struck::Servers => match &self.servers {
                Some(servers) => self.strike_server(servers, strike).await,
                None => Ok(()),
            },
        }
    }

    /// Every other time it is whoever holds a lock: there it matters most.
    async fn mark(&self, choice: u64) -> usize {
        let by_number = usize::try_from(choice >> 1).unwrap_or(0) % self.crew.len();
        if !Strike::wants_a_holder(choice) {
            return by_number;
        }
        let lock = if choice & 2 == 0 { "lock/till" } else { "lock/ledger" };
        let mut holder = None;
        for event in self.ctx.history().events() {
            match (&event.op, &event.outcome) {
                (Op::Acquire { token: Some(_), .. }, Outcome::Ok) if event.object == lock => {
                    holder = Some(event.client);
                }
                (Op::Release { .. } | Op::Lost { .. }, _) if event.object == lock => holder = None,
                _ => {}
            }
        }
        for (at, member) in self.crew.iter().enumerate() {
            if holder.as_deref() == Some(member.lock().await.worker.name()) {
                return at;
            }
        }
        by_number
    }

    fn struck(&self, from: crate::history::Stamp, object: &str, fault: Fault) {
        self.nemesis.since(from, object, Op::Fault { kind: fault.name().into() }, Outcome::Ok);
    }

    async fn strike_process(&self, strike: &Strike) -> Verdict {
        let place = self.mark(strike.choice).await;
        let mut member = self.crew[place].lock().await;
        let (name, from) = (member.worker.name().to_owned(), self.ctx.history().stamp());
        if strike.fault == Fault::Kill {
            member.worker.kill().await?;
            self.struck(from, &name, strike.fault);
            *member = self.hire(place, member.hired + 1)?;
        } else {
            member.worker.stop()?;
            sleep(strike.length).await;
            member.worker.go_on()?;
            self.struck(from, &name, strike.fault);
        }
        Ok(())
    }

    async fn strike_link(&self, strike: &Strike) -> Verdict {
        let place = usize::try_from(strike.choice).unwrap_or(0) % self.crew.len();
        let from = self.ctx.history().stamp();
        let many = strike.choice >> 32;
        let troubles = match strike.fault {
            Fault::LoseReplies => (0..1 + many % 4).map(|at| lose(Half::Reply, at)).collect(),
            Fault::LoseRequests => (0..1 + many % 4).map(|at| lose(Half::Request, at)).collect(),
            Fault::Cut => vec![Trouble::Cut(true)],
            Fault::Delay => vec![Trouble::Delay(Duration::from_millis(20 + many % 200))],
            _ => vec![Trouble::Deaf(true)],
        };
        let name = self.tell(place, &troubles).await;
        if !strike.length.is_zero() {
            sleep(strike.length).await;
            // Whoever took the place of one that was killed has no faults, and none to be healed.
            self.tell(place, &[Trouble::Heal]).await;
        }
        self.struck(from, &name, strike.fault);
        Ok(())
    }

    /// Tells a worker of changes; its name. Nobody waits for an answer, which one that is stopped does not give.
    async fn tell(&self, place: usize, troubles: &[Trouble]) -> String {
        let member = self.crew[place].lock().await;
        for trouble in troubles {
            member.worker.ask(Command::Link(*trouble));
        }
        member.worker.name().to_owned()
    }

    async fn strike_server(&self, servers: &Arc<dyn Servers>, strike: &Strike) -> Verdict {
        let names = servers.names();
        let at = match strike.fault {
            Fault::LeaderKill | Fault::LeaderStop => blocking(servers, |servers| servers.leader()).await?,
            _ => usize::try_from(strike.choice >> 1).unwrap_or(0) % names.len(),
        };
        let from = self.ctx.history().stamp();
        if matches!(strike.fault, Fault::ServerKill | Fault::LeaderKill) {
            blocking(servers, move |servers| servers.kill(at)).await?;
            sleep(strike.length).await;
            blocking(servers, move |servers| servers.restart(at)).await?;
        } else {
            blocking(servers, move |servers| servers.stop(at)).await?;
            sleep(strike.length).await;
            blocking(servers, move |servers| servers.go_on(at)).await?;
        }
        self.struck(from, &names[at], strike.fault);
        Ok(())
    }

    /// Waits for the end of everybody's work; what each of them says.
    pub(super) async fn ended(&self) -> Vec<(String, Verdict<Answer>)> {
        let mut answers = Vec::new();
        for member in &self.crew {
            let mut member = member.lock().await;
            let answer = member.reply.answer().await;
            answers.push((member.worker.name().to_owned(), answer));
        }
        answers
    }

    /// Ends all workers, and with them what they watch.
    pub(super) async fn dismiss(&self) -> Verdict {
        for member in &self.crew {
            member.lock().await.worker.dismiss().await?;
        }
        Ok(())
    }
}

fn lose(half: Half, at: u64) -> Trouble {
    Trouble::Lose { half, nth: 1 + at * 2 }
}

async fn blocking<T: Send + 'static>(
    servers: &Arc<dyn Servers>,
    work: impl FnOnce(&dyn Servers) -> std::io::Result<T> + Send + 'static,
) -> Verdict<T> {
    let servers = servers.clone();
    let done = tokio::task::spawn_blocking(move || work(&*servers)).await?;
    done.map_err(|error| Failure::new(format!("a server: {error}")))
}
