//! Membership: services and their live instances.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep,
};
use tracing::{info, warn};

use crate::{
    Coordinator, Error, ErrorKind, FencingToken, Name, Result, Watch,
    coordinator::Request,
    engine::{
        attempt,
        hold::Hold,
        trace::{Tokened, traced, traced_holding},
        watch::follow,
    },
    limits,
    spi::{Kind, Line, LineId},
};

/// Service discovery: an instance is listed for as long as its process keeps it alive.
#[async_trait]
pub trait Registry: Send + Sync {
    /// Lists an instance under a service, and keeps it listed until the registration is dropped or deregistered: if its
    /// lease is lost, it registers again by itself, with a new token. Of two registrations with one instance id
    /// the later one counts.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped at any point, it leaves nothing behind.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] or [`ErrorKind::InvalidOptions`] for the instance; the kinds of bad options; what the
    /// store says.
    async fn register(
        &self,
        service: &Name,
        instance: Instance,
        options: &RegisterOptions,
    ) -> Result<Registration>;

    /// The instances that are alive, in the order of their ids.
    ///
    /// # Cancel safety
    /// Cancel safe.
    ///
    /// # Errors
    /// What the store says.
    async fn instances(&self, service: &Name) -> Result<Vec<Member>>;

    /// Follows a service: a [`RegistryEvent::Snapshot`], then every change to it, with no gap between the two. An
    /// instance that comes and goes between two reads may be skipped; the last state never is.
    fn watch_instances(&self, service: &Name) -> Watch<RegistryEvent>;
}

/// An instance of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Instance {
    /// Which instance; unique within its service.
    #[serde(skip)]
    pub id: String,
    /// Where to reach it, such as `10.0.0.7:8080`.
    pub address: String,
    /// What else callers should know.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Its share of the load among the instances, for pickers that weigh. Zero: none.
    pub weight: u32,
}

impl Instance {
    /// An instance of weight one.
    #[must_use]
    pub fn new(id: impl Into<String>, address: impl Into<String>) -> Self {
        Self { id: id.into(), address: address.into(), metadata: BTreeMap::new(), weight: 1 }
    }

    /// With one more entry of metadata.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// With this weight.
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    fn encode(&self) -> Result<Vec<u8>> {
        limits::owner("an instance id", &self.id)?;
        let value = serde_json::to_vec(self).map_err(|error| {
            Error::new(ErrorKind::Internal, "an instance could not be encoded").with_source(error)
        })?;
        limits::value(&value)?;
        Ok(value)
    }
}

/// How to register.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RegisterOptions {
    /// How long a crashed instance stays listed.
    pub ttl: Duration,
}

impl Default for RegisterOptions {
    fn default() -> Self {
        Self { ttl: limits::DEFAULT_TTL }
    }
}

impl RegisterOptions {
    /// With this TTL.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }
}

/// An instance as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// The instance.
    pub instance: Instance,
    /// The fencing token of its registration. A restarted instance has a greater one.
    pub token: FencingToken,
    /// Since when it is registered, by the store's wall clock.
    pub since: SystemTime,
}

/// What [`Registry::watch_instances`] reports.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryEvent {
    /// Everyone who was there at the start.
    Snapshot(Vec<Member>),
    /// A new instance, or a known one that registered anew.
    Joined(Member),
    /// An instance changed its address, metadata or weight.
    Updated(Member),
    /// An instance went away or was lost.
    Left(Member),
}

fn members_of(line: Line) -> BTreeMap<String, Member> {
    let mut members = BTreeMap::new();
    for entry in line.entries {
        let Some(since) = entry.granted else { continue };
        match serde_json::from_slice::<Instance>(&entry.value) {
            Ok(mut instance) => {
                instance.id.clone_from(&entry.owner);
                // In the order of tokens: of two with one id the later one stays.
                members.insert(entry.owner, Member { instance, token: entry.token, since });
            }
            Err(error) => warn!(id = entry.owner, %error, "an instance that cannot be read is left out"),
        }
    }
    members
}

