//! What to do, decided before it is done. Pure: no kernel, no files.

use crate::conf::Conf;
use cni_common::interface::l3::L3;
use cni_common::spec::addr::first_host;
use cni_common::spec::{Error, Result, Route, Success};
use ipnet::IpNet;

/// Where the container's interface stands in a result: after the bridge and the host veth.
pub const CONTAINER: i64 = 2;

/// Decides layer 3 from what IPAM gave: the container's, and the addresses that the bridge has to have.
#[must_use]
pub fn l3(conf: &Conf, ipam: &Success) -> (L3, Vec<IpNet>) {
    let (mut plan, mut gateways) = (L3::of(ipam, CONTAINER), Vec::new());
    for ip in &mut plan.ips {
        let derived = ip.gateway.or_else(|| first_host(&ip.address).filter(|_| conf.is_gateway));
        ip.gateway = derived;
        let Some(gateway) = derived.filter(|_| conf.is_gateway) else { continue };
        let default = Route::default_via(gateway);
        // A default route that IPAM gave counts, whether it names a gateway or takes the subnet's.
        let given = plan.routes.iter().any(|route| route.dst == default.dst && route.is_main_default());
        if conf.is_default_gateway && !given {
            plan.routes.push(default);
        }
        let net = IpNet::new(gateway, ip.address.prefix_len()).unwrap_or(ip.address);
        if !gateways.contains(&net) {
            gateways.push(net);
        }
    }
    (plan, gateways)
}

/// What has to happen to the bridge's addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readdress {
    /// These are in the way.
    pub delete: Vec<IpNet>,
    /// These are missing.
    pub add: Vec<IpNet>,
}

