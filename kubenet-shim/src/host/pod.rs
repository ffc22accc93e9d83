//! A pod, as the host hands it to plugins, and what they say of it.

use super::netns;
use crate::limits::burst;
use crate::quantity;
use crate::settings::Settings;
use cni_common::disk;
use cni_common::kernel::netlink::{Socket, addr, link};
use cni_common::kernel::netns::Netns;
use cni_common::runtime::Endpoint;
use cni_common::spec::{Code, Coded, ContainerId, Error, IfName, Result};
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::path::Path;

/// The interface that every pod has.
pub const IFNAME: &str = "eth0";
/// kubelet's bounds of a limit, in bits a second.
const LEAST_RATE: u64 = 1_000;
const MOST_RATE: u64 = 1_000_000_000_000_000;
/// Where runtimes keep the ports of a sandbox.
const CHECKPOINTS: [&str; 2] = ["/var/lib/cri-dockerd/sandbox", "/var/lib/dockershim/sandbox"];
/// No file of those is larger, in bytes.
const MOST_OF_CHECKPOINT: u64 = 16 << 20;

/// A pod.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The ID of its sandbox.
    pub id: ContainerId,
    /// Its network namespace, when the caller says it.
    pub netns: Option<String>,
    /// Its annotations, as far as they matter.
    pub annotations: Vec<(String, String)>,
    /// Its ports, as the capability has them; `None` to look for a runtime's checkpoint.
    pub port_mappings: Option<Value>,
}

/// What is known of a pod's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodStatus {
    /// Its addresses, IPv4 first.
    pub ips: Vec<IpAddr>,
}

impl PodStatus {
    /// kubelet's `PodNetworkStatus`, `v1beta1`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let ips: Vec<String> = self.ips.iter().map(ToString::to_string).collect();
        json!({"kind": "PodNetworkStatus", "apiVersion": "v1beta1", "ip": ips.first(), "ips": ips})
    }

    /// From a plugin's result.
    #[must_use]
    pub fn of(success: &cni_common::spec::Success) -> Self {
        let mut ips: Vec<IpAddr> = success.ips.iter().map(|ip| ip.address.addr()).collect();
        ips.sort_by_key(IpAddr::is_ipv6);
        Self { ips }
    }
}

impl Pod {
    /// The path of its network namespace: as told, else as the container runtime says.
    ///
    /// # Errors
    /// Code 5 when nobody knows.
    pub fn netns(&self, settings: &Settings) -> Result<String> {
        match &self.netns {
            Some(path) => Ok(path.clone()),
            None => netns::of_container(settings.netns_command(), &self.id),
        }
    }

    /// As a runtime hands it to CNI plugins. On teardown a namespace that nobody knows any more is as good as gone.
    ///
    /// # Errors
    /// Code 7 for annotations and ports that are wrong; code 5 when the namespace is needed and not known.
    pub fn endpoint(&self, settings: &Settings, needs_netns: bool) -> Result<Endpoint> {
        let netns = match self.netns(settings) {
            Err(error) if !needs_netns => {
                cni_common::log!(
                    "teardown of {}/{} without its namespace: {error}",
                    self.namespace,
                    self.name
                );
                String::new()
            }
            netns => netns.map_err(|error| error.context("CNI failed to retrieve network namespace path"))?,
        };
        let pairs = [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", &self.namespace),
            ("K8S_POD_NAME", &self.name),
            ("K8S_POD_INFRA_CONTAINER_ID", self.id.as_str()),
        ];
        Ok(Endpoint {
            container_id: self.id.clone(),
            netns,
            ifname: IfName::try_from(IFNAME).coded(Code::INTERNAL, IFNAME)?,
            args: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            capabilities: self.capabilities()?,
            result: None,
        })
    }

    fn capabilities(&self) -> Result<Map<String, Value>> {
        let mut capabilities = Map::new();
        let mappings = match &self.port_mappings {
            Some(mappings) => mappings.clone(),
            None => checkpoint(&self.id),
        };
        capabilities.insert("portMappings".to_owned(), mappings);
        if let Some(limits) = self.bandwidth()? {
            capabilities.insert("bandwidth".to_owned(), limits);
        }
        Ok(capabilities)
    }

