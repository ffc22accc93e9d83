//! Ranges of addresses, and sets of them. Pure: no files, no kernel.
//!
//! A *range set* is a list of ranges that one address is taken from; a network has one set for each address that a
//! container gets.

use crate::contents::Contents;
use cni_common::spec::addr::{from_number, parse_ip, to_number};
use ipnet::IpNet;
use serde::Deserialize;
use std::fmt;
use std::io;
use std::net::IpAddr;

/// A range as configs write it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RangeConf {
    /// The subnet, without host bits.
    pub subnet: String,
    /// The first address to hand out; the subnet's first host when empty.
    pub range_start: String,
    /// The last address to hand out; the subnet's last host when empty.
    pub range_end: String,
    /// The gateway, which is never handed out; the subnet's first host when empty.
    pub gateway: String,
}

/// A range, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The subnet, without host bits.
    pub subnet: IpNet,
    /// The first address to hand out.
    pub start: IpAddr,
    /// The last address to hand out.
    pub end: IpAddr,
    /// The gateway, which is never handed out.
    pub gateway: IpAddr,
}

impl Range {
    /// Checks a range and fills in its defaults.
    ///
    /// # Errors
    /// What is wrong with it, naming the value.
    pub fn new(conf: &RangeConf) -> Result<Self, String> {
        let subnet = parse_subnet(&conf.subnet)?;
        let first = offset(subnet.network(), 1);
        let last = match subnet {
            IpNet::V4(v4) => from_number(to_number(v4.broadcast().into()) - 1, subnet.addr()),
            IpNet::V6(v6) => Some(v6.broadcast().into()),
        };
        let bound = |text: &str, default: Option<IpAddr>| match text {
            "" => default.ok_or_else(|| format!("{subnet} has no room")),
            text => parse_ip(text),
        };
        let gateway = bound(&conf.gateway, first)?;
        if gateway.is_ipv4() != subnet.addr().is_ipv4() {
            return Err(format!("gateway {gateway} and subnet {subnet} are of different families"));
        }
        let (start, end) = (bound(&conf.range_start, first)?, bound(&conf.range_end, last)?);
        if !subnet.contains(&start) {
            return Err(format!("RangeStart {start} not in network {subnet}"));
        }
        if !subnet.contains(&end) {
            return Err(format!("RangeEnd {end} not in network {subnet}"));
        }
        if start > end {
            return Err(format!("RangeStart {start} comes after RangeEnd {end} in network {subnet}"));
        }
        Ok(Self { subnet, start, end, gateway })
    }

    fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.start.is_ipv4() && self.start <= ip && ip <= self.end
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.start) || other.contains(self.start)
    }

    /// What is left on both sides of `net`.
    fn without(self, net: &IpNet) -> Vec<Self> {
        let (first, last) = (net.network(), net.broadcast());
        if first.is_ipv4() != self.start.is_ipv4() || last < self.start || self.end < first {
            return vec![self];
        }
        let before = (self.start < first).then(|| before(first)).flatten();
        let before = before.map(|end| Self { end, ..self.clone() });
        let after = (last < self.end).then(|| offset(last, 1)).flatten();
        let after = after.map(|start| Self { start, ..self.clone() });
        before.into_iter().chain(after).collect()
    }

    /// `ip` with the subnet's prefix length, as a result gives it.
    #[must_use]
    pub fn with_prefix(&self, ip: IpAddr) -> IpNet {
        IpNet::new(ip, self.subnet.prefix_len()).unwrap_or(self.subnet)
    }

    /// How many addresses it can hand out: all but the gateway.
    #[must_use]
    pub fn size(&self) -> u128 {
        let all = (to_number(self.end) - to_number(self.start)).saturating_add(1);
        all - u128::from(self.contains(self.gateway))
    }
}

fn parse_subnet(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text.parse().map_err(|_| format!("invalid CIDR address: {text}"))?;
    if net.addr().to_canonical().is_ipv4() != net.addr().is_ipv4() {
        return Err(format!("{text}: write an IPv4 subnet as IPv4, not as IPv4-mapped IPv6"));
    }
    if net.prefix_len() > net.max_prefix_len() - 2 {
        return Err(format!(
            "Network {net} too small to allocate from; a /{} is the least",
            net.max_prefix_len() - 2
        ));
    }
    if net.trunc() != net {
        return Err(format!(
            "Network has host bits set. For a subnet mask of length {} the network address is {}",
            net.prefix_len(),
            net.network()
        ));
    }
    Ok(net)
}

fn offset(ip: IpAddr, by: u128) -> Option<IpAddr> {
    from_number(to_number(ip).checked_add(by)?, ip)
}

