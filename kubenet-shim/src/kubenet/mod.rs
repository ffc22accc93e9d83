//! kubenet: one bridge a node, a veth pair a pod, addresses from the node's range.
//!
//! The pods' own parts are made by the plugins `loopback`, `bridge`, `host-local`, `portmap` and `bandwidth`
//! ([`pods`]). What pods share is made here: the bridge's addresses ([`bridge`]), the masquerade rule ([`masquerade`]), and,
//! in promiscuous mode, the rules against packets that come twice ([`dedup`]).

pub mod bridge;
pub mod dedup;
pub mod masquerade;
pub mod pods;
pub mod ranges;
pub mod state;

use cni_common::invoke::PluginPath;
use cni_common::spec::{Code, Coded, Error, IfName, NetworkName, Result, SpecVersion};
use ipnet::IpNet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The bridge, where nobody names another.
pub const BRIDGE: &str = "cbr0";
/// Where plugins are looked for first.
pub const BIN_DIR: &str = "/opt/cni/bin";
/// Where it keeps its state.
pub const STATE_DIR: &str = "/var/lib/cni/kubenet";
/// The plugins without which there is no kubenet.
pub const REQUIRED: [&str; 3] = ["bridge", "host-local", "loopback"];
/// What is not masqueraded, where nobody says otherwise: the private networks in which clusters live.
pub const NON_MASQUERADE: &str = "10.0.0.0/8,fc00::/7";
/// What one operation may take; below kubelet's own limit of 240 s.
pub const TIMEOUT: Duration = Duration::from_secs(220);
/// The MTU where the node has no link that tells one.
const FALLBACK_MTU: u32 = 1460;

/// [`BRIDGE`] as a name.
///
/// # Errors
/// None: it is one.
pub fn default_bridge() -> Result<IfName> {
    IfName::try_from(BRIDGE).coded(Code::INTERNAL, BRIDGE)
}

/// How a pod reaches itself by an address of a service or of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hairpin {
    /// The pod's bridge port sends frames back.
    #[default]
    Veth,
    /// The bridge is promiscuous, and what thereby comes twice is dropped.
    Promiscuous,
    /// It does not.
    None,
}

impl Hairpin {
    const ALL: [Self; 3] = [Self::Promiscuous, Self::Veth, Self::None];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Veth => "hairpin-veth",
            Self::Promiscuous => "promiscuous-bridge",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Hairpin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Hairpin {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            Error::config(format!("{text:.80?} is not a valid hairpin-mode value, must be one of: [{known}]"))
        })
    }
}

/// What kubenet knows of its node.
#[derive(Debug, Clone)]
pub struct Node {
    /// The network's name.
    pub network: NetworkName,
    /// The version that plugins are called with.
    pub version: SpecVersion,
    /// The bridge.
    pub bridge: IfName,
    /// The pods' MTU in bytes; `None` for the smallest of the node's links.
    pub mtu: Option<u32>,
    /// How a pod reaches itself.
    pub hairpin: Hairpin,
    /// The ranges of pods' addresses; none until somebody gave the node one.
    pub cidrs: Vec<IpNet>,
    /// Where pods go with their own address.
    pub non_masquerade: Vec<IpNet>,
    /// Where plugins are looked for, in order.
    pub plugin_dirs: Vec<PathBuf>,
    /// Where the state is kept.
    pub state_dir: PathBuf,
    /// `host-local`'s `dataDir`; `None` is its default.
    pub data_dir: Option<PathBuf>,
    /// What one operation may take.
    pub timeout: Duration,
}

impl Node {
    /// Where plugins are looked for.
    #[must_use]
    pub fn path(&self) -> PluginPath {
        PluginPath::of_dirs(&self.plugin_dirs)
    }

    /// Whether a pod could be set up: the range is known and the plugins are there.
    ///
    /// # Errors
    /// What is missing, in kubelet's words, and who has to supply it.
    pub fn ready(&self) -> Result<()> {
        if self.cidrs.is_empty() {
            let since = state::waiting_since(&self.state_dir);
            let since =
                since.map(|time| format!(", and has been waited for since {time}")).unwrap_or_default();
            return Err(Error::config(
                "kubenet does not have netConfig. This is most likely due to lack of PodCIDR",
            )
            .details(format!(
                "no range of pod addresses is known{since}; the controller manager gives the node one (--allocate-node-cidrs, \
                 --cluster-cidr), and one of these tells it: containerd's conf_template (`kubenet-shim conflist --template`), \
                 `kubenet-shim event pod-cidr-change CIDR`, --pod-cidr, the key podCIDR of the CNI config, or the file {}",
                self.state_dir.join(state::POD_CIDR).display()
            )));
        }
        self.has_plugins()
    }

    /// Whether the plugins are there that every pod needs.
    fn has_plugins(&self) -> Result<()> {
        let path = self.path();
        let missing: Vec<&str> = REQUIRED.into_iter().filter(|name| path.find(name).is_err()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let msg = format!(
            "could not locate kubenet required CNI plugins [{}] at {:?}",
            REQUIRED.join(" "),
            self.plugin_dirs
        );
        Err(Error::config(msg).details(format!("missing: {}", missing.join(", "))))
    }
}
