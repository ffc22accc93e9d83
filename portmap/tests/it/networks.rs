//! One container by several interfaces, each of which gets all its mappings, as runtimes do it.

use crate::bed::{BACKENDS, Bed, HOST, HOST_V6, Pod, at, conf, port, rules};
use cni_harness::traffic::{Transport, ask, serve};
use cni_harness::{Answer, Call, Container};
use serde_json::{Value, json};

/// An attachment of the container that a pod is.
struct Attached {
    network: &'static str,
    ifname: &'static str,
    /// What `bridge` was told, and answered.
    bridge: Value,
    result: Value,
}

impl Attached {
    /// The attachment that [`Bed::pod`] makes.
    fn first(bed: &Bed, pod: &Pod) -> Self {
        Self { network: "net1", ifname: "eth0", bridge: bed.bridge(), result: pod.result.clone() }
    }

    /// Attaches the container of `pod` to the network of that number, by the interface of that number.
    fn new(bed: &Bed, pod: &Pod, network: usize, interface: usize) -> Self {
        let network_name = ["", "net1", "net2", "net3"][network];
        let ifname = ["eth0", "eth1", "eth2"][interface];
        let mut bridge = bed.bridge();
        bridge["name"] = json!(network_name);
        bridge["bridge"] = json!(format!("br{network}"));
        let subnets = [format!("10.{network}.0.0/24"), format!("fd00:{network}::/64")];
        bridge["ipam"]["ranges"] = json!(subnets.map(|subnet| [json!({"subnet": subnet})]));
        let call =
            Call::new("bridge").command("ADD", &bridge).attachment(&pod.id, ifname).netns(&pod.container);
        let result = call.run().ok();
        Self { network: network_name, ifname, bridge, result }
    }

    fn portmap(&self, verb: &str, conf: &Value, pod: &Pod) -> Answer {
        let mut conf = conf.clone();
        conf["name"] = json!(self.network);
        if verb != "DEL" {
            conf["prevResult"] = self.result.clone();
        }
        Call::new("portmap").command(verb, &conf).attachment(&pod.id, self.ifname).netns(&pod.container).run()
    }

    /// As a runtime detaches: portmap, then bridge.
    fn leave(&self, conf: &Value, pod: &Pod) {
        self.portmap("DEL", conf, pod).ok();
        let call = Call::new("bridge").command("DEL", &self.bridge).attachment(&pod.id, self.ifname);
        call.netns(&pod.container).run().ok();
    }
}

