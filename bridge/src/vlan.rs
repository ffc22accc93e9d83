//! VLANs (`vlan`, `vlanTrunk`, `preserveDefaultVlan`): the container's port carries those of the config and no others, and
//! the gateway of a VLAN stands on a veth of its own.
//!
//! The gateway of network `vlan: 100` on `cni0` is the link `cni0.100`. Its other end is a port of the bridge, with that
//! VLAN as its PVID. It is made by the first ADD and stays, as the bridge does. Its alias is set when all is done, so
//! one without (an ADD that was killed, another release of the plugin) is completed by the next.

use cni_common::interface::site::PATIENCE;
use cni_common::kernel::Refusal;
use cni_common::kernel::netlink::event::{self, Group};
use cni_common::kernel::netlink::link::{VethPair, random_mac};
use cni_common::kernel::netlink::vlan::{self, Membership, Vlans};
use cni_common::kernel::netlink::{Link, Socket, all_ok, link};
use cni_common::kernel::netns::open_own;
use cni_common::kernel::sysctl;
use cni_common::owner::digest;
use cni_common::spec::{Code, Coded, Error, IfName, Result};
use nix::errno::Errno;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::os::fd::AsRawFd;

/// The VLANs that there are (IEEE 802.1Q: 0 and 4095 are not for use).
const VIDS: std::ops::RangeInclusive<i64> = 1..=4094;
/// What the gateway's alias says when it is done.
const DONE: &str = "cni gateway";

/// What the config says about VLANs, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VlanConf {
    /// The VLAN of frames without a tag.
    pub native: Option<u16>,
    /// Those that the container sends and gets with a tag; `None` without the key.
    pub trunk: Option<BTreeSet<u16>>,
    /// Whether the port also stays in the bridge's default VLAN.
    pub preserve_default: bool,
}

/// An item of `vlanTrunk`.
#[derive(Debug, Deserialize)]
pub struct TrunkItem {
    #[serde(rename = "minID")]
    min: Option<i64>,
    #[serde(rename = "maxID")]
    max: Option<i64>,
    id: Option<i64>,
}

impl VlanConf {
    /// Checks the three keys.
    ///
    /// # Errors
    /// Code 7: the item that is wrong.
    pub fn new(vlan: i64, trunk: Option<&[TrunkItem]>, preserve_default: bool) -> Result<Self> {
        if !(0..=4094).contains(&vlan) {
            let msg = format!("invalid VLAN ID {vlan} (must be between 0 and 4094)");
            return Err(Error::config(msg).details("vlan: 0 is the same as leaving the key out"));
        }
        let native = u16::try_from(vlan).ok().filter(|vid| *vid != 0);
        Ok(Self { native, trunk: trunk.map(read_trunk).transpose()?, preserve_default })
    }

    /// Whether a new bridge is made with VLAN filtering.
    #[must_use]
    pub fn asks_for_filtering(&self) -> bool {
        self.native.is_some() || self.trunk.is_some()
    }

    /// The VLANs of the container's port. Without a VLAN for them, untagged frames of a trunk belong to VLAN 1. `None`
    /// when the port is left as the bridge makes it.
    #[must_use]
    pub fn of_port(&self) -> Option<Vlans> {
        let trunk: Vec<u16> = self.trunk.iter().flatten().copied().collect();
        if self.native.is_none() && trunk.is_empty() {
            return None;
        }
        let mut vlans: Vlans = trunk.into_iter().map(|vid| (vid, Membership::TAGGED)).collect();
        vlans.insert(self.native.unwrap_or(1), Membership::NATIVE);
        Some(vlans)
    }

    /// The key and its value, for errors.
    fn as_written(&self) -> String {
        match (&self.native, &self.trunk) {
            (Some(vid), _) => format!("\"vlan\" with value {vid}"),
            (None, trunk) => format!("\"vlanTrunk\" with value {trunk:?}"),
        }
    }
}

