//! Locks, elections, membership and barriers for programs that run on more than one process, in which nothing is held
//! without a **fencing token**: the API, the engine behind it, and the interface that a backend implements.
//!
//! Programs depend on one backend crate (`coord-sql`, …), which builds a [`Coordinator`] and re-exports this crate.
//!
//! # Which one?
//!
//! | you want | take |
//! | --- | --- |
//! | one at a time | [`Lock`] |
//! | many readers or one writer | [`RwLock`] |
//! | at most N at a time | [`Semaphore`] |
//! | one that does the work for long, others ready to take over, and all can see who it is | [`Election`] |
//! | who is there, and where | [`Registry`], and a [`Picker`] to choose |
//! | to wait for one another | [`Barrier`] |
//! | settings that all see change | [`ConfigStore`], and [`Config`] for a Rust type |
//! | values that refuse a stale holder | [`FencedStore`], or [`FenceGate`] for a service's own state |
//! | work that somebody does, once each, in order | [`Queue`], and [`Consumer`] to do it |
//! | to see who holds and who waits, or to break the glass | [`Inspect`] |
//!
//! # What a lease can promise, and what it cannot
//!
//! Every claim has a lease, so that a crashed holder blocks nobody for longer than its TTL. Guards are renewed in the
//! background and turn *lost* by themselves before the store can give the lock away ([`Guard::is_held`],
//! [`Guard::lost`], [`Guard::run`]). Still, between a look at the guard and the write that follows it, a process can be
//! stopped for longer than its lease. Only the resource can close that gap: it keeps the highest [`FencingToken`] it
//! has seen and refuses lower ones. Send [`Guard::token`] along with every write. [`FenceGate`] is such a mark for a
//! service with state of its own.
//!
//! # Runtime
//!
//! Everything here needs a Tokio runtime with its timer enabled, and panics without one. Renewal runs as a task of that
//! runtime: one whose threads are blocked for longer than a TTL loses its leases, safely.
//!
//! # The rings
//!
//! The traits here are what users hold. Everything hard about time and async is written once, in the private engine:
//! renewal, waiting, cancellation, release on drop, loss. A backend implements [`spi`]: single atomic operations on a
//! store, and nothing else. [`memory`] is the executable specification.

mod api;
pub mod clock;
mod coordinator;
mod engine;
mod error;
mod fence;
mod guarantees;
pub mod limits;
pub mod memory;
mod name;
mod report;
pub mod spi;
mod token;

#[doc(hidden)]
pub use self::engine::Mutant;
pub use self::{
    api::*,
    coordinator::{Coordinator, CoordinatorBuilder},
    engine::watch::Watch,
    error::{Effect, Error, ErrorKind, Result},
    fence::{Fence, FenceGate},
    guarantees::{ClockAssumption, Durability, Features, Guarantees, Scope},
    name::{Name, Namespace},
    report::{Fact, Report, Weakness},
    spi::{
        jobs::{DeadItem, ItemId, QueueStats},
        values::{Change, Condition, Write},
    },
    token::FencingToken,
};

/// Everything a program usually needs: `use coord_core::prelude::*`.
pub mod prelude {
    pub use crate::{
        Barrier, BarrierOptions, CampaignOptions, Condition, ConfigEvent, ConfigStore, Consumer,
        ConsumerOptions, Coordinator, Delivery, Election, ElectionEvent, ElectionExt, Fence, FenceGate,
        FencedStore, FencingToken, Guard, Inspect, Instance, Item, Leadership, Lock, LockOptions, Name,
        Namespace, Picker, PushOptions, Queue, ReceiveOptions, RegisterOptions, Registration, Registry,
        RegistryEvent, RwLock, Semaphore, spi::Kind,
    };
}
