//! Section 2, CHECK: it passes when all is as ADD made it, and sees what is not.

use super::{addresses, first_address, list};
use crate::expect;
use crate::suite::bed::NETWORK;
use crate::suite::{Bed, Case, On, Pod, Trouble, Verdict, convention, must, should};
use serde_json::{Value, json};

const CHECK: &str = "Section 2: CHECK";
const RESOURCES: &str = "Section 2: CHECK, resources of the result";
const OTHERS: &str = "Section 2: CHECK, resources that the result does not tell of";

pub const CASES: &[Case] = &[
    must("check.fresh", CHECK, "CHECK passes right after ADD and prints nothing")
        .on(On::Configured)
        .since("0.4.0")
        .each()
        .check(|bed| {
            let pod = bed.pod();
            bed.add(&pod)?;
            bed.check(&pod)
        }),
    must("check.route-no-gateway", CHECK, "CHECK passes with a route that leaves its gateway to the plugin")
        .on(On::Delegating)
        .since("0.4.0")
        .check(|bed| {
            let pod = bed.pod();
            let routes = json!([{"dst": "192.0.2.0/24"}]);
            bed.added(&pod, bed.ask("ADD", &pod).set("/ipam/routes", routes.clone()))?;
            bed.ask("CHECK", &pod).set("/ipam/routes", routes).run().is_silent()
        }),
    must("check.changes-nothing", CHECK, "CHECK changes nothing").on(On::Configured).since("0.4.0").check(
        |bed| {
            let pod = bed.pod();
            bed.add(&pod)?;
            let (host, inside) = (bed.look(), bed.look_inside(&pod));
            bed.check(&pod)?;
            bed.is_back_to(&host)?;
            bed.is_back_inside(&pod, &inside)
        },
    ),
    must("check.repairs-nothing", CHECK, "a CHECK that fails changes nothing either")
        .on(On::Link)
        .since("0.4.0")
        .check(|bed| {
            let pod = bed.pod();
            bed.add(&pod)?;
            bed.inside(&pod, "ip", "link set eth0 down");
            let (host, inside) = (bed.look(), bed.look_inside(&pod));
            bed.ask("CHECK", &pod).run().fails()?;
            bed.is_back_to(&host)?;
            bed.is_back_inside(&pod, &inside)
        }),
    must("check.too-old", CHECK, "CHECK with a config of before 0.4.0 is an error of code 1")
        .until("0.3.1")
        .check(|bed| bed.ask("CHECK", &bed.pod()).run().fails_with(&[1]).map(drop)),
    should("check.no-prev-result", CHECK, "CHECK without prevResult, which it has to consult, is an error")
        .on(On::Consulting)
        .since("0.4.0")
        .check(|bed| {
            let pod = bed.pod();
            bed.add(&pod)?;
            bed.ask("CHECK", &pod).unset("prevResult").run().fails().map(drop)
        }),
    should("check.deleted", CHECK, "CHECK of a deleted attachment fails")
        .on(On::Link)
        .since("0.4.0")
        .check(|bed| broken(bed, |pod| bed.del(pod))),
    should("check.netns-gone", RESOURCES, "CHECK fails when the namespace is gone")
        .on(On::Link)
        .since("0.4.0")
        .check(|bed| {
            broken(bed, |pod| {
                bed.kill(pod);
                Ok(())
            })
        }),
    should("check.interface-gone", RESOURCES, "CHECK sees that the interface is gone")
        .on(On::Link)
        .since("0.4.0")
        .check(|bed| inside(bed, &["link del eth0"])),
    should("check.interface-down", RESOURCES, "CHECK sees that the interface is down")
        .on(On::Link)
        .since("0.4.0")
        .check(|bed| inside(bed, &["link set eth0 down"])),
    should("check.interface-renamed", RESOURCES, "CHECK sees that the interface has another name")
        .on(On::Link)
        .since("0.4.0")
        .check(|bed| inside(bed, &["link set eth0 down", "link set eth0 name eth9", "link set eth9 up"])),
    should("check.interface-replaced", RESOURCES, "CHECK sees another kind of interface under the name")
        .on(On::Link)
        .since("0.4.0")
        .check(|bed| {
            inside(
                bed,
                &[
                    "link del eth0",
                    "link add eth0 type bridge",
                    "link set eth0 up",
                    "addr add ADDRESS dev eth0",
                    "route add default via 10.83.0.1",
                ],
            )
        }),
    should("check.mac", RESOURCES, "CHECK sees that the interface has another mac")
        .on(On::Link)
        .since("0.4.0")
        .check(|bed| inside(bed, &["link set eth0 address 02:11:22:33:44:55"])),
    should("check.address-gone", RESOURCES, "CHECK sees that the address is gone")
        .on(On::Link)
        .since("0.4.0")
        .check(|bed| inside(bed, &["addr del ADDRESS dev eth0"])),
    should("check.address-other", RESOURCES, "CHECK sees another address in its place")
        .on(On::Link)
        .since("0.4.0")
        .check(|bed| {
            inside(
                bed,
                &[
                    "addr del ADDRESS dev eth0",
                    "addr add 10.83.0.250/24 dev eth0",
                    "route replace default via 10.83.0.1",
                ],
            )
        }),
    should("check.address-prefix", RESOURCES, "CHECK sees the address with another prefix length")
        .on(On::Link)
        .since("0.4.0")
        .check(|bed| {
            inside(
                bed,
                &[
                    "addr del ADDRESS dev eth0",
                    "addr add IP/16 dev eth0",
                    "route replace default via 10.83.0.1",
                    "route replace 192.0.2.0/24 via 10.83.0.1",
                ],
            )
        }),
    must("check.address-more", CHECK, "CHECK lets others add addresses").on(On::Link).since("0.4.0").check(
        |bed| {
            let pod = bed.pod();
            bed.add(&pod)?;
            bed.inside(&pod, "ip", "addr add 198.51.100.1/24 dev eth0");
            bed.check(&pod)
        },
    ),
    should("check.route-default", RESOURCES, "CHECK sees that the default route is gone")
        .on(On::Link)
        .since("0.4.0")
        .check(|bed| inside(bed, &["route del default"])),
    should("check.route-net", RESOURCES, "CHECK sees that a route is gone")
        .on(On::Delegating)
        .since("0.4.0")
        .check(|bed| inside(bed, &["route del 192.0.2.0/24"])),
    should("check.route-gateway", RESOURCES, "CHECK sees a route by another gateway")
        .on(On::Delegating)
        .since("0.4.0")
        .check(|bed| {
            let pod = bed.pod();
            let routes = json!([{"dst": "192.0.2.0/24", "gw": "10.83.0.1"}]);
            let ask = |verb: &str| bed.ask(verb, &pod).set("/ipam/routes", routes.clone());
            bed.added(&pod, ask("ADD"))?;
            ask("CHECK").run().is_silent()?;
            bed.inside(&pod, "ip", "route replace 192.0.2.0/24 via 10.83.0.77 onlink dev eth0");
            ask("CHECK").run().fails().map(drop)
        }),
    must("check.route-more", CHECK, "CHECK lets others add routes").on(On::Link).since("0.4.0").check(
        |bed| {
            let pod = bed.pod();
            bed.add(&pod)?;
            bed.inside(&pod, "ip", "route add 203.0.113.0/24 via 10.83.0.1 onlink dev eth0");
            bed.check(&pod)
        },
    ),
    must("check.consults.address", CHECK, "CHECK goes by the addresses of prevResult")
        .on(On::Link)
        .since("0.4.0")
        .check(|bed| told(bed, |result| result["ips"][0]["address"] = json!("10.83.0.199/24"))),
    must("check.consults.interface", CHECK, "CHECK goes by the interfaces of prevResult")
        .on(On::Link)
        .since("0.4.0")
        .check(|bed| told(bed, |result| result["interfaces"] = json!([]))),
    should("check.consults.mac", CHECK, "CHECK goes by the mac of the container's interface in prevResult")
        .on(On::Link)
        .since("0.4.0")
        .check(|bed| {
            told(bed, |result| {
                for one in result["interfaces"].as_array_mut().into_iter().flatten() {
                    if !one["sandbox"].as_str().unwrap_or_default().is_empty() {
                        one["mac"] = json!("02:99:99:99:99:99");
                    }
                }
            })
        }),
    must("check.prev-result-broken", CHECK, "CHECK with a prevResult that is none is an error")
        .on(On::Attaching)
        .since("0.4.0")
        .check(|bed| {
            let pod = bed.pod();
            bed.add(&pod)?;
            bed.ask("CHECK", &pod).set("/prevResult", json!(["nonsense"])).run().fails().map(drop)
        }),
    should("check.lease-gone", OTHERS, "CHECK sees that the address is not reserved any more")
        .on(On::Addressing)
        .since("0.4.0")
        .check(|bed| {
            let pod = bed.pod();
            let result = bed.add(&pod)?;
            let lease = bed.dir().join("leases").join(NETWORK).join(first_address(&result));
            if !lease.is_file() {
                return Err(Trouble::Untried("its IPAM plugin keeps no file for an address".into()));
            }
            bed.run("rm", &[&lease.to_string_lossy()]);
            bed.ask("CHECK", &pod).run().fails().map(drop)
        }),
    should("check.lease-stolen", OTHERS, "CHECK sees that somebody else has the address")
        .on(On::Addressing)
        .since("0.4.0")
        .check(|bed| {
            let pod = bed.pod();
            let result = bed.add(&pod)?;
            let name = format!("leases/{}/{}", NETWORK, first_address(&result));
            if !bed.dir().join(&name).is_file() {
                return Err(Trouble::Untried("its IPAM plugin keeps no file for an address".into()));
            }
            bed.file(&name, "somebody-else\r\neth0", 0o600);
            bed.ask("CHECK", &pod).run().fails().map(drop)
        }),
    must("check.others-die", CHECK, "CHECK passes though another attachment was deleted")
        .on(On::Configured)
        .since("0.4.0")
        .check(|bed| {
            let (stays, goes) = (bed.pod(), bed.pod());
            bed.add(&stays)?;
            bed.add(&goes)?;
            bed.del(&goes)?;
            bed.check(&stays)
        }),
    convention("check.twice", CHECK, "CHECK passes as often as it is asked")
        .on(On::Configured)
        .since("0.4.0")
        .check(|bed| {
            let pod = bed.pod();
            bed.add(&pod)?;
            for _ in 0..5 {
                bed.check(&pod)?;
            }
            Ok(())
        }),
];

