//! The thin async shell around the [`Keeper`]: one task a client, that sends what the keeper decides and tells the
//! guards.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::{
    Engine, Mutant,
    hold::Lease,
    keeper::{Keeper, Step},
};
use crate::{
    Effect, Error, ErrorKind, Result,
    clock::Moment,
    spi::{ClaimId, Claims, Grant, Renewal},
};

/// What the rest of the engine asks of the keeper's task.
#[derive(Debug)]
pub(crate) enum Command {
    /// Keep this lease; also: its TTL was changed.
    Keep { lease: Arc<Lease>, renew: bool },
    /// Stop keeping it.
    Forget(ClaimId),
    /// A wake-up for a held claim came in.
    Poke(ClaimId),
    /// The store does not have the claim any more.
    Gone(ClaimId),
}

/// The longest that the keeper sleeps. Timers stand still while the machine sleeps; this bounds how late a loss is
/// noticed after it wakes up.
const NAP: Duration = Duration::from_secs(1);

/// Starts the task. It ends when all senders are gone and nothing is kept.
pub(crate) fn start(engine: &Arc<Engine>) -> UnboundedSender<Command> {
    let (sender, receiver) = unbounded_channel();
    let shell = Shell {
        // Weak: guards keep the engine alive, its own task does not.
        engine: Arc::downgrade(engine),
        claims: engine.claims.clone(),
        clock: engine.clock,
        call_timeout: engine.call_timeout,
        mutant: engine.mutant,
        keeper: Keeper::default(),
        leases: HashMap::new(),
    };
    engine.background.spawn(shell.run(receiver));
    sender
}

struct Shell {
    engine: std::sync::Weak<Engine>,
    claims: Arc<dyn Claims>,
    clock: crate::clock::Clock,
    call_timeout: Duration,
    mutant: Option<Mutant>,
    keeper: Keeper,
    leases: HashMap<ClaimId, Arc<Lease>>,
}

struct Answer {
    grants: Vec<Grant>,
    sent: Moment,
    outcome: Result<Vec<Renewal>>,
}

impl Shell {
    async fn run(mut self, mut commands: UnboundedReceiver<Command>) {
        let mut calls = FuturesUnordered::new();
        loop {
            let now = self.clock.now();
            for step in self.keeper.step(now) {
                if let Some(grants) = self.apply(step) {
                    calls.push(self.renew(grants, now));
                }
            }
            let nap = self.keeper.next().map(|next| next.since(now).min(NAP));
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Some(answer) = calls.next(), if !calls.is_empty() => self.hear(answer),
                () = sleep(nap.unwrap_or_default()), if nap.is_some() => {}
            }
        }
    }

    fn obey(&mut self, command: Command) {
        let now = self.clock.now();
        match command {
            Command::Keep { lease, renew } => {
                let (grant, mut valid_until) = lease.snapshot();
                if self.mutant == Some(Mutant::HeldPastDeadline) {
                    valid_until = Moment::from_start(Duration::MAX);
                }
                self.leases.insert(grant.id, lease);
                self.keeper.add(grant, valid_until, renew, now, super::jitter(self.clock));
            }
            Command::Forget(id) => {
                self.keeper.remove(id);
                self.leases.remove(&id);
            }
            Command::Poke(id) => {
                if let Some(step) = self.keeper.poke(id, now) {
                    self.apply(step);
                }
            }
            Command::Gone(id) => {
                self.keeper.remove(id);
                self.lose(id);
            }
        }
    }

    /// One renewal. The store's future runs to its end in a task of its own, even where this one stops waiting.
    fn renew(&self, grants: Vec<Grant>, sent: Moment) -> impl Future<Output = Answer> + use<> {
        let claims = self.claims.clone();
        let patience = grants.first().map_or(self.call_timeout, |grant| grant.ttl / 3).min(self.call_timeout);
        async move {
            let request = grants.clone();
            let call = tokio::spawn(async move { claims.renew(&request).await });
            let outcome = match timeout(patience, call).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(stopped)) => {
                    Err(Error::new(ErrorKind::Internal, "a renewal stopped").with_source(stopped))
                }
                Err(_) => {
                    Err(Error::new(ErrorKind::Unavailable, "the store did not answer a renewal in time")
                        .with_unknown_effect())
                }
            };
            let outcome = outcome.and_then(|answers| {
                if answers.len() == grants.len() {
                    Ok(answers)
                } else {
                    Err(Error::new(ErrorKind::Internal, "the store answered another number of renewals"))
                }
            });
            Answer { grants, sent, outcome }
        }
    }

    fn hear(&mut self, Answer { grants, sent, outcome }: Answer) {
        let now = self.clock.now();
        match outcome {
            Ok(answers) => {
                let sent = if self.mutant == Some(Mutant::DeadlineFromReply) { now } else { sent };
                debug!(claims = grants.len(), "renewed");
                for step in self.keeper.renewed(&grants, &answers, sent, now, super::jitter(self.clock)) {
                    self.apply(step);
                }
            }
            Err(error) => {
                warn!(claims = grants.len(), %error, unknown = error.effect() == Effect::Unknown, "a renewal failed");
                self.keeper.failed(&grants, now, super::jitter(self.clock));
            }
        }
    }

    fn apply(&mut self, step: Step) -> Option<Vec<Grant>> {
        match step {
            Step::Renew(grants) => return Some(grants),
            Step::Verify(grant) => self.verify(grant),
            Step::Prolong(id, until) => {
                if self.leases.get(&id).is_some_and(|lease| !lease.prolong(until, None)) {
                    self.keeper.remove(id);
                    self.lose(id);
                }
            }
            Step::Lose(id) => self.lose(id),
        }
        None
    }

    fn verify(&self, grant: Grant) {
        let Some(engine) = self.engine.upgrade() else { return };
        tokio::spawn(async move {
            // Without an answer the lease ends at its deadline, as it would have anyway.
            if let Ok(line) = engine.claims.line(&grant.line).await
                && line.holders().all(|holder| holder.id != grant.id)
            {
                engine.tell(Command::Gone(grant.id));
            }
        });
    }

    /// Tells the guard, and takes the claim out of the line: the store may still have it for a moment.
    fn lose(&mut self, id: ClaimId) {
        let Some(lease) = self.leases.remove(&id) else { return };
        lease.lose();
        let (grant, _) = lease.snapshot();
        if let Some(engine) = self.engine.upgrade() {
            engine.abandon(grant.line, id, grant.ttl, None);
        }
    }
}
