//! `bridge` (<https://www.cni.dev/plugins/current/main/bridge/>).

use crate::cases::check::broken;
use crate::cases::{first_address, list, pings};
use crate::expect;
use crate::suite::{Ask, Bed, Case, On, Pod, Trouble, Verdict, convention, must, should};
use serde_json::{Value, json};

const OPTIONS: &str = "bridge: Network configuration reference";
const CHECK: &str = "Section 2: CHECK, resources that the result does not tell of";
const ISSUES: &str = "what operators of bridge report";

const fn bridge(case: Case) -> Case {
    case.on(On::Plugin("bridge")).since("1.0.0")
}

pub const CASES: &[Case] = &[
    bridge(must("bridge.made", OPTIONS, "bridge: it is made when it is missing, and up")).check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        let link = bed.ip("-d link show br0");
        expect!(link.contains("bridge ") && link.contains("UP"), "a bridge br0 that is up", "{link}");
        Ok(())
    }),
    bridge(must("bridge.port", OPTIONS, "the host's end of the veth is a port of the bridge")).check(|bed| {
        let port = port(bed)?;
        expect!(port["master"] == "br0", "master br0", "{port}");
        Ok(())
    }),
    bridge(must("bridge.existing", OPTIONS, "a bridge that is there is used, and its MTU left alone")).check(|bed| {
        bed.ip("link add br0 type bridge");
        bed.ip("link set br0 mtu 1400");
        let pod = bed.pod();
        bed.add(&pod)?;
        let link = bed.ip("-o link show br0");
        expect!(link.contains("mtu 1400"), "mtu 1400", "{link}");
        Ok(())
    }),
    bridge(must("bridge.no-bridge", OPTIONS, "bridge: a link of that name that is none is an error, and left alone")).check(|bed| {
        bed.ip("link add br0 type veth peer name br1");
        let before = bed.look();
        bed.ask("ADD", &bed.pod()).run().fails()?;
        bed.is_back_to(&before)
    }),
    bridge(must("bridge.gateway", OPTIONS, "isGateway: the bridge has the gateway's address")).check(|bed| {
        let pod = bed.pod();
        let result = bed.add(&pod)?;
        let there = bed.ip("-o addr show dev br0");
        expect!(there.contains("10.83.0.1/24"), "10.83.0.1/24 on br0", "{there}");
        expect!(result["ips"][0]["gateway"] == "10.83.0.1", "gateway 10.83.0.1", "{result}");
        Ok(())
    }),
    bridge(must("bridge.gateway-forwards", OPTIONS, "isGateway: the host forwards")).check(|bed| {
        let pod = bed.pod();
        bed.run("sh", &["-c", "echo 0 >/proc/sys/net/ipv4/ip_forward"]);
        bed.add(&pod)?;
        let forwards = bed.run("cat", &["/proc/sys/net/ipv4/ip_forward"]);
        expect!(forwards.trim() == "1", "net.ipv4.ip_forward 1", "{forwards}");
        Ok(())
    }),
    bridge(must("bridge.gateway-answers", OPTIONS, "isGateway: the container reaches its gateway")).check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        pings(bed, &pod, "10.83.0.1")
    }),
    bridge(must("bridge.pods-talk", OPTIONS, "containers of one bridge reach each other")).check(|bed| {
        let (one, other) = (bed.pod(), bed.pod());
        bed.add(&one)?;
        let result = bed.add(&other)?;
        pings(bed, &one, &first_address(&result))
    }),
    bridge(must("bridge.default-gateway", OPTIONS, "isDefaultGateway: the default route leads to the bridge")).check(|bed| {
        let pod = bed.pod();
        let result = bed.added(&pod, bed.ask("ADD", &pod).set("/isDefaultGateway", true).set("/ipam/routes", json!([])))?;
        let there = bed.inside(&pod, "ip", "route show default");
        expect!(there.contains("via 10.83.0.1"), "default via 10.83.0.1", "{there}");
        let told = list(&result["routes"]).iter().any(|route| route["dst"] == "0.0.0.0/0" && route["gw"] == "10.83.0.1");
        expect!(told, "the default route in the result", "{result}");
        Ok(())
    }),
    bridge(must("bridge.default-gateway-twice", OPTIONS, "isDefaultGateway: a default route that IPAM gives is no obstacle")).check(|bed| {
        let pod = bed.pod();
        let ask = bed.ask("ADD", &pod).set("/isDefaultGateway", true).set("/ipam/routes", json!([{"dst": "0.0.0.0/0"}]));
        bed.added(&pod, ask)?;
        let there = bed.inside(&pod, "ip", "route show default");
        expect!(there.lines().count() == 1, "one default route", "{there}");
        Ok(())
    }),
    bridge(must("bridge.no-gateway", OPTIONS, "without isGateway the bridge gets no address")).check(|bed| {
        let pod = bed.pod();
        let ask = bed.ask("ADD", &pod).set("/isGateway", false).set("/ipMasq", false).set("/ipam/routes", json!([]));
        bed.added(&pod, ask)?;
        let there = bed.ip("-4 -o addr show dev br0");
        expect!(there.is_empty(), "no address on br0", "{there}");
        Ok(())
    }),
    bridge(must("bridge.address-conflict", ISSUES, "another address on the bridge is an error that names both, and leaves nothing")).check(|bed| {
        bed.ip("link add br0 type bridge");
        bed.ip("link set br0 up");
        bed.ip("addr add 10.99.0.1/16 dev br0");
        let pod = bed.pod();
        let before = (bed.look(), bed.look_inside(&pod));
        bed.ask("ADD", &pod).run().fails_naming(&["10.83.0.1/24"])?;
        bed.is_back_to(&before.0)?;
        bed.is_back_inside(&pod, &before.1)
    }),
    bridge(must("bridge.force-address", OPTIONS, "forceAddress: another address on the bridge is replaced")).check(|bed| {
        bed.ip("link add br0 type bridge");
        bed.ip("link set br0 up");
        bed.ip("addr add 10.99.0.1/16 dev br0");
        let pod = bed.pod();
        bed.added(&pod, bed.ask("ADD", &pod).set("/forceAddress", true))?;
        let there = bed.ip("-4 -o addr show dev br0");
        expect!(there.contains("10.83.0.1/24") && !there.contains("10.99.0.1"), "10.83.0.1/24 alone", "{there}");
        Ok(())
    }),
    bridge(must("bridge.masquerade", OPTIONS, "ipMasq: what leaves the subnet has the host's address")).check(|bed| {
        let (pod, world) = (bed.pod(), bed.pod());
        bed.ip(&format!("link add up0 type veth peer name eth0 netns {}", world.path.display()));
        bed.ip("addr add 198.51.100.1/24 dev up0");
        bed.ip("link set up0 up");
        bed.inside(&world, "ip", "addr add 198.51.100.9/24 dev eth0");
        bed.inside(&world, "ip", "link set eth0 up");
        bed.add(&pod)?;
        // The world knows no way back to the container: it answers because it sees the host.
        pings(bed, &pod, "198.51.100.9")
    }),
    bridge(must("bridge.masquerade-off", OPTIONS, "without ipMasq nothing is masqueraded")).check(|bed| {
        let pod = bed.pod();
        bed.added(&pod, bed.ask("ADD", &pod).set("/ipMasq", false))?;
        let rules = bed.run("nft", &["list", "ruleset"]);
        expect!(!rules.contains("masquerade"), "no masquerade rule", "{rules}");
        Ok(())
    }),
    bridge(must("bridge.hairpin", OPTIONS, "hairpinMode: the port sends frames back where they came from")).check(|bed| {
        let port = port_with(bed, |ask| ask.set("/hairpinMode", true))?;
        expect!(port["linkinfo"]["info_slave_data"]["hairpin"] == true, "hairpin on", "{port}");
        Ok(())
    }),
    bridge(must("bridge.promiscuous", OPTIONS, "promiscMode: the bridge is promiscuous")).check(|bed| {
        let pod = bed.pod();
        bed.added(&pod, bed.ask("ADD", &pod).set("/promiscMode", true))?;
        let link = bed.ip("-d -o link show br0");
        expect!(link.contains("promiscuity 1") || link.contains("PROMISC"), "br0 promiscuous", "{link}");
        Ok(())
    }),
    bridge(must("bridge.hairpin-or-promiscuous", OPTIONS, "hairpinMode and promiscMode exclude each other")).check(|bed| {
        bed.ask("ADD", &bed.pod()).set("/hairpinMode", true).set("/promiscMode", true).run().fails().map(drop)
    }),
    bridge(must("bridge.mtu", OPTIONS, "mtu: both ends of the veth have it")).check(|bed| {
        let pod = bed.pod();
        bed.added(&pod, bed.ask("ADD", &pod).set("/mtu", 1400))?;
        let (inside, port) = (bed.inside(&pod, "ip", "-o link show eth0"), port_of(bed)?);
        expect!(inside.contains("mtu 1400") && port["mtu"] == 1400, "mtu 1400", "{inside} and {port}");
        Ok(())
    }),
    bridge(must("bridge.mtu-bad", OPTIONS, "mtu: a value that the kernel refuses is an error, and leaves nothing")).check(|bed| {
        bed.warm()?;
        let pod = bed.pod();
        let before = bed.look();
        bed.ask("ADD", &pod).set("/mtu", 10_000_000).run().fails()?;
        bed.is_back_to(&before)
    }),
    bridge(must("bridge.mac-args", OPTIONS, "CNI_ARGS MAC: the container's interface has it")).check(|bed| {
        mac(bed, |ask| ask.env("CNI_ARGS", "IgnoreUnknown=1;MAC=c2:11:22:33:44:55"))
    }),
    bridge(must("bridge.mac-capability", OPTIONS, "runtimeConfig.mac: the container's interface has it")).check(|bed| {
        mac(bed, |ask| ask.set("/runtimeConfig/mac", "c2:11:22:33:44:55"))
    }),
    bridge(convention("bridge.mac-bad", ISSUES, "a mac that is none is an error that names it")).check(|bed| {
        bed.ask("ADD", &bed.pod()).set("/runtimeConfig/mac", "zz:11").run().fails_naming(&["zz:11"])
    }),
    bridge(must("bridge.layer2", OPTIONS, "without ipam: an interface that is up, without addresses")).check(|bed| {
        let pod = bed.pod();
        let result = bed.added(&pod, layer2(bed, "ADD", &pod))?;
        expect!(list(&result["ips"]).is_empty(), "no ips", "{result}");
        let link = bed.inside(&pod, "ip", "-o link show eth0");
        expect!(link.contains("UP"), "eth0 up", "{link}");
        layer2(bed, "DEL", &pod).run().is_silent()
    }),
    bridge(must("bridge.layer2-check", "Section 2: CHECK", "without ipam: CHECK passes after ADD")).check(|bed| {
        let pod = bed.pod();
        bed.added(&pod, layer2(bed, "ADD", &pod))?;
        layer2(bed, "CHECK", &pod).run().is_silent()
    }),
    bridge(should("bridge.layer2-old", "Section 5: ADD Success", "without ipam, a version without interfaces has no result: ADD leaves nothing"))
        .check(|bed| {
            let pod = bed.pod();
            bed.added(&pod, layer2(bed, "ADD", &pod))?;
            layer2(bed, "DEL", &pod).run().is_silent()?;
            let before = (bed.look(), bed.look_inside(&pod));
            layer2(bed, "ADD", &pod).set("/cniVersion", "0.2.0").run().fails()?;
            bed.is_back_to(&before.0)?;
            bed.is_back_inside(&pod, &before.1)
        }),
    bridge(must("bridge.dual-stack", OPTIONS, "two ranges: an IPv4 and an IPv6 address, and both gateways answer")).check(|bed| {
        let pod = bed.pod();
        let ranges = json!([[{"subnet": "10.83.0.0/24"}], [{"subnet": "fd00:83::/64"}]]);
        let ask = bed.ask("ADD", &pod).set("/ipam/ranges", ranges).set("/ipam/routes", json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]));
        let result = bed.added(&pod, ask)?;
        expect!(list(&result["ips"]).len() == 2, "two addresses", "{result}");
        pings(bed, &pod, "10.83.0.1")?;
        pings(bed, &pod, "fd00:83::1")
    }),
    bridge(must("bridge.v6-at-once", ISSUES, "after ADD packets reach the container's IPv6 address")).check(|bed| {
        let pod = bed.pod();
        let ranges = json!([[{"subnet": "fd00:83::/64"}]]);
        let ask = bed.ask("ADD", &pod).set("/ipam/ranges", ranges).set("/ipam/routes", json!([]));
        let result = bed.added(&pod, ask)?;
        let there = bed.inside(&pod, "ip", "-6 route show table local");
        let address = first_address(&result);
        expect!(there.contains(&format!("local {address} ")), format!("a local route of {address}"), "{there}");
        let tentative = bed.inside(&pod, "ip", "-6 -o addr show dev eth0 scope global tentative");
        expect!(tentative.is_empty(), "no tentative address", "{tentative}");
        Ok(())
    }),
    bridge(must("bridge.dns", OPTIONS, "dns: the config's is the result's")).check(|bed| {
        let dns = json!({"nameservers": ["192.0.2.53"], "domain": "example.org", "search": ["a.example.org"], "options": ["ndots:3"]});
        let pod = bed.pod();
        let result = bed.added(&pod, bed.ask("ADD", &pod).set("/dns", dns.clone()))?;
        expect!(result["dns"] == dns, format!("{dns}"), "{result}");
        Ok(())
    }),
    bridge(must("bridge.vlan-bad", OPTIONS, "vlan: 4095 and more is an error that names it")).check(|bed| {
        bed.ask("ADD", &bed.pod()).set("/vlan", 5000).run().fails_naming(&["5000"])
    }),
    bridge(must("bridge.vlan", OPTIONS, "vlan: the port is in that VLAN, untagged")).check(|bed| {
        let filtering = std::process::Command::new("ip").args("link add probe0 type bridge vlan_filtering 1".split(' ')).output();
        if !filtering.is_ok_and(|output| output.status.success()) {
            return Err(Trouble::Untried("this kernel's bridges do not filter VLANs".into()));
        }
        bed.ip("link del probe0");
        let pod = bed.pod();
        bed.added(&pod, bed.ask("ADD", &pod).set("/vlan", 100).set("/isGateway", false).set("/ipMasq", false).set("/ipam/routes", json!([])))?;
        let port = port_of(bed)?;
        let vlans = bed.run("bridge", &["vlan", "show", "dev", port["ifname"].as_str().unwrap_or_default()]);
        expect!(vlans.contains("100 PVID Egress Untagged"), "VLAN 100, PVID, untagged", "{vlans}");
        Ok(())
    }),
    bridge(must("bridge.spoof", OPTIONS, "macspoofchk: frames with another mac are dropped")).check(|bed| {
        let pod = bed.pod();
        bed.added(&pod, bed.ask("ADD", &pod).set("/macspoofchk", true))?;
        pings(bed, &pod, "10.83.0.1")?;
        bed.inside(&pod, "ip", "link set eth0 address 02:66:66:66:66:66");
        bed.inside(&pod, "ip", "neigh flush all");
        let answer = bed.try_inside(&pod, "ping", "-c 1 -W 1 10.83.0.1");
        expect!(answer.is_err(), "no answer", "{answer:?}");
        Ok(())
    }),
    bridge(must("bridge.spoof-del", "Section 2: DEL", "macspoofchk: DEL with a dead namespace leaves no rules")).check(|bed| {
        let ask = |verb: &str, pod: &Pod| bed.ask(verb, pod).set("/macspoofchk", true);
        let first = bed.pod();
        bed.added(&first, ask("ADD", &first))?;
        ask("DEL", &first).run().is_silent()?;
        let before = bed.look();
        let pod = bed.pod();
        bed.added(&pod, ask("ADD", &pod))?;
        bed.kill(&pod);
        ask("DEL", &pod).run().is_silent()?;
        bed.is_back_to(&before)
    }),
    bridge(convention("bridge.isolation", "bridge: portIsolation, since plugins 1.7", "portIsolation: the port is isolated")).check(|bed| {
        let port = port_with(bed, |ask| ask.set("/portIsolation", true))?;
        expect!(port["linkinfo"]["info_slave_data"]["isolated"] == true, "isolated on", "{port}");
        Ok(())
    }),
    bridge(convention("bridge.interface-down", "bridge: disableContainerInterface, since plugins 1.4", "disableContainerInterface: it stays down"))
        .check(|bed| {
            let pod = bed.pod();
            bed.added(&pod, layer2(bed, "ADD", &pod).set("/disableContainerInterface", true))?;
            let link = bed.inside(&pod, "ip", "-o link show eth0");
            expect!(link.contains("state DOWN"), "eth0 down", "{link}");
            Ok(())
        }),
    bridge(should("bridge.check-bridge", CHECK, "CHECK sees that the bridge is gone")).check(|bed| {
        broken_by(bed, |bed| bed.ip("link del br0"))
    }),
    bridge(should("bridge.check-port", CHECK, "CHECK sees that the veth is no port any more")).check(|bed| {
        damaged(bed, |bed, port| drop(bed.ip(&format!("link set {port} nomaster"))))
    }),
    bridge(should("bridge.check-port-down", CHECK, "CHECK sees that the host's end of the veth is down")).check(|bed| {
        damaged(bed, |bed, port| drop(bed.ip(&format!("link set {port} down"))))
    }),
    bridge(should("bridge.check-bridge-down", CHECK, "CHECK sees that the bridge is down")).check(|bed| {
        broken_by(bed, |bed| bed.ip("link set br0 down"))
    }),
    bridge(should("bridge.check-gateway", CHECK, "CHECK sees that the bridge lost the gateway's address")).check(|bed| {
        broken_by(bed, |bed| bed.ip("addr del 10.83.0.1/24 dev br0"))
    }),
    bridge(should("bridge.check-masquerade", CHECK, "CHECK sees that the masquerading is gone")).check(|bed| {
        broken_by(bed, |bed| bed.run("nft", &["flush", "ruleset"]))
    }),
    bridge(should("bridge.check-hairpin", CHECK, "CHECK sees that hairpinMode is off")).check(|bed| {
        let pod = bed.pod();
        let ask = |verb: &str| bed.ask(verb, &pod).set("/hairpinMode", true);
        bed.added(&pod, ask("ADD"))?;
        ask("CHECK").run().is_silent()?;
        let port = port_of(bed)?;
        bed.ip(&format!("link set {} type bridge_slave hairpin off", port["ifname"].as_str().unwrap_or_default()));
        ask("CHECK").run().fails().map(drop)
    }),
    bridge(should("bridge.check-forwarding", CHECK, "CHECK sees that the host does not forward any more")).check(|bed| {
        broken_by(bed, |bed| bed.run("sh", &["-c", "echo 0 >/proc/sys/net/ipv4/ip_forward"]))
    }),
];

