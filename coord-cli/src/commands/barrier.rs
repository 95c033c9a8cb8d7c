//! `coord barrier`: processes that wait for one another.

use std::time::Duration;

use clap::Args;
use coord_core::{Barrier as _, BarrierOptions, limits};

use crate::{
    cli::{self, Globals},
    session::{unless_told_to_stop, with_store},
    signals::Signals,
    status::{self, Failure},
};

/// Waits until a number of parties wait here.
///
/// A party that is interrupted or killed before all have come does not count. The barrier can be used again at once; all
/// parties of a name must say the same number. JSON keys: name, token, index (in which order this party came, from 0).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord barrier start --parties 3 && ./go
  coord barrier start --parties 3 --wait 1m || echo 'somebody is missing'")]
pub(crate) struct Barrier {
    /// The name
    name: String,

    /// How many parties there are
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::MAX_PARTIES)))]
    parties: u32,

    /// Waits for at most this long, such as 30s; then the status is 75 [default: for ever]
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
}

impl Barrier {
    pub(crate) async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let name = cli::name(&self.name)?;
        let mut options = BarrierOptions::default().with_ttl(globals.ttl()?);
        if let Some(wait) = self.wait {
            options = options.with_wait(wait);
        }
        with_store(globals, async |coordinator| {
            let mut signals = Signals::catch()?;
            let pass = coordinator.wait(&name, self.parties, &options);
            let pass = unless_told_to_stop(&mut signals, pass).await?;
            let (token, index) = (pass.token.get(), pass.index);
            let json = serde_json::json!({ "name": self.name, "token": token, "index": index });
            globals
                .output()
                .print(&json, || format!("passed {} with token {token}, index {index}", self.name))?;
            Ok(status::OK)
        })
        .await
    }
}
