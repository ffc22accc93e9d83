//! What a node needs, looked at point by point; for each that is lacking, what to do.

use crate::cidr::to_text;
use crate::host;
use crate::kubenet::{Hairpin, Node, REQUIRED, bridge, dedup, masquerade, ranges, state};
use crate::settings::Settings;
use cni_common::kernel::netlink::{Socket, addr, link, route};
use cni_common::kernel::nft;
use cni_common::kernel::sysctl::{self, Key};
use cni_common::process::{self, program};
use cni_common::runtime::{Cache, discover};
use cni_common::spec::{Error, Result};
use ipnet::IpNet;
use std::path::Path;
use std::time::Duration;

/// How long a plugin may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// One point: what was looked at, and what is to be done about it.
struct Finding {
    what: String,
    todo: Option<String>,
}

fn good(what: impl Into<String>) -> Finding {
    Finding { what: what.into(), todo: None }
}

fn bad(what: impl Into<String>, todo: impl Into<String>) -> Finding {
    Finding { what: what.into(), todo: Some(todo.into()) }
}

/// What was found, a line each, and whether nothing is to be done.
///
/// # Errors
/// Code 7 when the settings themselves are wrong.
pub fn examine(settings: &Settings) -> Result<(String, bool)> {
    let node = settings.node_in_use()?;
    let mut findings = vec![plugin(settings)];
    findings.extend(programs(&node));
    findings.push(range(&node));
    findings.extend(overlaps(&node));
    findings.extend(routes(&node));
    findings.extend(disagreements(settings, &node));
    findings.extend(earlier_ranges(&node));
    findings.extend(sysctls(&node));
    findings.push(nf_tables());
    findings.extend(configs(settings));
    findings.extend(shared(&node));
    findings.extend(leftovers(&node));
    let healthy = findings.iter().all(|finding| finding.todo.is_none());
    let line = |finding: &Finding| match &finding.todo {
        None => format!("ok    {}\n", finding.what),
        Some(todo) => format!("TODO  {}: {todo}\n", finding.what),
    };
    Ok((findings.iter().map(line).collect(), healthy))
}

fn reason(error: &Error) -> String {
    error.to_string()
}

fn plugin(settings: &Settings) -> Finding {
    match host::select(settings) {
        Ok(plugin) => good(format!("network plugin {}: {}", plugin.name(), plugin.origin())),
        Err(error) => bad("network plugin", format!("{}; see `kubenet-shim probe`", reason(&error))),
    }
}

/// The CNI plugins that kubenet drives, and what they call themselves.
fn programs(node: &Node) -> Vec<Finding> {
    let path = node.path();
    let all = REQUIRED.iter().map(|name| (*name, true)).chain([("portmap", false), ("bandwidth", false)]);
    all.map(|(name, required)| {
        let Ok(program) = path.find(name) else {
            let whom = match (required, name) {
                (true, _) => "every pod needs it",
                (false, "portmap") => "pods with hostPorts need it",
                (false, _) => "pods with limits need it",
            };
            let todo = format!("not found in {:?}; {whom}; install it there", node.plugin_dirs);
            return bad(format!("CNI plugin {name}"), todo);
        };
        good(format!("{}: {}", program.display(), version(&program)))
    })
    .collect()
}

/// What a plugin says when it is called by hand.
fn version(plugin: &Path) -> String {
    let output = process::run(program::alone(plugin), &[], PATIENCE);
    let text = output.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap_or_default();
    text.lines().next().filter(|line| line.starts_with("CNI ")).unwrap_or("says no version").to_owned()
}

fn range(node: &Node) -> Finding {
    match (node.cidrs.is_empty(), node.ready()) {
        (false, _) => good(format!("pod CIDR {}", to_text(&node.cidrs))),
        (true, Err(error)) => bad("pod CIDR", error.cause()),
        (true, Ok(())) => good("pod CIDR"),
    }
}

