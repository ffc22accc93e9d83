//! `portmap` (<https://www.cni.dev/plugins/current/meta/portmap/>), by real connections.

use crate::cases::bridge_before;
use crate::expect;
use crate::suite::{Ask, Bed, Case, On, Pod, Trouble, Verdict, convention, must, should};
use cni_harness::traffic::{Transport, ask_at, serve_in};
use serde_json::{Value, json};
use std::net::SocketAddr;

const OPTIONS: &str = "portmap: Network configuration reference";
const RULES: &str = "Section 2: CHECK, firewall rules";
const ISSUES: &str = "what operators of portmap report";
/// The host's address, the outside's, and a port of the host.
const HOST: &str = "198.51.100.1";
const PORT: u16 = 8080;

const fn portmap(case: Case) -> Case {
    case.on(On::Plugin("portmap")).since("1.0.0")
}

pub const CASES: &[Case] = &[
    portmap(must(
        "portmap.outside",
        OPTIONS,
        "hostPort: somebody outside reaches the container by the host's address",
    ))
    .check(|bed| reached(bed, Transport::Tcp, |_, world| Some((world, HOST)), |ask| ask)),
    portmap(must("portmap.host", OPTIONS, "hostPort: the host reaches the container by its own address"))
        .check(|bed| reached(bed, Transport::Tcp, |_, _| Some((None, HOST)), |ask| ask)),
    portmap(must("portmap.localhost", OPTIONS, "hostPort: the host reaches the container by 127.0.0.1"))
        .check(|bed| reached(bed, Transport::Tcp, |_, _| Some((None, "127.0.0.1")), |ask| ask)),
    portmap(must("portmap.itself", OPTIONS, "hostPort: the container reaches itself by the host's address"))
        .check(|bed| reached(bed, Transport::Tcp, |pod, _| Some((Some(pod), HOST)), |ask| ask)),
    portmap(must("portmap.udp", OPTIONS, "protocol udp: somebody outside reaches the container")).check(
        |bed| reached(bed, Transport::Udp, |_, world| Some((world, HOST)), |ask| ask.set(PROTOCOL, "udp")),
    ),
    portmap(must("portmap.host-ip", OPTIONS, "hostIP: the port is mapped on that address")).check(|bed| {
        reached(bed, Transport::Tcp, |_, world| Some((world, HOST)), |ask| ask.set(HOST_IP, HOST))
    }),
    portmap(must("portmap.host-ip-other", OPTIONS, "hostIP: the port is not mapped on another address"))
        .check(|bed| not_reached(bed, |ask| ask.set(HOST_IP, "198.51.100.2"))),
    portmap(must("portmap.host-ip-any", OPTIONS, "hostIP 0.0.0.0 is any address")).check(|bed| {
        reached(bed, Transport::Tcp, |_, world| Some((world, HOST)), |ask| ask.set(HOST_IP, "0.0.0.0"))
    }),
    portmap(must("portmap.no-snat", OPTIONS, "snat false: somebody outside still reaches the container"))
        .check(|bed| {
            reached(bed, Transport::Tcp, |_, world| Some((world, HOST)), |ask| ask.set("/snat", false))
        }),
    portmap(must("portmap.deleted", "Section 2: DEL", "after DEL nobody reaches it")).check(|bed| {
        let (pod, world) = town(bed);
        bed.added(&pod, mapped(bed, "ADD", &pod))?;
        mapped(bed, "DEL", &pod).run().is_silent()?;
        nobody(&world)
    }),
    portmap(must(
        "portmap.deleted-dead",
        "Section 2: DEL",
        "after DEL of a dead container the port leads to its next holder",
    ))
    .check(|bed| {
        let (old, world) = town(bed);
        bed.added(&old, mapped(bed, "ADD", &old))?;
        bed.kill(&old);
        mapped(bed, "DEL", &old).env("CNI_NETNS", "").run().is_silent()?;
        let new = bed.pod();
        serve_in(&new.path, Transport::Tcp, 80, "new");
        bed.added(&new, mapped(bed, "ADD", &new))?;
        answered(ask_from(Some(&world), Transport::Tcp, HOST).as_deref(), "new")
    }),
    portmap(must("portmap.other-container", "Section 2: DEL", "DEL leaves the ports of others alone")).check(
        |bed| {
            let (pod, world) = town(bed);
            bed.added(&pod, mapped(bed, "ADD", &pod))?;
            let other = bed.pod();
            bed.add(&other)?;
            bed.del(&other)?;
            answered(ask_from(Some(&world), Transport::Tcp, HOST).as_deref(), "pod")
        },
    ),
    portmap(must(
        "portmap.none",
        OPTIONS,
        "without portMappings there is nothing to do: the result is prevResult",
    ))
    .check(|bed| {
        let pod = bed.pod();
        let before = bed.look();
        let ask = bed.ask("ADD", &pod).set("/runtimeConfig/portMappings", json!([]));
        let earlier = ask.conf["prevResult"].clone();
        let result = bed.added(&pod, ask)?;
        expect!(result["ips"] == earlier["ips"], format!("{earlier}"), "{result}");
        bed.is_back_to(&before)
    }),
    portmap(must("portmap.port-zero", OPTIONS, "hostPort 0 is no port: an error, or ignored")).check(|bed| {
        let reply = bed.ask("ADD", &bed.pod()).set("/runtimeConfig/portMappings/0/hostPort", 0).run();
        if reply.0.is_ok() { Ok(()) } else { reply.fails().map(drop) }
    }),
    portmap(must("portmap.port-big", OPTIONS, "hostPort 65536 is an error")).check(|bed| {
        bed.ask("ADD", &bed.pod())
            .set("/runtimeConfig/portMappings/0/hostPort", 65_536)
            .run()
            .fails()
            .map(drop)
    }),
    portmap(must(
        "portmap.protocol-bad",
        OPTIONS,
        "a protocol that there is not is an error, and leaves nothing",
    ))
    .check(|bed| {
        bed.warm()?;
        let pod = bed.pod();
        let before = bed.look();
        bed.ask("ADD", &pod).set(PROTOCOL, "icmp").run().fails()?;
        bed.is_back_to(&before)
    }),
    portmap(convention("portmap.host-ip-bad", ISSUES, "a hostIP that is none is an error that names it"))
        .check(|bed| {
            bed.ask("ADD", &bed.pod()).set(HOST_IP, "198.51.100.300").run().fails_naming(&["198.51.100.300"])
        }),
    portmap(convention(
        "portmap.conflict",
        ISSUES,
        "a port that another container has is an error that names it, and stays where it is",
    ))
    .check(|bed| {
        // By the bridge of the folder: whether an attachment lives is told by what its plugin left.
        let containers = [bed.pod(), bed.pod()];
        let pods = containers.each_ref().map(|container| bed.second_interface(container, "eth7"));
        let mut results = Vec::new();
        for pod in &pods {
            results.push(bed.ask_plugin("bridge", "ADD", bridge_before(bed), pod).run().succeeds()?);
        }
        let ask = |n: usize| mapped(bed, "ADD", &pods[n]).set("/prevResult", results[n].clone());
        ask(0).run().succeeds()?;
        let before = bed.look();
        ask(1).run().fails_naming(&["8080"])?;
        bed.is_back_to(&before)
    }),
    portmap(convention(
        "portmap.two-networks",
        ISSUES,
        "a container whose mappings go to each of its networks is reached, by the second one when it leaves the first",
    ))
    .check(|bed| {
        let (pod, world) = town(bed);
        let second = bed.second_interface(&pod, "eth7");
        let mut before = bridge_before(bed);
        before["name"] = json!("net2");
        let result = bed.ask_plugin("bridge", "ADD", before, &second).run().succeeds()?;
        let ask_second =
            |verb: &str| mapped(bed, verb, &second).set("/name", "net2").set("/prevResult", result.clone());
        bed.added(&pod, mapped(bed, "ADD", &pod))?;
        ask_second("ADD").run().succeeds()?;
        answered(ask_from(Some(&world), Transport::Tcp, HOST).as_deref(), "pod")?;
        mapped(bed, "CHECK", &pod).run().is_silent()?;
        ask_second("CHECK").run().is_silent()?;
        mapped(bed, "DEL", &pod).run().is_silent()?;
        answered(ask_from(Some(&world), Transport::Tcp, HOST).as_deref(), "pod")?;
        ask_second("CHECK").run().is_silent()?;
        ask_second("DEL").run().is_silent()?;
        nobody(&world)
    }),
    portmap(must("portmap.many", OPTIONS, "forty ports of one container")).check(|bed| {
        let pod = bed.pod();
        let list: Vec<Value> =
            (0..40).map(|n| json!({"hostPort": 9000 + n, "containerPort": 80, "protocol": "tcp"})).collect();
        let ask = |verb: &str| bed.ask(verb, &pod).set("/runtimeConfig/portMappings", json!(list));
        bed.added(&pod, ask("ADD"))?;
        ask("DEL").run().is_silent()
    }),
    portmap(should("portmap.check", RULES, "CHECK sees that the rules are gone")).check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        bed.check(&pod)?;
        bed.run("nft", &["flush", "ruleset"]);
        bed.ask("CHECK", &pod).run().fails().map(drop)
    }),
    portmap(should("portmap.check-other", RULES, "CHECK sees that another port is wanted than is mapped"))
        .check(|bed| {
            let pod = bed.pod();
            bed.add(&pod)?;
            bed.check(&pod)?;
            bed.ask("CHECK", &pod).set("/runtimeConfig/portMappings/0/hostPort", 4321).run().fails().map(drop)
        }),
    portmap(convention(
        "portmap.del-unknowing",
        ISSUES,
        "DEL without portMappings removes them all the same",
    ))
    .check(|bed| {
        bed.warm()?;
        let before = bed.look();
        let pod = bed.pod();
        bed.add(&pod)?;
        bed.ask("DEL", &pod).unset("runtimeConfig").run().is_silent()?;
        bed.finish(&pod);
        bed.is_back_to(&before)
    }),
];

