//! macspoofchk: a container sends by its own Ethernet address only. Two sets, so that a frame costs the same with one
//! container and with thousands.
//!
//! ```text
//! table bridge cni_macspoofchk {
//!     set ports { vethXXXX comment "cni/NETWORK/CONTAINER/IFNAME" }        # guarded ports
//!     set addresses { vethXXXX . 02:… comment "cni/…" }                   # what each may send by
//!     chain prerouting {                                                  # filter hook, before all others
//!         iifname @ports iifname . ether saddr != @addresses drop
//!     }
//! }
//! ```

use cni_common::kernel::netlink::Socket;
use cni_common::kernel::nft::{
    Chain, Data, Element, Family, Field, Hook, Key, Match, Rule, Set, Transaction, Value, Verdict,
    delete_unused_table, elements, find_element, has_chain, rules, uses,
};
use cni_common::kernel::{Refusal, absent_ok, unused_ok};
use cni_common::spec::{Attachment, IfName, MacAddr};
use nix::errno::Errno;

const TABLE: &str = "cni_macspoofchk";
const FAMILY: Family = Family::Bridge;
const PORTS: Set = Set { table: TABLE, name: "ports", key: &[Field::IfName], data: Data::None };
const ADDRESSES: Set =
    Set { table: TABLE, name: "addresses", key: &[Field::IfName, Field::Mac], data: Data::None };
const PREROUTING: Chain = Chain { table: TABLE, name: "prerouting", hook: Some(Hook::BridgePrerouting) };

/// How often an insertion that met somebody else's change is tried again.
const TRIES: u32 = 5;

/// Drops what comes in by `port` with another source address than `mac`.
///
/// # Errors
/// The kernel's refusal; then nothing was changed.
pub fn add(attachment: &Attachment, port: &IfName, mac: MacAddr) -> Result<(), Refusal> {
    let mut socket = Socket::netfilter()?;
    let mut transaction = Transaction::default();
    // Somebody may have flushed what is shared.
    if !is_set_up(&mut socket)? {
        set_up(&mut transaction);
    }
    let mut result = insertion(transaction, attachment, port, mac).commit(&mut socket);
    for _ in 0..TRIES {
        let mut transaction = Transaction::default();
        match &result {
            Err(refusal) if refusal.errno == Errno::ENOENT => set_up(&mut transaction),
            // The name is derived from the attachment: an earlier one with the same names, whose DEL was lost.
            Err(refusal) if refusal.errno == Errno::EEXIST => {
                remove(&mut transaction, &of_port(&mut socket, port, &[])?);
            }
            Err(refusal) if refusal.errno == Errno::EAGAIN => {}
            _ => break,
        }
        result = insertion(transaction, attachment, port, mac).commit(&mut socket);
    }
    result
}

fn insertion(
    mut transaction: Transaction,
    attachment: &Attachment,
    port: &IfName,
    mac: MacAddr,
) -> Transaction {
    let tag = attachment.tag();
    transaction.insert_element(FAMILY, &PORTS, (&Key::port(port), Value::None), &tag);
    transaction.insert_element(FAMILY, &ADDRESSES, (&Key::port_and_mac(port, mac), Value::None), &tag);
    transaction
}

/// Whether the rule is there.
fn is_set_up(socket: &mut Socket) -> Result<bool, Refusal> {
    Ok(uses(socket, &[(FAMILY, PREROUTING)])? == [Some(1)])
}

fn set_up(transaction: &mut Transaction) {
    transaction.table(FAMILY, TABLE);
    transaction.set(FAMILY, &PORTS);
    transaction.set(FAMILY, &ADDRESSES);
    let drop = Rule {
        chain: PREROUTING,
        matches: &[Match::In(PORTS), Match::NotIn(ADDRESSES)],
        verdict: Verdict::Drop,
        comment: "macspoofchk of CNI networks",
    };
    transaction.chain_with(FAMILY, &PREROUTING, &[drop]);
}

