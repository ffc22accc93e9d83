//! Driving a chain of plugins: what libcni does for a container runtime. Formats, search orders and words are libcni's, so
//! that other programs find what we leave and the other way round.
//!
//! [`discover`] finds a network's [`ConfList`], a [`Runtime`] runs its plugins for an [`Endpoint`], and a [`Cache`] keeps
//! the results for CHECK, DEL and GC.

mod cache;
mod chain;
mod discover;
mod list;

pub use cache::{Cache, Entry};
pub use chain::{Endpoint, Runtime};
pub use discover::{Found, discover};
pub use list::ConfList;
