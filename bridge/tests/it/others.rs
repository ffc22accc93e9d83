//! What belongs to others, or may by now: a namespace that another container got, a bridge that somebody
//! made, rules that somebody flushed, locks that anybody can take.

use crate::bed::{Bed, add, call, check, del, inside, theirs, with_prev};
use crate::masquerade::outside;
use cni_harness::{Container, Snapshot, reference_dir, write_file};
use fs2::FileExt;
use serde_json::{Value, json};
use std::time::Duration;

/// Nothing here takes so long, and nothing that waits for ever ends before.
const PATIENCE: Duration = Duration::from_secs(15);

#[test]
fn a_namespace_that_another_container_got_is_not_touched() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"ipMasq": true}));
    let other = bed.conf(&json!({"name": "net2", "bridge": "br2",
                                 "ipam": bed.ipam(&json!([[{"subnet": "10.2.0.0/24"}]]))}));
    let living = Container::new();
    let old = {
        let gone = Container::new();
        add(&conf, "old", &gone).ok()
    };
    for of_living in [&conf, &other] {
        add(of_living, "new", &living).ok();
        let before = inside(&living);
        // Its own DEL, one without a result, one of another network, and one of a container that never was.
        for (conf, id) in [
            (with_prev(&conf, &old), "old"),
            (conf.clone(), "old"),
            (other.clone(), "old"),
            (conf.clone(), "never"),
        ] {
            del(&conf, id, &living).ok();
            assert_eq!(inside(&living), before, "{id} {conf}");
        }
        del(of_living, "new", &living).ok();
        assert!(!living.ip("link").contains("eth0"));
    }
}

#[test]
fn nor_is_one_that_the_reference_made_there_nor_any_other_link() {
    let bed = Bed::new();
    let mut conf = bed.conf(&json!({"cniVersion": "1.0.0"}));
    let (living, old) = (Container::new(), Container::new());
    let of_reference = |command: &str, conf: &Value, id: &str, pod: &Container| {
        theirs(&reference_dir(), command, conf, id, pod)
    };
    let first = of_reference("ADD", &conf, "old", &old).ok();
    of_reference("ADD", &conf, "new", &living).ok();
    del(&with_prev(&conf, &first), "old", &living).ok();
    assert!(living.ip("link").contains("eth0"), "its address is not the one that ADD gave");
    del(&with_prev(&conf, &first), "old", &old).ok();
    assert!(!old.ip("link").contains("eth0"), "its own goes");

    conf["ipam"] = json!({});
    let other = Container::new();
    other.ip("link add eth0 type ifb");
    del(&conf, "old", &other).ok();
    assert!(other.ip("link").contains("eth0"), "no veth, so none of ours");
}

#[test]
fn a_container_that_died_a_moment_ago_may_come_back() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"ipam": {}}));
    for _ in 0..15 {
        let pod = Container::new();
        add(&conf, "c1", &pod).ok();
    }
}

#[test]
fn of_two_adds_at_once_one_is_told_that_the_other_is_there() {
    let bed = Bed::new();
    for conf in [bed.conf(&json!({})), bed.conf(&json!({"ipam": {}}))] {
        for _ in 0..10 {
            let pod = Container::new();
            let start = || call("ADD", &conf, "c1", &pod);
            let (one, two) = (start(), start());
            let answers = std::thread::scope(|scope| {
                let here = scope.spawn(|| one.run());
                [two.run(), here.join().unwrap()]
            });
            for answer in answers.iter().filter(|answer| !answer.is_ok()) {
                answer.fails(101);
            }
            if answers.iter().any(cni_harness::Answer::is_ok) {
                assert!(pod.ip("link").contains("eth0"), "who was told that all is well has a link");
            }
            del(&conf, "c1", &pod).ok();
        }
    }
    assert!(bed.leases().is_empty());
}

