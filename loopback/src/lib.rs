//! The `loopback` plugin: brings `lo` up inside a container.
//!
//! DEL takes `lo` down only if it was us who brought it up, which `lo`'s alias remembers; another plugin or the
//! runtime may need it otherwise.

use cni_common::kernel::netlink::{Link, Socket, addr, link};
use cni_common::owner::Living;
use cni_common::plugin::{Added, Plugin, Request, Target};
use cni_common::spec::{Code, Error, IfName, Interface, IpConfig, Result, Success};
use cni_common::undo::Undo;

/// The plugin.
pub struct Loopback;

impl Plugin for Loopback {
    fn name(&self) -> &'static str {
        "loopback"
    }

    fn add(&self, request: &Request, target: &Target) -> Result<Added> {
        let prev = request.conf.prev_result()?;
        let (mut socket, lo) = enter(target)?;
        refuse_other_addresses(&mut socket, &lo)?;
        let mut undo = Undo::default();
        if !lo.up {
            let steps =
                vec![link::set_up(lo.index, true), link::set_alias(lo.index, &target.attachment.tag())];
            let mut answers = socket.batch(steps)?.into_iter();
            answers.next().unwrap_or(Ok(()))?;
            let (netns, index) = (target.open_netns()?, lo.index);
            undo.push("lo up", move || Ok(take_down(&mut netns.run(open_socket)?, index)?));
            answers.try_for_each(|answer| answer)?;
        }
        Ok(Added { success: prev.map_or_else(|| describe(&mut socket, &lo, target), Ok)?, undo })
    }

    fn del(&self, _request: &Request, target: &Target) -> Result<()> {
        let Some(netns) = target.living_netns() else { return Ok(()) };
        let mut socket = netns.run(open_socket)?;
        let Some(lo) = link::find(&mut socket, &IfName::lo())? else { return Ok(()) };
        if lo.alias.as_deref() == Some(target.attachment.tag().as_str()) {
            take_down(&mut socket, lo.index)?;
        }
        Ok(())
    }

    fn check(&self, request: &Request, target: &Target) -> Result<()> {
        // It has nothing to tell us, but has to be one.
        request.conf.prev_result()?;
        let (_, lo) = enter(target)?;
        if lo.up {
            return Ok(());
        }
        Err(Error::new(Code::NOT_AS_ADDED, "loopback interface is down")
            .details(format!("expected: lo up in {}, found: down", target.sandbox())))
    }

    /// What it made lies in the container's namespace and goes with it.
    fn gc(&self, _request: &Request, _living: &Living) -> Result<()> {
        Ok(())
    }

    fn status(&self, _request: &Request) -> Result<()> {
        Ok(())
    }
}

fn open_socket() -> Result<Socket> {
    Ok(Socket::route()?)
}

/// Takes `lo` down again, and our mark off it.
fn take_down(socket: &mut Socket, index: u32) -> Result<()> {
    socket.ack(link::set_up(index, false))?;
    Ok(socket.ack(link::set_alias(index, ""))?)
}

/// A socket inside the container, and its `lo`. `CNI_IFNAME` is not looked at: there is only one loopback.
fn enter(target: &Target) -> Result<(Socket, Link)> {
    let mut socket = target.open_netns()?.run(open_socket)?;
    let lo = link::find(&mut socket, &IfName::lo())?;
    let lo = lo.ok_or_else(|| Error::new(Code::IO, format!("there is no lo in {}", target.sandbox())))?;
    Ok((socket, lo))
}

fn refuse_other_addresses(socket: &mut Socket, lo: &Link) -> Result<()> {
    let other = addr::list(socket, lo.index)?.into_iter().find(|addr| !addr.net.addr().is_loopback());
    other.map_or(Ok(()), |addr| {
        let ip = addr.net.addr();
        Err(Error::config(format!("loopback interface found with non-loopback address \"{ip}\"")))
    })
}

/// The result of an ADD at the head of a chain: `lo` with its first address of each family.
fn describe(socket: &mut Socket, lo: &Link, target: &Target) -> Result<Success> {
    let nets: Vec<_> = addr::list(socket, lo.index)?.into_iter().map(|addr| addr.net).collect();
    let first = |v4: bool| nets.iter().find(|net| net.addr().is_ipv4() == v4);
    let ips = [first(true), first(false)].into_iter().flatten();
    Ok(Success {
        interfaces: vec![Interface::ethernet(
            "lo",
            lo.mac.unwrap_or(cni_common::spec::MacAddr::ZERO),
            lo.mtu,
            target.sandbox(),
        )],
        ips: ips.map(|net| IpConfig { address: *net, gateway: None, interface: Some(0) }).collect(),
        ..Success::default()
    })
}
