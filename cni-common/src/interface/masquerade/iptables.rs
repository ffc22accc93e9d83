//! Masquerading by iptables, in the reference plugin's own chains, so that either plugin deletes what the other made:
//!
//! ```text
//! -A POSTROUTING -s 10.1.0.5/32 -m comment --comment "name: \"NETWORK\" id: \"CONTAINER\"" -j CNI-HASH
//! -A CNI-HASH -d 10.1.0.0/24 -m comment … -j ACCEPT
//! -A CNI-HASH ! -d 224.0.0.0/4 -m comment … -j MASQUERADE
//! ```
//!
//! The chain is a container's, not an attachment's: two of its interfaces on one network share it.

use super::multicast;
use crate::kernel::iptables::{Chain, Family, Iptables, Saved};
use crate::owner::reference_digest;
use crate::spec::{Attachment, NetworkName, Result};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

const TABLE: &str = "nat";
/// What `xt_comment` holds, less the closing NUL.
const MAX_COMMENT: usize = 255;

/// `CNI-` and as many digits as make 28 characters, the longest name that a chain may have.
fn chain_name(network: &NetworkName, container_id: &str) -> String {
    format!("CNI-{}", reference_digest(&[network.as_str(), container_id], 24))
}

/// The two names' alphabet ends with `_ . -`, so nothing in them has to be escaped.
fn whole_comment(attachment: &Attachment) -> String {
    format!("name: \\\"{}\\\" id: \\\"{}\\\"", attachment.network, attachment.container_id)
}

fn comment(attachment: &Attachment) -> String {
    let mut text = whole_comment(attachment);
    text.truncate(MAX_COMMENT);
    // One that was cut between the two would escape what ends the comment.
    if text.ends_with('\\') {
        text.pop();
    }
    text
}

/// Whether the names do not fit whole.
fn is_cut(attachment: &Attachment) -> bool {
    whole_comment(attachment).len() > MAX_COMMENT
}

/// The rules for one of the container's addresses, in the form that iptables-save prints. Where the names are
/// too long for a comment, a last one, which does nothing, says whose the chain is.
fn wanted(attachment: &Attachment, net: &IpNet) -> Vec<String> {
    let chain = chain_name(&attachment.network, attachment.container_id.as_str());
    let text = comment(attachment);
    let comment = format!("-m comment --comment \"{text}\"");
    let mut rules = vec![
        format!("-A {chain} -d {} {comment} -j ACCEPT", net.trunc()),
        format!("-A {chain} ! -d {} {comment} -j MASQUERADE", multicast(net.addr())),
    ];
    let tag = attachment.tag();
    rules.extend(is_cut(attachment).then(|| format!("-A {chain} -m comment --comment \"{tag}\" -j RETURN")));
    rules.push(format!("-A POSTROUTING -s {} {comment} -j {chain}", IpNet::from(net.addr())));
    rules
}

fn by_family(nets: &[IpNet]) -> impl Iterator<Item = (Family, Vec<&IpNet>)> {
    let of = |family| nets.iter().filter(move |net| Family::of(net.addr()) == family).collect::<Vec<_>>();
    Family::BOTH.into_iter().map(move |family| (family, of(family))).filter(|(_, nets)| !nets.is_empty())
}

