//! `coord config`: settings that all can see change.

use clap::{Args, Subcommand};
use coord_core::{
    Condition, ConfigEvent, ConfigStore as _, Coordinator, Entry, FencingToken, Revision, limits,
};
use serde::Serialize;

use crate::{
    cli::{self, Globals},
    input::Given,
    output::{self, Value},
    session::{unless_told_to_stop, with_store},
    signals::Signals,
    status::{self, Failure},
};

/// Keeps settings: versioned values that all can see change.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord config put web/limit 100
  coord config get web/limit
  coord config watch web/limit")]
pub(crate) struct Config {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Get(Get),
    Put(Put),
    Delete(Delete),
    List(List),
    Watch(Watch),
    History(History),
}

impl Config {
    pub(crate) async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        match self.action {
            Action::Get(action) => action.run(globals).await,
            Action::Put(action) => action.run(globals).await,
            Action::Delete(action) => action.run(globals).await,
            Action::List(action) => action.run(globals).await,
            Action::Watch(action) => action.run(globals).await,
            Action::History(action) => action.run(globals).await,
        }
    }
}

/// What must be true for a change; if it is not, the status is 76, or 77 where a token is missing or stale.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct When {
    /// Only if the key has no value
    #[arg(long)]
    if_absent: bool,

    /// Only if the key's value has this version
    #[arg(long, value_name = "V")]
    if_version: Option<u64>,

    /// Only if the key has seen no greater fencing token; it refuses lower ones and writes without one from then on
    #[arg(long, value_name = "T", value_parser = cli::token)]
    token: Option<FencingToken>,
}

impl From<&When> for Condition {
    fn from(when: &When) -> Self {
        match (when.if_absent, when.if_version, when.token) {
            (true, _, _) => Self::Absent,
            (_, Some(version), _) => Self::Version(version),
            (_, _, Some(token)) => Self::Token(token),
            _ => Self::Any,
        }
    }
}

/// Prints the value of a key.
///
/// Every byte as it is, and no line end of its own except on a terminal. Exits with 1 if there is no value. JSON keys: key,
/// version, revision (of the store), mark (the greatest token seen; null if there was none), at, by, value (null if it is
/// not UTF-8, then value_bytes holds it).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord config get web/limit
  coord config get web/limit --json | jq .version")]
struct Get {
    /// The key
    key: String,
}

impl Get {
    async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let key = cli::name(&self.key)?;
        with_store(globals, async |coordinator| {
            let Some(entry) = coordinator.get(&key).await? else {
                return Err(Failure::new(status::NOTHING, format!("{:?} has no value", self.key)));
            };
            globals.output().print_bytes(&Shown::new(None, &entry), &entry.value)?;
            Ok(status::OK)
        })
        .await
    }
}

/// Gives a key a value.
///
/// Prints its new version. JSON keys: key, version.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord config put web/limit 100
  coord config put web/page --file page.html
  coord config put web/limit 200 --if-version 1795353813914784   status 76 if it was changed since
  coord config put owner me --if-absent")]
struct Put {
    /// The key
    key: String,

    #[command(flatten)]
    given: Given,

    #[command(flatten)]
    when: When,
}

impl Put {
    async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let key = cli::name(&self.key)?;
        let value = self.given.read()?;
        with_store(globals, async |coordinator| {
            let version = coordinator.put(&key, value, (&self.when).into()).await?;
            let json = serde_json::json!({ "key": self.key, "version": version });
            globals.output().print(&json, || version.to_string())?;
            Ok(status::OK)
        })
        .await
    }
}

/// Removes the value of a key.
///
/// Prints nothing. Where there is no value nothing happens, and the status is 0 too.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord config delete web/limit
  coord config delete web/limit --if-version 1795353813914784")]
struct Delete {
    /// The key
    key: String,

    #[command(flatten)]
    when: When,
}

impl Delete {
    async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let key = cli::name(&self.key)?;
        with_store(globals, async |coordinator| {
            coordinator.delete(&key, (&self.when).into()).await?;
            Ok(status::OK)
        })
        .await
    }
}

/// Lists the keys that have a value, in the order of their bytes.
///
/// JSON keys, one object for each: as of `coord config get`. Exits with 0 also if there are none.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord config list
  coord config list web/ --json | jq -r .key")]
struct List {
    /// Only keys that begin with this
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
}

impl List {
    async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        with_store(globals, async |coordinator| {
            let mut after = None;
            loop {
                let page = coordinator.list(&self.prefix, after.as_ref(), PAGE).await?;
                for entry in &page.entries {
                    show(globals, None, entry)?;
                }
                after = page.entries.into_iter().next_back().map(|entry| entry.key);
                if !page.more || after.is_none() {
                    return Ok(status::OK);
                }
            }
        })
        .await
    }
}

