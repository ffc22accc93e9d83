//! Mapping ports by iptables, in the reference plugin's own chains, so that either plugin deletes what the other made:
//!
//! ```text
//! -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT          and the same in OUTPUT
//! -A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"NETWORK\" id: \"CONTAINER\"" -m multiport --dports 8080 -j CNI-DN-HASH
//! -A CNI-DN-HASH -s 10.1.0.0/24 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
//! -A CNI-DN-HASH -s 127.0.0.1/32 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
//! -A CNI-DN-HASH -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.1.0.2:80
//! ```
//!
//! The chain is a container's, not an attachment's, as the reference has it. Where a container has two
//! interfaces on one network, the second gets a chain of its own, which the reference never makes. Last rules
//! without effect say whose each is: `-A CNI-DN-OWN -m comment --comment "of eth1" -j RETURN` and, in the
//! container's, the same with "not of eth1". What is shared stays.

use crate::condition::Condition;
use crate::conf::{Conf, Mapping, Mark, Masquerade, Protocol};
use crate::nftables::Mapped;
use crate::{Guard, Work};
use cni_common::kernel::Refusal;
use cni_common::kernel::absent_ok;
use cni_common::kernel::iptables::{Chain, Family, Iptables, Saved};
use cni_common::kernel::netlink::Socket;
use cni_common::kernel::nft;
use cni_common::owner::{Living, reference_digest};
use cni_common::spec::{Attachment, NetworkName, Result};
use ipnet::IpNet;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};

const TABLE: &str = "nat";
const DNAT: &str = "CNI-HOSTPORT-DNAT";
const SETMARK: &str = "CNI-HOSTPORT-SETMARK";
const MASQ: &str = "CNI-HOSTPORT-MASQ";
/// What one `multiport` match holds.
const MULTIPORT: usize = 15;
/// What `xt_comment` holds, less the closing NUL.
const MAX_COMMENT: usize = 255;

/// 28 characters in all, the longest name that a chain may have.
fn chain_name(network: &str, container_id: &str) -> String {
    format!("CNI-DN-{}", reference_digest(&[network, container_id], 21))
}

/// The chains that may be an attachment's.
struct Chains {
    /// The container's.
    container: String,
    /// The interface's own.
    interface: String,
}

impl Chains {
    fn of(attachment: &Attachment) -> Self {
        let [network, id] = [attachment.network.as_str(), attachment.container_id.as_str()];
        let digest = reference_digest(&[network, id, "/", attachment.ifname.as_str()], 21);
        Self { container: chain_name(network, id), interface: format!("CNI-DN-{digest}") }
    }

    fn names(&self) -> [&str; 2] {
        [&self.container, &self.interface]
    }

    /// Which of them is the attachment's among `saved`, if one is.
    fn choose(&self, saved: &Saved, attachment: &Attachment) -> Option<&str> {
        let has = |name: &String| saved.chains.contains(name);
        if has(&self.interface) {
            return Some(&self.interface);
        }
        let is_others = saved.rules.contains(&not_of(&self.container, attachment));
        (has(&self.container) && !is_others).then_some(&self.container)
    }
}

/// A rule that says whose a chain is, or is not.
fn note(chain: &str, word: &str, ifname: &str) -> String {
    format!("-A {chain} -m comment --comment \"{word} {ifname}\" -j RETURN")
}

/// The rule by which a container's chain says that it is another interface's.
fn not_of(chain: &str, attachment: &Attachment) -> String {
    note(chain, NOT_OF, attachment.ifname.as_str())
}

const OF: &str = "of";
const NOT_OF: &str = "not of";

/// The interfaces of the attachment's container that have a chain of their own.
fn interfaces(saved: &Saved, attachment: &Attachment) -> BTreeSet<String> {
    let container = format!("\"{}\"", comment(attachment));
    let chains = saved
        .rules
        .iter()
        .filter(|rule| rule.contains(&container))
        .filter_map(|rule| rule.rsplit(' ').next());
    let chains: BTreeSet<&str> = chains.collect();
    let name = |rule: &String| {
        let (chain, rest) = rule.strip_prefix("-A ")?.split_once(' ')?;
        let name = rest.strip_prefix("-m comment --comment \"of ")?.strip_suffix("\" -j RETURN")?;
        chains.contains(chain).then(|| name.to_owned())
    };
    saved.rules.iter().filter_map(name).collect()
}

