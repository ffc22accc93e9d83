//! Lists of networks, from text to values that were checked whole.

use cni_common::spec::addr::first_host;
use cni_common::spec::{Error, Result};
use ipnet::IpNet;

/// The node's ranges for pods: `10.1.0.0/24`, or several parted by commas, host bits dropped.
///
/// # Errors
/// Code 7 when any of them is wrong, too small for a pod beside its gateway, or in another one. Then none counts.
pub fn pod_cidrs(text: &str) -> Result<Vec<IpNet>> {
    let cidrs = list("pod CIDR", text)?;
    if cidrs.is_empty() {
        return Err(Error::config("the pod CIDR is empty").details("want a network such as 10.1.0.0/24"));
    }
    for (i, cidr) in cidrs.iter().enumerate() {
        // The network, its gateway, a pod; and IPv4's broadcast address.
        let longest = if cidr.addr().is_ipv4() { 30 } else { 126 };
        if cidr.prefix_len() > longest {
            let msg = format!("pod CIDR {cidr} has no room for pods");
            return Err(Error::config(msg).details(format!("the longest prefix is /{longest}")));
        }
        if let Some(other) = cidrs[..i].iter().find(|other| other.contains(cidr) || cidr.contains(*other)) {
            return Err(Error::config(format!("pod CIDRs {other} and {cidr} overlap")));
        }
    }
    Ok(cidrs)
}

/// Networks parted by commas, host bits dropped; the empty text has none. `what` they are is for the error.
///
/// # Errors
/// Code 7 when any of them is none.
pub fn list(what: &str, text: &str) -> Result<Vec<IpNet>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let network = |part: &str| {
        let net: Result<IpNet, _> = part.parse();
        net.map(|net| net.trunc()).map_err(|_| {
            Error::config(format!("{what} {part:.80?} is no network")).details(
                "want an address and a prefix length, such as 10.1.0.0/24; several are parted by commas",
            )
        })
    };
    parts.map(network).collect()
}

/// As [`pod_cidrs`] reads it.
#[must_use]
pub fn to_text(cidrs: &[IpNet]) -> String {
    cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The gateway of a range: its first address.
#[must_use]
pub fn gateway(cidr: &IpNet) -> Option<IpNet> {
    first_host(cidr).and_then(|ip| IpNet::new(ip, cidr.prefix_len()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_counts_whole_or_not_at_all() {
        assert_eq!(to_text(&pod_cidrs(" 10.1.2.3/24 , fd00:1::1/64").unwrap()), "10.1.2.0/24,fd00:1::/64");
        for (text, words) in [
            ("", "the pod CIDR is empty"),
            (",", "the pod CIDR is empty"),
            ("10.1.0.0/24,nonsense", "\"nonsense\" is no network"),
            ("10.1.0.0", "is no network"),
            ("10.1.0.0/31", "has no room for pods: the longest prefix is /30"),
            ("fd00::/127", "/126"),
            ("10.1.0.0/16,10.1.2.0/24", "10.1.0.0/16 and 10.1.2.0/24 overlap"),
            ("10.1.0.0/24,10.1.0.0/24", "overlap"),
        ] {
            let error = pod_cidrs(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
