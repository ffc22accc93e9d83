//! CHECK: is everything as ADD left it? Each failure says what was expected and what is there.

use crate::conf::{Conf, Layer, Reflect};
use crate::vlan::{GatewayConf, is_complete, must_switch_on, port_of};
use crate::{masq, spoof};
use cni_common::kernel::netlink::vlan::{self, Membership, Vlans};
use cni_common::kernel::netlink::{Link, Socket, addr, link, route};
use cni_common::kernel::netns::Netns;
use cni_common::kernel::sysctl::{self, Key};
use cni_common::spec::{
    Attachment, Code, Coded, Error, IfName, Interface, IpConfig, MacAddr, Result, Route, Success,
};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fmt::Display;

/// What CHECK looks at.
pub struct Check<'a> {
    /// The config.
    pub conf: &'a Conf,
    /// Whose attachment it is.
    pub attachment: &'a Attachment,
    /// The container's namespace as `CNI_NETNS` names it.
    pub sandbox: &'a str,
    /// What ADD, and the plugins after us, answered.
    pub prev: &'a Success,
}

fn differs(what: impl Display, expected: impl Display, found: impl Display) -> Error {
    Error::new(Code::NOT_AS_ADDED, format!("{what}: expected {expected}, found {found}"))
}

fn same<T: PartialEq + Display>(what: impl Display, expected: T, found: T) -> Result<()> {
    if expected == found { Ok(()) } else { Err(differs(what, expected, found)) }
}

fn mac_of(link: &Link) -> String {
    link.mac.map_or("none".to_owned(), |mac| mac.to_string())
}

/// An interface that the result lists with its MAC still has it.
fn same_mac(link: &Link, listed: &Interface) -> Result<()> {
    let given = listed.mac.to_ascii_lowercase();
    if given.is_empty() { Ok(()) } else { same(format!("address of {}", link.name), given, mac_of(link)) }
}

