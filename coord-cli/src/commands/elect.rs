//! `coord elect` and `coord leader`: leader election.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _, time::Duration};

use clap::Args;
use coord_core::{
    CampaignOptions, Coordinator, Election as _, ElectionEvent, ErrorKind, Leader as InOffice, Leadership,
    Name,
};
use serde::Serialize;
use tokio::time::sleep;

use super::lock::Child;
use crate::{
    cli::{self, Globals},
    output::{self, Value},
    process,
    session::{released, unless_told_to_stop, warn, with_store},
    signals::Signals,
    status::{self, Failure},
};

/// Runs a command only while it leads.
///
/// Of all candidates of a name one leads; the others wait. The command sees its term, the fencing token of this
/// leadership, in COORD_FENCING_TOKEN, and the name in COORD_NAME. On loss, and for signals, it is as with `coord lock`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = long_help())]
pub(crate) struct Elect {
    /// The name of the election
    name: String,

    /// Who this candidate is for others [default: host and process id]
    #[arg(long)]
    id: Option<String>,

    /// Higher is elected first; a leader in office is never overtaken
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,

    /// What the leader shows to others, such as its address
    #[arg(long, value_name = "V", default_value = "", hide_default_value = true)]
    value: OsString,

    /// Campaigns again when the leadership is lost or the command has ended, until coord is told to stop
    #[arg(long)]
    keep: bool,

    #[command(flatten)]
    child: Child,
}

const EXAMPLES: &str = "\
Examples:
  coord elect scheduler -- ./scheduler
  coord elect scheduler --id node-1 --value 10.0.0.7:80 --keep -- ./scheduler
  coord elect cache --priority 10 -- ./rebuild        before candidates of a lower priority
  coord elect demo -- sh -c 'echo I lead in term $COORD_FENCING_TOKEN'";

fn long_help() -> String {
    format!("{EXAMPLES}\n\n{}", status::HELP)
}

/// How long a candidate stays away after its command ended or the store could not be reached.
const PAUSE: Duration = Duration::from_secs(1);

impl Elect {
    pub(crate) async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let name = cli::name(&self.name)?;
        let mut options = CampaignOptions::default()
            .with_ttl(globals.ttl()?)
            .with_priority(self.priority)
            .with_value(self.value.clone().into_vec());
        if let Some(id) = &self.id {
            options = options.with_id(id);
        }
        with_store(globals, async |coordinator| {
            let mut signals = Signals::catch()?;
            loop {
                if let Some(status) = self.term(&coordinator, &name, &options, &mut signals).await? {
                    return Ok(status);
                }
                let pause = async {
                    sleep(PAUSE).await;
                    Ok::<_, Failure>(())
                };
                unless_told_to_stop(&mut signals, pause).await?;
            }
        })
        .await
    }

    /// One campaign and one term. `None`: campaign again.
    async fn term(
        &self,
        coordinator: &Coordinator,
        name: &Name,
        options: &CampaignOptions,
        signals: &mut Signals,
    ) -> Result<Option<u8>, Failure> {
        // The outcome of the campaign is wanted as it is, to know whether the store was away.
        let campaign = async { Ok::<_, Failure>(coordinator.campaign(name, options).await) };
        let leadership: Leadership = match unless_told_to_stop(signals, campaign).await? {
            Ok(leadership) => leadership,
            Err(error) if self.keep && error.kind() == ErrorKind::Unavailable => {
                warn(&format!("campaigning again: {}", status::describe(&error)));
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let what = format!("the leadership of {:?} with term {}", name.as_str(), leadership.term());
        let ended = process::run(&self.child.command, name, &leadership, self.child.grace, signals).await;
        if ended.as_ref().is_ok_and(|ended| ended.lost) {
            drop(leadership);
        } else {
            released(&what, leadership.resign()).await;
        }
        let ended = ended?;
        let failure = ended.lost.then(|| {
            Failure::new(
                status::LOST,
                format!("{what} was lost while the command ran; its status was {}", ended.status),
            )
        });
        match failure {
            Some(failure) if self.keep && !ended.stop => {
                warn(&failure.message);
                Ok(None)
            }
            Some(failure) => Err(failure),
            None if self.keep && !ended.stop => Ok(None),
            None => Ok(Some(ended.status)),
        }
    }
}

/// Shows who leads.
///
/// Exits with 1 if nobody does. JSON keys: name, id, term, value (null if it is not UTF-8, then value_bytes holds it),
/// since; with --watch also event: elected, proclaimed (the leader changed its value) or vacant (with name only).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord leader scheduler
  coord leader scheduler --watch --json               one line for every change, first the present state")]
pub(crate) struct Leader {
    /// The name of the election
    name: String,

    /// Goes on and shows every change, until it is interrupted
    #[arg(long)]
    watch: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'static str>,
    name: &'a str,
    id: &'a str,
    term: u64,
    #[serde(flatten)]
    value: Value<'a>,
    since: String,
}

#[derive(Serialize)]
struct Vacant<'a> {
    event: &'static str,
    name: &'a str,
}

impl Leader {
    pub(crate) async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let name = cli::name(&self.name)?;
        with_store(globals, async |coordinator| {
            if self.watch {
                let mut signals = Signals::catch()?;
                return unless_told_to_stop(&mut signals, self.follow(globals, &coordinator, &name)).await;
            }
            match coordinator.leader(&name).await? {
                Some(leader) => {
                    self.show(globals, None, &leader)?;
                    Ok(status::OK)
                }
                None => Err(Failure::new(status::NOTHING, format!("nobody leads {:?}", self.name))),
            }
        })
        .await
    }

    async fn follow(&self, globals: &Globals, coordinator: &Coordinator, name: &Name) -> Result<u8, Failure> {
        let mut events = coordinator.observe(name);
        while let Some(event) = events.next().await {
            match event? {
                ElectionEvent::Elected(leader) => self.show(globals, Some("elected"), &leader)?,
                ElectionEvent::Proclaimed(leader) => self.show(globals, Some("proclaimed"), &leader)?,
                ElectionEvent::Vacant => {
                    let json = Vacant { event: "vacant", name: &self.name };
                    globals.output().print(&json, || format!("vacant: nobody leads {}", self.name))?;
                }
                _ => {}
            }
        }
        Ok(status::OK)
    }

    fn show(&self, globals: &Globals, event: Option<&'static str>, leader: &InOffice) -> Result<(), Failure> {
        let (id, term, value) = (leader.id.as_str(), leader.term.get(), leader.value.as_slice());
        let since = output::moment(leader.since);
        let json = Shown { event, name: &self.name, id, term, value: value.into(), since: since.clone() };
        globals.output().print(&json, || {
            let event = event.map_or_else(String::new, |event| format!("{event}: "));
            let value =
                if value.is_empty() { String::new() } else { format!(", value {}", output::value(value)) };
            format!("{event}{id} leads {} in term {term} since {since}{value}", self.name)
        })?;
        Ok(())
    }
}
