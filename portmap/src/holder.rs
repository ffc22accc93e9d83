//! Whether the attachment that has a port is alive. A port of a living one is not taken; a dead one's is, or a DEL that was
//! lost would block it for ever.

use cni_common::spec::Attachment;
use std::net::IpAddr;
use std::path::Path;

/// Where host-local keeps its leases unless a config says otherwise.
const LEASES: &str = "/var/lib/cni/networks";

/// What shows that `holder` (a tag) is alive, whose mapping leads to `target`; `None` when nothing does. `tags` are the aliases
/// of the host's links.
///
/// Our `bridge` marks its veths, so on a network of its own the mark says all. Other plugins mark nothing: then a
/// lease of the address has to do.
#[must_use]
pub fn sign_of_life(holder: &str, target: Option<IpAddr>, tags: &[String]) -> Option<String> {
    if tags.iter().any(|tag| tag == holder) {
        return Some("its host veth is there".to_owned());
    }
    let network = network_part(holder)?;
    if tags.iter().any(|tag| network_part(tag) == Some(network)) {
        return None;
    }
    let lease = Path::new(LEASES).join(network.strip_prefix("cni/")?).join(target?.to_string());
    lease.exists().then(|| format!("its lease {} is there", lease.display()))
}

/// Whether `holder` (a tag) may be another attachment of `attachment`'s container: tags too long for the kernel name none.
#[must_use]
pub fn is_of_container(holder: &str, attachment: &Attachment) -> bool {
    let names = holder.strip_prefix("cni/").and_then(|rest| rest.split('/').nth(1));
    names.map_or_else(|| holder.starts_with("cni#"), |id| id == attachment.container_id.as_str())
}

/// What all tags of a network begin with.
fn network_part(tag: &str) -> Option<&str> {
    let separator = match tag.as_bytes() {
        [b'c', b'n', b'i', separator @ (b'/' | b'#'), ..] => char::from(*separator),
        _ => return None,
    };
    let (network, _) = tag.get(4..)?.split_once(separator)?;
    tag.get(..4 + network.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_on_a_veth_says_all_where_there_are_marks() {
        let ip = "192.0.2.77".parse().ok();
        let tags = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let ask = |holder: &str, list: &[&str]| sign_of_life(holder, ip, &tags(list)).is_some();
        assert!(ask("cni/net/c1/eth0", &["uplink", "cni/net/c1/eth0"]));
        assert!(!ask("cni/net/c1/eth0", &["cni/net/c2/eth0"]));
        assert!(!ask("cni/net/c1/eth0", &["cni/network/c1/eth0"]), "and no lease, on this machine");
        assert_eq!(network_part("cni/net/c1/eth0"), Some("cni/net"));
        assert_eq!(network_part("cni#abc#def"), Some("cni#abc"));
        for other in ["", "cni", "cni/", "cni/net", "lxd/net/c/eth0", "cni:net:x"] {
            assert_eq!(network_part(other), None, "{other}");
        }
    }
}