fn whole_comment(attachment: &Attachment) -> String {
    format!("dnat name: \"{}\" id: \"{}\"", attachment.network, attachment.container_id)
}

/// The rule, which does nothing, by which a chain says whose it is, where the names are too long for a comment.
fn own_tag(attachment: &Attachment, chain: &str) -> Option<String> {
    let is_cut = whole_comment(attachment).len() > MAX_COMMENT;
    is_cut.then(|| format!("-A {chain} -m comment --comment \"{}\" -j RETURN", attachment.tag()))
}

/// The chain of such a rule, if its tag is the network's.
fn tagged<'a>(rule: &'a str, network: &NetworkName) -> Option<&'a str> {
    let words: Vec<&str> = rule.split(' ').collect();
    let ["-A", chain, "-m", "comment", "--comment", tag, "-j", "RETURN"] = *words.as_slice() else {
        return None;
    };
    (chain.starts_with("CNI-DN-") && network.owns_tag(tag.trim_matches('"'))).then_some(chain)
}

/// As the reference cuts it.
fn comment(attachment: &Attachment) -> String {
    let text = whole_comment(attachment);
    let text = if text.len() > MAX_COMMENT { format!("{}...", &text[..MAX_COMMENT - 2]) } else { text };
    text.replace('"', "\\\"")
}

/// The rules of the container's own chain, in the form that iptables-save prints.
fn own_rules(conf: &Conf, chain: &str, target: &IpNet, mappings: &[Mapping]) -> Vec<String> {
    let setmark = match &conf.mark {
        Mark::Bit(_) => SETMARK,
        Mark::Chain(name) => name,
    };
    let loopback = || "-s 127.0.0.1/32 ".to_owned();
    let sources = match conf.masquerade {
        Masquerade::Nothing => vec![],
        Masquerade::Everything => vec![String::new()],
        Masquerade::Hairpin if target.addr().is_ipv6() => vec![format!("-s {} ", target.trunc())],
        Masquerade::Hairpin => vec![format!("-s {} ", target.trunc()), loopback()],
    };
    let of_mapping = |mapping: &Mapping| {
        let Mapping { protocol, host_port, container_port, host_ip } = mapping;
        let to = host_ip.address().map(|ip| format!("-d {} ", IpNet::from(ip))).unwrap_or_default();
        let port = format!("-p {protocol} -m {protocol} --dport {host_port}");
        let there = SocketAddr::new(target.addr(), *container_port);
        let marks: Vec<String> =
            sources.iter().map(|source| format!("-A {chain} {source}{to}{port} -j {setmark}")).collect();
        marks.into_iter().chain([format!("-A {chain} {to}{port} -j DNAT --to-destination {there}")])
    };
    mappings.iter().flat_map(of_mapping).collect()
}

/// The rules that lead to it: fifteen ports of one protocol each.
fn entries(conf: &Conf, attachment: &Attachment, chain: &str, v4: bool, mappings: &[Mapping]) -> Vec<String> {
    let comment = comment(attachment);
    let mut by_protocol: BTreeMap<Protocol, Vec<u16>> = BTreeMap::new();
    for mapping in mappings {
        let ports = by_protocol.entry(mapping.protocol).or_default();
        if !ports.contains(&mapping.host_port) {
            ports.push(mapping.host_port);
        }
    }
    let words = conf.conditions[usize::from(!v4)].iter().filter_map(|condition| match condition {
        Condition::Words(words) => Some(words.join(" ") + " "),
        _ => None,
    });
    let words: String = words.collect();
    let rules = by_protocol.iter().flat_map(|(protocol, ports)| {
        let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
        let rule = |ports: &[String]| {
            let ports = ports.join(",");
            format!("-A {DNAT} -p {protocol} -m comment --comment \"{comment}\" -m multiport --dports {ports} {words}-j {chain}")
        };
        ports.chunks(MULTIPORT).map(rule).collect::<Vec<_>>()
    });
    rules.collect()
}

