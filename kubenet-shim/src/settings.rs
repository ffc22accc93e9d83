//! The settings of the plugin host: kubelet's flags, and a file with the same keys for those that are not given.

use crate::cidr;
use crate::conf::node_of;
use crate::kubenet::{self, Hairpin, Node, ranges, state};
use cni_common::disk;
use cni_common::runtime::discover;
use cni_common::spec::{Coded, Error, IfName, NetworkName, Result, SpecVersion};
use serde::Deserialize;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file, where none is named.
pub const FILE: &str = "/etc/kubenet-shim.json";
/// No such file is larger, in bytes.
const MOST: u64 = 1 << 20;
/// Where kubelet's exec plugins are, where nobody says otherwise.
const PLUGIN_DIR: &str = "/usr/libexec/kubernetes/kubelet-plugins/net/exec/";
/// Where CNI configs are, where nobody says otherwise.
const CONF_DIR: &str = "/etc/cni/net.d";
/// Where the cni plugin keeps results.
const CACHE_DIR: &str = "/var/lib/cni/cache";

/// What may be said, by flags or in the file.
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Options {
    /// The plugin to use: exec plugins' names, "exec", "cni", "kubenet"; empty is noop
    #[arg(long, global = true, value_name = "NAME")]
    pub network_plugin: Option<String>,
    /// Folder of exec plugins (NAME/NAME); also searched for CNI plugins, and for CNI configs without --cni-conf-dir
    #[arg(long, global = true, value_name = "DIR")]
    pub network_plugin_dir: Option<PathBuf>,
    /// Folder of CNI configs [default: /etc/cni/net.d]
    #[arg(long, global = true, value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Folders of CNI plugins, parted by commas [default: /opt/cni/bin]
    #[arg(long, global = true, value_name = "DIRS")]
    pub cni_bin_dir: Option<String>,
    /// Where the cni plugin keeps results [default: /var/lib/cni/cache]
    #[arg(long, global = true, value_name = "DIR")]
    pub cni_cache_dir: Option<PathBuf>,
    /// The node's ranges for pods, parted by commas
    #[arg(long, global = true, value_name = "CIDRS")]
    pub pod_cidr: Option<String>,
    /// Whether a pod-cidr-change replaces the range that is known [default: true]
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub reconcile_cidr: Option<bool>,
    /// Superseded by --network-plugin=kubenet, and does the same
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub configure_cbr0: Option<bool>,
    /// The pods' MTU in bytes; 0 is the smallest of the node's links [default: 0]
    #[arg(long, global = true, value_name = "BYTES")]
    pub network_plugin_mtu: Option<u32>,
    /// How a pod reaches itself: hairpin-veth, promiscuous-bridge, none [default: hairpin-veth]
    #[arg(long, global = true, value_name = "MODE")]
    pub hairpin_mode: Option<String>,
    /// Networks to which pods go with their own address, parted by commas [default: `10.0.0.0/8,fc00::/7`]
    #[arg(long, global = true, value_name = "CIDRS")]
    pub non_masquerade_cidr: Option<String>,
    /// The bridge [default: cbr0]
    #[arg(long, global = true, value_name = "NAME")]
    pub bridge: Option<String>,
    /// Where kubenet keeps its state [default: /var/lib/cni/kubenet]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where host-local keeps leases [default: /var/lib/cni/networks]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// What one operation may take, in seconds [default: 220]
    #[arg(long, global = true, value_name = "SECONDS")]
    pub network_plugin_timeout: Option<u64>,
    /// A program that is given a container's ID and prints the path of its network namespace, or its process ID [default: ask
    /// docker, podman or crictl]
    #[arg(long, global = true, value_name = "PROGRAM")]
    pub netns_command: Option<PathBuf>,
}

/// The settings, checked.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    options: Options,
}

