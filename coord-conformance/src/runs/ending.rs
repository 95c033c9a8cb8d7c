//! The end of a run: all faults are over, and everything has to come to rest, and to be there.

use std::{collections::BTreeSet, time::Duration};

use coord_core::{
    CampaignOptions, Election, Instance, LockOptions, Queue, QueueStats, RegisterOptions, Registry, spi::Kind,
};
use fastrand::Rng;
use tokio::time::sleep;

use super::{
    conduct::Field,
    work::{Counter, SEATS, accepted, entries, named},
};
use crate::{
    Failure, Verdict,
    checkers::{Checker, following, membership, terms},
    history::{Event, Given, Op, Outcome, line, object},
    watching,
    worker::Answer,
    working, writing,
};

/// How much longer than leases and takeovers take anything may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// The TTL of what everybody has to come to see, which no pause of a busy machine is to take away.
const LASTING: Duration = Duration::from_secs(60);
/// How often one looks where no event can be awaited.
const LOOK: Duration = Duration::from_millis(50);

/// Waits for the end of all work, tries everything once more, and notes what is there.
pub(super) async fn come_to_rest(field: &Field) -> Verdict {
    let ended = field.probe("work", async {
        for (name, answer) in field.ended().await {
            if let Answer::Failed { kind, message } = answer? {
                return Err(Failure::new(format!("{name} failed: {kind}: {message}")));
            }
        }
        Ok(())
    });
    if ended.await.is_none() {
        // What is still at work is not at rest.
        return Ok(());
    }
    let client = &field.client;
    let options = LockOptions::default().with_ttl(field.ttl);
    for name in ["till", "ledger"] {
        if name == "ledger" || field.work.values {
            let name = field.work.name(name);
            let locking = async { Ok(client.lock(&name, &options).await?.release().await?) };
            field.probe(&object(Kind::Lock, &name), locking).await;
            field.left_empty(Kind::Lock, &name).await;
        }
    }
    if field.work.shared {
        let name = field.work.name("seats");
        // All of them: nobody has kept one.
        let sitting = async { Ok(client.permits(&name, SEATS, SEATS, &options).await?.release().await?) };
        field.probe(&object(Kind::Semaphore, &name), sitting).await;
        field.left_empty(Kind::Semaphore, &name).await;
    }
    if field.work.jobs {
        field.drain().await?;
    }
    let leading = field.office().await?;
    let member = field.crew().await?;
    if field.work.values {
        field.values().await?;
    }
    field.counters().await?;
    field.unwatch().await?;
    drop((leading, member));
    Ok(())
}

impl Field {
    /// How soon something has to succeed.
    fn bound(&self) -> Duration {
        self.ttl * 3 + self.ctx.takeover() + self.late + PATIENCE
    }

    /// Tries something that has to succeed, and notes whether it did.
    async fn probe<T>(&self, what: &str, work: impl Future<Output = Verdict<T>>) -> Option<T> {
        let recorder = self.ctx.history().client("probe");
        let (from, bound) = (self.ctx.history().stamp(), self.bound());
        let (result, outcome) = match tokio::time::timeout(bound, work).await {
            Ok(Ok(value)) => (Some(value), Outcome::Ok),
            Ok(Err(failure)) => (None, Outcome::Fail(failure.to_string())),
            Err(_) => (None, Outcome::Unknown("it goes on".into())),
        };
        let bound = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
        recorder.since(from, what, Op::Probe { bound }, outcome);
        result
    }

    /// Nobody is left in a line: who is alive let go, and who was killed is out of it with the end of the lease.
    async fn left_empty(&self, kind: Kind, name: &coord_core::Name) {
        let line = line(kind, name);
        let emptying = async {
            let claims = self.ctx.claims().await?;
            while !claims.line(&line).await?.entries.is_empty() {
                sleep(LOOK).await;
            }
            claims.close().await?;
            Ok(())
        };
        self.probe(&format!("{} left empty", object(kind, name)), emptying).await;
    }

    /// Works on what is left in the queue, until nothing is.
    async fn drain(&self) -> Verdict {
        let (queue, mut rng) = (self.work.name("jobs"), Rng::with_seed(self.work.seed));
        let options = working::options(self.ttl).with_wait(Duration::ZERO);
        let draining = async {
            while self.client.queue_stats(&queue).await? != QueueStats::default() {
                working::consume(&self.client, rng.fork(), &queue, &options, None).await?;
                sleep(LOOK).await;
            }
            Ok(())
        };
        if self.probe(queue.as_str(), draining).await.is_some() {
            self.client.recorder().note(queue.as_str(), Op::Drained);
        }
        Ok(())
    }

