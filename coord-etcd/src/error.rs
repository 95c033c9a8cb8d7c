//! How the driver's errors become ours. Every message says what to do, and none repeats a credential.

use std::{error::Error as StdError, fmt};

use coord_core::{Error, ErrorKind};
use etcd_client::Error as Driver;
use tonic::{Code, ConnectError, Status};

const LOGIN: &str = "it refuses this user or password; see the user and the password of the URL";
const RIGHTS: &str = "this user may not do that; give its role readwrite on the prefix coord/ (with layout=interop also on the names)";
const SIZE: &str = "a request is larger than it allows; raise its --max-request-bytes";
const DOWN: &str = "the connection was lost; is it running, and does the port want TLS (etcds://)?";
const SILENT: &str = "it did not answer in time; is it stopped, overloaded or unreachable?";

/// What an error means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Meaning {
    kind: ErrorKind,
    advice: &'static str,
    /// Whether it is known that nothing was done.
    nothing_done: bool,
}

const fn refused(kind: ErrorKind, advice: &'static str) -> Meaning {
    Meaning { kind, advice, nothing_done: true }
}

const fn unknown(kind: ErrorKind, advice: &'static str) -> Meaning {
    Meaning { kind, advice, nothing_done: false }
}

/// What the server's own words mean. They are those of `etcdserver/api/v3rpc/rpctypes/error.go`.
fn of_message(message: &str) -> Option<Meaning> {
    use ErrorKind as Kind;

    // The rights were changed meanwhile; it checks before it does anything. A new connection logs in anew.
    if message.starts_with("auth: revision in header is old") {
        return Some(refused(Kind::Unavailable, "its users are being changed; try again"));
    }
    let text = message.strip_prefix("etcdserver: ")?;
    Some(match text {
        "request is too large" => refused(Kind::TooLarge, SIZE),
        "too many operations in txn request" => refused(
            Kind::TooLarge,
            "a transaction has more parts than it allows; raise its --max-txn-ops (10000 fits everything)",
        ),
        "mvcc: database space exceeded" => refused(
            Kind::Full,
            "its database is full; compact, defragment and disarm its alarm, or raise its --quota-backend-bytes",
        ),
        "mvcc: required revision has been compacted" => {
            refused(Kind::NotFound, "it has compacted what was asked for")
        }
        "requested lease not found" => refused(Kind::NotFound, "the lease has ended"),
        "too large lease TTL" => refused(Kind::InvalidTtl, "the TTL is longer than it allows"),
        "too many requests" => refused(Kind::Unavailable, "it has too much to do; try again"),
        "no leader" | "not capable" | "rpc not supported for learner" => refused(
            Kind::Unavailable,
            "it has no leader now; are most members of the cluster running, and do they reach each other?",
        ),
        "permission denied" => refused(Kind::Permission, RIGHTS),
        "authentication failed, invalid user ID or password" | "invalid auth token" => {
            refused(Kind::Permission, LOGIN)
        }
        "user name is empty" => {
            refused(Kind::Permission, "it wants a user and a password; name them in the URL")
        }
        "authentication is not enabled" => refused(
            Kind::Permission,
            "it has no users (authentication is not enabled); leave user and password out of the URL",
        ),
        "revision of auth store is old" => {
            refused(Kind::Unavailable, "its users are being changed; try again")
        }
        "corrupt cluster" => unknown(Kind::Corrupt, "its members disagree about the data; see its log"),
        "leader changed" | "server stopped" | "unhealthy cluster" | "not leader" => {
            unknown(Kind::Unavailable, "its leader changed, or it is being stopped; try again")
        }
        text if text.starts_with("request timed out") => unknown(
            Kind::Unavailable,
            "it could not do it in time; are most members of the cluster running, and are their disks fast enough?",
        ),
        _ => return None,
    })
}

fn of_status(status: &Status) -> Meaning {
    use ErrorKind as Kind;

    if let Some(meaning) = of_message(status.message()) {
        return meaning;
    }
    if let Some(error) = connecting(status) {
        return of_connecting(error);
    }
    match status.code() {
        Code::PermissionDenied => refused(Kind::Permission, RIGHTS),
        Code::Unauthenticated => refused(Kind::Permission, LOGIN),
        Code::ResourceExhausted if status.message().contains("larger than max") => {
            refused(Kind::TooLarge, SIZE)
        }
        Code::ResourceExhausted => refused(Kind::Unavailable, "it has too much to do; try again"),
        Code::DataLoss => unknown(Kind::Corrupt, "its data are damaged; see its log"),
        Code::Unimplemented => refused(
            Kind::Unsupported,
            "it does not know this request; is it an etcd server of version 3.4 or newer?",
        ),
        Code::DeadlineExceeded => unknown(Kind::Unavailable, SILENT),
        // What the driver makes of a broken connection is in any of these.
        Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Internal | Code::Aborted => {
            unknown(Kind::Unavailable, DOWN)
        }
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange => refused(Kind::Internal, "it refused a request; please report this"),
    }
}