fn before(ip: IpAddr) -> Option<IpAddr> {
    from_number(to_number(ip).checked_sub(1)?, ip)
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

/// The ranges that one address is taken from: of one family, none overlapping another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSet(Vec<Range>);

impl RangeSet {
    /// Checks a set.
    ///
    /// # Errors
    /// What is wrong with it, naming the values.
    pub fn new(confs: &[RangeConf]) -> Result<Self, String> {
        let ranges: Vec<Range> = confs.iter().map(Range::new).collect::<Result<_, _>>()?;
        let first = ranges.first().ok_or("empty range set")?;
        if ranges.iter().any(|range| range.subnet.addr().is_ipv4() != first.subnet.addr().is_ipv4()) {
            return Err("mixed address families".to_owned());
        }
        for (i, one) in ranges.iter().enumerate() {
            if let Some(other) = ranges[..i].iter().find(|other| other.overlaps(one)) {
                return Err(format!("subnets {other} and {one} overlap"));
            }
        }
        Ok(Self(ranges))
    }

    /// The set without what lies in `excluded`: its ranges are cut there, and keep subnet and gateway.
    ///
    /// # Errors
    /// When nothing is left.
    pub fn without(self, excluded: &[IpNet]) -> Result<Self, String> {
        let text = self.to_string();
        let mut left = self.0;
        for net in excluded {
            left = left.into_iter().flat_map(|range| range.without(net)).collect();
        }
        if left.is_empty() {
            return Err(format!("exclude leaves nothing of {text}"));
        }
        Ok(Self(left))
    }

    /// Whether some address lies in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|one| other.0.iter().any(|two| one.overlaps(two)))
    }

    /// The range that `ip` lies in.
    #[must_use]
    pub fn range_of(&self, ip: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(ip))
    }

    /// Whether it hands out IPv4 addresses.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.0.first().is_some_and(|range| range.start.is_ipv4())
    }

    /// How many addresses it can hand out.
    #[must_use]
    pub fn size(&self) -> u128 {
        self.0.iter().fold(0, |sum, range| sum.saturating_add(range.size()))
    }

    /// How many of its addresses are leased.
    ///
    /// # Errors
    /// When the contents can't be read.
    pub fn used(&self, contents: &Contents) -> io::Result<usize> {
        let mut used = 0;
        for range in &self.0 {
            let gateway = range.contains(range.gateway) && contents.contains(range.gateway)?;
            used += contents.count(range.start, range.end)? - usize::from(gateway);
        }
        Ok(used)
    }

    /// The next free address: from the one after `last` (the address handed out last, where that lies in this set), range
    /// after range, round to `last` itself. Gateways are left out.
    ///
    /// # Errors
    /// When the contents can't be read.
    pub fn next_free(&self, last: Option<IpAddr>, contents: &Contents) -> io::Result<Option<IpAddr>> {
        for (range, start, end) in self.stretches(last) {
            if let Some(free) = contents.first_free(start, end, range.gateway)? {
                return Ok(Some(free));
            }
        }
        Ok(None)
    }

    /// What is searched, in order: the rest of the range that `last` lies in, the ranges behind it and before it, and
    /// that range up to `last`.
    fn stretches(&self, last: Option<IpAddr>) -> Vec<(&Range, IpAddr, IpAddr)> {
        fn whole(range: &Range) -> (&Range, IpAddr, IpAddr) {
            (range, range.start, range.end)
        }
        let started =
            last.and_then(|last| Some((self.0.iter().position(|range| range.contains(last))?, last)));
        let Some((at, last)) = started else { return self.0.iter().map(whole).collect() };
        let (before, from) = self.0.split_at(at);
        let Some((first, after)) = from.split_first() else { return vec![] };
        let rest = offset(last, 1).filter(|next| *next <= first.end).map(|next| (first, next, first.end));
        let others = after.iter().chain(before).map(whole);
        rest.into_iter().chain(others).chain([(first, first.start, last)]).collect()
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            write!(f, "{}{range}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contents::Sorted;
    use crate::record::HolderHash;
    use proptest::prelude::*;

    fn conf(subnet: &str, start: &str, end: &str, gateway: &str) -> RangeConf {
        let own = ToOwned::to_owned;
        RangeConf { subnet: own(subnet), range_start: own(start), range_end: own(end), gateway: own(gateway) }
    }

    #[test]
    fn ranges_are_checked_and_filled_in() {
        for (given, want) in [
            (conf("10.0.0.0/24", "", "", ""), Ok("10.0.0.1-10.0.0.254")),
            (conf("10.0.0.0/30", "", "", ""), Ok("10.0.0.1-10.0.0.2")),
            (conf("0.0.0.0/8", "", "", ""), Ok("0.0.0.1-0.255.255.254")),
            (conf("255.255.255.0/24", "", "", ""), Ok("255.255.255.1-255.255.255.254")),
            (conf("10.0.0.0/24", "10.0.0.0", "10.0.0.255", ""), Ok("10.0.0.0-10.0.0.255")),
            (conf("fd00::/126", "", "", ""), Ok("fd00::1-fd00::3")),
            (conf("::/126", "", "", ""), Ok("::1-::3")),
            (conf("10.0.0.0/24", "", "", "192.168.0.1"), Ok("10.0.0.1-10.0.0.254")),
            (conf("10.0.0.0/31", "", "", ""), Err("too small")),
            (conf("fd00::/127", "", "", ""), Err("too small")),
            (
                conf("10.0.0.1/24", "", "", ""),
                Err("host bits set. For a subnet mask of length 24 the network address is 10.0.0.0"),
            ),
            (conf("::ffff:10.0.0.0/120", "", "", ""), Err("write an IPv4 subnet as IPv4")),
            (conf("10.0.0.0", "", "", ""), Err("invalid CIDR address: 10.0.0.0")),
            (conf("", "", "", ""), Err("invalid CIDR address")),
            (conf("10.0.0.0/24", "10.0.1.1", "", ""), Err("RangeStart 10.0.1.1 not in network 10.0.0.0/24")),
            (conf("10.0.0.0/24", "", "fd00::1", ""), Err("RangeEnd fd00::1 not in network")),
            (
                conf("10.0.0.0/24", "10.0.0.9", "10.0.0.8", ""),
                Err("RangeStart 10.0.0.9 comes after RangeEnd 10.0.0.8"),
            ),
            (conf("10.0.0.0/24", "bogus", "", ""), Err("invalid IP address: bogus")),
            (conf("10.0.0.0/24", "", "", "fd00::1"), Err("different families")),
        ] {
            let got = Range::new(&given).map(|range| range.to_string());
            match (&got, want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{given:?}"),
                (Err(got), Err(want)) => assert!(got.contains(want), "{given:?} → {got}"),
                (got, want) => panic!("{given:?}: got {got:?}, want {want:?}"),
            }
        }
    }

    /// The addresses in the order in which they are handed out when `last` was the last.
    fn order(set: &RangeSet, last: Option<IpAddr>) -> Vec<String> {
        let mut contents = Contents::new(Box::new(Sorted::default()), &[]);
        let next = || {
            let ip = set.next_free(last, &contents).unwrap()?;
            contents.insert(ip, HolderHash::container("x"));
            Some(ip.to_string())
        };
        std::iter::from_fn(next).collect()
    }

    fn set(ranges: &[(&str, &str, &str)]) -> Result<RangeSet, String> {
        RangeSet::new(
            &ranges.iter().map(|(subnet, start, end)| conf(subnet, start, end, "")).collect::<Vec<_>>(),
        )
    }

    #[test]
    fn sets_are_of_one_family_and_do_not_overlap() {
        assert!(set(&[]).unwrap_err().contains("empty range set"));
        assert!(set(&[("10.0.0.0/24", "", ""), ("fd00::/64", "", "")]).unwrap_err().contains("mixed"));
        let twice = set(&[("10.0.0.0/24", "", "10.0.0.9"), ("10.0.0.0/24", "10.0.0.9", "")]);
        assert!(twice.unwrap_err().contains("10.0.0.1-10.0.0.9 and 10.0.0.9-10.0.0.254 overlap"));
        assert!(set(&[("10.0.0.0/24", "", "10.0.0.9"), ("10.0.0.0/24", "10.0.0.10", "")]).is_ok());
        let inside = set(&[("10.0.0.0/16", "", ""), ("10.0.3.0/24", "", "")]);
        assert!(inside.unwrap_err().contains("overlap"));
    }

    #[test]
    fn what_is_excluded_is_cut_out() {
        let cut = |ranges: &[(&str, &str, &str)], excluded: &[&str]| {
            let excluded: Vec<IpNet> = excluded.iter().map(|net| net.parse().unwrap()).collect();
            set(ranges).unwrap().without(&excluded).map(|set| set.to_string())
        };
        let whole = [("10.1.0.0/24", "", "")];
        for (excluded, want) in [
            (&[][..], "10.1.0.1-10.1.0.254"),
            (&["10.2.0.0/24", "fd00::/8"], "10.1.0.1-10.1.0.254"),
            (&["10.1.0.7/32"], "10.1.0.1-10.1.0.6,10.1.0.8-10.1.0.254"),
            (&["10.1.0.0/28", "10.1.0.254/32"], "10.1.0.16-10.1.0.253"),
            (&["10.1.0.16/28", "10.1.0.20/32"], "10.1.0.1-10.1.0.15,10.1.0.32-10.1.0.254"),
        ] {
            assert_eq!(cut(&whole, excluded).as_deref(), Ok(want), "{excluded:?}");
        }
        assert!(cut(&whole, &["10.0.0.0/8"]).unwrap_err().contains("leaves nothing of 10.1.0.1-10.1.0.254"));
        let all = [("0.0.0.0/1", "0.0.0.0", ""), ("fd00::/126", "", "")];
        assert_eq!(cut(&all[..1], &["0.0.0.0/32"]).as_deref(), Ok("0.0.0.1-127.255.255.254"));
        assert_eq!(cut(&all[1..], &["fd00::2/128"]).as_deref(), Ok("fd00::1-fd00::1,fd00::3-fd00::3"));
    }

    #[test]
    fn addresses_go_round_from_the_last_one_to_itself() {
        let ips = |last: Option<&str>, ranges: &[(&str, &str, &str)]| {
            let start = last.map(|ip| ip.parse().unwrap());
            order(&set(ranges).unwrap(), start).join(" ")
        };
        let two = [("10.0.0.0/30", "", ""), ("10.9.0.0/29", "10.9.0.1", "10.9.0.3")];
        assert_eq!(ips(None, &two), "10.0.0.2 10.9.0.2 10.9.0.3");
        assert_eq!(ips(Some("10.0.0.2"), &two), "10.9.0.2 10.9.0.3 10.0.0.2");
        assert_eq!(ips(Some("10.9.0.3"), &two), "10.0.0.2 10.9.0.2 10.9.0.3");
        assert_eq!(ips(Some("10.0.0.1"), &two), "10.0.0.2 10.9.0.2 10.9.0.3", "a gateway as the last one");
        assert_eq!(ips(Some("1.2.3.4"), &two), "10.0.0.2 10.9.0.2 10.9.0.3", "a stranger as the last one");
        assert_eq!(ips(None, &[("fd00::/126", "", "")]), "fd00::2 fd00::3");
        let end = [("255.255.255.252/30", "255.255.255.252", "255.255.255.255")];
        assert_eq!(ips(Some("255.255.255.255"), &end), "255.255.255.252 255.255.255.254 255.255.255.255");
        let end6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:";
        let last = format!("{end6}ffff");
        assert_eq!(
            ips(Some(&last), &[(&format!("{end6}fffc/126"), "", "")]),
            format!("{end6}fffe {end6}ffff")
        );
    }

    proptest! {
        /// Whatever the last address: every address but gateways comes once, and the last one comes last.
        #[test]
        fn every_address_comes_once(
            v6 in any::<bool>(),
            base in any::<u128>(),
            slices in prop::collection::vec((0u128..40, any::<bool>()), 1..4),
            last in 0u128..200,
        ) {
            let like: IpAddr = if v6 { "::".parse().unwrap() } else { "0.0.0.0".parse().unwrap() };
            let base = (if v6 { base } else { base & 0xffff_ffff }) & !0xfff;
            let ip = |number: u128| from_number(number, like).unwrap().to_string();
            let mut ranges = Vec::new();
            let mut model = Vec::new();
            for (i, (size, halved)) in (0u128..).zip(&slices) {
                let network = base + i * 256;
                let subnet = format!("{}/{}", ip(network), if v6 { 120 } else { 24 });
                // One slice of the subnet, or two beside each other.
                let middle = if *halved { size / 2 } else { *size };
                ranges.push(conf(&subnet, &ip(network + 1), &ip(network + 1 + middle), ""));
                if middle < *size {
                    ranges.push(conf(&subnet, &ip(network + 2 + middle), &ip(network + 1 + size), ""));
                }
                model.extend((2..=1 + size).map(|n| ip(network + n)));
            }
            let set = RangeSet::new(&ranges).unwrap();
            let last_ip = ip(base + last);
            let got = order(&set, last_ip.parse().ok());
            if model.contains(&last_ip) {
                prop_assert_eq!(got.last(), Some(&last_ip));
            }
            let (mut got, mut want) = (got, model);
            got.sort();
            want.sort();
            prop_assert_eq!(set.size(), want.len() as u128);
            prop_assert_eq!(got, want);
        }
    }
}
