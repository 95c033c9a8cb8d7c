//! What a run with faults does to servers.

use std::{fmt, io};

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

    /// Their version, if they tell.
    fn version(&self) -> Option<String> {
        None
    }
}
