//! Changes that the kernel makes all together or not at all.

use super::elements::read_comment;
use super::object::{
    Chain, Family, Rule, SET, Set, delete_set, flush, message, new_chain, new_rule, new_set, new_table,
};
use crate::kernel::netlink::socket::{position, verdict};
use crate::kernel::netlink::{Message, Socket};
use crate::kernel::refusal::Refusal;
use netlink_packet_core::{NLM_F_ACK, NLM_F_NONREC, NLM_F_REQUEST, NetlinkPayload};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute, SetMessage,
    TableAttribute, TableMessage,
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

    /// Adds a rule behind those of its chain.
    pub fn rule(&mut self, family: Family, rule: &Rule) {
        self.changes.push(new_rule(family, rule));
    }

    /// Makes a set or a map, unless it is there.
    pub fn set(&mut self, family: Family, set: &Set) {
        // An ID has to be unique within the transaction.
        let id = u32::try_from(self.changes.len()).unwrap_or(u32::MAX);
        self.changes.push(new_set(family, set, id));
    }

    /// Deletes one rule of a chain.
    pub fn delete_rule(&mut self, family: Family, chain: &Chain, handle: u64) {
        let attributes = vec![
            RuleAttribute::Table(chain.table.to_owned()),
            RuleAttribute::Chain(chain.name.to_owned()),
            RuleAttribute::Handle(handle),
        ];
        let body = NfTablesMessage::DeleteRule(RuleMessage { attributes });
        self.push(message(family, format!("delete a rule of nf_tables chain {}", chain.name), SET, body));
    }

    /// Deletes a chain and its rules; `EBUSY` when verdicts still lead there.
    pub fn delete_chain(&mut self, family: Family, chain: &Chain) {
        self.push(flush(family, chain));
        self.push(deletion_of_chain(family, chain));
    }

    /// Deletes a set or a map and its elements; `EBUSY` when rules still look there.
    pub fn delete_set(&mut self, family: Family, set: &Set) {
        self.push(delete_set(family, set));
    }

    /// Deletes a set or a map; `EBUSY` when there are elements in it, or rules still look there.
    pub fn delete_empty_set(&mut self, family: Family, set: &Set) {
        let attributes =
            vec![SetAttribute::Table(set.table.to_owned()), SetAttribute::Name(set.name.to_owned())];
        let body = NfTablesMessage::DeleteSet(SetMessage { attributes });
        // Without the flag the kernel would delete its elements, too.
        let flags = SET | NLM_F_NONREC;
        self.push(message(family, format!("delete nf_tables set {}", set.name), flags, body));
    }

    /// Deletes a table with these base chains and sets; `EBUSY` when something else is in it: an element,
    /// another chain.
    pub fn delete_unused_table(&mut self, family: Family, chains: &[Chain], sets: &[Set]) {
        let Some(table) = chains.first().map(|chain| chain.table) else { return };
        for chain in chains {
            self.delete_chain(family, chain);
        }
        for set in sets {
            self.delete_empty_set(family, set);
        }
        self.delete_empty_table(family, table);
    }

    /// Deletes a table; `EBUSY` when anything is in it.
    pub fn delete_empty_table(&mut self, family: Family, table: &str) {
        let body = TableMessage { attributes: vec![TableAttribute::Name(table.to_owned())] };
        let body = NfTablesMessage::DeleteTable(body);
        let flags = SET | NLM_F_NONREC;
        self.push(message(family, format!("delete nf_tables table {table}"), flags, body));
    }

    pub(super) fn push(&mut self, change: Message<NetfilterMessage>) {
        self.changes.push(change);
    }

    /// Makes the changes.
    ///
    /// # Errors
    /// The first refusal; then nothing was changed.
    pub fn commit(mut self, socket: &mut Socket) -> Result<(), Refusal> {
        let Some(last) = self.changes.len().checked_sub(1) else { return Ok(()) };
        // The kernel answers in order, once it is done with all, and tells a refusal unasked. So the last answer is
        // enough, and a transaction of thousands of changes does not fill the socket with answers.
        for change in &mut self.changes[..last] {
            change.flags &= !NLM_F_ACK;
        }
        let names: Vec<String> = self.changes.iter().map(|change| change.doing.clone()).collect();
        let mut batch = vec![boundary(ControlMessage::BatchBegin)];
        batch.extend(self.changes);
        batch.push(boundary(ControlMessage::BatchEnd));
        let sent = socket.send(batch)?;
        let mut result = Ok(());
        loop {
            for answer in socket.receive::<NetfilterMessage>()? {
                let (Some(at), NetlinkPayload::Error(error)) =
                    (position(&sent, answer.header.sequence_number), answer.payload)
                else {
                    continue;
                };
                // The kernel answers changes; or the boundaries, when it gave up on the whole.
                let doing =
                    at.checked_sub(1).and_then(|at| names.get(at)).map_or("change nf_tables", String::as_str);
                let whole = at == 0 || at > names.len();
                let answer = verdict(doing, answer.header.flags, &error);
                if whole && answer.is_err() {
                    return answer;
                }
                result = result.and(answer);
                if at == last + 1 {
                    return result;
                }
            }
        }
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

/// The comments of a chain's rules and their handles; none when there is no such chain.
///
/// # Errors
/// The kernel's refusal.
pub fn rules(socket: &mut Socket, family: Family, chain: &Chain) -> Result<Vec<(u64, String)>, Refusal> {
    let attributes =
        vec![RuleAttribute::Table(chain.table.to_owned()), RuleAttribute::Chain(chain.name.to_owned())];
    let body = NfTablesMessage::GetRule(RuleMessage { attributes });
    let doing = format!("list the rules of nf_tables chain {}", chain.name);
    let found = match socket.dump(&doing, &NetfilterMessage::new(family.header(), body)) {
        Err(refusal) if refusal.errno == Errno::ENOENT => return Ok(vec![]),
        other => other?,
    };
    let mut rules = Vec::new();
    for message in found {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = message.inner else { continue };
        let (mut handle, mut comment) = (None, String::new());
        for attribute in rule.attributes {
            match attribute {
                RuleAttribute::Handle(number) => handle = Some(number),
                RuleAttribute::UserData(bytes) => comment = read_comment(&bytes).unwrap_or_default(),
                _ => {}
            }
        }
        rules.extend(handle.map(|handle| (handle, comment)));
    }
    Ok(rules)
}

/// Whether there is such a chain.
///
/// # Errors
/// The kernel's refusal.
pub fn has_chain(socket: &mut Socket, family: Family, chain: &Chain) -> Result<bool, Refusal> {
    let attributes =
        vec![ChainAttribute::Table(chain.table.to_owned()), ChainAttribute::Name(chain.name.to_owned())];
    let body = NetfilterMessage::new(family.header(), NfTablesMessage::GetChain(ChainMessage { attributes }));
    let doing = format!("look up nf_tables chain {}", chain.name);
    present(socket.get(Message { doing, flags: NLM_F_REQUEST, body }))
}

/// How often each of these chains is used, by its own rules and by verdicts that lead there; `None` for one
/// that is not there. Asked all at once.
///
/// # Errors
/// The kernel's refusal.
pub fn uses(socket: &mut Socket, chains: &[(Family, Chain)]) -> Result<Vec<Option<u32>>, Refusal> {
    let ask = |(family, chain): &(Family, Chain)| {
        let attributes =
            vec![ChainAttribute::Table(chain.table.to_owned()), ChainAttribute::Name(chain.name.to_owned())];
        let body = NfTablesMessage::GetChain(ChainMessage { attributes });
        let doing = format!("look up nf_tables chain {}", chain.name);
        Message { doing, flags: NLM_F_REQUEST, body: NetfilterMessage::new(family.header(), body) }
    };
    let count = |found: NetfilterMessage| match found.inner {
        NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) => {
            chain.attributes.into_iter().find_map(|attribute| match attribute {
                ChainAttribute::Use(count) => Some(count),
                _ => None,
            })
        }
        _ => None,
    };
    let answers = socket.get_all(chains.iter().map(ask).collect())?;
    answers.into_iter().map(|answer| Ok(absent(answer)?.and_then(count))).collect()
}

