//! Routes. The twin of `ip route`.

use super::RouteNetlinkMessage;
use super::SET;
use super::addr::family;
use super::event::{self, Group};
use super::socket::{Message, Socket};
use crate::kernel::refusal::Refusal;
use crate::spec::Route;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REQUEST};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteNextHop, RouteProtocol, RouteScope,
    RouteType,
};
use nix::errno::Errno;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// `RT_TABLE_MAIN`
pub const MAIN_TABLE: u32 = 254;

/// Adds `route` over `link`; its gateway, when it has none, is `gateway`.
///
/// It may stand beside others to the same destination, since a container may have several networks with a
/// default route each: in IPv4 the one that was added last stands first and is in use, in IPv6 those of one
/// metric become next hops of one route. The very same route twice is `EEXIST`.
#[must_use]
pub fn add(link: u32, route: &Route, gateway: Option<IpAddr>) -> Message<RouteNetlinkMessage> {
    let via = route.gw.or(gateway);
    // 0 is what a config means by "none given"; the kernel would take it for the main table, too.
    let table = route.table.filter(|table| *table != 0).unwrap_or(MAIN_TABLE);
    let mut body = RouteMessage::default();
    body.header.address_family = family(route.dst.addr());
    body.header.destination_prefix_length = route.dst.prefix_len();
    body.header.protocol = RouteProtocol::Boot;
    body.header.kind = RouteType::Unicast;
    body.header.scope = route.scope.map_or(RouteScope::Universe, RouteScope::from);
    // The header has a byte for the table; larger numbers go by the attribute alone.
    body.header.table = u8::try_from(table).unwrap_or(0);
    body.attributes = vec![
        RouteAttribute::Destination(route.dst.network().into()),
        RouteAttribute::Oif(link),
        RouteAttribute::Table(table),
    ];
    body.attributes.extend(via.map(|via| RouteAttribute::Gateway(via.into())));
    body.attributes.extend((route.priority != 0).then_some(RouteAttribute::Priority(route.priority)));
    let metrics =
        [(route.mtu, RouteMetric::Mtu(route.mtu)), (route.advmss, RouteMetric::Advmss(route.advmss))];
    let metrics: Vec<_> =
        metrics.into_iter().filter(|(value, _)| *value != 0).map(|(_, metric)| metric).collect();
    body.attributes.extend((!metrics.is_empty()).then_some(RouteAttribute::Metrics(metrics)));
    let via = via.map_or(String::new(), |via| format!(" via {via}"));
    Message {
        doing: format!("add route {}{via} (table {table}, priority {})", route.dst, route.priority),
        flags: SET | NLM_F_CREATE,
        body: RouteNetlinkMessage::NewRoute(body),
    }
}

/// A route that the kernel has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The route; `priority`, `mtu`, `advmss` are 0 and `table`, `scope` are given whatever they are.
    pub route: Route,
    /// Index of the link that it leads over.
    pub link: Option<u32>,
}

/// All unicast routes of both families, of every table; one with several next hops is a route by each.
///
/// # Errors
/// The kernel's refusal.
pub fn list(socket: &mut Socket) -> Result<Vec<Found>, Refusal> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut body = RouteMessage::default();
        body.header.address_family = family;
        let found = socket.dump("list routes", &RouteNetlinkMessage::GetRoute(body))?;
        routes.extend(found.into_iter().flat_map(|message| match message {
            RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Unicast => read(&route),
            _ => vec![],
        }));
    }
    Ok(routes)
}

