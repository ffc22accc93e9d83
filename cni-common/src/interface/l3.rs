//! Layer 3 of an interface, decided from what IPAM gave. Pure.

use crate::spec::{IpConfig, Route, Success};
use ipnet::IpNet;
use std::net::IpAddr;

/// The addresses and routes of a container's interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct L3 {
    /// The container's addresses, as the result gives them.
    pub ips: Vec<IpConfig>,
    /// Its routes, as the result gives them, each once.
    pub routes: Vec<Route>,
}

impl L3 {
    /// As IPAM gave it, for the interface that stands at `interface` in the result.
    #[must_use]
    pub fn of(ipam: &Success, interface: i64) -> Self {
        let ips = ipam.ips.iter().map(|ip| IpConfig { interface: Some(interface), ..ip.clone() });
        Self { ips: ips.collect(), routes: dedup(&ipam.routes) }
    }

    /// The gateway for `route` when it has none of its own: the first of its family. A route of the scope of a link,
    /// or narrower, leads to neighbours, past any gateway.
    #[must_use]
    pub fn gateway_for(&self, route: &Route) -> Option<IpAddr> {
        const SCOPE_LINK: u8 = 253;
        let mut gateways = self.ips.iter().filter_map(|ip| ip.gateway);
        gateways
            .find(|gateway| gateway.is_ipv4() == route.dst.addr().is_ipv4())
            .filter(|_| route.scope.is_none_or(|scope| scope < SCOPE_LINK))
    }

    /// Whether there is an IPv6 address.
    #[must_use]
    pub fn has_v6(&self) -> bool {
        self.ips.iter().any(|ip| ip.address.addr().is_ipv6())
    }

    /// The container's addresses with their prefix lengths.
    #[must_use]
    pub fn nets(&self) -> Vec<IpNet> {
        self.ips.iter().map(|ip| ip.address).collect()
    }
}

/// The same route twice is one route.
fn dedup(routes: &[Route]) -> Vec<Route> {
    let mut unique: Vec<Route> = Vec::new();
    for route in routes {
        if !unique.contains(route) {
            unique.push(route.clone());
        }
    }
    unique
}