/// Why no connection was made.
fn connecting<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<ConnectError>() {
            return Some(error);
        }
        next = error.source();
    }
    None
}

fn of_connecting(error: &(dyn StdError + 'static)) -> Meaning {
    use ErrorKind as Kind;

    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        text.push_str(&format!("{error:?} {error} "));
        next = error.source();
    }
    if text.contains("InvalidContentType") || text.contains("corrupt message") {
        return refused(
            Kind::InvalidInput,
            "it does not speak TLS on this port; use etcd://, or its TLS port",
        );
    }
    if text.contains("tls handshake eof") {
        return refused(
            Kind::Unavailable,
            "it ended the connection where TLS begins; does it speak TLS on this port? If not, use etcd://",
        );
    }
    // The same, if the server had not read what it was sent.
    if text.contains("ConnectionReset") || text.contains("BrokenPipe") {
        return refused(
            Kind::Unavailable,
            "it ended the connection as it was made; does it speak TLS on this port? If not, use etcd://, else etcds://",
        );
    }
    if text.contains("invalid peer certificate") {
        return refused(
            Kind::InvalidInput,
            "its certificate is not trusted or is for another name; name the file of its CA by ?ca=PATH, and the host as the \
             certificate does",
        );
    }
    refused(Kind::Unavailable, "nobody listens there; is it running, and is the address right?")
}

fn of_driver(error: &Driver) -> Meaning {
    use ErrorKind as Kind;

    match error {
        Driver::GRpcStatus(status) => of_status(status),
        Driver::TransportError(error) => match connecting(error) {
            Some(error) => of_connecting(error),
            None => unknown(Kind::Unavailable, DOWN),
        },
        Driver::IoError(_)
        | Driver::WatchError(_)
        | Driver::LeaseKeepAliveError(_)
        | Driver::ElectError(_) => unknown(Kind::Unavailable, DOWN),
        Driver::InvalidUri(_) | Driver::InvalidArgs(_) | Driver::InvalidMetadataValue(_) => {
            refused(Kind::InvalidInput, "its address or an option cannot be used")
        }
        Driver::EndpointError(_)
        | Driver::EndpointsNotManaged
        | Driver::Internal(_)
        | Driver::Utf8Error(_) => unknown(Kind::Internal, "the driver failed; please report this"),
    }
}

/// An error of the driver, at this cluster, in our words.
pub(crate) fn from_etcd(cluster: &dyn fmt::Display, error: Driver) -> Error {
    let Meaning { kind, advice, nothing_done } = of_driver(&error);
    let error = Error::new(kind, format!("the etcd cluster {cluster}: {advice}")).with_source(error);
    if nothing_done { error } else { error.with_unknown_effect() }
}

/// An error of the driver while it connects and logs in: nothing was asked for but to be let in.
pub(crate) fn from_connecting(cluster: &dyn fmt::Display, error: Driver) -> Error {
    let Meaning { kind, advice, .. } = of_driver(&error);
    Error::new(kind, format!("the etcd cluster {cluster}: {advice}")).with_source(error)
}

/// No answer before the operation's own deadline.
pub(crate) fn too_slow(cluster: &dyn fmt::Display, sent: bool) -> Error {
    let error = Error::new(ErrorKind::Unavailable, format!("the etcd cluster {cluster}: {SILENT}"));
    if sent { error.with_unknown_effect() } else { error }
}

/// An answer that cannot be understood.
pub(crate) fn misread(what: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("{what} cannot be read; who else writes to keys that begin with coord/ on the etcd cluster?"),
    )
}

/// The client was closed.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the client of the etcd cluster was closed")
}

/// Whether the server said exactly this.
fn said(error: &Error, what: &str) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<Driver>());
    matches!(source, Some(Driver::GRpcStatus(status)) if status.message() == what)
}

/// Whether a request named a lease that has ended. Nothing was done.
pub(crate) fn is_lease_gone(error: &Error) -> bool {
    said(error, "etcdserver: requested lease not found")
}

