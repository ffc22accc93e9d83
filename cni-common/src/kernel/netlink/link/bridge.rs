//! Bridges, and their ports.

use super::{message, set, set_flag};
use crate::kernel::netlink::{CREATE, Message, RouteNetlinkMessage};
use crate::spec::{IfName, MacAddr};
use netlink_packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, LinkAttribute, LinkFlags,
    LinkInfo,
};

/// A bridge to be made, up.
#[derive(Debug, Clone)]
pub struct NewBridge<'a> {
    /// Its name.
    pub name: &'a IfName,
    /// Its address. With one of its own it keeps that whatever ports come and go.
    pub mac: MacAddr,
    /// MTU in bytes; `None` leaves it to the kernel.
    pub mtu: Option<u32>,
    /// Promiscuous.
    pub promisc: bool,
    /// Whether its ports are told apart by VLANs; a kernel that can't says `EOPNOTSUPP`.
    pub vlan_filtering: bool,
}

/// Makes a bridge, down: what has to be set before it comes up is the caller's.
#[must_use]
pub fn create_bridge(bridge: &NewBridge) -> Message<RouteNetlinkMessage> {
    let mut info = vec![LinkInfo::Kind(InfoKind::Bridge)];
    if bridge.vlan_filtering {
        info.push(vlan_filtering(true));
    }
    let mut attributes = vec![
        LinkAttribute::IfName(bridge.name.to_string()),
        LinkAttribute::Address(bridge.mac.0.to_vec()),
        LinkAttribute::LinkInfo(info),
    ];
    attributes.extend(bridge.mtu.map(LinkAttribute::Mtu));
    let mut body = message(0, attributes);
    if bridge.promisc {
        set_flag(&mut body, LinkFlags::Promisc, true);
    }
    Message {
        doing: format!("make the bridge {}", bridge.name),
        flags: CREATE,
        body: RouteNetlinkMessage::NewLink(body),
    }
}

/// Switches the VLAN filtering of a bridge on or off.
#[must_use]
pub fn set_vlan_filtering(index: u32, on: bool) -> Message<RouteNetlinkMessage> {
    let info = vec![LinkInfo::Kind(InfoKind::Bridge), vlan_filtering(on)];
    let doing = format!("set link {index} vlan_filtering {}", u8::from(on));
    set(doing, message(index, vec![LinkAttribute::LinkInfo(info)]))
}

/// Bridge port flags that differ from the kernel's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortFlags {
    /// Frames may leave by the port they came from.
    pub hairpin: bool,
    /// No frames to other isolated ports.
    pub isolated: bool,
}

/// Gives the bridge port `name` its owner's tag and its flags.
#[must_use]
pub fn mark_port(name: &IfName, alias: &str, flags: PortFlags) -> Message<RouteNetlinkMessage> {
    let mut attributes =
        vec![LinkAttribute::IfName(name.to_string()), LinkAttribute::IfAlias(alias.to_owned())];
    if flags != PortFlags::default() {
        let settings =
            vec![InfoBridgePort::HairpinMode(flags.hairpin), InfoBridgePort::Isolated(flags.isolated)];
        attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(settings)),
        ]));
    }
    set(format!("set alias and bridge port flags of {name}"), message(0, attributes))
}

/// Makes a link a port of the bridge with index `bridge`.
#[must_use]
pub fn set_bridge(index: u32, bridge: u32) -> Message<RouteNetlinkMessage> {
    set(
        format!("make link {index} a port of bridge {bridge}"),
        message(index, vec![LinkAttribute::Controller(bridge)]),
    )
}

fn vlan_filtering(on: bool) -> LinkInfo {
    LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::VlanFiltering(on)]))
}