fn read_trunk(items: &[TrunkItem]) -> Result<BTreeSet<u16>> {
    let mut vids = BTreeSet::new();
    for item in items {
        match (item.min, item.max) {
            (Some(min), Some(max)) => {
                let (first, last) = (trunk_vid("minID", min)?, trunk_vid("maxID", max)?);
                if first > last {
                    return Err(Error::config("minID is greater than maxID in trunk parameter")
                        .details(format!("vlanTrunk: minID is {min}, maxID is {max}")));
                }
                vids.extend(first..=last);
            }
            (Some(min), None) => return Err(half_range("maxID", "minID", min)),
            (None, Some(max)) => return Err(half_range("minID", "maxID", max)),
            (None, None) => {}
        }
        if let Some(id) = item.id {
            vids.insert(trunk_vid("id", id)?);
        }
    }
    Ok(vids)
}

fn trunk_vid(key: &str, value: i64) -> Result<u16> {
    u16::try_from(value).ok().filter(|_| VIDS.contains(&value)).ok_or_else(|| {
        Error::config(format!("incorrect trunk {key} parameter"))
            .details(format!("vlanTrunk: {key} is {value}, and must be between 1 and 4094"))
    })
}

fn half_range(missing: &str, given: &str, value: i64) -> Error {
    Error::config(format!("minID and maxID should be configured simultaneously, {missing} is missing"))
        .details(format!("vlanTrunk: {given} is {value}; for a single VLAN use \"id\""))
}

/// The link that carries the gateway's address of a VLAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayConf {
    /// `BRIDGE.VLAN`
    pub name: IfName,
    /// The VLAN's ID.
    pub vid: u16,
}

impl GatewayConf {
    /// The one of `bridge` for VLAN `vid`.
    ///
    /// # Errors
    /// Code 7 when the name does not fit.
    pub fn new(bridge: &IfName, vid: u16) -> Result<Self> {
        let name = format!("{bridge}.{vid}");
        let name = IfName::try_from(name.as_str()).map_err(|bad| {
            let msg = format!("the gateway of VLAN {vid} would be the link {name:?}: {bad}");
            Error::config(msg).details("bridge: a VLAN's gateway needs a bridge with a shorter name")
        })?;
        Ok(Self { name, vid })
    }
}

/// Whether the bridge's VLAN filtering has to be switched on for the VLANs of `conf`. That may be done when all its `ports`
/// are veths: containers keep their untagged frames, in the default VLAN. An uplink might carry tagged ones, which
/// would be lost.
///
/// # Errors
/// Code 2 when the kernel can't, 7 when an operator has to decide.
pub fn must_switch_on(
    conf: &VlanConf,
    bridge: &Link,
    ports: impl FnOnce() -> Result<Vec<Link>>,
) -> Result<bool> {
    if conf.of_port().is_none() || bridge.vlan_filtering {
        return Ok(false);
    }
    if bridge.default_pvid.is_none() {
        return Err(Error::new(Code::UNSUPPORTED_FIELD, format!("unsupported key {}", conf.as_written()))
            .details("the bridges of this kernel have no VLAN filtering (CONFIG_BRIDGE_VLAN_FILTERING)"));
    }
    let Some(uplink) = ports()?.into_iter().find(|port| !port.is_veth()) else { return Ok(true) };
    let name = &bridge.name;
    let msg = format!("the bridge {name} has VLAN filtering off, so VLANs would have no effect");
    Err(Error::config(msg).details(format!(
        "its port {} may carry tagged frames, which are dropped then unless it is given their VLANs (bridge vlan add); after that: ip link set {name} type bridge vlan_filtering 1",
        uplink.name
    )))
}

/// Puts the bridge port with that index into `vlans`, and out of VLAN `leave`.
///
/// # Errors
/// The kernel's refusal.
pub fn tag_port(host: &mut Socket, port: u32, vlans: &Vlans, leave: Option<u16>) -> Result<()> {
    let mut batch = vec![vlan::add(port, vlans)];
    let leave = leave.filter(|vid| *vid != 0 && !vlans.contains(*vid));
    batch.extend(leave.map(|vid| vlan::delete(port, vid)));
    let set = all_ok(host.batch(batch)?);
    set.map_err(|refusal| Error::from(refusal).context("failed to set VLANs of the bridge port"))
}

