//! The plugin host: which plugin is chosen, and what cni and kubenet do for pods.

use crate::bed::{Bed, Said};
use cni_harness::traffic::{Transport, ask, serve};
use cni_harness::{Container, Snapshot, write_file};
use serde_json::{Value, json};

const KUBENET: &str = "--network-plugin=kubenet";

fn setup(bed: &Bed, plugin: &str, id: &str, pod: &Container, more: &[&str]) -> Said {
    let netns = format!("--netns={}", pod.path());
    bed.shim(&[&[plugin, "setup", "default", id, id, &netns], more].concat())
}

fn teardown(bed: &Bed, plugin: &str, id: &str, more: &[&str]) -> Said {
    bed.shim(&[&[plugin, "teardown", "default", id, id], more].concat())
}

fn ips(status: &str) -> Vec<String> {
    let status: Value = serde_json::from_str(status).unwrap();
    assert_eq!((&status["kind"], &status["apiVersion"]), (&json!("PodNetworkStatus"), &json!("v1beta1")));
    assert_eq!(status["ip"], status["ips"][0]);
    status["ips"].as_array().unwrap().iter().map(|ip| ip.as_str().unwrap().to_owned()).collect()
}

#[test]
fn without_a_plugin_noop_lets_netfilter_see_bridges() {
    let bed = Bed::new();
    for name in [vec![], vec!["--network-plugin="], vec!["--network-plugin=noop"]] {
        let probe = bed.shim(&[name.clone(), vec!["probe"]].concat()).ok();
        assert!(probe.contains("chosen: kubernetes.io/no-op"), "{probe}");
        let before = Snapshot::take();
        bed.shim(&[name.clone(), vec!["init"]].concat()).ok();
        for key in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
            // A kernel may have no br_netfilter at all, which is logged and no failure.
            let value = std::fs::read_to_string(format!("/proc/sys/net/bridge/{key}"));
            assert!(value.is_err() || value.is_ok_and(|value| value.trim() == "1"), "{key}");
        }
        assert_eq!(bed.shim(&[name.clone(), vec!["setup", "ns", "pod", "c1"]].concat()).ok(), "");
        assert_eq!(bed.shim(&[name.clone(), vec!["status", "ns", "pod", "c1"]].concat()).ok(), "");
        bed.shim(&[name, vec!["teardown", "ns", "pod", "c1"]].concat()).ok();
        assert_eq!(Snapshot::take(), before);
    }
}

