//! One lease: an address, and who its file says holds it.

use cni_common::disk;
use cni_common::log::printable;
use cni_common::spec::Attachment;
use nix::libc;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;

/// No lease is longer: an ID and an interface name. What is, is not read further.
const MAX_LEASE: u64 = 1024;

/// Who a lease file says holds its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// An interface of a container.
    Attachment {
        /// The container's ID.
        container_id: String,
        /// The interface's name inside it.
        ifname: String,
    },
    /// A container, as old releases wrote it.
    Container(String),
    /// Nobody: the file is empty, torn, foreign, or no file. Why, for people.
    Unknown(String),
    /// Somebody, perhaps: the file can't be read now. Why, for people.
    Unreadable(String),
}

impl Holder {
    fn parse(text: &str) -> Self {
        let text = text.trim();
        match text.split_once("\r\n") {
            Some((container_id, ifname)) => {
                Self::Attachment { container_id: container_id.to_owned(), ifname: ifname.to_owned() }
            }
            None if text.is_empty() => Self::Unknown("the file is empty".to_owned()),
            None if text.contains(char::is_whitespace) => Self::Unknown("its text is not a lease".to_owned()),
            None => Self::Container(text.to_owned()),
        }
    }

    /// Whether it is exactly `attachment`.
    #[must_use]
    pub fn is(&self, attachment: &Attachment) -> bool {
        matches!(self, Self::Attachment { container_id, ifname }
            if container_id == attachment.container_id.as_str() && ifname == attachment.ifname.as_str())
    }

    /// Whether it is `attachment`'s container, written by an old release.
    #[must_use]
    pub fn is_old_form_of(&self, attachment: &Attachment) -> bool {
        matches!(self, Self::Container(id) if id == attachment.container_id.as_str())
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attachment { container_id, ifname } => {
                write!(f, "{} of container {}", printable(ifname), printable(container_id))
            }
            Self::Container(id) => write!(f, "container {}", printable(id)),
            Self::Unknown(why) => write!(f, "nobody known ({why})"),
            Self::Unreadable(why) => write!(f, "somebody unknown ({why})"),
        }
    }
}

/// An address that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub ip: IpAddr,
    /// Who holds it.
    pub holder: Holder,
}

/// An address, when `name` is written exactly as a lease's file is. An IPv4 address in IPv6's spelling is no
/// name of a lease: that address has one, and only one.
pub(crate) fn parse_name(name: &str) -> Option<IpAddr> {
    name.parse().ok().filter(|ip: &IpAddr| ip.to_canonical().to_string() == name)
}

/// `None` when the file is gone.
pub(crate) fn read_holder(path: &Path) -> Option<Holder> {
    // A link planted there is not followed, a FIFO does not hold us.
    let read = disk::open(path, OpenOptions::new().read(true)).and_then(|(file, meta)| {
        if !meta.is_file() {
            return Ok(Holder::Unknown("it is not a regular file".to_owned()));
        }
        let mut bytes = Vec::new();
        file.take(MAX_LEASE).read_to_end(&mut bytes)?;
        Ok(Holder::parse(&String::from_utf8_lossy(&bytes)))
    });
    match read {
        Ok(holder) => Some(holder),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            Some(Holder::Unknown("it is a symbolic link".to_owned()))
        }
        Err(error) => Some(Holder::Unreadable(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_says_who_holds_it() {
        let attachment = |id: &str, ifname: &str| Holder::Attachment {
            container_id: id.to_owned(),
            ifname: ifname.to_owned(),
        };
        for (text, want) in [
            ("c1\r\neth0", attachment("c1", "eth0")),
            (" c1\r\neth0 \n", attachment("c1", "eth0")),
            ("c1", Holder::Container("c1".to_owned())),
            ("c1\n", Holder::Container("c1".to_owned())),
        ] {
            assert_eq!(Holder::parse(text), want, "{text:?}");
        }
        for text in ["", " \r\n", "c1\neth0", "not a lease"] {
            assert!(matches!(Holder::parse(text), Holder::Unknown(_)), "{text:?}");
        }
    }

    #[test]
    fn only_an_address_in_its_own_spelling_names_a_lease() {
        for (name, is) in [
            ("10.0.0.1", true),
            ("fd00::1", true),
            ("FD00::1", false),
            ("fd00:0::1", false),
            ("::ffff:10.0.0.1", false),
            ("::ffff:a00:1", false),
            ("lock", false),
            ("last_reserved_ip.0", false),
            ("10.0.0.1.new", false),
            (".lease.new", false),
        ] {
            assert_eq!(parse_name(name).is_some(), is, "{name}");
        }
    }
}