impl Settings {
    /// Flags, and for what they do not say the file: `file`, which has to be there, else the default one, which need not.
    ///
    /// # Errors
    /// Code 7 or 6, with the key that is wrong.
    pub fn read(flags: Options, file: Option<&Path>) -> Result<Self> {
        let path = file.unwrap_or(Path::new(FILE));
        let text = match disk::read_given(path, MOST) {
            Err(error) if error.kind() == ErrorKind::NotFound && file.is_none() => None,
            text => Some(text.io(format!("read {}", path.display()))?),
        };
        let rest: Options = match text {
            Some(text) => serde_json::from_slice(&text)
                .map_err(|error| Error::config(format!("{}: {error}", path.display())))?,
            None => Options::default(),
        };
        Ok(Self { options: merge(flags, rest) })
    }

    /// The name of the plugin to use; empty for noop.
    #[must_use]
    pub fn plugin(&self) -> &str {
        match &self.options.network_plugin {
            Some(name) => name,
            // What it did is what kubenet does.
            None if self.options.configure_cbr0 == Some(true) => "kubenet",
            None => "",
        }
    }

    /// Whether `--configure-cbr0` was said.
    #[must_use]
    pub fn configures_cbr0(&self) -> bool {
        self.options.configure_cbr0 == Some(true)
    }

    /// The plugin to use where nobody names one.
    #[must_use]
    pub fn with_default_plugin(mut self, name: &str) -> Self {
        self.options.network_plugin.get_or_insert_with(|| name.to_owned());
        self
    }

    /// Where exec plugins are.
    #[must_use]
    pub fn plugin_dir(&self) -> PathBuf {
        self.options.network_plugin_dir.clone().unwrap_or_else(|| PLUGIN_DIR.into())
    }

    /// Where CNI configs are looked for: the first of these that has any.
    #[must_use]
    pub fn conf_dirs(&self) -> Vec<PathBuf> {
        match (&self.options.cni_conf_dir, &self.options.network_plugin_dir) {
            (Some(dir), _) => vec![dir.clone()],
            (None, Some(dir)) => vec![dir.clone(), CONF_DIR.into()],
            (None, None) => vec![CONF_DIR.into()],
        }
    }

    /// Where CNI plugins are looked for: `/opt/cni/bin` or what is said in its place, then the plugin folder.
    #[must_use]
    pub fn bin_dirs(&self) -> Vec<PathBuf> {
        let told = self.options.cni_bin_dir.as_deref().unwrap_or(kubenet::BIN_DIR);
        let dirs = told.split(',').map(str::trim).filter(|dir| !dir.is_empty()).map(PathBuf::from);
        dirs.chain(self.options.network_plugin_dir.clone()).collect()
    }

    /// Where the cni plugin keeps results.
    #[must_use]
    pub fn cache_dir(&self) -> PathBuf {
        self.options.cni_cache_dir.clone().unwrap_or_else(|| CACHE_DIR.into())
    }

