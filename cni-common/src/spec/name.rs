//! Names that come from outside, as types with one door: once there is an [`IfName`], nobody checks it again.

use serde::Deserialize;
use sha2::{Digest, Sha256, Sha512};
use std::fmt;

/// The longest network name or container ID accepted. The specification sets no limit, but both become parts of
/// file names (the lease folder, the runtime's result cache), which end at 255 bytes.
pub const MAX_IDENTIFIER: usize = 255;

/// The longest interface name: `IFNAMSIZ` less the closing NUL.
pub const MAX_IFNAME: usize = 15;

/// How many names there are for a host veth ([`Attachment::host_veth`]): its 44 bits of hash make one clash a rarity.
pub const HOST_VETH_NAMES: u8 = 4;

/// The longest text that both a link's alias and an nf_tables element's comment can hold.
const MAX_TAG: usize = 250;

/// What is wrong with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadName {
    /// It has no characters.
    Empty,
    /// It has more bytes than fit.
    TooLong {
        /// The most bytes that fit.
        max: usize,
    },
    /// It is `.` or `..`, which would walk the file system.
    Dots,
    /// It holds a character that is not allowed there.
    Char(char),
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "it is empty"),
            Self::TooLong { max } => write!(f, "it is longer than {max} bytes"),
            Self::Dots => write!(f, "it is \".\" or \"..\""),
            Self::Char(c) => write!(f, "it holds the character {c:?}"),
        }
    }
}

impl std::error::Error for BadName {}

/// `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`, the specification's rule for network names and container IDs.
fn check_identifier(text: &str) -> Result<(), BadName> {
    let mut chars = text.chars();
    let first = chars.next().ok_or(BadName::Empty)?;
    if text.len() > MAX_IDENTIFIER {
        return Err(BadName::TooLong { max: MAX_IDENTIFIER });
    }
    if !first.is_ascii_alphanumeric() {
        return Err(BadName::Char(first));
    }
    match chars.find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))) {
        Some(c) => Err(BadName::Char(c)),
        None => Ok(()),
    }
}

/// The kernel's rule (`dev_valid_name`) with the reference library's words for white space.
fn check_ifname(text: &str) -> Result<(), BadName> {
    match text {
        "" => Err(BadName::Empty),
        _ if text.len() > MAX_IFNAME => Err(BadName::TooLong { max: MAX_IFNAME }),
        "." | ".." => Err(BadName::Dots),
        _ => match text.chars().find(|c| matches!(c, '/' | ':' | '\0') || c.is_whitespace()) {
            Some(c) => Err(BadName::Char(c)),
            None => Ok(()),
        },
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                $check(&text).map(|()| Self(text))
            }
        }

        impl TryFrom<&str> for $name {
            type Error = BadName;
            fn try_from(text: &str) -> Result<Self, BadName> {
                Self::try_from(text.to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// A container's ID (`CNI_CONTAINERID`).
    ContainerId,
    check_identifier
);
name_type!(
    /// A network's name (the config's `name`).
    NetworkName,
    check_identifier
);
name_type!(
    /// A network interface's name: 1 to 15 bytes.
    IfName,
    check_ifname
);

/// What the specification calls an attachment: one interface of one container on one network. It owns everything
/// that an ADD makes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Attachment {
    /// The network's name.
    pub network: NetworkName,
    /// The container's ID.
    pub container_id: ContainerId,
    /// The interface's name inside the container.
    pub ifname: IfName,
}

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
        IfName(format!("veth{}", digest(&parts, 11)))
    }

    /// The names that its IFB may have: the reference's, which two interfaces of a container share, and one of its own
    /// for the second of them.
    #[must_use]
    pub fn ifbs(&self) -> [IfName; 2] {
        let parts = [self.network.as_str(), self.container_id.as_str(), self.ifname.as_str()];
        [&parts[..2], &parts].map(|parts| IfName(format!("bwp{}", reference_digest(parts, 12))))
    }

    /// All names that its host veth may have, in the order in which they are tried.
    pub fn host_veths(&self) -> impl Iterator<Item = IfName> {
        (0..HOST_VETH_NAMES).map(|attempt| self.host_veth(attempt))
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of container {} on network {}", self.ifname, self.container_id, self.network)
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

    #[test]
    fn identifiers_follow_the_specification() {
        let long = "a".repeat(256);
        for (given, want) in [
            ("a", Ok(())),
            ("0a_.-", Ok(())),
            (&long[..255], Ok(())),
            ("", Err(BadName::Empty)),
            (&long, Err(BadName::TooLong { max: 255 })),
            ("-a", Err(BadName::Char('-'))),
            (".a", Err(BadName::Char('.'))),
            ("..", Err(BadName::Char('.'))),
            ("a/b", Err(BadName::Char('/'))),
            ("a\n", Err(BadName::Char('\n'))),
            ("a\0", Err(BadName::Char('\0'))),
            ("ä", Err(BadName::Char('ä'))),
        ] {
            assert_eq!(ContainerId::try_from(given).map(drop), want, "{given:?}");
            assert_eq!(NetworkName::try_from(given).map(drop), want, "{given:?}");
        }
    }

    #[test]
    fn interface_names_follow_the_kernel() {
        for (given, want) in [
            ("eth0", Ok(())),
            ("a-b.c_d@e", Ok(())),
            ("123456789012345", Ok(())),
            ("1234567890123456", Err(BadName::TooLong { max: 15 })),
            ("ääääääää", Err(BadName::TooLong { max: 15 })),
            ("", Err(BadName::Empty)),
            (".", Err(BadName::Dots)),
            ("..", Err(BadName::Dots)),
            ("a/b", Err(BadName::Char('/'))),
            ("a:b", Err(BadName::Char(':'))),
            ("a b", Err(BadName::Char(' '))),
            ("a\u{a0}b", Err(BadName::Char('\u{a0}'))),
            ("a\u{85}b", Err(BadName::Char('\u{85}'))),
        ] {
            assert_eq!(IfName::try_from(given).map(drop), want, "{given:?}");
        }
    }

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
