//! Section 2, ADD.

use super::{addresses, list, routes};
use crate::expect;
use crate::suite::{Bed, Case, On, Pod, Trouble, Verdict, convention, must, should};
use serde_json::{Value, json};

const ADD: &str = "Section 2: ADD";
const SUCCESS: &str = "Section 5: ADD Success";
const LIFE: &str = "Section 3: Lifecycle & Ordering";
const PROCEDURE: &str = "Section 4: Delegated plugin execution procedure";

pub const CASES: &[Case] = &[
    must("add.creates", ADD, "ADD makes the interface CNI_IFNAME in the container").on(On::Link).check(
        |bed| {
            let pod = bed.pod();
            bed.add(&pod)?;
            let link = bed.try_inside(&pod, "ip", &format!("-o link show {}", pod.ifname));
            expect!(link.is_ok(), "the interface in the container", "{link:?}");
            Ok(())
        },
    ),
    must("add.up", ADD, "the interface is up").on(On::Link).check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        let link = bed.inside(&pod, "ip", &format!("-o link show {}", pod.ifname));
        expect!(link.contains("UP"), "the interface up", "{link}");
        Ok(())
    }),
    must("add.ifname-exists", ADD, "an error when the container has an interface of that name")
        .on(On::Link)
        .check(|bed| {
            bed.warm()?;
            let pod = bed.pod();
            bed.inside(&pod, "ip", "link add eth0 type veth peer name other");
            let (host, inside) = (bed.look(), bed.look_inside(&pod));
            bed.ask("ADD", &pod).run().fails()?;
            bed.is_back_to(&host)?;
            bed.is_back_inside(&pod, &inside)
        }),
    must("add.prints-result", ADD, "ADD prints a result").on(On::Configured).each().check(|bed| {
        let pod = bed.pod();
        bed.add(&pod).map(drop)
    }),
    must(
        "add.result.interface",
        SUCCESS,
        "the result has the container's interface, with CNI_NETNS as its sandbox",
    )
    .on(On::Link)
    .since("0.3.0")
    .check(|bed| {
        let pod = bed.pod();
        let result = bed.add(&pod)?;
        own_interface(&result, &pod).map(drop)
    }),
    must("add.result.mac", SUCCESS, "the mac of each interface in the result is the kernel's")
        .on(On::Link)
        .since("0.3.0")
        .check(|bed| {
            let pod = bed.pod();
            let result = bed.add(&pod)?;
            for interface in list(&result["interfaces"]) {
                let (name, mac) = (text(&interface["name"]), text(&interface["mac"]));
                let link = link_of(bed, &pod, interface)?;
                expect!(
                    link["address"] == mac,
                    format!("{name} with the mac that the result says, {mac}"),
                    "{link}"
                );
            }
            Ok(())
        }),
    should("add.result.mtu", SUCCESS, "an mtu in the result is the kernel's")
        .on(On::Link)
        .since("1.1.0")
        .check(|bed| {
            let pod = bed.pod();
            let result = bed.add(&pod)?;
            for interface in
                list(&result["interfaces"]).iter().filter(|interface| !interface["mtu"].is_null())
            {
                let link = link_of(bed, &pod, interface)?;
                expect!(link["mtu"] == interface["mtu"], format!("the mtu of {interface}"), "{link}");
            }
            Ok(())
        }),
    must("add.result.addresses", SUCCESS, "the addresses of the result are on the interface that it says")
        .on(On::Link)
        .check(|bed| {
            let pod = bed.pod();
            let result = bed.add(&pod)?;
            let there = bed.inside(&pod, "ip", &format!("-o addr show dev {}", pod.ifname));
            let wanted = addresses(&result);
            expect!(!wanted.is_empty(), "an address in the result", "{result}");
            for address in wanted {
                expect!(
                    there.contains(&format!("{address} ")),
                    format!("{address} on {}", pod.ifname),
                    "{there}"
                );
            }
            Ok(())
        }),
    must("add.result.index", SUCCESS, "interface of an address is an index into interfaces")
        .on(On::Link)
        .since("0.3.0")
        .check(|bed| {
            let pod = bed.pod();
            let result = bed.add(&pod)?;
            for ip in list(&result["ips"]) {
                let at = ip["interface"].as_u64().and_then(|at| usize::try_from(at).ok());
                let named = at.and_then(|at| list(&result["interfaces"]).get(at));
                let right = named.is_some_and(|interface| interface["name"] == *pod.ifname);
                expect!(right, format!("the index of {}", pod.ifname), "{result}");
            }
            Ok(())
        }),
    must("add.result.routes", SUCCESS, "the routes of the result are in the container").on(On::Link).check(
        |bed| {
            let pod = bed.pod();
            let result = bed.add(&pod)?;
            let there = bed.inside(&pod, "ip", "route show");
            for route in routes(&result) {
                let dst = text(&route["dst"]);
                let dst = if dst == "0.0.0.0/0" { "default" } else { dst };
                expect!(
                    there.lines().any(|line| line.starts_with(&format!("{dst} "))),
                    format!("a route to {dst}"),
                    "{there}"
                );
            }
            Ok(())
        },
    ),
    must("add.result.version", SUCCESS, "cniVersion of the result is the config's")
        .on(On::Configured)
        .each()
        .check(|bed| {
            let pod = bed.pod();
            let result = bed.add(&pod)?;
            expect!(result["cniVersion"] == *bed.version, format!("cniVersion {}", bed.version), "{result}");
            Ok(())
        }),
    must("add.others.untouched", ADD, "other interfaces of the container stay as they are")
        .on(On::Link)
        .check(|bed| {
            bed.warm()?;
            let pod = bed.pod();
            bed.inside(&pod, "ip", "link add other type veth peer name another");
            bed.inside(&pod, "ip", "link set other up");
            bed.inside(&pod, "ip", "addr add 198.51.100.1/24 dev other");
            let show = || bed.inside(&pod, "ip", "-o addr show dev other");
            let before = show();
            bed.add(&pod)?;
            let now = show();
            expect!(before == now, before, "{now}");
            bed.del(&pod)?;
            let now = show();
            expect!(before == now, before, "{now}");
            Ok(())
        }),
    must("add.two-interfaces", ADD, "a container may be added twice, by two interface names")
        .on(On::Delegating)
        .check(|bed| {
            let pod = bed.pod();
            let second = bed.second_interface(&pod, "eth1");
            let (first, other) = (bed.add(&pod)?, bed.add(&second)?);
            expect!(addresses(&first) != addresses(&other), "two addresses", "{first} and {other}");
            bed.del(&second)?;
            let left = bed.try_inside(&pod, "ip", "link show eth0");
            expect!(left.is_ok(), "eth0 is there after DEL of eth1", "{left:?}");
            bed.del(&pod)
        }),
    must("add.two-networks", LIFE, "a container may be in two networks, each with a default route")
        .on(On::Addressing)
        .check(|bed| {
            let (pod, second) = two_networks(bed)?;
            check_where_it_is(bed, bed.ask("CHECK", &pod))?;
            check_where_it_is(bed, in_other_network(bed, "CHECK", &second))?;
            in_other_network(bed, "DEL", &second).run().is_silent()?;
            check_where_it_is(bed, bed.ask("CHECK", &pod))?;
            bed.del(&pod)
        }),
    must("del.first-network", LIFE, "a container may leave the network that it joined first")
        .on(On::Addressing)
        .check(|bed| {
            let (pod, second) = two_networks(bed)?;
            bed.del(&pod)?;
            check_where_it_is(bed, in_other_network(bed, "CHECK", &second))?;
            in_other_network(bed, "DEL", &second).run().is_silent()
        }),
    convention(
        "add.two-default-routes",
        "what the reference plugins do",
        "of two networks' default routes that of the later is in use, and the other one stands by",
    )
    .on(On::Delegating)
    .check(|bed| {
        let (pod, _second) = two_networks(bed)?;
        let routes = bed.inside(&pod, "ip", "-4 route show default");
        let links: Vec<&str> = routes.lines().filter_map(|line| line.split_whitespace().nth(4)).collect();
        expect!(links == ["eth1", "eth0"], "default routes over eth1, then eth0", "{routes}");
        Ok(())
    }),
    must("add.again", ADD, "ADD of an attachment that lives is an error, and the attachment goes on living")
        .on(On::Link)
        .check(|bed| {
            let pod = bed.pod();
            bed.add(&pod)?;
            let (host, inside) = (bed.look(), bed.look_inside(&pod));
            bed.ask("ADD", &pod).run().fails()?;
            bed.is_back_to(&host)?;
            bed.is_back_inside(&pod, &inside)
        }),
    should("add.after-del", LIFE, "a deleted container can be added again").on(On::Configured).check(|bed| {
        let pod = bed.pod();
        for _ in 0..3 {
            bed.add(&pod)?;
            bed.del(&pod)?;
        }
        Ok(())
    }),
    should("add.failed.no-ipam", PROCEDURE, "ADD without its IPAM plugin fails and leaves nothing")
        .on(On::Delegating)
        .check(|bed| {
            fails_clean(bed, |bed, pod| {
                bed.ask("ADD", pod).set("/ipam/type", "no-such-plugin").run().fails().map(drop)
            })
        }),
    should(
        "add.failed.no-path",
        PROCEDURE,
        "ADD with a CNI_PATH that its IPAM plugin is not in fails and leaves nothing",
    )
    .on(On::Delegating)
    .check(|bed| {
        fails_clean(bed, |bed, pod| bed.ask("ADD", pod).env("CNI_PATH", "/nowhere").run().fails().map(drop))
    }),
    should("add.failed.no-address", ADD, "ADD without an address left fails and leaves nothing")
        .on(On::Addressing)
        .check(|bed| {
            let small = json!([[{"subnet": "10.83.0.0/30"}]]);
            let holder = bed.pod();
            bed.added(&holder, bed.ask("ADD", &holder).set("/ipam/ranges", small.clone()))?;
            let pod = bed.pod();
            let (host, inside) = (bed.look(), bed.look_inside(&pod));
            bed.ask("ADD", &pod).set("/ipam/ranges", small).run().fails()?;
            bed.is_back_to(&host)?;
            bed.is_back_inside(&pod, &inside)
        }),
    should("add.failed.bad-route", ADD, "ADD with a route that the kernel refuses fails and leaves nothing")
        .on(On::Delegating)
        .check(|bed| {
            let routes = json!([{"dst": "198.51.100.0/24", "gw": "203.0.113.1"}]);
            fails_clean(bed, |bed, pod| {
                bed.ask("ADD", pod).set("/ipam/routes", routes.clone()).run().fails().map(drop)
            })
        }),
    should("add.failed.stdout", ADD, "ADD whose result can't be printed leaves nothing").on(On::Link).check(
        |bed| {
            fails_clean(bed, |bed, pod| {
                let reply = bed.ask("ADD", pod).through("/bin/sh", &["-c", "\"$0\" >/dev/full"]).run();
                expect!(reply.0.code.is_some_and(|code| code != 0), "failure", "{}", reply.seen());
                Ok(())
            })
        },
    ),
    convention("add.failed.del", LIFE, "DEL after an ADD that failed leaves nothing")
        .on(On::Delegating)
        .check(|bed| {
            bed.warm()?;
            let pod = bed.pod();
            let (host, inside) = (bed.look(), bed.look_inside(&pod));
            let routes = json!([{"dst": "198.51.100.0/24", "gw": "203.0.113.1"}]);
            bed.ask("ADD", &pod).set("/ipam/routes", routes.clone()).run().fails()?;
            bed.ask("DEL", &pod).set("/ipam/routes", routes).run().is_silent()?;
            bed.is_back_to(&host)?;
            bed.is_back_inside(&pod, &inside)
        }),
    convention("add.failed.again", LIFE, "a container whose ADD failed and that was deleted can be added")
        .on(On::Delegating)
        .check(|bed| {
            let pod = bed.pod();
            bed.ask("ADD", &pod).set("/ipam/type", "no-such-plugin").run().fails()?;
            bed.ask("DEL", &pod).run().is_silent()?;
            bed.add(&pod).map(drop)
        }),
];

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A container that was added to the bed's network, then by another interface to a second one.
fn two_networks(bed: &Bed) -> Result<(Pod, Pod), Trouble> {
    let pod = bed.pod();
    let second = bed.second_interface(&pod, if pod.ifname == "eth0" { "eth1" } else { "eth0" });
    bed.add(&pod)?;
    bed.added(&second, in_other_network(bed, "ADD", &second))?;
    Ok((pod, second))
}