/// What is shared, and is not there.
fn missing_shared(saved: &Saved, mark: &Mark, masquerade: Masquerade) -> Vec<String> {
    let mut lines = Vec::new();
    let mut need_chain = |name: &str| {
        if !saved.chains.iter().any(|chain| chain == name) {
            lines.push(format!("-N {name}"));
        }
    };
    let mut rules = ["PREROUTING", "OUTPUT"]
        .map(|hook| format!("-A {hook} -m addrtype --dst-type LOCAL -j {DNAT}"))
        .to_vec();
    need_chain(DNAT);
    let mut first = None;
    if let (Mark::Bit(bit), true) = (mark, masquerade != Masquerade::Nothing) {
        need_chain(SETMARK);
        need_chain(MASQ);
        let mark = 1u32 << bit;
        rules.push(format!("-A {SETMARK} -m comment --comment \"CNI portfwd masquerade mark\" -j MARK --set-xmark {mark:#x}/{mark:#x}"));
        rules.push(format!("-A {MASQ} -m mark --mark {mark:#x}/{mark:#x} -j MASQUERADE"));
        first =
            Some(format!("POSTROUTING -m comment --comment \"CNI portfwd requiring masquerade\" -j {MASQ}"));
    }
    lines.extend(rules.into_iter().filter(|rule| !saved.rules.contains(rule)));
    let first = first.filter(|rule| !saved.rules.contains(&format!("-A {rule}")));
    lines.extend(first.map(|rule| format!("-I {rule}")));
    lines
}

/// How `chain` goes, of these rules.
fn removal(saved: &Saved, chain: &str) -> Vec<String> {
    let leads_there = |rule: &&String| rule.rsplit(' ').next() == Some(chain);
    let mut lines: Vec<String> =
        saved.rules.iter().filter(leads_there).map(|rule| rule.replacen("-A ", "-D ", 1)).collect();
    if saved.chains.iter().any(|name| name == chain) {
        lines.extend([format!("-F {chain}"), format!("-X {chain}")]);
    }
    lines
}

/// Where the guard is: before the kernel tracks connections, and so before anything is mapped.
const GUARD_TABLE: &str = "raw";
const GUARD: &str = "CNI-LOOPBACK-GUARD";

/// What of the guard is missing. What comes for 127.0.0.0/8, or says to come from there, is not from outside.
fn missing_guard(saved: &Saved) -> Vec<String> {
    let rules = [
        format!("-A {GUARD} -i lo -j RETURN"),
        format!("-A {GUARD} -s 127.0.0.0/8 -j DROP"),
        format!("-A {GUARD} -d 127.0.0.0/8 -j DROP"),
    ];
    let jump = format!("-A PREROUTING -j {GUARD}");
    let mut lines = Vec::new();
    if !saved.chains.iter().any(|chain| chain == GUARD) {
        lines.push(format!("-N {GUARD}"));
    }
    // Their order counts.
    if !rules.iter().all(|rule| saved.rules.contains(rule)) {
        lines.push(format!("-F {GUARD}"));
        lines.extend(rules);
    }
    lines.extend(Some(jump).filter(|jump| !saved.rules.contains(jump)));
    lines
}

/// Puts up the guard of the loopback addresses, where it is not.
///
/// # Errors
/// Code 5: what iptables says.
pub fn add_guard() -> Result<()> {
    Iptables::find(Family::V4)?.edit(GUARD_TABLE, missing_guard)
}

/// What is there of it.
///
/// # Errors
/// Code 5: what iptables says.
pub(crate) fn guard_found() -> Result<Guard> {
    let mut found = Guard::Absent;
    for iptables in Iptables::holding(Family::V4, GUARD_TABLE, Chain::Named(&[GUARD]))? {
        let saved = iptables.saved(GUARD_TABLE)?;
        if missing_guard(&saved).is_empty() {
            return Ok(Guard::Whole);
        }
        if saved.chains.iter().any(|chain| chain == GUARD) {
            found = Guard::Broken;
        }
    }
    Ok(found)
}

