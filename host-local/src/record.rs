//! A lease in few bytes: what the index keeps, and what is looked up in.

use crate::lease::Holder;
use cni_common::owner::digest;
use std::net::{IpAddr, Ipv6Addr};

/// A leased address, as a number that serves both families, and the hash of its holder.
pub type Record = (u128, HolderHash);

/// One line of numbers for both families: IPv4 has its place in IPv6.
#[must_use]
pub fn key(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

/// The address that [`key`] gave this number.
#[must_use]
pub fn address(key: u128) -> IpAddr {
    Ipv6Addr::from(key).to_canonical()
}

/// Stands for a holder in a record; 0 frees the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HolderHash(pub(crate) u64);

impl HolderHash {
    /// Nobody: the address is free again.
    pub const FREED: Self = Self(0);
    /// Somebody who is not looked for.
    pub const UNKNOWN: Self = Self(1);

    /// Whether it stands for nobody.
    #[must_use]
    pub fn is_freed(self) -> bool {
        self == Self::FREED
    }

    /// Of an interface of a container.
    #[must_use]
    pub fn attachment(container_id: &str, ifname: &str) -> Self {
        Self::of(&[container_id, ifname])
    }

    /// Of a container, as old releases wrote it.
    #[must_use]
    pub fn container(container_id: &str) -> Self {
        Self::of(&[container_id])
    }

    fn of(parts: &[&str]) -> Self {
        // Never one of the two that mean something else.
        Self(u64::from_str_radix(&digest(parts, 16), 16).unwrap_or_default() | 2)
    }
}

impl From<&Holder> for HolderHash {
    fn from(holder: &Holder) -> Self {
        match holder {
            Holder::Attachment { container_id, ifname } => Self::attachment(container_id, ifname),
            Holder::Container(id) => Self::container(id),
            Holder::Unknown(_) | Holder::Unreadable(_) => Self::UNKNOWN,
        }
    }
}

/// A change to the leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The address.
    pub ip: IpAddr,
    /// Who holds it now.
    pub holder: HolderHash,
}

impl Change {
    /// `ip` was leased.
    #[must_use]
    pub fn leased(ip: IpAddr, holder: HolderHash) -> Self {
        Self { ip, holder }
    }

    /// `ip` was freed.
    #[must_use]
    pub fn freed(ip: IpAddr) -> Self {
        Self { ip, holder: HolderHash::FREED }
    }
}
