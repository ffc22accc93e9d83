//! A node whose range changes while pods live, and who knows of it.

use crate::bed::{Bed, INSIDE, NODE, OUTSIDE, add, call, del, ip};
use cni_harness::traffic::{Transport, ask, serve};
use cni_harness::{Container, write_file};
use serde_json::{Value, json};
use std::path::PathBuf;

fn seen_at(pod: &Container, to: &str) -> String {
    ask(Some(pod), Transport::Tcp, to.parse().unwrap()).unwrap().0.to_string()
}

#[test]
fn a_pod_of_the_old_range_keeps_its_way_out() {
    let bed = Bed::new();
    let (old, new) =
        (bed.conf(&json!({"podCIDR": "10.1.0.0/24"})), bed.conf(&json!({"podCIDR": "10.1.1.0/24"})));
    let pods = [Container::new(), Container::new(), Container::new()];
    let first = add(&old, "c1", &pods[0]).ok();
    let second = add(&new, "c2", &pods[1]).ok();
    serve(Some(&bed.outside), Transport::Tcp, 80, "outside");
    for (pod, result) in pods.iter().zip([&first, &second]) {
        assert_eq!(seen_at(pod, &format!("{OUTSIDE}:80")), NODE);
        assert_eq!(seen_at(pod, &format!("{INSIDE}:80")), ip(result, 0));
    }
    // Also when the rules have to be made from nothing.
    bed.host.run("nft", &["flush", "ruleset"]);
    add(&new, "c3", &pods[2]).ok();
    assert_eq!(seen_at(&pods[0], &format!("{OUTSIDE}:80")), NODE);
    let with_prev = |conf: &Value, result: &Value| {
        let mut conf = conf.clone();
        conf["prevResult"] = result.clone();
        conf
    };
    call("CHECK", &with_prev(&new, &second), "c2", &pods[1]).run().ok();
    del(&new, "c1", &pods[0]).ok();
    del(&new, "c3", &pods[2]).ok();
    add(&new, "c3", &pods[2]).ok();
    let rules = bed.host.run("nft", &["list", "table", "ip", "cni_kubenet"]);
    assert!(!rules.contains("10.1.0.0/24"), "{rules}");
}

#[test]
fn the_old_ranges_address_goes_with_its_last_pod_whoever_else_lives() {
    let bed = Bed::new();
    let (old, new) =
        (bed.conf(&json!({"podCIDR": "10.1.0.0/24"})), bed.conf(&json!({"podCIDR": "10.1.1.0/24"})));
    let pods = [Container::new(), Container::new(), Container::new()];
    add(&old, "c1", &pods[0]).ok();
    // Somebody else's address is none of a range.
    bed.host.ip("addr add 10.77.0.9/24 dev cbr0");
    add(&new, "c2", &pods[1]).ok();
    let addresses = || bed.host.ip("addr show cbr0");
    assert!(addresses().contains("10.1.0.1/24"), "{}", addresses());
    let doctor = bed.shim(&["--network-plugin=kubenet", "--pod-cidr=10.1.1.0/24", "doctor"]);
    let words = "cbr0 has 10.1.0.1/24, of a range that the node had before: 1 pods have addresses there";
    assert!(!doctor.ok && doctor.out.contains(words), "{}", doctor.out);
    del(&new, "c1", &pods[0]).ok();
    add(&new, "c3", &pods[2]).ok();
    assert!(!addresses().contains("10.1.0.1/24"), "a pod of the new range lives: {}", addresses());
    assert!(addresses().contains("10.77.0.9/24"), "{}", addresses());
}

/// In the deployment that runtimes use, nobody tells `run` and `doctor` the range but the config that they use.
fn deployed(bed: &Bed, plugin: &Value) -> (PathBuf, Vec<String>) {
    let folder = bed.path("net.d");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("10-kubenet.conflist");
    let list = json!({"cniVersion": "1.1.0", "name": "pods", "plugins": [plugin]});
    write_file(&file, list.to_string(), 0o644);
    (file, vec![format!("--cni-conf-dir={}", folder.display()), "--network-plugin=kubenet".to_owned()])
}

