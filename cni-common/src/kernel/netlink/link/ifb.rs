//! IFBs, to which other links redirect what they receive.

use super::{message, set, set_flag};
use crate::kernel::netlink::{CREATE, Message, RouteNetlinkMessage};
use crate::spec::IfName;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo};

/// Makes an IFB, up: it sends by its own root qdisc what other links are told to redirect to it.
#[must_use]
pub fn create_ifb(name: &IfName, mtu: u32) -> Message<RouteNetlinkMessage> {
    let mut body = message(
        0,
        vec![
            LinkAttribute::IfName(name.to_string()),
            LinkAttribute::Mtu(mtu),
            // The root qdisc has a queue of its own.
            LinkAttribute::TxQueueLen(0),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]),
        ],
    );
    set_flag(&mut body, LinkFlags::Up, true);
    let doing = format!("make the ifb {name}");
    Message { doing, flags: CREATE, body: RouteNetlinkMessage::NewLink(body) }
}

/// Makes the IFB `name` its owner's, whatever it was like: alias, MTU, up.
#[must_use]
pub fn claim_ifb(name: &IfName, alias: &str, mtu: u32) -> Message<RouteNetlinkMessage> {
    let attributes = vec![
        LinkAttribute::IfName(name.to_string()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::IfAlias(alias.to_owned()),
    ];
    let mut body = message(0, attributes);
    set_flag(&mut body, LinkFlags::Up, true);
    set(format!("set alias and MTU of {name}"), body)
}
