//! The fencing token.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// A number that grows with every grant of a name, to be checked by the resource that the name protects.
///
/// A lease can end while its holder is paused. The holder wakes up, still believes that it holds the lock, and writes.
/// No lock service can prevent that; the *resource* can, if every write carries the token of its grant and the resource
/// refuses a token lower than the highest one it has seen (M. Kleppmann, *How to do distributed locking*, 2016).
///
/// Within one name, tokens are unique and grow in the order in which grants are made, on every backend. They are not
/// consecutive, and nothing follows from comparing tokens of different names.
///
/// The range is `1..=2^53-1`, so that a token survives JSON, Lua and JavaScript, whose numbers are doubles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct FencingToken(u64);

impl FencingToken {
    /// The smallest token.
    pub const MIN: Self = Self(1);
    /// The largest token, `2^53-1`.
    pub const MAX: Self = Self((1 << 53) - 1);

    /// Makes a token of a number that a store or a caller kept.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidToken`] outside `1..=2^53-1`.
    pub fn new(number: u64) -> Result<Self> {
        if (Self::MIN.0..=Self::MAX.0).contains(&number) {
            Ok(Self(number))
        } else {
            Err(Error::new(
                ErrorKind::InvalidToken,
                format!("a fencing token is between 1 and {}, not {number}", Self::MAX.0),
            ))
        }
    }

    /// The number, to be stored at the resource.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number as SQL databases store it; it always fits.
    #[must_use]
    pub const fn as_i64(self) -> i64 {
        self.0 as i64
    }

    /// The next greater number: the mark that fences this token out, and no later one.
    ///
    /// # Errors
    /// [`ErrorKind::Exhausted`] at [`FencingToken::MAX`].
    pub fn successor(self) -> Result<Self> {
        Self::new(self.0 + 1)
            .map_err(|_| Error::new(ErrorKind::Exhausted, "the numbers for fencing tokens are used up"))
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<FencingToken> for u64 {
    fn from(token: FencingToken) -> Self {
        token.0
    }
}

impl TryFrom<u64> for FencingToken {
    type Error = Error;

    fn try_from(number: u64) -> Result<Self> {
        Self::new(number)
    }
}

impl std::str::FromStr for FencingToken {
    type Err = Error;

    /// Reads a decimal number, as `COORD_FENCING_TOKEN` carries it.
    fn from_str(text: &str) -> Result<Self> {
        let number = text
            .parse()
            .map_err(|_| Error::new(ErrorKind::InvalidToken, "a fencing token is a decimal number"))?;
        Self::new(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range() {
        assert!(FencingToken::new(0).is_err());
        assert_eq!(FencingToken::new(1).unwrap(), FencingToken::MIN);
        assert_eq!(FencingToken::new((1 << 53) - 1).unwrap(), FencingToken::MAX);
        assert_eq!(FencingToken::new(1 << 53).unwrap_err().kind(), ErrorKind::InvalidToken);
        assert_eq!(FencingToken::MAX.successor().unwrap_err().kind(), ErrorKind::Exhausted);
        assert!("x".parse::<FencingToken>().is_err());
        assert!(serde_json::from_str::<FencingToken>("0").is_err());
        assert_eq!(serde_json::to_string(&FencingToken::MIN).unwrap(), "1");
    }
}
