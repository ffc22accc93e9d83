//! Doing it: the bridge, the veth pair, the inside of the container. Each step that changes something pushes its way
//! back.

use crate::conf::{Conf, Reflect};
use crate::plan::readdress;
use crate::vlan::{self, GatewayConf, VlanConf};
use anyhow::{Context, anyhow};
use cni_common::disk::{FileLock, Patience};
use cni_common::interface::site::{PATIENCE, Site};
use cni_common::kernel::netlink::addr::Dad;
use cni_common::kernel::netlink::event::{self, Group};
use cni_common::kernel::netlink::link::{NewBridge, PortFlags, VethPair, high_mac, random_mac};
use cni_common::kernel::netlink::{Link, Socket, addr, all_ok, link};
use cni_common::kernel::netns::Netns;
use cni_common::kernel::sysctl::{self};
use cni_common::kernel::{Refusal, absent_ok, forwarding};
use cni_common::spec::{Attachment, Code, Coded, Error, IfName, MacAddr, Result};
use ipnet::IpNet;
use nix::errno::Errno;
use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What this ADD changed about the bridge, for its undo.
#[allow(clippy::struct_excessive_bools, reason = "each is undone by itself")]
#[derive(Debug, Default)]
struct BridgeChanges {
    /// The Ethernet address that the bridge was made with, by which it is known to be ours.
    made: Option<MacAddr>,
    set_up: bool,
    promisc: bool,
    filtering: bool,
    gateway_made: bool,
    /// On the bridge, or on the VLAN's gateway.
    addresses: Vec<IpNet>,
}

impl BridgeChanges {
    fn any(&self) -> bool {
        let links = self.made.is_some() || self.set_up || self.promisc || self.filtering || self.gateway_made;
        links || !self.addresses.is_empty()
    }
}

/// Where the lock is: one a network namespace, whose bridges are its own.
const LOCKS: &str = "/run/cni";

/// What every ADD shares while it works, and an undo has alone: whoever has looked at a bridge must find it
/// the same when its port is on it.
pub struct BridgeLock(PathBuf);

impl BridgeLock {
    /// Of the namespace in which bridges are made.
    ///
    /// # Errors
    /// Code 5: what the kernel says.
    pub fn of(netns: &Netns) -> Result<Self> {
        let inode = netns.own_inode().io("look at the plugin's own network namespace")?;
        Ok(Self(Path::new(LOCKS).join(format!("bridge.{inode}.lock"))))
    }

    /// Held by every ADD until all is done: where somebody else holds it, no undo touches the bridge. `None`
    /// where no such file can be (`/run` may be read-only): then no undo touches the bridge either.
    ///
    /// # Errors
    /// Code 11 when an undo does not come to its end, or a signal comes.
    pub fn share(&self) -> Result<Option<FileLock>> {
        let patience = Patience { give_up_after: Duration::from_secs(20), ..Patience::default() };
        let doing = format!("lock {}", self.0.display());
        let say = |text: &str| cni_common::log!("{doing}: {text}");
        match self.in_folder(|path| FileLock::shared(path, patience, say)) {
            Ok(lock) => Ok(Some(lock)),
            Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                Err(Error::new(Code::TRY_AGAIN, doing).details(error))
            }
            Err(_) => Ok(None),
        }
    }

    /// Held by an undo; `None` when somebody else is at work.
    fn try_alone(&self) -> io::Result<Option<FileLock>> {
        self.in_folder(FileLock::try_exclusive)
    }

    /// Makes the folder where it is missing.
    fn in_folder<T>(&self, take: impl FnOnce(&Path) -> io::Result<T> + Copy) -> io::Result<T> {
        match take(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o755).create(LOCKS)?;
                take(&self.0)
            }
            taken => taken,
        }
    }
}

/// The bridge, and what was changed about it.
pub struct Bridge {
    name: IfName,
    link: Link,
    changes: Arc<Mutex<BridgeChanges>>,
}

