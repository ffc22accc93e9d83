//! `dummy` against a kernel that has such links, which scripts/test-vm brings.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use cni_harness::{
    Answer, Call, Container, Host, OLD_REFERENCE, Snapshot, leases, reference_dir, write_file,
};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

struct Bed {
    host: Host,
    data: TempDir,
}

impl Bed {
    fn new() -> Self {
        Self { host: Host::enter(), data: tempfile::tempdir().unwrap() }
    }

    /// A dual-stack network with routes; `extra` adds keys or replaces them.
    fn conf(&self, extra: &Value) -> Value {
        let mut conf = json!({"cniVersion": "1.1.0", "name": "net1", "type": "dummy", "ipam": {
            "type": "host-local", "dataDir": self.data.path(),
            "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24", "gw": "10.1.0.9"}, {"dst": "::/0"}]}});
        conf.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        conf
    }

    fn leases(&self) -> usize {
        leases(self.data.path()).len()
    }
}

fn call(command: &str, conf: &Value, id: &str, pod: &Container) -> Call {
    Call::new("dummy").command(command, conf).attachment(id, "eth0").netns(pod)
}

fn run(command: &str, conf: &Value, id: &str, pod: &Container) -> Answer {
    call(command, conf, id, pod).run()
}

fn with_prev(conf: &Value, result: &Value) -> Value {
    let mut conf = conf.clone();
    conf["prevResult"] = result.clone();
    conf
}

fn inside(pod: &Container) -> Snapshot {
    Snapshot::inside(pod.path().as_ref())
}

#[test]
fn the_interface_has_what_ipam_gave() {
    let bed = Bed::new();
    let (pod, empty) = (Container::new(), Container::new());
    for one in [&pod, &empty] {
        one.ip("link set lo up");
    }
    let conf = bed.conf(&json!({"mtu": 1400, "args": {"cni": {"mac": "02:00:00:00:12:34"}}}));
    let result = run("ADD", &conf, "c1", &pod).ok();
    assert_eq!(
        result["interfaces"],
        json!([{"name": "eth0", "mac": "02:00:00:00:12:34", "mtu": 1400, "sandbox": pod.path()}])
    );
    let ips: Vec<&Value> = result["ips"].as_array().unwrap().iter().map(|ip| &ip["address"]).collect();
    assert_eq!(ips, ["10.1.0.2/24", "fd00:1::2/64"]);
    assert!(result["ips"].as_array().unwrap().iter().all(|ip| ip["interface"] == 0), "{result}");
    let link = pod.ip("-d -o link show eth0");
    for words in ["dummy", "mtu 1400", "02:00:00:00:12:34", "alias cni/net1/c1/eth0", "UP"] {
        assert!(link.contains(words), "{words}: {link}");
    }
    assert!(pod.pings("10.1.0.2") && pod.pings("fd00:1::2"), "{}", pod.ip("addr"));
    let routes = pod.ip("route") + &pod.ip("-6 route");
    for words in [
        "default via 10.1.0.1 dev eth0",
        "192.0.2.0/24 via 10.1.0.9 dev eth0",
        "default via fd00:1::1 dev eth0",
    ] {
        assert!(routes.contains(words), "{words}: {routes}");
    }
    run("CHECK", &with_prev(&conf, &result), "c1", &pod).ok();
    run("DEL", &with_prev(&conf, &result), "c1", &pod).ok();
    assert_eq!(inside(&pod), inside(&empty));
    assert_eq!(bed.leases(), 0);
    // Again, and of what never was.
    run("DEL", &conf, "c1", &pod).ok();
    run("DEL", &conf, "never", &pod).ok();
}

#[test]
fn check_names_what_has_changed() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({}));
    for (change, words) in [
        ("link set eth0 down", ["state of eth0", "found down"]),
        ("addr del ADDRESS dev eth0", ["addresses of eth0", "ADDRESS"]),
        ("link set eth0 address 02:00:00:00:00:99", ["address of eth0", "02:00:00:00:00:99"]),
        ("route del 192.0.2.0/24", ["routes in the container", "192.0.2.0/24"]),
        ("link del eth0", ["eth0 in the container", "found nothing"]),
    ] {
        let pod = Container::new();
        let result = run("ADD", &conf, "c1", &pod).ok();
        let address = result["ips"][0]["address"].as_str().unwrap();
        pod.ip(&change.replace("ADDRESS", address));
        let why = run("CHECK", &with_prev(&conf, &result), "c1", &pod).fails(100);
        let words = words.map(|word| word.replace("ADDRESS", address));
        assert!(words.iter().all(|word| why.contains(word)), "{change}: {why}");
        run("DEL", &conf, "c1", &pod).ok();
    }
    let pod = Container::new();
    let result = run("ADD", &conf, "c1", &pod).ok();
    pod.ip("link del eth0");
    pod.ip("link add eth0 type bridge");
    let why = run("CHECK", &with_prev(&conf, &result), "c1", &pod).fails(100);
    assert!(why.contains("kind of eth0") && why.contains("found bridge"), "{why}");
    assert!(run("CHECK", &conf, "c1", &pod).fails(7).contains("Required prevResult missing"));
}