impl Check<'_> {
    /// Looks at everything.
    ///
    /// # Errors
    /// Code 100: the first thing that is not as it should be.
    pub fn run(&self, netns: &Netns) -> Result<()> {
        let mut host = Socket::route()?;
        let mut inside = netns.run(|| Ok(Socket::route()?))?;
        let bridge = self.bridge(&mut host)?;
        let container = self.container(&mut inside)?;
        let port = self.port(&mut host, &bridge, &container)?;
        let vlans = self.vlans(&mut host, &bridge, &port)?;
        if matches!(self.conf.layer, Layer::L3 { .. }) {
            self.addresses(&mut inside, &container)?;
            self.routes(&mut inside, &container)?;
            self.gateway(&mut host, &bridge, &vlans)?;
            self.masquerade()?;
        }
        Ok(())
    }

    fn on_host(&self, name: &str) -> Option<&Interface> {
        self.prev.interfaces.iter().find(|interface| interface.name == name && interface.sandbox.is_empty())
    }

    fn bridge(&self, host: &mut Socket) -> Result<Link> {
        let name = &self.conf.bridge;
        let link = link::find(host, name)?
            .ok_or_else(|| differs(format!("bridge {name}"), "a bridge", "nothing"))?;
        let kind = link.kind.clone().unwrap_or_else(|| "no virtual link".to_owned());
        same(format!("kind of {name}"), "bridge".to_owned(), kind)?;
        same(format!("state of bridge {name}"), "up", if link.up { "up" } else { "down" })?;
        // Only a gateway's was given for good: a bridge of others may follow its ports.
        let is_pinned = self.conf.is_gateway && self.conf.vlan_gateway.is_none();
        if let Some(listed) = self.on_host(name.as_str()).filter(|_| is_pinned) {
            same_mac(&link, listed)?;
        }
        if self.conf.reflect == Reflect::Promisc {
            same(format!("promiscuous mode of bridge {name}"), true, link.promisc)?;
        }
        Ok(link)
    }

    fn container(&self, inside: &mut Socket) -> Result<Link> {
        let ifname = &self.attachment.ifname;
        let listed =
            self.prev.interfaces.iter().find(|one| one.name == ifname.as_str() && !one.sandbox.is_empty());
        let listed = listed
            .ok_or_else(|| differs("prevResult", format!("the interface {ifname}"), "no such interface"))?;
        if listed.sandbox != self.sandbox {
            let msg = format!(
                "Sandbox in prevResult {} doesn't match configured netns: {}",
                listed.sandbox, self.sandbox
            );
            return Err(Error::new(Code::NOT_AS_ADDED, msg));
        }
        let link = link::find(inside, ifname)?;
        let link = link.ok_or_else(|| differs(format!("{ifname} in the container"), "a veth", "nothing"))?;
        let kind = link.kind.clone().unwrap_or_else(|| "no virtual link".to_owned());
        same(format!("kind of {ifname} in the container"), "veth".to_owned(), kind)?;
        same_mac(&link, listed)?;
        let wanted_up = self.conf.layer != Layer::L2 { up: false };
        if wanted_up && !link.up {
            return Err(differs(format!("state of {ifname} in the container"), "up", "down"));
        }
        Ok(link)
    }

    fn port(&self, host: &mut Socket, bridge: &Link, container: &Link) -> Result<Link> {
        let peer = container.bound_to.map(|index| link::find_index(host, index)).transpose()?.flatten();
        let is_peer = |link: &Link| link.is_veth() && link.bound_to == Some(container.index);
        let peer = peer.filter(is_peer).ok_or_else(|| {
            differs(format!("host end of {}", container.name), "a veth on the host", "nothing")
        })?;
        let name = &peer.name;
        same(format!("state of {name}"), "up", if peer.up { "up" } else { "down" })?;
        let listed = self
            .on_host(name)
            .ok_or_else(|| differs("prevResult", format!("the host veth {name}"), "no such interface"))?;
        same_mac(&peer, listed)?;
        if peer.master != Some(bridge.index) {
            let found =
                peer.master.map_or("no bridge".to_owned(), |index| format!("the link with index {index}"));
            return Err(differs(
                format!("bridge of {name}"),
                format!("{} (index {})", bridge.name, bridge.index),
                found,
            ));
        }
        same(format!("hairpin mode of {name}"), self.conf.reflect == Reflect::Hairpin, peer.hairpin)?;
        same(format!("port isolation of {name}"), self.conf.port_isolation, peer.isolated)?;
        self.mac_guard(name, container)?;
        Ok(peer)
    }

    /// The VLANs of all ports, once those of ours are right.
    fn vlans(&self, host: &mut Socket, bridge: &Link, port: &Link) -> Result<BTreeMap<u32, Vlans>> {
        let Some(expected) = self.conf.vlan.of_port() else { return Ok(BTreeMap::new()) };
        same(format!("VLAN filtering of bridge {}", bridge.name), true, bridge.vlan_filtering)?;
        let vlans = vlan::list(host)?;
        let mut found = vlans.get(&port.index).cloned().unwrap_or_default();
        // The reference's release 1.1 leaves its ports in the default VLAN, always.
        let ours = port.alias.as_ref() == Some(&self.attachment.tag());
        if self.conf.vlan.preserve_default || !ours {
            found.forget(bridge.default_pvid, &expected);
        }
        if found != expected {
            return Err(differs(format!("VLANs of {}", port.name), expected, found));
        }
        Ok(vlans)
    }

    fn mac_guard(&self, port: &str, container: &Link) -> Result<()> {
        if !self.conf.mac_spoof_check {
            return Ok(());
        }
        let name = IfName::try_from(port).coded(Code::INTERNAL, "the kernel's name of a link")?;
        let mac = container.mac.unwrap_or(MacAddr::ZERO);
        match spoof::missing(self.attachment, &name, mac)? {
            Some(found) => {
                Err(differs(format!("addresses that macspoofchk lets {port} send by"), mac, found))
            }
            None => Ok(()),
        }
    }

    /// The addresses of the result that are ours: those of other interfaces are other plugins'.
    fn own_ips(&self) -> impl Iterator<Item = &IpConfig> {
        let is_ours = |index: i64| {
            let interface = usize::try_from(index).ok().and_then(|index| self.prev.interfaces.get(index));
            interface
                .is_some_and(|one| one.name == self.attachment.ifname.as_str() && one.sandbox == self.sandbox)
        };
        self.prev.ips.iter().filter(move |ip| ip.interface.is_none_or(is_ours))
    }

    fn addresses(&self, inside: &mut Socket, container: &Link) -> Result<()> {
        let have: Vec<IpNet> = addr::list(inside, container.index)?.iter().map(|addr| addr.net).collect();
        if let Some(ip) = self.own_ips().find(|ip| !have.contains(&ip.address)) {
            return Err(differs(format!("addresses of {}", container.name), ip.address, list(&have)));
        }
        Ok(())
    }

    /// The routes over our interface: another network of the container may have one to the same destination.
    fn routes(&self, inside: &mut Socket, container: &Link) -> Result<()> {
        let have = route::list(inside)?;
        for wanted in &self.prev.routes {
            let same_dst: Vec<_> = have
                .iter()
                .filter(|found| found.link == Some(container.index))
                .map(|found| &found.route)
                .filter(|found| found.dst == wanted.dst.trunc())
                .collect();
            if !same_dst.iter().any(|found| fulfils(found, wanted)) {
                let found: Vec<String> = same_dst.into_iter().map(show_route).collect();
                return Err(differs("routes in the container", show_route(wanted), list(&found)));
            }
        }
        Ok(())
    }

    fn gateway(&self, host: &mut Socket, bridge: &Link, vlans: &BTreeMap<u32, Vlans>) -> Result<()> {
        if !self.conf.is_gateway {
            return Ok(());
        }
        let of_vlan = match &self.conf.vlan_gateway {
            Some(conf) => Some(self.vlan_gateway(host, bridge, conf, vlans)?),
            None => None,
        };
        let (what, carrier) = of_vlan.as_ref().map_or(("bridge", bridge), |link| ("VLAN gateway", link));
        let have: Vec<IpNet> = addr::list(host, carrier.index)?.iter().map(|addr| addr.net).collect();
        for ip in self.own_ips() {
            let Some(gateway) = ip.gateway else { continue };
            if !have.iter().any(|net| net.addr() == gateway) {
                return Err(differs(format!("addresses of {what} {}", carrier.name), gateway, list(&have)));
            }
            let key = if gateway.is_ipv4() { Key::ForwardV4 } else { Key::ForwardV6 };
            let now = sysctl::read(&key).unwrap_or_else(|error| error.to_string());
            same(format!("/proc/sys/{key}"), "1".to_owned(), now)?;
        }
        Ok(())
    }

    fn vlan_gateway(
        &self,
        host: &mut Socket,
        bridge: &Link,
        conf: &GatewayConf,
        vlans: &BTreeMap<u32, Vlans>,
    ) -> Result<Link> {
        let name = &conf.name;
        let link = link::find(host, name)?
            .ok_or_else(|| differs(format!("VLAN gateway {name}"), "a veth", "nothing"))?;
        if let Some(listed) = self.on_host(name.as_str()) {
            same_mac(&link, listed)?;
        }
        let port = port_of(host, &link)?.filter(|port| port.master == Some(bridge.index));
        let port = port.ok_or_else(|| {
            differs(format!("other end of VLAN gateway {name}"), format!("a port of {}", bridge.name), "none")
        })?;
        for link in [&link, &port] {
            same(format!("state of {}", link.name), "up", if link.up { "up" } else { "down" })?;
        }
        let expected: Vlans = [(conf.vid, Membership::NATIVE)].into_iter().collect();
        let mut found = vlans.get(&port.index).cloned().unwrap_or_default();
        if !is_complete(&link) {
            found.forget(bridge.default_pvid, &expected);
        }
        if found != expected {
            return Err(differs(
                format!("VLANs of {}, port of VLAN gateway {name}", port.name),
                expected,
                found,
            ));
        }
        Ok(link)
    }

    fn masquerade(&self) -> Result<()> {
        if !self.conf.ip_masq {
            return Ok(());
        }
        let nets: Vec<IpNet> = self.own_ips().map(|ip| ip.address).collect();
        match masq::missing(self.attachment, &nets)? {
            Some((ip, found)) => Err(differs(format!("masquerading of {ip}"), "an element of ours", found)),
            None => Ok(()),
        }
    }
}