impl Bridge {
    /// Sees to it that the bridge is there and up. One that is right already is not written to.
    ///
    /// # Errors
    /// Code 7 when a link of that name is no bridge; code 5: what the kernel says.
    pub fn ensure(site: &mut Site, conf: &Conf, mtu: Option<u32>, lock: BridgeLock) -> Result<Self> {
        let (host, undo) = (&mut site.host, &mut site.undo);
        let changes = Arc::new(Mutex::new(BridgeChanges::default()));
        let (name, gateway) = (conf.bridge.clone(), conf.vlan_gateway.clone());
        let to_undo = Arc::clone(&changes);
        undo.push(format!("changes to the bridge {name}"), move || {
            undo_bridge(&lock, &name, gateway.as_ref(), &to_undo)
        });
        let (link, made) = find_or_make(host, conf, mtu, &changes)?;
        let set_up = !link.up;
        let promisc = conf.reflect == Reflect::Promisc && !link.promisc;
        note(&changes, |changes| (changes.set_up, changes.promisc) = (set_up, promisc));
        let filtering = vlan::must_switch_on(&conf.vlan, &link, || Ok(link::list(host, Some(link.index))?))?;
        note(&changes, |changes| changes.filtering = filtering);
        if made {
            sysctl::use_addresses_at_once(&conf.bridge);
            sysctl::ignore_router_advertisements(&conf.bridge);
        }
        let missing = [
            set_up.then(|| link::set_up(link.index, true)),
            promisc.then(|| link::set_promisc(link.index, true)),
            filtering.then(|| link::set_vlan_filtering(link.index, true)),
        ];
        all_ok(host.batch(missing.into_iter().flatten().collect())?)?;
        Ok(Self { name: conf.bridge.clone(), link, changes })
    }

    /// Makes the veth pair, its host end a marked port of the bridge.
    ///
    /// # Errors
    /// Code 5: what the kernel says.
    pub fn attach(self, site: &mut Site, veth: &Veth) -> Result<AttachedBridge> {
        let Site { undo, attachment, netns, host, .. } = site;
        let given_mac = veth.mac.unwrap_or_else(random_mac);
        let pair = VethPair {
            host: &veth.host,
            host_mac: high_mac(),
            bridge: self.link.index,
            container: &attachment.ifname,
            container_mac: given_mac,
            netns: netns.as_raw_fd(),
            mtu: veth.mtu,
        };
        let mark = link::mark_port(&veth.host, &attachment.tag(), veth.flags);
        // The kernel's answer may get lost. A veth of that name that another ADD made has another address.
        let (name, mac) = (veth.host.clone(), pair.host_mac);
        undo.push(format!("veth {name}"), move || delete_own(&name, mac));
        let mut answers = host.batch(vec![link::create_veth(&pair), mark])?.into_iter();
        answers.next().unwrap_or(Ok(())).map_err(|refusal| explain_port(refusal, &self.name, attachment))?;
        answers.try_for_each(|answer| answer)?;
        if let Some(vlans) = veth.vlan.of_port() {
            let port = link::find(host, &veth.host)?.map_or(0, |port| port.index);
            let leave = self.link.default_pvid.filter(|_| !veth.vlan.preserve_default);
            vlan::tag_port(host, port, &vlans, leave)?;
        }
        sysctl::ignore_router_advertisements(&veth.host);
        Ok(AttachedBridge { link: self.link, changes: self.changes, given_mac })
    }
}

/// The bridge, once our port is on it.
pub struct AttachedBridge {
    link: Link,
    changes: Arc<Mutex<BridgeChanges>>,
    /// The Ethernet address that the container's interface was made with.
    pub given_mac: MacAddr,
}

