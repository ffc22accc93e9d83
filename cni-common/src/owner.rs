//! Whose a thing is: the marks that an attachment leaves on what it owns, and the names that are derived from it.

use crate::spec::{Attachment, IfName, NetworkName};
use sha2::{Digest, Sha256, Sha512};
use std::collections::HashSet;

/// How many names there are for a host veth ([`Attachment::host_veth`]): its 44 bits of hash make one clash a rarity.
pub const HOST_VETH_NAMES: u8 = 4;

/// The longest text that both a link's alias and an nf_tables element's comment can hold.
const MAX_TAG: usize = 250;

impl Attachment {
    /// The owner's mark on what the kernel keeps for us: the host veth's alias and the comment of an nf_tables
    /// element. People read it in `ip -d link` and `nft list ruleset`.
    ///
    /// `cni/NETWORK/CONTAINER/IFNAME`; none of the three can hold a `/`. Where that is too long for the kernel,
    /// hashes stand for the names.
    #[must_use]
    pub fn tag(&self) -> String {
        let plain = format!("cni/{}/{}/{}", self.network, self.container_id, self.ifname);
        if plain.len() <= MAX_TAG {
            return plain;
        }
        format!("cni#{}#{}", digest(&[self.network.as_str()], 16), self.digest(32))
    }

    /// `len` hexadecimal digits that stand for this attachment, the same each time.
    #[must_use]
    pub fn digest(&self, len: usize) -> String {
        digest(&[self.network.as_str(), self.container_id.as_str(), self.ifname.as_str()], len)
    }

    /// The `attempt`-th name for this attachment's host veth: `veth` and 11 hexadecimal digits.
    ///
    /// Derived, so that DEL finds the veth when the container's namespace is gone. The attempts after the first
    /// are for the day when two attachments' names clash; the link's alias tells whose it is.
    #[must_use]
    pub fn host_veth(&self, attempt: u8) -> IfName {
        let suffix = attempt.to_string();
        let parts = [self.network.as_str(), self.container_id.as_str(), self.ifname.as_str(), &suffix];
        IfName::spelled(format!("veth{}", digest(&parts, 11)))
    }

    /// The names that its IFB may have: the reference's, which two interfaces of a container share, and one of its own
    /// for the second of them.
    #[must_use]
    pub fn ifbs(&self) -> [IfName; 2] {
        let parts = [self.network.as_str(), self.container_id.as_str(), self.ifname.as_str()];
        [&parts[..2], &parts].map(|parts| IfName::spelled(format!("bwp{}", reference_digest(parts, 12))))
    }

    /// All names that its host veth may have, in the order in which they are tried.
    pub fn host_veths(&self) -> impl Iterator<Item = IfName> {
        (0..HOST_VETH_NAMES).map(|attempt| self.host_veth(attempt))
    }
}

impl NetworkName {
    /// Whether `tag` (see [`Attachment::tag`]) marks something of this network.
    #[must_use]
    pub fn owns_tag(&self, tag: &str) -> bool {
        let plain = tag.strip_prefix("cni/").and_then(|rest| rest.split_once('/'));
        let hashed = tag.strip_prefix("cni#").and_then(|rest| rest.split_once('#'));
        match (plain, hashed) {
            (Some((network, _)), _) => network == self.as_str(),
            (_, Some((network, _))) => network == digest(&[self.as_str()], 16),
            _ => false,
        }
    }
}

/// The attachments of a network that live, as GC is told of them: all that another one's tag marks is garbage.
#[derive(Debug)]
pub struct Living<'a> {
    /// The network.
    pub network: &'a NetworkName,
    /// Those that live.
    pub attachments: &'a [Attachment],
    tags: HashSet<String>,
}

impl<'a> Living<'a> {
    /// These, of this network.
    #[must_use]
    pub fn new(network: &'a NetworkName, attachments: &'a [Attachment]) -> Self {
        Self { network, attachments, tags: attachments.iter().map(Attachment::tag).collect() }
    }

    /// Whether a tag marks something of the network that belongs to none of them.
    #[must_use]
    pub fn is_orphan(&self, tag: &str) -> bool {
        self.network.owns_tag(tag) && !self.tags.contains(tag)
    }
}

/// Whether a text is the tag of some attachment (see [`Attachment::tag`]).
#[must_use]
pub fn is_tag(text: &str) -> bool {
    text.starts_with("cni/") || text.starts_with("cni#")
}

/// The first `len` hexadecimal digits of the SHA-256 over `parts`, each closed by a NUL (no name can hold one).
#[must_use]
pub fn digest(parts: &[&str], len: usize) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hex(&hash.finalize(), len)
}

/// The first `len` hexadecimal digits of the SHA-512 over `parts`, which nothing divides: how the reference plugins
/// name their chains and rules.
#[must_use]
pub fn reference_digest(parts: &[&str], len: usize) -> String {
    hex(&Sha512::digest(parts.concat()), len)
}

fn hex(bytes: &[u8], len: usize) -> String {
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    nibbles.take(len).filter_map(|nibble| char::from_digit(nibble.into(), 16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::name::MAX_IFNAME;

    fn attachment(network: &str, id: &str, ifname: &str) -> Attachment {
        Attachment {
            network: network.try_into().unwrap(),
            container_id: id.try_into().unwrap(),
            ifname: ifname.try_into().unwrap(),
        }
    }

    #[test]
    fn a_tag_tells_its_network_and_fits_the_kernel() {
        let long = "x".repeat(200);
        for (network, id) in [("net", "c1"), ("net-a", &*long), (&*long, &*long)] {
            let tag = attachment(network, id, "eth0").tag();
            assert!(tag.len() <= MAX_TAG, "{tag}");
            assert!(NetworkName::try_from(network).unwrap().owns_tag(&tag), "{tag}");
            assert!(!NetworkName::try_from("ne").unwrap().owns_tag(&tag), "{tag}");
        }
        let net = NetworkName::try_from("net").unwrap();
        for foreign in ["", "cni", "cni/", "cni/net", "cni/net-a/c/eth0", "lxd/net/c/eth0", "cni#net#x"] {
            assert!(!net.owns_tag(foreign), "{foreign}");
        }
    }

    #[test]
    fn what_a_network_owns_and_nobody_alive_is_an_orphan() {
        let net = NetworkName::try_from("net").unwrap();
        let living = [attachment("net", "c1", "eth0")];
        let living = Living::new(&net, &living);
        for (tag, want) in [
            (attachment("net", "c1", "eth0").tag(), false),
            (attachment("net", "c1", "eth1").tag(), true),
            (attachment("other", "c1", "eth0").tag(), false),
            ("somebody's".to_owned(), false),
        ] {
            assert_eq!(living.is_orphan(&tag), want, "{tag}");
        }
    }

    #[test]
    fn host_veths_of_neighbours_differ() {
        let names = [("n", "c", "e"), ("n", "ce", "e"), ("nc", "e", "e"), ("n", "c", "e0")]
            .map(|(n, c, i)| attachment(n, c, i).host_veth(0));
        for (i, name) in names.iter().enumerate() {
            assert_eq!(name.as_str().len(), MAX_IFNAME);
            assert!(!names[..i].contains(name), "{name}");
        }
        let one = attachment("n", "c", "e");
        assert_eq!(one.host_veth(0), one.host_veth(0));
        assert_ne!(one.host_veth(0), one.host_veth(1));
    }
}