/// Makes the gateway called `name`. Whether it was made by us: another ADD may have been quicker.
///
/// # Errors
/// Code 5: what the kernel says.
pub fn make_gateway(host: &mut Socket, bridge: &Link, name: &IfName) -> Result<bool> {
    let port = format!("veth{}", digest(&["VLAN gateway", name.as_str()], 11));
    let port = IfName::try_from(port.as_str()).coded(Code::INTERNAL, "port of the VLAN gateway")?;
    let own = open_own().io("open the machine's network namespace")?;
    let pair = VethPair {
        host: &port,
        host_mac: random_mac(),
        bridge: bridge.index,
        container: name,
        container_mac: random_mac(),
        netns: own.as_raw_fd(),
        mtu: Some(bridge.mtu),
    };
    match host.ack(link::create_veth(&pair)) {
        Err(refusal) if refusal.errno == Errno::EEXIST => Ok(false),
        other => {
            other.map_err(|refusal| Error::from(refusal).context("failed to make the VLAN gateway"))?;
            Ok(true)
        }
    }
}

/// The gateway, made whole where it is not: after an ADD that was killed, one by another release of the plugin, or when
/// the bridge has been made anew.
///
/// # Errors
/// Code 7 when the link of that name is something else; code 5: what the kernel says.
pub fn complete_gateway(host: &mut Socket, bridge: &Link, conf: &GatewayConf) -> Result<Link> {
    let gateway = link::find(host, &conf.name)?;
    let gateway = gateway.ok_or_else(|| {
        Error::new(Code::TRY_AGAIN, format!("the VLAN gateway {} was deleted meanwhile", conf.name))
    })?;
    let port =
        link::peer(host, &gateway)?.filter(|port| port.master.is_none_or(|index| index == bridge.index));
    let port = port.ok_or_else(|| {
        let msg = format!("the link {:?} exists, but is not the gateway of VLAN {}", gateway.name, conf.vid);
        let details = format!("it has to be a veth whose other end is a port of {}", bridge.name);
        Error::config(msg)
            .details(format!("{details}; delete it (ip link del {}), or use another bridge", gateway.name))
    })?;
    if port.master.is_some() && gateway.up && is_complete(&gateway) {
        return Ok(gateway);
    }
    if port.master.is_none() {
        host.ack(link::set_bridge(port.index, bridge.index))?;
    }
    let native = [(conf.vid, Membership::NATIVE)].into_iter().collect();
    tag_port(host, port.index, &native, bridge.default_pvid)?;
    if let Ok(name) = IfName::try_from(port.name.as_str()) {
        sysctl::ignore_router_advertisements(&name);
    }
    sysctl::ignore_router_advertisements(&conf.name);
    sysctl::use_addresses_at_once(&conf.name);
    let up = [port.index, gateway.index].map(|index| link::set_up(index, true));
    all_ok(host.batch(up.into())?)?;
    await_port(host, port.index)?;
    host.ack(link::set_alias(gateway.index, DONE))?;
    Ok(gateway)
}

/// Waits until frames get through the port with that index.
fn await_port(host: &mut Socket, index: u32) -> Result<()> {
    let is_up = || {
        let port = link::find_index(host, index)?;
        let port =
            port.ok_or_else(|| Refusal::new("the VLAN gateway was deleted meanwhile", Errno::ENODEV))?;
        Ok(port.running.then_some(()))
    };
    let up = event::wait(&mut Socket::route()?, Group::Link, PATIENCE, is_up);
    up.map_err(|refusal| Error::from(refusal).context("the VLAN gateway does not come up"))
}

/// Whether it was made by us, to the end.
#[must_use]
pub fn is_complete(gateway: &Link) -> bool {
    gateway.alias.as_deref() == Some(DONE)
}