/// Maps the ports of an attachment. `inside` tells the addresses that the container has.
///
/// # Errors
/// Code 5: what iptables says. What was done for another family then has to be undone.
pub(crate) fn add(work: &Work, inside: &dyn Fn() -> Vec<IpAddr>) -> Result<()> {
    let chains = Chains::of(work.attachment);
    let marker = not_of(&chains.container, work.attachment);
    // Both families have to agree: DEL then knows whose the container's chain is.
    let is_taken = |saved: &Saved, target: &IpNet| {
        let others = |mapped: Mapped| (mapped.target != target.addr()).then_some(mapped.target);
        let others: Vec<IpAddr> = saved
            .rules
            .iter()
            .filter_map(|rule| mapped(rule, &chains.container))
            .filter_map(others)
            .collect();
        !others.is_empty() && inside().iter().any(|ip| others.contains(ip))
    };
    let taken = Cell::new(false);
    let edit = |target: &IpNet, mappings: &[Mapping]| {
        let iptables = Iptables::find(Family::of(target.addr()))?;
        let edited = iptables.edit(TABLE, |saved| {
            taken.set(taken.get() || saved.rules.contains(&marker) || is_taken(saved, target));
            let mut lines = missing_shared(saved, &work.conf.mark, work.conf.masquerade);
            // What is left of an earlier ADD, which no DEL followed.
            lines.extend(removal(saved, &chains.interface));
            let ours = |rule: &String| mapped(rule, &chains.container).map(|to| to.target == target.addr());
            let chain = if taken.get() {
                if saved.rules.iter().filter_map(ours).any(|ours| ours) {
                    lines.extend(removal(saved, &chains.container));
                } else if saved.chains.contains(&chains.container) && !saved.rules.contains(&marker) {
                    lines.push(marker.clone());
                }
                &chains.interface
            } else {
                lines.extend(removal(saved, &chains.container));
                &chains.container
            };
            lines.push(format!("-N {chain}"));
            lines.extend(own_rules(work.conf, chain, target, mappings));
            lines.extend(own_tag(work.attachment, chain));
            if taken.get() {
                lines.push(note(chain, OF, work.attachment.ifname.as_str()));
            } else {
                let others = interfaces(saved, work.attachment).into_iter();
                let others = others.filter(|name| name != work.attachment.ifname.as_str());
                lines.extend(others.map(|name| note(chain, NOT_OF, &name)));
            }
            lines.extend(entries(work.conf, work.attachment, chain, target.addr().is_ipv4(), mappings));
            lines
        });
        edited.map_err(|error| error.context("failed to map ports"))
    };
    for (at, (target, mappings)) in work.targets.iter().enumerate() {
        let before = taken.get();
        edit(target, mappings)?;
        if taken.get() && !before {
            work.targets[..at].iter().try_for_each(|(target, mappings)| edit(target, mappings))?;
        }
    }
    Ok(())
}

/// Deletes the attachment's chain and what leads there, whoever made it, and tells what it mapped.
///
/// # Errors
/// Code 5: what iptables says.
pub fn delete(attachment: &Attachment) -> Result<Vec<Mapped>> {
    let chains = Chains::of(attachment);
    let mut gone = Vec::new();
    for family in Family::BOTH {
        for iptables in Iptables::holding(family, TABLE, Chain::Named(&chains.names()))? {
            let saved = iptables.saved(TABLE)?;
            if let Some(chain) = chains.choose(&saved, attachment) {
                gone.extend(saved.rules.iter().filter_map(|rule| mapped(rule, chain)));
                iptables.edit(TABLE, |saved| removal(saved, chain))?;
            }
        }
    }
    Ok(gone)
}

/// What a rule of `chain` maps, if it does.
fn mapped(rule: &str, chain: &str) -> Option<Mapped> {
    let words: Vec<&str> = rule.split(' ').collect();
    let after = |word: &str| words.windows(2).find(|pair| pair[0] == word).map(|pair| pair[1]);
    let target: SocketAddr =
        after("--to-destination").filter(|_| words.get(1) == Some(&chain))?.parse().ok()?;
    let address = after("-d").and_then(|net| net.split('/').next()?.parse().ok());
    let protocol = match after("-p")? {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => Protocol::Sctp,
    };
    Some(Mapped {
        service: (address, protocol.number(), after("--dport")?.parse().ok()?),
        target: target.ip(),
    })
}

