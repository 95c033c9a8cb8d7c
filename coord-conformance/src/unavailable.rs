//! Why there is no server to test with.

use std::{error::Error as _, fmt};

use coord_core::{Error, ErrorKind};

/// Why there is no server to test with.
///
/// Where there is none, a case is *ignored* with the reason on a person's machine, and fails under `CI=true`, which
/// must not pass by leaving tests out. A server that is there and does not work fails everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    reason: String,
    broken: bool,
}

impl Unavailable {
    /// There is none; the reason says what was looked for and how to have it.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), broken: false }
    }

    /// There is one, and it does not work.
    pub fn broken(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), broken: true }
    }

    /// What was looked for, or what went wrong.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether there is one that does not work.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Why the store could not be opened, if that is for want of a server.
    pub(crate) fn within(error: &Error) -> Option<&Self> {
        error.source()?.downcast_ref()
    }

    /// Whether a test fails for this reason, instead of being ignored.
    #[must_use]
    pub fn fails(&self) -> bool {
        self.broken || in_ci()
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Unavailable {}

impl From<Unavailable> for Error {
    fn from(unavailable: Unavailable) -> Self {
        Self::new(ErrorKind::Unavailable, "there is no server to test with").with_source(unavailable)
    }
}

/// Whether this is a run of continuous integration: `CI=true`, which GitHub, GitLab and others set.
fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}
