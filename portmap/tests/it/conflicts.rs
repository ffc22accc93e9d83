//! Ports that somebody else has, living or dead.

use crate::bed::{Bed, HOST, add, check, conf, del, port, rules};
use cni_harness::faults::{Point, inject, points};
use cni_harness::traffic::{Transport, ask, serve};
use serde_json::json;
use std::time::{Duration, Instant};

#[test]
fn a_living_holder_keeps_its_port_and_is_named() {
    let bed = Bed::new();
    let (old, new) = (bed.pod("old"), bed.pod("new"));
    add(&conf(&json!([port(8080, 80, "tcp")]), &json!({})), &old).ok();
    let before = rules();
    let wanted = conf(&json!([port(9090, 80, "tcp"), port(8080, 80, "tcp")]), &json!({}));
    let why = add(&wanted, &new).fails(7);
    assert!(why.contains("host port 8080/tcp is in use by cni/net1/old/eth0"), "{why}");
    assert_eq!(rules(), before, "port 9090 is free again");
    check(&conf(&json!([port(8080, 80, "tcp")]), &json!({})), &old).ok();
    // The same number of another protocol, or on another address, is another port.
    let mut elsewhere = port(8080, 80, "tcp");
    elsewhere["hostIP"] = json!(HOST);
    let others = conf(&json!([port(8080, 80, "udp"), elsewhere]), &json!({}));
    add(&others, &new).ok();
    check(&others, &new).ok();
}

#[test]
fn a_dead_holder_is_named_and_its_late_del_harms_nobody() {
    let bed = Bed::new();
    let (old, new) = (bed.pod("old"), bed.pod("new"));
    serve(Some(&new.container), Transport::Tcp, 80, "new");
    let conf = conf(&json!([port(8080, 80, "tcp")]), &json!({}));
    add(&conf, &old).ok();
    // Its runtime lost portmap's DEL.
    bed.end(&old);
    let answer = add(&conf, &new);
    assert!(
        answer.stderr.contains("host port 8080/tcp was cni/net1/old/eth0's, which is gone"),
        "{}",
        answer.stderr
    );
    answer.ok();
    let reached = || {
        ask(Some(&bed.peer), Transport::Tcp, format!("{HOST}:8080").parse().unwrap()).map(|(_, name)| name)
    };
    assert_eq!(reached().as_deref(), Some("new"));
    del(&conf, &old).ok();
    assert_eq!(reached().as_deref(), Some("new"));
    check(&conf, &new).ok();
    assert!(!rules().contains("net1/old"), "{}", rules());
}

/// A DEL that has looked before the port was taken over, and deletes after it.
#[test]
fn a_del_and_a_takeover_at_once_harm_nobody() {
    let bed = Bed::new();
    let (old, new) = (bed.pod("old"), bed.pod("new"));
    let conf = conf(&json!([port(8080, 80, "tcp"), port(8081, 81, "tcp")]), &json!({}));
    let late = crate::bed::call("portmap", "DEL", &conf, "old", &old.container);
    add(&conf, &old).ok();
    let is_change = |point: &&Point| point.name == "sendto" && point.text.contains("NFT_MSG_DELSETELEM");
    let all = points(&late);
    let change = all.iter().find(is_change).expect("a DEL that deletes elements");
    add(&conf, &old).ok();
    bed.end(&old);
    std::thread::scope(|scope| {
        let late = scope.spawn(|| (inject(&late, change, "delay_enter=2000000"), Instant::now()));
        std::thread::sleep(Duration::from_millis(700));
        let answer = add(&conf, &new);
        let taken_over = Instant::now();
        assert!(answer.stderr.contains("taking it over"), "{}", answer.dump());
        let (answer, deleted) = late.join().unwrap();
        assert!(deleted > taken_over, "the DEL did not wait");
        answer.ok();
    });
    check(&conf, &new).ok();
    assert!(!rules().contains("net1/old"), "{}", rules());
}

/// Where no veth is marked, as with the reference's plugins, the lease of the address tells.
#[test]
fn a_holder_that_another_plugin_made_lives_until_its_del() {
    let bed = Bed::new();
    let (mut old, mut new) = (bed.pod("old"), bed.pod("new"));
    for pod in [&mut old, &mut new] {
        bed.host
            .ip(&format!("link set {} alias other", pod.result["interfaces"][1]["name"].as_str().unwrap()));
    }
    let conf = conf(&json!([port(8080, 80, "tcp")]), &json!({}));
    add(&conf, &old).ok();
    let lease = format!("/var/lib/cni/networks/net1/{}", old.ip(0));
    // In a mount namespace of its own: the machine's folder is not ours.
    let add_with = |script: &str| {
        let script = format!("mount -t tmpfs none /var/lib && {script} exec \"$0\"");
        let call =
            crate::bed::call("portmap", "ADD", &crate::bed::with_prev(&conf, &new), "new", &new.container);
        call.through("/usr/bin/unshare", &["--mount", "/bin/sh", "-c", &script]).run()
    };
    let before = rules();
    let why = add_with(&format!("mkdir -p /var/lib/cni/networks/net1 && echo old >{lease} &&")).fails(7);
    assert!(why.contains("in use by cni/net1/old/eth0") && why.contains(&lease), "{why}");
    assert_eq!(rules(), before);
    // Its lease may lie elsewhere, and it lives.
    let why = add_with("").fails(7);
    assert!(
        why.contains("in use by cni/net1/old/eth0") && why.contains("nothing shows that it is gone"),
        "{why}"
    );
    assert_eq!(rules(), before);
    del(&conf, &old).ok();
    add_with("").ok();
    check(&conf, &new).ok();
}

