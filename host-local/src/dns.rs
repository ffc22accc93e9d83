//! Resolver settings out of a file in resolv.conf(5)'s form.

use cni_common::spec::result::Dns;

/// Reads `nameserver`, `domain`, `search` and `options` lines; others pass. Like the reference plugin, later
/// `search` and `options` lines add to earlier ones, and the last `domain` wins.
#[must_use]
pub fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace();
        let (Some(key), Some(first)) = (words.next(), words.next()) else { continue };
        let all = std::iter::once(first).chain(words).map(ToOwned::to_owned);
        match key {
            "nameserver" => dns.nameservers.push(first.to_owned()),
            "domain" => first.clone_into(&mut dns.domain),
            "search" => dns.search.extend(all),
            "options" => dns.options.extend(all),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn lines_add_up() {
        let dns = parse(
            "# c\n; c\nnameserver 1.1.1.1 x\n nameserver\t2.2.2.2\nnameserver\ndomain a\ndomain b c\n\
                         search s1 s2\nsearch s3\noptions ndots:5 rotate\nsortlist 10.0.0.0\n",
        );
        assert_eq!(dns.nameservers, ["1.1.1.1", "2.2.2.2"]);
        assert_eq!(dns.domain, "b");
        assert_eq!(dns.search, ["s1", "s2", "s3"]);
        assert_eq!(dns.options, ["ndots:5", "rotate"]);
    }
}
