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
pub mod masq;
pub mod plan;
pub mod spoof;
pub mod vlan;

use apply::{Bridge as HostBridge, BridgeLock, Inside, Veth, await_addresses, await_port};
use check::Check;
use cni_common::invoke::{Ipam, refuse_as_ipam};
use cni_common::kernel::netlink::{Link, Socket, addr, link};
use cni_common::kernel::{absent_ok, nft};
use cni_common::plugin::{Added, Command, Plugin, Request, Target};
use cni_common::spec::name::is_tag;
use cni_common::spec::{Attachment, Code, Error, IfName, Interface, MacAddr, Result, Success};
use cni_common::undo::Undo;
use conf::{CleanupConf, Conf, Layer};
use plan::L3;
use std::cell::LazyCell;
use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

/// How long a port may take to come up, an address to be used, and duplicate address detection to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The plugin.
pub struct Bridge;

impl Plugin for Bridge {
    fn name(&self) -> &'static str {
        "bridge"
    }

    fn add(&self, request: &Request, target: &Target) -> Result<Added> {
        refuse_as_ipam(self.name())?;
        let conf = Conf::read(request)?;
        let attachment = &target.attachment;
        refuse_reserved(&attachment.ifname)?;
        // Before the lock, so that on failure it runs when that is free.
        let mut undo = Undo::default();
        let netns = target.open_netns()?;
        let lock = BridgeLock::of(&netns)?;
        let _shared = lock.share()?;
        let mut host = Socket::route()?;
        let mut socket = netns.run(|| Ok(Socket::route()?))?;
        let veth = Veth::plan(&mut host, &mut socket, &conf, attachment)?;
        let mut inside = Inside { netns: &netns, socket, ifname: &attachment.ifname };

        let pending = match &conf.layer {
            Layer::L3 { ipam } => Some(Ipam::find(request, ipam)?.start_add()?),
            Layer::L2 { .. } => None,
        };
        let bridge = HostBridge::ensure(&mut host, &conf, veth.mtu, lock, &mut undo)?;
        let bridge = bridge.attach(&mut host, &veth, &netns, &mut undo)?;
        let container = inside.look()?;
        if conf.mac_spoof_check {
            guard_mac(attachment, &veth.host, bridge.given_mac, &container, &mut undo)?;
        }

        let ipam = pending.map(|pending| pending.wait(&mut undo)).transpose()?;
        let l3 = ipam.as_ref().map(|ipam| plan::l3(&conf, ipam)).unwrap_or_default();
        match conf.layer {
            Layer::L3 { .. } => inside.configure(container.index, &l3, conf.dad)?,
            Layer::L2 { up: true } => inside.set_up(container.index)?,
            Layer::L2 { up: false } => {}
        }
        let gateway =
            if l3.gateways.is_empty() { None } else { bridge.become_gateway(&mut host, &conf, &l3)? };
        if conf.ip_masq && !l3.ips.is_empty() {
            masq::add(conf.ip_masq_backend, attachment, &l3.nets(), &mut undo)?;
        }
        let (port, mut bridge_link) = match conf.layer {
            // The other end stays down, and so does this one.
            Layer::L2 { up: false } => apply::look(&mut host, &veth.host, &conf.bridge)?,
            _ => await_port(&mut host, &veth.host, &conf.bridge)?,
        };
        await_addresses(&mut host, &l3.gateways, || Ok(Socket::route()?))?;
        await_addresses(&mut inside.socket, &l3.nets(), || netns.run(|| Ok(Socket::route()?)))?;
        if !l3.gateways.is_empty() && gateway.is_none() {
            bridge.pin_mac(&mut host, &mut bridge_link)?;
        }
        let dns = conf.dns.or(&ipam.unwrap_or_default().dns);
        let links: Vec<Link> = [bridge_link, port, container].into_iter().chain(gateway).collect();
        Ok(Added { success: result(&links, &target.sandbox(), l3, dns), undo })
    }

    fn del(&self, request: &Request, target: &Target) -> Result<()> {
        refuse_as_ipam(self.name())?;
        let conf = CleanupConf::read(&request.conf);
        let attachment = &target.attachment;
        let mut outcome = Outcome::default();
        // A prevResult that can't be read only means that we have to look for ourselves.
        let prev = request.conf.prev_result().ok().flatten().unwrap_or_default();
        outcome.note(delete_veth(target, &prev));
        if conf.as_ref().is_ok_and(|conf| conf.ip_masq) {
            // Before the address is free for somebody else.
            outcome.note(end_masquerade(&prev, target));
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
        refuse_as_ipam(self.name())?;
        let conf = Conf::read(request)?;
        let netns = target.open_netns()?;
        if let Layer::L3 { ipam } = &conf.layer {
            Ipam::find(request, ipam)?.call(Command::Check)?;
        }
        let prev = request.conf.prev_result()?;
        let prev = prev.ok_or_else(|| Error::config("Required prevResult missing"))?;
        let check =
            Check { conf: &conf, attachment: &target.attachment, sandbox: &target.sandbox(), prev: &prev };
        check.run(&netns)
    }

    fn gc(&self, request: &Request, valid: &[Attachment]) -> Result<()> {
        refuse_as_ipam(self.name())?;
        let network = &request.conf.name;
        let tags: HashSet<String> = valid.iter().map(Attachment::tag).collect();
        let is_orphan = |tag: &str| network.owns_tag(tag) && !tags.contains(tag);
        let mut outcome = Outcome::default();
        outcome.note(masq::gc(network, valid));
        outcome.note(nft::unavailable_ok(spoof::gc(is_orphan)).map_err(Error::from));
        outcome.note(delete_orphans(is_orphan));
        outcome.note(CleanupConf::read(&request.conf).and_then(|conf| match conf.ipam {
            Some(name) => Ipam::find(request, &name)?.call(Command::Gc),
            None => Ok(()),
        }));
        outcome.first_error()
    }

    fn status(&self, request: &Request) -> Result<()> {
        refuse_as_ipam(self.name())?;
        let unavailable = |error: Error| Error::new(Code::NOT_AVAILABLE, error.msg()).details(error.cause());
        let conf = Conf::read(request).map_err(unavailable)?;
        check::bridge_is_free_or_ours(&conf).map_err(unavailable)?;
        if conf.ip_masq {
            conf.ip_masq_backend.available("ipMasq").map_err(unavailable)?;
        }
        if conf.mac_spoof_check {
            nft::available().map_err(|refusal| {
                let msg = "macspoofchk needs nf_tables, which this kernel lacks";
                unavailable(Error::from(refusal).context(msg))
            })?;
        }
        match &conf.layer {
            Layer::L3 { ipam } => Ipam::find(request, ipam).map_err(unavailable)?.call(Command::Status),
            Layer::L2 { .. } => Ok(()),
        }
    }
}