/// Whether either family has the attachment's chain.
///
/// # Errors
/// Code 5: what iptables says.
pub fn is_there(attachment: &Attachment) -> Result<bool> {
    let chains = Chains::of(attachment);
    for family in Family::BOTH {
        for iptables in Iptables::holding(family, TABLE, Chain::Named(&chains.names()))? {
            if chains.choose(&iptables.saved(TABLE)?, attachment).is_some() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The first rule that is not there, and what is.
///
/// # Errors
/// Code 5: what iptables says.
pub(crate) fn missing(work: &Work, target: &IpNet, mappings: &[Mapping]) -> Result<Option<(String, String)>> {
    let chains = Chains::of(work.attachment);
    let mut found = Saved::default();
    for iptables in Iptables::holding(Family::of(target.addr()), TABLE, Chain::Named(&chains.names()))? {
        let saved = iptables.saved(TABLE)?;
        found.chains.extend(saved.chains);
        found.rules.extend(saved.rules);
    }
    let chain = chains.choose(&found, work.attachment).unwrap_or(&chains.container);
    let mut wanted = missing_shared(&found, &work.conf.mark, work.conf.masquerade);
    wanted.extend(
        own_rules(work.conf, chain, target, mappings).into_iter().filter(|rule| !found.rules.contains(rule)),
    );
    // Conditions come back in other words, so that only their ports are compared.
    let ports = |rule: &str| {
        rule.split("--dports ").nth(1).and_then(|rest| rest.split(' ').next()).map(ToOwned::to_owned)
    };
    let leads_there = |rule: &&String| rule.rsplit(' ').next() == Some(chain);
    let have: HashSet<_> = found.rules.iter().filter(leads_there).map(|rule| ports(rule)).collect();
    let entries = entries(work.conf, work.attachment, chain, target.addr().is_ipv4(), mappings);
    wanted.extend(entries.into_iter().filter(|rule| !have.contains(&ports(rule))));
    Ok(wanted.into_iter().next().map(|rule| (format!("the iptables rule {rule}"), "none".to_owned())))
}

/// Deletes the chains of the network's containers that have no valid attachment.
///
/// # Errors
/// Code 5: what iptables says.
pub fn gc(living: &Living) -> Result<()> {
    let network = living.network;
    let valid: Vec<(&Attachment, Chains)> =
        living.attachments.iter().map(|attachment| (attachment, Chains::of(attachment))).collect();
    let ours = format!("\"dnat name: \\\"{network}\\\" id: ");
    for family in Family::BOTH {
        for iptables in Iptables::holding(family, TABLE, Chain::Prefix("CNI-DN-"))? {
            iptables.edit(TABLE, |saved| {
                let living: HashSet<&str> = valid
                    .iter()
                    .filter_map(|(attachment, chains)| chains.choose(saved, attachment))
                    .collect();
                let of_network = saved.rules.iter().filter(|rule| rule.contains(&ours));
                let leading = of_network.filter_map(|rule| rule.rsplit(' ').next());
                let tagged = saved.rules.iter().filter_map(|rule| tagged(rule, network));
                let chains: BTreeSet<&str> = leading.chain(tagged).collect();
                chains
                    .into_iter()
                    .filter(|chain| !living.contains(*chain))
                    .flat_map(|chain| removal(saved, chain))
                    .collect()
            })?;
        }
    }
    Ok(())
}

/// Deletes the rules that the reference plugin's nf_tables back end made for the container: they name nobody else.
///
/// # Errors
/// Any refusal but that there are none.
pub fn delete_references_nftables(socket: &mut Socket, attachment: &Attachment) -> Result<(), Refusal> {
    let chain = |name| nft::Chain { table: "cni_hostport", name, hook: None };
    for family in nft::Family::IP {
        if !nft::has_chain(socket, family, &chain("hostports"))? {
            continue;
        }
        let mut transaction = nft::Transaction::default();
        for chain in ["hostports", "hostip_hostports", "masquerading"].map(chain) {
            for (handle, comment) in nft::rules(socket, family, &chain)? {
                if comment == attachment.container_id.as_str() {
                    transaction.delete_rule(family, &chain, handle);
                }
            }
        }
        absent_ok(transaction.commit(socket))?;
    }
    Ok(())
}
