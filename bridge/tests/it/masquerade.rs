//! What leaves the network is masqueraded; what stays inside is not.

use crate::bed::{Bed, add, call, del, warm_up};
use cni_harness::{Container, Host, Snapshot};
use serde_json::{Value, json};

/// Another machine, which has no route back to the pods: only masqueraded packets are answered.
pub fn outside(host: &Host) -> Container {
    let machine = Container::new();
    let fd = machine.path();
    host.ip("link add uplink type veth peer name far");
    // `ip link set … netns` wants a name or a process; a process inside has one.
    let mut inside = std::process::Command::new("nsenter");
    let mut inside = inside.arg(format!("--net={fd}")).args(["sleep", "60"]).spawn().unwrap();
    // nsenter enters before it execs; wait until it has.
    let entered = || std::fs::read_link(format!("/proc/{}/ns/net", inside.id())).ok();
    let own = std::fs::read_link("/proc/thread-self/ns/net").ok();
    while entered() == own {
        std::thread::yield_now();
    }
    host.ip(&format!("link set far netns {}", inside.id()));
    inside.kill().unwrap();
    inside.wait().unwrap();
    for (family, near, far) in
        [("-4", "192.0.2.1/24", "192.0.2.2/24"), ("-6", "2001:db8::1/64", "2001:db8::2/64")]
    {
        let nodad = if family == "-6" { "nodad" } else { "" };
        host.ip(&format!("{family} addr add {near} dev uplink {nodad}"));
        machine.ip(&format!("{family} addr add {far} dev far {nodad}"));
    }
    host.ip("link set uplink up");
    machine.ip("link set far up");
    machine
}

fn default_gateway(bed: &Bed, ip_masq: bool) -> Value {
    bed.conf(&json!({"isDefaultGateway": true, "ipMasq": ip_masq}))
}

#[test]
fn a_pod_reaches_the_outside_only_masqueraded() {
    let bed = Bed::new();
    let _machine = outside(&bed.host);
    let pods = [Container::new(), Container::new()];
    add(&default_gateway(&bed, true), "c1", &pods[0]).ok();
    add(&default_gateway(&bed, false), "c2", &pods[1]).ok();
    for address in ["192.0.2.2", "2001:db8::2"] {
        assert!(pods[0].pings(address), "masqueraded: {address}");
        assert!(!pods[1].pings(address), "not masqueraded: {address}");
    }
    del(&default_gateway(&bed, true), "c1", &pods[0]).ok();
}

#[test]
fn the_tables_are_ours_and_others_are_let_be() {
    let bed = Bed::new();
    let foreign =
        "add table ip nat; add chain ip nat POSTROUTING { type nat hook postrouting priority 100; }";
    bed.host.run("nft", &[foreign]);
    let before = bed.host.run("nft", &["list", "table", "ip", "nat"]);
    let conf = default_gateway(&bed, true);
    let pod = Container::new();
    add(&conf, "c1", &pod).ok();
    let rules = Snapshot::take().rules;
    for words in [
        "10.1.0.2 comment \"cni/net1/c1/eth0\" : goto net-",
        "fd00:1::2 comment \"cni/net1/c1/eth0\" : goto net-",
        "ip daddr 10.1.0.0/24 return comment \"network net1, subnet 10.1.0.0/24\"",
        "ip daddr 224.0.0.0/4 return",
        "ip6 daddr ff00::/8 return",
        "ip saddr vmap @sources",
    ] {
        assert!(rules.contains(words), "{words} in {rules}");
    }
    del(&conf, "c1", &pod).ok();
    assert_eq!(bed.host.run("nft", &["list", "table", "ip", "nat"]), before);
}

#[test]
fn a_thousand_elements_are_one_rule() {
    let bed = Bed::new();
    let conf = default_gateway(&bed, true);
    warm_up(&conf);
    let pods: Vec<Container> = (0..20).map(|_| Container::new()).collect();
    let rules = |text: &str| {
        text.lines().filter(|line| line.contains("masquerade") && !line.contains("table")).count()
    };
    add(&conf, "p0", &pods[0]).ok();
    let one = rules(&Snapshot::take().rules);
    for (n, pod) in pods.iter().enumerate().skip(1) {
        add(&conf, &format!("p{n}"), pod).ok();
    }
    assert_eq!(rules(&Snapshot::take().rules), one);
}

#[test]
fn an_address_whose_del_was_lost_is_taken_over() {
    let bed = Bed::new();
    let conf = default_gateway(&bed, true);
    let (first, second) = (Container::new(), Container::new());
    add(&conf, "dead", &first).ok();
    // Its leases and its link go without a DEL.
    first.ip("link del eth0");
    let dir = conf["ipam"]["dataDir"].as_str().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    let answer = call("ADD", &conf, "new", &second).run();
    assert_eq!(answer.ok()["ips"][0]["address"], "10.1.0.2/24");
    assert!(answer.stderr.contains("cni/net1/dead/eth0"), "the old owner is named: {}", answer.stderr);
    assert!(Snapshot::take().rules.contains("10.1.0.2 comment \"cni/net1/new/eth0\""));
    // A late DEL of the old owner does not touch the new one's.
    let rules = Snapshot::take().rules;
    call("DEL", &conf, "dead", &first).run().ok();
    assert_eq!(Snapshot::take().rules, rules);
}

#[test]
fn a_long_name_fits() {
    let bed = Bed::new();
    let long = "n".repeat(200);
    let conf = bed.conf(&json!({"name": long, "ipMasq": true}));
    let (pod, id) = (Container::new(), "i".repeat(200));
    add(&conf, &id, &pod).ok();
    assert!(Snapshot::take().rules.contains("comment \"cni#"));
    call("DEL", &conf, &id, &pod).without("CNI_NETNS").run().ok();
    assert!(!Snapshot::take().rules.contains("comment \"cni#"));
    assert!(!pod.ip("link").contains("eth0"));
}
