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
//!     chain net-HASH(network)-HASH(subnet) {
//!         ip daddr SUBNET return
//!         ip daddr 224.0.0.0/4 return
//!         masquerade
//!     }
//! }
//! ```
//!
//! ADD inserts elements, DEL deletes those that carry its tag. What else is there is made when it is missing, in one
//! transaction, and stays.

use cni_common::kernel::netlink::Socket;
use cni_common::kernel::nft::{
    Chain, Data, Element, End, Family, Field, Hook, Key, Match, Rule, Set, Transaction, Value, Verdict,
    chains, delete_chain, delete_element, delete_unused_table, elements, find_element, insert_element,
};
use cni_common::kernel::{Refusal, absent_ok, unused_ok};
use cni_common::spec::name::digest;
use cni_common::spec::{Attachment, NetworkName};
use ipnet::IpNet;
use nix::errno::Errno;
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

fn chain_prefix(network: &NetworkName) -> String {
    format!("net-{}-", digest(&[network.as_str()], 16))
}

/// The name of the chain for the packets of `net`'s subnet.
fn chain_name(network: &NetworkName, net: &IpNet) -> String {
    format!("{}{}", chain_prefix(network), digest(&[&net.trunc().to_string()], 16))
}

fn subnet_chain(name: &str) -> Chain<'_> {
    Chain { table: TABLE, name, hook: None }
}

/// Masquerades what the container sends out of the subnets of its addresses `nets`.
///
/// True when the table, or chains for the network, had to be made for it.
///
/// # Errors
/// The kernel's refusal; then nothing was changed.
pub fn add(attachment: &Attachment, nets: &[IpNet]) -> Result<bool, Refusal> {
    let mut made = false;
    let mut socket = Socket::netfilter()?;
    // On all but the first ADD of a network, one message an address is all there is to send.
    let mut result = insertion(attachment, nets).commit(&mut socket);
    for _ in 0..TRIES {
        let mut transaction = Transaction::default();
        match &result {
            Err(refusal) if refusal.errno == Errno::ENOENT => {
                set_up(&mut transaction, &attachment.network, nets);
                made = true;
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
    result.map(|()| made)
}

fn insertion(attachment: &Attachment, nets: &[IpNet]) -> Transaction {
    let mut transaction = Transaction::default();
    insert(&mut transaction, attachment, nets);
    transaction
}

fn insert(transaction: &mut Transaction, attachment: &Attachment, nets: &[IpNet]) {
    let tag = attachment.tag();
    for net in nets {
        let name = chain_name(&attachment.network, net);
        let (family, key) = (Family::of(net.addr()), Key::from(net.addr()));
        insert_element(
            transaction,
            family,
            &sources(family),
            (&key, Value::Goto(&subnet_chain(&name))),
            &tag,
        );
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
            let name = chain_name(network, net);
            let chain = subnet_chain(&name);
            let comment = format!("network {network}, subnet {}", net.trunc());
            let (inside, multicast) = ([Match::To(net.trunc())], [Match::To(super::multicast(net.addr()))]);
            let rule = |matches, verdict, comment| Rule { chain, matches, verdict, comment };
            let rules = [
                rule(&inside, Verdict::Return, comment.as_str()),
                rule(&multicast, Verdict::Return, ""),
                rule(&[], Verdict::Masquerade, ""),
            ];
            transaction.chain_with(family, &chain, &rules);
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
            cni_common::log!(
                "bridge: {} was still masqueraded for {:?}, taken over by {attachment}",
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
    delete_element(transaction, family, &sources(family), &address.into());
}

fn list(socket: &mut Socket) -> Result<Vec<Source>, Refusal> {
    let mut found = Vec::new();
    for family in Family::IP {
        found.extend(elements(socket, family, &sources(family))?.into_iter().filter_map(source));
    }
    Ok(found)
}

fn delete_all(socket: &mut Socket, gone: &[Source]) -> Result<(), Refusal> {
    let mut result = Ok(());
    for element in gone {
        let mut transaction = Transaction::default();
        remove(&mut transaction, element.address);
        result = result.and(absent_ok(transaction.commit(socket)));
    }
    result
}

/// What there is instead of the element that [`add`] made for an address; `None` when that is there.
///
/// # Errors
/// The kernel's refusal.
pub fn missing(attachment: &Attachment, net: &IpNet) -> Result<Option<String>, Refusal> {
    let found = find(&mut Socket::netfilter()?, net.addr())?;
    let right = |element: &Source| {
        element.tag == attachment.tag() && element.chain == chain_name(&attachment.network, net)
    };
    if found.as_ref().is_some_and(right) {
        return Ok(None);
    }
    Ok(Some(found.map_or("nothing".to_owned(), |element| {
        format!("an element of {:?} leading to chain {}", element.tag, element.chain)
    })))
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
        cni_common::log!(
            "bridge: GC of network {network} ends the masquerading of {} for {}",
            element.address,
            element.tag
        );
    }
    let mut result = delete_all(&mut socket, &gone);
    let prefix = chain_prefix(network);
    for family in Family::IP {
        for name in chains(&mut socket, family, TABLE)?.iter().filter(|name| name.starts_with(&prefix)) {
            result = result.and(unused_ok(delete_chain(&mut socket, family, &subnet_chain(name))));
        }
        result = result.and(delete_table(&mut socket, family));
    }
    result
}

/// Deletes the table when there is nothing in it but what it began with.
fn delete_table(socket: &mut Socket, family: Family) -> Result<(), Refusal> {
    unused_ok(delete_unused_table(socket, family, &[POSTROUTING], &[sources(family)]))
}

/// Takes back what [`add`] did; where it `made` chains and tables, those too, unless somebody uses them by now.
///
/// # Errors
/// Any refusal but that something is gone or in use.
pub fn undo(attachment: &Attachment, nets: &[IpNet], made: bool) -> Result<(), Refusal> {
    let known: Vec<IpAddr> = nets.iter().map(IpNet::addr).collect();
    let mut result = delete(attachment, &known);
    let mut socket = Socket::netfilter()?;
    for net in nets.iter().filter(|_| made) {
        let (family, name) = (Family::of(net.addr()), chain_name(&attachment.network, net));
        result = result.and(unused_ok(delete_chain(&mut socket, family, &subnet_chain(&name))));
        result = result.and(delete_table(&mut socket, family));
    }
    result
}
