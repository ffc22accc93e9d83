//! The `bridge` plugin: a veth pair between a container and a bridge of the host; with an IPAM plugin, addresses,
//! routes, a gateway and masquerading as well.
//!
//! ADD in the order that makes it quick and leaves nothing when it fails:
//!
//! 1. everything that can be refused is looked at: config, namespace, a free interface name;
//! 2. the IPAM plugin is started, and works while
//! 3. the bridge is looked up (or made) and the veth pair made, peer inside, host end on the bridge, in one message;
//! 4. IPAM's answer is read; addresses, link-up and routes go into the container in one send;
//! 5. the bridge gets the gateway's address, the host forwards, nf_tables get an element, each only where missing;
//! 6. the port and the IPv6 addresses are waited for, by event, until packets get through.
//!
//! Every step pushes its way back on the [`Undo`] stack. The host veth's name is derived from the attachment and its
//! alias says whose it is, so DEL and GC need neither the namespace nor a result.

pub mod apply;
pub mod check;
pub mod conf;
pub mod plan;
pub mod spoof;
pub mod vlan;

use apply::{Bridge as HostBridge, BridgeLock, Veth, await_port};
use check::Check;
use cni_common::interface::check::Told;
use cni_common::interface::l3::L3;
use cni_common::interface::leave::{marked_by_others, other_address, stays};
use cni_common::interface::masquerade;
use cni_common::interface::site::{Site, await_addresses};
use cni_common::invoke::Ipam;
use cni_common::kernel::netlink::{Link, Socket, addr, link};
use cni_common::kernel::{absent_ok, nft};
use cni_common::owner::Living;
use cni_common::plugin::{Added, Outcome, Plugin, Request, Target};
use cni_common::spec::{Attachment, Code, Command, Error, IfName, Interface, MacAddr, Result, Success};
use conf::{CleanupConf, Conf, Layer};
use std::cell::LazyCell;
use std::net::IpAddr;

/// The plugin.
pub struct Bridge;