#[test]
fn a_bridge_of_others_keeps_its_address() {
    for uplink in [None, Some("02:00:00:00:00:01"), Some("f2:00:00:00:00:01")] {
        let bed = Bed::new();
        bed.host.ip("link add br1 type bridge");
        if let Some(mac) = uplink {
            bed.host.ip_all(&[
                "link add up0 type veth peer name far0",
                &format!("link set up0 address {mac} master br1"),
            ]);
        }
        bed.host.ip("link set br1 up");
        let of_kernel = || bed.host.ip("-j -d link show br1");
        let before = mac_of(&of_kernel());
        let pods: Vec<Container> = (0..6).map(|_| Container::new()).collect();
        let conf = bed.conf(&json!({}));
        let results: Vec<Value> =
            pods.iter().enumerate().map(|(n, pod)| add(&conf, &format!("c{n}"), pod).ok()).collect();
        assert_eq!(mac_of(&of_kernel()), before, "{uplink:?}");
        for (n, (pod, result)) in pods.iter().zip(&results).enumerate() {
            assert_eq!(result["interfaces"][0]["mac"], before, "{uplink:?}");
            check(&conf, result, &format!("c{n}"), pod).ok();
            del(&conf, &format!("c{n}"), pod).ok();
        }
        assert_eq!(mac_of(&of_kernel()), before, "{uplink:?}, without a pod");
    }
}

#[test]
fn without_a_gateway_a_bridge_of_others_may_follow_its_ports() {
    let bed = Bed::new();
    bed.host.ip_all(&["link add br1 type bridge", "link set br1 up"]);
    let conf = bed.conf(&json!({"isGateway": false}));
    let pods: Vec<Container> = (0..4).map(|_| Container::new()).collect();
    let results: Vec<Value> =
        pods.iter().enumerate().map(|(n, pod)| add(&conf, &format!("c{n}"), pod).ok()).collect();
    for (n, (pod, result)) in pods.iter().zip(&results).enumerate() {
        check(&conf, result, &format!("c{n}"), pod).ok();
    }
}

fn mac_of(links: &str) -> Value {
    serde_json::from_str::<Value>(links).unwrap()[0]["address"].clone()
}

/// Everything that an ADD relies on is made whole, whoever took it away, and CHECK misses it.
#[test]
fn rules_that_somebody_flushed_are_made_again() {
    for (label, commands) in [
        ("the table", &["flush table ip cni_masquerade", "flush table ip6 cni_masquerade"][..]),
        ("the base chain", &["flush chain ip cni_masquerade postrouting"]),
        ("the network's chains", &["net-", "out-"]),
    ] {
        let bed = Bed::new();
        let _machine = outside(&bed.host);
        let conf = bed.conf(&json!({"isDefaultGateway": true, "ipMasq": true}));
        let (old, new) = (Container::new(), Container::new());
        let result = add(&conf, "old", &old).ok();
        assert!(old.pings("192.0.2.2"));
        let chains = bed.host.run("nft", &["list", "table", "ip", "cni_masquerade"]);
        for command in commands {
            if command.ends_with('-') {
                let of_kind =
                    chains.lines().filter_map(|line| line.trim().strip_prefix("chain ")?.strip_suffix(" {"));
                for chain in of_kind.filter(|chain| chain.starts_with(command)) {
                    bed.host.run("nft", &["flush", "chain", "ip", "cni_masquerade", chain]);
                }
            } else {
                bed.host.run("nft", &command.split(' ').collect::<Vec<_>>());
            }
        }
        assert!(!old.pings("192.0.2.2"), "{label}");
        let why = check(&conf, &result, "old", &old).fails(100);
        assert!(why.contains("masquerading of 10.1.0.2"), "{label}: {why}");
        add(&conf, "new", &new).ok();
        for pod in [&old, &new] {
            assert!(pod.pings("192.0.2.2"), "{label}");
        }
        check(&conf, &result, "old", &old).ok();
    }
}

#[test]
fn a_guard_that_somebody_flushed_is_made_again() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"macspoofchk": true}));
    let (old, new) = (Container::new(), Container::new());
    let result = add(&conf, "old", &old).ok();
    bed.host.run("nft", &["flush", "table", "bridge", "cni_macspoofchk"]);
    assert!(check(&conf, &result, "old", &old).fails(100).contains("macspoofchk"));
    add(&conf, "new", &new).ok();
    check(&conf, &result, "old", &old).ok();
    new.ip("link set eth0 address 02:00:00:00:00:99");
    assert!(!new.pings("10.1.0.1"), "guarded");
}

