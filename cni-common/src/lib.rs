//! What every plugin of this suite shares, in rooms that a newcomer can find by name:
//!
//! * [`spec`]: the words of the CNI specification. Names, versions, configs, results, errors. Data only, no I/O.
//! * [`plugin`]: being called. Environment and stdin become a [`plugin::Request`], the plugin's verb runs, its
//!   answer goes to stdout.
//! * [`invoke`]: calling one plugin, found along `CNI_PATH`; IPAM delegation.
//! * [`process`]: programs that we start, found, tied to our life, waited for.
//! * [`kernel`]: touching the machine. Network namespaces, sysctls, rtnetlink, nf_tables, iptables.
//! * [`disk`]: the file lock and how a file appears whole or not at all.
//! * [`log`]: lines on stderr.
//! * [`stop`]: SIGTERM and SIGINT.
//! * [`undo`]: the rollback stack that makes a failed ADD leave nothing.
//!
//! Layers: `spec` knows nobody, `stop` only that. `disk`, `process`, `undo` and `kernel` know `spec` and
//! `stop`, `kernel` runs iptables by `process`; `plugin` and `invoke` know all of these, and each other.

pub mod disk;
pub mod invoke;
pub mod kernel;
pub mod log;
pub mod plugin;
pub mod process;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod spec;
pub mod stop;
pub mod undo;
