//! Rules that somebody flushed, and what nobody needs any more.

use crate::bed::{BACKENDS, Bed, HOST, PEER, add, at, check, conf, del, port, rules};
use cni_harness::traffic::{Transport, ask, serve};
use cni_harness::{Call, Snapshot};
use serde_json::json;

/// Chains, maps and elements stay when rules are flushed. The next ADD makes whole what it shares, CHECK
/// misses what is not.
#[test]
fn what_is_shared_is_made_whole_again() {
    let flushes = [
        "flush table ip cni_portmap",
        "flush chain ip cni_portmap prerouting",
        "flush chain ip cni_portmap guard",
        "flush chain ip cni_portmap masquerade-13",
    ];
    for flush in flushes {
        let bed = Bed::new();
        let (old, new) = (bed.pod("old"), bed.pod("new"));
        let of_old = conf(&json!([port(8081, 80, "udp")]), &json!({}));
        let of_new = conf(&json!([port(8082, 80, "udp")]), &json!({}));
        serve(Some(&new.container), Transport::Udp, 80, "new");
        add(&of_old, &old).ok();
        let whole = rules();
        bed.host.run("nft", &flush.split(' ').collect::<Vec<_>>());
        check(&of_old, &old).fails(100);
        add(&of_new, &new).ok();
        let answer = ask(Some(&bed.peer), Transport::Udp, at(HOST, 8082));
        assert_eq!(answer, Some((PEER.parse().unwrap(), "new".to_owned())), "{flush}\n{}", rules());
        assert_eq!(rules().matches(" drop").count(), whole.matches(" drop").count(), "{flush}: the guard");
        del(&of_new, &new).ok();
        // What is the old one's own only its own ADD makes again.
        add(&of_old, &old).ok();
        check(&of_old, &old).ok();
        assert_eq!(rules(), whole, "{flush}");
    }
}

#[test]
fn gc_knows_whose_a_flushed_chain_is() {
    let bed = Bed::new();
    let (dead, living) = (bed.pod("dead"), bed.pod("living"));
    add(&conf(&json!([port(8082, 80, "tcp")]), &json!({})), &living).ok();
    let without = rules();
    add(&conf(&json!([port(8081, 80, "tcp")]), &json!({})), &dead).ok();
    for family in ["ip", "ip6"] {
        bed.host.run("nft", &["flush", "table", family, "cni_portmap"]);
    }
    let mut gc = conf(&json!([]), &json!({}));
    gc["cni.dev/valid-attachments"] = json!([{"containerID": "living", "ifname": "eth0"}]);
    Call::new("portmap").command("GC", &gc).run().ok();
    assert!(!rules().contains("cni/net1/dead/eth0"), "{}", rules());
    add(&conf(&json!([port(8082, 80, "tcp")]), &json!({})), &living).ok();
    assert_eq!(rules(), without);
}

/// With `route_localnet` on, the kernel takes packets for 127.0.0.0/8 from anywhere: the guard has to be
/// there, by whatever the ports are mapped, and although the switch is on already.
#[test]
fn the_guard_is_put_up_again_before_the_switch_is_looked_at() {
    for backend in BACKENDS {
        let bed = Bed::new();
        let (first, second) = (bed.pod("first"), bed.pod("second"));
        let of = |host_port| conf(&json!([port(host_port, 80, "tcp")]), &json!({"backend": backend}));
        add(&of(8081), &first).ok();
        bed.host.run("nft", &["flush", "ruleset"]);
        check(&of(8081), &first).fails(100);
        add(&of(8082), &second).ok();
        let guard = bed.host.run("nft", &["list", "chain", "ip", "cni_portmap", "guard"]);
        assert_eq!(guard.matches(" drop").count(), 2, "{backend}: {guard}");
        check(&of(8082), &second).ok();
        bed.host.run("nft", &["flush", "chain", "ip", "cni_portmap", "guard"]);
        check(&of(8082), &second).fails(100);
    }
}

#[test]
fn the_last_to_go_takes_along_what_nobody_needs() {
    for loopback_stays_open in [true, false] {
        let bed = Bed::new();
        let before = Snapshot::take().rules;
        let pods = [bed.pod("c1"), bed.pod("c2")];
        let of = |n: u16| conf(&json!([port(8080 + n, 80, "tcp"), port(8080 + n, 53, "udp")]), &json!({}));
        add(&of(0), &pods[0]).ok();
        let one = rules();
        add(&of(1), &pods[1]).ok();
        del(&of(1), &pods[1]).ok();
        assert_eq!(rules(), one);
        if !loopback_stays_open {
            bed.host.run("sysctl", &["-qw", "net.ipv4.conf.br1.route_localnet=0"]);
        }
        del(&of(0), &pods[0]).ok();
        let left = rules();
        assert!(!left.contains("table ip6 cni_portmap"), "{left}");
        // As long as the kernel would take such packets, they have to be dropped.
        assert_eq!(left.contains("chain guard"), loopback_stays_open, "{left}");
        assert!(loopback_stays_open || left == before, "{left}");
    }
}

#[test]
fn forms_of_one_host_address_are_one() {
    for backend in BACKENDS {
        let bed = Bed::new();
        let pod = bed.pod("c1");
        serve(Some(&pod.container), Transport::Udp, 80, "pod");
        let with = |host_ip: &str, container_port: u16| {
            let mut mapping = port(8080, container_port, "udp");
            mapping["hostIP"] = json!(host_ip);
            mapping
        };
        let of = |mappings: serde_json::Value| conf(&mappings, &json!({"backend": backend}));
        for mappings in [
            json!([with("", 80), with("0.0.0.0", 80), with("::", 80)]),
            json!([with("::", 80), with("0.0.0.0", 80)]),
            json!([with("::ffff:0.0.0.0", 80)]),
            json!([with(&format!("::ffff:{HOST}"), 80), with(HOST, 80)]),
        ] {
            let conf = of(mappings);
            add(&conf, &pod).ok();
            let answer = ask(Some(&bed.peer), Transport::Udp, at(HOST, 8080));
            assert_eq!(answer.map(|(_, who)| who).as_deref(), Some("pod"), "{backend} {conf}");
            check(&conf, &pod).ok();
            del(&conf, &pod).ok();
        }
        for mappings in [
            json!([with("", 80), with("0.0.0.0", 81)]),
            json!([with("::", 80), with("", 81)]),
            json!([with("::ffff:192.0.2.1", 80), with("192.0.2.1", 81)]),
        ] {
            let why = add(&of(mappings), &pod).fails(7);
            assert!(why.contains("is mapped twice") && why.contains("80 and 81"), "{why}");
        }
    }
}
