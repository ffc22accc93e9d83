//! Faults at any point of a call: each system call that a plugin makes can kill it, or fail.
//!
//! [`points`] and [`inject`] do it to one plugin. [`run::run`] does it to a whole chain, to each process in it, with an
//! attachment beside that must notice nothing.

mod audit;
mod call;
mod errors;
mod node;
pub mod run;
mod wrapped;

pub use call::{Point, inject, points};