impl AttachedBridge {
    /// Gives the bridge, or the VLAN's gateway, the gateways' addresses and switches forwarding on, where either is
    /// missing. The VLAN's gateway, if there is one.
    ///
    /// # Errors
    /// Code 7 when another address is in the way; code 5: what the kernel says.
    pub fn become_gateway(&self, host: &mut Socket, conf: &Conf, gateways: &[IpNet]) -> Result<Option<Link>> {
        let vlan_gateway = match &conf.vlan_gateway {
            Some(gateway) => Some(self.vlan_gateway(host, gateway)?),
            None => None,
        };
        let carrier = vlan_gateway.as_ref().unwrap_or(&self.link);
        let have: Vec<IpNet> = addr::list(host, carrier.index)?.iter().map(|addr| addr.net).collect();
        let todo = readdress(&carrier.name, &have, gateways, conf.force_address)?;
        for net in &todo.delete {
            absent_ok(host.ack(addr::delete(carrier.index, *net)))?;
        }
        for net in &todo.add {
            // The gateway's own address must work at once: pods talk to it the next moment.
            note(&self.changes, |changes| changes.addresses.push(*net));
            match host.ack(addr::add(carrier.index, *net, Dad::Off)) {
                // Another ADD was quicker.
                Err(refusal) if refusal.errno == Errno::EEXIST => {
                    note(&self.changes, |changes| changes.addresses.retain(|made| made != net));
                }
                other => other?,
            }
        }
        enable_forwarding(gateways)?;
        Ok(vlan_gateway)
    }

    fn vlan_gateway(&self, host: &mut Socket, gateway: &GatewayConf) -> Result<Link> {
        if link::find(host, &gateway.name)?.is_none() {
            note(&self.changes, |changes| changes.gateway_made = true);
            if !vlan::make_gateway(host, &self.link, &gateway.name)? {
                note(&self.changes, |changes| changes.gateway_made = false);
            }
        }
        vlan::complete_gateway(host, &self.link, gateway)
    }

    /// Gives the bridge, which is `now` so, the Ethernet address for good that it had before our port came.
    /// One that others made may follow its ports' addresses, or have none while it has no port, and
    /// neighbours cache a gateway's address.
    ///
    /// The kernel never lets go of an address that it was given, so this comes when nothing can fail any more.
    ///
    /// # Errors
    /// Code 5: what the kernel says.
    pub fn pin_mac(&self, host: &mut Socket, now: &mut Link) -> Result<()> {
        let (made, became_gateway) = self
            .changes
            .lock()
            .map_or((false, false), |changes| (changes.made.is_some(), !changes.addresses.is_empty()));
        if made || (!became_gateway && now.mac == self.link.mac) {
            return Ok(());
        }
        let mac = [self.link.mac, now.mac].into_iter().flatten().find(|mac| *mac != MacAddr::ZERO);
        let mac = mac.unwrap_or_else(random_mac);
        host.ack(link::set_mac(self.link.index, mac))?;
        now.mac = Some(mac);
        Ok(())
    }
}

fn note(changes: &Mutex<BridgeChanges>, change: impl FnOnce(&mut BridgeChanges)) {
    if let Ok(mut changes) = changes.lock() {
        change(&mut changes);
    }
}

fn enable_forwarding(gateways: &[IpNet]) -> Result<()> {
    for (v4, family) in [(true, "IPv4"), (false, "IPv6")] {
        if gateways.iter().any(|net| net.addr().is_ipv4() == v4) {
            forwarding::enable(v4).io(format!("failed to enable forwarding of {family}"))?;
        }
    }
    Ok(())
}

/// The bridge, and whether it was made, which `changes` tells before the kernel has answered.
fn find_or_make(
    host: &mut Socket,
    conf: &Conf,
    mtu: Option<u32>,
    changes: &Mutex<BridgeChanges>,
) -> Result<(Link, bool)> {
    let mut made = false;
    let mut vlan_filtering = conf.vlan.asks_for_filtering();
    // The second time round it was made by us, or by an ADD that was quicker.
    for _ in 0..3 {
        if let Some(link) = link::find(host, &conf.bridge)? {
            if !link.is_bridge() {
                return Err(Error::config(format!(
                    "failed to create bridge: {:?} already exists but is not a bridge",
                    conf.bridge.as_str()
                ))
                .details(format!(
                    "it is {}; give the network another name in \"bridge\"",
                    link.kind_name()
                )));
            }
            return Ok((link, made));
        }
        let bridge = NewBridge {
            name: &conf.bridge,
            mac: random_mac(),
            mtu,
            promisc: conf.reflect == Reflect::Promisc,
            vlan_filtering,
        };
        note(changes, |changes| changes.made = Some(bridge.mac));
        match host.ack(link::create_bridge(&bridge)) {
            Err(refusal) if refusal.errno == Errno::EEXIST => note(changes, |changes| changes.made = None),
            // Whether it matters that the kernel can't is seen when the bridge is there.
            Err(refusal) if refusal.errno == Errno::EOPNOTSUPP && vlan_filtering => vlan_filtering = false,
            other => {
                other.map_err(|refusal| {
                    Error::from(refusal.of_module("bridge")).context("failed to create bridge")
                })?;
                made = true;
            }
        }
    }
    Err(Error::new(Code::TRY_AGAIN, format!("the bridge {} comes and goes", conf.bridge)))
}