const PROTOCOL: &str = "/runtimeConfig/portMappings/0/protocol";
const HOST_IP: &str = "/runtimeConfig/portMappings/0/hostIP";

/// A container that answers, and somebody outside who knows the way to the host alone.
fn town(bed: &Bed) -> (Pod, Pod) {
    let (pod, world) = (bed.pod(), bed.pod());
    bed.ip(&format!("link add up0 type veth peer name up1 netns {}", world.path.display()));
    for address in [HOST, "198.51.100.2"] {
        bed.ip(&format!("addr add {address}/24 dev up0"));
    }
    bed.ip("link set up0 up");
    bed.inside(&world, "ip", "addr add 198.51.100.9/24 dev up1");
    bed.inside(&world, "ip", "link set up1 up");
    bed.run("sh", &["-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"]);
    // What the plugin before it in the chain does for a container that is to reach itself.
    bed.ip("link set vh1 type bridge_slave hairpin on");
    serve_in(&pod.path, Transport::Tcp, 80, "pod");
    serve_in(&pod.path, Transport::Udp, 80, "pod");
    (pod, world)
}

fn mapped<'a>(bed: &'a Bed<'_>, verb: &str, pod: &Pod) -> Ask<'a> {
    bed.ask(verb, pod).set(
        "/runtimeConfig/portMappings",
        json!([{"hostPort": PORT, "containerPort": 80, "protocol": "tcp"}]),
    )
}

