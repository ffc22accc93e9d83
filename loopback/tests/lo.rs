//! `loopback` against real namespaces.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use cni_harness::{Call, Container, Host};
use serde_json::{Value, json};

fn call(command: &str, version: &str, pod: &Container) -> Call {
    let conf = json!({"cniVersion": version, "name": "lo-net", "type": "loopback"});
    Call::new("loopback").command(command, &conf).attachment("c1", "lo").netns(pod)
}

fn is_up(pod: &Container) -> bool {
    pod.ip("link show lo").contains("UP")
}

#[test]
fn lo_comes_up_and_the_result_has_each_versions_shape() {
    let _host = Host::enter();
    let addresses = ["127.0.0.1/8", "::1/128"];
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let pod = Container::new();
        let result = call("ADD", version, &pod).run().ok();
        assert!(is_up(&pod));
        let mut lo = json!({"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": pod.path()});
        let mut ips =
            json!([{"address": addresses[0], "interface": 0}, {"address": addresses[1], "interface": 0}]);
        let want = match version {
            "0.1.0" | "0.2.0" => {
                json!({"cniVersion": version, "ip4": {"ip": addresses[0]}, "ip6": {"ip": addresses[1]}, "dns": {}})
            }
            "1.0.0" | "1.1.0" => {
                if version == "1.1.0" {
                    lo["mtu"] = json!(65536);
                }
                json!({"cniVersion": version, "interfaces": [lo], "ips": ips})
            }
            _ => {
                ips[0]["version"] = json!("4");
                ips[1]["version"] = json!("6");
                json!({"cniVersion": version, "interfaces": [lo], "ips": ips, "dns": {}})
            }
        };
        assert_eq!(result, want);
        if version >= "0.4.0" {
            assert_eq!(call("CHECK", version, &pod).run().ok(), Value::Null);
        }
        call("DEL", version, &pod).run().ok();
        assert!(!is_up(&pod));
        assert!(!pod.ip("-d link show lo").contains("alias"));
    }
}

#[test]
fn a_previous_result_is_passed_on() {
    let _host = Host::enter();
    let pod = Container::new();
    let prev = json!({"cniVersion": "0.4.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}],
                      "ips": [{"version": "4", "address": "10.0.0.5/24", "interface": 0}], "dns": {}});
    let conf = json!({"cniVersion": "0.4.0", "name": "lo-net", "prevResult": prev});
    assert_eq!(call("ADD", "0.4.0", &pod).command("ADD", &conf).run().ok(), prev);
    assert!(is_up(&pod));
    let bad =
        json!({"cniVersion": "0.4.0", "name": "lo-net", "prevResult": {"cniVersion": "0.4.0", "ips": 5}});
    let pod = Container::new();
    let why = call("ADD", "0.4.0", &pod).command("ADD", &bad).run().fails(6);
    assert!(why.contains("could not parse prevResult"), "{why}");
    assert!(!is_up(&pod));
}

#[test]
fn lo_that_others_brought_up_stays_up() {
    let _host = Host::enter();
    let pod = Container::new();
    pod.ip("link set lo up");
    call("ADD", "1.0.0", &pod).run().ok();
    call("DEL", "1.0.0", &pod).run().ok();
    assert!(is_up(&pod));

    let pod = Container::new();
    call("ADD", "1.0.0", &pod).run().ok();
    call("DEL", "1.0.0", &pod).attachment("c2", "lo").run().ok();
    assert!(is_up(&pod), "another container's DEL is not ours");
}

#[test]
fn check_sees_lo_down() {
    let _host = Host::enter();
    let pod = Container::new();
    call("ADD", "1.0.0", &pod).run().ok();
    pod.ip("link set lo down");
    let why = call("CHECK", "1.0.0", &pod).run().fails(100);
    assert!(why.contains("loopback interface is down"), "{why}");
}

#[test]
fn a_foreign_address_on_lo_is_refused_and_lo_let_be() {
    let _host = Host::enter();
    let pod = Container::new();
    pod.ip("addr add 1.1.1.1/32 dev lo");
    let why = call("ADD", "1.0.0", &pod).run().fails(7);
    assert!(why.contains("loopback interface found with non-loopback address \"1.1.1.1\""), "{why}");
    assert!(!is_up(&pod));
}

#[test]
fn del_forgives_and_gc_and_status_succeed() {
    let _host = Host::enter();
    let pod = Container::new();
    for _ in 0..2 {
        call("DEL", "1.0.0", &pod).run().ok();
    }
    for netns in ["", "/run/netns/gone", "/etc/hostname", "/tmp"] {
        call("DEL", "1.0.0", &pod).env("CNI_NETNS", netns).run().ok();
    }
    let why = call("ADD", "1.0.0", &pod).env("CNI_NETNS", "/run/netns/gone").run().fails(4);
    assert!(why.contains("/run/netns/gone"), "{why}");
    let conf = json!({"cniVersion": "1.1.0", "name": "n", "cni.dev/valid-attachments": []});
    for command in ["GC", "STATUS"] {
        Call::new("loopback").command(command, &conf).run().ok();
    }
}

#[test]
fn without_ipv6_there_is_one_address() {
    let _host = Host::enter();
    let pod = Container::new();
    pod.try_run("sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
    let result = call("ADD", "1.0.0", &pod).run().ok();
    assert_eq!(result["ips"], json!([{"address": "127.0.0.1/8", "interface": 0}]));
}
