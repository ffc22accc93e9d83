//! Masquerading by nf_tables, at the same cost for one container and for thousands.
//!
//! ```text
//! table ip cni_masquerade {                    # and the same as "ip6"
//!     map sources {                            # an element an address, its owner in the comment
//!         10.1.0.5 comment "cni/NETWORK/CONTAINER/IFNAME" : goto net-…
//!     }
//!     chain postrouting {                      # nat hook, priority srcnat
//!         ip saddr vmap @sources
//!     }
//!     chain net-HASH(network)-HASH(subnet) {   # where elements lead
//!         goto out-…
//!     }
//!     chain out-HASH(network)-HASH(subnet) {
//!         ip daddr SUBNET return
//!         ip daddr 224.0.0.0/4 return
//!         masquerade
//!     }
//! }
//! ```
//!
//! ADD inserts elements, and makes what else is missing, in one transaction; DEL deletes those that carry its
//! tag, and what nobody uses any more. The kernel counts how often a chain is used, by its rules and by what
//! leads there, and tells that quickly. So the rules of a subnet stand apart from the chain to which the
//! elements lead: then the one count says whether all rules are there, and the other whether an element is.

use crate::kernel::netlink::Socket;
use crate::kernel::nft::{
    Chain, Data, Element, End, Family, Field, Hook, Key, Match, Rule, Set, Transaction, Value, Verdict,
    chains, delete_chain, delete_unused_table, elements, find_element, uses, uses_of_table,
};
use crate::kernel::{Refusal, absent_ok, unused_ok};
use crate::owner::digest;
use crate::spec::{Attachment, NetworkName};
use ipnet::IpNet;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::net::IpAddr;

const TABLE: &str = "cni_masquerade";
const SOURCES: &str = "sources";
const POSTROUTING: Chain = Chain { table: TABLE, name: "postrouting", hook: Some(Hook::SourceNat) };

/// From the pods' addresses to their networks' chains.
const fn sources(family: Family) -> Set<'static> {
    let key: &[Field] =
        if matches!(family, Family::V6) { &[Field::Ipv6(End::Source)] } else { &[Field::Ipv4(End::Source)] };
    Set { table: TABLE, name: SOURCES, key, data: Data::Verdict }
}

/// How often an insertion that met somebody else's change is tried again.
const TRIES: u32 = 5;

/// The chains for the packets of a network's subnet.
struct Subnet {
    /// Where elements lead.
    net: String,
    /// What is done there.
    out: String,
}

impl Subnet {
    /// How often `net` is used by its rules.
    const NET_RULES: u32 = 1;
    /// How often `out` is used: by its rules and by the rule that leads there.
    const OUT_USES: u32 = 4;

    fn of(network: &NetworkName, net: &IpNet) -> Self {
        Self::of_net(format!("net-{}-{}", network_part(network), digest(&[&net.trunc().to_string()], 16)))
    }

    /// Of the chain with that name.
    fn of_net(net: String) -> Self {
        Self { out: format!("out-{}", net.strip_prefix("net-").unwrap_or(&net)), net }
    }
}

fn network_part(network: &NetworkName) -> String {
    digest(&[network.as_str()], 16)
}

fn chain(name: &str) -> Chain<'_> {
    Chain { table: TABLE, name, hook: None }
}

/// Masquerades what the container sends out of the subnets of its addresses `nets`.
///
/// # Errors
/// The kernel's refusal; then nothing was changed.
pub fn add(attachment: &Attachment, nets: &[IpNet]) -> Result<(), Refusal> {
    let mut socket = Socket::netfilter()?;
    let mut transaction = Transaction::default();
    // Somebody may have flushed what is shared.
    if lacks(&mut socket, &attachment.network, nets)?.is_some() {
        set_up(&mut transaction, &attachment.network, nets);
    }
    insert(&mut transaction, attachment, nets);
    let mut result = transaction.commit(&mut socket);
    for _ in 0..TRIES {
        let mut transaction = Transaction::default();
        match &result {
            // The last attachment's DEL, or a GC, has come between.
            Err(refusal) if refusal.errno == Errno::ENOENT => {
                set_up(&mut transaction, &attachment.network, nets);
            }
            Err(refusal) if refusal.errno == Errno::EEXIST => {
                take_over(&mut socket, &mut transaction, attachment, nets)?;
            }
            // Somebody else's transaction came between.
            Err(refusal) if refusal.errno == Errno::EAGAIN => {}
            _ => break,
        }
        insert(&mut transaction, attachment, nets);
        result = transaction.commit(&mut socket);
    }
    result
}

