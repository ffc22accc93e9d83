//! veth pairs between the host and a container.

use super::{Link, find, find_index, message, set_flag};
use crate::kernel::netlink::{CREATE, Message, RouteNetlinkMessage, Socket};
use crate::kernel::refusal::Refusal;
use crate::spec::{Attachment, IfName, MacAddr};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo};
use std::os::fd::RawFd;

/// A veth pair to be made: one end here, a port of a bridge and up, the other in a container's namespace, down.
#[derive(Debug, Clone)]
pub struct VethPair<'a> {
    /// The name of the end that stays here.
    pub host: &'a IfName,
    /// Its address.
    pub host_mac: MacAddr,
    /// Index of the bridge.
    pub bridge: u32,
    /// The name of the end inside the container.
    pub container: &'a IfName,
    /// Its address.
    pub container_mac: MacAddr,
    /// The container's namespace.
    pub netns: RawFd,
    /// MTU of both ends in bytes; `None` leaves it to the kernel.
    pub mtu: Option<u32>,
}

/// Makes a veth pair, all in one step: the host end a port of the bridge and up, the other already inside.
#[must_use]
pub fn create_veth(pair: &VethPair) -> Message<RouteNetlinkMessage> {
    let mtu = |attributes: &mut Vec<LinkAttribute>| attributes.extend(pair.mtu.map(LinkAttribute::Mtu));
    // The peer's header must not say "up": it is not there yet when the kernel reads it (ENOTCONN).
    let mut inside = vec![
        LinkAttribute::IfName(pair.container.to_string()),
        LinkAttribute::Address(pair.container_mac.0.to_vec()),
        LinkAttribute::NetNsFd(pair.netns),
    ];
    mtu(&mut inside);
    let veth = InfoData::Veth(InfoVeth::Peer(message(0, inside)));
    let mut here = vec![
        LinkAttribute::IfName(pair.host.to_string()),
        LinkAttribute::Address(pair.host_mac.0.to_vec()),
        LinkAttribute::Controller(pair.bridge),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(veth)]),
    ];
    mtu(&mut here);
    let mut body = message(0, here);
    set_flag(&mut body, LinkFlags::Up, true);
    let doing = format!("make the veth pair {} (host), {} (container)", pair.host, pair.container);
    Message { doing, flags: CREATE, body: RouteNetlinkMessage::NewLink(body) }
}

/// The host veth of an attachment, as our `bridge` makes it: by a name that is derived from the attachment,
/// with its tag as alias.
///
/// # Errors
/// Any refusal but "no such device".
pub fn host_veth(socket: &mut Socket, attachment: &Attachment) -> Result<Option<Link>, Refusal> {
    let tag = attachment.tag();
    // It nearly always has the first.
    for name in attachment.host_veths() {
        let found = find(socket, &name)?.filter(|link| link.alias.as_ref() == Some(&tag));
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The other end of the veth `link`, which may be in another namespace, if it is in the socket's: an index says nothing
/// of the namespace that it counts in, so the other end has to point back.
///
/// # Errors
/// Any refusal but "no such device".
pub fn peer(socket: &mut Socket, link: &Link) -> Result<Option<Link>, Refusal> {
    let Some(index) = link.bound_to.filter(|_| link.is_veth()) else { return Ok(None) };
    Ok(find_index(socket, index)?.filter(|peer| peer.is_veth() && peer.bound_to == Some(link.index)))
}
