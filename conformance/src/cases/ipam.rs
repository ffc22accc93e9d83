//! Section 5, Delegated plugins (IPAM): what an IPAM plugin gives.

use super::{addresses, first_address, list};
use crate::expect;
use crate::suite::{Case, On, Trouble, must, should};
use std::collections::BTreeSet;
use std::net::IpAddr;

const ABBREVIATED: &str = "Section 5: Delegated plugins (IPAM)";
const SUCCESS: &str = "Section 5: ADD Success";
const LIFE: &str = "Section 3: Lifecycle & Ordering";
const DEL: &str = "Section 2: DEL";

pub const CASES: &[Case] = &[
    must("ipam.no-interfaces", ABBREVIATED, "the result of an IPAM plugin has no interfaces")
        .on(On::Ipam)
        .since("0.3.0")
        .each()
        .check(|bed| {
            let result = bed.add(&bed.pod())?;
            expect!(list(&result["interfaces"]).is_empty(), "no interfaces", "{result}");
            Ok(())
        }),
    must("ipam.no-index", ABBREVIATED, "its addresses have no interface")
        .on(On::Ipam)
        .since("0.3.0")
        .each()
        .check(|bed| {
            let result = bed.add(&bed.pod())?;
            expect!(
                list(&result["ips"]).iter().all(|ip| ip.get("interface").is_none()),
                "no interface in ips",
                "{result}"
            );
            Ok(())
        }),
    must("ipam.address", ABBREVIATED, "it gives an address").on(On::Ipam).each().check(|bed| {
        let result = bed.add(&bed.pod())?;
        expect!(!addresses(&result).is_empty(), "an address", "{result}");
        Ok(())
    }),
    must("ipam.gateway-elsewhere", SUCCESS, "the gateway is not the address that is given")
        .on(On::Addressing)
        .since("0.3.0")
        .check(|bed| {
            let result = bed.add(&bed.pod())?;
            let gateway = result["ips"][0]["gateway"].as_str().unwrap_or_default();
            expect!(first_address(&result) != gateway, "another address than the gateway's", "{result}");
            Ok(())
        }),
    must("ipam.unique", LIFE, "no two attachments have one address").on(On::Addressing).check(|bed| {
        let mut seen = BTreeSet::new();
        for _ in 0..10 {
            let result = bed.add(&bed.pod())?;
            let address = first_address(&result);
            expect!(seen.insert(address.clone()), "ten addresses", "{address} twice");
        }
        Ok(())
    }),
    must("ipam.inside", SUCCESS, "addresses are of the subnet that the config says")
        .on(On::Addressing)
        .check(|bed| {
            let result = bed.add(&bed.pod())?;
            let subnet: ipnet::IpNet =
                crate::suite::subject::SUBNET.parse().map_err(|_| Trouble::Untried("no subnet".into()))?;
            let address: Option<IpAddr> = first_address(&result).parse().ok();
            expect!(
                address.is_some_and(|address| subnet.contains(&address)),
                format!("an address of {subnet}"),
                "{result}"
            );
            expect!(addresses(&result)[0].ends_with("/24"), "with the subnet's prefix length", "{result}");
            Ok(())
        }),
    must("ipam.no-netns-needed", DEL, "it needs no namespace: CNI_NETNS may be any text").on(On::Ipam).check(
        |bed| {
            let pod = bed.pod();
            bed.added(&pod, bed.ask("ADD", &pod).env("CNI_NETNS", "/nowhere"))?;
            bed.ask("DEL", &pod).env("CNI_NETNS", "").run().is_silent()
        },
    ),
    should("ipam.survives-restart", LIFE, "what it gave is not forgotten between calls").on(On::Ipam).check(
        |bed| {
            let held = first_address(&bed.add(&bed.pod())?);
            let small =
                serde_json::json!([[{"subnet": "10.83.0.0/24", "rangeStart": held, "rangeEnd": held}]]);
            bed.ask("ADD", &bed.pod()).set("/ipam/ranges", small).run().fails().map(drop)
        },
    ),
];
