//! Masquerading: what containers send out of their subnet gets the host's address. By nf_tables ([`nftables`]), or by
//! iptables ([`iptables`]) where the config or the kernel wants it so. What is deleted and checked is whatever is
//! there: either back end's, ours or the reference plugin's.

mod iptables;
mod nftables;
mod reference;

use crate::kernel::{Backend, nft};
use crate::owner::Living;
use crate::plugin::Outcome;
use crate::spec::{Attachment, Error, Result};
use crate::undo::Undo;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Groups are no hosts: what is sent to them keeps its source.
fn multicast(family_of: IpAddr) -> IpNet {
    match family_of {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4)),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8)),
    }
}

/// Masquerades what the container sends out of the subnets of its addresses `nets`.
///
/// # Errors
/// Code 5: what the kernel or iptables say.
pub fn add(backend: Backend, attachment: &Attachment, nets: &[IpNet], undo: &mut Undo) -> Result<()> {
    let owner = attachment.clone();
    let mine: Vec<IpAddr> = nets.iter().map(IpNet::addr).collect();
    let by_nftables = (backend != Backend::Iptables).then(|| {
        // Before it is done: when the kernel's answer gets lost, nobody knows whether it was.
        let (owner, known) = (owner.clone(), mine.clone());
        undo.push("masquerading", move || Ok(nft::unavailable_ok(nftables::delete(&owner, &known))?));
        nftables::add(attachment, nets)
    });
    match by_nftables {
        Some(Ok(())) => {}
        // Only after it failed: on most machines the question would be in vain.
        Some(Err(refusal)) if backend == Backend::Nftables || nft::available().is_ok() => {
            return Err(Error::from(refusal).context("failed to set up ipMasq"));
        }
        without => {
            // Before it is done: one family's rules may be there when the other's fail.
            undo.push("masquerading", move || Ok(iptables::delete(&owner, |ip| !mine.contains(ip))?));
            iptables::add(attachment, nets).map_err(|error| match without {
                Some(Err(refusal)) => {
                    let nft = Error::from(refusal).cause();
                    error.context(format!("failed to set up ipMasq, by nf_tables ({nft}) and by iptables"))
                }
                _ => error.context("failed to set up ipMasq"),
            })?;
        }
    }
    Ok(())
}

/// Ends it in nf_tables, whatever began it. `known` are the addresses that the attachment is said to have had. The
/// kernel takes its time for what is deleted here, so this comes before other waits.
///
/// # Errors
/// Any refusal but that there is nothing to delete.
pub fn delete_elements(attachment: &Attachment, known: &[IpAddr]) -> Result<()> {
    let deleted = nftables::delete(attachment, known).and_then(|()| reference::delete(attachment));
    Ok(nft::unavailable_ok(deleted)?)
}

/// Ends it in iptables, whatever began it, once the attachment's interface is gone: `stays` knows the addresses that
/// the container has by then, which are those of its other interfaces.
///
/// # Errors
/// Code 5: what iptables says.
pub fn delete_rules(attachment: &Attachment, stays: impl Fn(&IpAddr) -> bool) -> Result<()> {
    iptables::delete(attachment, stays)
}

/// The first of the addresses that is not masqueraded, and what is there instead.
///
/// # Errors
/// What the kernel or iptables say.
pub fn missing(attachment: &Attachment, nets: &[IpNet]) -> Result<Option<(IpAddr, String)>> {
    for net in nets {
        let instead = nftables::missing(attachment, net).unwrap_or_else(|refusal| Some(refusal.to_string()));
        let Some(instead) = instead else { continue };
        if reference::masquerades(attachment).unwrap_or(false) {
            continue;
        }
        if let Some(lacks) = iptables::missing(attachment, net)? {
            return Ok(Some((net.addr(), format!("{instead}, and {lacks}"))));
        }
    }
    Ok(None)
}

/// Ends the masquerading of whatever belongs to `network` and to none of the attachments `valid`.
///
/// # Errors
/// Any but that there is nothing to delete.
pub fn gc(living: &Living) -> Result<()> {
    let Living { network, attachments, .. } = *living;
    let by_nftables = nftables::gc(network, |tag| living.is_orphan(tag));
    let by_nftables = by_nftables.and_then(|()| reference::gc(network, attachments));
    let valid = attachments.iter().map(|attachment| attachment.container_id.as_str()).collect();
    let mut outcome = Outcome::default();
    outcome.note(nft::unavailable_ok(by_nftables).map_err(Error::from));
    outcome.note(iptables::gc(network, &valid));
    outcome.first_error()
}
