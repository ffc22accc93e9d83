//! Against packets that come twice. On a promiscuous bridge the node, too, sees what pods send to each other, and where
//! `br_netfilter` leads a packet back to the bridge, the node sends a second one: with the bridge's Ethernet address and a
//! pod's IP address. Those are dropped.
//!
//! ```text
//! table bridge cni_kubenet {
//!     chain dedup-cbr0 {                              # filter hook of what the node sends
//!         ether saddr MAC ip saddr 10.1.0.1 accept    # the gateway itself
//!         ether saddr MAC ip saddr 10.1.0.0/24 drop
//!     }
//! }
//! ```

use super::Node;
use super::masquerade::TABLE;
use cni_common::kernel::netlink::Socket;
use cni_common::kernel::nft::{self, Chain, Family, Hook, Match, Rule, Transaction, Verdict, rules};
use cni_common::kernel::{Refusal, absent_ok};
use cni_common::spec::MacAddr;
use ipnet::IpNet;
use std::net::IpAddr;

fn name(node: &Node) -> String {
    format!("dedup-{}", node.bridge)
}

const fn chain(name: &str) -> Chain<'_> {
    Chain { table: TABLE, name, hook: Some(Hook::BridgeOutput) }
}

/// The rules as data: who, and whether it passes.
fn wanted(node: &Node) -> Vec<(IpNet, bool)> {
    let gateways =
        node.cidrs.iter().filter_map(crate::cidr::gateway).map(|net| (IpNet::from(net.addr()), true));
    gateways.chain(node.cidrs.iter().map(|cidr| (*cidr, false))).collect()
}

fn comments(node: &Node, mac: MacAddr) -> Vec<String> {
    wanted(node)
        .iter()
        .map(|(net, passes)| format!("kubenet: {} {net} from {mac}", if *passes { "pass" } else { "drop" }))
        .collect()
}

/// Whether the kernel's load balancer has services: it sends to pods from the node in the place of other pods, which looks the
/// same as what comes twice and is not.
#[must_use]
pub fn is_ipvs_in_use() -> bool {
    const HEADER_LINES: usize = 3;
    std::fs::read_to_string("/proc/net/ip_vs").is_ok_and(|text| text.lines().count() > HEADER_LINES)
}

/// Whether the kernel forgets what it knew of a packet that a promiscuous bridge passes up ("skip conntrack input hook for
/// promiscuous packets", Linux 6.9 and the stable releases since April 2024). Then what a pod sends to itself by a port of the
/// host comes back without its masquerading, and is dropped here: the pod needs a port that sends frames back, too. Before,
/// that would bring everything twice.
#[must_use]
pub fn kernel_forgets() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if is_since_6_9(&release) {
        return true;
    }
    // The function that forgets.
    let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    symbols.lines().any(|line| line.split_whitespace().nth(2) == Some("br_nf_local_in"))
}

fn is_since_6_9(release: &str) -> bool {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or_default());
    (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default()) >= (6, 9)
}

/// Whether the rules are as they should be.
///
/// # Errors
/// The kernel's refusal.
pub fn is_right(node: &Node, mac: MacAddr) -> Result<bool, Refusal> {
    let name = name(node);
    let found = rules(&mut Socket::netfilter()?, Family::Bridge, &chain(&name))?;
    Ok(found.into_iter().map(|(_, comment)| comment).eq(comments(node, mac)))
}

/// Sees to it that the rules are as they should be, in one transaction. Whether anything had to be changed.
///
/// # Errors
/// The kernel's refusal.
pub fn ensure(node: &Node, mac: MacAddr) -> Result<bool, Refusal> {
    if is_right(node, mac)? {
        return Ok(false);
    }
    let (name, wanted, comments) = (name(node), wanted(node), comments(node, mac));
    let chain = chain(&name);
    let family = |ip: IpAddr| Family::of(ip);
    let matches: Vec<[Match; 2]> =
        wanted.iter().map(|(net, _)| [Match::Frame(mac, family(net.addr())), Match::From(*net)]).collect();
    let rules: Vec<Rule> = matches
        .iter()
        .zip(&wanted)
        .zip(&comments)
        .map(|((matches, (_, passes)), comment)| Rule {
            chain,
            matches,
            verdict: if *passes { Verdict::Accept } else { Verdict::Drop },
            comment,
        })
        .collect();
    let mut transaction = Transaction::default();
    transaction.table(Family::Bridge, TABLE);
    transaction.chain_with(Family::Bridge, &chain, &rules);
    transaction.commit(&mut Socket::netfilter()?)?;
    Ok(true)
}

/// Takes the rules away. Whether there were any.
///
/// # Errors
/// The kernel's refusal.
pub fn remove(node: &Node) -> Result<bool, Refusal> {
    let name = name(node);
    let mut socket = Socket::netfilter()?;
    if !nft::has_chain(&mut socket, Family::Bridge, &chain(&name))? {
        return Ok(false);
    }
    absent_ok(nft::delete_chain(&mut socket, Family::Bridge, &chain(&name)))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::is_since_6_9;

    #[test]
    fn releases() {
        for (release, since) in [
            ("6.9.0", true),
            ("6.18.5-cloud", true),
            ("7.0", true),
            ("6.8.12", false),
            ("5.15.0-91", false),
            ("", false),
        ] {
            assert_eq!(is_since_6_9(release), since, "{release}");
        }
    }
}