    /// The limits of its annotations.
    fn bandwidth(&self) -> Result<Option<Value>> {
        let mut limits = Map::new();
        for direction in ["ingress", "egress"] {
            let key = format!("kubernetes.io/{direction}-bandwidth");
            let Some((_, text)) = self.annotations.iter().find(|(name, _)| *name == key) else { continue };
            let rate = quantity::parse(text).map_err(|error| error.context(&key))?;
            let bad = |words: &str| Err(Error::config(words).details(format!("{key} is {text:.80?}")));
            match rate {
                ..LEAST_RATE => return bad("resource is unreasonably small (< 1kbit)"),
                LEAST_RATE..=MOST_RATE => {}
                _ => return bad("resource is unreasonably large (> 1Pbit)"),
            }
            limits.insert(format!("{direction}Rate"), rate.into());
            limits.insert(format!("{direction}Burst"), burst(rate).into());
        }
        Ok((!limits.is_empty()).then(|| limits.into()))
    }

    /// Its addresses, read inside its namespace; none without global ones.
    ///
    /// # Errors
    /// Code 5 or 4 when it can't be looked into.
    pub fn addresses(&self, settings: &Settings) -> Result<Option<PodStatus>> {
        let netns = Netns::open(Path::new(&self.netns(settings)?))?;
        let ifname = IfName::try_from(IFNAME).coded(Code::INTERNAL, IFNAME)?;
        let mut ips: Vec<IpAddr> = netns.run(|| {
            let mut socket = Socket::route()?;
            let Some(link) = link::find(&mut socket, &ifname)? else { return Ok(vec![]) };
            let found =
                addr::list(&mut socket, link.index)?.into_iter().filter(|addr| addr.link == link.index);
            Ok(found.map(|addr| addr.net.addr()).filter(is_global).collect())
        })?;
        ips.sort_by_key(IpAddr::is_ipv6);
        Ok((!ips.is_empty()).then_some(PodStatus { ips }))
    }
}

fn is_global(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    }
}

/// The ports of a sandbox as a dockershim wrote them down; none when it did not. One that can't be read is no reason to keep a
/// pod from starting or ending.
fn checkpoint(id: &ContainerId) -> Value {
    let mut files = CHECKPOINTS.iter().map(|dir| Path::new(dir).join(id.as_str()));
    let Some(text) = files.find_map(|file| disk::read_own(&file, MOST_OF_CHECKPOINT).ok()) else {
        return json!([]);
    };
    let Ok(checkpoint) = serde_json::from_slice::<Value>(&text) else {
        cni_common::log!("the checkpoint of sandbox {id} is no JSON: taken as without ports");
        return json!([]);
    };
    let mappings = checkpoint["data"]["port_mappings"].as_array().cloned().unwrap_or_default();
    let mapping = |one: &Value| {
        one["host_port"].as_i64().filter(|port| *port > 0).map(|port| {
            json!({"hostPort": port, "containerPort": one["container_port"],
                   "protocol": one["protocol"].as_str().unwrap_or("tcp").to_lowercase(),
                   "hostIP": one["host_ip"].as_str().unwrap_or_default()})
        })
    };
    mappings.iter().filter_map(mapping).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(annotations: &[(&str, &str)]) -> Pod {
        Pod {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            id: "c1".try_into().unwrap(),
            netns: None,
            annotations: annotations
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            port_mappings: Some(json!([])),
        }
    }

    #[test]
    fn limits_come_from_annotations_within_kubelets_bounds() {
        let (ingress, egress) = ("kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth");
        assert_eq!(with(&[("other", "1M")]).bandwidth().unwrap(), None);
        assert_eq!(
            with(&[(ingress, "10M"), (egress, "1k")]).bandwidth().unwrap().unwrap(),
            json!({"ingressRate": 10_000_000, "ingressBurst": 1_000_000, "egressRate": 1000, "egressBurst": 121_120})
        );
        for (text, words) in
            [("999", "unreasonably small"), ("1001T", "unreasonably large"), ("x", "no quantity")]
        {
            let error = with(&[(ingress, text)]).bandwidth().unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(ingress), "{error}");
        }
    }
}