#[test]
fn doctor_and_run_know_what_runtimes_use() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"podCIDR": "10.1.0.0/24", "bridge": "pods0", "name": "pods"}));
    let (file, flags) = deployed(&bed, &conf);
    let pod = Container::new();
    add(&conf, "c1", &pod).ok();
    let doctor =
        |bed: &Bed| bed.shim(&[flags.iter().map(String::as_str).collect(), vec!["doctor"]].concat()).out;
    let said = doctor(&bed);
    for words in [
        "ok    pod CIDR 10.1.0.0/24",
        "ok    1 pods are set up",
        "ok    no route leads the node's own ranges elsewhere",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    bed.host.run("nft", &["flush", "ruleset"]);
    bed.host.ip("addr del 10.1.0.1/24 dev pods0");
    bed.host.ip(&format!("route add 10.1.0.0/25 via {OUTSIDE}"));
    let said = doctor(&bed);
    for words in [
        "TODO  pods0 lacks 10.1.0.1/24, the gateway of the pod CIDR",
        "TODO  the route 10.1.0.0/25 via 192.0.2.9 dev up0 leads the node's own pods elsewhere: ip route del 10.1.0.0/25 via 192.0.2.9 dev up0",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let init = [flags.iter().map(String::as_str).collect(), vec!["init"]].concat();
    bed.shim(&init).ok();
    let said = doctor(&bed);
    assert!(said.contains("ok    masquerade rules") && !said.contains("pods0 lacks"), "{said}");

    // The node was told another range than the file has, which containerd wrote once.
    write_file(&bed.path("state/pod-cidr"), "10.1.1.0/24\n", 0o600);
    let said = doctor(&bed);
    let words = format!("TODO  {} has pod CIDR 10.1.0.0/24, the node was told 10.1.1.0/24", file.display());
    assert!(said.contains(&words), "{said}");
    // Without a range in the file, the one that the node was told counts; without either, what living pods have.
    deployed(&bed, &bed.conf(&json!({"bridge": "pods0", "name": "pods"})));
    assert!(doctor(&bed).contains("ok    pod CIDR 10.1.1.0/24"));
    std::fs::remove_file(bed.path("state/pod-cidr")).unwrap();
    assert!(doctor(&bed).contains("ok    pod CIDR 10.1.0.0/24"));
}

#[test]
fn a_burst_without_bound_is_none() {
    let bed = Bed::new();
    let mut conf = bed.conf(&json!({"podCIDR": "10.1.0.0/24"}));
    let unlimited = u64::from(u32::MAX);
    conf["runtimeConfig"] = json!({"bandwidth": {"ingressRate": 10_000_000, "ingressBurst": unlimited,
                                                 "egressRate": 10_000_000, "egressBurst": unlimited}});
    let pod = Container::new();
    let result = add(&conf, "c1", &pod).ok();
    let veth = result["interfaces"][1]["name"].as_str().unwrap();
    let limits = bed.host.run("tc", &["qdisc", "show", "dev", veth]);
    // A tenth of a second's worth, 125,000 bytes.
    assert!(
        limits.contains("rate 10Mbit burst 125000b") || limits.contains("rate 10Mbit burst 122Kb"),
        "{limits}"
    );
}

#[test]
fn the_config_is_of_the_version_that_is_asked_for() {
    let bed = Bed::new();
    for version in ["1.0.0", "1.1.0"] {
        let text = bed.shim(&["conflist", "--cni-version", version]).ok();
        let list: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&list["cniVersion"], &list["plugins"][0]["podCIDR"]), (&json!(version), &Value::Null));
    }
    assert!(bed.shim(&["conflist", "--cni-version=9.9.9"]).fails().contains("--cni-version"));
}

#[test]
fn a_plugin_that_does_not_exist_fails_the_probe() {
    let bed = Bed::new();
    let said = bed.shim(&["--network-plugin=missing", "probe"]);
    assert!(!said.ok && said.out.contains("chosen: none") && said.out.contains("kubenet: "), "{}", said.out);
    bed.shim(&["--network-plugin=kubenet", "probe"]).ok();
}

/// What is kept of pods is carried out by root.
#[test]
fn what_others_may_have_put_into_the_state_is_passed_over() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"podCIDR": "10.1.0.0/24", "cni.dev/valid-attachments": []}));
    let victim = Container::new();
    let of_other = json!({"cniVersion": "1.1.0", "name": "other", "type": "bridge", "bridge": "br9",
                          "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.19.0.0/24"}]], "dataDir": bed.path("leases")}});
    let of_victim = |command: &str| {
        let call = cni_harness::Call::new("bridge").command(command, &of_other).attachment("v1", "eth0");
        call.netns(&victim).run()
    };
    of_victim("ADD").ok();
    let planted = json!({"kind": "cniCacheV1", "containerId": "v1", "ifName": "eth0", "networkName": "kubenet",
        "netns": victim.path(), "config": base64(&json!({"cniVersion": "1.0.0", "name": "other",
            "plugins": [{"type": "bridge", "ipam": {"type": "host-local", "dataDir": bed.path("leases")}}]}).to_string()),
        "result": {}});
    std::fs::create_dir_all(bed.path("state/results")).unwrap();
    let file = bed.path("state/results/kubenet-v1-eth0");
    write_file(&file, planted.to_string(), 0o600);
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let gc = || {
        let mut call = conf.clone();
        call.as_object_mut().unwrap().remove("podCIDR");
        cni_harness::Call::new("kubenet-shim").command("GC", &call).run()
    };
    let answer = gc();
    assert!(answer.stderr.contains("others may write to"), "{}", answer.dump());
    assert!(victim.ip("link").contains("eth0"));
    // The very same, if it were ours.
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    gc().ok();
    assert!(!victim.ip("link").contains("eth0"), "what was planted would have been carried out");
}

fn base64(text: &str) -> String {
    use std::io::Write;
    let mut program = std::process::Command::new("base64");
    let piped = program.arg("-w0").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = piped.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn of_two_adds_at_once_one_wins_and_the_other_touches_nothing() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"podCIDR": "10.1.0.0/24"}));
    for n in 0..8 {
        let (id, pod) = (format!("c{n}"), Container::new());
        let (one, two) = (call("ADD", &conf, &id, &pod), call("ADD", &conf, &id, &pod));
        let answers = std::thread::scope(|scope| {
            let here = scope.spawn(|| one.run());
            [two.run(), here.join().unwrap()]
        });
        let won: Vec<bool> = answers.iter().map(cni_harness::Answer::is_ok).collect();
        assert_eq!(won.iter().filter(|ok| **ok).count(), 1, "{}\n{}", answers[0].dump(), answers[1].dump());
        let loser = answers.iter().find(|answer| !answer.is_ok()).unwrap();
        assert!(loser.fails(101).contains("is there already"));
        assert!(pod.pings("10.1.0.1"), "who won has a network");
        del(&conf, &id, &pod).ok();
    }
}