    /// Reads how things stand, again and again until a checker finds that everybody who watches has come to see it; then, or
    /// when that took too long, it is noted.
    async fn settle(&self, object: &str, checker: Checker, read: impl AsyncFn() -> Verdict<Op>) -> Verdict {
        let history = self.ctx.history();
        let settled = async || {
            let (from, op) = (history.stamp(), read().await?);
            let (to, client) = (history.stamp(), self.client.recorder().client().to_owned());
            Ok::<_, Failure>(Event { from, to, client, object: object.to_owned(), op, outcome: Outcome::Ok })
        };
        let settling = async {
            loop {
                let mut events = history.events();
                events.push(settled().await?);
                if checker(&events).is_ok() {
                    return Ok::<_, Failure>(());
                }
                sleep(LOOK).await;
            }
        };
        if let Ok(settled) = tokio::time::timeout(self.bound(), settling).await {
            settled?;
        }
        history.record(settled().await?);
        Ok(())
    }

    /// The last of all leads, and every observer comes to see it.
    async fn office(&self) -> Verdict<impl Sized + use<>> {
        let (client, name) = (&self.client, self.work.name("office"));
        let options = CampaignOptions::default().with_ttl(self.ttl.max(LASTING)).with_id("last");
        let object = object(Kind::Election, &name);
        let leading = self.probe(&object, async { Ok(client.lead(&name, &options).await?) }).await;
        if leading.is_some() {
            let read = async || {
                let leader = client.leader(&name).await?;
                Ok(Op::Leader { leader: leader.map(|leader| (leader.id, leader.term.get())), settled: true })
            };
            self.settle(&object, terms::check, read).await?;
        }
        Ok(leading)
    }

    /// The last of all is a member, and nobody else is; every watcher comes to see that.
    async fn crew(&self) -> Verdict<impl Sized + use<>> {
        let (client, service) = (&self.client, self.work.name("crew"));
        let (options, object) =
            (RegisterOptions::default().with_ttl(self.ttl.max(LASTING)), object(Kind::Registry, &service));
        let registering = self.probe(&object, async {
            let attempt = client.recorder().number();
            let registering = client.register(&service, Instance::new("last", "here"), &options);
            let op = |registration: Option<&coord_core::Registration>| {
                let token = registration.map(|registration| registration.token().get());
                Op::Register { attempt, id: "last".into(), token }
            };
            let registration = client.recorder().call(&object, registering, op).await?;
            while client.instances(&service).await?.len() > 1 {
                sleep(LOOK).await;
            }
            Ok(registration)
        });
        let registration = registering.await;
        if registration.is_some() {
            let read = async || {
                let members = watching::listed(&client.instances(&service).await?);
                Ok(Op::Members { members, settled: true })
            };
            self.settle(&object, membership::check, read).await?;
        }
        Ok(registration)
    }

    /// The last value is written, and every watcher comes to see all of them.
    async fn values(&self) -> Verdict {
        let client = &self.client;
        let (last, config) = (self.work.name("config/last"), self.work.config());
        let writing = async { Ok(writing::put(client, &last, "last".into(), Given::Anything).await?) };
        if self.probe(&config, writing).await.is_none() {
            return Ok(());
        }
        for (key, ..) in entries(client, &config).await? {
            writing::read(client, &named(&key)).await?;
        }
        let read = async || Ok(Op::Entries { entries: entries(client, &config).await? });
        self.settle(&config, following::check, read).await
    }

    /// What was accepted by all that was counted in.
    async fn counters(&self) -> Verdict {
        let written = |event: &Event| match event.op {
            Op::Write { .. } => Some(event.object.clone()),
            _ => None,
        };
        let objects: BTreeSet<_> = self.ctx.history().events().iter().filter_map(written).collect();
        for object in objects {
            let object = object.strip_prefix(&self.work.prefix).unwrap_or(&object);
            let Some((kind, stretch)) = object.split_once('/') else { continue };
            let Ok(stretch) = stretch.parse() else { continue };
            let counter = Counter::new(kind == "till", &self.work, stretch);
            for event in accepted(&self.client, &counter).await? {
                self.ctx.history().record(event);
            }
        }
        Ok(())
    }
}
