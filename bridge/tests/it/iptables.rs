//! The iptables back end, and what the reference plugin left of its masquerading on a node that swaps plugins.

use crate::bed::{Bed, add, call, check, del, theirs, traced_add, warm_up, with_prev};
use crate::masquerade::outside;
use cni_harness::{Call, Container, OLD_REFERENCE, Snapshot, calls_inside, reference_dir};
use serde_json::{Value, json};
use std::path::Path;

fn conf(bed: &Bed) -> Value {
    bed.conf(&json!({"cniVersion": "1.0.0", "isDefaultGateway": true, "ipMasq": true, "ipMasqBackend": "iptables"}))
}

/// The rules of both families and both kinds of iptables, without counters and dates.
fn saved(bed: &Bed) -> Vec<String> {
    let programs =
        ["iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"];
    let rules = programs.iter().map(|program| bed.host.run(program, &[]));
    rules
        .flat_map(|text| {
            text.lines().filter(|line| line.starts_with("-A")).map(ToOwned::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn a_pod_reaches_the_outside_masqueraded() {
    let bed = Bed::new();
    let _machine = outside(&bed.host);
    let pod = Container::new();
    let result = add(&conf(&bed), "c1", &pod).ok();
    for address in ["192.0.2.2", "2001:db8::2"] {
        assert!(pod.pings(address), "{address}");
    }
    assert!(!Snapshot::take().rules.contains("cni_masquerade"), "not by both");
    check(&conf(&bed), &result, "c1", &pod).ok();
    del(&conf(&bed), "c1", &pod).ok();
    assert_eq!(saved(&bed), [""; 0]);
}

#[test]
fn the_rules_are_the_references_to_the_letter() {
    let rules = |ours: bool| {
        let (bed, pod) = (Bed::new(), Container::new());
        let conf = conf(&bed);
        if ours {
            add(&conf, "c1", &pod).ok()
        } else {
            theirs(&reference_dir(), "ADD", &conf, "c1", &pod).ok()
        };
        saved(&bed)
    };
    let ours = rules(true);
    assert_eq!(ours.len(), 6, "{ours:?}");
    assert_eq!(ours, rules(false));
}

#[test]
fn one_run_of_iptables_restore_a_family() {
    let bed = Bed::new();
    warm_up(&conf(&bed));
    let trace = traced_add(&conf(&bed), &Container::new(), "execve");
    let programs: Vec<&str> =
        trace.split("execve(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let names: Vec<&str> = programs.iter().filter_map(|path| path.rsplit('/').next()).collect();
    let delegate = if calls_inside() { &[][..] } else { &["host-local"] };
    let wanted = [&["bridge"], delegate, &["iptables-restore", "ip6tables-restore"]].concat();
    assert_eq!(names, wanted);
}

#[test]
fn two_interfaces_share_a_chain_and_part_in_peace() {
    let bed = Bed::new();
    let _machine = outside(&bed.host);
    let conf = conf(&bed);
    let pod = Container::new();
    let first = add(&conf, "c1", &pod).ok();
    let one = saved(&bed);
    let mut no_routes = conf.clone();
    no_routes["isDefaultGateway"] = json!(false);
    let second = call("ADD", &no_routes, "c1", &pod).attachment("c1", "eth1").run().ok();
    assert_eq!(saved(&bed).len(), one.len() + 2, "one more address a family, {:?}", saved(&bed));
    for (result, ifname) in [(&first, "eth0"), (&second, "eth1")] {
        call("CHECK", &with_prev(&conf, result), "c1", &pod).attachment("c1", ifname).run().ok();
    }
    call("DEL", &conf, "c1", &pod).attachment("c1", "eth1").run().ok();
    assert_eq!(saved(&bed), one);
    assert!(pod.pings("192.0.2.2"), "the other still is");
    del(&conf, "c1", &pod).ok();
    assert_eq!(saved(&bed), [""; 0]);
}

#[test]
fn many_at_once_lose_nothing_and_leave_nothing() {
    let bed = Bed::new();
    let conf = conf(&bed);
    warm_up(&conf);
    let before = Snapshot::take();
    let pods: Vec<Container> = (0..12).map(|_| Container::new()).collect();
    for command in ["ADD", "DEL"] {
        let calls: Vec<Call> =
            pods.iter().enumerate().map(|(n, pod)| call(command, &conf, &format!("c{n}"), pod)).collect();
        // Threads start in the namespace of the one that starts them.
        std::thread::scope(|scope| {
            let running: Vec<_> = calls.iter().map(|call| scope.spawn(|| call.run())).collect();
            for answer in running {
                answer.join().unwrap().ok();
            }
        });
        let jumps = saved(&bed).iter().filter(|rule| rule.starts_with("-A POSTROUTING")).count();
        assert_eq!(jumps, if command == "ADD" { 24 } else { 0 });
    }
    assert_eq!(Snapshot::take(), before);
}

#[test]
fn check_names_the_rule_that_is_missing() {
    for rule in ["-F", "-D POSTROUTING 1"] {
        let bed = Bed::new();
        let pod = Container::new();
        let result = add(&conf(&bed), "c1", &pod).ok();
        let args: Vec<&str> = ["-t", "nat"].into_iter().chain(rule.split(' ')).collect();
        bed.host.run("iptables", &args);
        let why = check(&conf(&bed), &result, "c1", &pod).fails(100);
        assert!(why.contains("masquerading of 10.1.0.2") && why.contains("no rule -A "), "{why}");
    }
}

#[test]
fn gc_ends_it_for_the_dead_only() {
    let bed = Bed::new();
    let mut conf = bed.conf(&json!({"ipMasq": true, "ipMasqBackend": "iptables"}));
    let neighbour = bed
        .conf(&json!({"name": "net2", "ipMasq": true, "ipMasqBackend": "iptables", "bridge": "br2",
                                     "ipam": bed.ipam(&json!([[{"subnet": "10.2.0.0/24"}]]))}));
    let pods = [Container::new(), Container::new(), Container::new()];
    add(&conf, "alive", &pods[0]).ok();
    add(&neighbour, "other", &pods[1]).ok();
    let wanted = saved(&bed);
    add(&conf, "dead", &pods[2]).ok();
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "alive", "ifname": "eth0"}]);
    Call::new("bridge").command("GC", &conf).run().ok();
    assert_eq!(saved(&bed), wanted);
    conf["cni.dev/valid-attachments"] = json!([]);
    Call::new("bridge").command("GC", &conf).run().ok();
    assert!(saved(&bed).iter().all(|rule| rule.contains("net2")), "{:?}", saved(&bed));
    assert_eq!(saved(&bed).len(), 3);
}

/// ADD by one, CHECK and DEL by the other: links, leases and rules as before.
#[test]
fn a_node_may_swap_plugins_with_containers_on_it() {
    let (newest, old) = (&*reference_dir(), Path::new(OLD_REFERENCE));
    // The old one has no other back end than iptables, and does not know the key.
    for (reference, backend) in [
        (newest, json!("iptables")),
        (newest, json!("nftables")),
        (newest, json!(null)),
        (old, json!("iptables")),
        (old, json!(null)),
    ] {
        eprintln!("{} {backend}", reference.display());
        let bed = Bed::new();
        let mut conf = conf(&bed);
        conf["ipMasqBackend"] = backend.clone();
        let theirs = |command: &str, conf: &Value, id: &str, pod: &Container| {
            theirs(reference, command, conf, id, pod)
        };
        warm_up(&conf);
        let warm = Container::new();
        theirs("ADD", &conf, "w", &warm).ok();
        theirs("DEL", &conf, "w", &warm).ok();
        let (before, pod) = (Snapshot::take(), Container::new());
        let result = theirs("ADD", &conf, "c1", &pod).ok();
        check(&conf, &result, "c1", &pod).ok();
        call("DEL", &conf, "c1", &pod).run().ok();
        assert_eq!(Snapshot::take(), before, "theirs, deleted by ours");

        let pod = Container::new();
        theirs("ADD", &conf, "c2", &pod).ok();
        call("DEL", &conf, "c2", &pod).env("CNI_NETNS", "/run/netns/gone").run().ok();
        assert_eq!(saved(&bed), [""; 0], "with the namespace gone, where the reference leaks");

        let pod = Container::new();
        let result = add(&conf, "c3", &pod).ok();
        let answer = theirs("DEL", &with_prev(&conf, &result), "c3", &pod);
        if reference == old && backend.is_null() {
            // The reference's release 1.1.1 takes "no such chain" for an error, after it did all it had to.
            assert!(answer.stdout.contains("does not exist"), "{}", answer.dump());
            theirs("DEL", &with_prev(&conf, &result), "c3", &pod).ok();
        } else {
            answer.ok();
        }
        assert!(bed.leases().is_empty() && !pod.ip("link").contains("eth0"));
        assert_eq!(saved(&bed), [""; 0], "ours, deleted by theirs");
    }
}

#[test]
fn rules_in_legacy_tables_go_too() {
    let bed = Bed::new();
    let conf = conf(&bed);
    let tools = tempfile::tempdir().unwrap();
    for name in ["iptables", "ip6tables"] {
        let legacy = format!("/usr/sbin/{name}-legacy");
        std::os::unix::fs::symlink(legacy, tools.path().join(name)).unwrap();
    }
    let pod = Container::new();
    let result = Call::of(&reference_dir(), "bridge")
        .command("ADD", &conf)
        .attachment("c1", "eth0")
        .netns(&pod)
        .env("PATH", tools.path().as_os_str())
        .run_again_if_tentative()
        .ok();
    assert_eq!(saved(&bed).len(), 6);
    check(&conf, &result, "c1", &pod).ok();
    del(&conf, "c1", &pod).ok();
    assert_eq!(saved(&bed), [""; 0]);
}

/// The chains and comments of the reference's releases since 1.6, of several networks and containers.
#[test]
fn rules_of_the_references_nf_tables_back_end_go_too() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"ipMasq": true, "ipMasqBackend": "nftables"}));
    let pod = Container::new();
    let result = add(&conf, "c1", &pod).ok();
    // Ours stand aside, as if the reference had made the attachment.
    bed.host.run("nft", &["flush", "ruleset"]);
    let digest = |text: &str| cni_common::owner::reference_digest(&[text], 16);
    let rule = |net: &str, owner: &str| {
        format!(
            "add rule inet cni_plugins_masquerade masq_checks ip saddr 10.1.0.2 ip daddr != 10.1.0.0/24 masquerade comment \"{}-{}, net: {net}\"",
            digest(net),
            digest(owner)
        )
    };
    let setup = [
        "add table inet cni_plugins_masquerade".to_owned(),
        "add chain inet cni_plugins_masquerade masq_checks".to_owned(),
        rule("net1", "eth0:c2"),
        rule("net2", "eth0:c1"),
    ];
    bed.host.run("nft", &[&setup.join(";")]);
    let before = Snapshot::take().rules;
    check(&conf, &result, "c1", &pod).fails(100);
    bed.host.run("nft", &[&rule("net1", "eth0:c1")]);
    check(&conf, &result, "c1", &pod).ok();
    del(&conf, "c1", &pod).ok();
    assert_eq!(Snapshot::take().rules, before);
    let mut gc = conf.clone();
    gc["cni.dev/valid-attachments"] = json!([]);
    Call::new("bridge").command("GC", &gc).run().ok();
    let rules = Snapshot::take().rules;
    assert!(!rules.contains("net: net1") && rules.contains("net: net2"), "{rules}");
}

