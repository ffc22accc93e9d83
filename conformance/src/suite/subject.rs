//! A plugin under test, and a config that it works with.

use super::version::VERSIONS;
use cni_harness::call::Call;
use serde_json::{Map, Value, json};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The part that a plugin plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Makes an interface in the container.
    Interface,
    /// Cares for the container's own `lo`.
    Loopback,
    /// Gives addresses.
    Ipam,
    /// Changes what another plugin made.
    Chained,
    /// No config is known for it: only what every plugin must do can be tried.
    Unknown,
}

/// A plugin under test.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The executable's name.
    pub name: String,
    /// The plugin that it is by its documented options.
    pub kind: String,
    /// Its part.
    pub role: Role,
    /// The folder that it and its delegates are in.
    pub dir: PathBuf,
    /// A config that it works with, without `cniVersion` and `name`; `$DIR` stands for a folder of the run.
    pub conf: Map<String, Value>,
    /// The versions that it says it speaks.
    pub versions: Vec<String>,
}

/// What is tried when nobody names plugins, if it is in the folder.
pub const KNOWN: [&str; 19] = [
    "bridge",
    "host-local",
    "loopback",
    "portmap",
    "bandwidth",
    "kubenet-shim",
    "firewall",
    "tuning",
    "ptp",
    "macvlan",
    "static",
    "ipvlan",
    "vlan",
    "host-device",
    "dhcp",
    "sbr",
    "vrf",
    "dummy",
    "tap",
];

/// The subnet that every built-in config hands out.
pub const SUBNET: &str = "10.83.0.0/24";

fn ipam() -> Value {
    json!({"type": "host-local", "dataDir": "$DIR/leases", "ranges": [[{"subnet": SUBNET}]],
           "routes": [{"dst": "0.0.0.0/0", "gw": "10.83.0.1"}, {"dst": "192.0.2.0/24", "gw": "10.83.0.1"}]})
}

