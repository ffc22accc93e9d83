//! The `portmap` plugin: ports of the host lead to ports of the container.
//!
//! ADD reads the container's addresses from `prevResult`, then, a family at a time: the mappings, in one transaction; the
//! switch that lets the host's loopback reach them, behind a guard; and what the kernel remembers of UDP flows to
//! these ports is forgotten. Without mappings nothing is done at all.

pub mod condition;
pub mod conf;
mod flows;
mod holder;
mod iptables;
mod nftables;

use cni_common::kernel::netlink::{Socket, addr, link, route};
use cni_common::kernel::sysctl::{self, Key};
use cni_common::kernel::{Backend, nft};
use cni_common::owner::Living;
use cni_common::plugin::{Added, Outcome, Plugin, Request, Target};
use cni_common::spec::{Attachment, Code, Coded, Error, IfName, Result, Success};
use cni_common::undo::Undo;
use conf::{Conf, Mapping, Mark, Masquerade};
use ipnet::IpNet;
use std::collections::HashSet;
use std::net::IpAddr;

/// The plugin.
pub struct Portmap;

impl Plugin for Portmap {
    fn name(&self) -> &'static str {
        "portmap"
    }

    fn add(&self, request: &Request, target: &Target) -> Result<Added> {
        let conf = Conf::read(&request.conf)?;
        let prev = request.conf.prev_result()?.ok_or_else(|| {
            Error::config("must be called as chained plugin")
                .details("portmap needs a prevResult: put it behind the plugin that makes the interface")
        })?;
        let mut undo = Undo::default();
        if !conf.mappings.is_empty() {
            Work::new(&conf, &target.attachment, &prev).add(&|| addresses_inside(target), &mut undo)?;
        }
        Ok(Added { success: prev, undo })
    }

    fn del(&self, _request: &Request, target: &Target) -> Result<()> {
        // Whatever the config says by now: what is there says what was mapped.
        delete(&target.attachment)
    }

    fn check(&self, request: &Request, target: &Target) -> Result<()> {
        let conf = Conf::read(&request.conf)?;
        let prev = request.conf.required_prev_result()?;
        if conf.mappings.is_empty() {
            return Ok(());
        }
        Work::new(&conf, &target.attachment, &prev).check()
    }

    fn gc(&self, _request: &Request, living: &Living) -> Result<()> {
        let by_nftables =
            Socket::netfilter().and_then(|mut socket| nftables::gc(&mut socket, |tag| living.is_orphan(tag)));
        let mut outcome = Outcome::default();
        outcome.note(nft::unavailable_ok(by_nftables).map_err(Error::from));
        outcome.note(iptables::gc(living));
        outcome.first_error()
    }

    fn status(&self, request: &Request) -> Result<()> {
        let conf = Conf::read(&request.conf)?;
        conf.backend.available("portmap")
    }
}

/// What there is to do for one attachment.
struct Work<'a> {
    conf: &'a Conf,
    attachment: &'a Attachment,
    /// The container's address of each family with its subnet, and the mappings that lead there.
    targets: Vec<(IpNet, Vec<Mapping>)>,
}

impl<'a> Work<'a> {
    fn new(conf: &'a Conf, attachment: &'a Attachment, prev: &Success) -> Self {
        let targets = [true, false].into_iter().filter_map(|v4| {
            let target = address(prev, &attachment.ifname, v4)?;
            let of_family = conf.mappings.iter().filter(|mapping| mapping.host_ip.is_in(v4));
            let mut seen = HashSet::new();
            let mappings: Vec<Mapping> = of_family
                .map(|mapping| mapping.in_family())
                .filter(|mapping| seen.insert(*mapping))
                .collect();
            (!mappings.is_empty()).then_some((target, mappings))
        });
        Self { conf, attachment, targets: targets.collect() }
    }

