//! CHECK notices each thing that is not as ADD left it, and says what it expected and what it found.

use crate::bed::{Bed, add, call, check, with_prev};
use cni_harness::Container;
use serde_json::{Value, json};

type Change = fn(&Bed, &Container, &str);

#[test]
fn each_change_is_noticed() {
    let changes: &[(&str, Change, &[&str])] = &[
        (
            "address gone",
            |_, pod, _| drop(pod.ip("addr del 10.1.0.2/24 dev eth0")),
            &["addresses of eth0", "10.1.0.2/24"],
        ),
        ("IPv6 address gone", |_, pod, _| drop(pod.ip("addr del fd00:1::2/64 dev eth0")), &["fd00:1::2/64"]),
        (
            "default route gone",
            |_, pod, _| drop(pod.ip("route del default")),
            &["routes in the container", "0.0.0.0/0"],
        ),
        (
            "other gateway",
            |_, pod, _| drop(pod.ip("route change default via 10.1.0.9")),
            &["via 10.1.0.1", "via 10.1.0.9"],
        ),
        (
            "container link down",
            |_, pod, _| drop(pod.ip("link set eth0 down")),
            &["state of eth0", "expected up"],
        ),
        ("container link gone", |_, pod, _| drop(pod.ip("link del eth0")), &["eth0", "nothing"]),
        (
            "container MAC",
            |_, pod, _| drop(pod.ip("link set eth0 address 02:00:00:00:00:09")),
            &["address of eth0", "02:00:00:00:00:09"],
        ),
        (
            "another kind of link",
            |_, pod, _| {
                pod.ip("link del eth0");
                pod.ip("link add eth0 type bridge");
            },
            &["kind of eth0", "veth", "bridge"],
        ),
        (
            "off the bridge",
            |bed, _, veth| drop(bed.host.ip(&format!("link set {veth} nomaster"))),
            &["bridge of veth", "no bridge"],
        ),
        (
            "host MAC",
            |bed, _, veth| drop(bed.host.ip(&format!("link set {veth} address 02:00:00:00:00:08"))),
            &["address of veth"],
        ),
        (
            "hairpin on",
            |bed, _, veth| drop(bed.host.ip(&format!("link set {veth} type bridge_slave hairpin on"))),
            &["hairpin mode", "expected false, found true"],
        ),
        (
            "isolated",
            |bed, _, veth| drop(bed.host.ip(&format!("link set {veth} type bridge_slave isolated on"))),
            &["port isolation"],
        ),
        ("bridge down", |bed, _, _| drop(bed.host.ip("link set br1 down")), &["state of bridge br1"]),
        (
            "bridge MAC",
            |bed, _, _| drop(bed.host.ip("link set br1 address 02:00:00:00:00:07")),
            &["address of br1"],
        ),
        ("bridge gone", |bed, _, _| drop(bed.host.ip("link del br1")), &["bridge br1", "nothing"]),
        (
            "gateway address gone",
            |bed, _, _| drop(bed.host.ip("addr del 10.1.0.1/24 dev br1")),
            &["addresses of bridge br1", "10.1.0.1"],
        ),
        (
            "IPv6 gateway address gone",
            |bed, _, _| drop(bed.host.ip("addr del fd00:1::1/64 dev br1")),
            &["fd00:1::1"],
        ),
        (
            "IPv4 forwarding off",
            |_, _, _| write("/proc/sys/net/ipv4/ip_forward"),
            &["ip_forward", "expected 1, found 0"],
        ),
        (
            "IPv6 forwarding off",
            |_, _, _| write("/proc/sys/net/ipv6/conf/all/forwarding"),
            &["all/forwarding"],
        ),
        (
            "rules flushed",
            |bed, _, _| drop(bed.host.run("nft", &["flush", "ruleset"])),
            &["masquerading of 10.1.0.2", "nothing"],
        ),
        (
            "element gone",
            |bed, _, _| {
                drop(
                    bed.host.run(
                        "nft",
                        &["delete", "element", "ip6", "cni_masquerade", "sources", "{ fd00:1::2 }"],
                    ),
                );
            },
            &["masquerading of fd00:1::2"],
        ),
        ("lease gone", |bed, _, _| bed.drop_leases(), &["Failed to find address"]),
    ];
    for (name, change, words) in changes {
        let bed = Bed::new();
        let conf = bed.conf(&json!({"isDefaultGateway": true, "ipMasq": true}));
        let pod = Container::new();
        let result = add(&conf, "c1", &pod).ok();
        check(&conf, &result, "c1", &pod).ok();
        change(&bed, &pod, result["interfaces"][1]["name"].as_str().unwrap());
        let why = check(&conf, &result, "c1", &pod).fails(100);
        for word in *words {
            assert!(why.contains(word), "{name}: {word:?} in {why}");
        }
    }
}

fn write(path: &str) {
    cni_harness::write_file(path.as_ref(), "0", 0o644);
}

impl Bed {
    fn drop_leases(&self) {
        let dir = self.conf(&json!({}))["ipam"]["dataDir"].as_str().unwrap().to_owned();
        for path in self.leases().keys() {
            std::fs::remove_file(std::path::Path::new(&dir).join(path)).unwrap();
        }
    }
}

#[test]
fn what_may_change_is_let_be() {
    let changes: &[(&str, Change)] = &[
        ("a capture runs on the bridge", |bed, _, _| drop(bed.host.ip("link set br1 promisc on"))),
        ("MTU tuned", |_, pod, _| drop(pod.ip("link set eth0 mtu 1300"))),
        ("a second address", |_, pod, _| drop(pod.ip("addr add 10.77.0.1/24 dev eth0"))),
        ("another default route behind ours", |_, pod, _| {
            drop(pod.ip("route add default via 10.1.0.9 metric 99"));
        }),
        ("another bridge address", |bed, _, _| drop(bed.host.ip("addr add 10.66.0.1/24 dev br1"))),
    ];
    for (name, change) in changes {
        let bed = Bed::new();
        let conf = bed.conf(&json!({"isDefaultGateway": true, "ipMasq": true}));
        let pod = Container::new();
        let result = add(&conf, "c1", &pod).ok();
        change(&bed, &pod, "");
        let answer = check(&conf, &result, "c1", &pod);
        assert!(answer.is_ok(), "{name}\n{}", answer.dump());
    }
}

#[test]
fn a_mac_that_tuning_changed_and_told_passes() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({}));
    let pod = Container::new();
    let mut result = add(&conf, "c1", &pod).ok();
    pod.ip("link set eth0 address 02:00:00:00:00:AB");
    result["interfaces"][2]["mac"] = json!("02:00:00:00:00:AB");
    check(&conf, &result, "c1", &pod).ok();
}

#[test]
fn the_result_has_to_be_there_and_of_this_container() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({}));
    let pod = Container::new();
    let result = add(&conf, "c1", &pod).ok();
    let why = call("CHECK", &conf, "c1", &pod).run().fails(7);
    assert!(why.contains("Required prevResult missing"), "{why}");

    let mut elsewhere = result.clone();
    elsewhere["interfaces"][2]["sandbox"] = json!("/run/netns/other");
    let why = check(&conf, &elsewhere, "c1", &pod).fails(100);
    assert!(why.contains("Sandbox in prevResult /run/netns/other doesn't match configured netns"), "{why}");

    let mut without = result.clone();
    without["interfaces"] = Value::Null;
    check(&conf, &without, "c1", &pod).fails(100);

    let why = call("CHECK", &with_prev(&conf, &json!({"cniVersion": "7.0.0"})), "c1", &pod).run().fails(6);
    assert!(why.contains("could not parse prevResult"), "{why}");
}
