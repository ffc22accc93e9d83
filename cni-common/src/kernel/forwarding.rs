//! Letting the host forward what containers send, without losing its own way out.

use super::sysctl::{self, Key};
use crate::spec::IfName;
use std::collections::BTreeSet;
use std::io;

/// Switches forwarding on, for one family. Whether it was off.
///
/// A host that forwards IPv6 takes no router's word any more, and forgets the default routes that it had by
/// one (`accept_ra`, Documentation/networking/ip-sysctl): so links that have such a route are told first to
/// go on listening.
///
/// # Errors
/// What /proc/sys says.
pub fn enable(v4: bool) -> io::Result<bool> {
    let key = if v4 { Key::ForwardV4 } else { Key::ForwardV6 };
    if sysctl::read(&key).is_ok_and(|now| now == "1") {
        return Ok(false);
    }
    if !v4 {
        links_with_advertised_route().iter().for_each(keep_listening);
    }
    sysctl::ensure(&key, "1")?;
    Ok(true)
}

fn keep_listening(name: &IfName) {
    let key = Key::V6(name, "accept_ra");
    if sysctl::read(&key).is_ok_and(|now| now != "1") {
        return;
    }
    match sysctl::ensure(&key, "2") {
        Ok(()) => crate::log!(
            "{name} has its default route by router advertisement: /proc/sys/{key} set to 2, so that the host keeps it while it \
             forwards IPv6"
        ),
        Err(error) => crate::log!(
            "the host loses the IPv6 default route over {name}, since it forwards IPv6 from now on and /proc/sys/{key} can't be \
             set to 2: {error}"
        ),
    }
}

fn links_with_advertised_route() -> BTreeSet<IfName> {
    let routes = std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    routes.lines().filter_map(advertised).collect()
}

/// The link of a route, if that is a default route that a router advertised (`include/uapi/linux/ipv6_route.h`).
fn advertised(line: &str) -> Option<IfName> {
    const RTF_DEFAULT: u32 = 0x0001_0000;
    const RTF_ADDRCONF: u32 = 0x0004_0000;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, "00", _, _, _, _, _, _, flags, name] = words.as_slice() else { return None };
    let wanted = RTF_DEFAULT | RTF_ADDRCONF;
    let flags = u32::from_str_radix(flags, 16).ok()?;
    (flags & wanted == wanted).then(|| IfName::try_from(*name).ok())?
}

#[cfg(test)]
mod tests {
    use super::advertised;

    #[test]
    fn only_default_routes_that_a_router_advertised_count() {
        let zero = "0".repeat(32);
        let line = |prefix: &str, flags: &str| {
            format!(
                "{zero} {prefix} {zero} 00 fe80000000000000000000000000000 00000400 00000001 00000000 {flags}     eth0"
            )
        };
        assert_eq!(advertised(&line("00", "00450003")).unwrap().as_str(), "eth0");
        for (prefix, flags) in [("00", "00000003"), ("00", "00200200"), ("40", "00440001"), ("00", "x")] {
            assert_eq!(advertised(&line(prefix, flags)), None, "{prefix} {flags}");
        }
        assert_eq!(advertised(""), None);
    }
}
