//! Changes that the kernel makes all together or not at all.

use super::object::{Chain, Family, Map, Rule, SET, flush, message, new_chain, new_map, new_rule, new_table};
use crate::kernel::netlink::socket::{position, verdict};
use crate::kernel::netlink::{Message, Socket};
use crate::kernel::refusal::Refusal;
use netlink_packet_core::{NLM_F_NONREC, NLM_F_REQUEST, NetlinkPayload};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, NfTablesMessage, SetAttribute, SetMessage, TableAttribute, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use nix::errno::Errno;

/// `NFNL_SUBSYS_NFTABLES`
const NFTABLES: u16 = 10;

/// Changes to the ruleset, in order.
#[derive(Debug, Default)]
pub struct Transaction {
    changes: Vec<Message<NetfilterMessage>>,
}

impl Transaction {
    /// Makes a table, unless it is there.
    pub fn table(&mut self, family: Family, name: &str) {
        self.changes.push(new_table(family, name));
    }

    /// Makes a chain, unless it is there.
    pub fn chain(&mut self, family: Family, chain: &Chain) {
        self.changes.push(new_chain(family, chain));
    }

    /// Makes a chain, unless it is there, and gives it exactly these rules.
    pub fn chain_with(&mut self, family: Family, chain: &Chain, rules: &[Rule]) {
        self.chain(family, chain);
        self.changes.push(flush(family, chain));
        self.changes.extend(rules.iter().map(|rule| new_rule(family, rule)));
    }

    /// Makes a map from addresses to verdicts, unless it is there.
    pub fn map(&mut self, family: Family, map: &Map) {
        // An ID has to be unique within the transaction.
        let id = u32::try_from(self.changes.len()).unwrap_or(u32::MAX);
        self.changes.push(new_map(family, map, id));
    }

    pub(super) fn push(&mut self, change: Message<NetfilterMessage>) {
        self.changes.push(change);
    }

    /// Makes the changes.
    ///
    /// # Errors
    /// The first refusal; then nothing was changed.
    pub fn commit(self, socket: &mut Socket) -> Result<(), Refusal> {
        if self.changes.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = self.changes.iter().map(|change| change.doing.clone()).collect();
        let mut batch = vec![boundary(ControlMessage::BatchBegin)];
        batch.extend(self.changes);
        batch.push(boundary(ControlMessage::BatchEnd));
        let sent = socket.send(batch)?;
        let mut pending = names.len();
        let mut result = Ok(());
        while pending > 0 {
            for answer in socket.receive::<NetfilterMessage>()? {
                let (Some(at), NetlinkPayload::Error(error)) =
                    (position(&sent, answer.header.sequence_number), answer.payload)
                else {
                    continue;
                };
                // The kernel answers each change; or the boundaries, when it gave up on the whole.
                let doing =
                    at.checked_sub(1).and_then(|at| names.get(at)).map_or("change nf_tables", String::as_str);
                let whole = at == 0 || at > names.len();
                let answer = verdict(doing, answer.header.flags, &error);
                if whole && answer.is_err() {
                    return answer;
                }
                pending -= usize::from(!whole);
                result = result.and(answer);
            }
        }
        result
    }
}

fn boundary(which: ControlMessage) -> Message<NetfilterMessage> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFTABLES);
    Message { doing: String::new(), flags: NLM_F_REQUEST, body: NetfilterMessage::new(header, which) }
}

/// The names of a table's chains; none when there is no such table.
///
/// # Errors
/// The kernel's refusal.
pub fn chains(socket: &mut Socket, family: Family, table: &str) -> Result<Vec<String>, Refusal> {
    let attributes = vec![ChainAttribute::Table(table.to_owned())];
    let body = NfTablesMessage::GetChain(ChainMessage { attributes });
    let found = socket.dump("list nf_tables chains", &NetfilterMessage::new(family.header(), body))?;
    let mut names = Vec::new();
    for message in found {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = message.inner else {
            continue;
        };
        let mut ours = false;
        let mut name = None;
        for attribute in chain.attributes {
            match attribute {
                ChainAttribute::Table(of) => ours = of == table,
                ChainAttribute::Name(text) => name = Some(text),
                _ => {}
            }
        }
        names.extend(name.filter(|_| ours));
    }
    Ok(names)
}

/// Deletes a chain and its rules.
///
/// # Errors
/// `EBUSY` when verdicts still lead there.
pub fn delete_chain(socket: &mut Socket, family: Family, chain: &Chain) -> Result<(), Refusal> {
    let mut transaction = Transaction::default();
    transaction.push(flush(family, chain));
    transaction.push(deletion_of_chain(family, chain));
    transaction.commit(socket)
}

/// Deletes a table with these base chains and maps, if nothing else is in it: no element, no other chain. All at once,
/// so that an element which somebody adds meanwhile is safe.
///
/// # Errors
/// `EBUSY` when something else is in it, `ENOENT` when there is none.
pub fn delete_unused_table(
    socket: &mut Socket,
    family: Family,
    chains: &[Chain],
    maps: &[Map],
) -> Result<(), Refusal> {
    let Some(table) = chains.first().map(|chain| chain.table) else { return Ok(()) };
    let mut transaction = Transaction::default();
    for chain in chains {
        transaction.push(flush(family, chain));
        transaction.push(deletion_of_chain(family, chain));
    }
    for map in maps {
        let attributes =
            vec![SetAttribute::Table(map.table.to_owned()), SetAttribute::Name(map.name.to_owned())];
        let body = NfTablesMessage::DeleteSet(SetMessage { attributes });
        // Without the flag the kernel would delete its elements, too.
        let flags = SET | NLM_F_NONREC;
        transaction.push(message(family, format!("delete nf_tables map {}", map.name), flags, body));
    }
    let body = TableMessage { attributes: vec![TableAttribute::Name(table.to_owned())] };
    let body = NfTablesMessage::DeleteTable(body);
    let flags = SET | NLM_F_NONREC;
    transaction.push(message(family, format!("delete nf_tables table {table}"), flags, body));
    transaction.commit(socket)
}

fn deletion_of_chain(family: Family, chain: &Chain) -> Message<NetfilterMessage> {
    let attributes =
        vec![ChainAttribute::Table(chain.table.to_owned()), ChainAttribute::Name(chain.name.to_owned())];
    let body = NfTablesMessage::DeleteChain(ChainMessage { attributes });
    message(family, format!("delete nf_tables chain {}", chain.name), SET, body)
}

/// Whether this kernel, and this namespace, has nf_tables. Changes nothing.
///
/// # Errors
/// The refusal that says that it has not.
pub fn available() -> Result<(), Refusal> {
    let mut socket = Socket::netfilter()?;
    let attributes = vec![TableAttribute::Name("cni".to_owned())];
    let body = NfTablesMessage::GetTable(TableMessage { attributes });
    let body = NetfilterMessage::new(Family::V4.header(), body);
    let doing = "ask for nf_tables".to_owned();
    match socket.get(Message { doing, flags: NLM_F_REQUEST, body }) {
        Err(refusal) if refusal.errno != Errno::ENOENT => Err(refusal),
        _ => Ok(()),
    }
}
