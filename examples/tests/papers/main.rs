//! The papers are true: the examples print what the README shows, what is linked is there, what is quoted is what stands
//! there.

mod guide;
mod links;
mod readme;
mod text;