/// Addresses of the node, but for the bridge's, that lie in a range of pods: those pods would never be reached.
fn overlaps(node: &Node) -> Vec<Finding> {
    let look = || -> Result<Vec<(String, IpNet, IpNet)>> {
        let mut socket = Socket::route()?;
        let links = link::list(&mut socket, None)?;
        let name = |index: u32| links.iter().find(|link| link.index == index).map(|link| link.name.clone());
        let mut found = Vec::new();
        for address in addr::list_all(&mut socket)? {
            let name = name(address.link).unwrap_or_default();
            if name == node.bridge.as_str() {
                continue;
            }
            let in_the_way = node.cidrs.iter().find(|cidr| cidr.contains(&address.net.addr()));
            found.extend(in_the_way.map(|cidr| (name, address.net, *cidr)));
        }
        Ok(found)
    };
    match look() {
        Ok(found) if found.is_empty() => vec![good("no address of the node lies in a range of pods")],
        Ok(found) => found
            .into_iter()
            .map(|(name, net, cidr)| {
                bad(
                    format!("{net} on {name} lies in pod CIDR {cidr}"),
                    "give the node another range or address",
                )
            })
            .collect(),
        Err(error) => vec![bad("addresses of the node", reason(&error))],
    }
}

/// Routes that lead the node's own ranges, or parts of them, elsewhere than to the bridge.
fn routes(node: &Node) -> Vec<Finding> {
    let look = || -> Result<Vec<(IpNet, String)>> {
        let mut socket = Socket::route()?;
        let links = link::list(&mut socket, None)?;
        let name = |index: Option<u32>| {
            links.iter().find(|link| Some(link.index) == index).map(|link| link.name.clone())
        };
        let leads_away = |found: &route::Found| {
            let own = |cidr: &IpNet| cidr.contains(&found.route.dst);
            let is_main = found.route.table == Some(route::MAIN_TABLE);
            is_main && node.cidrs.iter().any(own) && name(found.link).as_deref() != Some(node.bridge.as_str())
        };
        let found = route::list(&mut socket)?.into_iter().filter(leads_away);
        Ok(found
            .map(|found| {
                let via = found.route.gw.map(|gw| format!(" via {gw}")).unwrap_or_default();
                let dev = name(found.link).map(|name| format!(" dev {name}")).unwrap_or_default();
                (found.route.dst, format!("{}{via}{dev}", found.route.dst))
            })
            .collect())
    };
    match look() {
        Ok(found) if found.is_empty() => vec![good("no route leads the node's own ranges elsewhere")],
        Ok(found) => found
            .into_iter()
            .map(|(dst, words)| {
                let family = if dst.addr().is_ipv6() { "-6 " } else { "" };
                let what = format!("the route {words} leads the node's own pods elsewhere");
                bad(what, format!("ip {family}route del {words}"))
            })
            .collect(),
        Err(error) => vec![bad("routes of the node", reason(&error))],
    }
}

/// What runtimes set pods up by, what the node was told, and what the bridge has, where they differ.
fn disagreements(settings: &Settings, node: &Node) -> Vec<Finding> {
    let mut findings = Vec::new();
    let kept = state::pod_cidrs(&node.state_dir).unwrap_or_default();
    if let Ok(Some((file, deployed))) = settings.deployed()
        && !kept.is_empty()
        && !deployed.cidrs.is_empty()
        && kept != deployed.cidrs
    {
        let (file, has) = (file.display(), to_text(&deployed.cidrs));
        let todo = format!(
            "pods get addresses from the file's: take podCIDR out of it, or write it anew (containerd writes its conf_template once: \
             delete {file} and restart containerd)"
        );
        findings.push(bad(format!("{file} has pod CIDR {has}, the node was told {}", to_text(&kept)), todo));
    }
    let missing = || -> Result<Option<IpNet>> {
        let mut socket = Socket::route()?;
        let Some(found) = bridge::find(&mut socket, node)? else { return Ok(None) };
        let have: Vec<IpNet> =
            addr::list(&mut socket, found.index)?.into_iter().map(|addr| addr.net).collect();
        Ok(node.cidrs.iter().filter_map(crate::cidr::gateway).find(|gateway| !have.contains(gateway)))
    };
    match missing() {
        Ok(None) => {}
        Ok(Some(gateway)) => findings.push(bad(
            format!("{} lacks {gateway}, the gateway of the pod CIDR", node.bridge),
            "`kubenet-shim init` or `run` adds it, and so does the next pod",
        )),
        Err(error) => findings.push(bad(format!("bridge {}", node.bridge), reason(&error))),
    }
    findings
}

