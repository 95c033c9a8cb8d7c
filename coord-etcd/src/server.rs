//! What the cluster is: what follows from that for what we promise.

use std::time::Duration;

use coord_core::{ClockAssumption, Durability, Features, Guarantees, Scope, limits};

/// How many members a cluster has that survives the loss of one.
const REDUNDANT: usize = 3;

/// What was found out when the client was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// The shortest TTL that it grants: it depends on its election timeout.
    pub(crate) min_ttl: Duration,
    /// How many members vote.
    pub(crate) members: usize,
}

impl Server {
    pub(crate) fn guarantees(&self) -> Guarantees {
        // An answer is on the disks of a majority.
        let durability = if self.members >= REDUNDANT { Durability::Quorum } else { Durability::Power };
        Guarantees::new("etcd")
            .with_scope(Scope::Network)
            .with_durability(durability)
            .with_clock(ClockAssumption::BoundedRate)
            .with_features(Features::ALL.with_priority(false).with_hand_over(false))
            .with_ttls(self.min_ttl.max(limits::MIN_TTL), limits::MAX_TTL)
    }
}
