//! Dummy links, which lead nowhere.

use super::message;
use crate::kernel::netlink::{CREATE, Message, RouteNetlinkMessage};
use crate::spec::{IfName, MacAddr};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo};

/// A dummy link to make: one that leads nowhere.
pub struct NewDummy<'a> {
    /// Its name.
    pub name: &'a IfName,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// MTU in bytes; `None` leaves it to the kernel.
    pub mtu: Option<u32>,
}

/// Makes a dummy link, down.
#[must_use]
pub fn create_dummy(dummy: &NewDummy) -> Message<RouteNetlinkMessage> {
    let mut attributes = vec![
        LinkAttribute::IfName(dummy.name.to_string()),
        LinkAttribute::Address(dummy.mac.0.to_vec()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Dummy)]),
    ];
    attributes.extend(dummy.mtu.map(LinkAttribute::Mtu));
    let doing = format!("make the dummy link {}", dummy.name);
    Message { doing, flags: CREATE, body: RouteNetlinkMessage::NewLink(message(0, attributes)) }
}
