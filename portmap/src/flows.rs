//! UDP flows to mapped ports that the kernel leads elsewhere than the mappings say by now.

use crate::conf::{Mapping, Protocol};
use crate::nftables::Mapped;
use cni_common::kernel::Refusal;
use cni_common::kernel::conntrack::{Flow, forget, udp_flows};
use cni_common::kernel::netlink::{Socket, addr};
use std::net::IpAddr;

/// After an ADD: flows to these ports of this host that somebody else than the container answers.
///
/// # Errors
/// The kernel's refusal.
pub fn forget_others(mappings: &[Mapping], container: IpAddr) -> Result<(), Refusal> {
    let udp: Vec<(Option<IpAddr>, u16)> = mappings
        .iter()
        .filter(|mapping| mapping.protocol == Protocol::Udp)
        .map(|mapping| (mapping.host_ip.address(), mapping.host_port))
        .collect();
    forget_all(&udp, container.is_ipv4(), |flow| flow.answered_by != container)
}

/// After a DEL: flows to the ports that led to the container, which it answered.
///
/// # Errors
/// The kernel's refusal.
pub fn forget_ours(gone: &[Mapped]) -> Result<(), Refusal> {
    for v4 in [true, false] {
        let udp: Vec<&Mapped> = gone
            .iter()
            .filter(|mapped| mapped.service.1 == Protocol::Udp.number() && mapped.target.is_ipv4() == v4)
            .collect();
        let services: Vec<_> = udp.iter().map(|mapped| (mapped.service.0, mapped.service.2)).collect();
        forget_all(&services, v4, |flow| udp.iter().any(|mapped| mapped.target == flow.answered_by))?;
    }
    Ok(())
}

fn forget_all(
    services: &[(Option<IpAddr>, u16)],
    v4: bool,
    is_stale: impl Fn(&Flow) -> bool,
) -> Result<(), Refusal> {
    if services.is_empty() {
        return Ok(());
    }
    let ours = addr::list_all(&mut Socket::route()?)?;
    // A flow that only passes through has the same right to its port number.
    let is_local = |ip: &IpAddr| ip.is_loopback() || ours.iter().any(|addr| addr.net.addr() == *ip);
    let is_meant = |flow: &&Flow| {
        let (ip, port) = &flow.to;
        services.iter().any(|(host_ip, host_port)| {
            host_port == port && host_ip.map_or_else(|| is_local(ip), |host_ip| host_ip == *ip)
        })
    };
    let mut socket = Socket::netfilter()?;
    let flows = udp_flows(&mut socket, v4)?;
    flows.iter().filter(is_meant).filter(|flow| is_stale(flow)).try_for_each(|flow| forget(&mut socket, flow))
}
