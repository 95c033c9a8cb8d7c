//! One run: workers at their work, and the faults that strike them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use coord_core::{clock::Moment, spi::Kind};
use tokio::{sync::Mutex, time::sleep};

use super::{
    Settings, ending,
    faults::{Fault, Struck},
    schedule::{Strike, schedule},
    wire::Wire,
    work::{Watchers, Work},
};
use crate::{
    Apart, Client, Ctx, Failure, Servers, Verdict,
    faults::Half,
    history::{Event, Op, Outcome, Recorder, object},
    worker::{Answer, Command, Reply, Trouble, Worker},
};

/// By how many leases a clock is ahead at most.
const AHEAD: u32 = 10;
/// How long a clock stays between two jumps.
const STROBE: Duration = Duration::from_millis(50);

/// What a run has in hand.
pub(super) struct Field {
    pub(super) ctx: Ctx,
    /// The run's own client, which no fault strikes but those of servers.
    pub(super) client: Client,
    pub(super) ttl: Duration,
    pub(super) work: Work,
    crew: Vec<Mutex<Member>>,
    /// How many of them, from the first, are not killed.
    pub(super) spared: usize,
    watchers: Watchers,
    /// Of each place, if connections are struck.
    wires: Vec<Wire>,
    /// By how much longer leases may last that a clock was stepped under.
    pub(super) late: Duration,
    servers: Option<Arc<dyn Servers>>,
    nemesis: Recorder,
}

/// A place in the crew, and who has it.
struct Member {
    worker: Worker,
    /// How the work ends. Of those who were killed nobody hears it.
    work: Option<Reply>,
    /// How many had the place before.
    hired: u64,
}

/// A folder that is removed at the end.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new() -> Verdict<Self> {
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
    let field = Field::enter(ctx, settings, faults, &folder.0).await?;
    field.work().await;
    field.run(settings, faults).await;
    // Who does not end has nothing more to say.
    let _ = field.dismiss().await;
    Ok(ctx.history().take())
}

