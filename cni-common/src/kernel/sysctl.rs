//! Network sysctls, of the calling thread's namespace. A value is read first, and written only when it differs.

use crate::spec::IfName;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

/// No value that we look at is longer, in bytes.
const LONGEST: usize = 32;

/// A sysctl that the suite reads or sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key<'a> {
    /// `net.ipv4.ip_forward`
    ForwardV4,
    /// `net.ipv6.conf.all.forwarding`
    ForwardV6,
    /// `net.bridge.bridge-nf-call-iptables`: netfilter sees IPv4 that a bridge forwards. Of the module `br_netfilter`.
    BridgeCallsV4,
    /// `net.bridge.bridge-nf-call-ip6tables`
    BridgeCallsV6,
    /// `net.ipv4.conf.IFNAME.KEY`
    V4(&'a IfName, &'static str),
    /// `net.ipv6.conf.IFNAME.KEY`
    V6(&'a IfName, &'static str),
}

impl fmt::Display for Key<'_> {
    /// With slashes: an interface's name may hold dots.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForwardV4 => f.write_str("net/ipv4/ip_forward"),
            Self::ForwardV6 => f.write_str("net/ipv6/conf/all/forwarding"),
            Self::BridgeCallsV4 => f.write_str("net/bridge/bridge-nf-call-iptables"),
            Self::BridgeCallsV6 => f.write_str("net/bridge/bridge-nf-call-ip6tables"),
            Self::V4(ifname, key) => write!(f, "net/ipv4/conf/{ifname}/{key}"),
            Self::V6(ifname, key) => write!(f, "net/ipv6/conf/{ifname}/{key}"),
        }
    }
}

/// The value of `key`.
///
/// # Errors
/// `NotFound` when this kernel, or this namespace, has no such key (IPv6 switched off, for one).
pub fn read(key: &Key) -> io::Result<String> {
    let mut value = [0; LONGEST];
    let len = File::open(format!("/proc/sys/{key}"))?.read(&mut value)?;
    Ok(String::from_utf8_lossy(&value[..len]).trim().to_owned())
}

/// Sees to it that `key` is `value`.
///
/// # Errors
/// As [`read`]; `PermissionDenied` or `ReadOnlyFilesystem` where it may not be written.
pub fn ensure(key: &Key, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/{key}");
    let opened = OpenOptions::new().read(true).write(true).open(&path);
    let file = match opened {
        Ok(file) => file,
        // A value that is right already is enough, even where it can't be written.
        Err(error) if error.kind() != io::ErrorKind::NotFound && read(key).is_ok_and(|now| now == value) => {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let mut now = [0; LONGEST];
    let len = (&file).read(&mut now)?;
    if now[..len].trim_ascii() == value.as_bytes() {
        return Ok(());
    }
    file.write_all_at(value.as_bytes(), 0)
}

/// Makes `key` of a link that we have made `value`, as far as that is possible: without IPv6, or with a
/// read-only /proc/sys, the link works all the same.
pub fn wish(key: &Key, value: &str) {
    let _ = File::options()
        .write(true)
        .open(format!("/proc/sys/{key}"))
        .and_then(|mut file| file.write(value.as_bytes()));
}

/// Lets a link that we made use its link-local address from when it comes up. To be called before that.
///
/// Duplicate address detection takes one to two seconds, and until then the kernel asks for no neighbour in the name of
/// other machines' packets: a pod that answers could not be reached from outside by IPv6. The address is made of a MAC
/// address that we chose at random, so nothing is lost. Where the key can't be written, nothing but that time is.
pub fn use_addresses_at_once(ifname: &IfName) {
    wish(&Key::V6(ifname, "accept_dad"), "0");
}

/// Lets a link that leads to containers configure nothing on the host: a router in a container may be a rogue
/// (CVE-2020-10749). Without IPv6 there is no such key.
pub fn ignore_router_advertisements(ifname: &IfName) {
    wish(&Key::V6(ifname, "accept_ra"), "0");
}