fn layer2<'a>(bed: &'a Bed<'_>, verb: &str, pod: &Pod) -> Ask<'a> {
    bed.ask(verb, pod).unset("ipam").set("/isGateway", false).set("/ipMasq", false)
}

/// The port of the bridge, as `ip` tells it.
fn port_of(bed: &Bed) -> Result<Value, Trouble> {
    let links: Value = serde_json::from_str(&bed.ip("-j -d link show type veth")).unwrap_or_default();
    let port = list(&links).iter().find(|link| link["master"] == "br0").cloned();
    port.ok_or_else(|| Trouble::deviation("a port of br0", links.to_string()))
}

fn port_with<'a, 'b: 'a>(bed: &'a Bed<'b>, change: impl Fn(Ask<'a>) -> Ask<'a>) -> Result<Value, Trouble> {
    let pod = bed.pod();
    bed.added(&pod, change(bed.ask("ADD", &pod)))?;
    port_of(bed)
}

fn port(bed: &Bed) -> Result<Value, Trouble> {
    port_with(bed, |ask| ask)
}

fn mac<'a, 'b: 'a>(bed: &'a Bed<'b>, change: impl Fn(Ask<'a>) -> Ask<'a>) -> Verdict {
    let pod = bed.pod();
    let result = bed.added(&pod, change(bed.ask("ADD", &pod)))?;
    let link = bed.inside(&pod, "ip", "-o link show eth0");
    expect!(link.contains("c2:11:22:33:44:55"), "eth0 with c2:11:22:33:44:55", "{link}");
    let told = list(&result["interfaces"])
        .iter()
        .any(|one| one["name"] == "eth0" && one["mac"] == "c2:11:22:33:44:55");
    expect!(told, "it in the result", "{result}");
    Ok(())
}

/// CHECK sees what is done to the host.
fn broken_by(bed: &Bed, damage: impl Fn(&Bed) -> String) -> Verdict {
    broken(bed, |_| {
        damage(bed);
        Ok(())
    })
}

/// CHECK sees what is done to the port.
fn damaged(bed: &Bed, damage: impl Fn(&Bed, &str)) -> Verdict {
    broken(bed, |_| {
        let port = port_of(bed)?;
        damage(bed, port["ifname"].as_str().unwrap_or_default());
        Ok(())
    })
}
