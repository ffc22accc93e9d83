//! The keys that `portmap` knows, from a config's text to values that were checked once.

use crate::condition::{Condition, Style};
use cni_common::kernel::Backend;
use cni_common::spec::conf::NetConf;
use cni_common::spec::{Error, Result};
use serde::Deserialize;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

/// The bit of the packet's mark that says "masquerade me", where the config names none.
const MARK_BIT: u32 = 13;

/// A config, checked.
#[derive(Debug, Clone)]
pub struct Conf {
    /// The ports to map.
    pub mappings: Vec<Mapping>,
    /// By what.
    pub backend: Backend,
    /// What of the mapped traffic is masqueraded.
    pub masquerade: Masquerade,
    /// What marks packets that are to be masqueraded.
    pub mark: Mark,
    /// What else has to hold for a packet to be mapped: IPv4, IPv6.
    pub conditions: [Vec<Condition>; 2],
}

/// What of the mapped traffic is masqueraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Masquerade {
    /// Nothing (`snat: false`).
    Nothing,
    /// What could not find its way back otherwise: from the container's own subnet, and from the host's loopback.
    Hairpin,
    /// All (`masqAll`).
    Everything,
}

/// What marks packets that are to be masqueraded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// A bit of ours, 0 to 31.
    Bit(u32),
    /// An iptables chain of somebody else's (`externalSetMarkChain`), who masquerades what it marks.
    Chain(String),
}

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// Its number in an IP header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// Which of the host's addresses a port is mapped on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostIp {
    /// All.
    Any,
    /// All of IPv4 (`0.0.0.0`).
    AnyV4,
    /// All of IPv6 (`::`).
    AnyV6,
    /// This one.
    One(IpAddr),
}

impl HostIp {
    /// Whether it has addresses of that family.
    #[must_use]
    pub const fn is_in(self, v4: bool) -> bool {
        match self {
            Self::Any => true,
            Self::AnyV4 => v4,
            Self::AnyV6 => !v4,
            Self::One(ip) => ip.is_ipv4() == v4,
        }
    }

    /// The one address, if it is one.
    #[must_use]
    pub const fn address(self) -> Option<IpAddr> {
        match self {
            Self::One(ip) => Some(ip),
            _ => None,
        }
    }
}

/// A port of the host that leads to one of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// On the host.
    pub host_port: u16,
    /// In the container.
    pub container_port: u16,
    /// Of both.
    pub protocol: Protocol,
    /// Where on the host.
    pub host_ip: HostIp,
}

impl Mapping {
    /// Whether both are of a family.
    fn shares_family_with(&self, other: &Self) -> bool {
        let share = |v4: bool| self.host_ip.is_in(v4) && other.host_ip.is_in(v4);
        share(true) || share(false)
    }

    /// The same, as it is in a family: there, all of that family's addresses are all.
    #[must_use]
    pub fn in_family(self) -> Self {
        match self.host_ip {
            HostIp::One(_) => self,
            _ => Self { host_ip: HostIp::Any, ..self },
        }
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            HostIp::One(ip @ IpAddr::V6(_)) => write!(f, "[{ip}]:")?,
            HostIp::One(ip) => write!(f, "{ip}:")?,
            HostIp::AnyV4 => f.write_str("0.0.0.0:")?,
            HostIp::AnyV6 => f.write_str("[::]:")?,
            HostIp::Any => {}
        }
        write!(f, "{}/{}", self.host_port, self.protocol)
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wire {
    runtime_config: RuntimeConfig,
    backend: Option<String>,
    snat: Option<bool>,
    masq_all: bool,
    mark_masq_bit: Option<i64>,
    external_set_mark_chain: Option<String>,
    #[serde(rename = "conditionsV4")]
    conditions_v4: Option<Vec<String>>,
    #[serde(rename = "conditionsV6")]
    conditions_v6: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RuntimeConfig {
    port_mappings: Vec<MappingWire>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MappingWire {
    host_port: i64,
    container_port: i64,
    protocol: String,
    #[serde(rename = "hostIP")]
    host_ip: String,
}

impl Conf {
    /// Reads and checks it.
    ///
    /// # Errors
    /// Code 7 for what is wrong, 6 for wrong types.
    pub fn read(conf: &NetConf) -> Result<Self> {
        let wire: Wire = conf.decode()?;
        let conditions = [
            Condition::read("conditionsV4", wire.conditions_v4.as_deref().unwrap_or_default(), true)?,
            Condition::read("conditionsV6", wire.conditions_v6.as_deref().unwrap_or_default(), false)?,
        ];
        Ok(Self {
            mappings: mappings(&wire.runtime_config.port_mappings)?,
            backend: backend(&wire)?,
            masquerade: match (wire.snat, wire.masq_all) {
                (Some(false), _) => Masquerade::Nothing,
                (_, false) => Masquerade::Hairpin,
                (_, true) => Masquerade::Everything,
            },
            mark: mark(&wire)?,
            conditions: conditions.map(|list| list.into_iter().collect()),
        })
    }
}

fn mappings(wires: &[MappingWire]) -> Result<Vec<Mapping>> {
    let mut mappings: Vec<Mapping> = Vec::new();
    // Of one port and address there are three at most: of all addresses, and of those of each family.
    let mut seen: HashMap<_, Vec<Mapping>> = HashMap::new();
    for wire in wires {
        let mapping = Mapping {
            host_port: port("host", wire.host_port)?,
            container_port: port("container", wire.container_port)?,
            protocol: protocol(&wire.protocol)?,
            host_ip: host_ip(&wire.host_ip)?,
        };
        let twins = seen.entry((mapping.host_port, mapping.protocol, mapping.host_ip.address())).or_default();
        let mut same = twins.iter().filter(|twin| twin.shares_family_with(&mapping));
        match same.find(|twin| twin.container_port != mapping.container_port) {
            None if twins.contains(&mapping) => {}
            None => {
                twins.push(mapping);
                mappings.push(mapping);
            }
            Some(twin) => {
                let msg = format!("host port {mapping} is mapped twice");
                let ports = (twin.container_port, mapping.container_port);
                return Err(Error::config(msg)
                    .details(format!("portMappings: to container ports {} and {}", ports.0, ports.1)));
            }
        }
    }
    Ok(mappings)
}

fn port(which: &str, number: i64) -> Result<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0).ok_or_else(|| {
        Error::config(format!("Invalid {which} port number: {number}"))
            .details(format!("portMappings: {which}Port has to be between 1 and 65535"))
    })
}

fn protocol(name: &str) -> Result<Protocol> {
    match name.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err(Error::config(format!("unknown protocol {name:.40?}"))
            .details("portMappings: protocol has to be tcp, udp or sctp")),
    }
}

