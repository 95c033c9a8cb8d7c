//! What was done, as it is put down.

use coord_core::spi::ALL;
use serde::{Deserialize, Serialize};

/// Which attempt of a client to be granted something.
pub type AttemptId = u64;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Op {
    /// The attempt was seen waiting in the line, which it will not leave before its acquisition ends.
    Queued {
        /// Which attempt.
        attempt: AttemptId,
        /// What is asked for.
        ask: Ask,
    },
    /// A lock, permit or leadership was asked for.
    Acquire {
        /// Which attempt.
        attempt: AttemptId,
        /// What was asked for.
        ask: Ask,
        /// The token, if it was granted.
        token: Option<u64>,
    },
    /// The guard said that it is held.
    Valid {
        /// Which attempt.
        attempt: AttemptId,
    },
    /// The guard said that it is lost.
    Lost {
        /// Which attempt.
        attempt: AttemptId,
    },
    /// The guard was released.
    Release {
        /// Which attempt.
        attempt: AttemptId,
    },
    /// The holders of these tokens were thrown out by force.
    Evict {
        /// Their tokens.
        tokens: Vec<u64>,
    },
    /// The client's process was killed; the moment is one after its end.
    Died,
    /// The present leader was read.
    Leader {
        /// Its id and term.
        leader: Option<(String, u64)>,
        /// The election is at rest: whoever observes it should have seen this one.
        settled: bool,
    },
    /// An observer of an election reported something.
    Observed {
        /// Which observer of this client.
        watcher: u64,
        /// What it reported.
        seen: Seen,
    },
    /// An instance was registered.
    Register {
        /// Which attempt.
        attempt: AttemptId,
        /// The instance's id.
        id: String,
        /// The token.
        token: Option<u64>,
    },
    /// A registration was ended by its owner.
    Deregister {
        /// Which attempt.
        attempt: AttemptId,
        /// The token that it had last.
        token: u64,
    },
    /// The members of a service were read: their ids and tokens.
    Members {
        /// Who was listed.
        members: Vec<(String, u64)>,
        /// The service is at rest: whoever watches it should have seen these.
        settled: bool,
    },
    /// A watcher of a service reported something.
    Watched {
        /// Which watcher of this client.
        watcher: u64,
        /// What it reported.
        change: Change,
    },
    /// A fenced resource was written to.
    Write {
        /// With this token.
        token: u64,
        /// The value that the writer had read before.
        read: u64,
        /// The value that it wrote.
        wrote: u64,
    },
    /// An entry in a fenced resource's own log: what it accepted, in this order.
    Accepted {
        /// The place in the order.
        sequence: u64,
        /// The token.
        token: u64,
        /// The value that the writer had read before; `None` if only the mark was raised.
        write: Option<(u64, u64)>,
    },
    /// A register was read: its value and version. Every write of a history has another value.
    Read {
        /// What was found.
        found: Option<(String, u64)>,
    },
    /// A register was written to, or its value removed.
    Put {
        /// What had to be true.
        given: Given,
        /// The new value; `None` for a removal.
        value: Option<String>,
        /// The new version, if a put was done.
        version: Option<u64>,
    },
    /// A watcher of values reported something.
    Followed {
        /// Which watcher of this client.
        watcher: u64,
        /// What it reported.
        report: Report,
    },
    /// The values of a prefix were read, at rest: whoever watches it should have seen these.
    Entries {
        /// Keys, values and versions.
        entries: Vec<(String, String, u64)>,
    },
    /// An item was pushed. Every item of a history carries another text.
    Push {
        /// What it carries.
        item: String,
        /// Its priority.
        priority: i32,
        /// Its group.
        group: Option<String>,
    },
    /// Items were asked for.
    Receive {
        /// What was delivered: what the items carry, the tokens, and the how-manieth delivery each is.
        items: Vec<(String, u64, u32)>,
    },
    /// The delivery said that the item is still in these hands.
    InHand {
        /// The item.
        item: String,
        /// The delivery's token.
        token: u64,
    },
    /// An item was acknowledged.
    Ack {
        /// The item.
        item: String,
        /// The delivery's token.
        token: u64,
    },
    /// An item was given back.
    Nack {
        /// The item.
        item: String,
        /// The delivery's token.
        token: u64,
    },
    /// Nothing is left in the queue.
    Drained,
    /// A fault, from its beginning to its end. The object is what it struck.
    Fault {
        /// Its name.
        kind: String,
    },
    /// All faults have ended.
    Healed,
    /// Something that has to succeed soon after all faults have ended.
    Probe {
        /// How soon, in milliseconds.
        bound: u64,
    },
}

/// What has to be true for a write to a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums)]
pub enum Given {
    /// Nothing.
    Anything,
    /// There is no value.
    Absent,
    /// The value has this version.
    Version(u64),
}

/// What an attempt asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Ask {
    /// What it takes.
    pub weight: u32,
    /// What it and all ahead of it may take together.
    pub limit: u32,
    /// Its priority.
    pub priority: i32,
    /// The candidate's id, where there is one.
    pub owner: String,
}

impl Ask {
    /// An exclusive lock.
    #[must_use]
    pub fn lock() -> Self {
        Self::of(ALL, ALL)
    }

    /// A shared lock.
    #[must_use]
    pub fn reader() -> Self {
        Self::of(1, ALL)
    }

    /// Permits of a semaphore.
    #[must_use]
    pub fn permits(permits: u32, of: u32) -> Self {
        Self::of(permits, of)
    }

    /// A candidate of an election.
    #[must_use]
    pub fn candidate(id: impl Into<String>, priority: i32) -> Self {
        Self { priority, owner: id.into(), ..Self::of(1, 1) }
    }

    fn of(weight: u32, limit: u32) -> Self {
        Self { weight, limit, priority: 0, owner: String::new() }
    }
}

/// What an observer of an election reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums)]
pub enum Seen {
    /// A new leader: its id and term.
    Elected(String, u64),
    /// The leader of this id and term changed its value.
    Proclaimed(String, u64),
    /// Nobody leads.
    Vacant,
}

/// What a watcher of a service reported: ids and tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums)]
pub enum Change {
    /// Everyone at the start.
    Snapshot(Vec<(String, u64)>),
    /// A new one, or one that registered anew.
    Joined(String, u64),
    /// One changed its data.
    Updated(String, u64),
    /// One went away.
    Left(String, u64),
}

/// What a watcher of values reported: keys, values and versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums)]
pub enum Report {
    /// Everything at the start.
    Snapshot(Vec<(String, String, u64)>),
    /// Everything anew, after a gap.
    Resync(Vec<(String, String, u64)>),
    /// A new value.
    Put(String, String, u64),
    /// A value is gone; the version of its removal.
    Deleted(String, u64),
}

impl Change {
    /// Whom it is about: ids and tokens.
    pub(crate) fn members(&self) -> Vec<(&String, u64)> {
        match self {
            Self::Snapshot(members) => members.iter().map(|(id, token)| (id, *token)).collect(),
            Self::Joined(id, token) | Self::Updated(id, token) | Self::Left(id, token) => vec![(id, *token)],
        }
    }
}
