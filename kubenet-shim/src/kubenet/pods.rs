//! One pod's network, made by plugins: `loopback`, then `bridge` with `host-local`, `portmap` and `bandwidth`.
//!
//! What each pod was given is kept in the result cache of the state folder, and so is the config of that day: a DEL works
//! with it, whatever the node's range is by then.

use super::{Hairpin, Node, bridge, dedup, masquerade};
use cni_common::kernel::netlink::Socket;
use cni_common::runtime::{Cache, ConfList, Endpoint, Entry, Runtime};
use cni_common::spec::{Attachment, Code, ContainerId, Error, IfName, Result, SpecVersion, Success, compat};
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// The chained plugins, which a node can do without as long as no pod needs them.
const CHAINED: [(&str, &str); 2] = [("portmap", "portMappings"), ("bandwidth", "bandwidth")];

/// What is made at the node before the first pod, and made right again at any time. What had to be changed goes to
/// `changed`.
///
/// # Errors
/// Code 5: what the kernel says.
pub fn ensure_shared(node: &Node, changed: &mut Vec<String>) -> Result<u32> {
    let bridge = bridge::ensure(node, changed)?;
    if masquerade::ensure(node)? {
        changed.push("masquerade rules set up".to_owned());
    }
    Ok(bridge.mtu)
}

/// Sets a pod up.
///
/// # Errors
/// What is missing or which plugin failed with what. Then nothing of the pod is left.
pub fn set_up(node: &Node, endpoint: &Endpoint) -> Result<Success> {
    node.ready().map_err(|error| {
        let msg = format!("kubenet cannot SetUpPod: {}", error.msg());
        // It may work when the range has come.
        Error::new(Code::TRY_AGAIN, msg).details(error.cause())
    })?;
    runtime(node).refuse_living(&conflist(node, 0, &endpoint.capabilities)?, endpoint)?;
    let added = ensure_shared(node, &mut Vec::new()).and_then(|mtu| add(node, endpoint, mtu));
    // What is there already is another ADD's.
    if added.as_ref().is_err_and(|error| error.code != Code::ALREADY_ADDED)
        && let Err(error) = tear_down(node, endpoint)
    {
        cni_common::log!("undo of a failed ADD: {error}");
    }
    added
}

fn add(node: &Node, endpoint: &Endpoint, mtu: u32) -> Result<Success> {
    let list = conflist(node, mtu, &endpoint.capabilities)?;
    let (simple, lo) = loopback(node)?;
    simple.add(&lo, endpoint)?;
    runtime(node).add(&list, endpoint)
}

/// Takes a pod down, whatever of it is there.
///
/// # Errors
/// What could not be freed, all in one; the rest is.
pub fn tear_down(node: &Node, endpoint: &Endpoint) -> Result<()> {
    let (simple, lo) = loopback(node)?;
    let without_lo = simple.del(&lo, endpoint);
    let mut endpoint = endpoint.clone();
    let kept = Cache::new(&node.state_dir).load(&endpoint.on(&node.network));
    if kept.is_some() {
        // What ADD was told counts, not what is told today.
        endpoint.capabilities.clear();
    }
    // As it was on that day; else as it would be today. A plugin that is missing by now keeps no pod from its end.
    let list = match kept.and_then(|entry| ConfList::parse(&entry.config()?).ok()) {
        Some(list) => list,
        None => conflist(node, 0, &Map::new())?,
    };
    // The pod's own part must not wait for its loopback.
    runtime(node).del(&list, &endpoint).and(without_lo)
}

/// Looks whether a pod's network is as it was made, the shared part too.
///
/// # Errors
/// Code 100: what is not.
pub fn check(node: &Node, endpoint: &Endpoint) -> Result<()> {
    let missing = |what: String| Err(Error::new(Code::NOT_AS_ADDED, what));
    let Some(bridge) = bridge::find(&mut Socket::route()?, node)? else {
        return missing(format!("{}: expected a bridge, found none", node.bridge));
    };
    let list = conflist(node, bridge.mtu, &endpoint.capabilities)?;
    runtime(node).check(&list, endpoint)?;
    match masquerade::missing(node)? {
        Some(what) => missing(format!("{what}: the masquerade rules are missing or others")),
        None => Ok(()),
    }
}

/// Frees what belongs to no attachment of `valid`.
///
/// # Errors
/// All that failed, in one.
pub fn gc(node: &Node, valid: &[Attachment]) -> Result<()> {
    // Only since 1.1.0 plugins free by themselves.
    let newest = Node { version: SpecVersion::V1_1_0, ..node.clone() };
    runtime(node).gc(&conflist(&newest, 0, &Map::new())?, valid)
}

