//! What coord says on standard output: text for people, or one JSON object a line.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// Prints one result, in the form that was asked for, and flushes it.
    pub(crate) fn print(self, json: &impl Serialize, text: impl FnOnce() -> String) -> io::Result<()> {
        let line = if self.json { serde_json::to_string(json)? } else { text() };
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()
    }

    /// Prints bytes as they are, or JSON if that was asked for, and flushes it.
    pub(crate) fn print_bytes(self, json: &impl Serialize, bytes: &[u8]) -> io::Result<()> {
        if self.json {
            return self.print(json, String::new);
        }
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        // A prompt is to stand on a line of its own.
        if out.is_terminal() && bytes.last().is_some_and(|last| *last != b'\n') {
            out.write_all(b"\n")?;
        }
        out.flush()
    }
}

/// A moment for people, such as `2026-11-22T13:00:00.250Z`.
pub(crate) fn moment(time: SystemTime) -> String {
    // The years that RFC 3339 can write.
    let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_millis(time.clamp(UNIX_EPOCH, last)).to_string()
}

/// A duration for people, in whole milliseconds.
pub(crate) fn duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_millis(millis)).to_string()
}

/// A value as JSON shows it: text, or its bytes where it is not UTF-8.
#[derive(Debug, Serialize)]
pub(crate) struct Value<'a> {
    /// Null if there is no value, or if it is not UTF-8.
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_bytes: Option<&'a [u8]>,
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(value: &'a [u8]) -> Self {
        match std::str::from_utf8(value) {
            Ok(text) => Self { value: Some(text), value_bytes: None },
            Err(_) => Self { value: None, value_bytes: Some(value) },
        }
    }
}

impl<'a> From<Option<&'a [u8]>> for Value<'a> {
    fn from(value: Option<&'a [u8]>) -> Self {
        value.map_or(Self { value: None, value_bytes: None }, Into::into)
    }
}

/// A value as text shows it, without control characters, which could play tricks on a terminal.
pub(crate) fn value(value: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(value))
}