/// What of the shared chains is not there whole, as expected and found.
fn lacks(
    socket: &mut Socket,
    network: &NetworkName,
    nets: &[IpNet],
) -> Result<Option<(String, String)>, Refusal> {
    let subnets: Vec<_> = nets.iter().map(|net| (Family::of(net.addr()), Subnet::of(network, net))).collect();
    let families = Family::IP.into_iter().filter(|family| subnets.iter().any(|(of, _)| of == family));
    let mut wanted: Vec<_> = families.map(|family| (family, POSTROUTING, 1)).collect();
    wanted.extend(subnets.iter().map(|(family, subnet)| (*family, chain(&subnet.out), Subnet::OUT_USES)));
    let asked: Vec<_> = wanted.iter().map(|(family, chain, _)| (*family, *chain)).collect();
    let found = uses(socket, &asked)?;
    let differs = wanted.iter().zip(found).find(|((_, _, count), found)| *found != Some(*count));
    Ok(differs.map(|((_, chain, _), found)| {
        let found = found.map_or("no such chain".to_owned(), |_| "others".to_owned());
        (format!("all rules of chain {TABLE} {}", chain.name), found)
    }))
}

fn insert(transaction: &mut Transaction, attachment: &Attachment, nets: &[IpNet]) {
    let tag = attachment.tag();
    for net in nets {
        let subnet = Subnet::of(&attachment.network, net);
        let (family, key) = (Family::of(net.addr()), Key::from(net.addr()));
        let value = Value::Goto(&chain(&subnet.net));
        transaction.insert_element(family, &sources(family), (&key, value), &tag);
    }
}

/// The table, and the network's chains. Harmless where they are there already.
fn set_up(transaction: &mut Transaction, network: &NetworkName, nets: &[IpNet]) {
    for family in Family::IP {
        let of_family: Vec<_> = nets.iter().filter(|net| Family::of(net.addr()) == family).collect();
        if of_family.is_empty() {
            continue;
        }
        transaction.table(family, TABLE);
        transaction.set(family, &sources(family));
        let look_up = Rule {
            chain: POSTROUTING,
            matches: &[],
            verdict: Verdict::Look(sources(family)),
            comment: "masquerading for CNI networks",
        };
        transaction.chain_with(family, &POSTROUTING, &[look_up]);
        for net in of_family {
            let subnet = Subnet::of(network, net);
            let (net_chain, out) = (chain(&subnet.net), chain(&subnet.out));
            let comment = format!("network {network}, subnet {}", net.trunc());
            let (inside, multicast) = ([Match::To(net.trunc())], [Match::To(super::multicast(net.addr()))]);
            let rule = |chain, matches, verdict, comment| Rule { chain, matches, verdict, comment };
            let rules = [
                rule(out, &inside, Verdict::Return, comment.as_str()),
                rule(out, &multicast, Verdict::Return, ""),
                rule(out, &[], Verdict::Masquerade, ""),
            ];
            transaction.chain_with(family, &out, &rules);
            let lead = rule(net_chain, &[], Verdict::Goto(out), comment.as_str());
            transaction.chain_with(family, &net_chain, &[lead]);
        }
    }
}

/// IPAM gave us the address, so whoever it is marked for is gone and its DEL was lost.
fn take_over(
    socket: &mut Socket,
    transaction: &mut Transaction,
    attachment: &Attachment,
    nets: &[IpNet],
) -> Result<(), Refusal> {
    for net in nets {
        if let Some(stale) = find(socket, net.addr())? {
            crate::log!(
                "{} was still masqueraded for {:?}, taken over by {attachment}",
                stale.address,
                stale.tag
            );
            remove(transaction, stale.address);
        }
    }
    Ok(())
}

/// Ends what [`add`] began. `known` are the addresses that the attachment is said to have had; where they do not tell
/// all, its elements are looked for by their tag.
///
/// # Errors
/// Any refusal but that there is nothing to delete.
pub fn delete(attachment: &Attachment, known: &[IpAddr]) -> Result<(), Refusal> {
    let mut socket = Socket::netfilter()?;
    let tag = attachment.tag();
    let mut mine = Vec::new();
    for address in known {
        mine.extend(find(&mut socket, *address)?.filter(|element| element.tag == tag));
    }
    if known.is_empty() || mine.len() < known.len() {
        mine = list(&mut socket)?.into_iter().filter(|element| element.tag == tag).collect();
    }
    delete_all(&mut socket, &mine)
}

/// An element of the map: whose packets are masqueraded.
struct Source {
    address: IpAddr,
    tag: String,
    chain: String,
}

fn source(Element { key, tag, chain, .. }: Element) -> Option<Source> {
    Some(Source { address: key.ip()?, tag, chain })
}

fn find(socket: &mut Socket, address: IpAddr) -> Result<Option<Source>, Refusal> {
    let family = Family::of(address);
    Ok(find_element(socket, family, &sources(family), &address.into())?.and_then(source))
}

fn remove(transaction: &mut Transaction, address: IpAddr) {
    let family = Family::of(address);
    transaction.delete_element(family, &sources(family), &address.into());
}

fn list(socket: &mut Socket) -> Result<Vec<Source>, Refusal> {
    let mut found = Vec::new();
    for family in Family::IP {
        found.extend(elements(socket, family, &sources(family))?.into_iter().filter_map(source));
    }
    Ok(found)
}