/// Whether any of `ports` but `except` is in VLAN `vid`.
///
/// # Errors
/// The kernel's refusal.
pub fn is_used(host: &mut Socket, ports: &[Link], except: u32, vid: u16) -> Result<bool> {
    let vlans = vlan::list(host)?;
    let is_in = |port: &Link| vlans.get(&port.index).is_some_and(|vlans| vlans.contains(vid));
    Ok(ports.iter().any(|port| port.index != except && is_in(port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(vlan: i64, trunk: &Value) -> Result<VlanConf> {
        let items: Option<Vec<TrunkItem>> = serde_json::from_value(trunk.clone()).unwrap();
        VlanConf::new(vlan, items.as_deref(), false)
    }

    #[test]
    fn the_port_carries_what_the_keys_ask_for() {
        let trunk = json!([{"minID": 10, "maxID": 12}, {"id": 20}, {"id": 11}, {}, {"minID": 4094, "maxID": 4094, "id": 5}]);
        for (vlan, trunk, filtering, want) in [
            (0, &json!(null), false, None),
            (0, &json!([]), true, None),
            (0, &json!([{}]), true, None),
            (7, &json!(null), true, Some("7 PVID untagged")),
            (0, &json!([{"id": 20}]), true, Some("1 PVID untagged, 20 tagged")),
            (0, &json!([{"id": 1}]), true, Some("1 PVID untagged")),
            (7, &trunk, true, Some("5 tagged, 7 PVID untagged, 10-12 tagged, 20 tagged, 4094 tagged")),
            (
                11,
                &trunk,
                true,
                Some("5 tagged, 10 tagged, 11 PVID untagged, 12 tagged, 20 tagged, 4094 tagged"),
            ),
        ] {
            let conf = read(vlan, trunk).unwrap();
            assert_eq!(conf.of_port().map(|vlans| vlans.to_string()).as_deref(), want, "{vlan} {trunk}");
            assert_eq!(conf.asks_for_filtering(), filtering, "{vlan} {trunk}");
        }
    }

    #[test]
    fn what_is_no_vlan_is_named() {
        for (vlan, trunk, msg, details) in [
            (-1, json!(null), "invalid VLAN ID -1 (must be between 0 and 4094)", "vlan"),
            (4095, json!(null), "invalid VLAN ID 4095 (must be between 0 and 4094)", "vlan"),
            (1 << 40, json!(null), "invalid VLAN ID 1099511627776", "vlan"),
            (0, json!([{"minID": 0, "maxID": 5}]), "incorrect trunk minID parameter", "minID is 0"),
            (0, json!([{"minID": 5, "maxID": 4095}]), "incorrect trunk maxID parameter", "maxID is 4095"),
            (
                0,
                json!([{"minID": 9, "maxID": 8}]),
                "minID is greater than maxID in trunk parameter",
                "minID is 9",
            ),
            (0, json!([{"minID": 9}]), "configured simultaneously, maxID is missing", "minID is 9"),
            (0, json!([{"maxID": 9}]), "configured simultaneously, minID is missing", "maxID is 9"),
            (0, json!([{"id": 1}, {"id": 0}]), "incorrect trunk id parameter", "id is 0"),
        ] {
            let error = read(vlan, &trunk).unwrap_err();
            assert!(error.msg().contains(msg), "{error}");
            assert!(error.cause().contains(details), "{error}");
            assert_eq!(error.code, Code::INVALID_CONFIG);
        }
        let long = GatewayConf::new(&"bridge-name".try_into().unwrap(), 1000).unwrap_err();
        assert!(long.msg().contains("bridge-name.1000"), "{long}");
    }

    #[test]
    fn a_bridge_of_veths_is_switched_and_an_uplink_is_asked_about() {
        let conf = read(7, &json!(null)).unwrap();
        let bridge = |filtering: Option<bool>| Link {
            name: "br1".to_owned(),
            vlan_filtering: filtering == Some(true),
            default_pvid: filtering.and(Some(1)),
            ..Link::default()
        };
        let ask = |conf: &VlanConf, filtering, kinds: &[&str]| {
            let port = |kind: &&str| Link {
                name: format!("a-{kind}"),
                kind: Some((*kind).to_owned()),
                ..Link::default()
            };
            let ports = kinds.iter().map(port).collect();
            must_switch_on(conf, &bridge(filtering), || Ok(ports))
        };
        assert!(!ask(&conf, Some(true), &["bond"]).unwrap());
        assert!(ask(&conf, Some(false), &[]).unwrap());
        assert!(ask(&conf, Some(false), &["veth", "veth"]).unwrap());
        let uplink = ask(&conf, Some(false), &["veth", "bond"]).unwrap_err();
        assert!(uplink.cause().contains("a-bond") && uplink.cause().contains("vlan_filtering 1"), "{uplink}");
        let kernel = ask(&conf, None, &[]).unwrap_err();
        assert_eq!(kernel.code, Code::UNSUPPORTED_FIELD);
        assert!(kernel.msg().contains("\"vlan\" with value 7"), "{kernel}");
        assert!(!ask(&VlanConf::default(), None, &["bond"]).unwrap(), "no VLANs, no questions");
    }
}