#[test]
fn kubenet_from_the_range_to_the_last_pod() {
    let bed = Bed::new();
    let pod = Container::new();
    bed.shim(&[KUBENET, "init"]).ok();
    let why = bed.shim(&[KUBENET, "status"]).fails();
    assert!(
        why.contains("kubenet does not have netConfig. This is most likely due to lack of PodCIDR"),
        "{why}"
    );
    assert!(why.contains("has been waited for since 20") && why.contains("--allocate-node-cidrs"), "{why}");
    let why = setup(&bed, KUBENET, "c1", &pod, &[]).fails();
    assert!(
        why.contains(
            "networkPlugin kubenet failed to set up pod \"c1_default\" network: kubenet cannot SetUpPod"
        ),
        "{why}"
    );
    let why = bed.shim(&[KUBENET, "event", "pod-cidr-change", "10.1.0.0/24,nonsense"]).fails();
    assert!(why.contains("\"nonsense\" is no network"), "{why}");
    bed.shim(&[KUBENET, "status"]).fails();
    // The bridge is there before the first pod.
    bed.shim(&[KUBENET, "event", "pod-cidr-change", "10.1.0.7/24,fd00:1::/64"]).ok();
    let addresses = bed.host.ip("addr show cbr0");
    assert!(addresses.contains("10.1.0.1/24") && addresses.contains("fd00:1::1/64"), "{addresses}");
    bed.shim(&[KUBENET, "status"]).ok();

    let ports = r#"--port-mappings=[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]"#;
    let limits = [
        "--annotation=kubernetes.io/ingress-bandwidth=10M",
        "--annotation=kubernetes.io/egress-bandwidth=20M",
    ];
    let told = setup(&bed, KUBENET, "c1", &pod, &[ports, limits[0], limits[1]]).ok();
    assert_eq!(ips(&told), ["10.1.0.2", "fd00:1::2"]);
    assert_eq!(bed.shim(&[KUBENET, "status", "default", "c1", "c1"]).ok(), told);
    serve(Some(&pod), Transport::Tcp, 80, "pod");
    assert_eq!(ask(Some(&bed.outside), Transport::Tcp, "192.0.2.1:8080".parse().unwrap()).unwrap().1, "pod");
    let shaping = cni_harness::snapshot::shaping().join("\n");
    assert!(shaping.contains("rate 10Mbit") && shaping.contains("rate 20Mbit"), "{shaping}");
    for _ in 0..2 {
        // Neither namespace nor ports nor annotations are told again.
        teardown(&bed, KUBENET, "c1", &[]).ok();
        let left: Vec<String> = bed
            .remains()
            .into_iter()
            .filter(|line| {
                line.contains("veth") && !line.starts_with("up0")
                    || line.contains("bwp")
                    || line.contains("c1")
                    || line.starts_with("kubenet/")
            })
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn what_is_done_to_one_pod_is_done_one_after_the_other() {
    let bed = Bed::new();
    bed.shim(&[KUBENET, "event", "pod-cidr-change", "10.1.0.0/24"]).ok();
    let pod = Container::new();
    let netns = format!("--netns={}", pod.path());
    // Children of this thread stay in its namespace.
    let start = |verb: &str| bed.command(&[KUBENET, verb, "default", "web", "c1", &netns]).spawn().unwrap();
    for _ in 0..10 {
        let mut running: Vec<_> = ["setup", "teardown", "setup", "teardown"].map(start).into();
        for child in &mut running {
            // A second setup of a pod that is there is refused; that is all that may fail.
            child.wait().unwrap();
        }
        bed.shim(&[KUBENET, "teardown", "default", "web", "c1", &netns]).ok();
        let left = bed
            .remains()
            .into_iter()
            .filter(|line| line.contains("c1") || line.starts_with("veth") || line.starts_with("kubenet/"));
        assert_eq!(left.collect::<Vec<_>>(), Vec::<String>::new());
        assert!(!pod.try_run("ip", &["link", "show", "eth0"]).status.success());
    }
}

#[test]
fn the_range_may_change_once_or_never_as_the_flag_says() {
    let bed = Bed::new();
    let change =
        |cidr: &str, more: &[&str]| bed.shim(&[more, &[KUBENET, "event", "pod-cidr-change", cidr]].concat());
    let addresses = || bed.host.ip("addr show cbr0");
    change("10.1.0.0/24", &["--reconcile-cidr=false"]).ok();
    let said = change("10.2.0.0/24", &["--reconcile-cidr=false"]);
    assert!(
        said.ok && said.log.contains("Ignoring subsequent pod CIDR update to 10.2.0.0/24"),
        "{}",
        said.log
    );
    assert!(addresses().contains("10.1.0.1/24"));
    // With a pod on it the old address stays, beside the new one; without, it goes.
    let pod = Container::new();
    setup(&bed, KUBENET, "c1", &pod, &[]).ok();
    let said = change("10.2.0.0/24", &["--reconcile-cidr"]);
    assert!(said.log.contains("pod CIDR is 10.2.0.0/24, was 10.1.0.0/24"), "{}", said.log);
    assert!(addresses().contains("10.1.0.1/24") && addresses().contains("10.2.0.1/24"), "{}", addresses());
    assert_eq!(ips(&bed.shim(&[KUBENET, "status", "default", "c1", "c1"]).ok()), ["10.1.0.2"]);
    teardown(&bed, KUBENET, "c1", &[]).ok();
    bed.shim(&[KUBENET, "init"]).ok();
    assert!(!addresses().contains("10.1.0.1/24") && addresses().contains("10.2.0.1/24"), "{}", addresses());
    // The event outlives the process, and beats the flag's beginning.
    let pod = Container::new();
    assert_eq!(ips(&setup(&bed, KUBENET, "c2", &pod, &[]).ok()), ["10.2.0.2"]);
}

#[test]
fn required_plugins_are_looked_for_in_order_and_missing_ones_named() {
    let bed = Bed::new();
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bins = cni_harness::bin_dir();
    let flags = |words: &[&str]| {
        let mut command = std::process::Command::new(bins.join("kubenet-shim"));
        command.env_clear().args(bed.flags()).args([
            &format!("--cni-bin-dir={}", first.path().display()),
            &format!("--network-plugin-dir={}", second.path().display()),
            KUBENET,
            "--pod-cidr=10.1.0.0/24",
        ]);
        crate::bed::said(command.args(words))
    };
    let why = flags(&["status"]).fails();
    let (one, two) = (first.path().display(), second.path().display());
    let known = format!(
        "could not locate kubenet required CNI plugins [bridge host-local loopback] at [\"{one}\", \"{two}\"]"
    );
    assert!(why.contains(&known), "{why}");
    for plugin in ["bridge", "host-local", "loopback"] {
        std::os::unix::fs::symlink(bins.join(plugin), second.path().join(plugin)).unwrap();
    }
    flags(&["status"]).ok();
    // The first found match takes effect.
    write_file(&first.path().join("bridge"), "#!/bin/sh\nexit 7\n", 0o755);
    let pod = Container::new();
    let why = flags(&["setup", "ns", "web", "c1", &format!("--netns={}", pod.path())]).fails();
    assert!(why.contains("plugin type=\"bridge\" failed (add)") && why.contains("exit status 7"), "{why}");
    // Pods that need a plugin which is not there are told so; others are not.
    std::fs::remove_file(first.path().join("bridge")).unwrap();
    flags(&["setup", "ns", "web", "c1", &format!("--netns={}", pod.path())]).ok();
    let other = Container::new();
    let ports = r#"--port-mappings=[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]"#;
    let why = flags(&["setup", "ns", "web", "c2", ports, &format!("--netns={}", other.path())]).fails();
    assert!(why.contains("the pod has portMappings, which the plugin portmap makes"), "{why}");
}

fn conflist(bed: &Bed) -> Value {
    json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {"type": "bridge", "bridge": "br9", "isGateway": true, "capabilities": {"ipRanges": true},
         "ipam": {"type": "host-local", "dataDir": bed.path("leases")}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}}]})
}

