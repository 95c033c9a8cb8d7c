//! What holds at present.

use std::time::Duration;

/// A direction, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// What the client sends.
    ToServer,
    /// What the server sends.
    ToClient,
    /// All of it.
    Both,
}

/// What holds at present for all connections.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    pub(super) to_server: Flow,
    pub(super) to_client: Flow,
    /// How often all connections were cut; one that began before the last time is to end.
    pub(super) cuts: u64,
    /// How long a connection lasts at most.
    pub(super) longest: Option<Duration>,
}

/// What holds in one direction.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Flow {
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    pub(super) limit: Option<u32>,
    pub(super) slice: Option<usize>,
    pub(super) frozen: bool,
    pub(super) black: bool,
}

impl Settings {
    pub(super) fn flows(&mut self, way: Way) -> impl Iterator<Item = &mut Flow> {
        let to_server = (way != Way::ToClient).then_some(&mut self.to_server);
        let to_client = (way != Way::ToServer).then_some(&mut self.to_client);
        to_server.into_iter().chain(to_client)
    }
}

impl Flow {
    /// How many bytes are written at once.
    pub(super) fn at_once(&self) -> usize {
        // A limit is kept within a twentieth of a second.
        let limited = self.limit.map_or(usize::MAX, |limit| (limit as usize / 20).max(1));
        self.slice.unwrap_or(usize::MAX).min(limited)
    }

    /// How long so many bytes take.
    pub(super) fn time_of(&self, bytes: usize) -> Duration {
        match self.limit {
            #[allow(clippy::cast_precision_loss, reason = "a piece of a few kilobytes")]
            Some(limit) => Duration::from_secs_f64(bytes as f64 / f64::from(limit)),
            None => Duration::ZERO,
        }
    }
}
