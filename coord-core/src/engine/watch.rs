//! Follows a line: subscribes, re-reads on every hint, and never misses the last state.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Engine;
use crate::{
    Result,
    spi::{Line, LineId, Wakeups},
};

/// A stream of changes that a watcher reports. It starts with the present state.
///
/// The stream ends after an error that waiting cannot mend; a store that is away for a while delays it only.
/// Dropping it ends the watch.
#[must_use = "a watch reports nothing unless it is polled"]
pub struct Watch<T>(Pin<Box<dyn Stream<Item = Result<T>> + Send>>);

impl<T> Watch<T> {
    pub(crate) fn new(stream: impl Stream<Item = Result<T>> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }

    /// The next change; `None` after the stream has ended with an error.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is lost, the next call goes on where this one was dropped.
    ///
    /// # Errors
    /// What the store says, if waiting cannot mend it.
    pub async fn next(&mut self) -> Option<Result<T>> {
        self.0.next().await
    }
}

impl<T> Stream for Watch<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl<T> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// The longest rest between two reads where the watcher does not ask for a shorter one.
const RESYNC: Duration = Duration::from_secs(5);

struct Following {
    engine: Arc<Engine>,
    line: LineId,
    wakeups: Wakeups,
    closed: CancellationToken,
    /// The line is read again after this long in any case: hints can be missing.
    resync: Duration,
    seen: Option<Line>,
    /// How long the last state stands unless something happens.
    rest: Duration,
    failing: Duration,
}

/// The states of a line, first the present one. States in between may be skipped; the last one never is.
pub(crate) fn follow(
    engine: Arc<Engine>,
    line: LineId,
    resync: Option<Duration>,
) -> impl Stream<Item = Result<Line>> + Send + 'static {
    let wakeups = engine.claims.wakeups(&line, None);
    let resync = resync.unwrap_or(RESYNC);
    let (rest, failing) = (Duration::ZERO, Duration::ZERO);
    let start =
        Following { closed: engine.closed(), engine, line, wakeups, resync, seen: None, rest, failing };
    stream::unfold(Some(start), async |state| {
        let mut state = state?;
        match state.change().await {
            Ok(line) => Some((Ok(line), Some(state))),
            Err(error) => Some((Err(error), None)),
        }
    })
}

impl Following {
    async fn change(&mut self) -> Result<Line> {
        loop {
            if !self.rest.is_zero() {
                tokio::select! {
                    biased;
                    // The read that follows says so.
                    () = self.closed.cancelled() => {}
                    _ = self.wakeups.next() => {}
                    () = sleep(self.rest) => {}
                }
            }
            let (claims, line) = (self.engine.claims.clone(), self.line.clone());
            match self.engine.call(async move { claims.line(&line).await }).await {
                Ok(line) => {
                    self.failing = Duration::ZERO;
                    let expiry =
                        line.entries.iter().map(|entry| entry.expires_in).min().unwrap_or(self.resync);
                    // One millisecond more: at its expiry the claim is still there.
                    self.rest = expiry.min(self.resync) + Duration::from_millis(1);
                    if self.seen.as_ref().is_none_or(|seen| changed(seen, &line)) {
                        self.seen = Some(line.clone());
                        return Ok(line);
                    }
                }
                Err(error) if error.is_retryable() => {
                    warn!(name = %self.line.name, %error, "a watch asks again");
                    self.failing =
                        (self.failing * 2).clamp(Duration::from_millis(50), Duration::from_secs(1));
                    self.rest = self.failing;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn changed(before: &Line, after: &Line) -> bool {
    // A store that read from a replica may show an older state.
    after.revision >= before.revision
        && (before.entries.len() != after.entries.len()
            || before.entries.iter().zip(&after.entries).any(|(before, after)| {
                (before.id, before.token, before.granted.is_some(), &before.value)
                    != (after.id, after.token, after.granted.is_some(), &after.value)
            }))
}
