//! How the driver's errors become ours. Every message says what to do, and none repeats a credential.

use std::{error::Error as StdError, fmt, io, sync::Arc};

use coord_core::{Error, ErrorKind};
use redis::{RedisError, ServerError, ServerErrorKind};

/// When the driver's error came up, which decides what it can mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum During {
    /// Reaching the server and being let in. Nothing was asked for yet.
    Connecting,
    /// An operation. Where the reply was lost, it may have taken effect.
    Operation,
}

const READ_ONLY: &str = "it is a replica, or became one; connect to the master";
const LOGIN: &str = "it refuses this user or password; see the user and the password of the URL";
const RIGHTS: &str = "this user may not do that; give it ~coord:* &coord:* +@all -@admin -@dangerous +info, or see the README for less";
const MEMORY: &str = "it is out of memory (maxmemory); give it more or remove keys, nothing was lost";
const SPEAKS: &str = "it does not answer as a Redis server of version 6 or newer does; is this another service, or does the port want TLS (rediss://)?";
const CLUSTER: &str =
    "it is part of a Redis Cluster, which this version does not support; connect to a standalone server";

/// What an error code of the server means. The codes are in `server.c` (`createSharedObjects`) and where scripts fail;
/// `EXHAUSTED` is that of our own scripts.
fn of_code(code: &str, detail: &str) -> (ErrorKind, &'static str) {
    match code {
        "WRONGPASS" | "NOAUTH" => (ErrorKind::Permission, LOGIN),
        "NOPERM" => (ErrorKind::Permission, RIGHTS),
        "DENIED" => (
            ErrorKind::Permission,
            "it runs in protected mode and takes connections of its own host only; set a password or bind it",
        ),
        "OOM" => (ErrorKind::Full, MEMORY),
        "MISCONF" => (
            ErrorKind::Unavailable,
            "it refuses writes because it cannot save to its disk; see its log, and make room there",
        ),
        "NOREPLICAS" => (
            ErrorKind::Unavailable,
            "it refuses writes while too few replicas follow it (min-replicas-to-write)",
        ),
        "READONLY" => (ErrorKind::Unavailable, READ_ONLY),
        "LOADING" => (ErrorKind::Unavailable, "it is loading its data; try again"),
        "BUSY" => (
            ErrorKind::Unavailable,
            "a script of somebody else keeps it busy; wait, or end it with SCRIPT KILL",
        ),
        "MASTERDOWN" => {
            (ErrorKind::Unavailable, "it is a replica that lost its master; connect to the master")
        }
        "TRYAGAIN" | "CLUSTERDOWN" => (ErrorKind::Unavailable, "the cluster is being changed; try again"),
        "MOVED" | "ASK" | "CROSSSLOT" => (ErrorKind::Unsupported, CLUSTER),
        "NOPROTO" => (ErrorKind::Unsupported, SPEAKS),
        "NOSCRIPT" => (
            ErrorKind::Unavailable,
            "it forgot a script twice in a row; who calls SCRIPT FLUSH all the time?",
        ),
        "WRONGTYPE" => (
            ErrorKind::Corrupt,
            "a key of this library holds something else; who else writes to keys that begin with coord:?",
        ),
        "EXHAUSTED" => (
            ErrorKind::Exhausted,
            "the numbers for fencing tokens of this name are used up; use another name",
        ),
        "ERR" => of_text(detail),
        // EXECABORT, NOSUB, NOTBUSY, UNKILLABLE, BUSYKEY, NOGOODSLAVE, INPROG and what a later server adds: not what our
        // commands meet.
        _ => (ErrorKind::Internal, "it refused a command; please report this"),
    }
}

