//! Who serves a port next, when the attachment that serves it goes: another one of the same container.

use super::{Own, TABLE, shared};
use cni_common::kernel::Refusal;
use cni_common::kernel::netlink::Socket;
use cni_common::kernel::nft::{
    Chain, Family, Key, Match, Rule, Transaction, Value, Verdict, chains, find_element, rules,
};
use std::collections::HashMap;

/// What the comment of a rule begins with that leads to who serves a port before us.
pub(super) const NEXT_AFTER: &str = "next after ";

/// Adds the rule by which `chain` waits for what `holder` serves.
pub(super) fn wait_for(transaction: &mut Transaction, family: Family, chain: &Chain, holder: &Own) {
    let comment = format!("{NEXT_AFTER}{}", holder.chain);
    let verdict = Verdict::Goto(holder.chain());
    // The chain's first rule returned what is not local, and the maps before took what is.
    let rule = Rule { chain: *chain, matches: &[Match::Local(false)], verdict, comment: &comment };
    transaction.rule(family, &rule);
}

/// Who gets an attachment's ports next.
pub(super) struct Heir {
    own: Own,
    tag: String,
    /// The rules that say so.
    waiting: Vec<u64>,
}

/// Who waits for what `of` serves, the longest first.
///
/// # Errors
/// The kernel's refusal.
pub(super) fn heirs(socket: &mut Socket, family: Family, of: &Own) -> Result<Vec<Heir>, Refusal> {
    let wanted = format!("{NEXT_AFTER}{}", of.chain);
    let mut found = Vec::new();
    for own in chains(socket, family, TABLE)?.iter().filter_map(|name| Own::of_chain(name)) {
        let rules = rules(socket, family, &own.chain())?;
        let waiting: Vec<u64> =
            rules.iter().filter(|(_, comment)| *comment == wanted).map(|(handle, _)| *handle).collect();
        if let (false, Some((_, tag))) = (waiting.is_empty(), rules.into_iter().next()) {
            found.push(Heir { own, tag, waiting });
        }
    }
    Ok(found)
}

/// Gives what `held` names to the first of the heirs that maps it; those after that one wait for it.
///
/// # Errors
/// The kernel's refusal.
pub(super) fn hand_over(
    socket: &mut Socket,
    family: Family,
    held: &[(Key, bool)],
    heirs: &[Heir],
    transaction: &mut Transaction,
) -> Result<(), Refusal> {
    let mut given: HashMap<&(Key, bool), &Own> = HashMap::new();
    for heir in heirs {
        let chain = heir.own.chain();
        for handle in &heir.waiting {
            transaction.delete_rule(family, &chain, *handle);
        }
        let mut ahead: Vec<&Own> = Vec::new();
        for service in held {
            let (key, by_address) = service;
            if find_element(socket, family, &heir.own.map(family, *by_address), key)?.is_none() {
                continue;
            }
            match given.get(service) {
                Some(holder) if ahead.contains(holder) => {}
                Some(holder) => {
                    wait_for(transaction, family, &chain, holder);
                    ahead.push(holder);
                }
                None => {
                    let shared = shared(family, *by_address);
                    transaction.insert_element(family, &shared, (key, Value::Goto(&chain)), &heir.tag);
                    given.insert(service, &heir.own);
                }
            }
        }
    }
    Ok(())
}