/// Whether each plugin that has an opinion says that an ADD could succeed.
///
/// # Errors
/// The first that says no.
pub fn status(node: &Node) -> Result<()> {
    node.ready()?;
    runtime(node).status(&conflist(node, 0, &Map::new())?)
}

/// With the state folder as its cache.
#[must_use]
pub fn runtime(node: &Node) -> Runtime {
    Runtime { path: node.path(), cache: Some(Cache::new(&node.state_dir)), timeout: Some(node.timeout) }
}

/// The loopback network, which nothing is kept of.
fn loopback(node: &Node) -> Result<(Runtime, ConfList)> {
    let list = json!({"cniVersion": node.version.as_str(), "name": "kubenet-loopback",
                      "plugins": [{"type": "loopback"}]});
    Ok((Runtime { cache: None, ..runtime(node) }, ConfList::parse(list.to_string().as_bytes())?))
}

/// The network of the node's pods.
///
/// # Errors
/// Code 7 when a pod needs a plugin that is not there.
pub fn conflist(node: &Node, mtu: u32, capabilities: &Map<String, Value>) -> Result<ConfList> {
    let mut plugins = vec![bridge_conf(node, mtu)];
    for (plugin, capability) in CHAINED {
        match node.path().find(plugin) {
            Ok(_) => plugins.push(json!({"type": plugin, "capabilities": {capability: true}})),
            Err(error) if needs(capabilities, capability) => {
                return Err(
                    error.context(format!("the pod has {capability}, which the plugin {plugin} makes"))
                );
            }
            Err(_) => {}
        }
    }
    let list =
        json!({"cniVersion": node.version.as_str(), "name": node.network.as_str(), "plugins": plugins});
    ConfList::parse(list.to_string().as_bytes())
}

fn needs(capabilities: &Map<String, Value>, capability: &str) -> bool {
    match capabilities.get(capability) {
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
        _ => false,
    }
}

fn bridge_conf(node: &Node, mtu: u32) -> Value {
    let ranges: Vec<Value> = node.cidrs.iter().map(|cidr| json!([{"subnet": cidr.to_string()}])).collect();
    let has = |v4: bool| node.cidrs.iter().any(|cidr| cidr.addr().is_ipv4() == v4);
    let defaults = [("0.0.0.0/0", true), ("::/0", false)];
    let routes: Vec<Value> =
        defaults.iter().filter(|(_, v4)| has(*v4)).map(|(dst, _)| json!({"dst": dst})).collect();
    let mut ipam = json!({"type": "host-local", "ranges": ranges, "routes": routes});
    if let Some(dir) = &node.data_dir {
        ipam["dataDir"] = json!(dir);
    }
    let hairpin = match node.hairpin {
        Hairpin::Veth => true,
        Hairpin::Promiscuous => dedup::kernel_forgets(),
        Hairpin::None => false,
    };
    json!({"type": "bridge", "bridge": node.bridge.as_str(), "mtu": mtu, "isGateway": true, "ipMasq": false,
           "hairpinMode": hairpin, "ipam": ipam})
}

/// The addresses that a pod was given, IPv4 first; none when nothing is kept of it.
#[must_use]
pub fn addresses(node: &Node, id: &ContainerId) -> Option<Vec<IpAddr>> {
    let attachment = Attachment {
        network: node.network.clone(),
        container_id: id.clone(),
        ifname: IfName::try_from("eth0").ok()?,
    };
    let entry = Cache::new(&node.state_dir).load(&attachment)?;
    let success = result_of(node, &entry)?;
    let mut ips: Vec<IpAddr> = success.ips.iter().map(|ip| ip.address.addr()).collect();
    ips.sort_by_key(IpAddr::is_ipv6);
    Some(ips)
}

/// The chained plugins that a pod was set up with and has something for; none when it has nothing.
#[must_use]
pub fn chained_of(node: &Node, entry: &Entry) -> Option<ConfList> {
    let config: Value = serde_json::from_slice(&entry.config()?).ok()?;
    let is_wanted = |plugin: &&Value| {
        let mut chained = CHAINED.iter();
        chained.any(|(name, capability)| plugin["type"] == *name && needs(&entry.capability_args, capability))
    };
    let plugins: Vec<&Value> = config["plugins"].as_array()?.iter().filter(is_wanted).collect();
    if plugins.is_empty() {
        return None;
    }
    let list =
        json!({"cniVersion": node.version.as_str(), "name": node.network.as_str(), "plugins": plugins});
    ConfList::parse(list.to_string().as_bytes()).ok()
}

/// The result that is kept of a pod.
#[must_use]
pub fn result_of(node: &Node, entry: &Entry) -> Option<Success> {
    compat::from_json(&entry.result, node.version).ok()
}
