//! Names: validated once here, mapped injectively by every backend.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// The name of a lock, an election, a service or a barrier.
///
/// One to [`Name::MAX_LEN`] bytes of UTF-8 without control characters. Everything else is allowed and means nothing:
/// `/`, `..`, spaces, `{}` and emoji are ordinary characters, names are compared byte by byte (no Unicode
/// normalisation, no case folding), and no two names collide on any backend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// The greatest length of a name in bytes.
    pub const MAX_LEN: usize = 255;

    /// Validates a name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`].
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        validate("name", name.as_ref()).map(Self)
    }

    /// The name as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A prefix that keeps the names of one application or tenant apart from all others in the same store.
///
/// The rules of [`Name`], and no `/`. The default is `default`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// Validates a namespace.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`].
    pub fn new(namespace: impl AsRef<str>) -> Result<Self> {
        let namespace = namespace.as_ref();
        if namespace.contains('/') {
            return Err(Error::new(ErrorKind::InvalidName, "a namespace must not contain '/'"));
        }
        validate("namespace", namespace).map(Self)
    }

    /// The namespace as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self("default".into())
    }
}

fn validate(what: &str, text: &str) -> Result<Arc<str>> {
    let wrong = if text.is_empty() {
        format!("a {what} must not be empty")
    } else if text.len() > Name::MAX_LEN {
        format!("a {what} has at most {} bytes, not {}", Name::MAX_LEN, text.len())
    } else if let Some(at) = text.find(char::is_control) {
        format!("a {what} must not contain control characters; there is one at byte {at}")
    } else {
        return Ok(text.into());
    };
    Err(Error::new(ErrorKind::InvalidName, wrong))
}

macro_rules! text {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $type {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }
        impl TryFrom<&str> for $type {
            type Error = Error;
            fn try_from(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }
        impl TryFrom<String> for $type {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::new(text)
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.as_ref().into()
            }
        }
    };
}

text!(Name);
text!(Namespace);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in
            ["a", "/", "..", "a/b", "with space", "{tag}", "🦀", "e\u{301}", "\u{e9}", &"x".repeat(255)]
        {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "\0", "a\nb", "\u{7f}", "\u{85}", &"x".repeat(256), &"x".repeat(10_000_000)] {
            assert_eq!(Name::new(bad).unwrap_err().kind(), ErrorKind::InvalidName);
        }
        assert!(Namespace::new("a/b").is_err());
        assert!(serde_json::from_str::<Name>("\"\"").is_err());
    }
}