/// Takes back what a failed ADD changed, unless somebody else may rely on it by now: another port on the bridge, or
/// another ADD that is about to make one.
fn undo_bridge(
    lock: &BridgeLock,
    name: &IfName,
    gateway: Option<&GatewayConf>,
    changes: &Mutex<BridgeChanges>,
) -> anyhow::Result<()> {
    let changes = changes.lock().map_err(|_| anyhow!("its changes are not known"))?;
    if !changes.any() {
        return Ok(());
    }
    let alone = lock.try_alone().context("without the lock it stays")?;
    let Some(_alone) = alone else { return Ok(()) };
    let mut host = Socket::route()?;
    let Some(bridge) = link::find(&mut host, name)? else { return Ok(()) };
    if let Some(gateway) = gateway {
        undo_gateway(&mut host, &bridge, gateway, &changes)?;
    }
    if !link::list(&mut host, Some(bridge.index))?.is_empty() {
        return Ok(());
    }
    if let Some(mac) = changes.made {
        return if bridge.mac == Some(mac) { delete_link(&mut host, bridge.index) } else { Ok(()) };
    }
    if gateway.is_none() {
        delete_addresses(&mut host, &bridge, &changes.addresses)?;
    }
    let mut back = Vec::new();
    back.extend(changes.filtering.then(|| link::set_vlan_filtering(bridge.index, false)));
    back.extend(changes.promisc.then(|| link::set_promisc(bridge.index, false)));
    back.extend(changes.set_up.then(|| link::set_up(bridge.index, false)));
    Ok(all_ok(host.batch(back)?)?)
}

/// The same for the gateway of a VLAN and the ports that are in that.
fn undo_gateway(
    host: &mut Socket,
    bridge: &Link,
    conf: &GatewayConf,
    changes: &BridgeChanges,
) -> anyhow::Result<()> {
    let Some(gateway) = link::find(host, &conf.name)? else { return Ok(()) };
    let ports = link::list(host, Some(bridge.index))?;
    let own_port = gateway.bound_to.unwrap_or_default();
    if vlan::is_used(host, &ports, own_port, conf.vid)? {
        return Ok(());
    }
    if changes.gateway_made {
        return delete_link(host, gateway.index);
    }
    delete_addresses(host, &gateway, &changes.addresses)
}

fn delete_addresses(host: &mut Socket, link: &Link, addresses: &[IpNet]) -> anyhow::Result<()> {
    for net in addresses {
        absent_ok(host.ack(addr::delete(link.index, *net)))?;
    }
    Ok(())
}

fn explain_port(refusal: Refusal, bridge: &IfName, attachment: &Attachment) -> Error {
    if refusal.errno == Errno::EEXIST {
        // Neither name was taken a moment ago.
        let msg = format!("another ADD of {attachment} is under way");
        return Error::new(Code::ALREADY_ADDED, msg).details(refusal);
    }
    let full = refusal.errno == Errno::EXFULL;
    let error = Error::from(refusal.of_module("veth")).context("failed to make veth pair");
    if full { error.context(format!("the bridge {bridge} is full")) } else { error }
}

/// Deletes the link called `name` if `mac` says that it is ours.
fn delete_own(name: &IfName, mac: MacAddr) -> anyhow::Result<()> {
    let mut host = Socket::route()?;
    match link::find(&mut host, name)?.filter(|link| link.mac == Some(mac)) {
        Some(own) => delete_link(&mut host, own.index),
        None => Ok(()),
    }
}

