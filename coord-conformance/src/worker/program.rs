//! What a worker does when it is told to.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use coord_core::{
    CampaignOptions, Delivery, Error, ErrorKind, FencingToken, Guard, Instance, Leadership, Lock,
    LockOptions, Name, RegisterOptions, Registration, Registry, Result,
};

use super::{Answer, Command, Trouble, Vitals, resource::Resource};
use crate::{
    Client,
    client::SAMPLE,
    faults::Faults,
    history::{Held, Op, Recorder},
    runs, working, writing,
};

/// How long is certainly long enough where nothing but a bug makes it long.
const NEVER: Duration = Duration::from_secs(30);

enum Grant {
    Lock(Held<Guard>),
    Leadership(Held<Leadership>),
    Plain(Guard),
    Registration(Registration),
    /// With its queue.
    Delivery(Name, Delivery),
}

/// The state of a worker.
pub(super) struct Program {
    client: Client,
    /// What is between it and its store.
    faults: Arc<Faults>,
    grants: Mutex<HashMap<u64, Arc<Grant>>>,
    watchers: runs::Watchers,
}

impl Program {
    pub(super) fn new(client: Client, faults: Arc<Faults>) -> Self {
        Self { client, faults, grants: Mutex::default(), watchers: runs::Watchers::default() }
    }

    pub(super) async fn obey(&self, number: u64, command: Command) -> Result<Answer> {
        let client = &self.client;
        match command {
            Command::Lock { name, ttl } => {
                let held = client.lock(&name, &LockOptions::default().with_ttl(ttl)).await?;
                Ok(self.keep(number, held.token(), Grant::Lock(held)))
            }
            Command::Lead { name, ttl } => {
                let held = client.lead(&name, &CampaignOptions::default().with_ttl(ttl)).await?;
                Ok(self.keep(number, held.token(), Grant::Leadership(held)))
            }
            Command::Register { service, id, ttl } => {
                let options = RegisterOptions::default().with_ttl(ttl);
                let registration = client.register(&service, Instance::new(id, "here"), &options).await?;
                Ok(self.keep(number, registration.token(), Grant::Registration(registration)))
            }
            Command::Resume { text } => {
                let guard = client.resume(&text.parse()?).await?;
                Ok(self.keep(number, guard.token(), Grant::Plain(guard)))
            }
            Command::IsHeld { hold } => Ok(Answer::Held(match &*self.grant(hold)? {
                Grant::Lock(held) => held.is_held(),
                Grant::Leadership(held) => held.is_held(),
                Grant::Plain(guard) => guard.is_held(),
                Grant::Registration(registration) => registration.is_listed(),
                Grant::Delivery(queue, delivery) => working::is_in_hand(client, queue, delivery),
            })),
            Command::Run { hold } => {
                let grant = self.grant(hold)?;
                let guard = grant.guard()?;
                let mut steps = Vec::new();
                let work = async {
                    loop {
                        tokio::time::sleep(SAMPLE).await;
                        steps.push(client.recorder().history().stamp().at);
                    }
                };
                let _lost: Result<()> = guard.run(work).await;
                Ok(Answer::Worked(steps))
            }
            Command::Release { hold } => {
                match self.take(hold)? {
                    Grant::Lock(held) => held.release().await?,
                    Grant::Leadership(held) => held.release().await?,
                    Grant::Plain(guard) => guard.release().await?,
                    Grant::Registration(registration) => registration.deregister().await?,
                    Grant::Delivery(..) => {
                        return Err(Error::new(ErrorKind::InvalidInput, "a delivery is settled"));
                    }
                }
                Ok(Answer::Released)
            }
            Command::Detach { hold } => match self.take(hold)? {
                Grant::Lock(held) => Ok(Answer::Detached(held.into_inner().detach().await?.to_string())),
                _ => Err(Error::new(ErrorKind::InvalidInput, "only locks can be detached")),
            },
            Command::Read { resource, hold, fenced } => {
                let (resource, token) = (Resource::new(resource, fenced), self.grant(hold)?.token()?);
                blocking(move || resource.read(token)).await.map(Answer::Value)
            }
            Command::Write { resource, hold, read, fenced } => {
                let token = self.grant(hold)?.token()?;
                write(client.recorder(), &Resource::new(resource, fenced), token, read).await?;
                Ok(Answer::Written)
            }
            Command::Count { resource, name, ttl, times } => {
                self.count(&Counter::File(Resource::new(resource, true)), &name, ttl, times).await
            }
            Command::Receive { queue, visibility } => {
                let options = working::options(visibility).with_wait(NEVER);
                let delivery = loop {
                    match working::receive(client, &queue, &options).await.map(|mut items| items.pop()) {
                        Ok(Some(delivery)) => break delivery,
                        // On a busy machine the lease can end on the way.
                        Ok(None) => {}
                        Err(error) if error.is_retryable() => {}
                        Err(error) => return Err(error),
                    }
                };
                Ok(self.keep(number, delivery.token(), Grant::Delivery(queue, delivery)))
            }
            Command::Ack { hold } => {
                let (queue, delivery) = self.take(hold)?.delivery()?;
                working::ack(client, &queue, delivery).await.map(|()| Answer::Done)
            }
            Command::Nack { hold } => {
                let (queue, delivery) = self.take(hold)?.delivery()?;
                working::nack(client, &queue, delivery, Duration::ZERO).await.map(|()| Answer::Done)
            }
            Command::Extend { hold, visibility } => match &*self.grant(hold)? {
                Grant::Delivery(_, delivery) => delivery.extend(visibility).await.map(|()| Answer::Done),
                _ => Err(Error::new(ErrorKind::InvalidInput, "this grant is no delivery")),
            },
            Command::Produce { queue, items, pause, seed } => {
                let rng = fastrand::Rng::with_seed(seed);
                working::produce(client, rng, &queue, items, pause, None).await.map(|()| Answer::Done)
            }
            Command::Consume { queue, visibility, wait, seed } => {
                let (rng, options) =
                    (fastrand::Rng::with_seed(seed), working::options(visibility).with_wait(wait));
                working::consume(client, rng, &queue, &options, None).await.map(|()| Answer::Done)
            }
            Command::ReadKey { key, hold, fenced } => {
                let token = self.grant(hold)?.token()?;
                writing::fenced_read(client, &key, token, fenced).await.map(Answer::Value)
            }
            Command::WriteKey { key, hold, read, fenced } => {
                let token = self.grant(hold)?.token()?;
                writing::fenced_write(client, &key, token, read, fenced).await.map(|()| Answer::Written)
            }
            Command::CountInKey { key, name, ttl, times } => {
                self.count(&Counter::Key(key), &name, ttl, times).await
            }
            Command::Work(work) => runs::work(client, *work, &self.watchers).await.map(|()| Answer::Done),
            Command::Unwatch => {
                self.watchers.end();
                Ok(Answer::Done)
            }
            Command::Vitals => vitals().map(Answer::Vitals),
            Command::Link(trouble) => {
                match trouble {
                    Trouble::Heal => self.faults.heal(),
                    Trouble::Lose { half, nth } => self.faults.lose(half, nth, None),
                    Trouble::Cut(cut) => self.faults.partition(cut),
                    Trouble::Delay(delay) => self.faults.delay_replies(delay),
                    Trouble::Deaf(deaf) => self.faults.lose_hints(deaf),
                }
                Ok(Answer::Done)
            }
            Command::Increment { key, times } => {
                writing::increment(client, &key, times).await.map(|()| Answer::Counted(times))
            }
        }
    }

