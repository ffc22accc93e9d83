//! ADD: what the kernel holds afterwards, and what the result says.

use crate::bed::{Bed, IFB, both, conf};
use cni_harness::snapshot::shaping;
use serde_json::{Value, json};

fn redirect(link: &str, ifb: &str) -> Vec<String> {
    [
        "filter parent ffff: protocol all pref 1 u32 chain 0",
        "filter parent ffff: protocol all pref 1 u32 chain 0 fh 800: ht divisor 1",
        "filter parent ffff: protocol all pref 1 u32 chain 0 fh 800::800 order 2048 key ht 800 bkt 0 *flowid 1:1 not_in_hw",
        "match 00000000/00000000 at 0",
        &format!("action order 1: mirred (Egress Redirect to device {ifb}) stolen"),
    ]
    .map(|line| format!("{link}: {line}"))
    .to_vec()
}

fn tbf(link: &str, rest: &str) -> Vec<String> {
    vec![format!("qdisc tbf 1: dev {link} root {rest}")]
}

fn ingress(link: &str) -> Vec<String> {
    let qdisc = format!("qdisc ingress ffff: dev {link} parent ffff:fff1 ----------------");
    [vec![qdisc], redirect(link, IFB)].concat()
}

#[test]
fn each_direction_by_itself_and_both() {
    let (inward, outward) = (["ingressRate", "ingressBurst"], ["egressRate", "egressBurst"]);
    let inward_is = tbf("vh0", "rate 8Mbit burst 100000b lat 25ms");
    let outward_is = [ingress("vh0"), tbf(IFB, "rate 16Mbit burst 200000b lat 25ms")].concat();
    let both_are = [inward_is.clone(), outward_is.clone()].concat();
    for (kept, want) in [
        (inward.to_vec(), &inward_is),
        (outward.to_vec(), &outward_is),
        ([inward, outward].concat(), &both_are),
    ] {
        let numbers: serde_json::Map<String, Value> =
            kept.iter().map(|key| ((*key).to_owned(), both()[key].clone())).collect();
        // From an operator, and from a runtime.
        for conf in
            [conf(&Value::Object(numbers.clone())), conf(&json!({"runtimeConfig": {"bandwidth": numbers}}))]
        {
            let bed = Bed::new();
            bed.host.ip("link set vh0 mtu 1400");
            let result = bed.add(&conf).ok();
            assert_eq!(&shaping(), want);
            bed.check(&conf).ok();
            let shaped = kept.contains(&"egressRate");
            let mut expected = bed.with_prev(&conf)["prevResult"].clone();
            if shaped {
                let ifb = bed.host.ip(&format!("-d link show {IFB}"));
                let has = ["ifb", "UP", "mtu 1400", "alias cni/net1/c1/eth0"];
                assert!(has.iter().all(|words| ifb.contains(words)), "{ifb}");
                let mac = bed
                    .host
                    .ip(&format!("-br link show {IFB}"))
                    .split_whitespace()
                    .nth(2)
                    .unwrap()
                    .to_owned();
                expected["interfaces"].as_array_mut().unwrap().push(json!({"name": IFB, "mac": mac}));
            }
            assert_eq!(result, expected);
        }
    }
}

