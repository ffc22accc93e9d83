//! Names that come from outside, as types with one door: once there is an [`IfName`], nobody checks it again.

use serde::Deserialize;
use std::fmt;

/// The longest network name or container ID accepted. The specification sets no limit, but both become parts of
/// file names (the lease folder, the runtime's result cache), which end at 255 bytes.
pub const MAX_IDENTIFIER: usize = 255;

/// The longest interface name: `IFNAMSIZ` less the closing NUL.
pub const MAX_IFNAME: usize = 15;

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

impl IfName {
    /// The loopback interface of every namespace.
    #[must_use]
    pub fn lo() -> Self {
        Self::spelled("lo".to_owned())
    }

    /// A name that this suite spells itself, out of letters and digits.
    pub(crate) fn spelled(text: String) -> Self {
        debug_assert_eq!(check_ifname(&text), Ok(()), "{text}");
        Self(text)
    }
}

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

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of container {} on network {}", self.ifname, self.container_id, self.network)
    }
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
}
