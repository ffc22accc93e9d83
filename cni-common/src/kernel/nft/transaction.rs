//! Changes that the kernel makes all together or not at all.

use super::comment::comment;
use super::elements::{Key, Value, of_element};
use super::object::{
    Chain, Family, Rule, SET, Set, delete_set, flush, message, new_chain, new_rule, new_set, new_table,
};
use crate::kernel::netlink::socket::{position, verdict};
use crate::kernel::netlink::{Message, Socket};
use crate::kernel::refusal::Refusal;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_NONREC, NLM_F_REQUEST, NetlinkPayload};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute,
    SetElementAttribute, SetMessage, TableAttribute, TableMessage, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};

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

    /// Adds an element of `tag`'s that must not be there yet (`EEXIST`).
    pub fn insert_element(&mut self, family: Family, set: &Set, (key, value): (&Key, Value), tag: &str) {
        let data = match value {
            Value::None => None,
            Value::Goto(chain) => Some(DataAttribute::Verdict(vec![
                VerdictAttribute::Code(Verdict::Goto),
                VerdictAttribute::Chain(chain.name.to_owned()),
            ])),
            Value::Data(Key(bytes)) => Some(DataAttribute::Value(bytes.clone())),
        };
        let comment = SetElementAttribute::UserData(comment(tag));
        let rest = data.map(SetElementAttribute::Data).into_iter().chain([comment]).collect();
        self.push(message(
            family,
            format!("add an element of {tag} to nf_tables set {} {}", set.table, set.name),
            SET | NLM_F_CREATE | NLM_F_EXCL,
            NfTablesMessage::NewSetElement(of_element(set, key, rest)),
        ));
    }

    /// Deletes an element, which must be there (`ENOENT`).
    pub fn delete_element(&mut self, family: Family, set: &Set, key: &Key) {
        self.push(message(
            family,
            format!("delete an element of nf_tables set {} {}", set.table, set.name),
            SET,
            NfTablesMessage::DeleteSetElement(of_element(set, key, vec![])),
        ));
    }

    fn push(&mut self, change: Message<NetfilterMessage>) {
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
