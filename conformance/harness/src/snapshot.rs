//! What a machine holds, to compare before and after.

use crate::netns::ip_batch;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Links, addresses, routes, VLANs and nf_tables rules of a namespace. Two are equal when nothing was left and nothing is
/// missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Name → what does not change by itself.
    pub links: BTreeMap<String, String>,
    /// Link and address.
    pub addresses: Vec<String>,
    /// Routes of all tables but `local`.
    pub routes: Vec<String>,
    /// Bridge port and its VLANs.
    pub vlans: Vec<String>,
    /// `nft list ruleset`, without counters
    pub rules: String,
}

impl Snapshot {
    /// Of the namespace at `netns`.
    ///
    /// # Panics
    /// When there is none, or as [`Self::take`].
    #[must_use]
    pub fn inside(netns: &Path) -> Self {
        crate::netns::within(netns, || Ok(Self::take()))
            .unwrap_or_else(|error| panic!("snapshot of {}: {error}", netns.display()))
    }

    /// Of the calling thread's namespace.
    ///
    /// # Panics
    /// When `ip`, `bridge` or `nft` fail.
    #[must_use]
    pub fn take() -> Self {
        // Links with their addresses, then routes of both families: an array each.
        let asked = ip_batch(&["-j", "-d"], &["addr", "route show table all"]);
        let asked = asked.unwrap_or_else(|why| panic!("{why}"));
        let mut arrays = serde_json::Deserializer::from_str(&asked).into_iter::<Value>();
        let mut next = || {
            let array = arrays.next().unwrap_or(Ok(Value::Null));
            items(&array.unwrap_or_else(|error| panic!("ip printed {asked}: {error}")))
        };
        let (found, routes) = (next(), next());
        let links: BTreeMap<String, String> = found.iter().map(describe_link).collect();
        let addresses = found.iter().flat_map(describe_addresses).collect();
        let routes = routes.iter().filter_map(describe_route).collect();
        // Bridges and their ports alone have any, and each program that is not started saves its time a thousand times.
        let has_bridge = links.values().any(|link| link.starts_with("kind \"bridge\""));
        let vlans = if has_bridge { ask("bridge", &["-j", "vlan", "show"]) } else { String::new() };
        let vlans = items(&serde_json::from_str(&vlans).unwrap_or(Value::Null));
        let vlans = vlans.iter().map(describe_vlans).collect();
        Self { links, addresses, routes, vlans, rules: ask("nft", &["--stateless", "list", "ruleset"]) }
    }
}

/// What a program prints, which has to succeed.
fn ask(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Snapshot {
    /// All of it, a line a thing.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let links = self.links.iter().map(|(name, text)| format!("link {name}: {text}"));
        let addresses = self.addresses.iter().map(|line| format!("address {line}"));
        let routes = self.routes.iter().map(|line| format!("route {line}"));
        let vlans = self.vlans.iter().map(|line| format!("VLANs of {line}"));
        let rules = self.rules.lines().map(|line| format!("rule {}", line.trim()));
        links.chain(addresses).chain(routes).chain(vlans).chain(rules).collect()
    }
}

/// What there is `now` and was not `before`, and the other way round; `None` when that is nothing.
#[must_use]
pub fn difference(before: &[String], now: &[String]) -> Option<String> {
    let list = |title: &str, one: &[String], other: &[String]| {
        let lines: Vec<&str> = one.iter().filter(|line| !other.contains(line)).map(String::as_str).collect();
        (!lines.is_empty()).then(|| format!("{title}: {}", lines.join("; ")))
    };
    let parts = [list("left behind", now, before), list("missing", before, now)];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    match parts.is_empty() {
        true if before.len() == now.len() => None,
        true => Some("the same things in other numbers".to_owned()),
        false => Some(parts.join("\n")),
    }
}

fn items(list: &Value) -> Vec<Value> {
    list.as_array().cloned().unwrap_or_default()
}

fn describe_link(link: &Value) -> (String, String) {
    let flags = items(&link["flags"]);
    let promisc = flags.iter().any(|flag| flag == "PROMISC");
    let up = flags.iter().any(|flag| flag == "UP");
    let port = &link["linkinfo"]["info_slave_data"];
    let filtering = &link["linkinfo"]["info_data"]["vlan_filtering"];
    let text = format!(
        "kind {} up {up} mtu {} master {} alias {} promisc {promisc} hairpin {} isolated {} vlan_filtering {filtering}",
        link["linkinfo"]["info_kind"],
        link["mtu"],
        link["master"],
        link["ifalias"],
        port["hairpin"],
        port["isolated"]
    );
    (link["ifname"].as_str().unwrap_or_default().to_owned(), text)
}

