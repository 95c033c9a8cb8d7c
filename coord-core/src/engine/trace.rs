//! One span and one event for every operation, with the line, the token and the outcome.

use tracing::{Instrument, debug, debug_span};

use crate::{FencingToken, Result, spi::LineId};

/// What an operation's result carries as its token, if anything.
pub(crate) trait Tokened {
    fn fencing_token(&self) -> Option<FencingToken> {
        None
    }
}

impl Tokened for () {}
impl<T> Tokened for Vec<T> {}
impl<T: Tokened> Tokened for Option<T> {
    fn fencing_token(&self) -> Option<FencingToken> {
        self.as_ref().and_then(T::fencing_token)
    }
}

/// Runs an operation inside a span and reports how it ended.
pub(crate) async fn traced<T: Tokened>(
    operation: &'static str,
    line: &LineId,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    report(operation, line, None, work).await
}

/// The same for an operation on a grant, whose token is known before.
pub(crate) async fn traced_holding<T: Tokened>(
    operation: &'static str,
    line: &LineId,
    token: FencingToken,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    report(operation, line, Some(token), work).await
}

async fn report<T: Tokened>(
    operation: &'static str,
    line: &LineId,
    token: Option<FencingToken>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let span =
        debug_span!("coord", operation, kind = %line.kind, namespace = %line.namespace, name = %line.name);
    async {
        let result = work.await;
        let of_result = result.as_ref().ok().and_then(T::fencing_token);
        let token = token.or(of_result).map(FencingToken::get);
        match &result {
            Ok(_) => debug!(token, outcome = "ok", "{operation}"),
            Err(error) => debug!(token, outcome = ?error.kind(), %error, "{operation}"),
        }
        result
    }
    .instrument(span)
    .await
}