    /// Adds one so many times, each time under a lock of its own. A round that was fenced out, or that found the store
    /// out of reach, is done again.
    async fn count(&self, counter: &Counter, name: &Name, ttl: Duration, times: u64) -> Result<Answer> {
        let mut done = 0;
        while done < times {
            let held = match self.client.lock(name, &LockOptions::default().with_ttl(ttl)).await {
                Ok(held) => held,
                Err(error) if error.is_retryable() => continue,
                Err(error) => return Err(error),
            };
            match counter.add_one(&self.client, &held).await {
                Ok(()) => done += 1,
                Err(error) if error.kind() == ErrorKind::Fenced || error.is_retryable() => {}
                Err(error) => return Err(error),
            }
            match held.release().await {
                Err(error) if !error.is_lost() && !error.is_retryable() => return Err(error),
                _ => {}
            }
        }
        Ok(Answer::Counted(done))
    }

    fn keep(&self, number: u64, token: FencingToken, grant: Grant) -> Answer {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(grant));
        Answer::Granted(token)
    }

    fn grant(&self, hold: u64) -> Result<Arc<Grant>> {
        let grant = self.grants.lock().unwrap_or_else(PoisonError::into_inner).get(&hold).cloned();
        grant.ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such grant"))
    }

    fn take(&self, hold: u64) -> Result<Grant> {
        let grant = self.grants.lock().unwrap_or_else(PoisonError::into_inner).remove(&hold);
        grant
            .and_then(Arc::into_inner)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such grant, or it is in use"))
    }
}

/// What is counted in.
enum Counter {
    File(Resource),
    Key(Name),
}

impl Counter {
    async fn add_one(&self, client: &Client, held: &Held<Guard>) -> Result<()> {
        let token = held.token();
        match self {
            Self::File(resource) => {
                let reading = resource.clone();
                let read = blocking(move || reading.read(token)).await?;
                held.is_held();
                write(client.recorder(), resource, token, read).await
            }
            Self::Key(key) => {
                let read = writing::fenced_read(client, key, token, true).await?;
                held.is_held();
                writing::fenced_write(client, key, token, read, true).await
            }
        }
    }
}

impl Grant {
    fn guard(&self) -> Result<&Guard> {
        match self {
            Self::Lock(held) => Ok(held.guard()),
            Self::Plain(guard) => Ok(guard),
            _ => Err(Error::new(ErrorKind::InvalidInput, "this grant is no lock")),
        }
    }

    fn token(&self) -> Result<FencingToken> {
        self.guard().map(Guard::token)
    }

    fn delivery(self) -> Result<(Name, Delivery)> {
        match self {
            Self::Delivery(queue, delivery) => Ok((queue, delivery)),
            _ => Err(Error::new(ErrorKind::InvalidInput, "this grant is no delivery")),
        }
    }
}

/// What this process uses, as Linux tells.
fn vitals() -> Result<Vitals> {
    let unknown = |error: std::io::Error| Error::new(ErrorKind::Unsupported, "no /proc").with_source(error);
    let status = std::fs::read_to_string("/proc/self/status").map_err(unknown)?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    let resident = resident.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or_default() * 1024;
    // One of them is the folder that is read.
    let descriptors = std::fs::read_dir("/proc/self/fd").map_err(unknown)?.count().saturating_sub(1) as u64;
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks() as u64;
    Ok(Vitals { resident, descriptors, tasks })
}

async fn write(recorder: &Recorder, resource: &Resource, token: FencingToken, read: u64) -> Result<()> {
    let wrote = read + 1;
    let op = |_: Option<&()>| Op::Write { token: token.get(), read, wrote };
    let (writing, object) = (resource.clone(), resource.object());
    recorder.call(&object, blocking(move || writing.write(token, read, wrote)), op).await
}

/// Waiting for a file's lock must not keep the renewals waiting.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|stopped| Err(Error::new(ErrorKind::Internal, "a task stopped").with_source(stopped)))
}
