//! The ranges that pods have their addresses from, by what is kept of each: the node may have got another one since.

use super::Node;
use cni_common::runtime::{Cache, Entry};
use cni_common::spec::compat;
use ipnet::IpNet;
use std::collections::BTreeMap;

/// The ranges of living pods, and how many have an address there.
#[must_use]
pub fn of_living_pods(node: &Node) -> BTreeMap<IpNet, usize> {
    of_pods(node, |_| true)
}

/// The same, but for the node's own ranges.
#[must_use]
pub fn of_earlier_pods(node: &Node) -> BTreeMap<IpNet, usize> {
    of_pods(node, |range| !node.cidrs.contains(range))
}

/// Whether a pod lives is asked only of those that have an address in a range that `matters`.
fn of_pods(node: &Node, matters: impl Fn(&IpNet) -> bool) -> BTreeMap<IpNet, usize> {
    let entries = Cache::new(&node.state_dir).of_network(node.network.as_str()).unwrap_or_else(|error| {
        cni_common::log!("what is kept of pods can't be read: {error}");
        vec![]
    });
    let mut ranges = BTreeMap::new();
    for entry in entries {
        let of_pod: Vec<IpNet> = ranges_of(node, &entry).into_iter().filter(|range| matters(range)).collect();
        if !of_pod.is_empty() && entry.is_living() {
            for range in of_pod {
                *ranges.entry(range).or_default() += 1;
            }
        }
    }
    ranges
}

fn ranges_of(node: &Node, entry: &Entry) -> Vec<IpNet> {
    let success = compat::from_json(&entry.result, node.version).unwrap_or_default();
    success.ips.iter().map(|ip| ip.address.trunc()).collect()
}
