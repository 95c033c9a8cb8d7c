//! The command line.

use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use coord_core::{Error, ErrorKind, FencingToken, Name, Namespace, limits};

use crate::{commands::*, output::Output, status, status::Failure, store};

/// Runs programs under a lock, an election or a registration or for a queue, and keeps settings, with fencing tokens.
///
/// A lock can be lost while its holder sleeps or is cut off. So every command sees the fencing token of its grant in
/// COORD_FENCING_TOKEN: send it along with every write, and let the resource refuse a token lower than the highest one
/// that it has seen.
#[derive(Debug, Parser)]
#[command(name = "coord", version, propagate_version = true, after_help = EXAMPLES, after_long_help = long_help())]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  coord lock backup -- rsync -a /data /backup         one at a time, others wait in line
  coord lock report --no-wait -- ./report             or give up at once (status 75)
  coord elect scheduler --keep -- ./scheduler         runs on one of several hosts or terminals
  coord inspect backup                                who holds it, who waits
  coord register web web-1 --address 10.0.0.7:80 -- ./server
  coord barrier start --parties 3 && ./go
  coord queue push thumbs a.png b.png && coord queue work thumbs -- ./thumb
  coord config put web/limit 100                      settings; coord config watch web/limit
  coord lock till -- sh -c 'coord fence till && coord write till 7'   refused once somebody else holds it";

fn long_help() -> String {
    format!("{EXAMPLES}\n\n{}", status::HELP)
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Globals {
    #[arg(long, global = true, value_name = "URL", env = "COORD_STORE", hide_env_values = true)]
    #[arg(help_heading = HEADING, help = store::help())]
    pub(crate) store: Option<String>,

    /// Keeps names apart from those of other namespaces in the same store [default: what the store's URL says, or default]
    #[arg(long, global = true, value_name = "NAME", env = "COORD_NAMESPACE", hide_env_values = true)]
    #[arg(help_heading = HEADING)]
    namespace: Option<String>,

    /// How long a crashed holder blocks others; it is renewed while coord runs [default: 15s]
    #[arg(long, global = true, value_name = "DUR", value_parser = humantime::parse_duration)]
    #[arg(help_heading = HEADING)]
    ttl: Option<Duration>,

    /// Prints one JSON object a line; errors too, on standard error, with the keys error and status
    #[arg(long, global = true, help_heading = HEADING)]
    pub(crate) json: bool,

    /// Says more on standard error: -v, -vv, -vvv; COORD_LOG or RUST_LOG take a filter such as `coord_core=debug`
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = HEADING)]
    pub(crate) verbose: u8,
}

const HEADING: &str = "Options of every command";

impl Globals {
    /// The namespace that the options name, if they do.
    pub(crate) fn namespace(&self) -> Result<Option<Namespace>, Failure> {
        Ok(self.namespace.as_ref().map(Namespace::new).transpose()?)
    }

    /// The TTL, checked before the store is opened. The backend may allow less, and says so before any I/O too.
    pub(crate) fn ttl(&self) -> Result<Duration, Failure> {
        self.ttl_unless(None)
    }

    /// As [`Globals::ttl`], where a command has an option of its own that goes first.
    pub(crate) fn ttl_unless(&self, own: Option<Duration>) -> Result<Duration, Failure> {
        let ttl = own.or(self.ttl).unwrap_or(limits::DEFAULT_TTL);
        if (limits::MIN_TTL..=limits::MAX_TTL).contains(&ttl) {
            return Ok(ttl);
        }
        let (min, max) = (limits::MIN_TTL, limits::MAX_TTL);
        let range =
            format!("between {} and {}", humantime::format_duration(min), humantime::format_duration(max));
        Err(Error::new(
            ErrorKind::InvalidTtl,
            format!("a TTL is {range}, not {}", humantime::format_duration(ttl)),
        )
        .into())
    }

    pub(crate) fn output(&self) -> Output {
        Output { json: self.json }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Lock(lock::Lock),
    Elect(elect::Elect),
    Leader(elect::Leader),
    Inspect(inspect::Inspect),
    Release(inspect::Release),
    Register(registry::Register),
    Instances(registry::Instances),
    Barrier(barrier::Barrier),
    Queue(queue::Queue),
    Config(config::Config),
    Fence(fenced::Fence),
    Write(fenced::Write),
    Read(fenced::Read),
    Doctor(doctor::Doctor),
    Completions(Completions),
}

impl Command {
    pub(crate) async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        match self {
            Self::Lock(command) => command.run(globals).await,
            Self::Elect(command) => command.run(globals).await,
            Self::Leader(command) => command.run(globals).await,
            Self::Inspect(command) => command.run(globals).await,
            Self::Release(command) => command.run(globals).await,
            Self::Register(command) => command.run(globals).await,
            Self::Instances(command) => command.run(globals).await,
            Self::Barrier(command) => command.run(globals).await,
            Self::Queue(command) => command.run(globals).await,
            Self::Config(command) => command.run(globals).await,
            Self::Fence(command) => command.run(globals).await,
            Self::Write(command) => command.run(globals).await,
            Self::Read(command) => command.run(globals).await,
            Self::Doctor(command) => command.run(globals).await,
            Self::Completions(command) => command.run(),
        }
    }
}

/// Prints the completions of a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord completions bash > ~/.local/share/bash-completion/completions/coord
  coord completions zsh > ~/.zfunc/_coord
  coord completions fish > ~/.config/fish/completions/coord.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

impl Completions {
    fn run(self) -> Result<u8, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "coord", &mut script);
        std::io::Write::write_all(&mut std::io::stdout(), &script)?;
        Ok(status::OK)
    }
}

/// A name from the command line.
pub(crate) fn name(text: &str) -> Result<Name, Failure> {
    Ok(Name::new(text)?)
}

/// A fencing token from the command line.
pub(crate) fn token(text: &str) -> Result<FencingToken, String> {
    let number = text.parse().map_err(|error| format!("a fencing token is a number: {error}"))?;
    FencingToken::new(number).map_err(|error| error.to_string())
}
