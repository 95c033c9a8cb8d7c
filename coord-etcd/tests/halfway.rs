//! Claims whose requests fail halfway.

use std::time::Duration;

use coord_core::{
    Effect, ErrorKind,
    spi::{Claim, Claims},
};

use crate::common::{claim, granted, ids, line, open, server};
use crate::stores::Cut;

/// A claim that shares, so that it joins first and is granted by a second request.
fn reader(line: &coord_core::spi::LineId) -> Claim {
    Claim { weight: 1, ..claim(line) }
}

/// The server goes after each reply in turn, so that nobody listens when the next request is due. An error that says that nothing
/// was done is believed by whoever asks, and so must be true of the whole claim.
#[tokio::test]
async fn a_claim_that_had_no_effect_is_not_in_the_line() {
    let Some(server) = server() else { return };
    let (cut, sound, line) = (Cut::start(&server).await, open(&server).await, line("halfway"));
    granted(sound.claim(&reader(&line)).await.unwrap());
    let mut failed = 0;
    for nth in 1.. {
        let (store, claimed) = (cut.open_with("?timeout=1").await, reader(&line));
        cut.close_after(nth);
        let outcome = store.claim(&claimed).await;
        if !cut.is_done() {
            granted(outcome.unwrap());
            break;
        }
        if let Err(error) = outcome {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            failed += 1;
            let inside = ids(&sound, &line).await.contains(&claimed.id);
            assert!(!inside || error.effect() == Effect::Unknown, "after reply {nth}: {error}");
        }
        sound.withdraw(&line, claimed.id).await.unwrap();
        cut.open_again();
    }
    assert!(failed > 1, "only {failed} claims failed");
}

/// Every request is answered in time, and there are three of them: all together have a deadline too.
#[tokio::test]
async fn what_takes_too_long_altogether_is_given_up() {
    let Some(server) = server() else { return };
    let (cut, sound, line) = (Cut::start(&server).await, open(&server).await, line("slow"));
    let (store, claimed) = (cut.open().await, claim(&line));
    granted(sound.claim(&claimed).await.unwrap());
    cut.slow_down(Duration::from_secs(4));
    let error = store.withdraw(&line, claimed.id).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error}");
}