#[test]
fn cni_takes_the_first_usable_config() {
    let bed = Bed::new();
    let (confs, plugins) = (bed.path("net.d"), bed.path("plugins"));
    std::fs::create_dir_all(confs.join("folder.conflist")).unwrap();
    std::fs::create_dir_all(&plugins).unwrap();
    let flags = [&format!("--cni-conf-dir={}", confs.display()), "--network-plugin=cni"];
    let run = |words: &[&str]| bed.shim(&[&flags, words].concat());
    let why = run(&["status"]).fails();
    assert!(why.contains("cni config uninitialized: no networks found in"), "{why}");
    write_file(&confs.join("00-broken.conflist"), "{", 0o644);
    write_file(&confs.join("05-list.conf"), conflist(&bed).to_string(), 0o644);
    write_file(
        &confs.join("06-unknown.conf"),
        r#"{"name": "x", "cniVersion": "1.0.0", "type": "nonsense"}"#,
        0o644,
    );
    write_file(&confs.join("readme.txt"), "no config", 0o644);
    let why = run(&["status"]).fails();
    assert!(
        why.contains("no valid networks found in")
            && why.contains("missing 'type'")
            && why.contains("nonsense"),
        "{why}"
    );
    write_file(&confs.join("10-pods.conflist"), conflist(&bed).to_string(), 0o644);
    write_file(&confs.join("20-other.conf"), r#"{"name": "y", "type": "loopback"}"#, 0o644);
    let why = run(&["status"]).fails();
    assert!(why.contains("cni config needs ipRanges but no PodCIDR set"), "{why}");
    assert!(why.contains("00-broken.conflist is of no use and skipped"), "{why}");
    run(&["event", "pod-cidr-change", "10.5.0.0/24,fd00:5::/64"]).ok();
    run(&["status"]).ok();
    let pod = Container::new();
    let told = run(&[
        "setup",
        "default",
        "web",
        "c1",
        &format!("--netns={}", pod.path()),
        "--annotation=kubernetes.io/egress-bandwidth=5M",
    ])
    .ok();
    assert_eq!(ips(&told), ["10.5.0.2", "fd00:5::2"]);
    assert!(pod.ip("link show lo").contains("UP"));
    let netns = format!("--netns={}", pod.path());
    assert_eq!(run(&["status", "default", "web", "c1", &netns]).ok(), told);
    let why = run(&["setup", "default", "web", "c1", &netns]).fails();
    assert!(why.contains("is there already") && pod.pings("10.5.0.1"), "{why}");
    // What libcni would have kept, where it keeps it.
    let kept = std::fs::read_to_string(bed.path("cache/results/pods-c1-eth0")).unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    assert_eq!(kept["kind"], "cniCacheV1");
    assert_eq!(kept["cniArgs"][1], json!(["K8S_POD_NAMESPACE", "default"]));
    assert_eq!(kept["capabilityArgs"]["bandwidth"]["egressRate"], 5_000_000);
    assert_eq!(cni_harness::snapshot::shaping().iter().filter(|line| line.contains("rate 5Mbit")).count(), 1);
    for _ in 0..2 {
        run(&["teardown", "default", "web", "c1", &netns]).ok();
        assert_eq!(bed.host.ip("link show type ifb") + &bed.host.ip("link show master br9"), "");
    }
    assert!(!bed.path("cache/results/pods-c1-eth0").exists());
}

#[test]
fn the_config_folder_is_the_flags_else_the_plugin_folder() {
    let bed = Bed::new();
    let plugins = bed.path("plugins");
    std::fs::create_dir_all(&plugins).unwrap();
    let lo = json!({"cniVersion": "1.0.0", "name": "lo", "type": "loopback"});
    write_file(&plugins.join("1.conf"), lo.to_string(), 0o644);
    let dir = format!("--network-plugin-dir={}", plugins.display());
    bed.shim(&["--network-plugin=cni", &dir, "status"]).ok();
    let empty = format!("--cni-conf-dir={}", bed.path("none").display());
    let why = bed.shim(&["--network-plugin=cni", &dir, &empty, "status"]).fails();
    assert!(why.contains("no networks found in"), "{why}");
    // Plugins in that folder are found too, behind /opt/cni/bin or what is said in its place.
    std::os::unix::fs::symlink(cni_harness::bin_dir().join("loopback"), plugins.join("mine")).unwrap();
    let mine = json!({"cniVersion": "1.0.0", "name": "lo", "type": "mine"});
    write_file(&plugins.join("0.conf"), mine.to_string(), 0o644);
    let said = bed.shim(&["--network-plugin=cni", &dir, "status"]);
    assert!(said.log.is_empty(), "{}", said.log);
    said.ok();
}

#[test]
fn a_plugin_that_hangs_or_talks_nonsense_is_told_and_undone() {
    let bed = Bed::new();
    let confs = bed.path("net.d");
    std::fs::create_dir_all(&confs).unwrap();
    for (name, script, words) in [
        (
            "hangs",
            "#!/bin/sh\n[ $CNI_COMMAND != VERSION ] || { echo '{\"supportedVersions\":[\"1.0.0\"]}'; exit; }\n[ $CNI_COMMAND = DEL ] || exec sleep 60\n",
            "plugin \"hangs\" did not answer in time",
        ),
        (
            "garbage",
            "#!/bin/sh\n[ $CNI_COMMAND != VERSION ] || { echo '{\"supportedVersions\":[\"1.0.0\"]}'; exit; }\necho garbage\n",
            "plugin type=\"garbage\" failed (add)",
        ),
    ] {
        let plugins = bed.path(name);
        std::fs::create_dir_all(&plugins).unwrap();
        write_file(&plugins.join(name), script, 0o755);
        let mut list = conflist(&bed);
        list["plugins"] = json!([list["plugins"][0], {"type": name}]);
        list["plugins"][0].as_object_mut().unwrap().remove("capabilities");
        list["plugins"][0]["ipam"]["subnet"] = json!("10.6.0.0/24");
        write_file(&confs.join("1.conflist"), list.to_string(), 0o644);
        let pod = Container::new();
        let netns = format!("--netns={}", pod.path());
        let flags = [
            format!("--cni-conf-dir={}", confs.display()),
            format!("--network-plugin-dir={}", plugins.display()),
            "--network-plugin=cni".to_owned(),
            "--network-plugin-timeout=2".to_owned(),
        ];
        let setup = ["setup", "default", "web", "c1", &netns];
        let line: Vec<&str> = flags.iter().map(String::as_str).chain(setup).collect();
        let why = bed.shim(&line).fails();
        assert!(why.contains(words), "{why}");
        assert_eq!(bed.host.ip("link show master br9"), "", "undone");
        assert!(cni_harness::leases(&bed.path("leases")).is_empty());
    }
}

#[test]
fn a_setup_that_is_told_to_stop_undoes() {
    let bed = Bed::new();
    let (confs, plugins) = (bed.path("net.d"), bed.path("plugins"));
    for folder in [&confs, &plugins] {
        std::fs::create_dir_all(folder).unwrap();
    }
    let hangs = "#!/bin/sh\n[ $CNI_COMMAND != VERSION ] || { echo '{\"supportedVersions\":[\"1.0.0\"]}'; exit; }\n\
                 [ $CNI_COMMAND = DEL ] && exit\ntouch \"${0%/*}/called\"\nexec sleep 60\n";
    write_file(&plugins.join("hangs"), hangs, 0o755);
    let mut list = conflist(&bed);
    list["plugins"] = json!([list["plugins"][0], {"type": "hangs"}]);
    list["plugins"][0].as_object_mut().unwrap().remove("capabilities");
    list["plugins"][0]["ipam"]["subnet"] = json!("10.6.0.0/24");
    write_file(&confs.join("1.conflist"), list.to_string(), 0o644);
    let pod = Container::new();
    let netns = format!("--netns={}", pod.path());
    let flags = [
        format!("--cni-conf-dir={}", confs.display()),
        format!("--network-plugin-dir={}", plugins.display()),
        "--network-plugin=cni".to_owned(),
    ];
    let setup = ["setup", "default", "web", "c1", &netns];
    let line: Vec<&str> = flags.iter().map(String::as_str).chain(setup).collect();
    let shim = bed.command(&line).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let begun = std::time::Instant::now();
    while !plugins.join("called").exists() && begun.elapsed().as_secs() < 20 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(shim.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let output = shim.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("stopped by a signal"), "{said}");
    assert!(!pod.ip("link").contains("eth0"), "undone");
    assert!(cni_harness::leases(&bed.path("leases")).is_empty());
}

#[test]
fn settings_come_from_a_file_where_no_flag_gives_them() {
    let bed = Bed::new();
    write_file(
        &bed.path("config.json"),
        json!({"network-plugin": "kubenet", "pod-cidr": "10.4.0.0/24", "bridge": "kbr0"}).to_string(),
        0o600,
    );
    bed.shim(&["init"]).ok();
    assert!(bed.host.ip("addr show kbr0").contains("10.4.0.1/24"));
    assert!(bed.shim(&["--network-plugin=cni", "probe"]).ok().contains("chosen: cni"));
    write_file(&bed.path("config.json"), r#"{"network-plugins": "kubenet"}"#, 0o600);
    let why = bed.shim(&["init"]).fails();
    assert!(why.contains("config.json: unknown field `network-plugins`"), "{why}");
    write_file(&bed.path("config.json"), "{}", 0o600);
    let said = bed.shim(&["--configure-cbr0", "--pod-cidr=10.4.0.0/24", "init"]);
    assert!(said.ok && said.log.contains("superseded by --network-plugin=kubenet"), "{}", said.log);
    bed.host.ip("addr show cbr0");
    for (words, wanted) in [
        (
            vec!["--hairpin-mode=x", "--network-plugin=kubenet", "init"],
            "\"x\" is not a valid hairpin-mode value",
        ),
        (
            vec!["--non-masquerade-cidr=x", "--network-plugin=kubenet", "init"],
            "--non-masquerade-cidr \"x\" is no network",
        ),
        (vec!["--pod-cidr=x", "--network-plugin=kubenet", "init"], "pod CIDR \"x\" is no network"),
        (vec!["--bridge=a/b", "--network-plugin=kubenet", "init"], "--bridge \"a/b\" is no interface name"),
        (vec!["--network-plugin=nonsense", "init"], "network plugin \"nonsense\" not found"),
        (vec!["setup", "a=b", "pod", "c1"], "the pod's namespace \"a=b\""),
        (vec!["setup", "a", "pod", "../x"], "the sandbox's ID"),
        (vec!["--nonsense", "init"], "unexpected argument '--nonsense'"),
        (vec![], "Usage"),
    ] {
        let why = bed.shim(&words).fails();
        assert!(why.contains(wanted), "{words:?}: {why}");
    }
}

#[test]
fn a_printed_config_works() {
    let bed = Bed::new();
    let text = bed.shim(&["conflist", "--pod-cidr=10.7.0.0/24", "--hairpin-mode=none"]).ok();
    let list: Value = serde_json::from_str(&text).unwrap();
    let plugin = &list["plugins"][0];
    assert_eq!(
        (&plugin["type"], &plugin["podCIDR"], &plugin["hairpinMode"]),
        (&json!("kubenet-shim"), &json!("10.7.0.0/24"), &json!("none"))
    );
    assert_eq!(plugin["capabilities"], json!({"portMappings": true, "bandwidth": true}));
    let without: Value = serde_json::from_str(&bed.shim(&["conflist"]).ok()).unwrap();
    assert_eq!(without["plugins"][0]["capabilities"]["ipRanges"], true);
    let confs = bed.path("net.d");
    std::fs::create_dir_all(&confs).unwrap();
    write_file(&confs.join("10-kubenet.conflist"), &text, 0o644);
    let pod = Container::new();
    let flags = [format!("--cni-conf-dir={}", confs.display()), "--network-plugin=cni".to_owned()];
    let run =
        |words: &[&str]| bed.shim(&[flags.iter().map(String::as_str).collect(), words.to_vec()].concat());
    let netns = format!("--netns={}", pod.path());
    assert_eq!(ips(&run(&["setup", "default", "web", "c1", &netns]).ok()), ["10.7.0.2"]);
    run(&["teardown", "default", "web", "c1"]).ok();
    let template = bed.shim(&["conflist", "--template"]).ok();
    let ranges =
        r#""podCIDR": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}"{{$range}}"{{end}}]"#;
    assert!(template.contains(ranges), "{template}");
    let filled = template.replace(&ranges[11..], r#"["10.1.0.0/24", "fd00:1::/64"]"#);
    let filled: Value = serde_json::from_str(&filled).unwrap();
    assert_eq!(filled["plugins"][0]["podCIDR"][1], "fd00:1::/64");
}

#[test]
fn doctor_says_what_to_do() {
    let bed = Bed::new();
    let said = bed.shim(&[KUBENET, "doctor"]);
    assert!(!said.ok);
    for words in [
        "ok    network plugin kubenet",
        "TODO  pod CIDR: no range of pod addresses is known",
        "bridge: CNI bridge plugin v",
        "ok    nf_tables",
    ] {
        assert!(said.out.contains(words), "{words}: {}", said.out);
    }
    bed.shim(&[KUBENET, "event", "pod-cidr-change", "10.1.0.0/24"]).ok();
    let pod = Container::new();
    setup(&bed, KUBENET, "c1", &pod, &[]).ok();
    let healthy = bed.shim(&[KUBENET, "doctor"]);
    assert!(
        healthy.out.contains("ok    1 pods are set up") && healthy.out.contains("ok    masquerade rules"),
        "{}",
        healthy.out
    );
    bed.host.ip("addr add 10.1.0.99/32 dev up0");
    bed.host.run("nft", &["flush", "ruleset"]);
    drop(pod);
    let said = bed.shim(&[KUBENET, "doctor", "--cni-bin-dir=/nonexistent"]);
    for words in [
        "TODO  10.1.0.99/32 on up0 lies in pod CIDR 10.1.0.0/24",
        "TODO  chain masquerade-cbr0 of table ip cni_kubenet is not as it should be: `kubenet-shim init`",
        "TODO  CNI plugin bridge: not found in [\"/nonexistent\"]; every pod needs it",
        "TODO  container c1 is gone, and its network is not",
    ] {
        assert!(!said.ok && said.out.contains(words), "{words}: {}", said.out);
    }
}
