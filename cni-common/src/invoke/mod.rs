//! Calling one plugin: found along `CNI_PATH`, called with stdin's bytes untouched, its answer read.

mod callee;
mod find;
mod ipam;

pub use callee::{Callee, Running};
pub use find::{PluginPath, distrust};
#[cfg(feature = "runtime")]
pub(crate) use ipam::is_unknown_command;
pub use ipam::{Ipam, Pending};