/// What an error without a code of its own means.
fn of_text(detail: &str) -> (ErrorKind, &'static str) {
    // A script wraps what a command in it answered, and its code, into the text of its own error.
    for (code, text) in [("OOM", "OOM command not allowed"), ("WRONGTYPE", "WRONGTYPE"), ("NOPERM", "ACL")] {
        if detail.contains(text) {
            return of_code(code, "");
        }
    }
    if detail.contains("max number of clients") {
        return (ErrorKind::Unavailable, "it has no room for more clients (maxclients)");
    }
    if detail.contains("DB index") {
        return (ErrorKind::InvalidInput, "it has no database of this number; see the end of the URL");
    }
    if detail.contains("invalid password") || detail.contains("without any password configured") {
        return (ErrorKind::Permission, LOGIN);
    }
    if detail.contains("unknown command") {
        return (
            ErrorKind::Unsupported,
            "it lacks a command that is needed, or an administrator renamed it; Redis 6.2 or newer is needed",
        );
    }
    if detail.contains("Protocol error") || detail.contains("maximum allowed size") {
        return (ErrorKind::TooLarge, "a request is larger than it allows (proto-max-bulk-len)");
    }
    (ErrorKind::Internal, "it refused a command; please report this")
}

/// What an error of the connection means.
fn of_io(error: &io::Error, during: During) -> (ErrorKind, &'static str) {
    if let Some(meaning) = of_tls(error) {
        return meaning;
    }
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            (ErrorKind::Permission, "the operating system does not let this user connect to it")
        }
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
            (ErrorKind::Unavailable, "nobody listens there; is it running, and is the address right?")
        }
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            (ErrorKind::Unavailable, "it did not answer in time; is it stopped, overloaded or unreachable?")
        }
        io::ErrorKind::InvalidInput => (ErrorKind::InvalidInput, "its address cannot be used"),
        _ if during == During::Connecting => (
            ErrorKind::Unavailable,
            "it ended the connection before it was ready; does the port want TLS (rediss://), or is it full?",
        ),
        _ => (ErrorKind::Unavailable, "the connection was lost; is it running?"),
    }
}

#[cfg(feature = "tls")]
fn of_tls(error: &io::Error) -> Option<(ErrorKind, &'static str)> {
    use rustls::Error as Tls;

    let meaning = match error.get_ref()?.downcast_ref::<Tls>()? {
        Tls::InvalidMessage(_) => {
            (ErrorKind::InvalidInput, "it does not speak TLS on this port; use redis://, or its TLS port")
        }
        Tls::InvalidCertificate(_) => (
            ErrorKind::InvalidInput,
            "its certificate is not trusted or is for another name; name the file of its CA by ?ca=PATH, and the host as \
             the certificate does",
        ),
        Tls::AlertReceived(_) => {
            (ErrorKind::Permission, "it refuses our side of TLS; does it want a certificate of the client?")
        }
        _ => (ErrorKind::Unavailable, "TLS with it failed"),
    };
    Some(meaning)
}

#[cfg(not(feature = "tls"))]
fn of_tls(_error: &io::Error) -> Option<(ErrorKind, &'static str)> {
    None
}

/// The error of the operating system or of TLS inside, which the driver shares between those who wait.
fn io_error(error: &RedisError) -> Option<&io::Error> {
    let source = error.source()?;
    let shared = source.downcast_ref::<Arc<dyn StdError + Send + Sync>>();
    shared.map_or_else(|| source.downcast_ref(), |shared| shared.downcast_ref())
}

/// Whether the server answered, so that it is known that nothing was done: it refuses before a script's first change.
fn answered(kind: redis::ErrorKind) -> bool {
    use redis::ErrorKind as Kind;

    matches!(kind, Kind::Server(_) | Kind::Extension | Kind::AuthenticationFailed)
}