fn bed() -> Bed {
    let bed = Bed::new();
    // What comes in by one network may be answered by another.
    bed.host
        .run("sysctl", &["-q", "-w", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0"]);
    bed
}

fn mappings(backend: &str) -> Value {
    let mut on_one_address = port(8081, 80, "tcp");
    on_one_address["hostIP"] = json!(HOST);
    conf(&json!([port(8080, 80, "tcp"), port(8080, 80, "udp"), on_one_address]), &json!({"backend": backend}))
}

/// Whether all that [`mappings`] maps by TCP is reached, or nothing of that. A UDP server of two networks
/// answers from the address of the one that leads back.
fn assert_reached(from: &Container, wanted: bool, row: &str) {
    for (host, port) in [(HOST, 8080), (HOST_V6, 8080), (HOST, 8081)] {
        let found = ask(Some(from), Transport::Tcp, at(host, port)).map(|(_, name)| name);
        let wanted = wanted.then_some("pod");
        assert_eq!(found.as_deref(), wanted, "{row}: {host} {port}\n{}", rules());
    }
}

fn assert_nothing_left(row: &str) {
    let left = rules();
    assert!(
        !left.contains("elements") && !left.contains("pod-") && !left.contains("CNI-DN-"),
        "{row}: {left}"
    );
}

#[test]
fn whichever_leaves_the_others_serve() {
    for backend in BACKENDS {
        // Networks of the interfaces, and the order in which they leave.
        for (networks, order) in [
            (&[1, 2][..], &[0, 1][..]),
            (&[1, 2], &[1, 0]),
            (&[1, 1], &[0, 1]),
            (&[1, 1], &[1, 0]),
            (&[1, 2, 3], &[0, 1, 2]),
            (&[1, 2, 3], &[1, 0, 2]),
            (&[1, 2, 1], &[0, 2, 1]),
        ] {
            let bed = bed();
            let pod = bed.pod("c1");
            serve(Some(&pod.container), Transport::Tcp, 80, "pod");
            let conf = mappings(backend);
            let mut attached = vec![Attached::first(&bed, &pod)];
            attached.extend(
                networks.iter().enumerate().skip(1).map(|(n, net)| Attached::new(&bed, &pod, *net, n)),
            );
            for (n, one) in attached.iter().enumerate() {
                let answer = one.portmap("ADD", &conf, &pod);
                let says =
                    answer.stderr.contains("host port 8080/tcp (and 1 more) is served by cni/net1/c1/eth0");
                assert_eq!(says, n > 0 && backend == "nftables", "{}", answer.dump());
                answer.ok();
            }
            let row = format!("{backend} {networks:?}, leaving {order:?}");
            assert_reached(&bed.peer, true, &row);
            for leaving in order {
                for one in order.iter().skip_while(|one| *one != leaving) {
                    attached[*one].portmap("CHECK", &conf, &pod).ok();
                }
                let row = format!("{row}, {leaving} has left");
                attached[*leaving].leave(&conf, &pod);
                // What is not there any more takes nothing of the others'.
                attached[*leaving].portmap("DEL", &conf, &pod).ok();
                assert_reached(&bed.peer, Some(leaving) != order.last(), &row);
            }
            assert_nothing_left(&row);
        }
    }
}

#[test]
fn an_interface_may_come_back() {
    for backend in BACKENDS {
        for networks in [[1, 2], [1, 1]] {
            let bed = bed();
            let pod = bed.pod("c1");
            serve(Some(&pod.container), Transport::Tcp, 80, "pod");
            let conf = mappings(backend);
            let first = Attached::first(&bed, &pod);
            let second = Attached::new(&bed, &pod, networks[1], 1);
            first.portmap("ADD", &conf, &pod).ok();
            second.portmap("ADD", &conf, &pod).ok();
            // Repeated, and after a DEL.
            first.portmap("ADD", &conf, &pod).ok();
            second.portmap("ADD", &conf, &pod).ok();
            first.portmap("DEL", &conf, &pod).ok();
            first.portmap("ADD", &conf, &pod).ok();
            let row = format!("{backend} {networks:?}");
            assert_reached(&bed.peer, true, &row);
            first.portmap("CHECK", &conf, &pod).ok();
            second.portmap("CHECK", &conf, &pod).ok();
            second.leave(&conf, &pod);
            second.portmap("DEL", &conf, &pod).ok();
            first.portmap("CHECK", &conf, &pod).ok();
            assert_reached(&bed.peer, true, &row);
            first.leave(&conf, &pod);
            assert_nothing_left(&row);
        }
    }
}

#[test]
fn gc_gives_the_ports_on() {
    for backend in BACKENDS {
        for networks in [[1, 2], [1, 1]] {
            for stays in [0, 1] {
                let bed = bed();
                let pod = bed.pod("c1");
                serve(Some(&pod.container), Transport::Tcp, 80, "pod");
                let conf = mappings(backend);
                let attached = [Attached::first(&bed, &pod), Attached::new(&bed, &pod, networks[1], 1)];
                for one in &attached {
                    one.portmap("ADD", &conf, &pod).ok();
                }
                for network in ["net1", "net2"] {
                    let valid: Vec<Value> = [&attached[stays]]
                        .iter()
                        .filter(|one| one.network == network)
                        .map(|one| json!({"containerID": "c1", "ifname": one.ifname}))
                        .collect();
                    let mut conf = conf.clone();
                    conf["name"] = json!(network);
                    conf["cni.dev/valid-attachments"] = json!(valid);
                    Call::new("portmap").command("GC", &conf).run().ok();
                }
                let row = format!("{backend} {networks:?}, {stays} stays");
                attached[stays].portmap("CHECK", &conf, &pod).ok();
                attached[1 - stays].portmap("CHECK", &conf, &pod).fails(100);
                assert_reached(&bed.peer, true, &row);
                attached[stays].leave(&conf, &pod);
                assert_nothing_left(&row);
            }
        }
    }
}

#[test]
fn a_port_of_two_networks_is_in_use_and_succeeded_like_any_other() {
    let bed = bed();
    let (old, new) = (bed.pod("old"), bed.pod("new"));
    let conf = mappings("nftables");
    let attached = [Attached::first(&bed, &old), Attached::new(&bed, &old, 2, 1)];
    for one in &attached {
        one.portmap("ADD", &conf, &old).ok();
    }
    let why = crate::bed::add(&conf, &new).fails(7);
    assert!(why.contains("in use by cni/net1/old/eth0"), "{why}");
    // The first network's veth is gone, its DEL was lost: the second is next, and lives.
    old.container.ip("link del eth0");
    let why = crate::bed::add(&conf, &new).fails(7);
    assert!(why.contains("in use by cni/net2/old/eth1"), "{why}");
    attached[1].portmap("CHECK", &conf, &old).ok();
    old.container.ip("link del eth1");
    crate::bed::add(&conf, &new).ok();
    crate::bed::check(&conf, &new).ok();
    assert!(!rules().contains("old"), "{}", rules());
    for one in &attached {
        one.leave(&conf, &old);
    }
    crate::bed::check(&conf, &new).ok();
}

#[test]
fn all_at_once_one_serves_and_the_last_to_leave_takes_it_along() {
    for _ in 0..5 {
        let bed = bed();
        let pod = bed.pod("c1");
        serve(Some(&pod.container), Transport::Tcp, 80, "pod");
        let conf = mappings("nftables");
        let attached =
            [Attached::first(&bed, &pod), Attached::new(&bed, &pod, 2, 1), Attached::new(&bed, &pod, 3, 2)];
        let all = |verb: &str, which: &[Attached]| {
            std::thread::scope(|scope| {
                let threads: Vec<_> =
                    which.iter().map(|one| scope.spawn(|| one.portmap(verb, &conf, &pod).ok())).collect();
                for thread in threads {
                    thread.join().unwrap();
                }
            });
        };
        all("ADD", &attached);
        all("CHECK", &attached);
        assert_reached(&bed.peer, true, "three at once");
        all("DEL", &attached[1..]);
        assert_reached(&bed.peer, true, "two left at once");
        all("ADD", &attached[1..]);
        all("DEL", &attached[..2]);
        assert_reached(&bed.peer, true, "the other two left at once");
        all("DEL", &attached);
        assert_nothing_left("all left at once");
    }
}
