//! Calling one plugin: found along `CNI_PATH`, run with stdin's bytes untouched, its answer read.

mod exec;
mod find;
mod ipam;

pub use exec::Running;
pub use find::{PluginPath, distrust};
#[cfg(feature = "runtime")]
pub(crate) use ipam::is_unknown_command;
pub use ipam::{Ipam, Pending, refuse_as_ipam};
