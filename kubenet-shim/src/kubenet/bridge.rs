//! The bridge that all pods of the node share, with the gateway of each range.

use super::{FALLBACK_MTU, Hairpin, Node, dedup, ranges};
use crate::cidr::gateway;
use cni_common::kernel::netlink::addr::{self, Dad};
use cni_common::kernel::netlink::link::{self, NewBridge};
use cni_common::kernel::netlink::{Link, Socket};
use cni_common::kernel::sysctl::{self, Key};
use cni_common::kernel::{Refusal, absent_ok, forwarding};
use cni_common::spec::{Code, Coded, Error, Result};
use ipnet::IpNet;
use nix::errno::Errno;

/// The bridge as it is; none when there is none yet.
///
/// # Errors
/// Code 5 when something else has its name.
pub fn find(socket: &mut Socket, node: &Node) -> Result<Option<Link>> {
    match link::find(socket, &node.bridge)? {
        Some(found) if !found.is_bridge() => {
            Err(Error::new(Code::IO, format!("{} already exists but is not a bridge", node.bridge)).details(
                format!(
                    "it is {}; give kubenet another name for its bridge, or delete that link",
                    found.kind_name()
                ),
            ))
        }
        found => Ok(found),
    }
}

/// Sees to it that the bridge is there, up, with its gateways and in its mode, and that the node forwards. What had to be
/// changed goes to `changed`, in words for a log.
///
/// # Errors
/// Code 5: what the kernel says.
pub fn ensure(node: &Node, changed: &mut Vec<String>) -> Result<Link> {
    let mut socket = Socket::route()?;
    let bridge = match find(&mut socket, node)? {
        Some(bridge) => bridge,
        None => create(&mut socket, node, changed)?,
    };
    if !bridge.up {
        socket.ack(link::set_up(bridge.index, true))?;
        changed.push(format!("{} set up", node.bridge));
    }
    ensure_addresses(&mut socket, node, &bridge, changed)?;
    ensure_mode(&mut socket, node, &bridge, changed)?;
    for (key, v4) in [(Key::ForwardV4, true), (Key::ForwardV6, false)] {
        if node.cidrs.iter().any(|cidr| cidr.addr().is_ipv4() == v4)
            && forwarding::enable(v4).io(format!("write 1 to /proc/sys/{key}"))?
        {
            changed.push(format!("{key} set to 1"));
        }
    }
    // Without the module nothing bridged is seen, and these keys do not exist: that is as good.
    for key in [Key::BridgeCallsV4, Key::BridgeCallsV6] {
        if sysctl::read(&key).is_ok()
            && let Err(error) = ensure_sysctl(&key, changed)
        {
            // Pods work without; only kube-proxy's rules miss what they send to each other.
            cni_common::log!("{error}");
        }
    }
    Ok(bridge)
}

fn ensure_sysctl(key: &Key, changed: &mut Vec<String>) -> Result<()> {
    if sysctl::read(key).is_ok_and(|now| now == "1") {
        return Ok(());
    }
    sysctl::ensure(key, "1").io(format!("write 1 to /proc/sys/{key}"))?;
    changed.push(format!("{key} set to 1"));
    Ok(())
}

/// The MTU in bytes that the bridge is made with: as told, or the smallest of the node's links.
fn wanted_mtu(socket: &mut Socket, node: &Node) -> Result<u32> {
    match node.mtu {
        Some(mtu) => Ok(mtu),
        None => Ok(link::smallest_mtu(&link::list(socket, None)?).unwrap_or(FALLBACK_MTU)),
    }
}

fn create(socket: &mut Socket, node: &Node, changed: &mut Vec<String>) -> Result<Link> {
    let bridge = NewBridge {
        name: &node.bridge,
        // Of its own and for good: the smallest of its ports' would change as pods come and go.
        mac: link::random_mac(),
        mtu: Some(wanted_mtu(socket, node)?),
        promisc: node.hairpin == Hairpin::Promiscuous,
        vlan_filtering: false,
    };
    match socket.ack(link::create_bridge(&bridge)) {
        // By another ADD, this moment.
        Err(refusal) if refusal.errno == Errno::EEXIST => {}
        made => {
            made.map_err(|refusal| refusal.of_module("bridge"))?;
            sysctl::use_addresses_at_once(&node.bridge);
            sysctl::ignore_router_advertisements(&node.bridge);
            changed.push(format!("{} made", node.bridge));
        }
    }
    let gone = || Error::new(Code::TRY_AGAIN, format!("{} was deleted meanwhile", node.bridge));
    find(socket, node)?.ok_or_else(gone)
}