#[test]
fn a_kernel_without_nf_tables_gets_iptables_unless_the_config_insists() {
    // The first two sockets are for links; those after them ask for nf_tables, and hear that the kernel has none.
    let add_without = |conf: &Value, pod: &Container, sockets: &str| {
        let inject = format!("inject=socket:error=EPROTONOSUPPORT:when={sockets}");
        let words = ["-o", "/dev/null", "-e", &inject];
        call("ADD", conf, "c1", pod).through("/usr/bin/strace", &words).run()
    };
    let bed = Bed::new();
    let mut conf = conf(&bed);
    conf["ipMasqBackend"] = json!("nftables");
    let before = Snapshot::take();
    let pod = Container::new();
    let why = add_without(&conf, &pod, "3").fails(5);
    assert!(why.contains("failed to set up ipMasq"), "{why}");
    assert_eq!(Snapshot::take(), before);

    conf.as_object_mut().unwrap().remove("ipMasqBackend");
    let result = add_without(&conf, &pod, "3..4").ok();
    assert_eq!(saved(&bed).len(), 6);
    assert!(!Snapshot::take().rules.contains("cni_masquerade"));
    check(&conf, &result, "c1", &pod).ok();
    del(&conf, "c1", &pod).ok();
    assert_eq!(saved(&bed), [""; 0]);
}