/// Decides how a bridge that has the addresses `have` gets those in `want`.
///
/// A bridge has one IPv4 network's gateways only; IPv6 networks share it as long as they do not overlap. What is in
/// the way is deleted with `force`, and an error without it.
///
/// # Errors
/// Code 7, with the addresses that are there and the one that is wanted.
pub fn readdress(bridge: &str, have: &[IpNet], want: &[IpNet], force: bool) -> Result<Readdress> {
    let mut plan = Readdress::default();
    for net in want.iter().filter(|net| !have.contains(net)) {
        let in_the_way = |other: &&IpNet| match (net, other) {
            (IpNet::V4(_), IpNet::V4(_)) => true,
            (IpNet::V6(one), IpNet::V6(two)) => one.contains(&two.network()) || two.contains(&one.network()),
            _ => false,
        };
        let others: Vec<IpNet> =
            have.iter().filter(|other| !want.contains(other)).filter(in_the_way).copied().collect();
        if !force && !others.is_empty() {
            let list: Vec<String> = others.iter().map(ToString::to_string).collect();
            let msg = format!(
                "failed to set bridge addr: {bridge:?} already has an IP address different from {net}"
            );
            return Err(Error::config(msg).details(format!(
                "it has {}; set forceAddress to true to replace that, delete it (ip address del {} dev {bridge}), or use another bridge",
                list.join(", "),
                list.first().map_or("", String::as_str)
            )));
        }
        plan.delete
            .extend(others.into_iter().filter(|other| !plan.delete.contains(other)).collect::<Vec<_>>());
        plan.add.push(*net);
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::{Layer, Reflect};
    use cni_common::kernel::netlink::addr::Dad;
    use cni_common::spec::IpConfig;
    use cni_common::spec::conf::DnsConf;

    fn conf(is_gateway: bool, is_default_gateway: bool) -> Conf {
        Conf {
            bridge: "cni0".try_into().unwrap(),
            is_gateway,
            is_default_gateway,
            force_address: false,
            ip_masq: false,
            ip_masq_backend: cni_common::kernel::Backend::Auto,
            mtu: cni_common::interface::conf::Mtu::Kernel,
            reflect: Reflect::Off,
            mac: None,
            dad: Dad::Off,
            port_isolation: false,
            mac_spoof_check: false,
            vlan: crate::vlan::VlanConf::default(),
            vlan_gateway: None,
            layer: Layer::L3 { ipam: "host-local".to_owned() },
            dns: DnsConf::default(),
        }
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ipam(ips: &[(&str, Option<&str>)], routes: &[&str]) -> Success {
        let ip = |(address, gateway): &(&str, Option<&str>)| IpConfig {
            address: net(address),
            gateway: gateway.map(|ip| ip.parse().unwrap()),
            interface: None,
        };
        let route =
            |dst: &&str| Route { dst: net(dst), gw: None, ..Route::default_via("0.0.0.0".parse().unwrap()) };
        Success {
            ips: ips.iter().map(ip).collect(),
            routes: routes.iter().map(route).collect(),
            ..Success::default()
        }
    }

    #[test]
    fn gateways_come_from_ipam_or_are_the_first_host() {
        let given = ipam(&[("10.1.0.5/16", None), ("fd00::5/64", Some("fd00::99"))], &[]);
        let (plan, gateways) = l3(&conf(true, false), &given);
        assert_eq!(gateways, [net("10.1.0.1/16"), net("fd00::99/64")]);
        assert_eq!(plan.ips[0].gateway, Some("10.1.0.1".parse().unwrap()));
        assert!(plan.ips.iter().all(|ip| ip.interface == Some(2)));
        assert_eq!(plan.routes, []);

        let (without, gateways) = l3(&conf(false, false), &given);
        assert_eq!((gateways, without.ips[0].gateway), (vec![], None));
    }

    #[test]
    fn one_default_route_a_family_and_ipams_counts() {
        let both = [
            ("10.1.0.5/16", Some("10.1.0.1")),
            ("10.2.0.5/16", Some("10.2.0.1")),
            ("fd00::5/64", Some("fd00::1")),
        ];
        let (plan, _) = l3(&conf(true, true), &ipam(&both, &[]));
        let defaults: Vec<_> = plan.routes.iter().map(|route| route.gw.unwrap().to_string()).collect();
        assert_eq!(defaults, ["10.1.0.1", "fd00::1"]);

        let (plan, _) = l3(&conf(true, true), &ipam(&both, &["0.0.0.0/0", "::/0", "0.0.0.0/0"]));
        assert_eq!(
            plan.routes.len(),
            2,
            "no second default route beside IPAM's, and IPAM's own repetition once"
        );
        assert!(plan.routes.iter().all(|route| route.gw.is_none()));
        assert_eq!(plan.gateway_for(&plan.routes[0]), Some("10.1.0.1".parse().unwrap()));
        assert_eq!(plan.gateway_for(&plan.routes[1]), Some("fd00::1".parse().unwrap()));

        let neighbour = Route { scope: Some(253), ..plan.routes[0].clone() };
        assert_eq!(plan.gateway_for(&neighbour), None);

        let mut policy = ipam(&both[..1], &["0.0.0.0/0"]);
        policy.routes[0].table = Some(100);
        assert_eq!(
            l3(&conf(true, true), &policy).0.routes.len(),
            2,
            "a default route of another table is another matter"
        );
    }

    #[test]
    fn a_bridges_addresses_are_completed_replaced_or_refused() {
        let nets = |list: &[&str]| list.iter().map(|text| net(text)).collect::<Vec<_>>();
        let ask = |have: &[&str], want: &[&str], force| readdress("cni0", &nets(have), &nets(want), force);
        let done = |delete: &[&str], add: &[&str]| Readdress { delete: nets(delete), add: nets(add) };

        assert_eq!(ask(&[], &["10.1.0.1/16"], false).unwrap(), done(&[], &["10.1.0.1/16"]));
        assert_eq!(ask(&["10.1.0.1/16"], &["10.1.0.1/16"], false).unwrap(), done(&[], &[]));
        // The wanted one stands behind a stranger.
        assert_eq!(ask(&["10.9.0.1/16", "10.1.0.1/16"], &["10.1.0.1/16"], false).unwrap(), done(&[], &[]));
        let refused = ask(&["10.9.0.1/16"], &["10.1.0.1/16"], false).unwrap_err();
        assert!(refused.msg().contains("already has an IP address different from 10.1.0.1/16"), "{refused}");
        assert!(
            refused.cause().contains("10.9.0.1/16") && refused.cause().contains("forceAddress"),
            "{refused}"
        );
        assert_eq!(
            ask(&["10.9.0.1/16"], &["10.1.0.1/16"], true).unwrap(),
            done(&["10.9.0.1/16"], &["10.1.0.1/16"])
        );
        // Two networks of one attachment do not fight each other.
        let two = ["10.1.0.1/16", "10.2.0.1/16"];
        assert_eq!(ask(&["10.1.0.1/16"], &two, false).unwrap(), done(&[], &["10.2.0.1/16"]));
        // IPv6 networks share a bridge unless they overlap; link-local never does.
        assert_eq!(
            ask(&["fd00::1/64", "fe80::1/64"], &["fd01::1/64"], false).unwrap(),
            done(&[], &["fd01::1/64"])
        );
        assert!(ask(&["fd00::9/48"], &["fd00::1/64"], false).is_err());
        assert_eq!(ask(&["10.9.0.1/16"], &["fd00::1/64"], false).unwrap(), done(&[], &["fd00::1/64"]));
    }
}
