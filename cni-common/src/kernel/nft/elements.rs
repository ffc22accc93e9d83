//! Elements of sets and maps: a key, the chain that its packets go to, and whose it is.

use super::object::{Chain, Set, octets};
use crate::spec::{IfName, MacAddr};
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, SetElementAttribute, SetElementList, SetElementMessage,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The key of an element: its fields one after the other, each filled up to a multiple of four bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(pub(super) Vec<u8>);

/// The kernel keeps interface names in `IFNAMSIZ` bytes.
const IFNAMSIZ: usize = 16;

impl Key {
    /// `ifname`
    #[must_use]
    pub fn port(name: &IfName) -> Self {
        let mut bytes = name.as_str().as_bytes().to_vec();
        bytes.resize(IFNAMSIZ, 0);
        Self(bytes)
    }

    /// `ifname . ether_addr`
    #[must_use]
    pub fn port_and_mac(name: &IfName, mac: MacAddr) -> Self {
        let Self(mut bytes) = Self::port(name);
        bytes.extend(mac.0);
        bytes.extend([0; 2]);
        Self(bytes)
    }

    /// `inet_proto . inet_service`, behind an `ipv4_addr` or `ipv6_addr` if there is one.
    #[must_use]
    pub fn service(address: Option<IpAddr>, protocol: u8, port: u16) -> Self {
        let mut bytes = address.map(octets).unwrap_or_default();
        bytes.extend([protocol, 0, 0, 0]);
        bytes.extend(padded(port));
        Self(bytes)
    }

    /// What [`Key::service`] was made of.
    #[must_use]
    pub fn as_service(&self) -> Option<(Option<IpAddr>, u8, u16)> {
        let (address, rest) = self.0.split_at_checked(self.0.len().checked_sub(8)?)?;
        let &[protocol, _, _, _, high, low, _, _] = rest else { return None };
        let address = if address.is_empty() { None } else { Some(Self(address.to_vec()).ip()?) };
        Some((address, protocol, u16::from_be_bytes([high, low])))
    }

    /// An address and a port, as data that destination NAT takes.
    #[must_use]
    pub fn target(ip: IpAddr, port: u16) -> Self {
        let mut bytes = octets(ip);
        bytes.extend(padded(port));
        Self(bytes)
    }

    /// What [`Key::target`] was made of.
    #[must_use]
    pub fn as_target(&self) -> Option<(IpAddr, u16)> {
        let (address, rest) = self.0.split_at_checked(self.0.len().checked_sub(4)?)?;
        let &[high, low, _, _] = rest else { return None };
        Some((Self(address.to_vec()).ip()?, u16::from_be_bytes([high, low])))
    }

    /// The address, of a key that is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        if let Ok(v4) = <[u8; 4]>::try_from(self.0.as_slice()) {
            return Some(Ipv4Addr::from(v4).into());
        }
        <[u8; 16]>::try_from(self.0.as_slice()).ok().map(|v6| Ipv6Addr::from(v6).into())
    }

    /// The Ethernet address behind an interface's name.
    #[must_use]
    pub fn mac(&self) -> Option<MacAddr> {
        self.0.get(IFNAMSIZ..IFNAMSIZ + 6)?.try_into().ok().map(MacAddr)
    }
}

fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

impl From<IpAddr> for Key {
    fn from(ip: IpAddr) -> Self {
        Self(octets(ip))
    }
}

/// An element as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The key.
    pub key: Key,
    /// Its owner's tag; empty when it has none.
    pub tag: String,
    /// The chain that its packets go to; empty in a set without verdicts.
    pub chain: String,
    /// Its value, in a map of values.
    pub data: Option<Key>,
}

/// What a new element leads to.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// Nothing: it is in a set.
    None,
    /// A chain, and not back.
    Goto(&'a Chain<'a>),
    /// This value.
    Data(&'a Key),
}

/// What a message about one element of a set holds.
pub(super) fn of_element(set: &Set, key: &Key, rest: Vec<SetElementAttribute>) -> SetElementMessage {
    let mut element = vec![SetElementAttribute::Key(DataAttribute::Value(key.0.clone()))];
    element.extend(rest);
    SetElementMessage {
        attributes: vec![
            SetElementList::Table(set.table.to_owned()),
            SetElementList::Set(set.name.to_owned()),
            SetElementList::Elements(vec![ListAttribute::Element(element)]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::Key;

    #[test]
    fn services_and_targets_are_read_back() {
        for address in [None, Some("10.1.0.2".parse().unwrap()), Some("fd00::2".parse().unwrap())] {
            assert_eq!(Key::service(address, 17, 5353).as_service(), Some((address, 17, 5353)));
        }
        for ip in ["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()] {
            assert_eq!(Key::target(ip, 80).as_target(), Some((ip, 80)));
        }
        assert_eq!(Key(vec![1; 7]).as_service(), None);
        assert_eq!(Key(vec![1; 9]).as_service(), None);
        assert_eq!(Key(vec![1; 7]).as_target(), None);
    }
}
