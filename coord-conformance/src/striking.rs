//! What a run with faults does to servers.

use std::{collections::BTreeMap, fmt, io};

/// How a server is cut off from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Apart {
    /// Nothing passes.
    Both,
    /// The others do not hear it.
    Mute,
    /// It does not hear the others.
    Deaf,
}

/// The servers behind a store, for a run with faults to strike. They are known by their places in [`Servers::names`].
///
/// The methods block. A run strikes one server at a time.
pub trait Servers: fmt::Debug + Send + Sync {
    /// What they are called in a history.
    fn names(&self) -> Vec<String>;

    /// Stops one in its tracks: it keeps its connections and answers nothing.
    ///
    /// # Errors
    /// What the system says.
    fn stop(&self, at: usize) -> io::Result<()>;

    /// Lets one that was stopped go on.
    ///
    /// # Errors
    /// What the system says.
    fn go_on(&self, at: usize) -> io::Result<()>;

    /// Kills one, and waits for its end.
    ///
    /// # Errors
    /// What the system says.
    fn kill(&self, at: usize) -> io::Result<()>;

    /// Starts one again that was killed, with its data, and waits until it serves.
    ///
    /// # Errors
    /// If it does not start.
    fn restart(&self, at: usize) -> io::Result<()>;

    /// Which one leads. Only several servers are asked.
    ///
    /// # Errors
    /// If none does for long.
    fn leader(&self) -> io::Result<usize> {
        Ok(0)
    }

    /// Whether [`Servers::part`] works.
    fn can_be_apart(&self) -> bool {
        false
    }

    /// Has nothing pass between one and the others any more. Clients still reach all of them.
    ///
    /// # Errors
    /// What the system says; `Unsupported` by default.
    fn part(&self, at: usize, apart: Apart) -> io::Result<()> {
        let _ = (at, apart);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Has everything pass again.
    ///
    /// # Errors
    /// As of [`Servers::part`].
    fn rejoin(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Whether [`Servers::step_clock`] works.
    fn have_clocks(&self) -> bool {
        false
    }

    /// Steps the wall clock of one by so many milliseconds.
    ///
    /// # Errors
    /// What the system says; `Unsupported` by default.
    fn step_clock(&self, at: usize, milliseconds: i64) -> io::Result<()> {
        let _ = (at, milliseconds);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Has the clock of one tell the true time again.
    ///
    /// # Errors
    /// As of [`Servers::step_clock`].
    fn heal_clock(&self, at: usize) -> io::Result<()> {
        let _ = at;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// What they keep for their clients now, by names of their own: watches, connections. Only what goes when the clients go.
    fn kept(&self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }

    /// Their version, if they tell.
    fn version(&self) -> Option<String> {
        None
    }
}
