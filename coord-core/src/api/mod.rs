//! What users hold: the traits, their options and their guards.

mod barrier;
mod config;
mod consumer;
mod delivery;
mod election;
mod fenced;
mod guard;
mod inspect;
mod lock;
mod picker;
mod queue;
mod registry;
mod rwlock;
mod semaphore;
mod take;
mod typed;

pub use barrier::{Barrier, BarrierOptions, BarrierPass, Inside};
pub use config::{ConfigEvent, ConfigStore, Entry, Listing, Revision};
pub use consumer::{Consumer, ConsumerOptions};
pub use delivery::Delivery;
pub use election::{
    CampaignOptions, Election, ElectionEvent, ElectionExt, HandOverError, Leader, Leadership,
};
pub use fenced::{Fenced, FencedKey, FencedStore};
pub use guard::{Detached, Guard, GuardSet};
pub use inspect::{Evicted, Inspect, Inspection, Party};
pub use lock::{Lock, LockOptions};
pub use picker::{Choice, HashRing, LeastOutstanding, Picker, Random, RoundRobin};
pub use queue::{Item, PushOptions, Queue, ReceiveOptions};
pub use registry::{Instance, Member, RegisterOptions, Registration, Registry, RegistryEvent};
pub use rwlock::RwLock;
pub use semaphore::Semaphore;
pub use typed::Config;