/// How many chains and sets a table has; `None` when it is not there.
///
/// # Errors
/// The kernel's refusal.
pub fn uses_of_table(socket: &mut Socket, family: Family, table: &str) -> Result<Option<u32>, Refusal> {
    let attributes = vec![TableAttribute::Name(table.to_owned())];
    let body = NfTablesMessage::GetTable(TableMessage { attributes });
    let body = NetfilterMessage::new(family.header(), body);
    let doing = format!("look up nf_tables table {table}");
    let found = absent(socket.get(Message { doing, flags: NLM_F_REQUEST, body }))?;
    Ok(found.and_then(|found| match found.inner {
        NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(table)) => {
            table.attributes.into_iter().find_map(|attribute| match attribute {
                TableAttribute::Use(count) => Some(count),
                _ => None,
            })
        }
        _ => None,
    }))
}

/// Deletes a chain and its rules.
///
/// # Errors
/// `EBUSY` when verdicts still lead there.
pub fn delete_chain(socket: &mut Socket, family: Family, chain: &Chain) -> Result<(), Refusal> {
    let mut transaction = Transaction::default();
    transaction.delete_chain(family, chain);
    transaction.commit(socket)
}

/// Deletes a table with these base chains and sets, if nothing else is in it: no element, no other chain. All at once,
/// so that an element which somebody adds meanwhile is safe.
///
/// # Errors
/// `EBUSY` when something else is in it, `ENOENT` when there is none.
pub fn delete_unused_table(
    socket: &mut Socket,
    family: Family,
    chains: &[Chain],
    sets: &[Set],
) -> Result<(), Refusal> {
    let mut transaction = Transaction::default();
    transaction.delete_unused_table(family, chains, sets);
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

/// Deleting where the kernel has no nf_tables is no error: nothing is in them.
///
/// # Errors
/// The refusal, where it has.
pub fn unavailable_ok(result: Result<(), Refusal>) -> Result<(), Refusal> {
    match result {
        Err(_) if available().is_err() => Ok(()),
        other => other,
    }
}

/// Whether there is such a set or map.
///
/// # Errors
/// The kernel's refusal.
pub fn has_set(socket: &mut Socket, family: Family, set: &Set) -> Result<bool, Refusal> {
    let attributes = vec![SetAttribute::Table(set.table.to_owned()), SetAttribute::Name(set.name.to_owned())];
    let body = NetfilterMessage::new(family.header(), NfTablesMessage::GetSet(SetMessage { attributes }));
    present(socket.get(Message {
        doing: format!("look up nf_tables set {}", set.name),
        flags: NLM_F_REQUEST,
        body,
    }))
}

fn present<T>(answer: Result<T, Refusal>) -> Result<bool, Refusal> {
    Ok(absent(answer)?.is_some())
}

fn absent<T>(answer: Result<T, Refusal>) -> Result<Option<T>, Refusal> {
    match answer {
        Err(refusal) if refusal.errno == Errno::ENOENT => Ok(None),
        answer => answer.map(Some),
    }
}