    /// Where kubenet keeps its state.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.options.state_dir.clone().unwrap_or_else(|| kubenet::STATE_DIR.into())
    }

    /// What one operation may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.options.network_plugin_timeout.map_or(kubenet::TIMEOUT, Duration::from_secs)
    }

    /// Whether a change of the range counts after the first.
    #[must_use]
    pub fn reconciles_cidr(&self) -> bool {
        self.options.reconcile_cidr.unwrap_or(true)
    }

    /// The range by flag or file, as text.
    #[must_use]
    pub fn pod_cidr(&self) -> Option<&str> {
        self.options.pod_cidr.as_deref().filter(|text| !text.is_empty())
    }

    /// The program that knows a container's namespace.
    #[must_use]
    pub fn netns_command(&self) -> Option<&Path> {
        self.options.netns_command.as_deref()
    }

    /// What kubenet knows of the node: the range is the one that was last told, else the flag's.
    ///
    /// # Errors
    /// Code 7 with the key that is wrong.
    pub fn node(&self) -> Result<Node> {
        let options = &self.options;
        let state_dir = self.state_dir();
        let mut cidrs = state::pod_cidrs(&state_dir)?;
        if let (true, Some(text)) = (cidrs.is_empty(), self.pod_cidr()) {
            cidrs = cidr::pod_cidrs(text).map_err(|error| error.context("--pod-cidr"))?;
        }
        let bridge = match options.bridge.as_deref() {
            Some(name) => IfName::try_from(name)
                .map_err(|bad| Error::config(format!("--bridge {name:.80?} is no interface name: {bad}")))?,
            None => kubenet::default_bridge()?,
        };
        let kept = options.non_masquerade_cidr.as_deref().unwrap_or(kubenet::NON_MASQUERADE);
        Ok(Node {
            network: NetworkName::try_from("kubenet").coded(cni_common::spec::Code::INTERNAL, "kubenet")?,
            version: SpecVersion::V1_0_0,
            bridge,
            mtu: options.network_plugin_mtu.filter(|mtu| *mtu != 0),
            hairpin: options.hairpin_mode.as_deref().map_or(Ok(Hairpin::default()), str::parse)?,
            cidrs,
            non_masquerade: cidr::list("--non-masquerade-cidr", kept)?,
            plugin_dirs: self.bin_dirs(),
            state_dir,
            data_dir: options.data_dir.clone(),
            timeout: self.timeout(),
        })
    }

    /// The node as the first network of the config folders has it, where that is ours: runtimes set pods up by that.
    ///
    /// # Errors
    /// Code 7 or 6 with the key of that config that is wrong.
    pub fn deployed(&self) -> Result<Option<(PathBuf, Node)>> {
        let found = self.conf_dirs().iter().find_map(|dir| discover(dir, |_| Ok(())).ok());
        let Some(found) = found else { return Ok(None) };
        let node = node_of(&found.list).map_err(|error| error.context(found.file.display()))?;
        Ok(node.map(|node| (found.file, node)))
    }

    /// As [`Settings::node`], for who looks after pods that runtimes set up: what no flag and no file says,
    /// the network that runtimes use does, and its range goes before all others. Where none is told at all,
    /// it is the one that living pods have.
    ///
    /// # Errors
    /// Code 7 or 6 with the key that is wrong.
    pub fn node_in_use(&self) -> Result<Node> {
        let mut node = self.node()?;
        if let Some((_, deployed)) = self.deployed()? {
            let options = &self.options;
            node.network = deployed.network;
            if options.bridge.is_none() {
                node.bridge = deployed.bridge;
            }
            if options.non_masquerade_cidr.is_none() {
                node.non_masquerade = deployed.non_masquerade;
            }
            if options.hairpin_mode.is_none() {
                node.hairpin = deployed.hairpin;
            }
            if options.state_dir.is_none() {
                node.state_dir = deployed.state_dir;
            }
            node.mtu = node.mtu.or(deployed.mtu);
            node.data_dir = node.data_dir.or(deployed.data_dir);
            if !deployed.cidrs.is_empty() {
                node.cidrs = deployed.cidrs;
            }
        }
        if node.cidrs.is_empty() {
            node.cidrs = ranges::of_living_pods(&node).into_keys().collect();
        }
        Ok(node)
    }
}

fn merge(first: Options, rest: Options) -> Options {
    Options {
        network_plugin: first.network_plugin.or(rest.network_plugin),
        network_plugin_dir: first.network_plugin_dir.or(rest.network_plugin_dir),
        cni_conf_dir: first.cni_conf_dir.or(rest.cni_conf_dir),
        cni_bin_dir: first.cni_bin_dir.or(rest.cni_bin_dir),
        cni_cache_dir: first.cni_cache_dir.or(rest.cni_cache_dir),
        pod_cidr: first.pod_cidr.or(rest.pod_cidr),
        reconcile_cidr: first.reconcile_cidr.or(rest.reconcile_cidr),
        configure_cbr0: first.configure_cbr0.or(rest.configure_cbr0),
        network_plugin_mtu: first.network_plugin_mtu.or(rest.network_plugin_mtu),
        hairpin_mode: first.hairpin_mode.or(rest.hairpin_mode),
        non_masquerade_cidr: first.non_masquerade_cidr.or(rest.non_masquerade_cidr),
        bridge: first.bridge.or(rest.bridge),
        state_dir: first.state_dir.or(rest.state_dir),
        data_dir: first.data_dir.or(rest.data_dir),
        network_plugin_timeout: first.network_plugin_timeout.or(rest.network_plugin_timeout),
        netns_command: first.netns_command.or(rest.netns_command),
    }
}
