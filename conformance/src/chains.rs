//! Whole chains of plugins, as a node has them: to be broken, or used in numbers.

use cni_common::runtime::{ConfList, Endpoint};
use cni_common::spec::{ContainerId, Error, IfName, Result};
use cni_harness::Container;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// A chain of plugins in a folder, with all that its configs need.
#[derive(Debug, Clone)]
pub struct Chain {
    /// `plugins` or `kubenet`, and the families.
    pub name: String,
    /// Where the plugins are.
    pub bin: PathBuf,
    /// The executables that take part, delegates included.
    pub executables: Vec<String>,
    /// The version that is spoken.
    pub version: String,
    dual: bool,
}

/// The chains that the plugins in `bin` can form: `bridge` with `host-local`, and `portmap` and `bandwidth` where they are; all of it behind
/// `kubenet-shim`, where that is. Each with IPv4, and with both families.
#[must_use]
pub fn chains(bin: &Path, version: &str) -> Vec<Chain> {
    let there = |names: &[&str]| {
        names.iter().filter(|name| bin.join(name).is_file()).map(ToString::to_string).collect::<Vec<_>>()
    };
    let mut found = Vec::new();
    for (dual, families) in [(false, "IPv4"), (true, "both families")] {
        let mut add = |name: &str, executables: &[&str], needed: &[&str]| {
            if there(needed).len() == needed.len() {
                let name = format!("{name}, {families}");
                let (bin, version) = (bin.to_owned(), version.to_owned());
                found.push(Chain { name, bin, executables: there(executables), version, dual });
            }
        };
        let plugins = ["bridge", "host-local", "portmap", "bandwidth"];
        add("plugins", &plugins, &["bridge", "host-local"]);
        let all = ["kubenet-shim", "loopback", "bridge", "host-local", "portmap", "bandwidth"];
        add("kubenet", &all, &all);
    }
    found
}

impl Chain {
    /// The network's config, with its state below `dir`.
    ///
    /// # Errors
    /// When the version is none.
    pub fn list(&self, dir: &Path) -> Result<ConfList> {
        let plugins = if self.executables.iter().any(|name| name == "kubenet-shim") {
            json!([self.kubenet(dir)])
        } else {
            self.plugins(dir, "chain0", 84)
        };
        self.parse("chain", &plugins)
    }

    /// Another network, of plugins without `kubenet-shim`, for containers that are on two of them.
    ///
    /// # Errors
    /// When the version is none.
    pub fn second_list(&self, dir: &Path) -> Result<ConfList> {
        self.parse("second", &self.plugins(dir, "second0", 85))
    }

    fn parse(&self, name: &str, plugins: &Value) -> Result<ConfList> {
        let list = json!({"cniVersion": self.version, "name": name, "plugins": plugins});
        ConfList::parse(list.to_string().as_bytes())
    }

    fn kubenet(&self, dir: &Path) -> Value {
        let ranges = if self.dual { "10.84.0.0/16,fd00:84::/64" } else { "10.84.0.0/16" };
        json!({"type": "kubenet-shim", "podCIDR": ranges, "stateDir": dir.join("state"), "dataDir": dir.join("leases"),
               "capabilities": {"portMappings": true, "bandwidth": true}})
    }

    fn plugins(&self, dir: &Path, bridge: &str, net: u8) -> Value {
        let mut ranges = vec![json!([{"subnet": format!("10.{net}.0.0/16")}])];
        if self.dual {
            ranges.push(json!([{"subnet": format!("fd00:{net}::/64")}]));
        }
        let bridge = json!({"type": "bridge", "bridge": bridge,
            "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
            "ipam": {"type": "host-local", "dataDir": dir.join("leases"), "ranges": ranges}});
        let mut plugins = vec![bridge];
        for (name, capability) in [("portmap", "portMappings"), ("bandwidth", "bandwidth")] {
            if self.executables.iter().any(|there| there == name) {
                plugins.push(json!({"type": name, "capabilities": {capability: true}}));
            }
        }
        json!(plugins)
    }

    /// The addresses that the first attachment gets.
    #[must_use]
    pub fn first_addresses(&self) -> &'static [&'static str] {
        if self.dual { &["10.84.0.2", "fd00:84::2"] } else { &["10.84.0.2"] }
    }
}

/// A container's interface as a runtime tells of it: limits that nobody reaches, and `port` of TCP and UDP.
///
/// # Errors
/// When the ID is none.
pub fn endpoint(id: &str, container: &Container, port: u16) -> std::result::Result<Endpoint, String> {
    let limits = json!({"ingressRate": 8_000_000_000_u64, "ingressBurst": 80_000_000, "egressRate": 8_000_000_000_u64, "egressBurst": 80_000_000});
    let mapping = |inside: u16, protocol: &str| json!({"hostPort": port, "containerPort": inside, "protocol": protocol});
    let capabilities =
        [("bandwidth", limits), ("portMappings", json!([mapping(80, "tcp"), mapping(81, "udp")]))];
    let args = [("IgnoreUnknown", "1"), ("K8S_POD_NAMESPACE", "default"), ("K8S_POD_NAME", id)];
    Ok(Endpoint {
        container_id: ContainerId::try_from(id).map_err(|error| error.to_string())?,
        netns: container.path(),
        ifname: IfName::try_from("eth0").map_err(|error| error.to_string())?,
        args: args.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec(),
        capabilities: Map::from_iter(capabilities.map(|(key, value)| (key.to_owned(), value))),
        result: None,
    })
}

/// What was done, and why it failed.
#[must_use]
pub fn tell(what: &str, error: &Error) -> String {
    format!("{what}: {} {}", error.msg(), error.cause())
}
