//! What the kernel has.

use super::comment::read_comment;
use super::element_list::ElementList;
use super::elements::{Element, Key, of_element};
use super::object::{Chain, Family, Set};
use crate::kernel::netlink::{Message, Socket};
use crate::kernel::refusal::Refusal;
use netlink_packet_core::NLM_F_REQUEST;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute, SetElementList,
    SetElementMessage, SetMessage, TableAttribute, TableMessage,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};
use nix::errno::Errno;

/// The element with that key, if there is one.
///
/// # Errors
/// Any refusal but that there is no such element, set or table.
pub fn find_element(
    socket: &mut Socket,
    family: Family,
    set: &Set,
    key: &Key,
) -> Result<Option<Element>, Refusal> {
    let body = NfTablesMessage::GetSetElement(of_element(set, key, vec![]));
    let body = ElementList::Ask(NetfilterMessage::new(family.header(), body));
    let doing = format!("look into nf_tables set {} {}", set.table, set.name);
    match socket.get(Message { doing, flags: NLM_F_REQUEST, body }) {
        Ok(ElementList::Found(elements)) => Ok(elements.into_iter().next()),
        Ok(ElementList::Ask(_)) => Ok(None),
        Err(refusal) if refusal.errno == Errno::ENOENT => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// All elements of a set; none when there is no such set or table.
///
/// # Errors
/// Any other refusal.
pub fn elements(socket: &mut Socket, family: Family, set: &Set) -> Result<Vec<Element>, Refusal> {
    let attributes =
        vec![SetElementList::Table(set.table.to_owned()), SetElementList::Set(set.name.to_owned())];
    let body = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
    let doing = format!("list nf_tables set {} {}", set.table, set.name);
    let question = ElementList::Ask(NetfilterMessage::new(family.header(), body));
    let elements = |message| match message {
        ElementList::Found(elements) => elements,
        ElementList::Ask(_) => vec![],
    };
    match socket.dump(&doing, &question) {
        Ok(found) => Ok(found.into_iter().flat_map(elements).collect()),
        Err(refusal) if refusal.errno == Errno::ENOENT => Ok(vec![]),
        Err(refusal) => Err(refusal),
    }
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