/// What there is for a port: elements, and the set of each.
type Found = Vec<(Set<'static>, Element)>;

fn remove(transaction: &mut Transaction, found: &Found) {
    for (set, element) in found {
        transaction.delete_element(FAMILY, set, &element.key);
    }
}

/// The elements of `port`: its addresses are among `known`, or have to be looked for.
fn of_port(socket: &mut Socket, port: &IfName, known: &[MacAddr]) -> Result<Found, Refusal> {
    let Some(guard) = find_element(socket, FAMILY, &PORTS, &Key::port(port))? else { return Ok(vec![]) };
    let mut found = vec![(PORTS, guard)];
    for mac in known {
        let key = Key::port_and_mac(port, *mac);
        found.extend(find_element(socket, FAMILY, &ADDRESSES, &key)?.map(|element| (ADDRESSES, element)));
    }
    if found.len() == 1 {
        let of_port = |element: &Element| {
            element.key.mac().is_some_and(|mac| element.key == Key::port_and_mac(port, mac))
        };
        let all = elements(socket, FAMILY, &ADDRESSES)?.into_iter().filter(of_port);
        found.extend(all.map(|element| (ADDRESSES, element)));
    }
    Ok(found)
}

/// Ends what [`add`] began, and what the reference plugin's macspoofchk did for this attachment. `known` are the
/// addresses that the attachment is said to have had.
///
/// # Errors
/// Any refusal but that there is nothing to delete.
pub fn delete(attachment: &Attachment, known: &[MacAddr]) -> Result<(), Refusal> {
    let mut socket = Socket::netfilter()?;
    let tag = attachment.tag();
    for port in attachment.host_veths() {
        let found = of_port(&mut socket, &port, known)?;
        if found.iter().all(|(_, element)| element.tag == tag) {
            let mut transaction = Transaction::default();
            remove(&mut transaction, &found);
            absent_ok(transaction.commit(&mut socket))?;
        }
    }
    delete_references(&mut socket, attachment)
}

/// The names of the two chains that the reference plugin makes for an attachment.
fn references_chains(attachment: &Attachment) -> (String, String) {
    let name = format!("cni-br-iface-{}-{}", attachment.container_id, attachment.ifname);
    let mac = format!("{name}-mac");
    (name, mac)
}

/// The reference plugin's table is other plugins' too, so it stays.
fn delete_references(socket: &mut Socket, attachment: &Attachment) -> Result<(), Refusal> {
    let (iface, mac) = references_chains(attachment);
    let [iface, mac] = [&iface, &mac].map(|name| Chain { table: "nat", name, hook: None });
    if !has_chain(socket, FAMILY, &iface)? {
        return Ok(());
    }
    let prerouting = Chain { table: "nat", name: "PREROUTING", hook: None };
    let comment = format!("macspoofchk-{}-{}", attachment.container_id, attachment.ifname);
    let mut transaction = Transaction::default();
    for (handle, text) in rules(socket, FAMILY, &prerouting)? {
        if text == comment {
            transaction.delete_rule(FAMILY, &prerouting, handle);
        }
    }
    transaction.delete_chain(FAMILY, &iface);
    if has_chain(socket, FAMILY, &mac)? {
        transaction.delete_chain(FAMILY, &mac);
    }
    absent_ok(transaction.commit(socket))
}

/// Takes back what [`add`] did, and deletes the table when nobody else uses it.
///
/// # Errors
/// Any refusal but that something is gone or in use.
pub fn undo(attachment: &Attachment, mac: MacAddr) -> Result<(), Refusal> {
    delete(attachment, &[mac])?;
    delete_table(&mut Socket::netfilter()?)
}

fn delete_table(socket: &mut Socket) -> Result<(), Refusal> {
    unused_ok(delete_unused_table(socket, FAMILY, &[PREROUTING], &[PORTS, ADDRESSES]))
}

/// Whether frames of `port` are held to `mac`, by us or by the reference plugin: what is there instead, if they are
/// not.
///
/// # Errors
/// The kernel's refusal.
pub fn missing(attachment: &Attachment, port: &IfName, mac: MacAddr) -> Result<Option<String>, Refusal> {
    let mut socket = Socket::netfilter()?;
    let (iface, _) = references_chains(attachment);
    if has_chain(&mut socket, FAMILY, &Chain { table: "nat", name: &iface, hook: None })? {
        return Ok(None);
    }
    if !is_set_up(&mut socket)? {
        return Ok(Some("no rule".to_owned()));
    }
    let found = of_port(&mut socket, port, &[])?;
    let macs: Vec<MacAddr> = found.iter().filter_map(|(_, element)| element.key.mac()).collect();
    Ok(match macs.as_slice() {
        [one] if *one == mac => None,
        [] if found.is_empty() => Some("an unguarded port".to_owned()),
        [] => Some("a port that may send nothing".to_owned()),
        others => Some(others.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    })
}

/// Removes whatever carries an orphan's tag, and the table when that was the last.
///
/// # Errors
/// Any refusal but that there is nothing to delete.
pub fn gc(is_orphan: impl Fn(&str) -> bool) -> Result<(), Refusal> {
    let mut socket = Socket::netfilter()?;
    let mut result = Ok(());
    for set in [PORTS, ADDRESSES] {
        for element in elements(&mut socket, FAMILY, &set)?.iter().filter(|element| is_orphan(&element.tag)) {
            // Each by itself: a DEL that is quicker with one must not keep the others.
            let mut transaction = Transaction::default();
            transaction.delete_element(FAMILY, &set, &element.key);
            result = result.and(absent_ok(transaction.commit(&mut socket)));
        }
    }
    result.and(delete_table(&mut socket))
}
