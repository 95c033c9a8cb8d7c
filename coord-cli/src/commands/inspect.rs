//! `coord inspect` and `coord release`: look at a line from outside, and break the glass.

use clap::{Args, ValueEnum};
use coord_core::{Coordinator, Evicted, Inspect as _, Inspection, Name, Party, spi};
use serde::Serialize;

use crate::{
    cli::{self, Globals},
    output::{self, Value},
    session::with_store,
    status::{self, Failure},
};

/// What a name is used for. One name can be a lock and an election at the same time; they do not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A lock, exclusive or shared
    Lock,
    /// A semaphore (`coord lock --permits`)
    Semaphore,
    /// An election
    Election,
    /// A service of the registry
    Registry,
    /// A barrier
    Barrier,
}

impl From<Kind> for spi::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Lock => Self::Lock,
            Kind::Semaphore => Self::Semaphore,
            Kind::Election => Self::Election,
            Kind::Registry => Self::Registry,
            Kind::Barrier => Self::Barrier,
        }
    }
}

/// Shows who holds a name and who waits for it.
///
/// JSON keys, one object for everyone: name, kind, state (holder or waiter), position (of a waiter, from 1; null for a
/// holder), token, owner, weight (permits; null for an exclusive lock), priority, since, expires_in_ms, value (null if it
/// is not UTF-8, then value_bytes holds it). Nothing is printed for a name that nobody uses.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord inspect backup
  coord inspect backup --kind lock --json
  coord inspect backup --json | jq 'select(.state == \"holder\") | .owner'")]
pub(crate) struct Inspect {
    /// The name
    name: String,

    /// Only this kind [default: all kinds in which the name is used]
    #[arg(long, value_enum)]
    kind: Option<Kind>,
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    kind: &'static str,
    state: &'static str,
    position: Option<usize>,
    #[serde(flatten)]
    party: PartyShown<'a>,
}

#[derive(Serialize)]
struct PartyShown<'a> {
    token: u64,
    owner: &'a str,
    weight: Option<u32>,
    priority: i32,
    since: String,
    expires_in_ms: u64,
    #[serde(flatten)]
    value: Value<'a>,
}

impl<'a> From<&'a Party> for PartyShown<'a> {
    fn from(party: &'a Party) -> Self {
        Self {
            token: party.token.get(),
            owner: &party.owner,
            weight: (party.weight != spi::ALL).then_some(party.weight),
            priority: party.priority,
            since: output::moment(party.since),
            expires_in_ms: u64::try_from(party.expires_in.as_millis()).unwrap_or(u64::MAX),
            value: party.value.as_slice().into(),
        }
    }
}

fn describe(party: &Party) -> String {
    let since = output::moment(party.since);
    let expires = output::duration(party.expires_in);
    let mut text = format!("token {}  {}  since {since}  expires in {expires}", party.token, party.owner);
    if party.weight != spi::ALL && party.weight > 1 {
        text += &format!("  takes {}", party.weight);
    }
    if party.priority != 0 {
        text += &format!("  priority {}", party.priority);
    }
    if !party.value.is_empty() {
        text += &format!("  value {}", output::value(&party.value));
    }
    text
}

impl Inspect {
    pub(crate) async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let name = cli::name(&self.name)?;
        with_store(globals, async |coordinator| {
            let mut used = false;
            for kind in kinds(self.kind) {
                let line = coordinator.inspect(kind, &name).await?;
                used |= !(line.holders.is_empty() && line.waiters.is_empty());
                self.show(globals, kind, &line)?;
            }
            if !used && !globals.json {
                globals.output().print(&(), || format!("nobody holds {:?} or waits for it", self.name))?;
            }
            Ok(status::OK)
        })
        .await
    }

    fn show(&self, globals: &Globals, kind: spi::Kind, line: &Inspection) -> Result<(), Failure> {
        let holders = line.holders.iter().map(|party| ("holder", None, party));
        let waiters = line.waiters.iter().enumerate().map(|(at, party)| ("waiter", Some(at + 1), party));
        for (state, position, party) in holders.chain(waiters) {
            let kind = kind.as_str();
            let json = Shown { name: &self.name, kind, state, position, party: party.into() };
            globals.output().print(&json, || {
                let place = position.map_or_else(String::new, |position| format!(" {position}"));
                format!("{kind} {}  {state}{place}  {}", self.name, describe(party))
            })?;
        }
        Ok(())
    }
}

/// Takes a name away from those who hold it.
///
/// Their commands are ended as soon as they hear of it. Until then they may still write: raise the mark of the protected
/// resource to the fence that is printed, then their tokens are refused. Those who wait in line stay.
///
/// JSON keys: name, kind, fence, evicted (a list of objects as `coord inspect` prints them, without name, kind, state and
/// position). Exits with 1 if nobody holds it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord release backup --force
  coord release scheduler --force --kind election")]
pub(crate) struct Release {
    /// The name
    name: String,

    /// Says that you know that the holders may still be at work
    #[arg(long)]
    force: bool,

    /// Which kind [default: the one that is held, if it is one only]
    #[arg(long, value_enum)]
    kind: Option<Kind>,
}

#[derive(Serialize)]
struct Released<'a> {
    name: &'a str,
    kind: &'static str,
    fence: u64,
    evicted: Vec<PartyShown<'a>>,
}

impl Release {
    pub(crate) async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let name = cli::name(&self.name)?;
        if !self.force {
            return Err(Failure::usage(
                "its holders may still be at work; if they are not, or if the resource checks tokens, say --force",
            ));
        }
        with_store(globals, async |coordinator| {
            let nobody = || Failure::new(status::NOTHING, format!("nobody holds {:?}", self.name));
            let kind = match self.kind {
                Some(kind) => kind.into(),
                None => self.only_kind(&coordinator, &name).await?.ok_or_else(nobody)?,
            };
            let evicted = coordinator.force_release(kind, &name, None).await?.ok_or_else(nobody)?;
            self.show(globals, kind, &evicted)?;
            Ok(status::OK)
        })
        .await
    }

    /// The one kind of the name that is held, if any.
    async fn only_kind(&self, coordinator: &Coordinator, name: &Name) -> Result<Option<spi::Kind>, Failure> {
        let mut held = Vec::new();
        for kind in kinds(None) {
            if !coordinator.inspect(kind, name).await?.holders.is_empty() {
                held.push(kind);
            }
        }
        if held.len() > 1 {
            let held: Vec<_> = held.into_iter().map(spi::Kind::as_str).collect();
            let held = held.join(", ");
            return Err(Failure::usage(format!("{:?} is held as {held}: say which with --kind", self.name)));
        }
        Ok(held.pop())
    }

    fn show(&self, globals: &Globals, kind: spi::Kind, evicted: &Evicted) -> Result<(), Failure> {
        let (kind, fence) = (kind.as_str(), evicted.fence.get());
        let holders = evicted.holders.iter();
        let json =
            Released { name: &self.name, kind, fence, evicted: holders.clone().map(Into::into).collect() };
        globals.output().print(&json, || {
            let holders =
                holders.map(|party| format!("{kind} {}  evicted  {}\n", self.name, describe(party)));
            format!("{}fence {fence}: let the resource refuse lower tokens", holders.collect::<String>())
        })?;
        Ok(())
    }
}

fn kinds(only: Option<Kind>) -> Vec<spi::Kind> {
    only.map_or_else(|| spi::Kind::ALL.to_vec(), |kind| vec![kind.into()])
}