/// Masquerades what the container sends out of the subnets of its addresses `nets`.
///
/// # Errors
/// Code 5: what iptables says. What was done for another family then has to be undone.
pub fn add(attachment: &Attachment, nets: &[IpNet]) -> Result<()> {
    let chain = chain_name(&attachment.network, attachment.container_id.as_str());
    for (family, nets) in by_family(nets) {
        let iptables = Iptables::find(family)?;
        let mut lines: Vec<String> = Vec::new();
        for line in nets.iter().flat_map(|net| wanted(attachment, net)) {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        // As a rule, the chain is not there: one run does all.
        let with_chain: Vec<String> = [format!("-N {chain}")].into_iter().chain(lines.clone()).collect();
        let Err(error) = iptables.change(TABLE, &with_chain) else { continue };
        let have = iptables.saved(TABLE)?.rules;
        if !have.iter().any(|rule| leads_from(rule, &chain)) {
            return Err(error);
        }
        // Another interface of this container is on this network.
        let missing: Vec<String> = lines.into_iter().filter(|line| !have.contains(line)).collect();
        iptables.change(TABLE, &missing)?;
    }
    Ok(())
}

fn leads_from(rule: &str, chain: &str) -> bool {
    rule.split(' ').nth(1) == Some(chain)
}

fn leads_to(rule: &str, chain: &str) -> bool {
    rule.starts_with("-A POSTROUTING ") && rule.rsplit(' ').next() == Some(chain)
}

/// Whose packets a rule is for. The reference's oldest rules name the subnet's length with it.
fn source(rule: &str) -> Option<IpAddr> {
    let mut words = rule.split(' ').skip_while(|word| *word != "-s").skip(1);
    words.next()?.split('/').next()?.parse().ok()
}

/// How `chain` goes, of these rules, but for the packets of addresses that `stays` says yes to.
fn removal(rules: &[String], chain: &str, stays: impl Fn(&IpAddr) -> bool) -> Vec<String> {
    let (kept, gone): (Vec<&String>, Vec<&String>) = rules
        .iter()
        .filter(|rule| leads_to(rule, chain))
        .partition(|rule| source(rule).is_some_and(|ip| stays(&ip)));
    let mut lines: Vec<String> = gone.iter().map(|rule| rule.replacen("-A ", "-D ", 1)).collect();
    let exists = !gone.is_empty() || rules.iter().any(|rule| leads_from(rule, chain));
    if kept.is_empty() && exists {
        lines.extend([format!("-F {chain}"), format!("-X {chain}")]);
    }
    lines
}

/// Ends the masquerading of this container on this network, whoever began it, but for the addresses that `stays` says
/// yes to: those of its other interfaces.
///
/// # Errors
/// Code 5: what iptables says.
pub fn delete(attachment: &Attachment, stays: impl Fn(&IpAddr) -> bool) -> Result<()> {
    let chain = chain_name(&attachment.network, attachment.container_id.as_str());
    for family in Family::BOTH {
        for iptables in Iptables::holding(family, TABLE, Chain::Named(&[&chain]))? {
            iptables.edit(TABLE, |saved| removal(&saved.rules, &chain, &stays))?;
        }
    }
    Ok(())
}

/// The addresses of `nets` that are not masqueraded as [`add`] does it, with what is wrong.
///
/// # Errors
/// Code 5: what iptables says.
pub fn missing(attachment: &Attachment, net: &IpNet) -> Result<Option<String>> {
    let chain = chain_name(&attachment.network, attachment.container_id.as_str());
    let mut found = Vec::new();
    for iptables in Iptables::holding(Family::of(net.addr()), TABLE, Chain::Named(&[&chain]))? {
        found.extend(iptables.saved(TABLE)?.rules);
    }
    let lacks = wanted(attachment, net).into_iter().find(|rule| !found.contains(rule));
    Ok(lacks.map(|rule| format!("no rule {rule}")))
}

/// The chain that a rule is in or leads to, if it is of one of `network`'s containers: the names stand in the
/// comments, and the chain's name proves them, where they fit there whole.
fn owned<'a>(rule: &'a str, network: &NetworkName) -> Option<&'a str> {
    let words: Vec<&str> = rule.split(' ').collect();
    let (["-A", "POSTROUTING", .., "-j", chain] | ["-A", chain, ..]) = *words.as_slice() else { return None };
    // portmap's have other names, and comments that are much like ours.
    if !chain.strip_prefix("CNI-").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        return None;
    }
    if let ["-A", _, "-m", "comment", "--comment", tag, "-j", "RETURN"] = words.as_slice() {
        return network.owns_tag(tag.trim_matches('"')).then_some(chain);
    }
    let prefix = format!("--comment \"name: \\\"{network}\\\" id: \\\"");
    let rest = rule.split_once(prefix.as_str())?.1;
    // Else the comment was cut within the container's ID.
    let Some((id, _)) = rest.split_once("\\\"") else { return Some(chain) };
    (chain == chain_name(network, id)).then_some(chain)
}

