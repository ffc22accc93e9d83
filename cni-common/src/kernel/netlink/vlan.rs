//! VLANs of bridge ports. The twin of `bridge vlan`.

use super::socket::{Message, Socket};
use super::{RouteNetlinkMessage, SET};
use crate::kernel::refusal::Refusal;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{
    AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags, LinkAttribute, LinkExtentMask, LinkMessage,
};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

/// How a port carries a VLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Membership {
    /// Frames that come in without a tag belong to it.
    pub pvid: bool,
    /// Its frames leave without a tag.
    pub untagged: bool,
}

impl Membership {
    /// With a tag in both directions.
    pub const TAGGED: Self = Self { pvid: false, untagged: false };
    /// Without a tag in both directions.
    pub const NATIVE: Self = Self { pvid: true, untagged: true };

    fn flags(self) -> BridgeVlanInfoFlags {
        let mut flags = BridgeVlanInfoFlags::empty();
        flags.set(BridgeVlanInfoFlags::Pvid, self.pvid);
        flags.set(BridgeVlanInfoFlags::Untagged, self.untagged);
        flags
    }
}

impl From<BridgeVlanInfoFlags> for Membership {
    fn from(flags: BridgeVlanInfoFlags) -> Self {
        Self {
            pvid: flags.contains(BridgeVlanInfoFlags::Pvid),
            untagged: flags.contains(BridgeVlanInfoFlags::Untagged),
        }
    }
}

/// The VLANs of a port: VLAN ID → how it carries it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Vlans(BTreeMap<u16, Membership>);

impl FromIterator<(u16, Membership)> for Vlans {
    fn from_iter<I: IntoIterator<Item = (u16, Membership)>>(vlans: I) -> Self {
        Self(vlans.into_iter().collect())
    }
}

impl Vlans {
    /// Adds a VLAN, or changes how it is carried.
    pub fn insert(&mut self, vid: u16, how: Membership) {
        self.0.insert(vid, how);
    }

    /// Takes VLAN `vid` out, unless it is one of `wanted`.
    pub fn forget(&mut self, vid: Option<u16>, wanted: &Self) {
        self.0.retain(|have, _| Some(*have) != vid || wanted.contains(*have));
    }

    /// Whether the port is in VLAN `vid`.
    #[must_use]
    pub fn contains(&self, vid: u16) -> bool {
        self.0.contains_key(&vid)
    }

    /// Neighbours that are carried alike, as one range. The kernel wants the PVID alone.
    fn ranges(&self) -> Vec<(RangeInclusive<u16>, Membership)> {
        let mut ranges: Vec<(RangeInclusive<u16>, Membership)> = Vec::new();
        for (&vid, &how) in &self.0 {
            match ranges.last_mut() {
                Some((range, last)) if *last == how && !how.pvid && *range.end() + 1 == vid => {
                    *range = *range.start()..=vid;
                }
                _ => ranges.push((vid..=vid, how)),
            }
        }
        ranges
    }

    fn read(infos: Vec<AfSpecBridge>) -> Self {
        let (mut vlans, mut begin) = (Self::default(), None);
        for info in infos {
            let AfSpecBridge::VlanInfo(info) = info else { continue };
            if info.flags.contains(BridgeVlanInfoFlags::RangeBegin) {
                begin = Some(info.vid);
                continue;
            }
            let first = begin.take().unwrap_or(info.vid);
            vlans.0.extend((first..=info.vid).map(|vid| (vid, info.flags.into())));
        }
        vlans
    }
}

impl fmt::Display for Vlans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return write!(f, "none");
        }
        for (i, (range, how)) in self.ranges().iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{}", range.start())?;
            if range.start() != range.end() {
                write!(f, "-{}", range.end())?;
            }
            f.write_str(match (how.pvid, how.untagged) {
                (true, true) => " PVID untagged",
                (true, false) => " PVID tagged",
                (false, true) => " untagged",
                (false, false) => " tagged",
            })?;
        }
        Ok(())
    }
}

/// Makes the bridge port with index `port` carry `vlans`, all in one message; those that it carries otherwise change.
#[must_use]
pub fn add(port: u32, vlans: &Vlans) -> Message<RouteNetlinkMessage> {
    let infos = vlans.ranges().into_iter().flat_map(|(range, how)| {
        let flags = how.flags();
        let (first, last) = (*range.start(), *range.end());
        let begin = (first != last)
            .then(|| BridgeVlanInfo { flags: flags | BridgeVlanInfoFlags::RangeBegin, vid: first });
        let end = if first == last { flags } else { flags | BridgeVlanInfoFlags::RangeEnd };
        begin.into_iter().chain([BridgeVlanInfo { flags: end, vid: last }])
    });
    let body = RouteNetlinkMessage::SetLink(message(port, infos));
    Message { doing: format!("set VLANs of link {port} to {vlans}"), flags: SET, body }
}

/// Makes it carry VLAN `vid` no longer. One that it does not carry is no error.
#[must_use]
pub fn delete(port: u32, vid: u16) -> Message<RouteNetlinkMessage> {
    let info = BridgeVlanInfo { flags: BridgeVlanInfoFlags::empty(), vid };
    let body = RouteNetlinkMessage::DelLink(message(port, [info]));
    Message { doing: format!("delete VLAN {vid} of link {port}"), flags: SET, body }
}

/// The VLANs of all bridge ports of the socket's namespace, by the port's index.
///
/// # Errors
/// The kernel's refusal.
pub fn list(socket: &mut Socket) -> Result<BTreeMap<u32, Vlans>, Refusal> {
    let mut body = LinkMessage::default();
    body.header.interface_family = AddressFamily::Bridge;
    body.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::BrvlanCompressed])];
    // A port may have 2,047 VLANs that make no range.
    socket.make_room(64 * 1024);
    let found = socket.dump("list VLANs of bridge ports", &RouteNetlinkMessage::GetLink(body))?;
    let vlans = found.into_iter().filter_map(|message| {
        let RouteNetlinkMessage::NewLink(link) = message else { return None };
        let spec = link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::AfSpecBridge(infos) => Some(Vlans::read(infos)),
            _ => None,
        });
        Some((link.header.index, spec?))
    });
    Ok(vlans.collect())
}

fn message(port: u32, infos: impl IntoIterator<Item = BridgeVlanInfo>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = port;
    let infos = infos.into_iter().map(AfSpecBridge::VlanInfo).collect();
    message.attributes = vec![LinkAttribute::AfSpecBridge(infos)];
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_range_and_the_pvid_stands_alone() {
        let mut vlans: Vlans = [1, 2, 4].map(|vid| (vid, Membership::TAGGED)).into_iter().collect();
        vlans.insert(3, Membership::NATIVE);
        vlans.insert(6, Membership { untagged: true, ..Membership::default() });
        assert_eq!(vlans.to_string(), "1-2 tagged, 3 PVID untagged, 4 tagged, 6 untagged");
        let RouteNetlinkMessage::SetLink(sent) = add(9, &vlans).body else { panic!() };
        let [LinkAttribute::AfSpecBridge(infos)] = &sent.attributes[..] else { panic!() };
        assert_eq!(infos.len(), 5);
        assert_eq!(
            Vlans::read(infos.clone()),
            vlans,
            "the kernel tells them in the form in which it takes them"
        );
        assert_eq!(Vlans::default().to_string(), "none");
    }
}