/// Goes on after an error and remembers the first.
#[derive(Default)]
struct Outcome(Option<Error>);

impl Outcome {
    fn note(&mut self, result: Result<()>) {
        if let Err(error) = result {
            match self.0 {
                None => self.0 = Some(error),
                // Only one error fits into the answer.
                Some(_) => cni_common::log!("bridge: {error}"),
            }
        }
    }

    fn first_error(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// To the kernel's sysctls, `all` and `default` are no interfaces.
fn refuse_reserved(ifname: &IfName) -> Result<()> {
    match ifname.as_str() {
        "all" | "default" | "lo" => {
            Err(Error::new(Code::BAD_ENVIRONMENT, format!("CNI_IFNAME {:?} is reserved", ifname.as_str()))
                .details("give the container's interface another name, such as eth0"))
        }
        _ => Ok(()),
    }
}

/// Holds the container to the address that it was given: whoever is inside already may have changed that.
fn guard_mac(
    attachment: &Attachment,
    port: &IfName,
    mac: MacAddr,
    container: &Link,
    undo: &mut Undo,
) -> Result<()> {
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
    undo.push("macspoofchk", move || Ok(nft::unavailable_ok(spoof::undo(&owner, mac))?));
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

fn end_masquerade(prev: &Success, target: &Target) -> Result<()> {
    let known: Vec<IpAddr> = prev.ips.iter().map(|ip| ip.address.addr()).collect();
    // Rarely asked for: only when iptables has rules of this container's.
    let inside = LazyCell::new(|| addresses_inside(target));
    masq::delete(&target.attachment, &known, |ip| inside.contains(ip))
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
            cni_common::log!(
                "bridge: DEL of {}: {} in {} stays: {why}",
                target.attachment,
                found.name,
                target.sandbox()
            );
            Ok(())
        }
    }
}

/// Why an interface that has the attachment's name inside the namespace is not the attachment's; `None` when
/// nothing says so. `CNI_NETNS` may be another container's by now: a process's ID, or a path, that was used
/// again.
fn others_claim(host: &mut Socket, found: &Link, target: &Target, prev: &Success) -> Result<Option<String>> {
    if !found.is_veth() {
        let kind = found.kind.as_deref().unwrap_or("no virtual link");
        return Ok(Some(format!("it is {kind}, and no veth")));
    }
    // The reference makes both ends inside, and moves one out; when it is killed between, both stay there.
    if found.is_bound_elsewhere {
        let peer = found.bound_to.map(|index| link::find_index(host, index)).transpose()?.flatten();
        let peer = peer.filter(|peer| peer.is_veth() && peer.bound_to == Some(found.index));
        let Some(peer) = peer else { return Ok(Some("its other end is not here".to_owned())) };
        let tag = target.attachment.tag();
        if let Some(other) = peer.alias.filter(|alias| is_tag(alias) && *alias != tag) {
            return Ok(Some(format!("it is {other}'s")));
        }
    }
    // Another plugin marks nothing; but what it answered is known, mostly.
    let ifname = target.attachment.ifname.as_str();
    let mut given = prev.interfaces.iter().filter(|one| one.name == ifname && !one.sandbox.is_empty());
    let mac = found.mac.map(|mac| mac.to_string()).unwrap_or_default();
    let differs = given.find(|one| !one.mac.is_empty() && !one.mac.eq_ignore_ascii_case(&mac));
    Ok(differs.map(|given| format!("its address is {mac}, and ADD's was {}", given.mac)))
}

fn delete_orphans(is_orphan: impl Fn(&str) -> bool) -> Result<()> {
    let mut host = Socket::route()?;
    let links = link::list(&mut host, None)?;
    let mut orphans = Vec::new();
    for link in links.iter().filter(|link| link.is_veth()) {
        let Some(tag) = link.alias.as_deref().filter(|tag| is_orphan(tag)) else { continue };
        cni_common::log!("bridge: GC deletes {} of {tag}", link.name);
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
