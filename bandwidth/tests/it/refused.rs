//! What is wrong is named, and nothing is done; where there is nothing to do, nothing is asked.

use crate::bed::{Bed, both, conf, state};
use serde_json::json;

#[test]
fn what_the_config_gets_wrong_is_named_with_key_and_value() {
    let bed = Bed::new();
    let before = state();
    for (keys, code, words) in [
        (json!({"ingressRate": 1000}), 7, "if rate is set, burst must also be set: ingressRate is 1000"),
        (json!({"egressRate": 1000}), 7, "if rate is set, burst must also be set: egressRate is 1000"),
        (json!({"ingressBurst": 1000}), 7, "if burst is set, rate must also be set: ingressBurst is 1000"),
        (
            json!({"egressBurst": 1000, "egressRate": 0}),
            7,
            "if burst is set, rate must also be set: egressBurst",
        ),
        (json!({"ingressRate": 7, "ingressBurst": 1000}), 7, "ingressRate of 7 is less than a byte a second"),
        (
            json!({"egressRate": 8, "egressBurst": 7}),
            7,
            "egressBurst of 7 bits is too small for egressRate 8",
        ),
        (
            json!({"egressRate": 80_000_000_000u64, "egressBurst": 34_359_738_360u64}),
            7,
            "burst cannot be more than 4GB",
        ),
        (
            json!({"ingressRate": 10_000_000, "ingressBurst": u32::MAX}),
            7,
            "ingressBurst of 4294967295 bits is too large for ingressRate 10000000: at this rate it takes 429 s and the kernel counts up to 274 s; the most is 2748779071 bits",
        ),
        (json!({"ingressRate": -1}), 6, "ingressRate"),
        (json!({"ingressRate": "10M"}), 6, "ingressRate"),
        (json!({"egressBurst": 1.5}), 6, "egressBurst"),
        (json!({"latency": 0}), 7, "latency 0 is out of range: it is in milliseconds, 1 to 10000"),
        (json!({"latency": 10_001}), 7, "latency 10001"),
        (
            json!({"runtimeConfig": {"bandwidth": {"ingressRate": 5, "ingressBurst": 8}}}),
            7,
            "ingressRate of 5",
        ),
        (json!({"runtimeConfig": {"bandwidth": 7}}), 6, "bandwidth"),
    ] {
        let conf = conf(&keys);
        let why = bed.add(&conf).fails(code);
        assert!(why.contains(words), "{words}: {why}");
        assert_eq!(state(), before);
        bed.call("STATUS", &conf).run().fails(50);
    }
    // The first release to know it limited only some traffic.
    let answer = bed
        .add(&conf(&json!({"ingressRate": 8000, "ingressBurst": 80_000, "unshapedSubnets": ["10.0.0.0/8"]})));
    assert!(answer.is_ok() && answer.stderr.contains("unshapedSubnets"), "{}", answer.dump());
}

#[test]
fn a_chain_that_gives_no_veth_is_told_which_field_is_wrong() {
    let bed = Bed::new();
    bed.veth("vh1", "net1");
    bed.pod.ip("link add br0 type bridge");
    let before = state();
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut conf = bed.with_prev(&both());
        change(&mut conf["prevResult"]["interfaces"]);
        bed.call("ADD", &conf)
    };
    for (call, words) in [
        (bed.call("ADD", &both()), "must be called as chained plugin"),
        (with(&|list| *list = json!([])), "no interfaces provided"),
        (
            with(&|list| list[0]["name"] = json!("vh1")),
            "the peer of eth0 is vh0; prevResult's interfaces without a sandbox are [vh1]",
        ),
        (
            with(&|list| list[0]["sandbox"] = json!("/run/netns/x")),
            "no veth peer of container interface found in host ns",
        ),
        (
            with(&|_| {}).attachment("c1", "eth9"),
            "container interface eth9 has no veth peer: there is no such interface",
        ),
        (
            with(&|_| {}).attachment("c1", "br0"),
            "container interface br0 has no veth peer: it is of kind bridge",
        ),
    ] {
        let why = call.run().fails(7);
        assert!(why.contains(words), "{words}: {why}");
        assert_eq!(state(), before);
    }
    // The peer's index is one of a link here, but the peer is elsewhere.
    let other = cni_harness::Container::new();
    bed.pod.ip(&format!("link add far0 type veth peer name x netns {}", other.path()));
    let why = with(&|_| {}).attachment("c1", "far0").run().fails(7);
    assert!(why.contains("is not in host ns"), "{why}");
    with(&|_| {}).env("CNI_NETNS", "/run/netns/gone").run().fails(4);
    assert_eq!(state(), before);
}

#[test]
fn an_add_that_fails_on_the_way_takes_back_what_it_made() {
    for (theirs, words) in [
        ("qdisc add dev vh0 root handle 7: pfifo limit 10", "vh0 has a root qdisc of kind pfifo already"),
        (
            "qdisc add dev vh0 ingress; filter add dev vh0 parent ffff: protocol all prio 1 u32 match u32 0 0 action mirred egress redirect dev other",
            "what vh0 receives is redirected already",
        ),
        // Another protocol's filter at our place.
        (
            "qdisc add dev vh0 clsact; filter add dev vh0 ingress protocol ip prio 1 u32 match u32 0 0 flowid 1:1",
            "redirect what link",
        ),
    ] {
        let bed = Bed::new();
        bed.host.ip("link add other type ifb");
        for command in theirs.split("; ") {
            bed.host.run("tc", &command.split(' ').collect::<Vec<_>>());
        }
        let before = state();
        let why = bed.add(&both()).fails(5);
        assert!(why.contains(words), "{why}");
        assert_eq!(state(), before, "{why}");
    }
}

#[test]
fn without_limits_nothing_is_asked() {
    let bed = Bed::new();
    for keys in [
        json!({}),
        json!({"ingressRate": 0, "ingressBurst": 0}),
        json!({"runtimeConfig": {"bandwidth": {}}}),
        json!({"runtimeConfig": {"bandwidth": null}}),
        json!({"latency": 50}),
    ] {
        let conf = bed.with_prev(&conf(&keys));
        assert_eq!(bed.call("ADD", &conf).run().ok(), conf["prevResult"]);
        for command in ["ADD", "CHECK", "STATUS"] {
            let trace = tempfile::NamedTempFile::new().unwrap();
            let words = ["-f", "-o", trace.path().to_str().unwrap(), "-e", "trace=socket,setns"];
            assert!(bed.call(command, &conf).through("/usr/bin/strace", &words).run().is_ok());
            let calls = std::fs::read_to_string(trace.path()).unwrap();
            assert!(!calls.contains("socket(") && !calls.contains("setns("), "{command}: {calls}");
        }
    }
    let why = bed.call("ADD", &conf(&json!({}))).run().fails(7);
    assert!(why.contains("must be called as chained plugin"), "{why}");
}

#[test]
fn status_passes_where_an_add_would() {
    let bed = Bed::new();
    let before = state();
    bed.call("STATUS", &both()).run().ok();
    assert_eq!(state(), before);
}
