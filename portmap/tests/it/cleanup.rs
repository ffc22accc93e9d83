//! DEL and GC leave nothing of an attachment, whatever is gone already and whoever made it.

use crate::bed::{BACKENDS, Bed, Pod, add, call, check, conf, del, port, rules, with_prev};
use cni_harness::{Answer, Call, OLD_REFERENCE, reference_dir};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

fn ports() -> Value {
    let mut at_v6 = port(9090, 90, "tcp");
    at_v6["hostIP"] = json!("2001:db8::1");
    json!([port(8080, 80, "tcp"), port(8080, 53, "udp"), port(3868, 3868, "sctp"), at_v6])
}

/// The shared tables and chains are there.
fn warm_up(bed: &Bed, conf: &Value) {
    let pod = bed.pod("warm-up");
    add(conf, &pod).ok();
    del(conf, &pod).ok();
    bed.end(&pod);
}

#[test]
fn del_leaves_nothing_whatever_is_gone() {
    type How = fn(Call) -> Call;
    let hows: &[(&str, How)] = &[
        ("all given", |call| call),
        ("no namespace", |call| call.without("CNI_NETNS")),
        ("a dead namespace", |call| call.env("CNI_NETNS", "/run/netns/gone")),
    ];
    for backend in BACKENDS {
        for (how, change) in hows {
            for (mappings, prev) in
                [(ports(), true), (ports(), false), (json!(null), false), (json!([]), true)]
            {
                let bed = Bed::new();
                let used = conf(&ports(), &json!({"backend": backend}));
                warm_up(&bed, &used);
                let (before, pod) = (rules(), bed.pod("c1"));
                add(&used, &pod).ok();
                assert_ne!(rules(), before);
                let gone = conf(&mappings, &json!({"backend": backend}));
                let gone = if prev { with_prev(&gone, &pod) } else { gone };
                for _ in 0..2 {
                    change(call("portmap", "DEL", &gone, "c1", &pod.container)).run().ok();
                    assert_eq!(rules(), before, "{backend}, {how}, {mappings}");
                }
            }
        }
    }
}

#[test]
fn after_rules_were_flushed_or_never_made() {
    for backend in BACKENDS {
        let bed = Bed::new();
        let pod = bed.pod("c1");
        let conf = conf(&ports(), &json!({"backend": backend}));
        del(&conf, &pod).ok();
        assert_eq!(rules(), "");
        add(&conf, &pod).ok();
        bed.host.run("nft", &["flush", "ruleset"]);
        del(&conf, &pod).ok();
        add(&conf, &pod).ok();
        check(&conf, &pod).ok();
    }
}

#[test]
fn two_networks_of_one_container_live_and_die_independently() {
    for backend in BACKENDS {
        let bed = Bed::new();
        let pod = bed.pod("c1");
        let on = |network: &str, host_port: u16| {
            let extra = json!({"name": network, "backend": backend});
            conf(&json!([port(host_port, 80, "tcp")]), &extra)
        };
        let (one, two) = (on("net1", 8080), on("net2", 9090));
        add(&one, &pod).ok();
        add(&two, &pod).ok();
        del(&one, &pod).ok();
        check(&two, &pod).ok();
        check(&one, &pod).fails(100);
    }
}

#[test]
fn gc_frees_the_dead_only() {
    for backend in BACKENDS {
        let bed = Bed::new();
        let pods = [bed.pod("c1"), bed.pod("c2")];
        let conf_of = |network: &str, host_port: u16| {
            conf(&json!([port(host_port, 80, "tcp")]), &json!({"name": network, "backend": backend}))
        };
        let (kept, gone, other) = (conf_of("net1", 8080), conf_of("net1", 8081), conf_of("net2", 8082));
        add(&kept, &pods[0]).ok();
        add(&other, &pods[1]).ok();
        let before = rules();
        add(&gone, &pods[1]).ok();
        let gc = |list: Value| {
            let mut conf = conf(&json!(null), &json!({}));
            conf["cni.dev/valid-attachments"] = list;
            call("portmap", "GC", &conf, "", &pods[0].container).run().ok();
        };
        gc(json!([{"containerID": "c1", "ifname": "eth0"}]));
        assert_eq!(rules(), before, "{backend}");
        check(&kept, &pods[0]).ok();
        check(&other, &pods[1]).ok();
        gc(json!([]));
        check(&kept, &pods[0]).fails(100);
        check(&other, &pods[1]).ok();
    }
}

