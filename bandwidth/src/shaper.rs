//! Token buckets and the redirect, each made, found and taken away.

use cni_common::kernel::netlink::Socket;
use cni_common::kernel::netlink::tc::{self, Filter, Hook, Qdisc, Tbf};
use cni_common::kernel::refusal::{Refusal, absent_ok};
use cni_common::spec::{Code, Error, Result};
use cni_common::undo::Undo;
use nix::errno::Errno;

/// A link, as messages to the kernel and to people name it.
#[derive(Debug, Clone, Copy)]
pub struct Device<'a> {
    pub index: u32,
    pub name: &'a str,
}

fn is_taken(refusal: &Refusal) -> bool {
    refusal.errno == Errno::EEXIST
}

/// Sees to it that what `device` sends goes through the bucket `tbf`.
pub fn limit(socket: &mut Socket, device: Device, tbf: &Tbf, undo: &mut Undo) -> Result<()> {
    let index = device.index;
    match socket.ack(tc::create_tbf(index, tbf)) {
        Err(refusal) if is_taken(&refusal) => match tc::qdisc(socket, index, Hook::Root)? {
            Some(old) if old.tbf == Some(*tbf) => Ok(()),
            Some(old) if old.tbf.is_some() => Ok(socket.ack(tc::change_tbf(index, &old, tbf))?),
            Some(old) => Err(foreign(device, &old)),
            None => Err(refusal.into()),
        },
        made => {
            // A refusal too may be one to tell us that it was made.
            undo.push(format!("limit of {}", device.name), move || {
                Ok(unlimit(&mut Socket::route()?, index)?)
            });
            Ok(made.map_err(|refusal| refusal.of_module("sch_tbf"))?)
        }
    }
}

fn foreign(device: Device, qdisc: &Qdisc) -> Error {
    let name = device.name;
    Error::new(Code::IO, format!("{name} has a root qdisc of kind {} already", qdisc.kind)).details(format!(
        "bandwidth did not make it and does not replace it; `tc qdisc del dev {name} root` takes it away"
    ))
}

/// Takes a bucket away that limits what link `index` sends.
pub fn unlimit(socket: &mut Socket, index: u32) -> Result<()> {
    let root = tc::qdisc(socket, index, Hook::Root)?;
    if root.is_some_and(|qdisc| qdisc.tbf.is_some()) {
        absent_ok(socket.ack(tc::delete_qdisc(index, Hook::Root)))?;
    }
    Ok(())
}

/// Sees to it that all that `device` receives goes out by the link with index `to`.
pub fn redirect(socket: &mut Socket, device: Device, to: u32, undo: &mut Undo) -> Result<()> {
    let index = device.index;
    let made = socket.ack(tc::create_ingress(index));
    let there = match &made {
        Err(refusal) if is_taken(refusal) => tc::qdisc(socket, index, Hook::Ingress)?,
        _ => None,
    };
    if let Some(there) = &there
        && clear_the_way(socket, device, there, to)?
    {
        return Ok(());
    }
    let is_ours = there.is_none();
    undo.push(format!("redirect of {}", device.name), move || {
        Ok(unredirect(&mut Socket::route()?, index, to, is_ours)?)
    });
    if is_ours {
        made.map_err(|refusal| refusal.of_module("sch_ingress"))?;
    }
    let redirect = socket.ack(tc::redirect(index, there.as_ref(), to));
    Ok(redirect.map_err(|refusal| refusal.of_module("-a cls_u32 act_mirred"))?)
}

/// Deletes redirects to a link that is gone. Whether there is one to `to` already.
fn clear_the_way(socket: &mut Socket, device: Device, ingress: &Qdisc, to: u32) -> Result<bool> {
    let filters = tc::filters(socket, device.index, ingress)?;
    let targets: Vec<u32> = filters.iter().filter_map(|filter| filter.redirects_to).collect();
    if let Some(other) = targets.iter().find(|target| ![0, to].contains(target)) {
        let name = device.name;
        return Err(Error::new(Code::IO, format!("what {name} receives is redirected already"))
            .details(format!("it goes to link {other}; `tc filter show dev {name} ingress` shows by what")));
    }
    delete_redirects(socket, &filters, 0)?;
    Ok(targets.contains(&to))
}

fn delete_redirects(socket: &mut Socket, filters: &[Filter], to: u32) -> Result<()> {
    for filter in filters.iter().filter(|filter| filter.redirects_to == Some(to)) {
        absent_ok(socket.ack(tc::delete_filter(filter)))?;
    }
    Ok(())
}

/// Lets what link `index` receives no longer go out by link `to`; with `hook`, takes the ingress qdisc away too,
/// unless others have filters there.
pub fn unredirect(socket: &mut Socket, index: u32, to: u32, hook: bool) -> Result<()> {
    let Some(ingress) = tc::qdisc(socket, index, Hook::Ingress)? else { return Ok(()) };
    let filters = tc::filters(socket, index, &ingress)?;
    delete_redirects(socket, &filters, to)?;
    if hook && ingress.kind == "ingress" && tc::filters(socket, index, &ingress)?.is_empty() {
        absent_ok(socket.ack(tc::delete_qdisc(index, Hook::Ingress)))?;
    }
    Ok(())
}

/// How the bucket of `device` differs from `tbf`: what, expected, found.
pub fn bucket_differs(socket: &mut Socket, device: Device, tbf: &Tbf) -> Result<Option<Difference>> {
    let root = tc::qdisc(socket, device.index, Hook::Root)?;
    let difference = |what: &str, expected: String, found: String| {
        Ok(Some(Difference { what: format!("{what} of {}", device.name), expected, found }))
    };
    let Some(found) = root.as_ref().and_then(|qdisc| qdisc.tbf) else {
        let kind = root.map_or_else(|| "none".to_owned(), |qdisc| qdisc.kind);
        return difference("root qdisc", "tbf".to_owned(), kind);
    };
    let pairs = [
        ("rate in bytes a second", tbf.rate, found.rate),
        ("limit in bytes", tbf.limit.into(), found.limit.into()),
        ("burst in ticks of 64 ns", tbf.buffer.into(), found.buffer.into()),
    ];
    match pairs.into_iter().find(|(_, expected, found)| expected != found) {
        Some((what, expected, found)) => difference(what, expected.to_string(), found.to_string()),
        None => Ok(None),
    }
}

/// Something that is not as ADD left it.
#[derive(Debug)]
pub struct Difference {
    pub what: String,
    pub expected: String,
    pub found: String,
}

/// Whether all that `device` receives goes out by the link with index `to`.
pub fn is_redirected(socket: &mut Socket, device: Device, to: u32) -> Result<bool> {
    let Some(ingress) = tc::qdisc(socket, device.index, Hook::Ingress)? else { return Ok(false) };
    let filters = tc::filters(socket, device.index, &ingress)?;
    Ok(filters.iter().find_map(|filter| filter.redirects_to) == Some(to))
}