#[test]
fn numbers_in_the_config_put_the_runtimes_out_of_force() {
    let bed = Bed::new();
    let runtime = json!({"bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 800_000}});
    bed.add(&conf(&json!({"egressRate": 0, "runtimeConfig": runtime}))).ok();
    assert!(shaping().is_empty());
    bed.add(&conf(&json!({"egressRate": null, "runtimeConfig": runtime}))).ok();
    assert_eq!(shaping().len(), 1);
}

#[test]
fn every_version_that_has_interfaces() {
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let bed = Bed::new();
        let mut conf = bed.with_prev(&both());
        conf["cniVersion"] = json!(version);
        conf["prevResult"]["cniVersion"] = json!(version);
        if !version.starts_with('1') {
            conf["prevResult"]["ips"][0]["version"] = json!("4");
        }
        let result = bed.call("ADD", &conf).run().ok();
        assert_eq!((&result["cniVersion"], &result["interfaces"][2]["name"]), (&json!(version), &json!(IFB)));
    }
}

#[test]
fn a_repeated_add_converges() {
    let bed = Bed::new();
    bed.add(&both()).ok();
    let wanted = shaping();
    let breakages: [&[&str]; 9] = [
        &[],
        &["tc qdisc del dev vh0 root"],
        &["tc qdisc change dev vh0 root handle 1: tbf rate 1mbit burst 5kb latency 9ms"],
        &["tc qdisc replace dev vh0 root handle 7: tbf rate 1mbit burst 5kb latency 9ms"],
        &["tc qdisc del dev vh0 ingress"],
        &["tc filter del dev vh0 ingress"],
        &["tc qdisc del dev bwpc2d892b58e87 root"],
        &["ip link del bwpc2d892b58e87"],
        &[
            "ip link set bwpc2d892b58e87 down",
            "ip link set bwpc2d892b58e87 alias x mtu 1200",
            "ip link set bwpc2d892b58e87 alias ",
        ],
    ];
    for breakage in breakages {
        for line in breakage {
            let words: Vec<&str> = line.split(' ').collect();
            bed.host.run(words[0], &words[1..]);
        }
        bed.add(&both()).ok();
        bed.check(&both()).ok();
        // Handles are not ours to change.
        let found: Vec<String> = shaping().iter().map(|line| line.replace("tbf 7:", "tbf 1:")).collect();
        assert_eq!(found, wanted, "{breakage:?}");
        let ifb = bed.host.ip(&format!("-d link show {IFB}"));
        assert!(
            ifb.contains("mtu 1500") && ifb.contains("UP") && ifb.contains("alias cni/net1/c1/eth0"),
            "{ifb}"
        );
    }
}

#[test]
fn a_repeated_add_with_other_limits_leaves_none_of_the_old() {
    let bed = Bed::new();
    let (inward, outward) = (
        conf(&json!({"ingressRate": 8_000_000, "ingressBurst": 800_000})),
        conf(&json!({"egressRate": 16_000_000, "egressBurst": 1_600_000})),
    );
    let fresh = |conf: &Value| {
        let bed = Bed::new();
        bed.add(conf).ok();
        shaping()
    };
    let wanted =
        [&inward, &outward].map(|conf| std::thread::scope(|s| s.spawn(|| fresh(conf)).join().unwrap()));
    for _ in 0..2 {
        bed.add(&both()).ok();
        bed.add(&inward).ok();
        assert_eq!(shaping(), wanted[0]);
        bed.add(&outward).ok();
        assert_eq!(shaping(), wanted[1]);
    }
}

#[test]
fn two_interfaces_of_one_container_each_have_their_ifb() {
    let bed = Bed::new();
    bed.veth("vh1", "net1");
    let second = bed.with_prev_of(&both(), "vh1", "net1");
    let on_second = |command: &str| bed.call(command, &second).attachment("c1", "net1").run();
    bed.add(&both()).ok();
    let result = on_second("ADD").ok();
    let other = result["interfaces"][2]["name"].as_str().unwrap();
    assert_ne!(other, IFB);
    bed.check(&both()).ok();
    on_second("CHECK").ok();
    bed.del().ok();
    on_second("CHECK").ok();
    bed.check(&both()).fails(100);
    on_second("DEL").ok();
    assert_eq!(bed.host.ip("link show type ifb"), "");
}

#[test]
fn the_hook_of_another_program_is_shared() {
    let bed = Bed::new();
    for (qdisc, parent) in [("clsact", "ingress"), ("ingress", "parent ffff:")] {
        bed.host.run("tc", &["qdisc", "add", "dev", "vh0", qdisc]);
        let theirs = format!("filter add dev vh0 {parent} prio 7 protocol ip u32 match u32 0 0 flowid 1:7");
        bed.host.run("tc", &theirs.split(' ').collect::<Vec<_>>());
        bed.add(&both()).ok();
        bed.check(&both()).ok();
        bed.add(&both()).ok();
        let found = shaping().join("\n");
        assert!(found.matches("mirred").count() == 1 && found.contains("pref 7"), "{found}");
        bed.del().ok();
        bed.host.run("tc", &["qdisc", "del", "dev", "vh0", qdisc]);
    }
}

#[test]
fn a_runtimes_endless_burst_is_cut_and_said() {
    let bed = Bed::new();
    let runtime = json!({"ingressRate": 10_000_000, "ingressBurst": u32::MAX, "egressRate": 10_000_000, "egressBurst": u32::MAX});
    let answer = bed.add(&conf(&json!({"runtimeConfig": {"bandwidth": runtime}})));
    answer.ok();
    assert!(
        answer.stderr.contains("ingressBurst of 4294967295 bits is more than the kernel can count"),
        "{}",
        answer.stderr
    );
    assert!(answer.stderr.contains("2748779071 bits are used"), "{}", answer.stderr);
    // tc shows what the kernel holds: not what is left after an overflow.
    assert!(shaping()[0].contains("burst 343597"), "{:?}", shaping());
    bed.check(&conf(&json!({"runtimeConfig": {"bandwidth": runtime}}))).ok();
}

#[test]
fn a_burst_below_a_packet_is_said() {
    let bed = Bed::new();
    let answer = bed.add(&conf(&json!({"ingressRate": 8_000_000, "ingressBurst": 12_111})));
    answer.ok();
    assert!(answer.stderr.contains("give at least 12112 bits"), "{}", answer.stderr);
    let answer = bed.add(&conf(&json!({"ingressRate": 8_000_000, "ingressBurst": 12_112})));
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_rate_above_32_bits_of_bytes_and_another_latency() {
    let bed = Bed::new();
    let fast = conf(&json!({"ingressRate": 40_000_000_000u64, "ingressBurst": 80_000_000, "latency": 100}));
    bed.add(&fast).ok();
    bed.check(&fast).ok();
    assert!(shaping()[0].contains("rate 40Gbit") && shaping()[0].contains("lat 100ms"), "{:?}", shaping());
}
