//! `coord lock`: runs a command while a lock, a shared lock or permits are held.

use std::{ffi::OsString, time::Duration};

use clap::Args;
use coord_core::{
    Coordinator, Guard, Lock as _, LockOptions, Name, Result, RwLock as _, Semaphore as _, limits,
};

use crate::{
    cli::{self, Globals},
    process,
    session::{released, unless_told_to_stop, with_store},
    signals::Signals,
    status::{self, Failure},
};

/// Runs a command while it holds a lock.
///
/// Others wait in line, first in, first out. The lock is renewed while the command runs and released when it has ended.
/// If it is lost, because the store was out of reach, coord was stopped for longer than the TTL, or somebody released it
/// by force, the command's process group gets SIGTERM and after the grace SIGKILL, and coord exits with 79.
///
/// The command sees COORD_FENCING_TOKEN and COORD_NAME. INT, TERM, HUP, QUIT, USR1, USR2, WINCH, TSTP and CONT are passed
/// on to its process group. coord prints nothing of its own on standard output.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = long_help())]
pub(crate) struct Lock {
    /// The name: up to 255 bytes without control characters
    name: String,

    /// Waits for at most this long, such as 30s or 5m [default: for ever]
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,

    /// Gives up at once if somebody holds it or waits for it
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,

    /// Holds it together with others that share it, such as readers
    #[arg(long, conflicts_with_all = ["permits", "of"])]
    shared: bool,

    /// Takes this many of the --of permits of a semaphore, which is another thing than the lock of the same name
    #[arg(long, value_name = "K", requires = "of")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::MAX_PERMITS)))]
    permits: Option<u32>,

    /// How many permits there are; all users of the name should say the same
    #[arg(long, value_name = "N", requires = "permits")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::MAX_PERMITS)))]
    of: Option<u32>,

    #[command(flatten)]
    child: Child,
}

/// The command and how it ends on loss.
#[derive(Debug, Args)]
pub(crate) struct Child {
    /// How long the command may take to end after SIGTERM when what it runs under is lost; then it is killed
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration, default_value = "10s")]
    pub(crate) grace: Duration,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  coord lock backup -- rsync -a /data /backup
  coord lock report --wait 30s -- ./report            status 75 if it is not granted in time
  coord lock report --no-wait -- ./report
  coord lock table --shared -- ./read                 together with other readers
  coord lock gpu --permits 1 --of 4 -- ./train        four at a time
  coord lock hello -- sh -c 'echo I hold token $COORD_FENCING_TOKEN'";

fn long_help() -> String {
    format!("{EXAMPLES}\n\n{}", status::HELP)
}

impl Lock {
    pub(crate) async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        let name = cli::name(&self.name)?;
        let mut options = LockOptions::default().with_ttl(globals.ttl()?);
        if let Some(wait) = if self.no_wait { Some(Duration::ZERO) } else { self.wait } {
            options = options.with_wait(wait);
        }
        if let (Some(permits), Some(of)) = (self.permits, self.of)
            && permits > of
        {
            return Err(Failure::usage(format!("{permits} permits cannot be taken of {of}")));
        }
        with_store(globals, async |coordinator| {
            let mut signals = Signals::catch()?;
            let granted = self.acquire(&coordinator, &name, &options);
            let guard = unless_told_to_stop(&mut signals, granted).await?;
            self.hold(guard, &name, &mut signals).await
        })
        .await
    }

    async fn acquire(&self, coordinator: &Coordinator, name: &Name, options: &LockOptions) -> Result<Guard> {
        match (self.permits, self.of) {
            (Some(permits), Some(of)) => coordinator.acquire_permits(name, permits, of, options).await,
            _ if self.shared => coordinator.read(name, options).await,
            _ => coordinator.acquire(name, options).await,
        }
    }

    async fn hold(&self, guard: Guard, name: &Name, signals: &mut Signals) -> Result<u8, Failure> {
        let ended = process::run(&self.child.command, name, &guard, self.child.grace, signals).await;
        let what = format!("{:?} with token {}", name.as_str(), guard.token());
        if ended.as_ref().is_ok_and(|ended| ended.lost) {
            drop(guard);
        } else {
            released(&what, guard.release()).await;
        }
        let ended = ended?;
        if ended.lost {
            let message = format!("{what} was lost while the command ran; its status was {}", ended.status);
            return Err(Failure::new(status::LOST, message));
        }
        Ok(ended.status)
    }
}