/// A page of values of the greatest size is small enough to hold.
const PAGE: u32 = 100;

/// Shows the value of a key and every change of it, until it is interrupted.
///
/// The last state is always shown; states between two looks may be left out. JSON keys: as of `coord config get`, and event:
/// listed (was there at the start, or after a resync), put, deleted (then only key and version), or resync (alone: the store
/// has forgotten what happened meanwhile; what is not listed after it is gone).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord config watch web/limit
  coord config watch --prefix web/ --json")]
struct Watch {
    /// The key
    #[arg(required_unless_present = "prefix")]
    key: Option<String>,

    /// All keys that begin with this, instead of one; of an empty one, all keys
    #[arg(long, conflicts_with = "key")]
    prefix: Option<String>,
}

impl Watch {
    async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let key = self.key.as_deref().map(cli::name).transpose()?;
        with_store(globals, async |coordinator| {
            let mut signals = Signals::catch()?;
            let events = match &key {
                Some(key) => coordinator.watch(key),
                None => coordinator.watch_prefix(self.prefix.as_deref().unwrap_or_default()),
            };
            unless_told_to_stop(&mut signals, follow(globals, events)).await
        })
        .await
    }
}

async fn follow(globals: &Globals, mut events: coord_core::Watch<ConfigEvent>) -> Result<u8, Failure> {
    while let Some(event) = events.next().await {
        match event? {
            ConfigEvent::Snapshot(entries) => {
                for entry in &entries {
                    show(globals, Some("listed"), entry)?;
                }
            }
            ConfigEvent::Put(entry) => show(globals, Some("put"), &entry)?,
            ConfigEvent::Deleted { key, version } => {
                let json = serde_json::json!({ "event": "deleted", "key": key.as_str(), "version": version });
                globals.output().print(&json, || format!("deleted  {key}  version {version}"))?;
            }
            ConfigEvent::Resync(entries) => {
                globals.output().print(&serde_json::json!({ "event": "resync" }), || "resync".into())?;
                for entry in &entries {
                    show(globals, Some("listed"), entry)?;
                }
            }
            _ => {}
        }
    }
    Ok(status::OK)
}

/// Shows the last states of a key that the store has kept, the newest first.
///
/// JSON keys: key, version, deleted (true for a deletion), at, by, value (null for a deletion, and if it is not UTF-8, then
/// value_bytes holds it). Exits with 1 if there are none.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord config history web/limit
  coord config history web/limit --limit 1 --json")]
struct History {
    /// The key
    key: String,

    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=limits::MAX_BATCH as i64))]
    limit: u32,
}

#[derive(Serialize)]
struct State<'a> {
    key: &'a str,
    version: u64,
    deleted: bool,
    at: String,
    by: &'a str,
    #[serde(flatten)]
    value: Value<'a>,
}

impl History {
    async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let key = cli::name(&self.key)?;
        with_store(globals, async |coordinator: Coordinator| {
            let states = coordinator.history(&key, self.limit).await?;
            if states.is_empty() {
                return Err(Failure::new(status::NOTHING, format!("{:?} has no history", self.key)));
            }
            for Revision { value, version, at, by, .. } in &states {
                let (value, at) = (value.as_deref(), output::moment(*at));
                let json = State {
                    key: &self.key,
                    version: *version,
                    deleted: value.is_none(),
                    at: at.clone(),
                    by,
                    value: value.into(),
                };
                globals.output().print(&json, || {
                    let value = value.map_or_else(|| "deleted".into(), output::value);
                    format!("version {version}  {at}  {by}  {value}")
                })?;
            }
            Ok(status::OK)
        })
        .await
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'static str>,
    key: &'a str,
    version: u64,
    revision: u64,
    mark: Option<FencingToken>,
    at: String,
    by: &'a str,
    #[serde(flatten)]
    value: Value<'a>,
}

impl<'a> Shown<'a> {
    fn new(event: Option<&'static str>, entry: &'a Entry) -> Self {
        Self {
            event,
            key: entry.key.as_str(),
            version: entry.version,
            revision: entry.revision,
            mark: entry.mark,
            at: output::moment(entry.at),
            by: &entry.by,
            value: entry.value.as_slice().into(),
        }
    }
}

fn show(globals: &Globals, event: Option<&'static str>, entry: &Entry) -> Result<(), Failure> {
    globals.output().print(&Shown::new(event, entry), || {
        let event = event.map_or_else(String::new, |event| format!("{event}  "));
        let (version, value) = (entry.version, output::value(&entry.value));
        let mark = entry.mark.map_or_else(String::new, |mark| format!("  seen token {mark}"));
        let (at, by) = (output::moment(entry.at), &entry.by);
        format!("{event}{}  {value}  version {version}  {at}  {by}{mark}", entry.key)
    })?;
    Ok(())
}
