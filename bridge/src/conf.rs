//! The keys that `bridge` knows, from a config's text to values that were checked once.

use crate::vlan::{GatewayConf, TrunkItem, VlanConf};
use cni_common::interface::conf::{Mtu, ipam, mac};
use cni_common::kernel::Backend;
use cni_common::kernel::netlink::addr::Dad;
use cni_common::plugin::Request;
use cni_common::spec::conf::{DnsConf, NetConf};
use cni_common::spec::{Error, IfName, MacAddr, Result, compat};
use serde::Deserialize;

/// A config, checked.
#[allow(clippy::struct_excessive_bools, reason = "each is a key of its own, and any combination is allowed")]
#[derive(Debug)]
pub struct Conf {
    /// The bridge.
    pub bridge: IfName,
    /// Whether the bridge carries the gateways' addresses and the host forwards.
    pub is_gateway: bool,
    /// Whether the container's default routes lead to them.
    pub is_default_gateway: bool,
    /// Whether addresses of the bridge that are in the way are deleted.
    pub force_address: bool,
    /// Whether what leaves the network is masqueraded.
    pub ip_masq: bool,
    /// By what.
    pub ip_masq_backend: Backend,
    /// MTU of the veth pair and of a new bridge.
    pub mtu: Mtu,
    /// How a container reaches itself by the bridge.
    pub reflect: Reflect,
    /// The address of the container's interface; `None` for a random one.
    pub mac: Option<MacAddr>,
    /// Duplicate address detection for IPv6.
    pub dad: Dad,
    /// Whether containers with this set do not reach each other.
    pub port_isolation: bool,
    /// Whether a container may send by its own Ethernet address only.
    pub mac_spoof_check: bool,
    /// The VLANs of the container's port.
    pub vlan: VlanConf,
    /// What carries the gateway's address when the bridge does not.
    pub vlan_gateway: Option<GatewayConf>,
    /// What is done inside the container.
    pub layer: Layer,
    /// Goes before IPAM's.
    pub dns: DnsConf,
}

/// How frames get back to where they came from: not at all, or one of two ways that exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reflect {
    /// They do not.
    Off,
    /// The bridge port sends them back.
    Hairpin,
    /// The bridge is promiscuous.
    Promisc,
}

/// What is done inside the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// An interface without addresses, left down if so wished (`disableContainerInterface`).
    L2 {
        /// Whether it is set up.
        up: bool,
    },
    /// Addresses and routes, from this IPAM plugin.
    L3 {
        /// `ipam.type`
        ipam: String,
    },
}

#[allow(clippy::struct_excessive_bools, reason = "the config's keys as they stand")]
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wire {
    bridge: Option<String>,
    is_gateway: bool,
    is_default_gateway: bool,
    force_address: bool,
    ip_masq: bool,
    ip_masq_backend: Option<String>,
    hairpin_mode: bool,
    promisc_mode: bool,
    vlan: i64,
    vlan_trunk: Option<Vec<TrunkItem>>,
    preserve_default_vlan: bool,
    macspoofchk: bool,
    enabledad: bool,
    disable_container_interface: bool,
    port_isolation: bool,
    dns: DnsConf,
}

impl Conf {
    /// Reads and checks the config of `request`.
    ///
    /// # Errors
    /// Code 7 for what is wrong, 6 for wrong types, 4 for `CNI_ARGS`.
    pub fn read(request: &Request) -> Result<Self> {
        let wire: Wire = request.conf.decode()?;
        let name = wire.bridge.as_deref().unwrap_or("cni0");
        let bridge = IfName::try_from(name)
            .map_err(|bad| Error::config(format!("bridge: {name:.80?} is no name for a link: {bad}")))?;
        let is_gateway = wire.is_gateway || wire.is_default_gateway;
        let layer = layer(ipam(&request.conf)?, wire.disable_container_interface)?;
        let vlan = VlanConf::new(wire.vlan, wire.vlan_trunk.as_deref(), wire.preserve_default_vlan)?;
        let vlan_gateway = vlan
            .native
            .filter(|_| is_gateway && matches!(layer, Layer::L3 { .. }))
            .map(|vid| GatewayConf::new(&bridge, vid))
            .transpose()?;
        let conf = Self {
            bridge,
            is_gateway,
            is_default_gateway: wire.is_default_gateway,
            force_address: wire.force_address,
            ip_masq: wire.ip_masq,
            ip_masq_backend: backend(wire.ip_masq_backend.as_deref())?,
            mtu: Mtu::read(&request.conf)?,
            reflect: reflect(&wire)?,
            mac: mac(request)?,
            dad: if wire.enabledad { Dad::AsConfigured } else { Dad::Off },
            port_isolation: wire.port_isolation,
            mac_spoof_check: wire.macspoofchk,
            vlan,
            vlan_gateway,
            layer,
            dns: wire.dns,
        };
        let version = request.conf.version;
        if compat::needs_address(version) && matches!(conf.layer, Layer::L2 { .. }) {
            let details = format!(
                "without ipam there are no addresses, and a result of cniVersion {version} is nothing else; use 0.3.0 or newer"
            );
            return Err(Error::config("cannot convert: no valid IP addresses").details(details));
        }
        Ok(conf)
    }
}

fn backend(given: Option<&str>) -> Result<Backend> {
    match given {
        None => Ok(Backend::Auto),
        Some("nftables") => Ok(Backend::Nftables),
        Some("iptables") => Ok(Backend::Iptables),
        Some(other) => Err(Error::config(format!("unknown ipmasq backend {other:.80?}")).details(
            "ipMasqBackend is \"nftables\" or \"iptables\"; without it, nf_tables where the kernel has them",
        )),
    }
}

fn reflect(wire: &Wire) -> Result<Reflect> {
    match (wire.hairpin_mode, wire.promisc_mode) {
        (true, true) => Err(Error::config("cannot set hairpin mode and promiscuous mode at the same time")
            .details("set one of hairpinMode and promiscMode to false")),
        (true, false) => Ok(Reflect::Hairpin),
        (false, true) => Ok(Reflect::Promisc),
        (false, false) => Ok(Reflect::Off),
    }
}

fn layer(ipam: Option<String>, disabled: bool) -> Result<Layer> {
    match (ipam, disabled) {
        (None, disabled) => Ok(Layer::L2 { up: !disabled }),
        (Some(ipam), false) => Ok(Layer::L3 { ipam }),
        (Some(ipam), true) => {
            Err(Error::config("cannot use IPAM when DisableContainerInterface flag is set")
                .details(format!("ipam.type is {ipam:.80?} and disableContainerInterface is true")))
        }
    }
}

/// What DEL and GC look at: as little as they can, so that a config that has since been broken still frees
/// what it made.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CleanupConf {
    /// `ipam.type`, if there is one.
    pub ipam: Option<String>,
    /// Whether masquerade elements may be there.
    pub ip_masq: bool,
    /// Whether a guard of the Ethernet address may be there.
    pub mac_spoof_check: bool,
}

impl CleanupConf {
    /// Reads it.
    ///
    /// # Errors
    /// Code 6 when one of the keys has the wrong type.
    pub fn read(conf: &NetConf) -> Result<Self> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Wire {
            ip_masq: bool,
            macspoofchk: bool,
        }
        let Wire { ip_masq, macspoofchk } = conf.decode()?;
        Ok(Self { ipam: ipam(conf)?, ip_masq, mac_spoof_check: macspoofchk })
    }
}
