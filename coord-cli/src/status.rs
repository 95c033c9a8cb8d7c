//! Exit statuses, and how an error becomes one.

use std::{error::Error as _, io::Write as _, process::ExitCode};

use coord_core::{Error, ErrorKind};

/// All is well.
pub(crate) const OK: u8 = 0;
/// There is nothing of what was asked for: nobody leads, nobody holds, no value.
pub(crate) const NOTHING: u8 = 1;
/// A bad option, name, value or URL.
pub(crate) const USAGE: u8 = 2;
/// The store cannot be reached or opened.
pub(crate) const UNREACHABLE: u8 = 69;
/// The store failed in another way: damaged, full, of a newer version; or a bug.
pub(crate) const FAILED: u8 = 70;
/// It was not granted in time, nothing came, or there was no room.
pub(crate) const NOT_GRANTED: u8 = 75;
/// The condition of a write did not hold.
pub(crate) const CONDITION_FAILED: u8 = 76;
/// The token is stale, or a fenced key was written without one.
pub(crate) const FENCED: u8 = 77;
/// It was lost while the command ran.
pub(crate) const LOST: u8 = 79;
/// The command cannot be run.
pub(crate) const CANNOT_RUN: u8 = 126;
/// The command was not found.
pub(crate) const COMMAND_NOT_FOUND: u8 = 127;

/// The part of the help that lists them.
pub(crate) const HELP: &str = "\
Exit status:
  0    done; with a command: the command's own status, 128+N if signal N ended it
  1    there is nothing of what was asked for: nobody leads, nobody holds, no value
  2    usage: a bad option, name, value, TTL or store URL
  69   the store cannot be reached or opened
  70   the store failed otherwise: damaged, full, of a newer version; or a bug
  75   not granted in time; nothing came to a queue, or it had no room, in time
  76   the condition of a write did not hold
  77   a stale fencing token, or none for a key that is fenced
  79   lost while the command ran, whatever the command's own status was
  126  the command cannot be run
  127  the command was not found
  128+N  signal N ended the wait";

/// Why the command ends with another status than zero.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: u8,
    /// What is printed; nothing if it is empty.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(status: u8, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// Ends with this status without a word.
    pub(crate) fn silent(status: u8) -> Self {
        Self::new(status, "")
    }

    pub(crate) fn print(&self, json: bool) {
        if self.message.is_empty() {
            return;
        }
        say(&if json {
            serde_json::json!({ "error": self.message, "status": self.status }).to_string()
        } else {
            format!("coord: {}", self.message)
        });
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(status_of(error.kind()), describe(&error))
    }
}

impl From<std::io::Error> for Failure {
    /// What is left after the errors of a command's start: standard output that cannot be written.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            // As a program that SIGPIPE ended.
            return Self::silent(of_signal(13));
        }
        Self::new(FAILED, error.to_string())
    }
}

/// The error and what caused it.
pub(crate) fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some drivers print their causes too.
        if !text.contains(&cause_text) {
            text += ": ";
            text += &cause_text;
        }
        source = cause.source();
    }
    text
}

fn status_of(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::InvalidName
        | ErrorKind::TooLarge
        | ErrorKind::InvalidTtl
        | ErrorKind::InvalidOptions
        | ErrorKind::InvalidToken
        | ErrorKind::InvalidInput
        | ErrorKind::InvalidValue
        | ErrorKind::Unsupported => USAGE,
        ErrorKind::NotGranted | ErrorKind::QueueFull => NOT_GRANTED,
        ErrorKind::ConditionFailed => CONDITION_FAILED,
        ErrorKind::Fenced => FENCED,
        ErrorKind::Lost => LOST,
        ErrorKind::NotFound => NOTHING,
        ErrorKind::Unavailable | ErrorKind::Permission => UNREACHABLE,
        // Full, Corrupt, NewerSchema, Exhausted, Closed, Internal, and kinds of a later version.
        _ => FAILED,
    }
}

/// The status of what a signal ended, as a shell counts it.
pub(crate) fn of_signal(number: i32) -> u8 {
    u8::try_from(number + 128).unwrap_or(u8::MAX)
}

/// Writes a line to standard error. If nobody reads it any more, coord goes on all the same.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The status of the whole program.
pub(crate) fn finish(outcome: Result<u8, Failure>, json: bool) -> ExitCode {
    ExitCode::from(outcome.unwrap_or_else(|failure| {
        failure.print(json);
        failure.status
    }))
}
