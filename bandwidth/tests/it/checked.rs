//! CHECK: passes what ADD made, and names what is not as it left it.

use crate::bed::{Bed, IFB, both, conf};
use serde_json::{Value, json};

#[test]
fn each_thing_that_is_missing_or_different_is_named() {
    let to_other = "tc filter replace dev vh0 parent ffff: handle 800::800 protocol all prio 1 u32 match u32 0 0 flowid 1:1 action mirred egress redirect dev other";
    let table: &[(&[&str], &str)] = &[
        (&["tc qdisc del dev vh0 root"], "root qdisc of vh0: expected tbf, found none"),
        (
            &["tc qdisc del dev vh0 root", "tc qdisc add dev vh0 root handle 1: htb"],
            "root qdisc of vh0: expected tbf, found htb",
        ),
        (
            &["tc qdisc change dev vh0 root handle 1: tbf rate 9mbit burst 100000 latency 25ms"],
            "rate in bytes a second of vh0: expected 1000000, found 1125000",
        ),
        (
            &["tc qdisc change dev vh0 root handle 1: tbf rate 8mbit burst 100000 limit 125001"],
            "limit in bytes of vh0: expected 125000, found 125001",
        ),
        (
            &["tc qdisc change dev vh0 root handle 1: tbf rate 8mbit burst 50000 limit 125000"],
            "burst in ticks of 64 ns of vh0: expected 1562500, found 781250",
        ),
        (&["tc qdisc del dev vh0 ingress"], "redirect of what vh0 receives: expected to bwpc2d892b58e87"),
        (&["tc filter del dev vh0 ingress"], "redirect of what vh0 receives"),
        (&["ip link add other type ifb", to_other], "redirect of what vh0 receives"),
        (
            &["tc qdisc del dev bwpc2d892b58e87 root"],
            "root qdisc of bwpc2d892b58e87: expected tbf, found none",
        ),
        (
            &["tc qdisc change dev bwpc2d892b58e87 root handle 1: tbf rate 17mbit burst 200000 latency 25ms"],
            "rate in bytes a second of bwpc2d892b58e87: expected 2000000, found 2125000",
        ),
        (&["ip link set bwpc2d892b58e87 down"], "bwpc2d892b58e87: expected up, found down"),
        (
            &["ip link del bwpc2d892b58e87"],
            "ifb of eth0 of container c1 on network net1: expected bwpc2d892b58e87, found none",
        ),
    ];
    for (changes, words) in table {
        let bed = Bed::new();
        bed.add(&both()).ok();
        bed.check(&both()).ok();
        for change in *changes {
            let command: Vec<&str> = change.split(' ').collect();
            bed.host.run(command[0], &command[1..]);
        }
        let why = bed.check(&both()).fails(100);
        assert!(why.contains(words), "{changes:?}: {why}");
    }
}

#[test]
fn what_is_not_limited_is_not_looked_at() {
    let bed = Bed::new();
    bed.call("CHECK", &conf(&json!({}))).run().ok();
    bed.add(&conf(&json!({"ingressRate": 8_000_000, "ingressBurst": 800_000}))).ok();
    bed.check(&conf(&json!({"ingressRate": 8_000_000, "ingressBurst": 800_000}))).ok();
    bed.check(&both()).fails(100);
}

#[test]
fn it_changes_nothing() {
    let bed = Bed::new();
    bed.add(&both()).ok();
    let before = crate::bed::state();
    bed.check(&both()).ok();
    bed.host.ip(&format!("link set {IFB} down"));
    let broken = crate::bed::state();
    bed.check(&both()).fails(100);
    assert_eq!(crate::bed::state(), broken);
    assert_ne!(broken, before);
    let why = bed.call("CHECK", &both()).run().fails(7);
    assert!(why.contains("Required prevResult missing"), "{why}");
    let gone: Value = json!("/run/netns/gone");
    bed.call("CHECK", &bed.with_prev(&both())).env("CNI_NETNS", gone.as_str().unwrap()).run().fails(4);
}
