//! One script and one call of it.

use std::sync::OnceLock;

use redis::{Cmd, ToRedisArgs};

/// A script, which the server knows by the hash of its text.
///
/// The texts stand in `scripts/`. Pieces that several share are joined in front of them by `concat!`.
#[derive(Debug)]
pub(crate) struct Script {
    source: &'static str,
    hash: OnceLock<String>,
}

impl Script {
    pub(crate) const fn new(source: &'static str) -> Self {
        Self { source, hash: OnceLock::new() }
    }

    fn hash(&self) -> &str {
        self.hash.get_or_init(|| redis::Script::new(self.source).get_hash().to_owned())
    }

    /// The command that makes it known to the server.
    pub(crate) fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(self.source);
        command
    }
}

/// One call of a script: one command, and one atomic step of the server.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) script: &'static Script,
    pub(crate) command: Cmd,
}

impl Call {
    /// A call with all keys that the script touches, which must be in one slot.
    pub(crate) fn new(script: &'static Script, keys: &[String]) -> Self {
        let mut command = redis::cmd("EVALSHA");
        command.arg(script.hash()).arg(keys.len()).arg(keys);
        Self { script, command }
    }

    /// With one more argument.
    pub(crate) fn arg(mut self, argument: impl ToRedisArgs) -> Self {
        self.command.arg(argument);
        self
    }
}