/// Whether a request asked for a revision that was compacted. Nothing was done.
pub(crate) fn is_compacted(error: &Error) -> bool {
    said(error, "etcdserver: mvcc: required revision has been compacted")
}

/// Whether a member refused because it had no leader. Nothing was done.
pub(crate) fn is_no_leader(error: &Error) -> bool {
    said(error, "etcdserver: no leader")
}

/// Whether a lease of this id was granted before.
pub(crate) fn is_granted_already(error: &Error) -> bool {
    said(error, "etcdserver: lease already exists")
}

#[cfg(test)]
mod tests {
    use coord_core::Effect;

    use super::*;

    #[test]
    fn every_answer_of_the_server_has_a_kind() {
        let table = [
            (Code::InvalidArgument, "etcdserver: request is too large", ErrorKind::TooLarge, Effect::None),
            (
                Code::InvalidArgument,
                "etcdserver: too many operations in txn request",
                ErrorKind::TooLarge,
                Effect::None,
            ),
            (
                Code::ResourceExhausted,
                "grpc: received message larger than max (3 vs. 2)",
                ErrorKind::TooLarge,
                Effect::None,
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                ErrorKind::Full,
                Effect::None,
            ),
            (Code::ResourceExhausted, "etcdserver: too many requests", ErrorKind::Unavailable, Effect::None),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
                ErrorKind::NotFound,
                Effect::None,
            ),
            (Code::NotFound, "etcdserver: requested lease not found", ErrorKind::NotFound, Effect::None),
            (Code::PermissionDenied, "etcdserver: permission denied", ErrorKind::Permission, Effect::None),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                ErrorKind::Permission,
                Effect::None,
            ),
            (Code::InvalidArgument, "etcdserver: user name is empty", ErrorKind::Permission, Effect::None),
            (Code::Unauthenticated, "etcdserver: invalid auth token", ErrorKind::Permission, Effect::None),
            (Code::Unavailable, "etcdserver: no leader", ErrorKind::Unavailable, Effect::None),
            (Code::Unavailable, "etcdserver: leader changed", ErrorKind::Unavailable, Effect::Unknown),
            (Code::Unavailable, "etcdserver: request timed out", ErrorKind::Unavailable, Effect::Unknown),
            (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to connection lost",
                ErrorKind::Unavailable,
                Effect::Unknown,
            ),
            (Code::DataLoss, "etcdserver: corrupt cluster", ErrorKind::Corrupt, Effect::Unknown),
            (Code::Unknown, "transport error", ErrorKind::Unavailable, Effect::Unknown),
            (Code::Internal, "h2 protocol error", ErrorKind::Unavailable, Effect::Unknown),
            (Code::Unimplemented, "unknown service", ErrorKind::Unsupported, Effect::None),
            (Code::InvalidArgument, "etcdserver: key is not provided", ErrorKind::Internal, Effect::None),
        ];
        for (code, message, kind, effect) in table {
            let error = from_etcd(&"x", Driver::GRpcStatus(Status::new(code, message)));
            assert_eq!((error.kind(), error.effect()), (kind, effect), "{message}");
            assert!(error.to_string().starts_with("the etcd cluster x: "), "{error}");
        }
    }

    #[test]
    fn who_is_thrown_out_is_not_told_that_nobody_listens() {
        let advice = |kind: std::io::ErrorKind| of_connecting(&std::io::Error::from(kind)).advice;
        for kind in [std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::BrokenPipe] {
            assert!(advice(kind).contains("use etcd://"), "{kind}: {}", advice(kind));
        }
        assert!(advice(std::io::ErrorKind::ConnectionRefused).contains("nobody listens"));
    }

    #[test]
    fn a_login_without_a_leader_is_known_as_such() {
        let status = Status::new(Code::Unavailable, "etcdserver: no leader");
        let error = from_connecting(&"x", Driver::GRpcStatus(status));
        assert!(is_no_leader(&error));
        let lost = from_connecting(&"x", Driver::GRpcStatus(Status::new(Code::Unknown, "transport error")));
        assert_eq!((lost.kind(), lost.effect()), (ErrorKind::Unavailable, Effect::None));
    }

    #[test]
    fn what_the_server_said_is_found_again() {
        let error = |message| from_etcd(&"x", Driver::GRpcStatus(Status::new(Code::NotFound, message)));
        assert!(is_lease_gone(&error("etcdserver: requested lease not found")));
        assert!(is_compacted(&error("etcdserver: mvcc: required revision has been compacted")));
        assert!(!is_lease_gone(&error("x")) && !is_compacted(&error("x")));
    }
}
