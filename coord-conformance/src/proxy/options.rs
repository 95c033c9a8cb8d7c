//! How a proxy is to be.

use std::{fmt, sync::Arc};

use super::framing::Protocol;

/// How a proxy is to be. The default knows no protocol.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Options {
    /// Where its random numbers begin.
    pub seed: u64,
    /// Where requests and replies begin and end.
    pub protocol: Option<Arc<dyn Protocol>>,
}

impl Options {
    /// With random numbers that begin here.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// With a protocol, in which it counts requests, and loses those that it is told to.
    #[must_use]
    pub fn with_protocol(mut self, protocol: impl Protocol) -> Self {
        self.protocol = Some(Arc::new(protocol));
        self
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.protocol.is_some();
        f.debug_struct("Options").field("seed", &self.seed).field("protocol", &protocol).finish()
    }
}
