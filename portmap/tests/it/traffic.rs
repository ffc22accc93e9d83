//! What else becomes of traffic beside the mapped ports: it passes, is refused, or follows a pod that moves.

use crate::bed::{BACKENDS, Bed, HOST, PEER, add, at, check, conf, del, port};
use cni_harness::Container;
use cni_harness::traffic::{Transport, ask, serve};
use serde_json::json;
use std::net::SocketAddr;

#[test]
fn what_pods_send_to_other_machines_passes_untouched() {
    for backend in BACKENDS {
        let bed = Bed::new();
        let (pod, other) = (bed.pod("c1"), bed.pod("c2"));
        bed.peer.ip("route add 10.1.0.0/24 via 192.0.2.1");
        serve(Some(&pod.container), Transport::Tcp, 80, "pod");
        serve(Some(&bed.peer), Transport::Tcp, 8080, "peer");
        add(&conf(&json!([port(8080, 80, "tcp")]), &json!({"backend": backend})), &pod).ok();
        for from in [&pod, &other] {
            let (seen, name) = ask(Some(&from.container), Transport::Tcp, at(PEER, 8080)).unwrap();
            assert_eq!((seen.to_string(), name.as_str()), (from.ip(0), "peer"), "{backend}");
        }
        assert_eq!(ask(None, Transport::Tcp, at(PEER, 8080)).unwrap().1, "peer", "and what the host sends");
    }
}

#[test]
fn without_snat_sources_are_kept_and_localhost_stays_shut() {
    for backend in BACKENDS {
        let bed = Bed::new();
        let pod = bed.pod("c1");
        serve(Some(&pod.container), Transport::Tcp, 80, "pod");
        let conf = conf(&json!([port(8080, 80, "tcp")]), &json!({"backend": backend, "snat": false}));
        add(&conf, &pod).ok();
        check(&conf, &pod).ok();
        let (seen, _) = ask(Some(&bed.peer), Transport::Tcp, at(HOST, 8080)).unwrap();
        assert_eq!(seen.to_string(), PEER);
        assert!(ask(None, Transport::Tcp, at("127.0.0.1", 8080)).is_none());
        let open = std::fs::read_to_string("/proc/sys/net/ipv4/conf/br1/route_localnet").unwrap();
        assert_eq!(open.trim(), "0");
    }
}

/// CVE-2020-8558: a neighbour sends to 127.0.0.1 by way of our link.
#[test]
fn nobody_outside_reaches_the_hosts_loopback() {
    for backend in BACKENDS {
        let bed = Bed::new();
        let pod = bed.pod("c1");
        serve(Some(&pod.container), Transport::Udp, 80, "pod");
        serve(None, Transport::Udp, 5000, "secret");
        add(&conf(&json!([port(8080, 80, "udp")]), &json!({"backend": backend})), &pod).ok();
        let open = std::fs::read_to_string("/proc/sys/net/ipv4/conf/br1/route_localnet").unwrap();
        assert_eq!(open.trim(), "1");
        assert_eq!(ask(None, Transport::Udp, at("127.0.0.1", 5000)).unwrap().1, "secret");
        // The pod takes 127.0.0.1 for a host beyond its gateway.
        let inside = &pod.container;
        inside.try_run("sysctl", &["-qw", "net.ipv4.conf.all.route_localnet=1"]);
        inside.ip("route add 127.0.0.1/32 via 10.1.0.1 dev eth0");
        for port in [5000, 8080] {
            let found = ask(Some(inside), Transport::Udp, at("127.0.0.1", port));
            assert_eq!(found, None, "{backend}, port {port}\n{}", crate::bed::rules());
        }
    }
}

