//! The `dummy` plugin: an interface that leads nowhere, with addresses from an IPAM plugin, inside a container.
//!
//! The link is made in the container's namespace under its final name, while the IPAM plugin is at work. Its alias says
//! whose it is.

use cni_common::interface::check::Told;
use cni_common::interface::conf::{Mtu, ipam, mac};
use cni_common::interface::l3::L3;
use cni_common::interface::leave::{delete_inside, undo_inside};
use cni_common::interface::site::Site;
use cni_common::invoke::Ipam;
use cni_common::kernel::netlink::Socket;
use cni_common::kernel::netlink::addr::Dad;
use cni_common::kernel::netlink::link::{self, NewDummy, PortFlags, random_mac};
use cni_common::owner::Living;
use cni_common::plugin::{Added, Outcome, Plugin, Request, Target};
use cni_common::spec::conf::DnsConf;
use cni_common::spec::{Command, Error, Interface, MacAddr, Result, Success};

/// The driver's name.
const KIND: &str = "dummy";

/// The plugin.
pub struct Dummy;

impl Plugin for Dummy {
    fn name(&self) -> &'static str {
        "dummy"
    }

    fn add(&self, request: &Request, target: &Target) -> Result<Added> {
        let ipam = required_ipam(request)?;
        let (mtu, mac) = (Mtu::read(&request.conf)?, mac(request)?.unwrap_or_else(random_mac));
        let dns = DnsConf::read(&request.conf)?;
        let mut site = Site::enter(target)?;
        let mtu = mtu.bytes(&mut site.host)?;
        let pending = Ipam::find(request, &ipam)?.start_add()?;
        make(&mut site, target, mac, mtu)?;
        let link = site.look()?;
        let ipam = pending.wait(&mut site.undo)?;
        let l3 = L3::of(&ipam, 0);
        site.configure(link.index, &l3, Dad::Off)?;
        site.await_addresses(&l3)?;
        let interface = Interface::ethernet(link.name, mac, link.mtu, target.sandbox());
        let success =
            Success { interfaces: vec![interface], ips: l3.ips, routes: l3.routes, dns: dns.or(&ipam.dns) };
        Ok(Added { success, undo: site.undo })
    }

    fn del(&self, request: &Request, target: &Target) -> Result<()> {
        let mut outcome = Outcome::default();
        let prev = request.conf.prev_result().ok().flatten().unwrap_or_default();
        outcome.note(delete_inside(target, &prev, KIND));
        outcome.note(call_ipam(request, Command::Del));
        outcome.first_error()
    }

    fn check(&self, request: &Request, target: &Target) -> Result<()> {
        let ipam = required_ipam(request)?;
        let netns = target.open_netns()?;
        Ipam::find(request, &ipam)?.call(Command::Check)?;
        let prev = request.conf.required_prev_result()?;
        let told = Told { attachment: &target.attachment, sandbox: &target.sandbox(), prev: &prev };
        let mut inside = netns.run(|| Ok(Socket::route()?))?;
        let link = told.container(&mut inside, KIND)?;
        told.is_up(&link)?;
        told.addresses(&mut inside, &link)?;
        told.routes(&mut inside, &link)
    }

    /// The link lies in the container's namespace and goes with it.
    fn gc(&self, request: &Request, _living: &Living) -> Result<()> {
        call_ipam(request, Command::Gc)
    }

    fn status(&self, request: &Request) -> Result<()> {
        Mtu::read(&request.conf)?;
        Ipam::find(request, &required_ipam(request)?)?.call(Command::Status)
    }
}

fn required_ipam(request: &Request) -> Result<String> {
    ipam(&request.conf)?.ok_or_else(|| {
        Error::config("dummy interface requires an IPAM configuration").details(
            "ipam.type is empty; name a plugin that hands out addresses, such as host-local or static",
        )
    })
}

fn call_ipam(request: &Request, command: Command) -> Result<()> {
    match ipam(&request.conf)? {
        Some(name) => Ipam::find(request, &name)?.call(command),
        None => Ok(()),
    }
}

/// Makes the link inside the container, marked as the attachment's.
fn make(site: &mut Site, target: &Target, mac: MacAddr, mtu: Option<u32>) -> Result<()> {
    let ifname = &site.attachment.ifname;
    undo_inside(&mut site.undo, target, mac)?;
    let new = NewDummy { name: ifname, mac, mtu };
    let mark = link::mark_port(ifname, &site.attachment.tag(), PortFlags::default());
    let mut answers = site.inside.batch(vec![link::create_dummy(&new), mark])?.into_iter();
    let made = answers.next().unwrap_or(Ok(()));
    made.map_err(|refusal| Error::from(refusal.of_module(KIND)).context("failed to create dummy"))?;
    Ok(answers.try_for_each(|answer| answer)?)
}
