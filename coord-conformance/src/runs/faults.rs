//! The faults of runs: what each is called, and what it needs.

use std::{fmt, str::FromStr};

/// What can strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// A worker process is killed; another one takes its place.
    Kill,
    /// A worker process is stopped in its tracks, for up to two and a half leases.
    Stop,
    /// A worker never hears what became of some of its next requests.
    LoseReplies,
    /// Some of a worker's next requests never reach the store.
    LoseRequests,
    /// A worker is cut off from the store, for up to two leases.
    Cut,
    /// What the store answers a worker takes long to arrive.
    Delay,
    /// A worker hears no hints.
    Deaf,
    /// A server is killed, and started again with its data.
    ServerKill,
    /// A server is stopped in its tracks, for up to two leases.
    ServerStop,
    /// As `server-kill`, of the one that leads.
    LeaderKill,
    /// As `server-stop`, of the one that leads.
    LeaderStop,
}

use Fault::*;

/// What faults strike. Those of one kind strike one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Struck {
    Processes,
    Links,
    Servers,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Kill,
        Stop,
        LoseReplies,
        LoseRequests,
        Cut,
        Delay,
        Deaf,
        ServerKill,
        ServerStop,
        LeaderKill,
        LeaderStop,
    ];

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kill => "kill",
            Stop => "stop",
            LoseReplies => "lose-replies",
            LoseRequests => "lose-requests",
            Cut => "cut",
            Delay => "delay",
            Deaf => "deaf",
            ServerKill => "server-kill",
            ServerStop => "server-stop",
            LeaderKill => "leader-kill",
            LeaderStop => "leader-stop",
        }
    }

    pub(super) fn struck(self) -> Struck {
        match self {
            Kill | Stop => Struck::Processes,
            LoseReplies | LoseRequests | Cut | Delay | Deaf => Struck::Links,
            ServerKill | ServerStop | LeaderKill | LeaderStop => Struck::Servers,
        }
    }

    /// Whether it can strike with so many servers.
    pub(super) fn has_a_mark(self, servers: usize) -> bool {
        match self {
            ServerKill | ServerStop => servers > 0,
            LeaderKill | LeaderStop => servers > 1,
            _ => true,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which faults a run is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Wanted {
    /// This one. A backend that cannot have it refuses the run.
    One(Fault),
    /// `workers`: those of processes.
    Workers,
    /// `links`: those between workers and the store.
    Links,
    /// `servers`: those of servers. A backend without servers that can be struck refuses the run.
    Servers,
    /// `all`: all that the backend can have.
    All,
    /// `none`.
    None,
}

impl Wanted {
    /// The faults with so many servers, or the one that cannot be had.
    pub(super) fn faults(&self, servers: usize) -> Result<Vec<Fault>, Fault> {
        let of = |struck: &[Struck]| {
            let there = |fault: &Fault| struck.contains(&fault.struck()) && fault.has_a_mark(servers);
            Fault::ALL.into_iter().filter(there).collect()
        };
        match self {
            Self::One(fault) if fault.has_a_mark(servers) => Ok(vec![*fault]),
            Self::One(fault) => Err(*fault),
            Self::Servers if servers == 0 => Err(ServerKill),
            Self::Workers => Ok(of(&[Struck::Processes])),
            Self::Links => Ok(of(&[Struck::Links])),
            Self::Servers => Ok(of(&[Struck::Servers])),
            Self::All => Ok(of(&[Struck::Processes, Struck::Links, Struck::Servers])),
            Self::None => Ok(Vec::new()),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One(fault) => fault.name(),
            Self::Workers => "workers",
            Self::Links => "links",
            Self::Servers => "servers",
            Self::All => "all",
            Self::None => "none",
        })
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let groups = [Self::Workers, Self::Links, Self::Servers, Self::All, Self::None];
        let mut all = groups.into_iter().chain(Fault::ALL.map(Self::One));
        all.find(|wanted| wanted.to_string() == text).ok_or_else(|| {
            let names: Vec<_> = Fault::ALL.iter().map(|fault| fault.name()).collect();
            format!("there are {}, and workers, links, servers, all and none", names.join(", "))
        })
    }
}