#[test]
fn a_udp_client_that_never_stops_reaches_the_new_pod() {
    for backend in BACKENDS {
        let bed = Bed::new();
        let conf = conf(&json!([port(5353, 53, "udp")]), &json!({"backend": backend}));
        let (old, new) = (bed.pod("old"), bed.pod("new"));
        serve(Some(&old.container), Transport::Udp, 53, "old");
        serve(Some(&new.container), Transport::Udp, 53, "new");
        // One socket, and thereby one flow, through the whole test.
        let client = Client::new(&bed.peer, at(HOST, 5353));
        assert_eq!(client.ask(), None, "nothing is mapped: the kernel remembers a flow to the host itself");
        add(&conf, &old).ok();
        assert_eq!(client.ask().as_deref(), Some("old"), "{backend}");
        del(&conf, &old).ok();
        add(&conf, &new).ok();
        assert_eq!(client.ask().as_deref(), Some("new"), "{backend}");
        del(&conf, &new).ok();
        assert_eq!(client.ask(), None);
    }
}

/// A UDP client with one socket.
struct Client(std::net::UdpSocket);

impl Client {
    fn new(container: &Container, to: SocketAddr) -> Self {
        let netns = cni_common::kernel::netns::Netns::open(container.path().as_ref()).unwrap();
        let socket = netns.run(|| Ok(std::net::UdpSocket::bind("0.0.0.0:0").unwrap())).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        Self(socket)
    }

    /// Who answers within a second.
    fn ask(&self) -> Option<String> {
        let mut buffer = [0; 64];
        for _ in 0..3 {
            // A port that is shut is told to the socket at the next call.
            let _ = self.0.send(b"?");
            if let Ok(len) = self.0.recv(&mut buffer) {
                let answer = String::from_utf8_lossy(&buffer[..len]).into_owned();
                return answer.split_once(' ').map(|(_, name)| name.to_owned());
            }
        }
        None
    }
}

#[test]
fn flows_of_others_to_the_same_port_number_live_on() {
    let bed = Bed::new();
    let (pod, other) = (bed.pod("c1"), bed.pod("c2"));
    bed.peer.ip("route add 10.1.0.0/24 via 192.0.2.1");
    serve(Some(&bed.peer), Transport::Udp, 5353, "peer");
    serve(Some(&pod.container), Transport::Udp, 53, "pod");
    let passing = Client::new(&other.container, at(PEER, 5353));
    assert_eq!(passing.ask().as_deref(), Some("peer"));
    let flows = || {
        let listed = std::fs::read_to_string("/proc/net/nf_conntrack").unwrap_or_default();
        listed.lines().filter(|line| line.contains("dport=5353") && line.contains(&other.ip(0))).count()
    };
    // The kernel tracks only where somebody asks it to.
    let conf = conf(&json!([port(5353, 53, "udp")]), &json!({"backend": "nftables"}));
    add(&conf, &pod).ok();
    assert_eq!(passing.ask().as_deref(), Some("peer"));
    let before = flows();
    del(&conf, &pod).ok();
    add(&conf, &pod).ok();
    assert_eq!(flows(), before);
    assert_eq!(passing.ask().as_deref(), Some("peer"));
}

#[test]
fn conditions_hold_with_either_back_end() {
    for (backend, words) in [
        ("nftables", json!(["ip", "saddr", "!=", "192.0.2.9"])),
        ("iptables", json!(["!", "-s", "192.0.2.9/32"])),
    ] {
        let bed = Bed::new();
        let pod = bed.pod("c1");
        serve(Some(&pod.container), Transport::Tcp, 80, "pod");
        let extra = json!({"conditionsV4": words});
        let conf = conf(&json!([port(8080, 80, "tcp")]), &extra);
        add(&conf, &pod).ok();
        check(&conf, &pod).ok();
        assert!(ask(Some(&bed.peer), Transport::Tcp, at(HOST, 8080)).is_none(), "{backend}");
        bed.peer.ip("addr add 192.0.2.8/24 dev eth0");
        bed.peer.ip("addr del 192.0.2.9/24 dev eth0");
        bed.peer.ip("addr replace 192.0.2.8/24 dev eth0");
        assert!(ask(Some(&bed.peer), Transport::Tcp, at(HOST, 8080)).is_some(), "{backend}");
    }
}
