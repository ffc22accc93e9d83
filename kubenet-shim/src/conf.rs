//! kubenet's config as a CNI plugin.

use crate::kubenet::{self, Hairpin, Node, state};
use crate::{cidr, limits};
use cni_common::disk::PassingLock;
use cni_common::invoke::PluginPath;
use cni_common::plugin::{Request, Target};
use cni_common::runtime::{ConfList, Endpoint};
use cni_common::spec::{IfName, NetworkName, Result, SpecVersion, json};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// The config, checked.
pub struct Conf {
    /// The node that it tells of.
    pub node: Node,
    capabilities: Map<String, Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wire {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<OneOrMore>,
    bridge: Option<IfName>,
    mtu: u32,
    hairpin_mode: Option<String>,
    #[serde(rename = "nonMasqueradeCIDRs")]
    non_masquerade_cidrs: Option<OneOrMore>,
    plugin_dirs: Vec<PathBuf>,
    state_dir: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    runtime_config: Map<String, Value>,
}

/// Text, or a list of texts; several in one text are parted by commas.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a text or a list of texts")]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn text(self) -> String {
        match self {
            Self::One(text) => text,
            Self::More(texts) => texts.join(","),
        }
    }
}

/// What becomes of a key that is wrong.
#[derive(Clone, Copy)]
enum Judge {
    Strict,
    /// It counts as not given.
    Forgiving,
}

impl Judge {
    fn of<T: Default>(self, read: Result<T>) -> Result<T> {
        match self {
            Self::Strict => read,
            Self::Forgiving => Ok(read.unwrap_or_default()),
        }
    }
}

impl Wire {
    /// What an entry says of its node. Where it names no folders of plugins, there are none.
    fn node(self, network: &NetworkName, version: SpecVersion, judge: Judge) -> Result<Node> {
        let state_dir = self.state_dir.unwrap_or_else(|| kubenet::STATE_DIR.into());
        let told = self.pod_cidr.map(OneOrMore::text).or_else(|| ranges(&self.runtime_config));
        let cidrs =
            judge.of(told.map_or_else(|| state::pod_cidrs(&state_dir), |text| cidr::pod_cidrs(&text)))?;
        let kept =
            self.non_masquerade_cidrs.map_or_else(|| kubenet::NON_MASQUERADE.to_owned(), OneOrMore::text);
        Ok(Node {
            network: network.clone(),
            version: inner_version(version),
            bridge: self.bridge.map_or_else(kubenet::default_bridge, Ok)?,
            mtu: Some(self.mtu).filter(|mtu| *mtu != 0),
            hairpin: judge.of(self.hairpin_mode.map_or(Ok(Hairpin::default()), |mode| mode.parse()))?,
            cidrs,
            non_masquerade: judge.of(cidr::list("nonMasqueradeCIDRs", &kept))?,
            plugin_dirs: self.plugin_dirs,
            state_dir,
            data_dir: self.data_dir,
            timeout: kubenet::TIMEOUT,
        })
    }
}

/// The node as the first entry of ours in a list of plugins has it; `None` when the list has none.
///
/// # Errors
/// Code 7 or 6 with the key that is wrong.
pub fn node_of(list: &ConfList) -> Result<Option<Node>> {
    let text: Value = json::parse(list.text())?;
    // What is no list is a plugin by itself.
    let plugins = text["plugins"].as_array().cloned().unwrap_or_else(|| vec![text.clone()]);
    let is_ours = |plugin: &Value| ["kubenet-shim", "kubenet"].iter().any(|name| plugin["type"] == *name);
    let Some(entry) = plugins.into_iter().find(is_ours) else { return Ok(None) };
    let wire: Wire = json::decode(&entry)?;
    wire.node(&list.name, list.version, Judge::Strict).map(Some)
}

impl Conf {
    /// The config of a request.
    ///
    /// # Errors
    /// Code 7 or 6 with the key that is wrong.
    pub fn read(request: &Request) -> Result<Self> {
        Self::from_wire(request.conf.decode()?, request, Judge::Strict)
    }

    /// DEL and GC go by what was kept: a config that is wrong or lacks the range by now does not keep them.
    ///
    /// # Errors
    /// Code 7 without a name for the bridge.
    pub fn read_for_del(request: &Request) -> Result<Self> {
        Self::from_wire(request.conf.decode().unwrap_or_default(), request, Judge::Forgiving)
    }

    fn from_wire(wire: Wire, request: &Request, judge: Judge) -> Result<Self> {
        let mut capabilities = wire.runtime_config.clone();
        limits::bound_bursts(&mut capabilities);
        let (network, version) = (&request.conf.name, request.conf.version);
        let mut node = wire.node(network, version, judge)?;
        if node.plugin_dirs.is_empty() {
            node.plugin_dirs = PluginPath::of_env(&request.env).dirs();
        }
        Ok(Self { node, capabilities })
    }

    /// Keeps two calls for one container apart: the one that loses must find the other's work whole.
    ///
    /// # Errors
    /// When the lock can't be had in time.
    pub fn lock(&self, target: &Target) -> Result<PassingLock> {
        let id = &target.attachment.container_id;
        state::lock_pod(&self.node.state_dir, id.as_str(), self.node.timeout)
    }

    /// The interface that a request is about.
    #[must_use]
    pub fn endpoint(&self, request: &Request, target: &Target) -> Endpoint {
        Endpoint {
            container_id: target.attachment.container_id.clone(),
            netns: target.sandbox(),
            ifname: target.attachment.ifname.clone(),
            // Those of ADD are in the cache.
            args: vec![],
            capabilities: self.capabilities.clone(),
            // One that can't be read is as good as none: the cache has it too.
            result: request.conf.prev_result().ok().flatten(),
        }
    }
}

/// The ranges that a runtime hands over (`ipRanges`), if it does; a runtime that has none yet says so with an empty text.
fn ranges(runtime_config: &Map<String, Value>) -> Option<String> {
    let sets = runtime_config.get("ipRanges")?.as_array()?;
    let ranges = sets.iter().filter_map(Value::as_array).flatten();
    let subnets: Vec<&str> = ranges.filter_map(|range| range["subnet"].as_str()).collect();
    Some(subnets.join(",")).filter(|text| !text.is_empty())
}

/// The version in which the plugins behind us are called: old enough for the reference's, with all that a chain needs.
fn inner_version(outer: SpecVersion) -> SpecVersion {
    outer.max(SpecVersion::V1_0_0)
}
