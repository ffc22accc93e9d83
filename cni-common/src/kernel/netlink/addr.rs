//! Addresses of links. The twin of `ip address`.

use super::RouteNetlinkMessage;
use super::socket::{Message, Socket};
use super::{CREATE, SET};
use crate::kernel::refusal::Refusal;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use std::net::IpAddr;

/// An address on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addr {
    /// Index of the link.
    pub link: u32,
    /// The address, host bits kept.
    pub net: IpNet,
    /// Duplicate address detection is not done with it yet (IPv6).
    pub tentative: bool,
    /// Somebody else on the link has it (IPv6).
    pub dad_failed: bool,
}

impl Addr {
    /// Reads the kernel's message; `None` for what is no address.
    #[must_use]
    pub fn from_message(message: &AddressMessage) -> Option<Self> {
        let mut local = None;
        let mut address = None;
        let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        Some(Self {
            link: message.header.index,
            // On a point-to-point link the other is the peer's.
            net: IpNet::new(local.or(address)?, message.header.prefix_len).ok()?,
            tentative: flags.contains(AddressFlags::Tentative),
            dad_failed: flags.contains(AddressFlags::Dadfailed),
        })
    }
}

/// The addresses on the link with that index.
///
/// # Errors
/// The kernel's refusal.
pub fn list(socket: &mut Socket, link: u32) -> Result<Vec<Addr>, Refusal> {
    Ok(ask(socket, link)?.into_iter().filter(|addr| addr.link == link).collect())
}

/// The addresses on all links.
///
/// # Errors
/// The kernel's refusal.
pub fn list_all(socket: &mut Socket) -> Result<Vec<Addr>, Refusal> {
    ask(socket, 0)
}

fn ask(socket: &mut Socket, link: u32) -> Result<Vec<Addr>, Refusal> {
    // Since Linux 4.20 the kernel then sends only what was asked for; before, callers sort it out.
    let _ = socket.raw().set_netlink_get_strict_chk(true);
    let mut body = AddressMessage::default();
    body.header.index = link;
    let found =
        socket.dump(&format!("list addresses of link {link}"), &RouteNetlinkMessage::GetAddress(body));
    let addresses = found?.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewAddress(found) => Addr::from_message(&found),
        _ => None,
    });
    Ok(addresses.collect())
}

/// Whether the kernel looks for duplicates before an IPv6 address is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dad {
    /// It does, as the link's settings say.
    AsConfigured,
    /// The address works at once.
    Off,
}

/// Gives a link an address.
#[must_use]
pub fn add(link: u32, net: IpNet, dad: Dad) -> Message<RouteNetlinkMessage> {
    let mut body = message(link, net);
    if let IpNet::V4(v4) = net {
        // A /31 has two ends and no broadcast address.
        body.attributes.extend((v4.prefix_len() < 31).then(|| AddressAttribute::Broadcast(v4.broadcast())));
    } else if dad == Dad::Off {
        body.header.flags = AddressHeaderFlags::Nodad;
        body.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    Message {
        doing: format!("add address {net} to link {link}"),
        flags: CREATE,
        body: RouteNetlinkMessage::NewAddress(body),
    }
}

/// Takes an address from a link.
#[must_use]
pub fn delete(link: u32, net: IpNet) -> Message<RouteNetlinkMessage> {
    let body = RouteNetlinkMessage::DelAddress(message(link, net));
    Message { doing: format!("delete address {net} from link {link}"), flags: SET, body }
}

fn message(link: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(net.addr());
    message.header.prefix_len = net.prefix_len();
    message.header.index = link;
    message.attributes = vec![AddressAttribute::Local(net.addr()), AddressAttribute::Address(net.addr())];
    message
}

/// The kernel's word for an address's family.
#[must_use]
pub fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