/// Adds the gateways that are missing. Addresses of other ranges, an earlier one's, go once no pod can use them.
fn ensure_addresses(
    socket: &mut Socket,
    node: &Node,
    bridge: &Link,
    changed: &mut Vec<String>,
) -> Result<()> {
    let have: Vec<IpNet> = addr::list(socket, bridge.index)?
        .into_iter()
        .filter(|addr| addr.link == bridge.index && !is_link_local(&addr.net))
        .map(|addr| addr.net)
        .collect();
    let wanted: Vec<IpNet> = node.cidrs.iter().filter_map(gateway).collect();
    if wanted.iter().any(|net| net.addr().is_ipv6()) {
        let key = Key::V6(&node.bridge, "disable_ipv6");
        sysctl::ensure(&key, "0").io(format!("write 0 to /proc/sys/{key}"))?;
    }
    for net in wanted.iter().filter(|net| !have.contains(net)) {
        match socket.ack(addr::add(bridge.index, *net, Dad::Off)) {
            Err(refusal) if refusal.errno == Errno::EEXIST => {}
            added => {
                added?;
                changed.push(format!("address {net} added to {}", node.bridge));
            }
        }
    }
    let strangers: Vec<&IpNet> = earlier_gateways(node, &have).collect();
    if strangers.is_empty() {
        return Ok(());
    }
    let in_use = ranges::of_earlier_pods(node);
    for net in strangers.into_iter().filter(|net| !in_use.contains_key(&net.trunc())) {
        absent(socket.ack(addr::delete(bridge.index, *net)))?;
        changed.push(format!("address {net} deleted from {}: no pod uses it", node.bridge));
    }
    Ok(())
}

/// The addresses of a bridge that look like the gateway of a range that the node had before.
pub fn earlier_gateways<'a>(node: &Node, have: &'a [IpNet]) -> impl Iterator<Item = &'a IpNet> {
    let current: Vec<IpNet> = node.cidrs.iter().filter_map(gateway).collect();
    have.iter().filter(move |net| !current.contains(net) && gateway(&net.trunc()).as_ref() == Some(*net))
}

fn is_link_local(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.addr().is_link_local(),
        IpNet::V6(net) => net.addr().is_unicast_link_local(),
    }
}

fn absent(result: Result<(), Refusal>) -> Result<(), Refusal> {
    match result {
        Err(refusal) if refusal.errno == Errno::EADDRNOTAVAIL => Ok(()),
        other => absent_ok(other),
    }
}

/// Promiscuous with its rules, or neither, also after the mode was changed.
fn ensure_mode(socket: &mut Socket, node: &Node, bridge: &Link, changed: &mut Vec<String>) -> Result<()> {
    let promiscuous = node.hairpin == Hairpin::Promiscuous;
    let dedup = promiscuous && !dedup::is_ipvs_in_use();
    if promiscuous && !bridge.promisc {
        socket.ack(link::set_promisc(bridge.index, true))?;
        changed.push(format!("{} made promiscuous", node.bridge));
    }
    let Some(mac) = bridge.mac.filter(|_| dedup) else {
        // The rules say that it was us who made it so.
        if dedup::remove(node)? {
            changed.push("rules against packets that come twice deleted".to_owned());
            if !promiscuous && bridge.promisc {
                socket.ack(link::set_promisc(bridge.index, false))?;
                changed.push(format!("{} no longer promiscuous", node.bridge));
            }
        }
        return Ok(());
    };
    if dedup::ensure(node, mac)? {
        changed.push("rules against packets that come twice set up".to_owned());
    }
    Ok(())
}
