//! Addresses as text: IP, CIDR, MAC, with the reference decoder's rules.

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IP address out of text; an IPv4-mapped one (`::ffff:a.b.c.d`) is IPv4.
///
/// # Errors
/// `invalid IP address: TEXT`: also for leading zeros and IPv6 zones.
pub fn parse_ip(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text.parse().map_err(|_| format!("invalid IP address: {text}"))?;
    Ok(ip.to_canonical())
}

/// An address with its prefix length (`10.1.2.3/24`), host bits kept; IPv4-mapped text becomes IPv4.
///
/// # Errors
/// `invalid CIDR address: TEXT`
pub fn parse_cidr(text: &str) -> Result<IpNet, String> {
    let bad = || format!("invalid CIDR address: {text}");
    let net: IpNet = text.parse().map_err(|_| bad())?;
    match (net.addr().to_canonical(), net) {
        (IpAddr::V4(ip), IpNet::V6(mapped)) => {
            let len = mapped.prefix_len().checked_sub(96).ok_or_else(bad)?;
            IpNet::new(ip.into(), len).map_err(|_| bad())
        }
        _ => Ok(net),
    }
}

/// An address as a whole number, so that ranges of both families are counted alike.
#[must_use]
pub fn to_number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// The address of `like`'s family that `number` counts to; `None` past the family's last address.
#[must_use]
pub fn from_number(number: u128, like: IpAddr) -> Option<IpAddr> {
    match like {
        IpAddr::V4(_) => u32::try_from(number).ok().map(|n| Ipv4Addr::from(n).into()),
        IpAddr::V6(_) => Some(Ipv6Addr::from(number).into()),
    }
}

/// `with = "ip_text"`: an optional IP address; the empty text means none.
pub mod ip_text {
    use super::{Deserialize, Deserializer, IpAddr, Serializer};
    use serde::de::Error as _;

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
        match Option::<String>::deserialize(deserializer)? {
            Some(text) if !text.is_empty() => super::parse_ip(&text).map(Some).map_err(D::Error::custom),
            _ => Ok(None),
        }
    }

    /// Writes it.
    #[allow(clippy::ref_option, reason = "serde's `with` hands over a reference to the field")]
    pub fn serialize<S: Serializer>(ip: &Option<IpAddr>, serializer: S) -> Result<S::Ok, S::Error> {
        match ip {
            Some(ip) => serializer.collect_str(ip),
            None => serializer.serialize_none(),
        }
    }
}

/// `with = "cidr_text"`: an address with its prefix length.
pub mod cidr_text {
    use super::{Deserialize, Deserializer, IpNet, Serializer};
    use serde::de::Error as _;

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
        super::parse_cidr(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }

    /// Writes it.
    pub fn serialize<S: Serializer>(net: &IpNet, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(net)
    }
}

/// A 6-byte hardware address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// No address at all, as a bridge that never had a port shows it.
    pub const ZERO: Self = Self([0; 6]);

    /// Whether it names a group, which no interface can have as its own.
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl FromStr for MacAddr {
    type Err = String;

    /// `02:00:00:00:00:01`, `02-00-00-00-00-01` or `0200.0000.0001`.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a MAC address; write it as 02:00:00:00:00:01");
        let (separator, width) = match text.chars().find(|c| !c.is_ascii_hexdigit()) {
            Some(c @ (':' | '-')) => (c, 2),
            Some('.') => ('.', 4),
            _ => return Err(bad()),
        };
        let groups: Vec<&str> = text.split(separator).collect();
        let well_formed = groups.iter().all(|g| g.len() == width && g.bytes().all(|b| b.is_ascii_hexdigit()));
        if !well_formed || groups.len() * width != 12 {
            return Err(bad());
        }
        let digits = groups.concat();
        let mut mac = [0; 6];
        for (byte, at) in mac.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self(mac))
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The network's address and one: where a gateway is that nobody placed elsewhere.
#[must_use]
pub fn first_host(net: &IpNet) -> Option<IpAddr> {
    from_number(to_number(net.network()).checked_add(1)?, net.addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_reference_reads_them() {
        for (text, want) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("FD00::1", Some("fd00::1")),
            ("010.0.0.1", None),
            ("fe80::1%eth0", None),
            ("10.0.0", None),
            ("", None),
            (" 10.0.0.1", None),
        ] {
            assert_eq!(parse_ip(text).ok().map(|ip| ip.to_string()).as_deref(), want, "{text}");
        }
        for (text, want) in [
            ("10.1.2.3/24", Some("10.1.2.3/24")),
            ("::ffff:10.0.0.5/120", Some("10.0.0.5/24")),
            ("::ffff:10.0.0.5/95", None),
            ("10.1.2.3", None),
            ("10.1.2.3/33", None),
            ("fd00::/129", None),
        ] {
            assert_eq!(parse_cidr(text).ok().map(|net| net.to_string()).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn mac_addresses_have_three_forms() {
        for text in ["02:ab:00:00:00:0f", "02-AB-00-00-00-0F", "02ab.0000.000f"] {
            assert_eq!(text.parse(), Ok(MacAddr([2, 0xab, 0, 0, 0, 15])), "{text}");
        }
        for text in [
            "",
            "zz",
            "02:ab:00:00:00",
            "02:ab-00:00:00:0f",
            "2:ab:0:0:0:f",
            "02:ab:00:00:00:00:0f",
            "02ab0000000f",
        ] {
            assert!(text.parse::<MacAddr>().is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_and_addresses_are_one() {
        for text in ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(from_number(to_number(ip), ip), Some(ip));
        }
        assert_eq!(from_number(1 << 32, IpAddr::V4(Ipv4Addr::UNSPECIFIED)), None);
    }
}