/// Addresses of ranges that the node had before.
fn earlier_ranges(node: &Node) -> Vec<Finding> {
    let look = || -> Result<Vec<IpNet>> {
        let mut socket = Socket::route()?;
        let Some(found) = bridge::find(&mut socket, node)? else { return Ok(vec![]) };
        let have: Vec<IpNet> =
            addr::list(&mut socket, found.index)?.into_iter().map(|addr| addr.net).collect();
        Ok(bridge::earlier_gateways(node, &have).copied().collect())
    };
    let found = look().unwrap_or_default();
    if found.is_empty() {
        return vec![];
    }
    let in_use = ranges::of_earlier_pods(node);
    let tell = |net: IpNet| {
        let todo = match in_use.get(&net.trunc()) {
            Some(pods) => format!(
                "{pods} pods have addresses there; until they are gone, this node can't reach another that has got the range"
            ),
            None => "`kubenet-shim init` or `run` deletes it".to_owned(),
        };
        bad(format!("{} has {net}, of a range that the node had before", node.bridge), todo)
    };
    found.into_iter().map(tell).collect()
}

fn sysctls(node: &Node) -> Vec<Finding> {
    let has = |v4: bool| node.cidrs.iter().any(|cidr| cidr.addr().is_ipv4() == v4);
    let keys = [
        (Key::ForwardV4, has(true)),
        (Key::ForwardV6, has(false)),
        (Key::BridgeCallsV4, true),
        (Key::BridgeCallsV6, true),
    ];
    let look = |key: &Key| match sysctl::read(key) {
        Ok(value) if value == "1" => good(format!("{key} is 1")),
        Ok(value) => bad(format!("{key} is {value}"), "`kubenet-shim init` sets it"),
        Err(_) => bad(format!("{key} is not there"), "load its module: modprobe br_netfilter"),
    };
    keys.iter().filter(|(_, wanted)| *wanted).map(|(key, _)| look(key)).collect()
}

fn nf_tables() -> Finding {
    match nft::available() {
        Ok(()) => good("nf_tables"),
        Err(refusal) => bad("nf_tables", reason(&refusal.into())),
    }
}

/// Which of the CNI configs counts for runtimes and for the cni plugin, and which do not.
fn configs(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    for dir in settings.conf_dirs() {
        match discover(&dir, |_| Ok(())) {
            Ok(found) => {
                findings.push(good(format!("{} is the network of {}", found.file.display(), dir.display())));
                for (file, why) in found.skipped {
                    findings.push(bad(
                        format!("{} stands before it and is of no use", file.display()),
                        reason(&why),
                    ));
                }
            }
            Err(error) => {
                findings.push(good(format!("{} (only needed for cni and for runtimes)", error.msg())));
            }
        }
    }
    findings
}

fn shared(node: &Node) -> Vec<Finding> {
    if node.cidrs.is_empty() {
        return vec![];
    }
    let mut findings = vec![match masquerade::missing(node) {
        Ok(None) => good("masquerade rules"),
        Ok(Some(what)) => {
            bad(format!("{what} is not as it should be"), "`kubenet-shim init` or `run` puts it right")
        }
        Err(refusal) => bad("masquerade rules", reason(&refusal.into())),
    }];
    if node.hairpin == Hairpin::Promiscuous && dedup::is_ipvs_in_use() {
        findings.push(bad(
            "IPVS together with promiscuous-bridge",
            "packets may come twice; use --hairpin-mode=hairpin-veth",
        ));
    }
    findings
}

/// Pods whose end was not told.
fn leftovers(node: &Node) -> Vec<Finding> {
    match Cache::new(&node.state_dir).of_network(node.network.as_str()) {
        Ok(entries) => {
            let (living, gone): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| entry.is_living());
            let mut findings = vec![good(format!("{} pods are set up", living.len()))];
            findings.extend(gone.iter().map(|entry| {
                bad(
                    format!("container {} is gone, and its network is not", entry.container_id),
                    "`kubenet-shim run` frees it; or `kubenet-shim teardown NAMESPACE POD ID`",
                )
            }));
            findings
        }
        Err(error) => vec![bad("state of pods", reason(&error))],
    }
}
