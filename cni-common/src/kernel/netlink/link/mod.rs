//! Links: what can be asked about any, and a file for each kind that is made. The twin of `ip link`.

mod bridge;
mod dummy;
mod ifb;
mod veth;

pub use bridge::{NewBridge, PortFlags, create_bridge, mark_port, set_bridge, set_vlan_filtering};
pub use dummy::{NewDummy, create_dummy};
pub use ifb::{claim_ifb, create_ifb};
pub use veth::{VethPair, create_veth, host_veth, peer};

use super::RouteNetlinkMessage;
use super::SET;
use super::socket::{Message, Socket};
use crate::kernel::refusal::{Refusal, absent_ok};
use crate::spec::{IfName, MacAddr};
use netlink_packet_core::NLM_F_REQUEST;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecUnspec, InetDevConf, InfoBridge, InfoBridgePort, InfoData, InfoPortData, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, State,
};
use nix::errno::Errno;
use std::hash::{BuildHasher, RandomState};

/// So many links are deleted at once: nobody else can change a link meanwhile.
const TOGETHER: usize = 32;

/// What is known of a link.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the kernel's, and any combination exists"
)]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address, if it has one.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// It leads back to the machine itself.
    pub loopback: bool,
    /// It has one neighbour: a tunnel, a modem.
    pub point_to_point: bool,
    /// Made promiscuous by an administrator (a capture does not count).
    pub promisc: bool,
    /// Operationally up: carrier, and ready.
    pub running: bool,
    /// The driver: `bridge`, `veth`, …
    pub kind: Option<String>,
    /// Index of the bridge (or bond) that it is a port of.
    pub master: Option<u32>,
    /// Index of what it is bound to: a veth's peer, in the peer's namespace.
    pub bound_to: Option<u32>,
    /// What it is bound to is in another namespace.
    pub is_bound_elsewhere: bool,
    /// Text that says whose it is.
    pub alias: Option<String>,
    /// The number that makes it one of a group (`ip link set group`), 0 unless somebody gave it another.
    pub group: u32,
    /// Bridge port flag: frames may leave by the port they came from.
    pub hairpin: bool,
    /// Bridge port flag: no frames to other isolated ports.
    pub isolated: bool,
    /// Of a bridge: whether its ports are told apart by VLANs.
    pub vlan_filtering: bool,
    /// Of a bridge: the VLAN that a new port carries without a tag, 0 for none; `None` when this kernel's bridges
    /// know no VLANs.
    pub default_pvid: Option<u16>,
}