#[test]
fn the_last_to_go_takes_all_masquerading_along() {
    let bed = Bed::new();
    let before = Snapshot::take().rules;
    let nets = [1, 2].map(|n| {
        let ipam = bed
            .ipam(&json!([[{"subnet": format!("10.{n}.0.0/24")}], [{"subnet": format!("fd00:{n}::/64")}]]));
        bed.conf(
            &json!({"ipMasq": true, "name": format!("net{n}"), "bridge": format!("br{n}"), "ipam": ipam}),
        )
    });
    let pods = [Container::new(), Container::new(), Container::new()];
    add(&nets[0], "c0", &pods[0]).ok();
    let one = Snapshot::take().rules;
    add(&nets[0], "c1", &pods[1]).ok();
    let result = add(&nets[1], "c2", &pods[2]).ok();
    del(&with_prev(&nets[1], &result), "c2", &pods[2]).ok();
    del(&nets[0], "c1", &pods[1]).ok();
    assert_eq!(Snapshot::take().rules, one, "the other network's chains went with its last container");
    del(&nets[0], "c0", &pods[0]).ok();
    assert_eq!(Snapshot::take().rules, before);
}

/// The lock of a namespace's file is anybody's: whoever is in there, and has no right to anything.
#[test]
fn a_lock_that_anybody_can_take_stops_nobody() {
    let bed = Bed::new();
    for take in [FileExt::lock_exclusive, FileExt::lock_shared] {
        let namespace = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        take(&namespace).unwrap();
        let before = Snapshot::take();
        let pod = Container::new();
        call("ADD", &bed.conf(&json!({})), "c1", &pod).limit(PATIENCE).run().ok();
        del(&bed.conf(&json!({})), "c1", &pod).ok();
        bed.host.ip("link del br1");
        let failing = bed.conf(&json!({"ipam": {"type": "host-local", "ranges": []}}));
        call("ADD", &failing, "c1", &pod).limit(PATIENCE).run().fails(7);
        assert_eq!(Snapshot::take(), before, "an undo undoes");
    }
}

/// SIGTERM ends a plugin that waits for another one, whatever it is asked for.
#[test]
fn a_plugin_that_waits_ends_at_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let (told, started) = (dir.path().join("told"), dir.path().join("started"));
    let script = |on_term: &str| {
        format!("#!/bin/sh\ntrap '{on_term}' TERM\ntouch {}\nsleep 60 &\nwait\nsleep 60\n", started.display())
    };
    write_file(&dir.path().join("hangs"), script(&format!("echo told >>{}; exit 1", told.display())), 0o755);
    write_file(&dir.path().join("ignores"), script(""), 0o755);
    let bed = Bed::new();
    let (old, pod) = (Container::new(), Container::new());
    let result = add(&bed.conf(&json!({})), "old", &old).ok();
    let before = Snapshot::take();
    for (kind, verbs) in [("hangs", &["ADD", "CHECK", "DEL", "GC", "STATUS"][..]), ("ignores", &["ADD"])] {
        for verb in verbs {
            let mut conf = with_prev(&bed.conf(&json!({"ipam": {"type": kind}})), &result);
            if *verb == "ADD" {
                conf.as_object_mut().unwrap().remove("prevResult");
            }
            conf["cni.dev/valid-attachments"] = json!([{"containerID": "old", "ifname": "eth0"}]);
            let waits = format!("while [ ! -e {0} ]; do sleep 0.05; done; rm {0}", started.display());
            let script = format!("exec 3<&0; \"$0\" <&3 & {waits}; kill -TERM $!; wait $!");
            let answer = call(verb, &conf, "c1", &pod)
                .through("/bin/sh", &["-c", &script])
                .env("CNI_PATH", dir.path().as_os_str())
                .limit(PATIENCE)
                .run();
            let why = answer.fails(11);
            assert!(why.contains("stopped by a signal"), "{kind} {verb}: {why}");
            let is_told = std::fs::remove_file(&told).is_ok();
            assert_eq!(is_told, kind == "hangs", "{kind} {verb}");
            assert_eq!(Snapshot::take(), before, "{kind} {verb}");
            assert!(!pod.ip("link").contains("eth0"));
        }
    }
}

#[test]
fn what_a_killed_add_had_started_leases_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let real = cni_harness::bin_dir().join("host-local");
    write_file(&dir.path().join("late"), format!("#!/bin/sh\nsleep 1\nexec {}\n", real.display()), 0o755);
    let bed = Bed::new();
    let mut conf = bed.conf(&json!({}));
    conf["ipam"]["type"] = json!("late");
    let pod = Container::new();
    let script = "exec 3<&0; \"$0\" <&3 & sleep 0.3; kill -KILL $!; sleep 2";
    let call = call("ADD", &conf, "c1", &pod).through("/bin/sh", &["-c", script]);
    drop(call.env("CNI_PATH", dir.path().as_os_str()).run());
    del(&bed.conf(&json!({})), "c1", &pod).ok();
    assert!(bed.leases().is_empty());
}
