//! Where requests and replies begin and end in what a connection carries.
//!
//! | protocol | what is a request | its kind |
//! | --- | --- | --- |
//! | [`Redis`] | a command | its name in capitals: `EVALSHA` |
//! | [`ZooKeeper`] | all but what opens the session, and signs of life | the name of `ZooDefs.OpCode`: `multi`, `getChildren2` |
//! | [`Postgres`] | what the client sends until it waits for an answer | `Query`, `Sync`, `FunctionCall` |
//! | [`Grpc`] | a message of a client, as of etcd's | the method: `Txn`, `LeaseKeepAlive` |
//!
//! What is encrypted is passed on unseen.

mod grpc;
mod postgres;
mod redis;
mod zookeeper;

use std::borrow::Cow;

pub use self::{grpc::Grpc, postgres::Postgres, redis::Redis, zookeeper::ZooKeeper};

/// A protocol. A function that makes framers is one, too.
pub trait Protocol: Send + Sync + 'static {
    /// A framer for a new connection.
    fn framer(&self) -> Box<dyn Framer>;
}

impl<F: Fn() -> Box<dyn Framer> + Send + Sync + 'static> Protocol for F {
    fn framer(&self) -> Box<dyn Framer> {
        self()
    }
}

/// Follows one connection. What it is shown begins where the last frame of that direction ended.
pub trait Framer: Send {
    /// What the client's bytes begin with.
    fn request(&mut self, bytes: &[u8]) -> Next;

    /// What the server's bytes begin with.
    fn reply(&mut self, bytes: &[u8]) -> Next;
}

/// What some bytes begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// A frame that is not complete.
    More,
    /// A frame of so many bytes.
    Frame(usize, Part),
    /// Nothing that the framer knows. The rest of this direction is passed on unseen.
    Unknown,
}

/// What a frame is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Part of an opening, a sign of life, or part of a request whose last frame comes later.
    Other,
    /// A request, or the last frame of one.
    Request {
        /// What kind of request it is.
        kind: Cow<'static, str>,
        /// What its reply names on this connection.
        id: u64,
    },
    /// A frame of the reply to this request.
    Reply(u64),
    /// Something that the server tells unasked.
    Event,
}

/// The number that stands here with its first byte first.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
