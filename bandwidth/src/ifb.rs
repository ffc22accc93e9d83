//! The IFB: what a pod sends is redirected to it, so that it can be shaped as something that a link sends.
//!
//! It stands beside the veth pair and does not go with it. Its alias says whose it is; one without an alias is the
//! reference's, or what was left when an ADD was killed, and its name says whose.

use cni_common::kernel::netlink::{Link, Socket, link};
use cni_common::kernel::refusal::absent_ok;
use cni_common::owner::Living;
use cni_common::spec::{Attachment, Code, Error, IfName, Result};
use cni_common::undo::Undo;
use nix::errno::Errno;

/// The attachment's IFBs: one, unless faults made another.
pub fn find(socket: &mut Socket, attachment: &Attachment) -> Result<Vec<Link>> {
    let found = look(socket, attachment)?;
    Ok(found.into_iter().flatten().filter(|link| is_of(link, attachment)).collect())
}

/// What is there under each of the names.
fn look(socket: &mut Socket, attachment: &Attachment) -> Result<Vec<Option<Link>>> {
    let names = attachment.ifbs();
    Ok(link::find_all(socket, &names.each_ref())?)
}

fn is_of(link: &Link, attachment: &Attachment) -> bool {
    link.is_ifb() && link.alias.as_ref().is_none_or(|alias| *alias == attachment.tag())
}

/// The attachment's IFB, up and with that MTU; made unless it is there.
pub fn ensure(socket: &mut Socket, attachment: &Attachment, mtu: u32, undo: &mut Undo) -> Result<Link> {
    for (name, there) in attachment.ifbs().iter().zip(look(socket, attachment)?) {
        match there {
            Some(link) if !is_of(&link, attachment) => continue,
            None if !create(socket, attachment, name, mtu, undo)? => continue,
            Some(_) | None => {}
        }
        socket.ack(link::claim_ifb(name, &attachment.tag(), mtu))?;
        let made = link::find(socket, name)?;
        return made
            .ok_or_else(|| Error::new(Code::TRY_AGAIN, format!("the ifb {name} was deleted meanwhile")));
    }
    let [first, second] = attachment.ifbs();
    Err(Error::new(Code::IO, format!("no name is left for the ifb of {attachment}")).details(format!(
        "the links {first} and {second} belong to others; `ip -d link` shows whose they are"
    )))
}

/// Whether it could be made: not when somebody else just took the name.
fn create(
    socket: &mut Socket,
    attachment: &Attachment,
    name: &IfName,
    mtu: u32,
    undo: &mut Undo,
) -> Result<bool> {
    let made = socket.ack(link::create_ifb(name, mtu));
    if made.as_ref().is_err_and(|refusal| refusal.errno == Errno::EEXIST) {
        return Ok(false);
    }
    // A refusal too may be one to tell us that it was made.
    let attachment = attachment.clone();
    undo.push(format!("ifb {name}"), move || Ok(delete(&mut Socket::route()?, &attachment)?));
    made.map_err(|refusal| refusal.of_module("ifb"))?;
    Ok(true)
}

/// Deletes the attachment's IFBs. What was redirected to them is dropped from now on.
pub fn delete(socket: &mut Socket, attachment: &Attachment) -> Result<()> {
    for link in find(socket, attachment)? {
        absent_ok(socket.ack(link::delete(link.index)))?;
    }
    Ok(())
}

/// Deletes the IFBs of the network that belong to none of the attachments `valid`.
pub fn gc(socket: &mut Socket, living: &Living) -> Result<()> {
    let is_orphan = |link: &Link| {
        let alias = link.alias.as_deref().unwrap_or_default();
        link.is_ifb() && living.is_orphan(alias)
    };
    let links = link::list(socket, None)?;
    let orphans: Vec<&Link> = links.iter().filter(|link| is_orphan(link)).collect();
    Ok(link::delete_many(socket, &orphans, &links)?)
}
