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
    /// A worker's connections are reset, again and again.
    WireReset,
    /// A worker's connections are reset, and new ones refused.
    WireRefuse,
    /// Nothing passes on a worker's connections, and arrives when it is over.
    WireFreeze,
    /// What a worker and the servers send each other is gone, and nobody is told.
    WireBlackhole,
    /// What a worker sends is gone, and nobody is told.
    WireMute,
    /// What a worker is sent is gone, and nobody is told.
    WireDeaf,
    /// A worker's connections are late, narrow, or pass single bytes.
    WireSlow,
    /// The servers do what a worker asked for, and their replies are lost with the connections.
    WireLose,
    /// No worker reaches one server of a cluster any more, or none hears of it; the servers reach each other.
    WireApart,
    /// A server is killed, and started again with its data.
    ServerKill,
    /// A server is stopped in its tracks, for up to two leases.
    ServerStop,
    /// As `server-kill`, of the one that leads.
    LeaderKill,
    /// As `server-stop`, of the one that leads.
    LeaderStop,
    /// A server, every other time the one that leads, is cut off from the others: both ways, or one way.
    Partition,
    /// A server's wall clock is ahead by two to ten leases, and then right again.
    ClockForward,
    /// A server's wall clock is an hour behind, and then right again.
    ClockBack,
    /// A server's wall clock jumps by two seconds, to and fro, twenty times a second.
    ClockStrobe,
}

use Fault::*;

/// What faults strike. Those of one kind strike one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Struck {
    Processes,
    Links,
    Servers,
}

/// What a backend has that can be struck.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Marks {
    /// How many servers.
    pub(super) servers: usize,
    /// Whether requests are known on the wire.
    pub(super) requests: bool,
    /// Whether servers can be cut off from each other.
    pub(super) partitions: bool,
    /// Whether the clocks of servers can be stepped.
    pub(super) clocks: bool,
    /// Whether the backend says that steps of them may break it.
    pub(super) fragile: bool,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Kill,
        Stop,
        LoseReplies,
        LoseRequests,
        Cut,
        Delay,
        Deaf,
        WireReset,
        WireRefuse,
        WireFreeze,
        WireBlackhole,
        WireMute,
        WireDeaf,
        WireSlow,
        WireLose,
        WireApart,
        ServerKill,
        ServerStop,
        LeaderKill,
        LeaderStop,
        Partition,
        ClockForward,
        ClockBack,
        ClockStrobe,
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
            WireReset => "wire-reset",
            WireRefuse => "wire-refuse",
            WireFreeze => "wire-freeze",
            WireBlackhole => "wire-blackhole",
            WireMute => "wire-mute",
            WireDeaf => "wire-deaf",
            WireSlow => "wire-slow",
            WireLose => "wire-lose",
            WireApart => "wire-apart",
            ServerKill => "server-kill",
            ServerStop => "server-stop",
            LeaderKill => "leader-kill",
            LeaderStop => "leader-stop",
            Partition => "partition",
            ClockForward => "clock-forward",
            ClockBack => "clock-back",
            ClockStrobe => "clock-strobe",
        }
    }

    pub(super) fn struck(self) -> Struck {
        match self {
            Kill | Stop => Struck::Processes,
            LoseReplies | LoseRequests | Cut | Delay | Deaf => Struck::Links,
            fault if fault.is_on_the_wire() => Struck::Links,
            _ => Struck::Servers,
        }
    }

    pub(super) fn is_on_the_wire(self) -> bool {
        self.name().starts_with("wire-")
    }

    fn is_of_servers(self) -> bool {
        self.struck() == Struck::Servers && !self.is_of_clocks()
    }

    pub(super) fn is_of_clocks(self) -> bool {
        self.name().starts_with("clock-")
    }

    /// Whether it can strike a backend that has these.
    pub(super) fn has_a_mark(self, marks: &Marks) -> bool {
        match self {
            WireLose => marks.requests,
            WireApart => marks.servers > 1,
            ServerKill | ServerStop => marks.servers > 0,
            LeaderKill | LeaderStop => marks.servers > 1,
            Partition => marks.partitions,
            fault if fault.is_of_clocks() => marks.clocks,
            fault if fault.is_on_the_wire() => marks.servers > 0,
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
    /// `links`: those between workers and the store, which are made in the worker.
    Links,
    /// `wires`: those of connections. A backend without servers refuses the run.
    Wires,
    /// `servers`: those of servers. A backend without servers that can be struck refuses the run. Where a cluster cannot be
    /// parted, workers are cut off from one of its servers instead.
    Servers,
    /// `clocks`: those of the wall clocks of servers. A backend whose servers have none that can be stepped refuses the run.
    Clocks,
    /// `all`: all that the backend can have, but those of clocks if it says that they may break it.
    All,
    /// `none`.
    None,
}

impl Wanted {
    /// The faults of a backend that has these marks, or the one that cannot be had.
    pub(super) fn faults(&self, marks: &Marks) -> Result<Vec<Fault>, Fault> {
        let of = |wanted: fn(Fault) -> bool, least: Option<Fault>| {
            let there = |fault: &Fault| wanted(*fault) && fault.has_a_mark(marks);
            let faults: Vec<_> = Fault::ALL.into_iter().filter(there).collect();
            least.filter(|_| faults.is_empty()).map_or(Ok(faults), Err)
        };
        match self {
            Self::One(fault) if fault.has_a_mark(marks) => Ok(vec![*fault]),
            Self::One(fault) => Err(*fault),
            Self::Workers => of(|fault| fault.struck() == Struck::Processes, None),
            Self::Links => of(|fault| fault.struck() == Struck::Links && !fault.is_on_the_wire(), None),
            Self::Wires => of(Fault::is_on_the_wire, Some(WireReset)),
            // Where servers cannot be cut off from each other, their clients can.
            Self::Servers if marks.servers > 1 && !marks.partitions => {
                of(|fault| fault.is_of_servers() || fault == WireApart, None)
            }
            Self::Servers => of(Fault::is_of_servers, Some(ServerKill)),
            Self::Clocks => of(Fault::is_of_clocks, Some(ClockForward)),
            Self::All if marks.fragile => of(|fault| !fault.is_of_clocks(), None),
            Self::All => of(|_| true, None),
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
            Self::Wires => "wires",
            Self::Servers => "servers",
            Self::Clocks => "clocks",
            Self::All => "all",
            Self::None => "none",
        })
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let groups =
            [Self::Workers, Self::Links, Self::Wires, Self::Servers, Self::Clocks, Self::All, Self::None];
        let mut all = groups.into_iter().chain(Fault::ALL.map(Self::One));
        all.find(|wanted| wanted.to_string() == text).ok_or_else(|| {
            let names: Vec<_> = Fault::ALL.iter().map(|fault| fault.name()).collect();
            format!(
                "there are {}, and workers, links, wires, servers, clocks, all and none",
                names.join(", ")
            )
        })
    }
}