/// An error of the driver, at this server, in our words.
pub(crate) fn from_redis(server: &dyn fmt::Display, during: During, error: RedisError) -> Error {
    use redis::ErrorKind as Kind;

    let (kind, advice) = match error.kind() {
        Kind::Server(
            ServerErrorKind::ResponseError
            | ServerErrorKind::ExecAbort
            | ServerErrorKind::BusyLoading
            | ServerErrorKind::NoScript
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask
            | ServerErrorKind::TryAgain
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::CrossSlot
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ReadOnly
            | ServerErrorKind::NotBusy
            | ServerErrorKind::NoSub
            | ServerErrorKind::NoPerm,
        )
        | Kind::Extension => of_code(error.code().unwrap_or_default(), error.detail().unwrap_or_default()),
        Kind::AuthenticationFailed => (ErrorKind::Permission, LOGIN),
        Kind::Io => match io_error(&error) {
            Some(error) => of_io(error, during),
            None => of_io(&io::ErrorKind::ConnectionReset.into(), during),
        },
        Kind::Parse | Kind::RESP3NotSupported => (ErrorKind::Unsupported, SPEAKS),
        Kind::InvalidClientConfig => (ErrorKind::InvalidInput, "its address or an option cannot be used"),
        Kind::UnexpectedReturnType => {
            (ErrorKind::Internal, "it answered what was not asked; please report this")
        }
        Kind::Client
        | Kind::MasterNameNotFoundBySentinel
        | Kind::NoValidReplicasFoundBySentinel
        | Kind::EmptySentinelList
        | Kind::ClusterConnectionNotFound => (ErrorKind::Internal, "the driver failed; please report this"),
        // The enums may grow.
        _ => (ErrorKind::Internal, "the driver failed in an unknown way; please report this"),
    };
    let known = during == During::Connecting || answered(error.kind());
    let error = Error::new(kind, format!("the Redis server {server}: {advice}")).with_source(error);
    if known { error } else { error.with_unknown_effect() }
}

/// An error that the server answered to one of several requests.
pub(crate) fn from_server(server: &dyn fmt::Display, error: ServerError) -> Error {
    from_redis(server, During::Operation, error.into())
}

/// No answer before the operation's own deadline.
pub(crate) fn too_slow(server: &dyn fmt::Display, sent: bool) -> Error {
    let (kind, advice) = of_io(&io::ErrorKind::TimedOut.into(), During::Operation);
    let error = Error::new(kind, format!("the Redis server {server}: {advice}"));
    if sent { error.with_unknown_effect() } else { error }
}

/// No answer to our greeting in TLS.
pub(crate) fn silent_without_tls(server: &dyn fmt::Display) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "the Redis server {server}: it did not answer in time; does the port speak TLS? If not, use redis:// or its TLS \
             port. Otherwise it is stopped, overloaded or unreachable"
        ),
    )
}

/// The server is a replica, where nothing can be written.
pub(crate) fn replica(server: &dyn fmt::Display, kind: ErrorKind) -> Error {
    Error::new(kind, format!("the Redis server {server}: {READ_ONLY}"))
}

/// A script answered what it does not answer.
pub(crate) fn misread(wanted: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "the stored data are damaged: {wanted} is missing; who else writes to keys that begin with coord:?"
        ),
    )
}

/// The store was closed.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the store was closed")
}

#[cfg(test)]
mod tests {
    use coord_core::Effect;
    use redis::Value;

    use super::*;

