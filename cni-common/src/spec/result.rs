//! What a successful ADD answers, in the shape of specification 1.1.0. [`super::compat`] writes and reads the
//! shapes of the other versions.

use super::addr::{MacAddr, cidr_text, ip_text};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The result of an ADD; also what `prevResult` holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Success {
    /// The interfaces that the attachment made, or made use of.
    pub interfaces: Vec<Interface>,
    /// The addresses given to it.
    pub ips: Vec<IpConfig>,
    /// The routes made inside the container.
    pub routes: Vec<Route>,
    /// Resolver settings for the container.
    pub dns: Dns,
}

/// One interface of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address, as text: other plugins may have other kinds than Ethernet.
    pub mac: String,
    /// Its MTU in bytes (1.1.0); 0 when not known.
    pub mtu: u32,
    /// The container's namespace; empty for an interface of the host.
    pub sandbox: String,
    /// A vhost-user socket (1.1.0); only passed on.
    pub socket_path: String,
    /// A PCI address (1.1.0); only passed on.
    pub pci_id: String,
    /// Another plugin said 1.1.0's fields in a result of 1.0.0, as the reference's do: what is only passed on
    /// stays as it was.
    pub keeps_newer_fields: bool,
}

/// One address of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpConfig {
    /// The address and its prefix length, host bits kept.
    pub address: IpNet,
    /// The gateway of its subnet.
    pub gateway: Option<IpAddr>,
    /// Index into [`Success::interfaces`].
    pub interface: Option<i64>,
}

/// A route, in a config's `routes` and in a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination network.
    #[serde(with = "cidr_text")]
    pub dst: IpNet,
    /// Next hop; when there is none, the gateway of the address's subnet is used.
    #[serde(default, with = "ip_text", skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// Path MTU in bytes (1.1.0); 0 leaves it to the kernel.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mtu: u32,
    /// Maximum segment size that TCP advertises, in bytes (1.1.0); 0 leaves it to the kernel.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub advmss: u32,
    /// Metric; lower is preferred, 0 leaves it to the kernel (1.1.0).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: u32,
    /// Routing table (1.1.0); `None` is the main table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Scope, 0 (global) to 255 (nowhere) (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if hands over a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Route {
    /// A default route of `gateway`'s family.
    #[must_use]
    pub fn default_via(gateway: IpAddr) -> Self {
        let any = match gateway {
            IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
            IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
        };
        Self { dst: any, gw: Some(gateway), mtu: 0, advmss: 0, priority: 0, table: None, scope: None }
    }

    /// Whether it is the default route of its family in the main routing table.
    #[must_use]
    pub fn is_main_default(&self) -> bool {
        const MAIN: u32 = 254;
        self.dst.prefix_len() == 0 && self.table.is_none_or(|table| table == 0 || table == MAIN)
    }
}

/// Resolver settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Addresses of name servers, most wanted first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search domains.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Interface {
    /// An interface with a name, an Ethernet address and an MTU in bytes, in `sandbox` (empty for the host).
    #[must_use]
    pub fn ethernet(name: impl Into<String>, mac: MacAddr, mtu: u32, sandbox: impl Into<String>) -> Self {
        Self { name: name.into(), mac: mac.to_string(), mtu, sandbox: sandbox.into(), ..Self::default() }
    }
}