#[test]
fn a_repeated_add_is_the_same_as_one_and_may_change_the_ports() {
    for backend in ["nftables", "iptables"] {
        let bed = Bed::new();
        let pod = bed.pod("c1");
        let first =
            conf(&json!([port(8080, 80, "tcp"), port(8081, 81, "tcp")]), &json!({"backend": backend}));
        add(&first, &pod).ok();
        let once = rules();
        add(&first, &pod).ok();
        assert_eq!(rules().lines().count(), once.lines().count(), "{backend}");
        check(&first, &pod).ok();
        let second = conf(&json!([port(8080, 99, "tcp")]), &json!({"backend": backend}));
        add(&second, &pod).ok();
        check(&second, &pod).ok();
        assert!(!rules().contains("8081"), "{backend}: {}", rules());
    }
}

/// `count` TCP ports from `first` on.
fn many(first: u16, count: u16, backend: &str) -> serde_json::Value {
    let list: Vec<_> = (first..first + count).map(|number| port(number, number, "tcp")).collect();
    conf(&json!(list), &json!({"backend": backend}))
}

/// All changes are one datagram, whose answers have to fit into the socket. iptables' own datagram can't be
/// larger here, where root is root in a namespace alone.
#[test]
fn hundreds_of_ports_are_mapped_checked_succeeded_and_freed() {
    for (backend, count) in [("nftables", 700), ("iptables", 100)] {
        let bed = Bed::new();
        let (pod, other) = (bed.pod("c1"), bed.pod("c2"));
        let conf = many(20_000, count, backend);
        let port = 20_000 + count - 1;
        serve(Some(&pod.container), Transport::Tcp, port, "pod");
        add(&conf, &pod).ok();
        check(&conf, &pod).ok();
        let last = || ask(Some(&bed.peer), Transport::Tcp, crate::bed::at(HOST, port)).map(|(_, name)| name);
        assert_eq!(last().as_deref(), Some("pod"), "{backend}");
        if backend == "nftables" {
            // Each of them is refused.
            let before = rules();
            let why = add(&conf, &other).fails(7);
            assert!(why.contains("host port 20000/tcp is in use by cni/net1/c1/eth0"), "{why}");
            assert_eq!(rules(), before);
            bed.end(&pod);
            add(&conf, &other).ok();
            check(&conf, &other).ok();
        }
        for pod in [&pod, &other] {
            del(&conf, pod).ok();
        }
        assert!(last().is_none() && !rules().contains("20050"), "{backend}: {}", rules());
    }
}

#[test]
fn gc_frees_hundreds_of_ports_of_several_containers() {
    for (backend, count) in [("nftables", 200), ("iptables", 60)] {
        let bed = Bed::new();
        let pods: Vec<_> = (0..3).map(|n| bed.pod(&format!("c{n}"))).collect();
        for (pod, first) in pods.iter().zip([20_000, 21_000, 22_000]) {
            add(&many(first, count, backend), pod).ok();
        }
        let gc = json!({"cniVersion": "1.1.0", "name": "net1", "type": "portmap",
                        "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]});
        cni_harness::Call::new("portmap").command("GC", &gc).run().ok();
        check(&many(21_000, count, backend), &pods[1]).ok();
        let left = rules();
        assert!(!left.contains("20050") && !left.contains("22050"), "{backend}: {left}");
    }
}

#[test]
fn forty_at_once_on_a_fresh_machine_all_succeed() {
    cni_harness::raise_file_limit();
    for backend in ["nftables", "iptables"] {
        let count = if backend == "nftables" { 40 } else { 10 };
        let bed = Bed::new();
        let pods: Vec<_> = (0..count).map(|i| bed.pod(&format!("c{i}"))).collect();
        let conf_of = |i: usize| {
            let host_port = 8000 + u16::try_from(i).unwrap();
            conf(
                &json!([port(host_port, 80, "tcp"), port(host_port, 53, "udp")]),
                &json!({"backend": backend}),
            )
        };
        let before = rules();
        // The threads inherit this test's namespace.
        let all = |verb: fn(&serde_json::Value, &crate::bed::Pod) -> cni_harness::Answer| {
            std::thread::scope(|scope| {
                let run = |(i, pod)| scope.spawn(move || verb(&conf_of(i), pod).ok());
                let threads: Vec<_> = pods.iter().enumerate().map(run).collect();
                for thread in threads {
                    thread.join().unwrap();
                }
            });
        };
        all(add);
        all(check);
        all(del);
        let left = rules();
        assert!(before.is_empty() && !left.contains("elements") && !left.contains("pod-"), "{left}");
        assert!(!left.contains("CNI-DN-"), "{left}");
    }
}
