//! The signals that coord catches while it holds or waits.

use std::{io, task::Poll};

use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};

/// Caught, to be passed on to the command or to end the wait.
const CAUGHT: [Signal; 9] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

/// The stream of caught signals.
#[derive(Debug)]
pub(crate) struct Signals(Vec<(Signal, tokio::signal::unix::Signal)>);

impl Signals {
    /// Begins to catch. What was ignored when coord started stays ignored, here and in the command: so `nohup` and the
    /// background jobs of a script work as usual.
    pub(crate) fn catch() -> io::Result<Self> {
        let ignored = ignored();
        let caught = CAUGHT.into_iter().filter(|caught| ignored & (1 << (*caught as u32 - 1)) == 0);
        let streams = caught.map(|caught| Ok((caught, signal(SignalKind::from_raw(caught as i32))?)));
        Ok(Self(streams.collect::<io::Result<_>>()?))
    }

    /// The next signal. Cancel safe.
    pub(crate) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|cx| {
            for (caught, stream) in &mut self.0 {
                if stream.poll_recv(cx).is_ready() {
                    return Poll::Ready(*caught);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Completes when coord is told to stop while no command runs. Cancel safe.
    pub(crate) async fn told_to_stop(&mut self) -> Signal {
        loop {
            match self.next().await {
                Signal::SIGTSTP => crate::terminal::stop_oneself(),
                caught if ends(caught) => return caught,
                _ => {}
            }
        }
    }
}

/// Whether the signal means that coord is to end.
pub(crate) fn ends(caught: Signal) -> bool {
    matches!(caught, Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT)
}

/// The set of ignored signals, a bit each, where the system shows it.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}
