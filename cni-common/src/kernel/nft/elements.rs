//! Elements of sets and maps: a key, the chain that its packets go to, and whose it is.

use super::element_list::ElementList;
use super::object::{Chain, Family, SET, Set, message, octets};
use super::transaction::Transaction;
use crate::kernel::netlink::{Message, Socket};
use crate::kernel::refusal::Refusal;
use crate::spec::{IfName, MacAddr};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_packet_netfilter::NetfilterMessage;
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList, SetElementMessage,
    Verdict, VerdictAttribute,
};
use nix::errno::Errno;
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

/// `NFTNL_UDATA_SET_ELEM_COMMENT` and, the same number, `NFTNL_UDATA_RULE_COMMENT`.
const COMMENT: u8 = 0;

/// `text` as user data that `nft` prints as a comment: type, length, text, NUL. Longer text than fits is cut.
pub(super) fn comment(text: &str) -> Vec<u8> {
    let mut end = text.len().min(253);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let len = u8::try_from(end + 1).unwrap_or(u8::MAX);
    let mut bytes = vec![COMMENT, len];
    bytes.extend_from_slice(&text.as_bytes()[..end]);
    bytes.push(0);
    bytes
}

pub(super) fn read_comment(mut bytes: &[u8]) -> Option<String> {
    while let [kind, len, rest @ ..] = bytes {
        let (value, next) = rest.split_at_checked(usize::from(*len))?;
        if *kind == COMMENT {
            return Some(String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned());
        }
        bytes = next;
    }
    None
}

fn change(set: &Set, key: &Key, rest: Vec<SetElementAttribute>) -> SetElementMessage {
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

/// Adds an element of `tag`'s that must not be there yet (`EEXIST`).
pub fn insert_element(
    transaction: &mut Transaction,
    family: Family,
    set: &Set,
    (key, value): (&Key, Value),
    tag: &str,
) {
    let data = match value {
        Value::None => None,
        Value::Goto(chain) => Some(DataAttribute::Verdict(vec![
            VerdictAttribute::Code(Verdict::Goto),
            VerdictAttribute::Chain(chain.name.to_owned()),
        ])),
        Value::Data(Key(bytes)) => Some(DataAttribute::Value(bytes.clone())),
    };
    let rest = data
        .map(SetElementAttribute::Data)
        .into_iter()
        .chain([SetElementAttribute::UserData(comment(tag))])
        .collect();
    transaction.push(message(
        family,
        format!("add an element of {tag} to nf_tables set {} {}", set.table, set.name),
        SET | NLM_F_CREATE | NLM_F_EXCL,
        NfTablesMessage::NewSetElement(change(set, key, rest)),
    ));
}

/// Deletes an element, which must be there (`ENOENT`).
pub fn delete_element(transaction: &mut Transaction, family: Family, set: &Set, key: &Key) {
    transaction.push(message(
        family,
        format!("delete an element of nf_tables set {} {}", set.table, set.name),
        SET,
        NfTablesMessage::DeleteSetElement(change(set, key, vec![])),
    ));
}

/// The element with that key, if there is one.
///
/// # Errors
/// Any refusal but that there is no such element, set or table.
pub fn find_element(
    socket: &mut Socket,
    family: Family,
    set: &Set,
    key: &Key,
) -> Result<Option<Element>, Refusal> {
    let body = NfTablesMessage::GetSetElement(change(set, key, vec![]));
    let body = ElementList::Ask(NetfilterMessage::new(family.header(), body));
    let doing = format!("look into nf_tables set {} {}", set.table, set.name);
    match socket.get(Message { doing, flags: NLM_F_REQUEST, body }) {
        Ok(ElementList::Found(elements)) => Ok(elements.into_iter().next()),
        Ok(ElementList::Ask(_)) => Ok(None),
        Err(refusal) if refusal.errno == Errno::ENOENT => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// All elements of a set; none when there is no such set or table.
///
/// # Errors
/// Any other refusal.
pub fn elements(socket: &mut Socket, family: Family, set: &Set) -> Result<Vec<Element>, Refusal> {
    let attributes =
        vec![SetElementList::Table(set.table.to_owned()), SetElementList::Set(set.name.to_owned())];
    let body = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
    let doing = format!("list nf_tables set {} {}", set.table, set.name);
    let question = ElementList::Ask(NetfilterMessage::new(family.header(), body));
    let elements = |message| match message {
        ElementList::Found(elements) => elements,
        ElementList::Ask(_) => vec![],
    };
    match socket.dump(&doing, &question) {
        Ok(found) => Ok(found.into_iter().flat_map(elements).collect()),
        Err(refusal) if refusal.errno == Errno::ENOENT => Ok(vec![]),
        Err(refusal) => Err(refusal),
    }
}

#[cfg(test)]
mod tests {
    use super::{Key, comment, read_comment};

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

    #[test]
    fn a_comment_is_read_back_and_a_long_one_is_cut_at_a_character() {
        assert_eq!(comment("hi"), [0, 3, b'h', b'i', 0]);
        assert_eq!(read_comment(&comment("cni/net/c1/eth0")).as_deref(), Some("cni/net/c1/eth0"));
        let long = "ä".repeat(200);
        assert_eq!(read_comment(&comment(&long)).as_deref(), Some("ä".repeat(126).as_str()));
        assert_eq!(read_comment(&[1, 1, 9, 0, 2, b'x', 0]).as_deref(), Some("x"));
        for torn in [&[][..], &[0], &[0, 9, b'x'], &[1, 1, 1]] {
            assert_eq!(read_comment(torn), None);
        }
    }
}
