//! What the reference plugin's nf_tables back end leaves: a rule an address in one chain for all, its owner in the
//! comment. We make none; we delete them when a node has swapped plugins under running containers.

use crate::kernel::Refusal;
use crate::kernel::absent_ok;
use crate::kernel::netlink::Socket;
use crate::kernel::nft::{Chain, Family, Transaction, rules};
use crate::owner::reference_digest;
use crate::spec::{Attachment, NetworkName};

const CHAIN: Chain = Chain { table: "cni_plugins_masquerade", name: "masq_checks", hook: None };

fn network_prefix(network: &NetworkName) -> String {
    format!("{}-", reference_digest(&[network.as_str()], 16))
}

/// With what a comment of this attachment's begins.
fn prefix(attachment: &Attachment) -> String {
    let owner = format!("{}:{}", attachment.ifname, attachment.container_id);
    format!("{}{}", network_prefix(&attachment.network), reference_digest(&[&owner], 16))
}

fn delete_rules(is_gone: impl Fn(&str) -> bool) -> Result<(), Refusal> {
    let mut socket = Socket::netfilter()?;
    let mut result = Ok(());
    let all = rules(&mut socket, Family::Inet, &CHAIN)?;
    for (handle, _) in all.iter().filter(|(_, comment)| is_gone(comment)) {
        // Each by itself: a DEL that is quicker with one must not keep the others.
        let mut transaction = Transaction::default();
        transaction.delete_rule(Family::Inet, &CHAIN, *handle);
        result = result.and(absent_ok(transaction.commit(&mut socket)));
    }
    result
}

/// Deletes this attachment's rules.
///
/// # Errors
/// Any refusal but that there is nothing to delete.
pub fn delete(attachment: &Attachment) -> Result<(), Refusal> {
    let prefix = prefix(attachment);
    delete_rules(|comment| comment.starts_with(&prefix))
}

/// Whether there is a rule of this attachment's. Which of its addresses the rule is for, its comment does not tell.
///
/// # Errors
/// The kernel's refusal.
pub fn masquerades(attachment: &Attachment) -> Result<bool, Refusal> {
    let prefix = prefix(attachment);
    let found = rules(&mut Socket::netfilter()?, Family::Inet, &CHAIN)?;
    Ok(found.iter().any(|(_, comment)| comment.starts_with(&prefix)))
}

/// Deletes the rules of `network` that belong to none of the attachments `valid`.
///
/// # Errors
/// Any refusal but that there is nothing to delete.
pub fn gc(network: &NetworkName, valid: &[Attachment]) -> Result<(), Refusal> {
    let ours = network_prefix(network);
    let valid: Vec<String> = valid.iter().map(prefix).collect();
    delete_rules(|comment| {
        comment.starts_with(&ours) && !valid.iter().any(|prefix| comment.starts_with(prefix))
    })
}
