//! Faults at any point of a call: each system call that a plugin makes can kill it, or fail.
//!
//! `cni_harness::faults` does it to one plugin. [`run::run`] does it to a whole chain, to each process in it, with an
//! attachment beside that must notice nothing.

mod audit;
mod errors;
mod node;
pub mod run;
mod wrapped;
