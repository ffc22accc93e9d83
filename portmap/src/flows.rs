//! UDP flows to mapped ports that the kernel leads elsewhere than the mappings say by now.

use crate::conf::{Mapping, Protocol};
use crate::nftables::Mapped;
use cni_common::kernel::Refusal;
use cni_common::kernel::conntrack::{Flow, Which, forget_udp};
use cni_common::kernel::netlink::{Socket, addr};
use nix::errno::Errno;
use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

/// The kernel looks through all that it remembers each time that it is asked; with more it is asked for everything.
const MOST_QUESTIONS: usize = 8;

/// After an ADD: flows to these ports of this host that somebody else than the container answers.
///
/// # Errors
/// The kernel's refusal.
pub fn forget_others(mappings: &[Mapping], container: IpAddr) -> Result<(), Refusal> {
    let udp: Services = mappings
        .iter()
        .filter(|mapping| mapping.protocol == Protocol::Udp)
        .map(|mapping| (mapping.host_ip.address(), mapping.host_port))
        .collect();
    if udp.is_empty() {
        return Ok(());
    }
    let is_local = local_addresses()?;
    let is_stale = |flow: &Flow| is_meant(flow, &udp, &is_local) && flow.answered_by != container;
    let ports: BTreeSet<u16> = udp.iter().map(|(_, port)| *port).collect();
    let questions: Vec<Which> = if ports.len() > MOST_QUESTIONS {
        vec![Which::All]
    } else {
        ports.into_iter().map(Which::To).collect()
    };
    let forget = |which| forget_udp(container.is_ipv4(), which, is_stale);
    without_conntrack_ok(questions.into_iter().try_for_each(forget))
}

/// After a DEL: flows to the ports that led to the container, which it answered.
///
/// # Errors
/// The kernel's refusal.
pub fn forget_ours(gone: &[Mapped]) -> Result<(), Refusal> {
    let udp: Vec<&Mapped> = gone.iter().filter(|mapped| mapped.service.1 == Protocol::Udp.number()).collect();
    if udp.is_empty() {
        return Ok(());
    }
    let is_local = local_addresses()?;
    let targets: BTreeSet<IpAddr> = udp.iter().map(|mapped| mapped.target).collect();
    let forget = |target: IpAddr| {
        let of_target = udp.iter().filter(|mapped| mapped.target == target);
        let services: Services = of_target.map(|mapped| (mapped.service.0, mapped.service.2)).collect();
        forget_udp(target.is_ipv4(), Which::AnsweredBy(target), |flow| {
            is_meant(flow, &services, &is_local) && flow.answered_by == target
        })
    };
    without_conntrack_ok(targets.into_iter().try_for_each(forget))
}

/// Ports of the host, each of all of its addresses or of one.
type Services = HashSet<(Option<IpAddr>, u16)>;

/// Whether a flow is to one of these ports of this host: one that only passes through has the same right to
/// its port number.
fn is_meant(flow: &Flow, services: &Services, is_local: &dyn Fn(&IpAddr) -> bool) -> bool {
    let (ip, port) = flow.to;
    services.contains(&(Some(ip), port)) || (services.contains(&(None, port)) && is_local(&ip))
}

fn local_addresses() -> Result<impl Fn(&IpAddr) -> bool, Refusal> {
    let ours: HashSet<IpAddr> =
        addr::list_all(&mut Socket::route()?)?.into_iter().map(|addr| addr.net.addr()).collect();
    Ok(move |ip: &IpAddr| ip.is_loopback() || ours.contains(ip))
}

/// A kernel without nfnetlink can't be told to forget, nor, where it tracks no connections, need it be.
fn without_conntrack_ok(result: Result<(), Refusal>) -> Result<(), Refusal> {
    match result {
        Err(refusal) if refusal.errno == Errno::EPROTONOSUPPORT => Ok(()),
        other => other,
    }
}
