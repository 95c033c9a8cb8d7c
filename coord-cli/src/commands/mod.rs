//! One file for each family of commands.

pub(crate) mod barrier;
pub(crate) mod config;
pub(crate) mod dead;
pub(crate) mod doctor;
pub(crate) mod elect;
pub(crate) mod fenced;
pub(crate) mod inspect;
pub(crate) mod lock;
pub(crate) mod queue;
pub(crate) mod registry;
pub(crate) mod work;
