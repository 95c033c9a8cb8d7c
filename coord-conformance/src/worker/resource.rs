//! A fenced counter that several processes share: a file that is its own log.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use coord_core::{Error, ErrorKind, FencingToken, Result};
use serde::{Deserialize, Serialize};

use crate::history::{Event, History, Op, Outcome};

/// A number in a file. Every access is one step under the file's lock. What was accepted is appended; the last entry is
/// the state.
#[derive(Debug, Clone)]
pub struct Resource {
    path: PathBuf,
    fenced: bool,
}

/// What was accepted.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Entry {
    token: u64,
    /// What the writer had read and what it wrote; `None` if only the mark was raised.
    write: Option<(u64, u64)>,
}

impl Resource {
    /// The resource in this file, which need not exist. Without `fenced` it accepts every token: a control.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, fenced: bool) -> Self {
        Self { path: path.into(), fenced }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it checks tokens.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// What it is called in a history.
    #[must_use]
    pub fn object(&self) -> String {
        self.path.display().to_string()
    }

    /// Fences older tokens out, and reads.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] for a token below the mark; what the file system says.
    pub fn read(&self, token: FencingToken) -> Result<u64> {
        let (_, value) = self.step(Entry { token: token.get(), write: None })?;
        Ok(value)
    }

    /// Writes.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] for a token below the mark; what the file system says.
    pub fn write(&self, token: FencingToken, read: u64, wrote: u64) -> Result<()> {
        self.step(Entry { token: token.get(), write: Some((read, wrote)) }).map(drop)
    }

    /// The value.
    ///
    /// # Errors
    /// What the file system says.
    pub fn value(&self) -> Result<u64> {
        Ok(state(&entries(&mut self.open()?)?).1)
    }

    /// What was accepted, as events for the checker.
    ///
    /// # Errors
    /// What the file system says.
    pub fn log(&self, history: &History) -> Result<Vec<Event>> {
        let entries = entries(&mut self.open()?)?;
        let now = history.stamp();
        let event = |(sequence, entry): (u64, &Entry)| Event {
            from: now,
            to: now,
            client: "the resource".into(),
            object: self.object(),
            op: Op::Accepted { sequence, token: entry.token, write: entry.write },
            outcome: Outcome::Ok,
        };
        Ok((1..).zip(&entries).map(event).collect())
    }

    fn step(&self, entry: Entry) -> Result<(u64, u64)> {
        let mut file = self.open()?;
        let (mark, value) = state(&entries(&mut file)?);
        if self.fenced && entry.token < mark {
            let text = format!("token {} is below the mark {mark}", entry.token);
            return Err(Error::new(ErrorKind::Fenced, text));
        }
        let mut line = serde_json::to_vec(&entry).map_err(internal)?;
        line.push(b'\n');
        // One call: a process that is killed leaves the whole line or nothing.
        file.write_all(&line).map_err(internal)?;
        Ok((mark, value))
    }

    /// The file, locked until it is closed.
    fn open(&self) -> Result<File> {
        let file =
            OpenOptions::new().create(true).append(true).read(true).open(&self.path).map_err(internal)?;
        file.lock().map_err(internal)?;
        Ok(file)
    }
}

fn entries(file: &mut File) -> Result<Vec<Entry>> {
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(internal)?;
    text.lines().map(|line| serde_json::from_str(line).map_err(internal)).collect()
}

/// The highest token and the last value.
fn state(entries: &[Entry]) -> (u64, u64) {
    let mark = entries.iter().map(|entry| entry.token).max().unwrap_or_default();
    let value = entries.iter().rev().find_map(|entry| entry.write).map_or(0, |(_, wrote)| wrote);
    (mark, value)
}

fn internal(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Internal, "the test's resource failed").with_source(error)
}