impl Plugin for Bridge {
    fn name(&self) -> &'static str {
        "bridge"
    }

    fn add(&self, request: &Request, target: &Target) -> Result<Added> {
        let conf = Conf::read(request)?;
        let mut site = Site::enter(target)?;
        // After the site, so that on failure the site's undo runs when the lock is free.
        let lock = BridgeLock::of(&site.netns)?;
        let _shared = lock.share()?;
        let veth = Veth::plan(&mut site, &conf)?;

        let pending = match &conf.layer {
            Layer::L3 { ipam } => Some(Ipam::find(request, ipam)?.start_add()?),
            Layer::L2 { .. } => None,
        };
        let bridge = HostBridge::ensure(&mut site, &conf, veth.mtu, lock)?;
        let bridge = bridge.attach(&mut site, &veth)?;
        let container = site.look()?;
        if conf.mac_spoof_check {
            guard_mac(&mut site, &veth.host, bridge.given_mac, &container)?;
        }

        let ipam = pending.map(|pending| pending.wait(&mut site.undo)).transpose()?;
        let (l3, gateways) = ipam.as_ref().map(|ipam| plan::l3(&conf, ipam)).unwrap_or_default();
        match conf.layer {
            Layer::L3 { .. } => site.configure(container.index, &l3, conf.dad)?,
            Layer::L2 { up: true } => site.set_up(container.index)?,
            Layer::L2 { up: false } => {}
        }
        let gateway = if gateways.is_empty() {
            None
        } else {
            bridge.become_gateway(&mut site.host, &conf, &gateways)?
        };
        if conf.ip_masq && !l3.ips.is_empty() {
            masquerade::add(conf.ip_masq_backend, site.attachment, &l3.nets(), &mut site.undo)?;
        }
        let (port, mut bridge_link) = match conf.layer {
            // The other end stays down, and so does this one.
            Layer::L2 { up: false } => apply::look(&mut site.host, &veth.host, &conf.bridge)?,
            _ => await_port(&mut site.host, &veth.host, &conf.bridge)?,
        };
        await_addresses(&mut site.host, &gateways, || Ok(Socket::route()?))?;
        site.await_addresses(&l3)?;
        if !gateways.is_empty() && gateway.is_none() {
            bridge.pin_mac(&mut site.host, &mut bridge_link)?;
        }
        let dns = conf.dns.or(&ipam.unwrap_or_default().dns);
        let links: Vec<Link> = [bridge_link, port, container].into_iter().chain(gateway).collect();
        Ok(Added { success: result(&links, &target.sandbox(), l3, dns), undo: site.undo })
    }

    fn del(&self, request: &Request, target: &Target) -> Result<()> {
        let conf = CleanupConf::read(&request.conf);
        let attachment = &target.attachment;
        let mut outcome = Outcome::default();
        // A prevResult that can't be read only means that we have to look for ourselves.
        let prev = request.conf.prev_result().ok().flatten().unwrap_or_default();
        let masquerades = conf.as_ref().is_ok_and(|conf| conf.ip_masq);
        // All of that before the address is free for somebody else; and elements first, so that the kernel is done with
        // them when it is done with the veth.
        if masquerades {
            let known: Vec<IpAddr> = prev.ips.iter().map(|ip| ip.address.addr()).collect();
            outcome.note(masquerade::delete_elements(attachment, &known));
        }
        outcome.note(delete_veth(target, &prev));
        if masquerades {
            // Rarely asked for: only when iptables has rules of this container's.
            let inside = LazyCell::new(|| addresses_inside(target));
            outcome.note(masquerade::delete_rules(attachment, |ip| inside.contains(ip)));
        }
        if conf.as_ref().is_ok_and(|conf| conf.mac_spoof_check) {
            // After the port is gone: it must not send unguarded.
            outcome.note(end_guard(&prev, attachment));
        }
        outcome.note(conf.and_then(|conf| match conf.ipam {
            Some(name) => Ipam::find(request, &name)?.call(Command::Del),
            None => Ok(()),
        }));
        outcome.first_error()
    }

    fn check(&self, request: &Request, target: &Target) -> Result<()> {
        let conf = Conf::read(request)?;
        let netns = target.open_netns()?;
        if let Layer::L3 { ipam } = &conf.layer {
            Ipam::find(request, ipam)?.call(Command::Check)?;
        }
        let prev = request.conf.required_prev_result()?;
        let told = Told { attachment: &target.attachment, sandbox: &target.sandbox(), prev: &prev };
        Check { conf: &conf, told }.run(&netns)
    }

    fn gc(&self, request: &Request, living: &Living) -> Result<()> {
        let is_orphan = |tag: &str| living.is_orphan(tag);
        let mut outcome = Outcome::default();
        outcome.note(masquerade::gc(living));
        outcome.note(nft::unavailable_ok(spoof::gc(is_orphan)).map_err(Error::from));
        outcome.note(delete_orphans(is_orphan));
        outcome.note(CleanupConf::read(&request.conf).and_then(|conf| match conf.ipam {
            Some(name) => Ipam::find(request, &name)?.call(Command::Gc),
            None => Ok(()),
        }));
        outcome.first_error()
    }

    fn status(&self, request: &Request) -> Result<()> {
        let conf = Conf::read(request)?;
        check::bridge_is_free_or_ours(&conf)?;
        if conf.ip_masq {
            conf.ip_masq_backend.available("ipMasq")?;
        }
        if conf.mac_spoof_check {
            nft::available().map_err(|refusal| {
                let msg = "macspoofchk needs nf_tables, which this kernel lacks";
                Error::from(refusal).context(msg)
            })?;
        }
        match &conf.layer {
            Layer::L3 { ipam } => Ipam::find(request, ipam)?.call(Command::Status),
            Layer::L2 { .. } => Ok(()),
        }
    }
}