fn built_in(kind: &str) -> Option<(Role, Value)> {
    let found = match kind {
        "bridge" => {
            (Role::Interface, json!({"bridge": "br0", "isGateway": true, "ipMasq": true, "ipam": ipam()}))
        }
        "ptp" => (Role::Interface, json!({"ipMasq": true, "ipam": ipam()})),
        "macvlan" => (Role::Interface, json!({"master": "up0", "mode": "bridge", "ipam": ipam()})),
        "dummy" => (Role::Interface, json!({"ipam": ipam()})),
        "kubenet-shim" => {
            (Role::Interface, json!({"podCIDR": SUBNET, "stateDir": "$DIR/state", "dataDir": "$DIR/leases"}))
        }
        "loopback" => (Role::Loopback, json!({})),
        "host-local" => (Role::Ipam, json!({"ipam": ipam()})),
        "portmap" => (
            Role::Chained,
            json!({"capabilities": {"portMappings": true},
                   "runtimeConfig": {"portMappings": [{"hostPort": "$PORT", "containerPort": 80, "protocol": "tcp"}]}}),
        ),
        "bandwidth" => (
            Role::Chained,
            json!({"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 16_000_000, "egressBurst": 1_600_000}),
        ),
        "firewall" => (Role::Chained, json!({"backend": "iptables"})),
        "tuning" => (
            Role::Chained,
            json!({"mtu": 1400, "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}, "dataDir": "$DIR/tuning"}),
        ),
        _ => return None,
    };
    Some(found)
}

impl Subject {
    /// The plugin `name` in `dir`, with the built-in config if there is one.
    ///
    /// # Errors
    /// When there is no such executable.
    pub fn find(dir: &Path, name: &str) -> io::Result<Self> {
        // Some ship them renamed: `buildkit-cni-bridge`.
        let known = KNOWN.iter().find(|known| name == **known || name.ends_with(&format!("-{known}")));
        let kind = known.map_or(name, |known| *known).to_owned();
        let (role, conf) = built_in(&kind).unwrap_or((Role::Unknown, json!({})));
        let conf = conf.as_object().cloned().unwrap_or_default();
        Self { name: name.to_owned(), kind, role, dir: dir.to_owned(), conf, versions: vec![] }.asked()
    }

    /// The plugin that `conf` is for. The key `cni-conformance` may say more: `{"role": "interface" | "ipam" | "chained"}`.
    ///
    /// # Errors
    /// When it names no plugin, or one that is not there, or a role that is none.
    pub fn of_config(dir: &Path, conf: &Map<String, Value>, first: bool) -> io::Result<Self> {
        let mut conf = conf.clone();
        let said = conf.remove("cni-conformance");
        let name = conf.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err(io::Error::other("the config has no `type`, the name of the plugin"));
        }
        let subject = Self::find(dir, &name)?;
        let role =
            match said.as_ref().and_then(|said| said.get("role")).map(|role| role.as_str().unwrap_or("")) {
                Some("interface") => Role::Interface,
                Some("ipam") => Role::Ipam,
                Some("chained") => Role::Chained,
                Some(other) => {
                    let why = format!("cni-conformance.role is {other:?}; want interface, ipam or chained");
                    return Err(io::Error::other(why));
                }
                None if subject.role != Role::Unknown => subject.role,
                None if !first => Role::Chained,
                None if conf.get("ipam").is_some_and(|ipam| ipam["type"] == *name) => Role::Ipam,
                None => Role::Interface,
            };
        conf.retain(|key, _| !["type", "name", "cniVersion", "prevResult"].contains(&key.as_str()));
        Ok(Self { role, conf, ..subject })
    }

    /// The plugins of a config file: a plugin's config, a list of them, or a network's with `plugins`.
    ///
    /// # Errors
    /// When the file can't be read or holds something else, and as [`Self::of_config`].
    pub fn of_file(dir: &Path, file: &Path) -> io::Result<Vec<Self>> {
        let told = |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", file.display()));
        let text = fs::read(file).map_err(|error| told(&error))?;
        let value: Value = serde_json::from_slice(&text).map_err(|error| told(&error))?;
        let list = match &value {
            Value::Array(list) => list.clone(),
            Value::Object(network) => match network.get("plugins") {
                Some(Value::Array(list)) => list.clone(),
                Some(_) => return Err(told(&"`plugins` is no list")),
                None => vec![value.clone()],
            },
            _ => return Err(told(&"want a plugin's config, a list of them, or a network with `plugins`")),
        };
        let chained = value.is_object();
        let one = |(at, conf): (usize, &Value)| match conf {
            Value::Object(conf) => {
                Self::of_config(dir, conf, at == 0 || !chained).map_err(|error| told(&error))
            }
            _ => Err(told(&format!("{conf} is no config"))),
        };
        list.iter().enumerate().map(one).collect()
    }

    /// Asks the plugin for the versions that it speaks.
    fn asked(mut self) -> io::Result<Self> {
        let path = self.dir.join(&self.name);
        if self.name.contains('/') || !path.is_file() {
            return Err(io::Error::other(format!("no plugin {:?} in {}", self.name, self.dir.display())));
        }
        let probe = json!({"cniVersion": "1.1.0"}).to_string();
        let call = Call::of(&self.dir, &self.name).env("CNI_COMMAND", "VERSION").stdin(probe);
        let answer = call.limit(Duration::from_secs(10)).run();
        let answer: Value = serde_json::from_str(&answer.stdout).unwrap_or_default();
        let said = answer["supportedVersions"].as_array().into_iter().flatten().filter_map(Value::as_str);
        self.versions = said.map(str::to_owned).collect();
        Ok(self)
    }

    /// The newest version of the specification that both speak; the newest of all when it answers no VERSION.
    #[must_use]
    pub fn newest(&self) -> &'static str {
        let both = VERSIONS.iter().rev().find(|version| self.versions.iter().any(|said| said == *version));
        both.unwrap_or(&VERSIONS[VERSIONS.len() - 1])
    }

    /// The kind of link that it makes, of those that not every kernel has.
    #[must_use]
    pub fn needed_link(&self) -> Option<&'static str> {
        (self.kind == "dummy").then_some("dummy")
    }

    /// The name of the container's interface.
    #[must_use]
    pub fn ifname(&self) -> &'static str {
        if self.role == Role::Loopback { "lo" } else { "eth0" }
    }

    /// Whether its config names an IPAM plugin.
    #[must_use]
    pub fn delegates(&self) -> bool {
        self.role == Role::Interface && self.conf.get("ipam").is_some_and(|ipam| ipam["type"].is_string())
    }
}
