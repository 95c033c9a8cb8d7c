//! How the driver's errors become ours. Every message says what to do, and none repeats a credential.

use std::{fmt, time::Duration};

use coord_core::{Error, ErrorKind};
use zookeeper_client as zk;

/// What a request asks for, which decides what a lost reply can mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    /// To see something.
    Reading,
    /// To change something. If the reply is lost it may have been done, or may still be.
    Writing,
}

/// Why a request has no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server's answer: the node, or the one above a new one, is not there. Nothing was changed.
    NoNode,
    /// The server's answer: a node of this name is there. Nothing was changed.
    NodeExists,
    /// The server's answer: the node has another version. Nothing was changed.
    BadVersion,
    /// The server's answer: the node has children. Nothing was changed.
    NotEmpty,
    /// The session is over, and with it what was made to live with it. A new session can be opened.
    Ended(Error),
    /// Anything else. Its effect says whether something may have been changed.
    Other(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let unexpected = |what: &str| {
            Self::new(
                ErrorKind::Internal,
                format!("the ZooKeeper server says that {what}; please report this"),
            )
        };
        match failure {
            Failure::NoNode => unexpected("a node is not there"),
            Failure::NodeExists => unexpected("a node is there already"),
            Failure::BadVersion => unexpected("a node has another version"),
            Failure::NotEmpty => unexpected("a node has children"),
            Failure::Ended(error) | Failure::Other(error) => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// What an error of the driver means for a request. Only what is certainly the server's answer counts as one: some
/// timeouts of the driver come as an error without a kind.
pub(crate) fn failure(server: &dyn fmt::Display, asks: Asks, error: zk::Error) -> Failure {
    use zk::Error as E;
    let (kind, meaning, answered) = match error {
        E::NoNode => return Failure::NoNode,
        E::NodeExists => return Failure::NodeExists,
        E::BadVersion => return Failure::BadVersion,
        E::NotEmpty => return Failure::NotEmpty,
        E::SessionExpired | E::ClientClosed => {
            let error =
                from_driver(server, asks, error, ErrorKind::Unavailable, "the session is over", false);
            return Failure::Ended(error);
        }
        E::NoAuth => (
            ErrorKind::Permission,
            "this user may not do that to a node; see the ACLs there, and the user and the password of the URL",
            true,
        ),
        E::AuthFailed => (
            ErrorKind::Permission,
            "it refuses this identity; see the user and the password of the URL, and whether it wants SASL",
            true,
        ),
        E::QuotaExceeded => (ErrorKind::Full, "a quota of the path is used up", true),
        E::Throttled => (ErrorKind::Unavailable, "it is overloaded and refuses requests; try again", true),
        E::NotReadOnly => {
            (ErrorKind::Unavailable, "it is cut off from the ensemble and takes no writes; try again", true)
        }
        E::SessionMoved => (ErrorKind::Unavailable, "the session moved to another server; try again", true),
        E::Unimplemented => {
            (ErrorKind::Unsupported, "it lacks an operation; ZooKeeper 3.6 or newer is needed", true)
        }
        E::NoChildrenForEphemerals => (
            ErrorKind::Corrupt,
            "a folder of this library is an ephemeral node; who else writes there?",
            true,
        ),
        E::ConnectionLoss | E::Timeout | E::NoHosts => {
            (ErrorKind::Unavailable, "the connection was lost; is it running?", false)
        }
        E::Custom(_) => {
            (ErrorKind::Unavailable, "it did not answer in time, or the connection was lost", false)
        }
        E::MarshallingError => (ErrorKind::Internal, "it could not read a request; please report this", true),
        E::BadArguments(_) | E::InvalidAcl => {
            (ErrorKind::Internal, "it refused a request; please report this", true)
        }
        // UnmarshalError, UnexpectedError, UnexpectedErrorCode, NoWatcher, ReconfigDisabled, RuntimeInconsistent, and
        // what a later driver adds: not what our requests meet.
        _ => (ErrorKind::Internal, "its answer was not understood; please report this", false),
    };
    Failure::Other(from_driver(server, asks, error, kind, meaning, answered))
}

fn from_driver(
    server: &dyn fmt::Display,
    asks: Asks,
    error: zk::Error,
    kind: ErrorKind,
    meaning: &str,
    answered: bool,
) -> Error {
    let ours = Error::new(kind, format!("the ZooKeeper ensemble {server}: {meaning}")).with_source(error);
    if answered || asks == Asks::Reading { ours } else { ours.with_unknown_effect() }
}

/// What an error means for a whole of which a part was done before.
pub(crate) fn partly(done: bool) -> impl Fn(Error) -> Error {
    move |error| if done { error.with_unknown_effect() } else { error }
}

/// What it means that no session could be opened.
pub(crate) fn opening(server: &dyn fmt::Display, error: zk::Error) -> Error {
    let (kind, meaning) = match &error {
        zk::Error::AuthFailed => (
            ErrorKind::Permission,
            "it refuses this identity; see the user and the password of the URL, and whether it wants SASL",
        ),
        zk::Error::BadArguments(_) => (ErrorKind::InvalidInput, "its address cannot be used"),
        _ => (
            ErrorKind::Unavailable,
            "no session could be opened; is it running, has it a leader, and does its port want TLS?",
        ),
    };
    Error::new(kind, format!("the ZooKeeper ensemble {server}: {meaning}")).with_source(error)
}

/// An operation took longer than it may.
pub(crate) fn too_slow(server: &dyn fmt::Display, asks: Asks, after: Duration) -> Error {
    let error = Error::new(
        ErrorKind::Unavailable,
        format!(
            "the ZooKeeper ensemble {server} did not answer within {after:?}; is it running, and has it a leader?"
        ),
    );
    if asks == Asks::Writing { error.with_unknown_effect() } else { error }
}

/// A request that would make the server drop the connection.
pub(crate) fn too_large(bytes: usize, most: usize) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!(
            "a request of {bytes} bytes is larger than the {most} that the server takes (jute.maxbuffer); nothing was sent"
        ),
    )
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "this client was shut down")
}