impl Field {
    pub(super) async fn enter(
        ctx: &Ctx,
        settings: &Settings,
        faults: &[Fault],
        folder: &Path,
    ) -> Verdict<Self> {
        let client = ctx.client().await?;
        let ttl = settings.ttl.unwrap_or(Duration::from_secs(1)).max(ctx.guarantees().min_ttl);
        let start = ctx.history().stamp().at;
        let until = start + nanos(settings.duration);
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
            prefix: String::new(),
            pace: 1,
        };
        let nemesis = ctx.history().client("nemesis");
        let servers = ctx.servers();
        let (crew, spared, watchers, wires) = (Vec::new(), 0, Watchers::default(), Vec::new());
        let late = if faults.contains(&Fault::ClockForward) { ttl * AHEAD } else { Duration::ZERO };
        let mut field = Self {
            ctx: ctx.clone(),
            client,
            ttl,
            work,
            crew,
            spared,
            watchers,
            wires,
            late,
            servers,
            nemesis,
        };
        for place in 0..settings.workers {
            if let Some(url) = ctx.url().filter(|_| faults.iter().any(|fault| fault.is_on_the_wire())) {
                let seed = settings.seed.wrapping_mul(1000).wrapping_add(500 + 10 * place as u64);
                field.wires.push(Wire::new(&url, seed)?);
            }
            let worker = field.hire(place)?;
            field.crew.push(Mutex::new(Member { worker, work: None, hired: 0 }));
        }
        Ok(field)
    }

    fn hire(&self, place: usize) -> Verdict<Worker> {
        let url = self.wires.get(place).map(|wire| wire.url.clone()).or_else(|| self.ctx.url());
        Worker::start_behind_faults(&self.ctx, url)
    }

    /// What is worked on from now on, until the end of these settings.
    pub(super) fn begin(&mut self, settings: &Settings, prefix: String, pace: u32) {
        let start = self.ctx.history().stamp().at;
        let until = start + nanos(settings.duration);
        self.work = Work { start, until, seed: settings.seed, prefix, pace, ..self.work.clone() };
    }

    /// Begins the work, and watches it.
    pub(super) async fn work(&self) {
        self.watchers.add_all(&self.client, &self.work);
        for (place, member) in self.crew.iter().enumerate() {
            self.put_to_work(place, &mut *member.lock().await);
        }
    }

    fn put_to_work(&self, place: usize, member: &mut Member) {
        let seed = self.work.seed.wrapping_mul(1000).wrapping_add(10 + member.hired * 100 + place as u64);
        let work = Work { seed, ..self.work.clone() };
        member.work = Some(member.worker.ask(Command::Work(Box::new(work))));
    }

    /// Strikes, and comes to rest. What goes wrong is put down.
    pub(super) async fn run(&self, settings: &Settings, faults: &[Fault]) {
        let from = self.ctx.history().stamp();
        if let Err(failure) = self.try_run(settings, faults).await {
            let outcome = Outcome::Fail(failure.to_string());
            self.nemesis.since(from, "the run itself", Op::Probe { bound: 0 }, outcome);
        }
        self.watchers.end();
    }

    async fn try_run(&self, settings: &Settings, faults: &[Fault]) -> Verdict {
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
        self.wires.iter().for_each(Wire::heal);
        self.nemesis.note("all", Op::Healed);
        ending::come_to_rest(self).await
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
        let lock = object(Kind::Lock, &self.work.name(if choice & 2 == 0 { "till" } else { "ledger" }));
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
        let mut place = self.mark(strike.choice).await;
        if strike.fault == Fault::Kill && place < self.spared {
            place = self.crew.len() - 1;
        }
        let mut member = self.crew[place].lock().await;
        let (name, from) = (member.worker.name().to_owned(), self.ctx.history().stamp());
        if strike.fault == Fault::Kill {
            member.worker.kill().await?;
            self.struck(from, &name, strike.fault);
            let worker = self.hire(place)?;
            *member = Member { worker, work: None, hired: member.hired + 1 };
            self.put_to_work(place, &mut member);
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
        if let (Fault::WireApart, Some(servers)) = (strike.fault, &self.servers) {
            let names = servers.names();
            let at = usize::try_from(strike.choice).unwrap_or(0) % names.len();
            self.wires.iter().for_each(|wire| wire.part(at, many));
            sleep(strike.length).await;
            self.wires.iter().for_each(Wire::heal);
            self.struck(from, &names[at], strike.fault);
            return Ok(());
        }
        if let Some(wire) = self.wires.get(place).filter(|_| strike.fault.is_on_the_wire()) {
            let name = self.crew[place].lock().await.worker.name().to_owned();
            wire.strike(strike.fault, many);
            if !strike.length.is_zero() {
                sleep(strike.length).await;
                wire.heal();
            }
            self.struck(from, &name, strike.fault);
            return Ok(());
        }
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
        let leader = matches!(strike.fault, Fault::LeaderKill | Fault::LeaderStop)
            || strike.fault == Fault::Partition && strike.choice.is_multiple_of(2);
        let at = match leader {
            true => blocking(servers, |servers| servers.leader()).await?,
            false => usize::try_from(strike.choice >> 1).unwrap_or(0) % names.len(),
        };
        let (from, many, lease) = (self.ctx.history().stamp(), strike.choice >> 32, self.ttl);
        match strike.fault {
            Fault::ServerKill | Fault::LeaderKill => {
                blocking(servers, move |servers| servers.kill(at)).await?;
                sleep(strike.length).await;
                blocking(servers, move |servers| servers.restart(at)).await?;
            }
            Fault::Partition => {
                let apart = [Apart::Both, Apart::Mute, Apart::Deaf][many as usize % 3];
                blocking(servers, move |servers| servers.part(at, apart)).await?;
                sleep(strike.length).await;
                blocking(servers, |servers| servers.rejoin()).await?;
            }
            Fault::ClockForward | Fault::ClockBack => {
                let step = match strike.fault {
                    Fault::ClockBack => -3_600_000,
                    _ => milliseconds(lease) * (2 + (many % u64::from(AHEAD - 1)).cast_signed()),
                };
                blocking(servers, move |servers| servers.step_clock(at, step)).await?;
                sleep(strike.length).await;
                blocking(servers, move |servers| servers.heal_clock(at)).await?;
            }
            Fault::ClockStrobe => {
                let times = strike.length.as_millis() / STROBE.as_millis();
                for number in 0..times {
                    let step = if number % 2 == 0 { 2000 } else { -2000 };
                    blocking(servers, move |servers| servers.step_clock(at, step)).await?;
                    sleep(STROBE).await;
                }
                blocking(servers, move |servers| servers.heal_clock(at)).await?;
            }
            _ => {
                blocking(servers, move |servers| servers.stop(at)).await?;
                sleep(strike.length).await;
                blocking(servers, move |servers| servers.go_on(at)).await?;
            }
        }
        self.struck(from, &names[at], strike.fault);
        Ok(())
    }

    /// Waits for the end of everybody's work; what each of them says.
    pub(super) async fn ended(&self) -> Vec<(String, Verdict<Answer>)> {
        let mut answers = Vec::new();
        for member in &self.crew {
            let mut member = member.lock().await;
            if let Some(mut work) = member.work.take() {
                let answer = work.answer().await;
                answers.push((member.worker.name().to_owned(), answer));
            }
        }
        answers
    }

    /// Asks all workers the same; their answers.
    pub(super) async fn ask(&self, command: &Command) -> Verdict<Vec<Answer>> {
        let mut answers = Vec::new();
        for member in &self.crew {
            answers.push(member.lock().await.worker.ask(command.clone()).answer().await?);
        }
        Ok(answers)
    }

    /// Nobody watches anything any more.
    pub(super) async fn unwatch(&self) -> Verdict {
        self.watchers.end();
        self.ask(&Command::Unwatch).await.map(drop)
    }

    /// Ends all workers.
    pub(super) async fn dismiss(&self) -> Verdict {
        for member in &self.crew {
            member.lock().await.worker.dismiss().await?;
        }
        Ok(())
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 100)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
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