fn host_ip(text: &str) -> Result<HostIp> {
    if text.is_empty() {
        return Ok(HostIp::Any);
    }
    let ip: IpAddr = text.parse().map_err(|_| {
        Error::config(format!("hostIP {text:.80?} is no IP address"))
            .details("portMappings: leave hostIP out to map a port on all addresses")
    })?;
    // An IPv4 address may come in IPv6's spelling.
    Ok(match ip.to_canonical() {
        IpAddr::V4(v4) if v4.is_unspecified() => HostIp::AnyV4,
        IpAddr::V6(v6) if v6.is_unspecified() => HostIp::AnyV6,
        ip => HostIp::One(ip),
    })
}

fn backend(wire: &Wire) -> Result<Backend> {
    let style = |words: &Option<Vec<String>>, key: &'static str| {
        let style = words.as_deref().and_then(Style::of)?;
        Some((style, key))
    };
    let styles = [style(&wire.conditions_v4, "conditionsV4"), style(&wire.conditions_v6, "conditionsV6")];
    let keys = |wanted: Style| {
        let keys = styles.iter().flatten().filter(move |(style, _)| *style == wanted).map(|(_, key)| *key);
        let chain = (wanted == Style::Iptables && wire.external_set_mark_chain.is_some())
            .then_some("externalSetMarkChain");
        chain.into_iter().chain(keys).collect::<Vec<_>>()
    };
    let (of_iptables, of_nftables) = (keys(Style::Iptables), keys(Style::Nftables));
    let conflict = |backend: &str, other: &str, keys: &[&str]| {
        let keys = keys.join(" ");
        let msg = format!(
            "{backend} backend was requested but configuration contains {other}-specific options [{keys}]"
        );
        Err(Error::config(msg).details(format!("leave them out, or set backend to {other:?}")))
    };
    match wire.backend.as_deref() {
        Some("nftables") if !of_iptables.is_empty() => conflict("nftables", "iptables", &of_iptables),
        Some("iptables") if !of_nftables.is_empty() => conflict("iptables", "nftables", &of_nftables),
        Some("nftables") => Ok(Backend::Nftables),
        Some("iptables") => Ok(Backend::Iptables),
        Some(other) => Err(Error::config(format!("unrecognized backend {other:.80?}")).details(
            "backend is \"nftables\" or \"iptables\"; without it, nf_tables where the kernel has them",
        )),
        None if !of_iptables.is_empty() && !of_nftables.is_empty() => {
            conflict("iptables", "nftables", &of_nftables)
        }
        None if !of_iptables.is_empty() => Ok(Backend::Iptables),
        None if !of_nftables.is_empty() => Ok(Backend::Nftables),
        None => Ok(Backend::Auto),
    }
}

fn mark(wire: &Wire) -> Result<Mark> {
    match (&wire.external_set_mark_chain, wire.mark_masq_bit) {
        (Some(_), Some(_)) => Err(Error::config("Cannot specify externalSetMarkChain and markMasqBit")),
        (Some(chain), None) => {
            let fits =
                !chain.is_empty() && chain.len() <= 28 && chain.bytes().all(|byte| byte.is_ascii_graphic());
            if fits && !chain.starts_with(['-', '!']) && !chain.contains(['"', '\'', '\\']) {
                return Ok(Mark::Chain(chain.clone()));
            }
            Err(Error::config(format!("externalSetMarkChain: {chain:.80?} is no name of an iptables chain")))
        }
        (None, bit) => {
            let bit = bit.unwrap_or(i64::from(MARK_BIT));
            let fits = u32::try_from(bit).ok().filter(|bit| *bit < 32);
            fits.map(Mark::Bit).ok_or_else(|| {
                Error::config("MasqMarkBit must be between 0 and 31").details(format!("markMasqBit is {bit}"))
            })
        }
    }
}
