//! `conditionsV4` and `conditionsV6`: words of iptables or of nft that have to match for a port to be mapped.
//!
//! iptables gets its words as they are. Those of nft are read here, because no `nft` is run: addresses, interfaces and
//! marks, which is what conditions are written for.

use cni_common::spec::{Error, Result};
use ipnet::IpNet;
use std::net::IpAddr;

/// Whose words they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `-d 10.0.0.0/8`
    Iptables,
    /// `ip daddr 10.0.0.0/8`
    Nftables,
}

impl Style {
    /// That of these words; none of no words.
    #[must_use]
    pub fn of(words: &[String]) -> Option<Self> {
        let first = words.first()?;
        Some(if first.starts_with(['-', '!']) { Self::Iptables } else { Self::Nftables })
    }
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Words for iptables.
    Words(Vec<String>),
    /// The source is in this network, or is not.
    Source(IpNet, bool),
    /// The destination is.
    Destination(IpNet, bool),
    /// The packet came in by this interface, or did not.
    Interface(String, bool),
}

impl Condition {
    /// Reads the words of `key`.
    ///
    /// # Errors
    /// Code 7: the word that is not understood.
    pub fn read(key: &str, words: &[String], v4: bool) -> Result<Vec<Self>> {
        match Style::of(words) {
            None => Ok(vec![]),
            Some(Style::Iptables) => Ok(vec![Self::Words(checked(key, words)?)]),
            Some(Style::Nftables) => read_nft(key, words, v4),
        }
    }
}

/// They go into a line of `iptables-restore`, which ends at a line break and takes quotes for its own.
fn checked(key: &str, words: &[String]) -> Result<Vec<String>> {
    let bad = |word: &&String| {
        word.is_empty()
            || word.chars().any(|c| c.is_control() || c.is_whitespace() || matches!(c, '"' | '\'' | '\\'))
    };
    if let Some(word) = words.iter().find(bad) {
        return Err(Error::config(format!("{key}: {word:.80?} can't be a word of an iptables rule"))
            .details("each word is an item of the list, without spaces and quotes"));
    }
    if let Some(word) =
        words.iter().find(|word| matches!(word.as_str(), "-j" | "--jump" | "-g" | "--goto" | "-t"))
    {
        return Err(Error::config(format!("{key}: {word} is no condition")).details("give matches only"));
    }
    Ok(words.to_vec())
}

fn read_nft(key: &str, words: &[String], v4: bool) -> Result<Vec<Condition>> {
    let family = if v4 { "ip" } else { "ip6" };
    // One item may hold several words.
    let mut rest: Vec<&str> = words.iter().flat_map(|word| word.split_whitespace()).collect();
    rest.reverse();
    let wrong = |word: Option<&str>| {
        let shown = word.map_or("the end".to_owned(), |word| format!("{word:.80?}"));
        Error::config(format!("{key}: {shown} is not understood")).details(format!(
            "known are `{family} saddr NET`, `{family} daddr NET` and `iifname NAME`, each with != if need be; other conditions need backend \"iptables\" and its words"
        ))
    };
    let mut conditions = Vec::new();
    while let Some(word) = rest.pop() {
        let field = if word == family { rest.pop().ok_or_else(|| wrong(None))? } else { word };
        let negated = rest.last() == Some(&"!=");
        if negated || rest.last() == Some(&"==") {
            rest.pop();
        }
        let value = rest.pop().ok_or_else(|| wrong(None))?.trim_matches('"');
        let net =
            || network(value).filter(|net| net.addr().is_ipv4() == v4).ok_or_else(|| wrong(Some(value)));
        conditions.push(match (word == family, field) {
            (true, "saddr") => Condition::Source(net()?, !negated),
            (true, "daddr") => Condition::Destination(net()?, !negated),
            (false, "iifname") if !value.is_empty() && value.len() < 16 && !value.contains('*') => {
                Condition::Interface(value.to_owned(), !negated)
            }
            (false, "iifname") => return Err(wrong(Some(value))),
            _ => return Err(wrong(Some(field))),
        });
    }
    Ok(conditions)
}

fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)).map(|net| net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str], v4: bool) -> Result<Vec<Condition>> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        Condition::read("conditionsV4", &words, v4)
    }

    #[test]
    fn words_of_both_kinds_are_read() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        assert_eq!(read(&[], true).unwrap(), []);
        assert_eq!(
            read(&["!", "-s", "10.0.0.0/8"], true).unwrap(),
            [Condition::Words(["!", "-s", "10.0.0.0/8"].map(ToOwned::to_owned).to_vec())]
        );
        assert_eq!(
            read(&["ip", "saddr", "!=", "10.1.2.3/8", "iifname eth0"], true).unwrap(),
            [Condition::Source(net("10.0.0.0/8"), false), Condition::Interface("eth0".to_owned(), true)]
        );
        assert_eq!(
            read(&["ip6 daddr fd00::1"], false).unwrap(),
            [Condition::Destination(net("fd00::1/128"), true)]
        );
        for (words, told) in [
            (&["ip", "saddr"][..], "the end"),
            (&["ip6", "saddr", "fd00::/8"], "saddr"),
            (&["ip", "saddr", "fd00::/8"], "fd00::/8"),
            (&["ip", "ttl", "5"], "ttl"),
            (&["drop"], "the end"),
            (&["iifname", "eth*"], "eth*"),
            (&["-s", "10.0.0.0/8\n-A INPUT"], "word of an iptables rule"),
            (&["-s", "\"x\""], "word of an iptables rule"),
            (&["-s", "10.0.0.0/8", "-j", "DROP"], "-j is no condition"),
        ] {
            let error = read(words, true).unwrap_err();
            assert!(error.to_string().contains(told), "{words:?}: {error}");
        }
    }
}