/// Holds the container to the address that it was given: whoever is inside already may have changed that.
fn guard_mac(site: &mut Site, port: &IfName, mac: MacAddr, container: &Link) -> Result<()> {
    let attachment = site.attachment;
    if container.mac != Some(mac) {
        let ifname = &attachment.ifname;
        let found = container.mac.map_or("none".to_owned(), |mac| mac.to_string());
        let msg = format!("the address of {ifname} was changed inside the container while it was attached");
        return Err(Error::new(Code::IO, msg).details(format!(
            "macspoofchk: given {mac}, found {found}; nothing in the container may touch {ifname} before ADD is done"
        )));
    }
    let owner = attachment.clone();
    // Before it is done: when the kernel's answer gets lost, nobody knows whether it was.
    site.undo.push("macspoofchk", move || Ok(nft::unavailable_ok(spoof::undo(&owner, mac))?));
    let added = spoof::add(attachment, port, mac);
    added.map_err(|refusal| Error::from(refusal).context("failed to set up macspoofchk"))
}

fn end_guard(prev: &Success, attachment: &Attachment) -> Result<()> {
    let known: Vec<MacAddr> = prev
        .interfaces
        .iter()
        .filter(|one| one.name == attachment.ifname.as_str())
        .filter_map(|one| one.mac.parse().ok())
        .collect();
    Ok(nft::unavailable_ok(spoof::delete(attachment, &known))?)
}

/// All addresses in the container, if it is there.
fn addresses_inside(target: &Target) -> Vec<IpAddr> {
    let Some(netns) = target.living_netns() else { return vec![] };
    let found = netns.run(|| Ok(addr::list_all(&mut Socket::route()?)?));
    found.unwrap_or_default().iter().map(|addr| addr.net.addr()).collect()
}

/// Deletes the attachment's veth: by the name that only it can have, else (an attachment that another release of the
/// plugin made) by the interface's name inside the container.
fn delete_veth(target: &Target, prev: &Success) -> Result<()> {
    let mut host = Socket::route()?;
    if let Some(link) = link::host_veth(&mut host, &target.attachment)? {
        return Ok(absent_ok(host.ack(link::delete(link.index)))?);
    }
    let Some(netns) = target.living_netns() else { return Ok(()) };
    let mut inside = netns.run(|| Ok(Socket::route()?))?;
    let Some(found) = link::find(&mut inside, &target.attachment.ifname)? else { return Ok(()) };
    match others_claim(&mut host, &found, target, prev)? {
        None => Ok(absent_ok(inside.ack(link::delete(found.index)))?),
        Some(why) => {
            stays(&found, target, &why);
            Ok(())
        }
    }
}

/// Why an interface that has the attachment's name inside the namespace is not the attachment's; `None` when
/// nothing says so. `CNI_NETNS` may be another container's by now: a process's ID, or a path, that was used
/// again.
fn others_claim(host: &mut Socket, found: &Link, target: &Target, prev: &Success) -> Result<Option<String>> {
    if !found.is_veth() {
        return Ok(Some(format!("it is {}, and no veth", found.kind_name())));
    }
    // The reference makes both ends inside, and moves one out; when it is killed between, both stay there.
    if found.is_bound_elsewhere {
        let Some(peer) = link::peer(host, found)? else {
            return Ok(Some("its other end is not here".to_owned()));
        };
        if let Some(why) = marked_by_others(&peer, &target.attachment) {
            return Ok(Some(why));
        }
    }
    Ok(other_address(found, target, prev))
}

fn delete_orphans(is_orphan: impl Fn(&str) -> bool) -> Result<()> {
    let mut host = Socket::route()?;
    let links = link::list(&mut host, None)?;
    let mut orphans = Vec::new();
    for link in links.iter().filter(|link| link.is_veth()) {
        let Some(tag) = link.alias.as_deref().filter(|tag| is_orphan(tag)) else { continue };
        cni_common::log!("GC deletes {} of {tag}", link.name);
        orphans.push(link);
    }
    Ok(link::delete_many(&mut host, &orphans, &links)?)
}

/// The bridge, the host veth and the container's interface, in the order that everybody expects; then a VLAN's gateway.
fn result(links: &[Link], sandbox: &str, l3: L3, dns: cni_common::spec::result::Dns) -> Success {
    let sandboxes = ["", "", sandbox, ""];
    let interfaces = links.iter().zip(sandboxes).map(|(link, sandbox)| {
        Interface::ethernet(link.name.clone(), link.mac.unwrap_or(MacAddr::ZERO), link.mtu, sandbox)
    });
    Success { interfaces: interfaces.collect(), ips: l3.ips, routes: l3.routes, dns }
}