#[async_trait]
impl Registry for Coordinator {
    async fn register(
        &self,
        service: &Name,
        instance: Instance,
        options: &RegisterOptions,
    ) -> Result<Registration> {
        let line = self.line_id(Kind::Registry, service);
        traced("registry.register", &line, async {
            let registrar =
                Registrar { coordinator: self.clone(), service: service.clone(), ttl: options.ttl };
            let hold = registrar.join(&instance).await?;
            let (commands, inbox) = mpsc::channel(1);
            let (publish, state) = watch::channel(Listed { token: hold.token(), listed: true });
            self.engine.spawn(registrar.stay(instance.clone(), hold, inbox, publish));
            Ok(Registration { line: line.clone(), id: instance.id, commands, state })
        })
        .await
    }

    async fn instances(&self, service: &Name) -> Result<Vec<Member>> {
        traced("registry.instances", &self.line_id(Kind::Registry, service), async {
            Ok(members_of(self.read_line(Kind::Registry, service).await?).into_values().collect())
        })
        .await
    }

    fn watch_instances(&self, service: &Name) -> Watch<RegistryEvent> {
        let mut known: Option<BTreeMap<String, Member>> = None;
        let states = follow(self.engine.clone(), self.line_id(Kind::Registry, service), None);
        Watch::new(states.flat_map(move |state| {
            stream::iter(match state {
                Ok(line) => {
                    let members = members_of(line);
                    let events = match &known {
                        None => {
                            VecDeque::from([RegistryEvent::Snapshot(members.values().cloned().collect())])
                        }
                        Some(known) => changes(known, &members),
                    };
                    known = Some(members);
                    events.into_iter().map(Ok).collect()
                }
                Err(error) => vec![Err(error)],
            })
        }))
    }
}

fn changes(before: &BTreeMap<String, Member>, after: &BTreeMap<String, Member>) -> VecDeque<RegistryEvent> {
    let left = before.iter().filter(|(id, _)| !after.contains_key(*id)).map(|(_, member)| member);
    let mut events: VecDeque<_> = left.cloned().map(RegistryEvent::Left).collect();
    for (id, member) in after {
        match before.get(id) {
            Some(known) if known == member => {}
            Some(known) if known.token == member.token => {
                events.push_back(RegistryEvent::Updated(member.clone()))
            }
            _ => events.push_back(RegistryEvent::Joined(member.clone())),
        }
    }
    events
}

/// What a [`Registration`] asks of its task.
enum Command {
    Update(Instance, oneshot::Sender<Result<()>>),
    Deregister(oneshot::Sender<Result<()>>),
}

#[derive(Debug, Clone, Copy)]
struct Listed {
    token: FencingToken,
    listed: bool,
}

/// An instance that is kept alive. Dropping it deregisters the instance in the background.
#[must_use = "the instance is deregistered as soon as this is dropped"]
#[derive(Debug)]
pub struct Registration {
    line: LineId,
    id: String,
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<Listed>,
}

impl Tokened for Registration {
    fn fencing_token(&self) -> Option<FencingToken> {
        Some(self.token())
    }
}