/// One that is gone is no error.
fn delete_link(host: &mut Socket, index: u32) -> anyhow::Result<()> {
    Ok(absent_ok(host.ack(link::delete(index)))?)
}

/// The veth pair to make.
pub struct Veth<'a> {
    /// The name of the host end.
    pub host: IfName,
    mac: Option<MacAddr>,
    /// MTU in bytes of both ends; `None` leaves it to the kernel.
    pub mtu: Option<u32>,
    flags: PortFlags,
    vlan: &'a VlanConf,
}

impl<'a> Veth<'a> {
    /// The pair for `attachment`, unless it is there already.
    ///
    /// # Errors
    /// Code 101 when it is: nothing of a living attachment is touched.
    pub fn plan(site: &mut Site, conf: &'a Conf) -> Result<Self> {
        let (host, attachment) = (&mut site.host, site.attachment);
        Ok(Self {
            host: free_name(host, attachment)?,
            mac: conf.mac,
            mtu: conf.mtu.bytes(host)?,
            flags: PortFlags { hairpin: conf.reflect == Reflect::Hairpin, isolated: conf.port_isolation },
            vlan: &conf.vlan,
        })
    }
}

fn free_name(host: &mut Socket, attachment: &Attachment) -> Result<IfName> {
    let tag = attachment.tag();
    for name in attachment.host_veths() {
        match link::find(host, &name)? {
            None => return Ok(name),
            Some(link) if link.alias.as_ref() == Some(&tag) => {
                if goes_away(host, &name)? {
                    return Ok(name);
                }
                return Err(Error::new(
                    Code::ALREADY_ADDED,
                    format!("{attachment} already has the host veth {name}"),
                )
                .details("DEL the attachment before it is added again"));
            }
            Some(_) => {}
        }
    }
    Err(Error::new(Code::IO, format!("all names for the host veth of {attachment} are taken by other links")))
}

/// Whether a host veth of the attachment goes by itself: its container, which was another one, has died a
/// moment ago, and the kernel takes the namespace down a while later.
fn goes_away(host: &mut Socket, name: &IfName) -> Result<bool> {
    const A_WHILE: Duration = Duration::from_secs(3);
    let mut events = Socket::route()?;
    let gone = event::wait(&mut events, Group::Link, A_WHILE, || {
        Ok(link::find(host, name)?.is_none().then_some(()))
    });
    match gone {
        Err(refusal) if refusal.errno == Errno::ETIMEDOUT => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

/// Waits until the bridge port is up, and says how it and the bridge are then: a bridge's address may change while
/// ports come and go.
///
/// # Errors
/// Code 5 when the port does not come up in time, or either was deleted meanwhile.
pub fn await_port(host: &mut Socket, port: &IfName, bridge: &IfName) -> Result<(Link, Link)> {
    // It mostly is up by now.
    if let Some(links) = look_at_both(host, port, bridge)? {
        return Ok(links);
    }
    let mut events = Socket::route()?;
    let up = event::wait(&mut events, Group::Link, PATIENCE, || look_at_both(host, port, bridge));
    up.map_err(|refusal| Error::from(refusal).context(format!("bridge port {port} does not come up")))
}

fn look_at_both(host: &mut Socket, port: &IfName, bridge: &IfName) -> Result<Option<(Link, Link)>, Refusal> {
    let links = look(host, port, bridge)?;
    Ok(links.0.running.then_some(links))
}

/// The bridge port and the bridge as they are now.
///
/// # Errors
/// `ENODEV` when either is gone.
pub fn look(host: &mut Socket, port: &IfName, bridge: &IfName) -> Result<(Link, Link), Refusal> {
    let mut found = link::find_all(host, &[port, bridge])?.into_iter();
    match (found.next().flatten(), found.next().flatten()) {
        (Some(port), Some(bridge)) => Ok((port, bridge)),
        _ => Err(Refusal::new(format!("{port} or {bridge} was deleted meanwhile"), Errno::ENODEV)),
    }
}
