//! What pods send beyond the networks that know them leaves with the node's address. One rule a range.
//!
//! ```text
//! table ip cni_kubenet {                              # and the same as "ip6"
//!     chain masquerade-cbr0 {                         # nat hook, priority srcnat
//!         ip saddr 10.1.0.0/24 ip daddr != 10.1.0.0/24 ip daddr != 10.0.0.0/8 fib daddr type != local masquerade
//!     }
//! }
//! ```
//!
//! kubelet's rule looked at no source and masqueraded the node's own traffic too; and it knew one family and one network.

use super::{Node, ranges};
use cni_common::kernel::netlink::Socket;
use cni_common::kernel::nft::{Chain, End, Family, Hook, Match, Rule, Transaction, Verdict, rules};
use cni_common::kernel::{Refusal, absent_ok, nft};
use ipnet::IpNet;

/// The table of what kubenet keeps in nf_tables.
pub const TABLE: &str = "cni_kubenet";

fn chain_name(node: &Node) -> String {
    format!("masquerade-{}", node.bridge)
}

/// What a rule does, for people; and for us: a chain whose comments are these is as we left it.
fn comment(cidr: &IpNet, except: &[IpNet]) -> String {
    let except: Vec<String> = except.iter().map(ToString::to_string).collect();
    format!("kubenet: SNAT for outbound traffic from {cidr} except to [{}]", except.join(" "))
}

/// For each range of a family the networks that its pods go to with their own address; a range is left out when that is all
/// of them. `earlier` are ranges that the node had before, and that living pods have addresses from.
fn wanted(node: &Node, earlier: &[IpNet], family: Family) -> Vec<(IpNet, Vec<IpNet>)> {
    let of_family = |net: &&IpNet| Family::of(net.addr()) == family;
    let own: Vec<IpNet> = node.cidrs.iter().chain(earlier).filter(of_family).copied().collect();
    let others: Vec<IpNet> = node.non_masquerade.iter().filter(of_family).copied().collect();
    if others.iter().any(|net| net.prefix_len() == 0) {
        return vec![];
    }
    let except = [own.clone(), others].concat();
    own.into_iter().map(|cidr| (cidr, except.clone())).collect()
}

/// The comments of the family's rules, as they are.
fn found(socket: &mut Socket, node: &Node, family: Family) -> Result<Vec<String>, Refusal> {
    let name = chain_name(node);
    let found = rules(socket, family, &Chain { table: TABLE, name: &name, hook: None })?;
    Ok(found.into_iter().map(|(_, comment)| comment).collect())
}

/// As they should be.
fn comments(node: &Node, earlier: &[IpNet], family: Family) -> Vec<String> {
    wanted(node, earlier, family).iter().map(|(cidr, except)| comment(cidr, except)).collect()
}

/// The families whose rules are not as they should be, and the ranges of pods that outlived a change of the
/// node's range. Only when the rules are not those of the node's own ranges is there any need to look at what
/// is kept of each pod.
fn wrong(socket: &mut Socket, node: &Node) -> Result<(Vec<Family>, Vec<IpNet>), Refusal> {
    let mut all = Vec::new();
    for family in Family::IP {
        all.push((family, found(socket, node, family)?));
    }
    let wrong = |earlier: &[IpNet]| -> Vec<Family> {
        let differs = |(family, found): &&(Family, Vec<String>)| *found != comments(node, earlier, *family);
        all.iter().filter(differs).map(|(family, _)| *family).collect()
    };
    if wrong(&[]).is_empty() {
        return Ok((vec![], vec![]));
    }
    let earlier: Vec<IpNet> = ranges::of_earlier_pods(node).into_keys().collect();
    Ok((wrong(&earlier), earlier))
}

/// What is not as it should be, if anything.
///
/// # Errors
/// The kernel's refusal.
pub fn missing(node: &Node) -> Result<Option<String>, Refusal> {
    let (wrong, _) = wrong(&mut Socket::netfilter()?, node)?;
    Ok(wrong.first().map(|family| {
        let word = if *family == Family::V6 { "ip6" } else { "ip" };
        format!("chain {} of table {word} {TABLE}", chain_name(node))
    }))
}

/// Sees to it that the rules are as they should be, each family in one transaction. Whether anything had to be changed.
///
/// # Errors
/// The kernel's refusal.
pub fn ensure(node: &Node) -> Result<bool, Refusal> {
    let mut socket = Socket::netfilter()?;
    let name = chain_name(node);
    let chain = Chain { table: TABLE, name: &name, hook: Some(Hook::SourceNat) };
    let (wrong, earlier) = wrong(&mut socket, node)?;
    for family in wrong.iter().copied() {
        let wanted = wanted(node, &earlier, family);
        let texts: Vec<String> = wanted.iter().map(|(cidr, except)| comment(cidr, except)).collect();
        let matches: Vec<Vec<Match>> = wanted
            .iter()
            .map(|(cidr, except)| {
                let outside = except.iter().map(|net| Match::Outside(End::Destination, *net));
                [Match::From(*cidr)].into_iter().chain(outside).chain([Match::Local(false)]).collect()
            })
            .collect();
        let rules: Vec<Rule> = matches
            .iter()
            .zip(&texts)
            .map(|(matches, comment)| Rule { chain, matches, verdict: Verdict::Masquerade, comment })
            .collect();
        let mut transaction = Transaction::default();
        transaction.table(family, TABLE);
        transaction.chain_with(family, &chain, &rules);
        transaction.commit(&mut socket)?;
    }
    Ok(!wrong.is_empty())
}

/// Takes the rules away.
///
/// # Errors
/// The kernel's refusal, unless there are none.
pub fn remove(node: &Node) -> Result<(), Refusal> {
    let mut socket = Socket::netfilter()?;
    let name = chain_name(node);
    let chain = Chain { table: TABLE, name: &name, hook: Some(Hook::SourceNat) };
    Family::IP.into_iter().try_for_each(|family| absent_ok(nft::delete_chain(&mut socket, family, &chain)))
}