fn ask_from(from: Option<&Pod>, transport: Transport, to: &str) -> Option<String> {
    let to: SocketAddr = format!("{to}:{PORT}").parse().ok()?;
    ask_at(from.map(|pod| pod.path.as_path()), transport, to).map(|(_, name)| name)
}

fn answered(answer: Option<&str>, want: &str) -> Verdict {
    expect!(answer == Some(want), format!("an answer of {want}"), "{answer:?}");
    Ok(())
}

fn nobody(world: &Pod) -> Verdict {
    let answer = ask_from(Some(world), Transport::Tcp, HOST);
    expect!(answer.is_none(), "no answer", "{answer:?}");
    Ok(())
}

/// The container answers who asks, from where `who` says, by the address that it says.
fn reached<'a, 'b: 'a>(
    bed: &'a Bed<'b>,
    transport: Transport,
    who: impl for<'p> Fn(&'p Pod, Option<&'p Pod>) -> Option<(Option<&'p Pod>, &'static str)>,
    change: impl Fn(Ask<'a>) -> Ask<'a>,
) -> Verdict {
    let (pod, world) = town(bed);
    bed.added(&pod, change(mapped(bed, "ADD", &pod)))?;
    let Some((from, to)) = who(&pod, Some(&world)) else {
        return Err(Trouble::Untried("nobody asks".into()));
    };
    answered(ask_from(from, transport, to).as_deref(), "pod")
}

fn not_reached<'a, 'b: 'a>(bed: &'a Bed<'b>, change: impl Fn(Ask<'a>) -> Ask<'a>) -> Verdict {
    let (pod, world) = town(bed);
    bed.added(&pod, change(mapped(bed, "ADD", &pod)))?;
    nobody(&world)
}
