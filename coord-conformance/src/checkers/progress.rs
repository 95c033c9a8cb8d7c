//! Whoever waits is served in the end.

use std::time::Duration;

use crate::{Failure, Verdict};

/// The checker's name.
pub const NAME: &str = "progress";

/// Waits for something that has to happen within this time.
///
/// The time is a bound on *liveness*, to be chosen generously: it separates late from never.
///
/// # Errors
/// If it did not happen.
pub async fn within<T>(bound: Duration, what: &str, work: impl Future<Output = T>) -> Verdict<T> {
    tokio::time::timeout(bound, work)
        .await
        .map_err(|_| Failure::by(NAME, format!("{what}: it has not happened in {bound:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn late_and_never() {
        let second = Duration::from_secs(1);
        within(second * 2, "late", tokio::time::sleep(second)).await.unwrap();
        let failure = within(second * 2, "never", std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(failure.checker, Some(NAME));
    }
}
