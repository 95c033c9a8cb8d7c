//! High-water marks at resources.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use crate::{Error, ErrorKind, FencingToken, Result};

/// Something with a high-water mark of tokens: a resource that refuses tokens lower than the highest it has seen.
#[async_trait]
pub trait Fence: Send + Sync {
    /// Raises the mark to `token`; lower tokens are refused from now on.
    ///
    /// # Cancel safety
    /// Cancel safe: it may or may not have been raised, and doing it again is harmless.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] if the mark is higher already.
    async fn fence(&self, token: FencingToken) -> Result<()>;
}

/// A high-water mark in the memory of a service that guards state of its own.
///
/// Call [`FenceGate::admit`] with the token that came with each request, in the same critical section as the read or
/// write that it allows. Equal tokens are admitted again. The mark lives as long as the process: a service that
/// restarts starts it anew from what it stored.
///
/// ```
/// use coord_core::{Error, FenceGate, FencingToken};
///
/// let gate = FenceGate::new();
/// gate.admit(FencingToken::new(34)?)?;
/// gate.admit(FencingToken::new(34)?)?;
/// assert!(gate.admit(FencingToken::new(33)?).is_err());
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Default)]
pub struct FenceGate {
    mark: Mutex<Option<FencingToken>>,
}

impl FenceGate {
    /// A gate that has seen no token yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A gate that refuses tokens lower than this one.
    #[must_use]
    pub fn starting_at(token: FencingToken) -> Self {
        Self { mark: Mutex::new(Some(token)) }
    }

    /// Admits a token that is not lower than all before, and raises the mark to it.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`], with both numbers.
    pub fn admit(&self, token: FencingToken) -> Result<()> {
        let mut mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        match *mark {
            Some(highest) if token < highest => Err(Error::new(
                ErrorKind::Fenced,
                format!("token {token} is stale: {highest} was seen already; its holder lost the lock"),
            )),
            _ => {
                *mark = Some(token);
                Ok(())
            }
        }
    }
}

#[async_trait]
impl Fence for FenceGate {
    async fn fence(&self, token: FencingToken) -> Result<()> {
        self.admit(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_tokens_are_refused_with_both_numbers() {
        let gate = FenceGate::new();
        let token = |number| FencingToken::new(number).unwrap();
        gate.admit(token(5)).unwrap();
        gate.admit(token(5)).unwrap();
        gate.admit(token(7)).unwrap();
        let error = gate.admit(token(5)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced);
        assert!(error.to_string().contains('5') && error.to_string().contains('7'), "{error}");
    }
}