    /// Whether the attachment `is_marked` matters to ADD alone.
    fn plans(&self, is_marked: bool) -> impl Iterator<Item = nftables::Plan<'_>> {
        self.targets.iter().map(move |(target, mappings)| nftables::Plan {
            attachment: self.attachment,
            conf: self.conf,
            bit: if let Mark::Bit(bit) = self.conf.mark { bit } else { 0 },
            target: *target,
            mappings: mappings.clone(),
            is_marked,
        })
    }

    /// `inside` tells the addresses that the container has.
    fn add(&self, inside: &dyn Fn() -> Vec<IpAddr>, undo: &mut Undo) -> Result<()> {
        let attachment = self.attachment.clone();
        undo.push("port mappings", move || Ok(delete(&attachment)?));
        let backend = self.conf.backend;
        let by_iptables = || {
            iptables::add(self, inside)?;
            // The transaction by nf_tables has it in it.
            if self.opens_loopback() {
                guard()?;
            }
            Ok(self.targets.iter().map(|(_, mappings)| mappings.clone()).collect())
        };
        let added = if backend == Backend::Iptables { by_iptables() } else { self.add_by_nftables(inside) };
        let served = match added {
            // Only after it failed: on most machines the question would be in vain.
            Err(_) if backend == Backend::Auto && nft::available().is_err() => by_iptables(),
            added => added,
        }?;
        self.finish(&served)
    }

    /// Whether the host's loopback addresses have to lead to the container, too.
    fn opens_loopback(&self) -> bool {
        let has_v4 = self.targets.iter().any(|(target, _)| target.addr().is_ipv4());
        has_v4 && self.conf.masquerade != Masquerade::Nothing
    }

    /// The mappings of each target that this attachment serves.
    fn add_by_nftables(&self, inside: &dyn Fn() -> Vec<IpAddr>) -> Result<Vec<Vec<Mapping>>> {
        let mut socket = Socket::netfilter()?;
        let is_marked = link::host_veth(&mut Socket::route()?, self.attachment)?.is_some();
        self.plans(is_marked).map(|plan| plan.add(&mut socket, inside)).collect::<Result<_>>().map_err(
            |error| match error.code {
                Code::IO => error.context("failed to map ports"),
                _ => error,
            },
        )
    }

    /// What is the same with either back end. `served` are the mappings of each target that are this attachment's.
    fn finish(&self, served: &[Vec<Mapping>]) -> Result<()> {
        for ((target, _), mappings) in self.targets.iter().zip(served) {
            if target.addr().is_ipv4() && self.conf.masquerade != Masquerade::Nothing {
                open_loopback(target.addr())?;
            }
            flows::forget_others(mappings, target.addr())?;
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let differs = |what: String, expected: String, found: String| {
            Err(Error::new(Code::NOT_AS_ADDED, format!("{what}: expected {expected}, found {found}")))
        };
        let by_iptables = iptables::is_there(self.attachment)?;
        for plan in self.plans(false) {
            let missing = if by_iptables {
                iptables::missing(self, &plan.target, &plan.mappings)?
            } else {
                plan.missing(&mut Socket::netfilter()?)?
            };
            if let Some((expected, found)) = missing {
                return differs(format!("port mappings of {}", self.attachment), expected, found);
            }
            if plan.target.addr().is_ipv4()
                && self.conf.masquerade != Masquerade::Nothing
                && let Some(name) = link_towards(plan.target.addr())?
            {
                match if by_iptables { guard_found()? } else { Guard::Whole } {
                    Guard::Whole => {}
                    // The reference's plugin puts up none, and its mappings are as it made them.
                    Guard::Absent => cni_common::log!(
                        "nothing keeps others from the loopback addresses of this host, which snat opens to containers \
                         (CVE-2020-8558); the next ADD does"
                    ),
                    Guard::Broken => {
                        let what = "the guard of the loopback addresses".to_owned();
                        return differs(what, "its rules".to_owned(), "others".to_owned());
                    }
                }
                let key = Key::V4(&name, "route_localnet");
                let found = sysctl::read(&key).unwrap_or_else(|error| error.to_string());
                if found != "1" {
                    return differs(format!("/proc/sys/{key}"), "1".to_owned(), found);
                }
            }
        }
        Ok(())
    }
}