    /// An error as the driver makes it of what a server answers.
    fn answer(text: &str) -> RedisError {
        let bytes = format!("-{text}\r\n");
        match redis::parse_redis_value(bytes.as_bytes()) {
            Ok(Value::ServerError(error)) => error.into(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_answer_has_a_meaning() {
        use ErrorKind::{
            Corrupt, Exhausted, Full, Internal, InvalidInput, Permission, TooLarge, Unavailable, Unsupported,
        };
        let table = [
            ("WRONGPASS invalid username-password pair or user is disabled.", Permission),
            ("NOAUTH Authentication required.", Permission),
            ("NOPERM this user has no permissions to run the 'evalsha' command", Permission),
            ("DENIED Redis is running in protected mode", Permission),
            ("OOM command not allowed when used memory > 'maxmemory'.", Full),
            ("MISCONF Errors writing to the AOF file: No space left on device", Unavailable),
            ("NOREPLICAS Not enough good replicas to write.", Unavailable),
            ("READONLY You can't write against a read only replica.", Unavailable),
            ("LOADING Redis is loading the dataset in memory", Unavailable),
            ("BUSY Redis is busy running a script.", Unavailable),
            ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", Unavailable),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Unavailable),
            ("CLUSTERDOWN Hash slot not served", Unavailable),
            ("MOVED 3999 127.0.0.1:6381", Unsupported),
            ("ASK 3999 127.0.0.1:6381", Unsupported),
            ("CROSSSLOT Keys in request don't hash to the same slot", Unsupported),
            ("NOPROTO unsupported protocol version", Unsupported),
            ("NOSCRIPT No matching script. Please use EVAL.", Unavailable),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", Corrupt),
            ("EXHAUSTED tokens", Exhausted),
            ("EXECABORT Transaction discarded because of previous errors.", Internal),
            ("NOSUB 'unsubscribe' outside of subscribed mode", Internal),
            ("NOTBUSY No scripts in execution right now.", Internal),
            ("UNKILLABLE Sorry the script already executed write commands", Internal),
            ("BUSYKEY Target key name already exists.", Internal),
            ("SOMETHING new", Internal),
            ("ERR max number of clients reached", Unavailable),
            ("ERR DB index is out of range", InvalidInput),
            ("ERR invalid password", Permission),
            ("ERR AUTH <password> called without any password configured for the default user.", Permission),
            ("ERR unknown command 'EVALSHA', with args beginning with:", Unsupported),
            ("ERR Protocol error: invalid bulk length", TooLarge),
            ("ERR string exceeds maximum allowed size (proto-max-bulk-len)", TooLarge),
            ("ERR Error running script: @user_script:7: WRONGTYPE Operation against a key", Corrupt),
            (
                "ERR ACL failure in script: this user has no permissions to run the 'publish' command",
                Permission,
            ),
            ("ERR something else", Internal),
        ];
        for (text, kind) in table {
            let error = from_redis(&"redis://h:1/0", During::Operation, answer(text));
            assert_eq!(error.kind(), kind, "{text}");
            assert_eq!(error.effect(), Effect::None, "{text}");
            assert!(error.to_string().contains("redis://h:1/0"), "{error}");
        }
    }

    #[test]
    fn driver_errors() {
        use redis::ErrorKind as Kind;
        let table = [
            (RedisError::from(io::Error::from(io::ErrorKind::ConnectionRefused)), ErrorKind::Unavailable),
            (io::Error::from(io::ErrorKind::NotFound).into(), ErrorKind::Unavailable),
            (io::Error::from(io::ErrorKind::TimedOut).into(), ErrorKind::Unavailable),
            (io::Error::from(io::ErrorKind::BrokenPipe).into(), ErrorKind::Unavailable),
            (io::Error::from(io::ErrorKind::PermissionDenied).into(), ErrorKind::Permission),
            ((Kind::Io, "closed").into(), ErrorKind::Unavailable),
            ((Kind::AuthenticationFailed, "no").into(), ErrorKind::Permission),
            ((Kind::Parse, "no").into(), ErrorKind::Unsupported),
            ((Kind::RESP3NotSupported, "no").into(), ErrorKind::Unsupported),
            ((Kind::InvalidClientConfig, "no").into(), ErrorKind::InvalidInput),
            ((Kind::UnexpectedReturnType, "no").into(), ErrorKind::Internal),
            ((Kind::Client, "no").into(), ErrorKind::Internal),
            ((Kind::EmptySentinelList, "no").into(), ErrorKind::Internal),
        ];
        for (error, kind) in table {
            let text = error.to_string();
            let lost = !matches!(error.kind(), Kind::AuthenticationFailed);
            let ours = from_redis(&"x", During::Operation, error.clone());
            assert_eq!(ours.kind(), kind, "{text}");
            assert_eq!(ours.effect() == Effect::Unknown, lost, "{text}");
            let ours = from_redis(&"x", During::Connecting, error);
            assert_eq!((ours.kind(), ours.effect()), (kind, Effect::None), "{text}");
        }
    }
}