/// A call for a network that has nothing in common with the bed's but the kinds of its routes.
fn in_other_network<'a>(bed: &'a Bed<'_>, verb: &str, pod: &Pod) -> crate::suite::Ask<'a> {
    let ask = bed.ask(verb, pod).set("/name", "net2");
    let ask = if ask.conf["bridge"].is_null() { ask } else { ask.set("/bridge", "br2") };
    let ask = ask.set("/ipam/ranges", json!([[{"subnet": "10.84.0.0/24"}]]));
    ask.set("/ipam/routes", json!([{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24"}]))
}

/// CHECK came with 0.4.0.
fn check_where_it_is(bed: &Bed, ask: crate::suite::Ask) -> Result<(), Trouble> {
    if bed.version < "0.4.0" { Ok(()) } else { ask.run().is_silent() }
}

/// The container's interface in a result.
fn own_interface<'a>(result: &'a Value, pod: &Pod) -> Result<&'a Value, Trouble> {
    let sandbox = pod.path.to_string_lossy();
    let found = list(&result["interfaces"])
        .iter()
        .find(|one| one["name"] == *pod.ifname && one["sandbox"] == *sandbox);
    found.ok_or_else(|| {
        Trouble::deviation(format!("{} with sandbox {sandbox}", pod.ifname), result.to_string())
    })
}

/// What the kernel says about an interface of a result.
fn link_of(bed: &Bed, pod: &Pod, interface: &Value) -> Result<Value, Trouble> {
    let name = text(&interface["name"]);
    let outside = text(&interface["sandbox"]).is_empty();
    let found = if outside {
        Ok(bed.ip(&format!("-j link show {name}")))
    } else {
        bed.try_inside(pod, "ip", &format!("-j link show {name}"))
    };
    let found = found.map_err(|why| Trouble::deviation(format!("the interface {name}"), why))?;
    let links: Value = serde_json::from_str(&found).unwrap_or_default();
    Ok(links[0].clone())
}

/// The call fails, and host and container are as before.
fn fails_clean(bed: &Bed, call: impl Fn(&Bed, &Pod) -> Verdict) -> Verdict {
    bed.warm()?;
    let pod = bed.pod();
    let (host, inside) = (bed.look(), bed.look_inside(&pod));
    call(bed, &pod)?;
    bed.is_back_to(&host)?;
    bed.is_back_inside(&pod, &inside)
}
