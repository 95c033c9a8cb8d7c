//! Why a case failed.

use std::{fmt, panic::Location};

use coord_core::{Error, HandOverError};
use tokio::task::JoinError;

use crate::checkers::Violation;

/// Why a case failed, and which checker said so.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The checker that rejected the history; `None` if an assertion of the case itself failed.
    pub checker: Option<&'static str>,
    /// What was wrong.
    pub message: String,
    /// Whether the case does not apply, which is no failure.
    pub(crate) ignored: bool,
}

/// What a case returns.
pub type Verdict<T = ()> = Result<T, Failure>;

impl Failure {
    /// An assertion of the case itself failed.
    pub fn new(message: impl Into<String>) -> Self {
        Self { checker: None, message: message.into(), ignored: false }
    }

    /// The case found that it does not apply, for this reason.
    pub(crate) fn ignored(reason: impl Into<String>) -> Self {
        Self { ignored: true, ..Self::new(reason) }
    }

    /// Why the case does not apply, if it does not.
    pub(crate) fn ignores(&self) -> Option<&str> {
        self.ignored.then_some(self.message.as_str())
    }

    /// A panic.
    pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        Self::new(
            text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".into()),
        )
    }

    /// A checker rejected what happened.
    pub fn by(checker: &'static str, message: impl Into<String>) -> Self {
        Self { checker: Some(checker), message: message.into(), ignored: false }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.checker {
            Some(checker) => write!(f, "the checker `{checker}` says: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    /// An operation failed that the case needs.
    #[track_caller]
    fn from(error: Error) -> Self {
        Self::new(format!("{} failed: {:?}: {error}", Location::caller(), error.kind()))
    }
}

impl From<HandOverError> for Failure {
    #[track_caller]
    fn from(error: HandOverError) -> Self {
        Self::from(error.error)
    }
}

impl From<Violation> for Failure {
    /// With the events that show it, as no history is kept.
    fn from(violation: Violation) -> Self {
        let mut message = violation.message;
        for event in &violation.evidence {
            message.push_str(&format!("\n    {event}"));
        }
        Self::by(violation.checker, message)
    }
}

impl From<JoinError> for Failure {
    /// Work beside the case panicked.
    #[track_caller]
    fn from(error: JoinError) -> Self {
        match error.try_into_panic() {
            Ok(panic) => Self::panicked(&*panic),
            Err(error) => Self::new(format!("{}: a task stopped: {error}", Location::caller())),
        }
    }
}

/// Fails the case unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::Failure::new(format!(
                "{}:{}: {}", file!(), line!(), format_args!($($message)+)
            )));
        }
    };
}

/// Fails the case unless the expression is an error of this kind; the error otherwise.
#[macro_export]
macro_rules! refused {
    ($result:expr, $kind:ident) => {
        match $result {
            Err(error) if error.kind() == coord_core::ErrorKind::$kind => error,
            Err(error) => {
                return Err($crate::Failure::new(format!(
                    "{}:{}: {} was expected, not {:?}: {error}",
                    file!(),
                    line!(),
                    stringify!($kind),
                    error.kind()
                )));
            }
            Ok(_) => {
                return Err($crate::Failure::new(format!(
                    "{}:{}: {} was expected, and it succeeded",
                    file!(),
                    line!(),
                    stringify!($kind)
                )));
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{History, Op};

    #[test]
    fn what_a_checker_says_is_shown() {
        let history = History::new(coord_core::clock::Clock::System);
        history.client("one").note("a queue", Op::Drained);
        let events = history.events();
        let failure = Failure::from(Violation::new("a checker", "it is wrong").shown_by(&events));
        assert_eq!(failure.checker, Some("a checker"));
        assert_eq!(failure.message, format!("it is wrong\n    {}", events[0]));
    }
}
