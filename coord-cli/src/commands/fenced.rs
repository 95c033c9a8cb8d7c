//! `coord fence`, `coord write` and `coord read`: values that refuse stale tokens.

use clap::Args;
use coord_core::{FencedStore as _, FencingToken};

use crate::{
    cli::{self, Globals},
    input::Given,
    output::Value,
    session::with_store,
    status::{self, Failure},
};

/// The token of the holder that writes.
#[derive(Debug, Args)]
struct Holder {
    /// The fencing token of the grant; a command that coord runs has it in COORD_FENCING_TOKEN
    #[arg(long, value_name = "T", env = "COORD_FENCING_TOKEN", hide_env_values = true, value_parser = cli::token)]
    token: FencingToken,
}

/// Raises the mark of a key, so that it refuses lower tokens from now on.
///
/// Do this before the first read under a lock: then no earlier holder can write after that read. A key that has seen a
/// greater token refuses, with status 77, and says both. JSON keys: key, token.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord fence account/7 --token 1795353813914784
  coord lock account/7 -- sh -c 'coord fence account/7 && coord read account/7'")]
pub(crate) struct Fence {
    /// The key
    key: String,

    #[command(flatten)]
    holder: Holder,
}

impl Fence {
    pub(crate) async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let (key, token) = (cli::name(&self.key)?, self.holder.token);
        with_store(globals, async |coordinator| {
            coordinator.fence(&key, token).await?;
            let json = serde_json::json!({ "key": self.key, "token": token });
            globals.output().print(&json, || format!("{} refuses tokens lower than {token}", self.key))?;
            Ok(status::OK)
        })
        .await
    }
}

/// Writes a value with a fencing token.
///
/// The key keeps the greatest token that it has seen. It takes a write with that one or a greater one and refuses a lower
/// one, with status 77, and says both. Prints the new version. JSON keys: key, token, version.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord write account/7 150 --token 1795353813914784
  coord lock account/7 -- sh -c 'coord fence account/7 && coord write account/7 150'
  coord lock report -- sh -c './report | coord write report'")]
pub(crate) struct Write {
    /// The key
    key: String,

    #[command(flatten)]
    given: Given,

    #[command(flatten)]
    holder: Holder,
}

impl Write {
    pub(crate) async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let (key, token) = (cli::name(&self.key)?, self.holder.token);
        let value = self.given.read()?;
        with_store(globals, async |coordinator| {
            let version = coordinator.fenced_write(&key, value, token).await?;
            let json = serde_json::json!({ "key": self.key, "token": token, "version": version });
            globals.output().print(&json, || version.to_string())?;
            Ok(status::OK)
        })
        .await
    }
}

/// Reads the value of a key.
///
/// Prints every byte as it is, and no line end of its own except on a terminal. Exits with 1 if there is no value. JSON
/// keys: key, version, mark (the greatest token seen; null if there was none), value (null if it is not UTF-8, then
/// value_bytes holds it).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord read account/7
  coord read account/7 --json | jq .mark")]
pub(crate) struct Read {
    /// The key
    key: String,
}

#[derive(serde::Serialize)]
struct Shown<'a> {
    key: &'a str,
    version: u64,
    mark: Option<FencingToken>,
    #[serde(flatten)]
    value: Value<'a>,
}

impl Read {
    pub(crate) async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let key = cli::name(&self.key)?;
        with_store(globals, async |coordinator| {
            let found = coordinator.fenced_read(&key).await?;
            let Some(value) = &found.value else {
                let mark = found.mark.map_or_else(String::new, |mark| format!("; it has seen token {mark}"));
                let message = format!("{:?} has no value{mark}", self.key);
                return Err(Failure::new(status::NOTHING, message));
            };
            let bytes = value.as_slice();
            let json =
                Shown { key: &self.key, version: found.version, mark: found.mark, value: bytes.into() };
            globals.output().print_bytes(&json, bytes)?;
            Ok(status::OK)
        })
        .await
    }
}
