//! CHECK: is everything as ADD left it? Each failure says what was expected and what is there.

use crate::conf::{Conf, Layer, Reflect};
use crate::spoof;
use crate::vlan::{GatewayConf, is_complete, must_switch_on};
use cni_common::interface::check::{Told, list, same, same_mac};
use cni_common::interface::masquerade;
use cni_common::kernel::netlink::vlan::{self, Membership, Vlans};
use cni_common::kernel::netlink::{Link, Socket, addr, link};
use cni_common::kernel::netns::Netns;
use cni_common::kernel::sysctl::{self, Key};
use cni_common::spec::{Code, Coded, Error, IfName, MacAddr, Result};
use ipnet::IpNet;
use std::collections::BTreeMap;

/// What CHECK looks at.
pub struct Check<'a> {
    /// The config.
    pub conf: &'a Conf,
    /// The attachment, and what ADD answered.
    pub told: Told<'a>,
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
        let container = self.told.container(&mut inside, "veth")?;
        if self.conf.layer != (Layer::L2 { up: false }) {
            self.told.is_up(&container)?;
        }
        let port = self.port(&mut host, &bridge, &container)?;
        let vlans = self.vlans(&mut host, &bridge, &port)?;
        if matches!(self.conf.layer, Layer::L3 { .. }) {
            self.told.addresses(&mut inside, &container)?;
            self.told.routes(&mut inside, &container)?;
            self.gateway(&mut host, &bridge, &vlans)?;
            self.masquerade()?;
        }
        Ok(())
    }

    fn bridge(&self, host: &mut Socket) -> Result<Link> {
        let name = &self.conf.bridge;
        let link = link::find(host, name)?
            .ok_or_else(|| Error::differs(format!("bridge {name}"), "a bridge", "nothing"))?;
        same(format!("kind of {name}"), "bridge", link.kind_name())?;
        same(format!("state of bridge {name}"), "up", if link.up { "up" } else { "down" })?;
        // Only a gateway's was given for good: a bridge of others may follow its ports.
        let is_pinned = self.conf.is_gateway && self.conf.vlan_gateway.is_none();
        if let Some(listed) = self.told.on_host(name.as_str()).filter(|_| is_pinned) {
            same_mac(&link, listed)?;
        }
        if self.conf.reflect == Reflect::Promisc {
            same(format!("promiscuous mode of bridge {name}"), true, link.promisc)?;
        }
        Ok(link)
    }

    fn port(&self, host: &mut Socket, bridge: &Link, container: &Link) -> Result<Link> {
        let peer = link::peer(host, container)?.ok_or_else(|| {
            Error::differs(format!("host end of {}", container.name), "a veth on the host", "nothing")
        })?;
        let name = &peer.name;
        same(format!("state of {name}"), "up", if peer.up { "up" } else { "down" })?;
        let listed = self.told.on_host(name).ok_or_else(|| {
            Error::differs("prevResult", format!("the host veth {name}"), "no such interface")
        })?;
        same_mac(&peer, listed)?;
        if peer.master != Some(bridge.index) {
            let found =
                peer.master.map_or("no bridge".to_owned(), |index| format!("the link with index {index}"));
            return Err(Error::differs(
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
        let ours = port.alias.as_ref() == Some(&self.told.attachment.tag());
        if self.conf.vlan.preserve_default || !ours {
            found.forget(bridge.default_pvid, &expected);
        }
        if found != expected {
            return Err(Error::differs(format!("VLANs of {}", port.name), expected, found));
        }
        Ok(vlans)
    }

    fn mac_guard(&self, port: &str, container: &Link) -> Result<()> {
        if !self.conf.mac_spoof_check {
            return Ok(());
        }
        let name = IfName::try_from(port).coded(Code::INTERNAL, "the kernel's name of a link")?;
        let mac = container.mac.unwrap_or(MacAddr::ZERO);
        match spoof::missing(self.told.attachment, &name, mac)? {
            Some(found) => {
                Err(Error::differs(format!("addresses that macspoofchk lets {port} send by"), mac, found))
            }
            None => Ok(()),
        }
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
        for ip in self.told.own_ips() {
            let Some(gateway) = ip.gateway else { continue };
            if !have.iter().any(|net| net.addr() == gateway) {
                return Err(Error::differs(
                    format!("addresses of {what} {}", carrier.name),
                    gateway,
                    list(&have),
                ));
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
            .ok_or_else(|| Error::differs(format!("VLAN gateway {name}"), "a veth", "nothing"))?;
        if let Some(listed) = self.told.on_host(name.as_str()) {
            same_mac(&link, listed)?;
        }
        let port = link::peer(host, &link)?.filter(|port| port.master == Some(bridge.index));
        let port = port.ok_or_else(|| {
            Error::differs(
                format!("other end of VLAN gateway {name}"),
                format!("a port of {}", bridge.name),
                "none",
            )
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
            return Err(Error::differs(
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
        let nets: Vec<IpNet> = self.told.own_ips().map(|ip| ip.address).collect();
        match masquerade::missing(self.told.attachment, &nets)? {
            Some((ip, found)) => {
                Err(Error::differs(format!("masquerading of {ip}"), "an element of ours", found))
            }
            None => Ok(()),
        }
    }
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
        return Err(Error::config(msg).details(format!("it is {}", link.kind_name())));
    }
    let index = link.index;
    must_switch_on(&conf.vlan, &link, || Ok(link::list(&mut host, Some(index))?)).map(drop)
}