impl Link {
    /// Reads the kernel's message.
    #[must_use]
    pub fn from_message(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            up: flags.contains(LinkFlags::Up),
            promisc: flags.contains(LinkFlags::Promisc),
            loopback: flags.contains(LinkFlags::Loopback),
            point_to_point: flags.contains(LinkFlags::Pointopoint),
            ..Self::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(MacAddr),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::OperState(state) => link.running = state == State::Up,
                LinkAttribute::Controller(index) => link.master = Some(index),
                LinkAttribute::Link(index) => link.bound_to = Some(index),
                LinkAttribute::LinkNetNsId(_) => link.is_bound_elsewhere = true,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Group(group) => link.group = group,
                LinkAttribute::LinkInfo(infos) => infos.into_iter().for_each(|info| link.read_info(info)),
                _ => {}
            }
        }
        link
    }

    fn read_info(&mut self, info: LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.kind = Some(kind.to_string()),
            LinkInfo::PortData(InfoPortData::BridgePort(settings)) => {
                for setting in settings {
                    match setting {
                        InfoBridgePort::HairpinMode(on) => self.hairpin = on,
                        InfoBridgePort::Isolated(on) => self.isolated = on,
                        _ => {}
                    }
                }
            }
            LinkInfo::Data(InfoData::Bridge(settings)) => {
                for setting in settings {
                    match setting {
                        InfoBridge::VlanFiltering(on) => self.vlan_filtering = on,
                        InfoBridge::VlanDefaultPvid(vid) => self.default_pvid = Some(vid),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    /// What kind of link it is, for people.
    #[must_use]
    pub fn kind_name(&self) -> &str {
        self.kind.as_deref().unwrap_or("no virtual link")
    }

    /// Whether it is a bridge.
    #[must_use]
    pub fn is_bridge(&self) -> bool {
        self.kind.as_deref() == Some("bridge")
    }

    /// Whether it is an IFB, to which other links redirect what they receive.
    #[must_use]
    pub fn is_ifb(&self) -> bool {
        self.kind.as_deref() == Some("ifb")
    }

    /// Whether it is one end of a veth pair.
    #[must_use]
    pub fn is_veth(&self) -> bool {
        self.kind.as_deref() == Some("veth")
    }
}

/// The link called `name`, if there is one.
///
/// # Errors
/// Any refusal but "no such device".
pub fn find(socket: &mut Socket, name: &IfName) -> Result<Option<Link>, Refusal> {
    Ok(find_all(socket, &[name])?.pop().flatten())
}

/// The links with these names, each if there is one.
///
/// # Errors
/// Any refusal but "no such device".
pub fn find_all(socket: &mut Socket, names: &[&IfName]) -> Result<Vec<Option<Link>>, Refusal> {
    let ask = |name: &&IfName| {
        let body = message(0, vec![LinkAttribute::IfName(name.to_string()), without_statistics()]);
        question(format!("look up link {name}"), body)
    };
    socket.get_all(names.iter().map(ask).collect())?.into_iter().map(present).collect()
}

/// The link with that index, if there is one.
///
/// # Errors
/// Any refusal but "no such device".
pub fn find_index(socket: &mut Socket, index: u32) -> Result<Option<Link>, Refusal> {
    present(socket.get(question(format!("look up link {index}"), message(index, vec![without_statistics()]))))
}

fn question(doing: String, body: LinkMessage) -> Message<RouteNetlinkMessage> {
    Message { doing, flags: NLM_F_REQUEST, body: RouteNetlinkMessage::GetLink(body) }
}

fn present(answer: Result<RouteNetlinkMessage, Refusal>) -> Result<Option<Link>, Refusal> {
    match answer {
        Ok(RouteNetlinkMessage::NewLink(found)) => Ok(Some(Link::from_message(found))),
        Ok(_) => Ok(None),
        Err(refusal) if refusal.errno == Errno::ENODEV => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// All links of the socket's namespace, or all ports of the bridge with index `master`.
///
/// # Errors
/// The kernel's refusal.
pub fn list(socket: &mut Socket, master: Option<u32>) -> Result<Vec<Link>, Refusal> {
    let mut attributes = vec![without_statistics()];
    attributes.extend(master.map(LinkAttribute::Controller));
    let found = socket.dump("list links", &RouteNetlinkMessage::GetLink(message(0, attributes)))?;
    let links = found.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewLink(found) => Some(Link::from_message(found)),
        _ => None,
    });
    // A kernel that does not know the filter lists everything.
    Ok(links.filter(|link| master.is_none() || link.master == master).collect())
}

/// The MTU in bytes that a container can use whichever way its packets leave: the smallest of the machine's links to
/// elsewhere. None when it has no such link.
#[must_use]
pub fn smallest_mtu(links: &[Link]) -> Option<u32> {
    /// Every IPv4 host takes packets of this size (RFC 791).
    const LEAST: u32 = 576;
    // What containers have here leads to them, and has the MTU that was chosen for them.
    let is_for_containers = |link: &Link| link.is_veth() || link.is_bridge() || link.is_ifb();
    let leads_elsewhere =
        |link: &&Link| link.up && !link.loopback && !link.point_to_point && !is_for_containers(link);
    links.iter().filter(leads_elsewhere).map(|link| link.mtu.max(LEAST)).min()
}

/// Switches a link up or down.
#[must_use]
pub fn set_up(index: u32, up: bool) -> Message<RouteNetlinkMessage> {
    let mut body = message(index, vec![]);
    set_flag(&mut body, LinkFlags::Up, up);
    set(format!("set link {index} {}", if up { "up" } else { "down" }), body)
}

/// Makes a link announce its IPv4 addresses when it comes up (`net.ipv4.conf.IFNAME.arp_notify`), so that neighbours
/// learn at once where an address that was used before is now.
#[must_use]
pub fn announce_addresses(index: u32) -> Message<RouteNetlinkMessage> {
    let mut conf = InetDevConf::default();
    conf.arp_notify = 1;
    let conf = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(conf)]);
    let body = message(index, vec![LinkAttribute::AfSpecUnspec(vec![conf])]);
    set(format!("set arp_notify on link {index}"), body)
}

/// Switches a link's promiscuous mode on or off.
#[must_use]
pub fn set_promisc(index: u32, on: bool) -> Message<RouteNetlinkMessage> {
    let mut body = message(index, vec![]);
    set_flag(&mut body, LinkFlags::Promisc, on);
    set(format!("set link {index} promisc {}", if on { "on" } else { "off" }), body)
}

/// Gives a link its address.
#[must_use]
pub fn set_mac(index: u32, mac: MacAddr) -> Message<RouteNetlinkMessage> {
    set(
        format!("set address {mac} on link {index}"),
        message(index, vec![LinkAttribute::Address(mac.0.to_vec())]),
    )
}

/// Gives a link its alias; the empty text takes it away.
#[must_use]
pub fn set_alias(index: u32, alias: &str) -> Message<RouteNetlinkMessage> {
    let body = message(index, vec![LinkAttribute::IfAlias(alias.to_owned())]);
    set(format!("set alias {alias:?} on link {index}"), body)
}

/// Deletes a link; a veth's other end goes with it.
#[must_use]
pub fn delete(index: u32) -> Message<RouteNetlinkMessage> {
    let body = RouteNetlinkMessage::DelLink(message(index, vec![]));
    Message { doing: format!("delete link {index}"), flags: SET, body }
}

/// Deletes `links`; `all` are those that there are. The kernel waits for its own readers (RCU) after each link that is deleted by
/// itself, and once for a group of links: so these become groups, of numbers that none of the others has.
///
/// # Errors
/// The first refusal but that a link is gone. All the others are deleted then.
pub fn delete_many(socket: &mut Socket, links: &[&Link], all: &[Link]) -> Result<(), Refusal> {
    let mut outcome = Ok(());
    for some in links.chunks(TOGETHER) {
        if some.len() == 1 || delete_as_group(socket, some, free_group(all)).is_err() {
            for link in some {
                outcome = outcome.and(absent_ok(socket.ack(delete(link.index))));
            }
        }
    }
    outcome
}

/// All of them or none. One that is gone, or has gone to another namespace, is in no group.
fn delete_as_group(socket: &mut Socket, links: &[&Link], group: u32) -> Result<(), Refusal> {
    for joined in socket.batch(links.iter().map(|link| set_group(link.index, group)).collect())? {
        absent_ok(joined)?;
    }
    let body = RouteNetlinkMessage::DelLink(message(0, vec![LinkAttribute::Group(group)]));
    absent_ok(socket.ack(Message { doing: format!("delete the links of group {group}"), flags: SET, body }))
}

fn set_group(index: u32, group: u32) -> Message<RouteNetlinkMessage> {
    set(format!("put link {index} into group {group}"), message(index, vec![LinkAttribute::Group(group)]))
}

/// A random number, of which nobody else thinks meanwhile. Those that people use have names in iproute2, up to 255.
fn free_group(links: &[Link]) -> u32 {
    loop {
        let [.., a, b, c, d] = random();
        let group = u32::from_ne_bytes([a, b, c, d]);
        if group > 255 && links.iter().all(|link| link.group != group) {
            return group;
        }
    }
}

/// A random address that no vendor owns (locally administered, not a group).
#[must_use]
pub fn random_mac() -> MacAddr {
    let [_, _, mut mac @ ..] = random();
    mac[0] = (mac[0] & 0xfc) | 0x02;
    MacAddr(mac)
}

/// A random address of that kind that is higher than nearly any other: a bridge that takes the lowest of its
/// ports' keeps the one that it has.
#[must_use]
pub fn high_mac() -> MacAddr {
    let MacAddr(mut mac) = random_mac();
    mac[0] = 0xfe;
    MacAddr(mac)
}

fn random() -> [u8; 8] {
    // The standard library seeds each hasher from the kernel's random numbers.
    RandomState::new().hash_one(0).to_ne_bytes()
}

fn message(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    message
}

fn set_flag(message: &mut LinkMessage, flag: LinkFlags, on: bool) {
    message.header.change_mask |= flag;
    message.header.flags.set(flag, on);
}

fn set(doing: String, body: LinkMessage) -> Message<RouteNetlinkMessage> {
    Message { doing, flags: SET, body: RouteNetlinkMessage::NewLink(body) }
}

fn without_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_mtu_of_links_that_lead_elsewhere() {
        let link = |mtu, kind: Option<&str>| Link {
            mtu,
            up: true,
            kind: kind.map(ToOwned::to_owned),
            ..Link::default()
        };
        let lo = Link { loopback: true, ..link(65536, None) };
        let tunnel = Link { point_to_point: true, ..link(1280, Some("tun")) };
        let down = Link { up: false, ..link(1000, None) };
        let others =
            [lo, tunnel, down, link(1100, Some("veth")), link(1200, Some("bridge")), link(1300, Some("ifb"))];
        assert_eq!(smallest_mtu(&others), None);
        let with = |more: Vec<Link>| smallest_mtu(&[&others[..], &more].concat());
        assert_eq!(with(vec![link(9000, None)]), Some(9000));
        assert_eq!(with(vec![link(9000, None), link(1450, Some("vxlan"))]), Some(1450));
        assert_eq!(with(vec![link(300, None)]), Some(576));
    }
}
