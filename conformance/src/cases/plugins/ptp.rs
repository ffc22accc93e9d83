//! `ptp` (<https://www.cni.dev/plugins/current/main/ptp/>).

use crate::cases::{first_address, pings};
use crate::expect;
use crate::suite::{Case, On, must};
use serde_json::json;

const OPTIONS: &str = "ptp: Network configuration reference";

const fn ptp(case: Case) -> Case {
    case.on(On::Plugin("ptp")).since("1.0.0")
}

pub const CASES: &[Case] = &[
    ptp(must("ptp.gateway", OPTIONS, "the container reaches its gateway, which is the host")).check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        pings(bed, &pod, "10.83.0.1")
    }),
    ptp(must("ptp.host-route", OPTIONS, "the host has a route to the container alone")).check(|bed| {
        let pod = bed.pod();
        let address = first_address(&bed.add(&pod)?);
        let routes = bed.ip("route show");
        expect!(
            routes.lines().any(|line| line.starts_with(&address)),
            format!("a route to {address}"),
            "{routes}"
        );
        Ok(())
    }),
    ptp(must("ptp.pods-talk", OPTIONS, "containers reach each other by way of the host")).check(|bed| {
        let (one, other) = (bed.pod(), bed.pod());
        bed.add(&one)?;
        let result = bed.add(&other)?;
        pings(bed, &one, &first_address(&result))
    }),
    ptp(must("ptp.mtu", OPTIONS, "mtu: the interface has it")).check(|bed| {
        let pod = bed.pod();
        bed.added(&pod, bed.ask("ADD", &pod).set("/mtu", 1400))?;
        let link = bed.inside(&pod, "ip", "-o link show eth0");
        expect!(link.contains("mtu 1400"), "mtu 1400", "{link}");
        Ok(())
    }),
    ptp(must("ptp.dns", OPTIONS, "dns: the config's is the result's")).check(|bed| {
        let dns = json!({"nameservers": ["192.0.2.53"], "search": ["example.org"]});
        let pod = bed.pod();
        let result = bed.added(&pod, bed.ask("ADD", &pod).set("/dns", dns.clone()))?;
        expect!(result["dns"] == dns, format!("{dns}"), "{result}");
        Ok(())
    }),
    ptp(must("ptp.veth-gone", "Section 2: DEL", "DEL deletes both ends of the veth")).check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        bed.del(&pod)?;
        let links = bed.ip("-o link show type veth");
        expect!(links.is_empty(), "no veth", "{links}");
        Ok(())
    }),
];
