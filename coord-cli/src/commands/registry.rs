//! `coord register` and `coord instances`: services and their live instances.

use std::{collections::BTreeMap, ffi::OsString, time::Duration};

use clap::Args;
use coord_core::{
    Coordinator, FencingToken, Instance, Member, Name, RegisterOptions, Registration, Registry as _,
    RegistryEvent,
};
use serde::Serialize;

use crate::{
    cli::{self, Globals},
    output,
    process::{self, Held},
    session::{released, unless_told_to_stop, with_store},
    signals::Signals,
    status::{self, Failure},
};

/// Lists an instance of a service for as long as a command runs.
///
/// Without a command: until coord is told to stop, by INT or TERM, and then it exits with 0. If the registration is lost,
/// it is made anew with a new token; the command goes on. The command sees the first token in COORD_FENCING_TOKEN and the
/// service in COORD_NAME. JSON keys, without a command: event (registered or lost), service, id, token.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord register web web-1 --address 10.0.0.7:8080 -- ./server
  coord register web web-2 --address 10.0.0.8:8080 --meta zone=b --meta version=7 --weight 2")]
pub(crate) struct Register {
    /// The name of the service
    service: String,

    /// The instance, unique within its service; of two with one id the later one counts
    id: String,

    /// Where to reach it
    #[arg(long, value_name = "A", default_value = "", hide_default_value = true)]
    address: String,

    /// What else callers should know; can be given several times
    #[arg(long = "meta", value_name = "K=V", value_parser = pair)]
    metadata: Vec<(String, String)>,

    /// Its share of the load among the instances; 0 for none
    #[arg(long, value_name = "N", default_value_t = 1)]
    weight: u32,

    /// The command and its arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("write KEY=VALUE".into()),
    }
}

/// A command outlives its registration, which is made anew.
struct Unleased(FencingToken);

impl Held for Unleased {
    fn token(&self) -> FencingToken {
        self.0
    }
    fn is_held(&self) -> bool {
        true
    }
    async fn lost(&self) {
        std::future::pending().await
    }
}

impl Register {
    pub(crate) async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let service = cli::name(&self.service)?;
        let options = RegisterOptions::default().with_ttl(globals.ttl()?);
        let mut instance = Instance::new(&self.id, &self.address).with_weight(self.weight);
        for (key, value) in &self.metadata {
            instance = instance.with_metadata(key, value);
        }
        with_store(globals, async |coordinator| {
            let mut signals = Signals::catch()?;
            let registration = coordinator.register(&service, instance, &options);
            let mut registration = unless_told_to_stop(&mut signals, registration).await?;
            let outcome = if self.command.is_empty() {
                self.stay(globals, &mut registration, &mut signals).await
            } else {
                let held = Unleased(registration.token());
                let ended = process::run(&self.command, &service, &held, Duration::MAX, &mut signals).await;
                ended.map(|ended| ended.status)
            };
            released(&format!("the registration of {:?}", self.id), registration.deregister()).await;
            outcome
        })
        .await
    }

    /// Stays registered until coord is told to stop, and says when that is or is not so.
    async fn stay(
        &self,
        globals: &Globals,
        registration: &mut Registration,
        signals: &mut Signals,
    ) -> Result<u8, Failure> {
        loop {
            let token = registration.token().get();
            let event = if registration.is_listed() { "registered" } else { "lost" };
            let json =
                serde_json::json!({ "event": event, "service": self.service, "id": self.id, "token": token });
            globals
                .output()
                .print(&json, || format!("{event} {} in {} with token {token}", self.id, self.service))?;
            tokio::select! {
                biased;
                _ = signals.told_to_stop() => return Ok(status::OK),
                goes_on = registration.changed() => if !goes_on {
                    return Err(Failure::new(status::FAILED, "the registration is over"));
                },
            }
        }
    }
}

/// Shows the live instances of a service.
///
/// JSON keys, one object for each instance: service, id, address, metadata, weight, token, since. With --watch also event:
/// listed (was there at the start), joined, updated or left. Exits with 0 also if there are none.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord instances web
  coord instances web --watch --json                  one line for every change, first those who are there
  curl http://$(coord instances web --json | jq -r .address | shuf -n1)/")]
pub(crate) struct Instances {
    /// The name of the service
    service: String,

    /// Goes on and shows every change, until it is interrupted
    #[arg(long)]
    watch: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'static str>,
    service: &'a str,
    id: &'a str,
    address: &'a str,
    metadata: &'a BTreeMap<String, String>,
    weight: u32,
    token: u64,
    since: String,
}

impl Instances {
    pub(crate) async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let service = cli::name(&self.service)?;
        with_store(globals, async |coordinator| {
            if self.watch {
                let mut signals = Signals::catch()?;
                return unless_told_to_stop(&mut signals, self.follow(globals, &coordinator, &service)).await;
            }
            for member in coordinator.instances(&service).await? {
                self.show(globals, None, &member)?;
            }
            Ok(status::OK)
        })
        .await
    }

    async fn follow(
        &self,
        globals: &Globals,
        coordinator: &Coordinator,
        service: &Name,
    ) -> Result<u8, Failure> {
        let mut events = coordinator.watch_instances(service);
        while let Some(event) = events.next().await {
            match event? {
                RegistryEvent::Snapshot(members) => {
                    for member in members {
                        self.show(globals, Some("listed"), &member)?;
                    }
                }
                RegistryEvent::Joined(member) => self.show(globals, Some("joined"), &member)?,
                RegistryEvent::Updated(member) => self.show(globals, Some("updated"), &member)?,
                RegistryEvent::Left(member) => self.show(globals, Some("left"), &member)?,
                _ => {}
            }
        }
        Ok(status::OK)
    }

    fn show(&self, globals: &Globals, event: Option<&'static str>, member: &Member) -> Result<(), Failure> {
        let instance = &member.instance;
        let (id, address, metadata) = (instance.id.as_str(), instance.address.as_str(), &instance.metadata);
        let (weight, token, since) = (instance.weight, member.token.get(), output::moment(member.since));
        let json = Shown {
            event,
            service: &self.service,
            id,
            address,
            metadata,
            weight,
            token,
            since: since.clone(),
        };
        globals.output().print(&json, || {
            let event = event.map_or_else(String::new, |event| format!("{event}  "));
            let mut text = format!("{event}{id}  {address:?}  weight {weight}  token {token}  since {since}");
            for (key, value) in metadata {
                text += &format!("  {}={}", key.escape_debug(), value.escape_debug());
            }
            text
        })?;
        Ok(())
    }
}