/// More of them than are deleted at once, and one that can't be.
#[test]
fn an_orphan_in_use_keeps_none_of_the_others() {
    let bed = Bed::new();
    let pod = bed.pod("c1");
    let add = |nth: u16| {
        let conf = with_prev(&conf(&json!([port(8000 + nth, 80, "tcp")]), &json!({})), &pod);
        call("portmap", "ADD", &conf, &format!("dead{nth}"), &pod.container).run().ok();
    };
    let chains = || -> BTreeSet<String> {
        let listed = bed.host.run("nft", &["list", "chains", "ip"]);
        let names = listed.lines().filter_map(|line| line.trim().strip_prefix("chain "));
        names.map(|name| name.trim_end_matches(" {").to_owned()).collect()
    };
    let gc = || {
        let mut conf = conf(&json!(null), &json!({}));
        conf["cni.dev/valid-attachments"] = json!([]);
        call("portmap", "GC", &conf, "", &pod.container).run()
    };
    add(0);
    gc().ok();
    let shared = chains();
    (0..40).for_each(&add);
    let others = chains();
    add(40);
    let in_use: Vec<String> = chains().difference(&others).cloned().collect();
    assert_eq!(in_use.len(), 1, "{in_use:?}");
    let jump = format!("add rule ip cni_portmap foreign jump {}", in_use[0]);
    bed.host.run("nft", &[&format!("add chain ip cni_portmap foreign; {jump}")]);

    gc().fails(5);
    let left: Vec<String> = chains().difference(&shared).cloned().collect();
    let mut expected = vec!["foreign".to_owned(), in_use[0].clone()];
    expected.sort();
    assert_eq!(left, expected);
    bed.host.run("nft", &["flush chain ip cni_portmap foreign; delete chain ip cni_portmap foreign"]);
    gc().ok();
    assert_eq!(chains(), shared);
}

fn theirs(dir: &Path, command: &str, conf: &Value, pod: &Pod) -> Answer {
    let mut conf = with_prev(conf, pod);
    conf["cniVersion"] = json!("1.0.0");
    conf["prevResult"]["cniVersion"] = json!("1.0.0");
    Call::of(dir, "portmap")
        .command(command, &conf)
        .attachment(&pod.id, "eth0")
        .netns(&pod.container)
        .env("PATH", "/usr/sbin:/usr/bin")
        .run()
}

#[test]
fn a_node_may_swap_plugins_with_containers_on_it() {
    swap_by_iptables(&reference_dir());
    swap_by_iptables(Path::new(OLD_REFERENCE));
}

fn swap_by_iptables(reference: &Path) {
    let bed = Bed::new();
    let pod = bed.pod("c1");
    let conf = conf(
        &json!([port(8080, 80, "tcp"), port(8081, 81, "tcp"), port(53, 53, "udp")]),
        &json!({"backend": "iptables"}),
    );
    let saved = || {
        let text =
            ["iptables-save", "ip6tables-save"].map(|program| bed.host.run(program, &["-t", "nat"])).concat();
        let lines = text.lines().filter(|line| line.starts_with("-A") && line.contains("CNI-"));
        let mut lines: Vec<String> = lines.map(ToOwned::to_owned).collect();
        lines.sort();
        lines
    };
    let is_gone = || saved().iter().all(|line| !line.contains("CNI-DN-"));
    theirs(reference, "ADD", &conf, &pod).ok();
    let made = saved();
    assert!(made.iter().any(|line| line.contains("--to-destination [fd00:1::2]:80")), "{made:?}");
    check(&conf, &pod).ok();
    del(&conf, &pod).ok();
    assert!(is_gone(), "{:?}", saved());

    bed.host.run("nft", &["flush", "ruleset"]);
    add(&conf, &pod).ok();
    assert_eq!(saved(), made, "the reference's rules to the letter");
    theirs(reference, "DEL", &conf, &pod).ok();
    assert!(is_gone(), "{:?}", saved());
}

#[test]
fn rules_of_the_references_nf_tables_back_end_go_too() {
    let bed = Bed::new();
    let (pod, other) = (bed.pod("c1"), bed.pod("c10"));
    for (pod, port_of_host) in [(&pod, 8080), (&other, 8081)] {
        let mappings = json!([port(port_of_host, 80, "tcp")]);
        theirs(&reference_dir(), "ADD", &conf(&mappings, &json!({"backend": "nftables"})), pod).ok();
    }
    let made = rules();
    assert!(made.contains("\"c1\"") && made.contains("\"c10\""), "{made}");
    del(&conf(&json!(null), &json!({})), &pod).ok();
    let left = rules();
    assert!(!left.contains("\"c1\"") && left.contains("\"c10\""), "{left}");
}
