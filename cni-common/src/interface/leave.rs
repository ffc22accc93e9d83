//! DEL inside a container whose namespace may be somebody else's by now: a process's ID, or a path, that was used again.

use crate::kernel::absent_ok;
use crate::kernel::netlink::{Link, Socket, link};
use crate::owner::is_tag;
use crate::plugin::Target;
use crate::spec::{Attachment, MacAddr, Result, Success};
use crate::undo::Undo;

/// Deletes the interface inside the container, which is of this `kind`, unless something says that it is another
/// attachment's.
///
/// # Errors
/// Code 5: what the kernel says. That there is no namespace, or no such interface, is no error.
pub fn delete_inside(target: &Target, prev: &Success, kind: &str) -> Result<()> {
    let Some(netns) = target.living_netns() else { return Ok(()) };
    let mut inside = netns.run(|| Ok(Socket::route()?))?;
    let Some(found) = link::find(&mut inside, &target.attachment.ifname)? else { return Ok(()) };
    let others = if found.kind.as_deref() == Some(kind) {
        marked_by_others(&found, &target.attachment).or_else(|| other_address(&found, target, prev))
    } else {
        Some(format!("it is {}, and no {kind}", found.kind_name()))
    };
    match others {
        None => Ok(absent_ok(inside.ack(link::delete(found.index)))?),
        Some(why) => {
            stays(&found, target, &why);
            Ok(())
        }
    }
}

/// Before an interface is made inside the container: the way back, which knows it by its Ethernet address.
///
/// # Errors
/// Code 4 when the namespace has gone.
pub fn undo_inside(undo: &mut Undo, target: &Target, mac: MacAddr) -> Result<()> {
    let (netns, ifname) = (target.open_netns()?, target.attachment.ifname.clone());
    undo.push(format!("{ifname} in the container"), move || {
        let mut inside = netns.run(|| Ok(Socket::route()?))?;
        match link::find(&mut inside, &ifname)?.filter(|link| link.mac == Some(mac)) {
            Some(own) => Ok(absent_ok(inside.ack(link::delete(own.index)))?),
            None => Ok(()),
        }
    });
    Ok(())
}

/// Logs that an interface stays, and why.
pub fn stays(found: &Link, target: &Target, why: &str) {
    crate::log!("DEL of {}: {} in {} stays: {why}", target.attachment, found.name, target.sandbox());
}

/// Whose a link says to be, if that is somebody else.
#[must_use]
pub fn marked_by_others(link: &Link, attachment: &Attachment) -> Option<String> {
    let other = link.alias.as_deref().filter(|alias| is_tag(alias) && *alias != attachment.tag())?;
    Some(format!("it is {other}'s"))
}

/// That an interface has another address than the result gives it. Another release of a plugin may have marked
/// nothing; but what it answered is known, mostly.
#[must_use]
pub fn other_address(found: &Link, target: &Target, prev: &Success) -> Option<String> {
    let ifname = target.attachment.ifname.as_str();
    let mut given = prev.interfaces.iter().filter(|one| one.name == ifname && !one.sandbox.is_empty());
    let mac = found.mac.map(|mac| mac.to_string()).unwrap_or_default();
    let differs = given.find(|one| !one.mac.is_empty() && !one.mac.eq_ignore_ascii_case(&mac))?;
    Some(format!("its address is {mac}, and ADD's was {}", differs.mac))
}