/// A node holds what this library does not write.
pub(crate) fn misread(what: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("{what} cannot be read; who else writes to the nodes of this library?"),
    )
}

#[cfg(test)]
mod tests {
    use coord_core::Effect;

    use super::*;

    #[test]
    fn errors_of_the_driver() {
        use ErrorKind::*;
        use zk::Error as E;
        let table = [
            (E::NoAuth, Permission, true),
            (E::AuthFailed, Permission, true),
            (E::QuotaExceeded, Full, true),
            (E::Throttled, Unavailable, true),
            (E::NotReadOnly, Unavailable, true),
            (E::SessionMoved, Unavailable, true),
            (E::Unimplemented, Unsupported, true),
            (E::NoChildrenForEphemerals, Corrupt, true),
            (E::MarshallingError, Internal, true),
            (E::InvalidAcl, Internal, true),
            (E::ConnectionLoss, Unavailable, false),
            (E::Timeout, Unavailable, false),
            (E::NoHosts, Unavailable, false),
            (E::SessionExpired, Unavailable, false),
            (E::ClientClosed, Unavailable, false),
            (E::UnexpectedErrorCode(-7), Internal, false),
            (E::RuntimeInconsistent, Internal, false),
        ];
        for (error, kind, answered) in table {
            for (asks, unknown) in [(Asks::Reading, false), (Asks::Writing, !answered)] {
                let ours = Error::from(failure(&"h:1", asks, error.clone()));
                assert_eq!((ours.kind(), ours.effect() == Effect::Unknown), (kind, unknown), "{error:?}");
                assert!(ours.to_string().contains("h:1"), "{ours}");
            }
        }
        assert!(matches!(failure(&"", Asks::Writing, E::NoNode), Failure::NoNode));
        assert!(matches!(failure(&"", Asks::Writing, E::SessionExpired), Failure::Ended(_)));
        assert_eq!(opening(&"h", E::Timeout).kind(), Unavailable);
        assert_eq!(opening(&"h", E::AuthFailed).kind(), Permission);
    }
}
