//! The one error type.

use std::{error::Error as StdError, fmt};

/// The result of every fallible operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. It answers three questions: what happened ([`Error::kind`]), whether the same call may be sent
/// again ([`Error::is_retryable`]), and whether it could have taken effect ([`Error::effect`]).
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    effect: Effect,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A name or namespace is empty, too long, or holds a control character. Nothing was sent.
    InvalidName,
    /// A value, owner, address or metadata is over its limit. Nothing was sent.
    TooLarge,
    /// A TTL is outside what is allowed. Nothing was sent.
    InvalidTtl,
    /// Options contradict each other, or a number in them makes no sense. Nothing was sent.
    InvalidOptions,
    /// A number is not a fencing token.
    InvalidToken,
    /// A store URL, a path or a stored hand-over cannot be understood.
    InvalidInput,
    /// The backend cannot do, or does not guarantee, what was asked for. Nothing was sent.
    Unsupported,
    /// Somebody else holds it: at once (`try_…`) or until the wait was over.
    NotGranted,
    /// The lease ended, or somebody released it by force. Whatever the guard protected may have a new holder.
    Lost,
    /// What was named is not there: a candidate, a party, a claim.
    NotFound,
    /// The value that a write was conditional on is another one.
    ConditionFailed,
    /// A queue has no room for more items.
    QueueFull,
    /// A stored value cannot be decoded, or a new one was found invalid.
    InvalidValue,
    /// A token lower than the high-water mark was refused by a fenced resource.
    Fenced,
    /// The store cannot be reached or did not answer in time.
    Unavailable,
    /// The store refuses these credentials or this user, or the file's permissions do.
    Permission,
    /// The store is out of room.
    Full,
    /// The stored data are damaged.
    Corrupt,
    /// The stored data were written by a newer version of this software.
    NewerSchema,
    /// The numbers for tokens are used up.
    Exhausted,
    /// The coordinator was shut down.
    Closed,
    /// A bug in this library or a backend; please report it.
    Internal,
}

/// Whether a failed operation could have changed the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// It did not.
    None,
    /// It may have, or may still: the reply was lost.
    Unknown,
}

impl Error {
    /// An error that certainly changed nothing.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, effect: Effect::None, message: message.into(), source: None }))
    }

    /// The same error, saying that the operation may have taken effect.
    #[must_use]
    pub fn with_unknown_effect(mut self) -> Self {
        self.0.effect = Effect::Unknown;
        self
    }

    /// The same error with what caused it. The cause is reachable by [`StdError::source`] and not printed again here.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error with its message put after `context: `.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// What happened.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the store may have been changed.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// Whether the same call may succeed later without anything being changed by the caller. It is safe to send again:
    /// every operation of this library finds its own earlier attempt.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.0.kind, ErrorKind::NotGranted | ErrorKind::QueueFull | ErrorKind::Unavailable)
    }

    /// Somebody else holds it.
    #[must_use]
    pub fn is_not_granted(&self) -> bool {
        self.0.kind == ErrorKind::NotGranted
    }

    /// The lease ended.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.kind == ErrorKind::Lost
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if self.0.effect == Effect::Unknown {
            f.write_str(" (it may have taken effect)")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("effect", &self.0.effect)
            .field("message", &self.0.message)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}

/// For conversions that cannot fail.
impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}
