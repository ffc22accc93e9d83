//! Whether the attachment that has a port is alive. A port of a living one is not taken; a dead one's is, or a DEL that was
//! lost would block it for ever.

use cni_common::spec::Attachment;
use std::net::IpAddr;
use std::path::Path;

/// Where host-local keeps its leases unless a config says otherwise.
const LEASES: &str = "/var/lib/cni/networks";

/// What shows that `holder` (a tag) is alive, whose mapping leads to `target`, or that nothing shows that it
/// is gone; `None` when something does. `tags` are the aliases of the host's links, and `was_marked` says
/// that the holder's tag was one of them.
///
/// Only who was marked, as our `bridge` marks its veths, and is not marked any more, is gone. Other plugins
/// mark nothing, and keep their leases who knows where: whether theirs live nobody can tell.
#[must_use]
pub fn sign_of_life(
    holder: &str,
    target: Option<IpAddr>,
    was_marked: bool,
    tags: &[String],
) -> Option<String> {
    if tags.iter().any(|tag| tag == holder) {
        return Some("its host veth is there".to_owned());
    }
    if was_marked {
        return None;
    }
    let lease = network_part(holder)
        .and_then(|network| network.strip_prefix("cni/"))
        .zip(target)
        .map(|(network, target)| Path::new(LEASES).join(network).join(target.to_string()));
    Some(match lease.filter(|lease| lease.exists()) {
        Some(lease) => format!("its lease {} is there", lease.display()),
        None => "nothing shows that it is gone".to_owned(),
    })
}

/// Whether `holder` (a tag) may be another attachment of `attachment`'s container: tags too long for the
/// kernel name none.
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
    fn only_who_was_marked_and_is_not_any_more_is_gone() {
        let ip = "192.0.2.77".parse().ok();
        let ask = |holder: &str, was_marked, tags: &[&str]| {
            let tags: Vec<String> = tags.iter().map(ToString::to_string).collect();
            sign_of_life(holder, ip, was_marked, &tags).is_some()
        };
        let tag = "cni/net/c1/eth0";
        for (was_marked, tags, lives) in [
            (true, &["uplink", tag][..], true),
            (false, &["uplink", tag], true),
            (true, &["cni/net/c2/eth0"], false),
            (true, &[], false),
            (false, &["cni/net/c2/eth0"], true),
            (false, &[], true),
        ] {
            assert_eq!(ask(tag, was_marked, tags), lives, "{was_marked} {tags:?}");
        }
        assert_eq!(network_part("cni/net/c1/eth0"), Some("cni/net"));
        assert_eq!(network_part("cni#abc#def"), Some("cni#abc"));
        for other in ["", "cni", "cni/", "cni/net", "lxd/net/c/eth0", "cni:net:x"] {
            assert_eq!(network_part(other), None, "{other}");
        }
    }
}
