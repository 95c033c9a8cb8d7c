//! Nothing is left behind: whoever let go of a claim, in whatever way, is out of the line soon, and long before the
//! claim's lease would end.

use std::time::Duration;

use coord_core::spi::{Claims, Line, LineId};

use crate::{Failure, Verdict};

/// The checker's name.
pub const NAME: &str = "residue";

/// How soon a dropped claim has to be gone.
pub const BOUND: Duration = Duration::from_secs(1);

/// Looks at the line until `clean` is content with it, for at most [`BOUND`].
///
/// # Errors
/// What is left after that time, or what the store says.
pub async fn check(claims: &dyn Claims, line: &LineId, clean: impl Fn(&Line) -> bool) -> Verdict {
    let mut seen = Line::default();
    let looking = async {
        loop {
            seen = claims.line(line).await?;
            if clean(&seen) {
                return Ok::<_, coord_core::Error>(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(BOUND, looking).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => {
            let left: Vec<_> = seen
                .entries
                .iter()
                .map(|entry| {
                    let state = if entry.granted.is_some() { "granted" } else { "waiting" };
                    format!(
                        "{} of {:?}, {state}, for another {:?}",
                        entry.token, entry.owner, entry.expires_in
                    )
                })
                .collect();
            Err(Failure::by(NAME, format!("{line}: left behind after {BOUND:?}: {left:?}")))
        }
    }
}

/// Looks at the line until nobody is in it, for at most [`BOUND`].
///
/// # Errors
/// What is left after that time, or what the store says.
pub async fn empty(claims: &dyn Claims, line: &LineId) -> Verdict {
    check(claims, line, |line| line.entries.is_empty()).await
}

#[cfg(test)]
mod tests {
    use coord_core::{Lock, LockOptions, Name, memory, spi::Kind};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_held_is_left_and_what_is_dropped_is_not() {
        let store = memory::Store::new();
        let (client, onlooker) = (store.client(), store.connect());
        let name = Name::new("x").unwrap();
        let line = LineId { namespace: client.namespace().clone(), kind: Kind::Lock, name: name.clone() };
        let guard = client.acquire(&name, &LockOptions::default()).await.unwrap();
        let failure = empty(&onlooker, &line).await.unwrap_err();
        assert_eq!(failure.checker, Some(NAME));
        drop(guard);
        empty(&onlooker, &line).await.unwrap();
    }
}