/// Ends the masquerading of all of this network's containers but those in `valid`.
///
/// # Errors
/// Code 5: what iptables says.
pub fn gc(network: &NetworkName, valid: &BTreeSet<&str>) -> Result<()> {
    let valid: BTreeSet<String> = valid.iter().map(|id| chain_name(network, id)).collect();
    for family in Family::BOTH {
        for iptables in Iptables::holding(family, TABLE, Chain::Prefix("CNI-"))? {
            iptables.edit(TABLE, |Saved { rules, .. }| {
                let owned = rules.iter().filter_map(|rule| owned(rule, network));
                let orphans: BTreeSet<&str> = owned.filter(|chain| !valid.contains(*chain)).collect();
                orphans.iter().flat_map(|chain| removal(rules, chain, |_| false)).collect()
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment {
            network: "refnet".try_into().unwrap(),
            container_id: "c1".try_into().unwrap(),
            ifname: "eth0".try_into().unwrap(),
        }
    }

    #[test]
    fn names_and_rules_are_the_references() {
        let rules = wanted(&attachment(), &"10.201.0.6/24".parse().unwrap());
        let comment = r#"-m comment --comment "name: \"refnet\" id: \"c1\"""#;
        assert_eq!(
            rules,
            [
                format!("-A CNI-2f9aafb03deb38160e230c91 -d 10.201.0.0/24 {comment} -j ACCEPT"),
                format!("-A CNI-2f9aafb03deb38160e230c91 ! -d 224.0.0.0/4 {comment} -j MASQUERADE"),
                format!("-A POSTROUTING -s 10.201.0.6/32 {comment} -j CNI-2f9aafb03deb38160e230c91"),
            ]
        );
        let network = NetworkName::try_from("refnet").unwrap();
        for rule in &rules {
            assert_eq!(owned(rule, &network), Some("CNI-2f9aafb03deb38160e230c91"));
        }
        assert_eq!(owned(&rules[0], &"refne".try_into().unwrap()), None);
        let forged = rules[0].replace("c1", "c2");
        assert_eq!(owned(&forged, &network), None, "the chain's name is another container's");
    }

    #[test]
    fn a_chain_is_its_networks_however_long_the_names_are() {
        for (network, id) in [(200, 64), (245, 3), (246, 3), (247, 9), (255, 255), (255, 1)] {
            let network = NetworkName::try_from("n".repeat(network)).unwrap();
            let other =
                NetworkName::try_from(format!("{}x", "n".repeat(network.as_str().len() - 1))).unwrap();
            let id = crate::spec::ContainerId::try_from("c".repeat(id)).unwrap();
            let attachment = Attachment { network: network.clone(), container_id: id, ..attachment() };
            let rules = wanted(&attachment, &"10.201.0.6/24".parse().unwrap());
            let chain = chain_name(&network, attachment.container_id.as_str());
            assert!(rules.iter().any(|rule| owned(rule, &network) == Some(&chain)), "{rules:#?}");
            assert!(rules.iter().all(|rule| owned(rule, &other).is_none()), "{rules:#?}");
            let of_portmap = format!(
                "-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment \"dnat {} -j CNI-DN-c049",
                whole_comment(&attachment)
            );
            assert_eq!(owned(&of_portmap, &network), None);
        }
    }

    #[test]
    fn a_shared_chain_stays_until_its_last_address_goes() {
        let mut rules = wanted(&attachment(), &"10.201.0.6/24".parse().unwrap());
        rules.push(rules[2].replace("10.201.0.6", "10.201.0.7"));
        let chain = "CNI-2f9aafb03deb38160e230c91";
        let lines = removal(&rules, chain, |ip| ip.to_string() == "10.201.0.7");
        assert_eq!(lines, [rules[2].replacen("-A", "-D", 1)]);
        assert_eq!(removal(&rules, chain, |_| false).len(), 4);
        assert_eq!(removal(&rules, "CNI-other", |_| false), [""; 0]);
    }
}