/// `br1: 1 PVID Egress Untagged, 100-102`
fn describe_vlans(port: &Value) -> String {
    let vlan = |vlan: &Value| {
        let words: Vec<String> =
            items(&vlan["flags"]).iter().filter_map(|flag| Some(format!(" {}", flag.as_str()?))).collect();
        let end = vlan["vlanEnd"].as_u64().map(|end| format!("-{end}")).unwrap_or_default();
        format!("{}{end}{}", vlan["vlan"], words.concat())
    };
    let vlans: Vec<String> = items(&port["vlans"]).iter().map(vlan).collect();
    format!("{}: {}", port["ifname"].as_str().unwrap_or_default(), vlans.join(", "))
}

/// Link-local addresses come and go by themselves.
fn describe_addresses(link: &Value) -> Vec<String> {
    let name = link["ifname"].as_str().unwrap_or_default();
    let addresses = items(&link["addr_info"]).into_iter().filter(|addr| addr["scope"] != "link");
    let text = |addr: Value| {
        let broadcast = addr["broadcast"].as_str().map(|brd| format!(" brd {brd}")).unwrap_or_default();
        format!("{name} {}/{}{broadcast}", addr["local"].as_str().unwrap_or_default(), addr["prefixlen"])
    };
    addresses.map(text).collect()
}

/// `dev eth0 dst default gateway 10.1.0.1 protocol boot scope global table main …`; `None` for those that the kernel makes
/// of addresses.
fn describe_route(route: &Value) -> Option<String> {
    let fields = route.as_object()?;
    if route["table"] == "local" || route["dst"].as_str().is_some_and(|dst| dst.starts_with("fe80::")) {
        return None;
    }
    // "linkdown" comes and goes with a bridge's ports.
    let fields = fields.iter().filter(|(key, _)| key.as_str() != "flags");
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let words: Vec<String> = fields.map(|(key, value)| format!("{key} {}", word(value))).collect();
    Some(words.join(" "))
}

/// The qdiscs and the ingress filters of the calling thread's namespace that are not the kernel's defaults, as `tc` tells them.
///
/// # Panics
/// When `tc` fails.
#[must_use]
pub fn shaping() -> Vec<String> {
    let qdiscs = ask("tc", &["qdisc", "show"]);
    let mut found = Vec::new();
    for line in qdiscs.lines().filter(|line| !line.contains(" 0: ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        // How often the kernel holds it changes by itself.
        let refcnt = words.iter().position(|word| *word == "refcnt");
        let is_kept = |at: &usize| refcnt.is_none_or(|refcnt| *at != refcnt && *at != refcnt + 1);
        let kept: Vec<&str> = (0..words.len()).filter(is_kept).map(|at| words[at]).collect();
        found.push(kept.join(" "));
        if let ["qdisc", "ingress" | "clsact", _, "dev", link, ..] = words[..] {
            let filters = ask("tc", &["filter", "show", "dev", link, "ingress"]);
            let filters = filters.lines().map(str::trim).filter(|line| !line.is_empty());
            // Actions are numbered as they come and go.
            found.extend(
                filters.filter(|line| !line.starts_with("index ")).map(|line| format!("{link}: {line}")),
            );
        }
    }
    found
}

/// The lease files below `data_dir`: path → text. Hints and locks are no leases.
///
/// # Panics
/// When a folder can't be read.
#[must_use]
pub fn leases(data_dir: &Path) -> BTreeMap<String, String> {
    files(data_dir)
        .into_iter()
        .filter(|(path, _)| !path.contains("last_reserved_ip") && !path.ends_with("/lock"))
        .collect()
}

/// All files below `dir`: path relative to it → text. Hidden ones are a plugin's own business.
///
/// # Panics
/// When a file can't be read.
#[must_use]
pub fn files(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for name in names(dir).into_iter().filter(|name| !name.split('/').any(|part| part.starts_with('.'))) {
        let path = dir.join(&name);
        // A FIFO would be waited for, and a device never ends.
        if std::fs::metadata(&path).is_ok_and(|meta| !meta.is_file()) {
            found.insert(name, "no regular file".to_owned());
            continue;
        }
        let text = match std::fs::read(path) {
            // Gone between the listing and now.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.unwrap_or_else(|error| panic!("{name}: {error}")),
        };
        found.insert(name, String::from_utf8_lossy(&text).into_owned());
    }
    found
}

/// The paths of all files below `dir`, hidden ones too, relative to it.
#[must_use]
pub fn names(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}