#[test]
fn a_failed_add_leaves_nothing() {
    let bed = Bed::new();
    let (pod, empty) = (Container::new(), Container::new());
    let no_route = bed
        .conf(&json!({"ipam": {"type": "host-local", "dataDir": bed.data.path(), "subnet": "10.1.0.0/24",
        "routes": [{"dst": "192.0.2.0/24", "gw": "203.0.113.1"}]}}));
    let full = bed.conf(&json!({"ipam": {"type": "host-local", "dataDir": bed.data.path(), "ranges": [[
        {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.8"}]]}}));
    let missing = bed.conf(&json!({"ipam": {"type": "nothing-like-it"}}));
    for (conf, code, words) in [
        (no_route, 5, "failed to configure eth0"),
        (full, 7, ""),
        (missing, 7, "nothing-like-it"),
        (bed.conf(&json!({"mtu": 3})), 7, "mtu: 3 is out of range"),
        (bed.conf(&json!({"ipam": {}})), 7, "dummy interface requires an IPAM configuration"),
        (
            bed.conf(&json!({"args": {"cni": {"mac": "01:00:00:00:00:01"}}})),
            7,
            "can't be an interface's address",
        ),
    ] {
        let why = run("ADD", &conf, "c1", &pod).fails(code);
        assert!(why.contains(words), "{why}");
        assert_eq!(inside(&pod), inside(&empty), "{why}");
        assert_eq!(bed.leases(), 0, "{why}");
    }
    pod.ip("link add eth0 type bridge");
    let before = inside(&pod);
    assert!(run("ADD", &bed.conf(&json!({})), "c1", &pod).fails(101).contains("already exists"));
    assert_eq!((inside(&pod), bed.leases()), (before, 0));
}

#[test]
fn del_frees_what_is_the_attachments_and_nothing_else() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({}));
    let (pod, other) = (Container::new(), Container::new());
    let result = run("ADD", &conf, "c1", &pod).ok();
    run("ADD", &conf, "c2", &other).ok();
    let of_other = inside(&other);
    // CNI_NETNS is another container's by now.
    run("DEL", &with_prev(&conf, &result), "c1", &other).ok();
    assert_eq!((inside(&other), bed.leases()), (of_other.clone(), 2), "c2 keeps its two addresses");
    for gone in ["", "/run/netns/gone", "/etc/passwd"] {
        let conf = with_prev(&conf, &result);
        Call::new("dummy").command("DEL", &conf).attachment("c1", "eth0").env("CNI_NETNS", gone).run().ok();
    }
    // Two containers' interfaces stay on their own: a host link of that name, and one of another kind.
    bed.host.ip("link add eth0 type dummy");
    run("DEL", &conf, "c2", &other).ok();
    assert!(bed.host.ip("link show eth0").contains("eth0"));
    let third = Container::new();
    third.ip("link add eth0 type bridge");
    run("DEL", &conf, "c3", &third).ok();
    assert!(third.ip("link show eth0").contains("eth0"));
    assert_eq!(bed.leases(), 0);
}

#[test]
fn gc_and_status_are_ipams() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({}));
    let (living, dead) = (Container::new(), Container::new());
    run("ADD", &conf, "c1", &living).ok();
    run("ADD", &conf, "c2", &dead).ok();
    let valid = bed.conf(&json!({"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}));
    Call::new("dummy").command("GC", &valid).run().ok();
    assert_eq!(bed.leases(), 2);
    Call::new("dummy").command("STATUS", &conf).run().ok();
    let without = bed.conf(&json!({"ipam": {}}));
    assert!(Call::new("dummy").command("STATUS", &without).run().fails(50).contains("requires an IPAM"));
    let nobody = bed.conf(&json!({"ipam": {"type": "nobody"}}));
    Call::new("dummy").command("STATUS", &nobody).run().fails(50);
}

#[test]
fn either_takes_away_what_the_other_made() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"cniVersion": "1.0.0"}));
    let empty = Container::new();
    for theirs in [reference_dir().as_path(), Path::new(OLD_REFERENCE)] {
        if !theirs.join("dummy").is_file() {
            // The old one is older than dummy.
            assert_eq!(theirs, Path::new(OLD_REFERENCE));
            continue;
        }
        let their = |command: &str, conf: &Value, pod: &Container| {
            Call::of(theirs, "dummy")
                .command(command, conf)
                .attachment("c1", "eth0")
                .netns(pod)
                .run_again_if_tentative()
        };
        let pod = Container::new();
        let result = their("ADD", &conf, &pod).ok();
        run("CHECK", &with_prev(&conf, &result), "c1", &pod).ok();
        run("DEL", &with_prev(&conf, &result), "c1", &pod).ok();
        assert_eq!((inside(&pod), bed.leases()), (inside(&empty), 0));
        let result = run("ADD", &conf, "c1", &pod).ok();
        their("CHECK", &with_prev(&conf, &result), &pod).ok();
        their("DEL", &with_prev(&conf, &result), &pod).ok();
        assert_eq!((inside(&pod), bed.leases()), (inside(&empty), 0));
    }
}

/// About the kernel as a whole, which has not loaded the module yet: by itself, before all others.
#[test]
fn without_the_module_the_error_says_so() {
    struct Restored;
    impl Drop for Restored {
        fn drop(&mut self) {
            write_file(Path::new("/proc/sys/kernel/modprobe"), "/sbin/modprobe", 0o644);
        }
    }
    let loaded = std::fs::read_to_string("/proc/modules").unwrap();
    assert!(!loaded.contains("dummy "), "too late: {loaded}");
    let _restored = Restored;
    write_file(Path::new("/proc/sys/kernel/modprobe"), "/nowhere", 0o644);
    let bed = Bed::new();
    let pod = Container::new();
    let why = run("ADD", &bed.conf(&json!({})), "c1", &pod).fails(5);
    assert!(why.contains("failed to create dummy") && why.contains("modprobe dummy"), "{why}");
    assert_eq!(bed.leases(), 0);
}