/// The container's first address of that family: one of its interface's, or of no interface that is told.
fn address(prev: &Success, ifname: &IfName, v4: bool) -> Option<IpNet> {
    let is_ours = |index: Option<i64>| {
        let interface = index.and_then(|index| prev.interfaces.get(usize::try_from(index).ok()?));
        interface.is_none_or(|one| one.name == ifname.as_str() && !one.sandbox.is_empty())
    };
    let mut ips = prev.ips.iter().filter(|ip| ip.address.addr().is_ipv4() == v4 && is_ours(ip.interface));
    ips.next().map(|ip| ip.address)
}

/// The addresses that the container has, by which another attachment of the same container is known; none
/// when they can't be told.
fn addresses_inside(target: &Target) -> Vec<IpAddr> {
    let found =
        target.open_netns().and_then(|netns| netns.run(|| Ok(addr::list_all(&mut Socket::route()?)?)));
    match found {
        Ok(found) => found.into_iter().map(|addr| addr.net.addr()).collect(),
        Err(error) => {
            cni_common::log!("the addresses inside the container can't be read: {error}");
            vec![]
        }
    }
}

/// Deletes whatever either back end of either implementation made for the attachment.
fn delete(attachment: &Attachment) -> Result<()> {
    let by_nftables = Socket::netfilter().and_then(|mut socket| {
        let gone = nftables::delete(&mut socket, attachment)?;
        flows::forget_ours(&gone)?;
        iptables::delete_references_nftables(&mut socket, attachment)
    });
    let by_iptables = iptables::delete(attachment).and_then(|gone| Ok(flows::forget_ours(&gone)?));
    nft::unavailable_ok(by_nftables).map_err(Error::from).and(by_iptables)
}

/// Keeps others than the host itself from its loopback addresses, which the kernel then takes packets for
/// from anywhere. By nf_tables, and by iptables in a kernel that has none.
fn guard() -> Result<()> {
    let guarded = match Socket::netfilter().and_then(|mut socket| nftables::add_guard(&mut socket)) {
        Err(_) if nft::available().is_err() => iptables::add_guard(),
        guarded => guarded.map_err(Error::from),
    };
    guarded.map_err(|error| {
        error.context("unable to guard the loopback addresses, which snat opens to the container")
    })
}

/// What is there of the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
    Whole,
    Broken,
    Absent,
}

fn guard_found() -> Result<Guard> {
    match Socket::netfilter().and_then(|mut socket| nftables::guard_found(&mut socket)) {
        Ok(Guard::Absent) => iptables::guard_found(),
        Err(_) if nft::available().is_err() => iptables::guard_found(),
        found => Ok(found?),
    }
}

/// Lets the host reach the container from its loopback addresses, which the kernel does not route otherwise. The guard is
/// up by now, so that nobody else gets at those.
fn open_loopback(container: IpAddr) -> Result<()> {
    let Some(name) = link_towards(container)? else { return Ok(()) };
    let key = Key::V4(&name, "route_localnet");
    sysctl::ensure(&key, "1").io(format!("unable to enable route_localnet: write 1 to /proc/sys/{key}"))
}

/// The link over which the host reaches the container.
fn link_towards(container: IpAddr) -> Result<Option<IfName>> {
    let mut socket = Socket::route()?;
    let Some(index) = route::link_to(&mut socket, container)? else { return Ok(None) };
    let Some(link) = link::find_index(&mut socket, index)? else { return Ok(None) };
    IfName::try_from(link.name.as_str()).map(Some).coded(Code::INTERNAL, "the kernel's name of a link")
}
