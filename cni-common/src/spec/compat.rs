//! The three shapes that results had over the years, to and from [`Success`].
//!
//! * 0.1.0, 0.2.0: one address a family (`ip4`, `ip6`), no interfaces.
//! * 0.3.0, 0.3.1, 0.4.0: `interfaces` and `ips`, each address with its `version` ("4" or "6"); `dns` always there.
//! * 1.0.0, 1.1.0: no `version`; `dns` only when it says something. `mtu`, `socketPath`, `pciID` are 1.1.0's.
//!
//! Going down loses what the older shape has no room for, as the reference library does it.

use super::addr::{cidr_text, ip_text};
use super::error::{Code, Error, Result};
use super::json;
use super::result::{Dns, Interface, IpConfig, Route, Success};
use super::version::SpecVersion;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::IpAddr;

/// `success` as the text that a plugin of `version` prints.
///
/// # Errors
/// Code 7 for 0.1.0 and 0.2.0 when there is no address: those shapes are nothing but addresses.
pub fn to_json(success: &Success, version: SpecVersion) -> Result<String> {
    Ok(match version {
        SpecVersion::V0_1_0 | SpecVersion::V0_2_0 => json::to_text(&shape_02(success, version)?),
        SpecVersion::V0_3_0 | SpecVersion::V0_3_1 | SpecVersion::V0_4_0 => {
            json::to_text(&shape_04(success, version))
        }
        SpecVersion::V1_0_0 | SpecVersion::V1_1_0 => json::to_text(&shape_1(success, version)),
    })
}

/// Reads a result document: a delegate's stdout, or a config's `prevResult`. The `cniVersion` inside decides its
/// shape; where it has none, `default` does.
///
/// # Errors
/// Code 6 when the document is not a result of the version it names, code 1 when we do not know that version.
pub fn from_json(document: &Value, default: SpecVersion) -> Result<Success> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Head {
        cni_version: Option<String>,
    }
    let head: Head = json::decode(document)?;
    let version = match head.cni_version {
        Some(text) if !text.is_empty() => SpecVersion::parse(&text)?,
        _ => default,
    };
    Ok(match version {
        SpecVersion::V0_1_0 | SpecVersion::V0_2_0 => from_02(json::decode(document)?),
        SpecVersion::V0_3_0 | SpecVersion::V0_3_1 | SpecVersion::V0_4_0 => from_04(json::decode(document)?),
        SpecVersion::V1_0_0 | SpecVersion::V1_1_0 => from_1(json::decode(document)?, version),
    })
}

