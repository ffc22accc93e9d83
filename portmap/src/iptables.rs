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
//! The chain is a container's, not an attachment's, as the reference has it. What is shared stays.

use crate::Work;
use crate::condition::Condition;
use crate::conf::{Conf, Mapping, Mark, Masquerade, Protocol};
use crate::nftables::Mapped;
use cni_common::kernel::Refusal;
use cni_common::kernel::absent_ok;
use cni_common::kernel::iptables::{Chain, Family, Iptables, Saved};
use cni_common::kernel::netlink::Socket;
use cni_common::kernel::nft;
use cni_common::spec::name::reference_digest;
use cni_common::spec::{Attachment, NetworkName, Result};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;

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

fn chain_of(attachment: &Attachment) -> String {
    chain_name(attachment.network.as_str(), attachment.container_id.as_str())
}

/// As the reference cuts it.
fn comment(attachment: &Attachment) -> String {
    let text = format!("dnat name: \"{}\" id: \"{}\"", attachment.network, attachment.container_id);
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
fn entries(conf: &Conf, attachment: &Attachment, v4: bool, mappings: &[Mapping]) -> Vec<String> {
    let (chain, comment) = (chain_of(attachment), comment(attachment));
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

/// Maps the ports of an attachment.
///
/// # Errors
/// Code 5: what iptables says. What was done for another family then has to be undone.
pub(crate) fn add(work: &Work) -> Result<()> {
    let chain = chain_of(work.attachment);
    for (target, mappings) in &work.targets {
        let iptables = Iptables::find(Family::of(target.addr()))?;
        let edited = iptables.edit(TABLE, |saved| {
            let mut lines = missing_shared(saved, &work.conf.mark, work.conf.masquerade);
            // What is left of an earlier ADD, which no DEL followed.
            lines.extend(removal(saved, &chain));
            lines.push(format!("-N {chain}"));
            lines.extend(own_rules(work.conf, &chain, target, mappings));
            lines.extend(entries(work.conf, work.attachment, target.addr().is_ipv4(), mappings));
            lines
        });
        edited.map_err(|error| error.context("failed to map ports"))?;
    }
    Ok(())
}

/// Deletes the container's chain and what leads there, whoever made it, and tells what it mapped.
///
/// # Errors
/// Code 5: what iptables says.
pub fn delete(attachment: &Attachment) -> Result<Vec<Mapped>> {
    let chain = chain_of(attachment);
    let mut gone = Vec::new();
    for family in Family::BOTH {
        for iptables in Iptables::holding(family, TABLE, Chain::Named(&chain))? {
            let rules = iptables.saved(TABLE)?.rules;
            gone.extend(rules.iter().filter_map(|rule| mapped(rule, &chain)));
            iptables.edit(TABLE, |saved| removal(saved, &chain))?;
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

/// Whether either family has the container's chain.
///
/// # Errors
/// Code 5: what iptables says.
pub fn is_there(attachment: &Attachment) -> Result<bool> {
    let chain = chain_of(attachment);
    for family in Family::BOTH {
        for iptables in Iptables::holding(family, TABLE, Chain::Named(&chain))? {
            if iptables.saved(TABLE)?.chains.contains(&chain) {
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
    let chain = chain_of(work.attachment);
    let mut found = Saved::default();
    for iptables in Iptables::holding(Family::of(target.addr()), TABLE, Chain::Named(&chain))? {
        let saved = iptables.saved(TABLE)?;
        found.chains.extend(saved.chains);
        found.rules.extend(saved.rules);
    }
    let mut wanted = missing_shared(&found, &work.conf.mark, work.conf.masquerade);
    wanted.extend(
        own_rules(work.conf, &chain, target, mappings).into_iter().filter(|rule| !found.rules.contains(rule)),
    );
    // Conditions come back in other words, so that only their ports are compared.
    let ports = |rule: &str| {
        rule.split("--dports ").nth(1).and_then(|rest| rest.split(' ').next()).map(ToOwned::to_owned)
    };
    let leads_there = |rule: &&String| rule.rsplit(' ').next() == Some(chain.as_str());
    let have: HashSet<_> = found.rules.iter().filter(leads_there).map(|rule| ports(rule)).collect();
    let entries = entries(work.conf, work.attachment, target.addr().is_ipv4(), mappings);
    wanted.extend(entries.into_iter().filter(|rule| !have.contains(&ports(rule))));
    Ok(wanted.into_iter().next().map(|rule| (format!("the iptables rule {rule}"), "none".to_owned())))
}

/// Deletes the chains of the network's containers that have no valid attachment.
///
/// # Errors
/// Code 5: what iptables says.
pub fn gc(network: &NetworkName, valid: &[Attachment]) -> Result<()> {
    let living: HashSet<String> = valid.iter().map(chain_of).collect();
    let ours = format!("\"dnat name: \\\"{network}\\\" id: ");
    for family in Family::BOTH {
        for iptables in Iptables::holding(family, TABLE, Chain::Prefix("CNI-DN-"))? {
            iptables.edit(TABLE, |saved| {
                let of_network = saved.rules.iter().filter(|rule| rule.contains(&ours));
                let chains: BTreeSet<&str> = of_network.filter_map(|rule| rule.rsplit(' ').next()).collect();
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