/// Whether a route that the kernel has is the one that the result tells of. What the result leaves open, it may have
/// any way.
fn fulfils(found: &Route, wanted: &Route) -> bool {
    let table = wanted.table.filter(|table| *table != 0).unwrap_or(route::MAIN_TABLE);
    found.table == Some(table)
        && wanted.gw.is_none_or(|gw| gw.is_unspecified() || found.gw == Some(gw))
        && [(wanted.priority, found.priority), (wanted.mtu, found.mtu), (wanted.advmss, found.advmss)]
            .iter()
            .all(|(wanted, found)| *wanted == 0 || wanted == found)
        // The kernel keeps no scope for IPv6.
        && (wanted.dst.addr().is_ipv6() || wanted.scope.is_none_or(|scope| found.scope == Some(scope)))
}

fn show_route(route: &Route) -> String {
    let optional =
        |name: &str, value: Option<String>| value.map_or(String::new(), |value| format!(" {name} {value}"));
    let number = |name: &str, value: u32| optional(name, (value != 0).then(|| value.to_string()));
    format!(
        "{}{}{}{}{}{}{}",
        route.dst,
        optional("via", route.gw.map(|gw| gw.to_string())),
        number("mtu", route.mtu),
        number("advmss", route.advmss),
        number("priority", route.priority),
        optional("table", route.table.map(|table| table.to_string())),
        optional("scope", route.scope.map(|scope| scope.to_string())),
    )
}

fn list<T: Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// STATUS: a link that has the bridge's name must be a bridge, and one that can have the config's VLANs.
///
/// # Errors
/// Why an ADD would fail.
pub fn bridge_is_free_or_ours(conf: &Conf) -> Result<()> {
    let mut host = Socket::route()?;
    let Some(link) = link::find(&mut host, &conf.bridge)? else { return Ok(()) };
    if !link.is_bridge() {
        let msg = format!("{:?} already exists but is not a bridge", link.name);
        let kind = link.kind.unwrap_or_else(|| "physical link".to_owned());
        return Err(Error::config(msg).details(format!("it is a {kind}")));
    }
    let index = link.index;
    must_switch_on(&conf.vlan, &link, || Ok(link::list(&mut host, Some(index))?)).map(drop)
}