/// The index of the link over which the kernel would send to `ip`; `None` when it knows no way.
///
/// # Errors
/// Any refusal but that there is no route.
pub fn link_to(socket: &mut Socket, ip: IpAddr) -> Result<Option<u32>, Refusal> {
    match socket.get(way_to(ip)) {
        Ok(RouteNetlinkMessage::NewRoute(route)) => Ok(read(&route).first().and_then(|found| found.link)),
        Ok(_) => Ok(None),
        Err(refusal) if matches!(refusal.errno, Errno::ENETUNREACH | Errno::EHOSTUNREACH) => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// Waits until the kernel takes packets to these addresses as the machine's own, as it does with an IPv4 address from
/// the moment that it is added. With an IPv6 address, even one without duplicate address detection, it begins with
/// that later, from a queue that all namespaces share: when hundreds of containers start, seconds later. Until then
/// nobody can reach the address, and no neighbour is answered.
///
/// `open` opens a socket in `socket`'s namespace.
///
/// # Errors
/// `ETIMEDOUT` after `limit`; `EINTR` when a signal told us to stop; the kernel's refusal; what `open` says.
pub fn await_local<E: From<Refusal>>(
    socket: &mut Socket,
    ips: &[Ipv6Addr],
    limit: Duration,
    open: impl FnOnce() -> Result<Socket, E>,
) -> Result<(), E> {
    // Mostly it is done by now.
    if ips.is_empty() || are_local(socket, ips)? {
        return Ok(());
    }
    let ready = || {
        let local = list_local(socket)?;
        Ok(ips.iter().all(|ip| local.contains(ip)).then_some(()))
    };
    Ok(event::wait(&mut open()?, Group::Ipv6Route, limit, ready)?)
}

/// The quick question. A rule, or a VRF's table, may hide from this what the list shows.
fn are_local(socket: &mut Socket, ips: &[Ipv6Addr]) -> Result<bool, Refusal> {
    let found = socket.get_all(ips.iter().map(|ip| way_to((*ip).into())).collect())?;
    Ok(found.iter().all(|answer| {
        matches!(answer, Ok(RouteNetlinkMessage::NewRoute(route)) if route.header.kind == RouteType::Local)
    }))
}

/// The IPv6 addresses of this machine that packets reach.
fn list_local(socket: &mut Socket) -> Result<HashSet<Ipv6Addr>, Refusal> {
    let mut body = RouteMessage::default();
    body.header.address_family = AddressFamily::Inet6;
    let found = socket.dump("list local routes", &RouteNetlinkMessage::GetRoute(body))?;
    let destination = |message: RouteNetlinkMessage| match message {
        RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Local => {
            route.attributes.into_iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(ip),
                _ => None,
            })
        }
        _ => None,
    };
    Ok(found.into_iter().filter_map(destination).collect())
}

/// Asks which route the kernel would take to `ip`.
fn way_to(ip: IpAddr) -> Message<RouteNetlinkMessage> {
    let mut body = RouteMessage::default();
    body.header.address_family = family(ip);
    body.header.destination_prefix_length = IpNet::from(ip).max_prefix_len();
    body.attributes = vec![RouteAttribute::Destination(ip.into())];
    Message {
        doing: format!("look up the route to {ip}"),
        flags: NLM_F_REQUEST,
        body: RouteNetlinkMessage::GetRoute(body),
    }
}

/// The route by each of its next hops.
pub(in crate::kernel) fn read(message: &RouteMessage) -> Vec<Found> {
    let Some(route) = read_one(message) else { return vec![] };
    let hops = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    let Some(hops) = hops else { return vec![route] };
    let by = |hop: &RouteNextHop| {
        let mut found = route.clone();
        found.link = Some(hop.interface_index);
        found.route.gw = hop.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(address) => ip(address),
            _ => None,
        });
        found
    };
    hops.iter().map(by).collect()
}

fn read_one(message: &RouteMessage) -> Option<Found> {
    let any: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut dst = any;
    let mut found = Found {
        route: Route {
            dst: IpNet::new(any, 0).ok()?,
            gw: None,
            mtu: 0,
            advmss: 0,
            priority: 0,
            table: Some(u32::from(message.header.table)),
            scope: Some(u8::from(message.header.scope)),
        },
        link: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => dst = ip(address)?,
            RouteAttribute::Gateway(address) => found.route.gw = ip(address),
            RouteAttribute::Oif(index) => found.link = Some(*index),
            RouteAttribute::Priority(priority) => found.route.priority = *priority,
            RouteAttribute::Table(table) => found.route.table = Some(*table),
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    match metric {
                        RouteMetric::Mtu(mtu) => found.route.mtu = *mtu,
                        RouteMetric::Advmss(advmss) => found.route.advmss = *advmss,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    found.route.dst = IpNet::new(dst, message.header.destination_prefix_length).ok()?;
    Some(found)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}
