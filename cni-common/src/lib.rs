//! What every plugin of this suite shares, in rooms that a newcomer can find by name:
//!
//! * [`spec`]: the words of the CNI specification. Names, versions, commands, configs, results, errors. Data only, no I/O.
//! * [`owner`]: whose a thing is. Tags, and names derived from an attachment.
//! * [`log`]: lines on stderr.
//! * [`stop`]: SIGTERM and SIGINT.
//! * [`undo`]: the rollback stack that makes a failed ADD leave nothing.
//! * [`disk`]: the file lock and how a file appears whole or not at all.
//! * [`process`]: programs that we start, found, tied to our life, waited for.
//! * [`kernel`]: touching the machine. Network namespaces, sysctls, rtnetlink, nf_tables, iptables.
//! * [`plugin`]: being called. Environment and stdin become a [`plugin::Request`], the plugin's verb runs, its
//!   answer goes to stdout.
//! * [`invoke`]: calling one plugin, found along `CNI_PATH`; IPAM delegation.
//! * [`interface`]: what a plugin that makes an interface is made of. Entering a container, addresses and routes inside,
//!   their checks, masquerading.
//! * [`runtime`]: driving a list of plugins, as libcni does (feature `runtime`).
//!
//! Each room uses only those above it in this list; `tests/rooms.rs` keeps that so.

pub mod disk;
pub mod interface;
pub mod invoke;
pub mod kernel;
pub mod log;
pub mod owner;
pub mod plugin;
pub mod process;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod spec;
pub mod stop;
pub mod undo;