/// CHECK fails after `damage`, and passed before it.
pub fn broken(bed: &Bed, damage: impl Fn(&Pod) -> Verdict) -> Verdict {
    let pod = bed.pod();
    bed.add(&pod)?;
    bed.check(&pod)?;
    damage(&pod)?;
    bed.ask("CHECK", &pod).run().fails().map(drop)
}

/// As [`broken`], by `ip` in the container; `ADDRESS` and `IP` stand for its address with and without prefix length.
fn inside(bed: &Bed, commands: &[&str]) -> Verdict {
    let pod = bed.pod();
    let result = bed.add(&pod)?;
    bed.check(&pod)?;
    let address = addresses(&result).into_iter().next().unwrap_or_default();
    for command in commands {
        bed.inside(&pod, "ip", &command.replace("ADDRESS", &address).replace("IP", &first_address(&result)));
    }
    bed.ask("CHECK", &pod).run().fails().map(drop)
}

/// CHECK fails when prevResult tells something else than the kernel.
fn told(bed: &Bed, change: impl Fn(&mut Value)) -> Verdict {
    let pod = bed.pod();
    let mut result = bed.add(&pod)?;
    expect!(!list(&result["ips"]).is_empty(), "a result with ips", "{result}");
    change(&mut result);
    bed.ask("CHECK", &pod).set("/prevResult", result).run().fails().map(drop)
}
