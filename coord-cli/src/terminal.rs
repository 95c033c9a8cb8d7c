//! The controlling terminal: lent to the command, taken back, and job control.

use std::{
    fs::File,
    io::{IsTerminal, stdin, stdout},
};

use nix::{
    sys::{
        signal::{SigSet, Signal, kill, raise},
        termios::{SetArg, Termios, tcgetattr, tcsetattr},
    },
    unistd::{Pid, getpgrp, getppid, getsid, tcgetpgrp, tcsetpgrp},
};

/// The controlling terminal, if there is one.
pub(crate) struct Terminal {
    tty: Option<File>,
    /// Whether the command gets the terminal at once. In a pipeline another program may need it, so there the command
    /// gets it only when it asks for it, by reading from it or by changing its mode.
    at_once: bool,
    lent: bool,
    mode: Option<Termios>,
}

impl Terminal {
    pub(crate) fn open() -> Self {
        let tty = File::options().read(true).write(true).open("/dev/tty").ok();
        let at_once = stdin().is_terminal() && stdout().is_terminal();
        let mode = tty.as_ref().and_then(|tty| tcgetattr(tty).ok());
        Self { tty, at_once, lent: false, mode }
    }

    /// The process group in the foreground.
    pub(crate) fn foreground(&self) -> Option<Pid> {
        self.tty.as_ref().and_then(|tty| tcgetpgrp(tty).ok())
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.foreground() == Some(getpgrp())
    }

    pub(crate) fn is_lent(&self) -> bool {
        self.lent
    }

    /// Lends the terminal to a command that was started or continued, if that is due.
    pub(crate) fn offer(&mut self, group: Pid) {
        // While coord was stopped, a shell may have given it to others.
        self.lent &= self.foreground() == Some(group);
        if self.at_once {
            self.lend(group);
        }
    }

    /// Lends the terminal, if coord has it.
    pub(crate) fn lend(&mut self, group: Pid) {
        if self.is_ours() {
            self.lent = self.set_foreground(group);
            // From now on it is known to need it.
            self.at_once = true;
        }
    }

    /// Takes the terminal back from the command; says whether the command had it.
    pub(crate) fn take_back(&mut self) -> bool {
        let lent = std::mem::take(&mut self.lent);
        if lent {
            self.set_foreground(getpgrp());
        }
        lent
    }

    /// Undoes what a command that was killed has left of the terminal's mode.
    pub(crate) fn restore_mode(&self) {
        if self.is_ours()
            && let (Some(tty), Some(mode)) = (&self.tty, &self.mode)
            && let Err(error) = tcsetattr(tty, SetArg::TCSANOW, mode)
        {
            tracing::debug!(%error, "the terminal's mode was not restored");
        }
    }

    fn set_foreground(&self, group: Pid) -> bool {
        let Some(tty) = &self.tty else { return false };
        // A background group that sets the foreground group is stopped by SIGTTOU unless it blocks it.
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGTTOU);
        let set = blocked.thread_block().and_then(|()| tcsetpgrp(tty, group));
        let unblocked = blocked.thread_unblock();
        if let Err(error) = set.and(unblocked) {
            tracing::debug!(%error, %group, "the terminal's foreground was not changed");
        }
        set.is_ok()
    }
}

/// Whether nobody outside coord's group could continue it, so that it must not stop. Systems ignore the terminal's
/// stop signals for such groups.
pub(crate) fn is_orphaned() -> bool {
    let session = getsid(None);
    session == Ok(getpgrp()) || getsid(Some(getppid())) != session
}

/// Stops coord as the terminal's stop key does; returns when it was continued.
pub(crate) fn stop_oneself() {
    if !is_orphaned() {
        // The default action of SIGTSTP is gone since it is caught.
        let _ = raise(Signal::SIGSTOP);
    }
}

/// Asks coord's whole group to stop, coord with it, as its signal comes in.
pub(crate) fn stop_job() {
    let _ = kill(Pid::from_raw(0), Signal::SIGTSTP);
}