impl Registration {
    /// The instance's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The fencing token of the present registration, or of the last one while it is away. It grows with every
    /// registration that became necessary.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.state.borrow().token
    }

    /// Whether the instance is listed now; false between a loss and the next registration.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.state.borrow().listed
    }

    /// Waits until the registration is lost, registered again, or over; `false` when it is over.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn changed(&mut self) -> bool {
        self.state.changed().await.is_ok()
    }

    /// Replaces the address, the metadata and the weight; the id stays. While the registration is away, the next one
    /// carries the new data.
    ///
    /// # Cancel safety
    /// Dropped halfway, it may or may not be replaced.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOptions`] for another id; [`ErrorKind::TooLarge`]; what the store says.
    pub async fn update(&self, instance: Instance) -> Result<()> {
        traced_holding("registry.update", &self.line, self.token(), async {
            if instance.id != self.id {
                return Err(Error::new(
                    ErrorKind::InvalidOptions,
                    "an update cannot change the instance's id",
                ));
            }
            instance.encode()?;
            self.ask(|reply| Command::Update(instance, reply)).await
        })
        .await
    }

    /// Takes the instance off the list and waits for the outcome.
    ///
    /// # Cancel safety
    /// Dropped halfway, it goes on in the background.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`] if it was away at that moment; what the store says, and then it ends with its lease;
    /// [`ErrorKind::Unavailable`] if the store is silent, and then it goes on in the background.
    pub async fn deregister(self) -> Result<()> {
        traced_holding("registry.deregister", &self.line, self.token(), self.ask(Command::Deregister)).await
    }

    async fn ask(&self, command: impl FnOnce(oneshot::Sender<Result<()>>) -> Command) -> Result<()> {
        let closed = |_| Error::new(ErrorKind::Closed, "this registration is over");
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| closed(()))?;
        answer.await.map_err(|_| closed(()))?
    }
}

/// Keeps one instance registered.
struct Registrar {
    coordinator: Coordinator,
    service: Name,
    ttl: Duration,
}

impl Registrar {
    async fn join(&self, instance: &Instance) -> Result<Hold> {
        let request = Request {
            weight: 0,
            limit: 0,
            ttl: self.ttl,
            wait: Some(Duration::ZERO),
            priority: 0,
            value: instance.encode()?,
            owner: Some(instance.id.clone()),
        };
        let claim =
            self.coordinator.claim(self.coordinator.line_id(Kind::Registry, &self.service), request)?;
        attempt::acquire(&self.coordinator.engine, claim, None, true).await
    }

    /// Ends when the [`Registration`] is dropped or deregistered, or the coordinator is shut down. The hold withdraws
    /// itself when it is dropped.
    async fn stay(
        self,
        mut instance: Instance,
        hold: Hold,
        mut inbox: mpsc::Receiver<Command>,
        publish: watch::Sender<Listed>,
    ) {
        let closed = self.coordinator.engine.closed();
        let mut hold = Some(hold);
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                () = closed.cancelled() => return,
                command = inbox.recv() => match command {
                    None => return,
                    Some(Command::Update(update, reply)) => {
                        instance = update;
                        let outcome = match (&hold, instance.encode()) {
                            (Some(hold), Ok(value)) => hold.set_value(value).await,
                            (None, Ok(_)) => Ok(()),
                            (_, Err(error)) => Err(error),
                        };
                        // Lost is mended by the next registration, which carries the new data.
                        let _ = reply.send(outcome.or_else(|error| if error.is_lost() { Ok(()) } else { Err(error) }));
                    }
                    Some(Command::Deregister(reply)) => {
                        let outcome = match hold.take() {
                            Some(hold) => hold.release().await,
                            None => Err(Error::new(ErrorKind::Lost, "the registration was lost")),
                        };
                        let _ = reply.send(outcome);
                        return;
                    }
                },
                () = lost(&hold), if hold.is_some() => {
                    hold = None;
                    pause = Duration::ZERO;
                    publish.send_modify(|state| state.listed = false);
                    warn!(service = %self.service, id = instance.id, "the registration was lost; registering again");
                }
                joined = self.again(&instance, pause), if hold.is_none() => match joined {
                    Ok(again) => {
                        info!(service = %self.service, id = instance.id, token = %again.token(), "registered again");
                        publish.send_replace(Listed { token: again.token(), listed: true });
                        hold = Some(again);
                    }
                    Err(error) => {
                        warn!(service = %self.service, id = instance.id, %error, "not registered; trying again");
                        pause = (pause * 2).clamp(Duration::from_millis(100), Duration::from_secs(2));
                    }
                },
            }
        }
    }

    async fn again(&self, instance: &Instance, pause: Duration) -> Result<Hold> {
        sleep(pause).await;
        self.join(instance).await
    }
}

async fn lost(hold: &Option<Hold>) {
    if let Some(hold) = hold {
        hold.lost().await;
    }
}
