//! Touching the machine: network namespaces, sysctls, rtnetlink and nf_tables. No helper program is
//! run, but for iptables where a config asks for it.

#[cfg(test)]
mod answers;
mod backend;
pub mod conntrack;
pub mod forwarding;
pub mod iptables;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod refusal;
pub mod sysctl;

pub use backend::Backend;
pub use refusal::{Refusal, absent_ok, unused_ok};
