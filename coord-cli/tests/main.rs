//! The tests of the command on the embedded store: one program, which is linked once.

mod command_line;
mod config;
mod elect;
mod lock;
mod queue;
mod registry;
mod store;
mod support;
mod terminal;
