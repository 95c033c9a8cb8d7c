//! The faults of a history, by whom they struck.

use std::collections::HashSet;

use crate::history::{Event, Op, Stamp};

/// What ends or stops a process.
const PROCESS: [&str; 2] = ["kill", "stop"];

/// The faults of a history.
pub(super) struct Strikes<'a> {
    faults: Vec<(&'a str, &'a Event)>,
    clients: HashSet<&'a str>,
}

impl<'a> Strikes<'a> {
    pub(super) fn of(events: &'a [Event]) -> Self {
        let faults = events.iter().filter_map(|event| match &event.op {
            Op::Fault { kind } => Some((kind.as_str(), event)),
            _ => None,
        });
        let clients = events.iter().map(|event| event.client.as_str()).collect();
        Self { faults: faults.collect(), clients }
    }

    /// The first of these faults of a client that was not over at `from` and had begun by `to`: which one, and itself.
    fn on(&self, client: &str, from: Stamp, to: Stamp) -> impl Iterator<Item = (&'a str, &'a Event)> {
        let during = move |fault: &&Event| fault.to >= from && fault.from <= to;
        self.faults.iter().copied().filter(move |(_, fault)| fault.object == client && during(fault))
    }

    /// What killed or stopped a client between these moments, first.
    pub(super) fn felled(&self, client: &str, from: Stamp, to: Stamp) -> Option<(&'a str, &'a Event)> {
        self.on(client, from, to)
            .filter(|(kind, _)| PROCESS.contains(kind))
            .min_by_key(|(_, fault)| fault.from)
    }

    /// Whether nothing struck between these moments that is no fault of a client: a server, or the way to it.
    fn servers_well(&self, from: Stamp, to: Stamp) -> bool {
        !self.faults.iter().any(|(_, fault)| {
            !self.clients.contains(fault.object.as_str()) && fault.to >= from && fault.from <= to
        })
    }

    /// Whether between these moments nothing struck a server or one of these clients.
    pub(super) fn quiet<'c>(
        &self,
        clients: impl IntoIterator<Item = &'c str>,
        from: Stamp,
        to: Stamp,
    ) -> bool {
        self.servers_well(from, to)
            && clients.into_iter().all(|client| self.on(client, from, to).next().is_none())
    }
}