/// Whether a result without addresses can be told in `version`.
#[must_use]
pub fn needs_address(version: SpecVersion) -> bool {
    version <= SpecVersion::V0_2_0
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Shape02 {
    cni_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<Ip02>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<Ip02>,
    dns: Dns,
}

#[derive(Serialize, Deserialize)]
struct Ip02 {
    #[serde(with = "cidr_text")]
    ip: IpNet,
    #[serde(default, with = "ip_text", skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
}

fn shape_02(success: &Success, version: SpecVersion) -> Result<Shape02> {
    let family = |v4: bool| {
        success.ips.iter().find(|ip| is_v4(&ip.address) == v4).map(|ip| Ip02 {
            ip: ip.address,
            gateway: ip.gateway,
            routes: success
                .routes
                .iter()
                .filter(|route| is_v4(&route.dst) == v4)
                .map(only_dst_and_gw)
                .collect(),
        })
    };
    let (ip4, ip6) = (family(true), family(false));
    if ip4.is_none() && ip6.is_none() {
        return Err(Error::new(Code::INVALID_CONFIG, "cannot convert: no valid IP addresses").details(format!(
            "a result of cniVersion {version} is nothing but addresses and this one has none; use cniVersion 0.3.0 or newer"
        )));
    }
    Ok(Shape02 { cni_version: version.to_string(), ip4, ip6, dns: success.dns.clone() })
}

fn only_dst_and_gw(route: &Route) -> Route {
    Route { mtu: 0, advmss: 0, priority: 0, table: None, scope: None, ..route.clone() }
}

fn from_02(shape: Shape02) -> Success {
    let mut success = Success { dns: shape.dns, ..Success::default() };
    for family in [shape.ip4, shape.ip6].into_iter().flatten() {
        success.ips.push(IpConfig { address: family.ip, gateway: family.gateway, interface: None });
        success.routes.extend(family.routes);
    }
    success
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Shape04 {
    cni_version: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<Interface04>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<Ip04>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
    dns: Dns,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Interface04 {
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    mac: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    sandbox: String,
}

#[derive(Serialize, Deserialize)]
struct Ip04 {
    #[serde(default)]
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interface: Option<i64>,
    #[serde(with = "cidr_text")]
    address: IpNet,
    #[serde(default, with = "ip_text", skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
}

fn shape_04(success: &Success, version: SpecVersion) -> Shape04 {
    let interfaces = success.interfaces.iter().map(|interface| Interface04 {
        name: interface.name.clone(),
        mac: interface.mac.clone(),
        sandbox: interface.sandbox.clone(),
    });
    let ips = success.ips.iter().map(|ip| Ip04 {
        version: if is_v4(&ip.address) { "4" } else { "6" }.to_owned(),
        interface: ip.interface,
        address: ip.address,
        gateway: ip.gateway,
    });
    Shape04 {
        cni_version: version.to_string(),
        interfaces: interfaces.collect(),
        ips: ips.collect(),
        routes: success.routes.clone(),
        dns: success.dns.clone(),
    }
}

fn from_04(shape: Shape04) -> Success {
    let interfaces = shape.interfaces.into_iter().map(|interface| Interface {
        name: interface.name,
        mac: interface.mac,
        sandbox: interface.sandbox,
        ..Interface::default()
    });
    let ips = shape.ips.into_iter().map(|ip| IpConfig {
        address: ip.address,
        gateway: ip.gateway,
        interface: ip.interface,
    });
    Success { interfaces: interfaces.collect(), ips: ips.collect(), routes: shape.routes, dns: shape.dns }
}

/// Keys stand in the alphabetical order that the reference library prints.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Shape1 {
    cni_version: String,
    #[serde(skip_serializing_if = "Dns::is_empty")]
    dns: Dns,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<Interface1>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<Ip1>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Interface1 {
    #[serde(skip_serializing_if = "String::is_empty")]
    mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    name: String,
    #[serde(rename = "pciID", skip_serializing_if = "String::is_empty")]
    pci_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    sandbox: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    socket_path: String,
}

#[derive(Serialize, Deserialize)]
struct Ip1 {
    #[serde(with = "cidr_text")]
    address: IpNet,
    #[serde(default, with = "ip_text", skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interface: Option<i64>,
}

fn shape_1(success: &Success, version: SpecVersion) -> Shape1 {
    let interfaces = success.interfaces.iter().map(|interface| {
        let tells_all = version >= SpecVersion::V1_1_0 || interface.keeps_newer_fields;
        let newer = |text: &String| if tells_all { text.clone() } else { String::new() };
        Interface1 {
            mac: interface.mac.clone(),
            mtu: (tells_all && interface.mtu != 0).then_some(interface.mtu),
            name: interface.name.clone(),
            pci_id: newer(&interface.pci_id),
            sandbox: interface.sandbox.clone(),
            socket_path: newer(&interface.socket_path),
        }
    });
    let ips = success.ips.iter().map(|ip| Ip1 {
        address: ip.address,
        gateway: ip.gateway,
        interface: ip.interface,
    });
    Shape1 {
        cni_version: version.to_string(),
        dns: success.dns.clone(),
        interfaces: interfaces.collect(),
        ips: ips.collect(),
        routes: success.routes.clone(),
    }
}

fn from_1(shape: Shape1, version: SpecVersion) -> Success {
    let interfaces = shape.interfaces.into_iter().map(|interface| Interface {
        keeps_newer_fields: version < SpecVersion::V1_1_0
            && (interface.mtu.is_some() || !interface.pci_id.is_empty() || !interface.socket_path.is_empty()),
        name: interface.name,
        mac: interface.mac,
        mtu: interface.mtu.unwrap_or(0),
        sandbox: interface.sandbox,
        socket_path: interface.socket_path,
        pci_id: interface.pci_id,
    });
    let ips = shape.ips.into_iter().map(|ip| IpConfig {
        address: ip.address,
        gateway: ip.gateway,
        interface: ip.interface,
    });
    Success { interfaces: interfaces.collect(), ips: ips.collect(), routes: shape.routes, dns: shape.dns }
}

fn is_v4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}