/// Deletes elements, and with them the chains and the table that nobody uses without them.
fn delete_all(socket: &mut Socket, gone: &[Source]) -> Result<(), Refusal> {
    let mut result = Ok(());
    for family in Family::IP {
        let gone: Vec<_> = gone.iter().filter(|element| Family::of(element.address) == family).collect();
        if gone.is_empty() {
            continue;
        }
        let mut leading: BTreeMap<&str, u32> = BTreeMap::new();
        for element in &gone {
            *leading.entry(&element.chain).or_default() += 1;
        }
        let mut transaction = Transaction::default();
        for element in &gone {
            remove(&mut transaction, element.address);
        }
        let unused = delete_unused(socket, family, &leading, &mut transaction)?;
        if transaction.commit(socket).is_err() {
            // Somebody came between: to use a chain that nobody did, or to delete an element. What can go goes.
            for element in gone {
                let mut transaction = Transaction::default();
                remove(&mut transaction, element.address);
                result = result.and(absent_ok(transaction.commit(socket)));
            }
        } else if unused == leading.len() {
            continue;
        }
        // Of two that went at once, each saw the other's elements.
        for count in leading.values_mut() {
            *count = 0;
        }
        let mut transaction = Transaction::default();
        delete_unused(socket, family, &leading, &mut transaction)?;
        result = result.and(unused_ok(transaction.commit(socket)));
    }
    result
}

/// Adds to `transaction` those chains that nobody uses but for so many elements, with their rules, and the
/// table when nothing else is in it; how many of the chains. The kernel refuses all of it (`EBUSY`) when
/// somebody uses one by then.
fn delete_unused(
    socket: &mut Socket,
    family: Family,
    leading: &BTreeMap<&str, u32>,
    transaction: &mut Transaction,
) -> Result<usize, Refusal> {
    let asked: Vec<_> = leading.keys().map(|name| (family, chain(name))).collect();
    let used = uses(socket, &asked)?;
    let unused: Vec<Subnet> = leading
        .iter()
        .zip(&used)
        .filter(|((_, leading), used)| used.is_some_and(|used| used <= **leading + Subnet::NET_RULES))
        .map(|((name, _), _)| Subnet::of_net((*name).to_owned()))
        .collect();
    if unused.is_empty() {
        return Ok(0);
    }
    for subnet in &unused {
        transaction.delete_chain(family, &chain(&subnet.net));
        transaction.delete_chain(family, &chain(&subnet.out));
    }
    // Beside the base chain and the map.
    let ours = 2 + 2 * u32::try_from(unused.len()).unwrap_or_default();
    if uses_of_table(socket, family, TABLE)? == Some(ours) {
        // Elements that are deleted here are still in the map. Any other would lead to a chain, which keeps
        // the table.
        transaction.delete_chain(family, &POSTROUTING);
        transaction.delete_set(family, &sources(family));
        transaction.delete_empty_table(family, TABLE);
    }
    Ok(unused.len())
}

/// What there is instead of what [`add`] made for an address; `None` when that is there.
///
/// # Errors
/// The kernel's refusal.
pub fn missing(attachment: &Attachment, net: &IpNet) -> Result<Option<String>, Refusal> {
    let mut socket = Socket::netfilter()?;
    let found = find(&mut socket, net.addr())?;
    let Some(element) = found else { return Ok(Some("nothing".to_owned())) };
    let subnet = Subnet::of(&attachment.network, net);
    if element.tag != attachment.tag() || element.chain != subnet.net {
        return Ok(Some(format!("an element of {:?} leading to chain {}", element.tag, element.chain)));
    }
    let lacks = lacks(&mut socket, &attachment.network, &[*net])?;
    Ok(lacks.map(|(wanted, found)| format!("an element, but not {wanted}: {found}")))
}

/// Ends the masquerading of whatever carries an orphan's tag, and deletes the chains of `network` that nothing leads to
/// any more, and the table when that was the last.
///
/// # Errors
/// Any refusal but that there is nothing to delete.
pub fn gc(network: &NetworkName, is_orphan: impl Fn(&str) -> bool) -> Result<(), Refusal> {
    let mut socket = Socket::netfilter()?;
    let gone: Vec<_> = list(&mut socket)?.into_iter().filter(|element| is_orphan(&element.tag)).collect();
    for element in &gone {
        crate::log!(
            "GC of network {network} ends the masquerading of {} for {}",
            element.address,
            element.tag
        );
    }
    let mut result = delete_all(&mut socket, &gone);
    for family in Family::IP {
        let names = chains(&mut socket, family, TABLE)?;
        // Only once nothing leads from the one to the other.
        for prefix in ["net-", "out-"].map(|kind| format!("{kind}{}-", network_part(network))) {
            for name in names.iter().filter(|name| name.starts_with(&prefix)) {
                result = result.and(unused_ok(delete_chain(&mut socket, family, &chain(name))));
            }
        }
        result = result.and(delete_table(&mut socket, family));
    }
    result
}

/// Deletes the table when there is nothing in it but what it began with.
fn delete_table(socket: &mut Socket, family: Family) -> Result<(), Refusal> {
    unused_ok(delete_unused_table(socket, family, &[POSTROUTING], &[sources(family)]))
}
