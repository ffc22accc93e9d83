//! DEL succeeds whatever is already gone, and leaves nothing.

use crate::bed::{Bed, add, call, del, theirs, warm_up, with_prev};
use cni_harness::{Container, Snapshot, write_file};
use serde_json::{Value, json};

/// After an ADD and `lose`, DEL as `how` says cleans all but what was there before.
fn cleans(lose: impl Fn(&Bed, &Container, &Value), how: impl Fn(cni_harness::Call) -> cni_harness::Call) {
    for (kind, prev) in crate::kinds().iter().flat_map(|kind| [(kind, true), (kind, false)]) {
        let bed = Bed::new();
        let conf = bed.conf(kind);
        warm_up(&conf);
        let (before, pod) = (Snapshot::take(), Container::new());
        let result = add(&conf, "c1", &pod).ok();
        lose(&bed, &pod, &result);
        let conf = if prev { with_prev(&conf, &result) } else { conf };
        for _ in 0..2 {
            how(call("DEL", &conf, "c1", &pod)).run().ok();
            assert_eq!(Snapshot::take(), before, "{kind}, with prevResult: {prev}");
            assert!(bed.leases().is_empty());
        }
    }
}

fn nothing(_: &Bed, _: &Container, _: &Value) {}

#[test]
fn with_the_namespace_named() {
    cleans(nothing, |call| call);
}

#[test]
fn with_no_namespace() {
    cleans(nothing, |call| call.without("CNI_NETNS"));
    cleans(nothing, |call| call.env("CNI_NETNS", ""));
}

#[test]
fn with_a_dead_namespace() {
    cleans(nothing, |call| call.env("CNI_NETNS", "/proc/1/fd/99999"));
    cleans(nothing, |call| call.env("CNI_NETNS", "/run/netns/gone"));
}

#[test]
fn with_a_path_that_is_no_namespace() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    write_file(&file, "x", 0o600);
    cleans(nothing, |call| call.env("CNI_NETNS", file.as_os_str()));
    cleans(nothing, |call| call.env("CNI_NETNS", dir.path().as_os_str()));
}

#[test]
fn with_our_own_namespace_and_nothing_of_the_host_is_touched() {
    cleans(
        |bed, _, _| {
            bed.host.ip("link add eth0 type bridge");
        },
        |call| {
            let call = call.env("CNI_NETNS", "/proc/self/ns/net");
            call.run().ok();
            // The host's own eth0 is still there, and only now taken away by us.
            let deleted = std::process::Command::new("ip").args(["link", "del", "eth0"]).output().unwrap();
            let first = deleted.status.success();
            let gone = String::from_utf8_lossy(&deleted.stderr).contains("Cannot find device");
            assert!(first || gone);
            call
        },
    );
}

#[test]
fn after_the_link_was_deleted_by_hand() {
    cleans(|_, pod, _| drop(pod.ip("link del eth0")), |call| call);
}

#[test]
fn after_the_lease_was_deleted_by_hand() {
    cleans(
        |_, _, result| {
            assert!(result["ips"][0]["address"].is_string());
        },
        |call| call,
    );
    let bed = Bed::new();
    let conf = bed.conf(&json!({}));
    let pod = Container::new();
    add(&conf, "c1", &pod).ok();
    for path in bed.leases().keys() {
        std::fs::remove_file(std::path::Path::new(conf["ipam"]["dataDir"].as_str().unwrap()).join(path))
            .unwrap();
    }
    del(&conf, "c1", &pod).ok();
    assert!(!pod.ip("link").contains("eth0"));
}

#[test]
fn after_the_rules_were_flushed_by_hand() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"ipMasq": true}));
    let pod = Container::new();
    let result = add(&conf, "c1", &pod).ok();
    bed.host.run("nft", &["flush", "ruleset"]);
    del(&with_prev(&conf, &result), "c1", &pod).ok();
    assert!(bed.leases().is_empty());
}

#[test]
fn of_what_was_never_added() {
    let bed = Bed::new();
    let before = Snapshot::take();
    del(&bed.conf(&json!({"ipMasq": true})), "c9", &Container::new()).ok();
    assert_eq!(Snapshot::take(), before);
    assert!(bed.leases().is_empty());
}

#[test]
fn of_half_an_attachment() {
    // An ADD killed after the link was made: no lease, no rule.
    let bed = Bed::new();
    let conf = bed.conf(&json!({"ipMasq": true}));
    let pod = Container::new();
    bed.host.ip(&format!("link add half type veth peer name eth0 netns {}", std::process::id()));
    bed.host.ip("link del half");
    pod.ip("link add eth0 type veth peer name eth9");
    del(&conf, "c1", &pod).ok();
    assert!(!pod.ip("link").contains("eth"));
}

#[test]
fn when_the_config_has_been_broken_since() {
    for broken in [
        json!({"bridge": "lo"}),
        json!({"mtu": "x"}),
        json!({"hairpinMode": true, "promiscMode": true}),
        json!({"vlan": 7}),
        json!({"ipMasqBackend": "pf"}),
        json!({"prevResult": {"cniVersion": "1.1.0", "ips": "x"}}),
        json!({"runtimeConfig": {"mac": "zz"}}),
    ] {
        let bed = Bed::new();
        let conf = bed.conf(&json!({"ipMasq": true}));
        warm_up(&conf);
        let (before, pod) = (Snapshot::take(), Container::new());
        add(&conf, "c1", &pod).ok();
        let mut extra = broken.clone();
        extra["ipMasq"] = json!(true);
        let call = call("DEL", &bed.conf(&extra), "c1", &pod).env("CNI_ARGS", "UNKNOWN=1;;");
        call.run().ok();
        assert_eq!(Snapshot::take(), before, "{broken}");
        assert!(bed.leases().is_empty(), "{broken}");
    }
}

#[test]
fn the_link_goes_even_when_ipam_is_missing_and_that_is_said() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({}));
    let pod = Container::new();
    add(&conf, "c1", &pod).ok();
    let why = call("DEL", &conf, "c1", &pod).env("CNI_PATH", "/nowhere").run().fails(7);
    assert!(why.contains("failed to find plugin \"host-local\""), "{why}");
    assert!(!pod.ip("link").contains("eth0"));
    assert_eq!(bed.leases().len(), 2, "and its lease waits for a DEL that can free it");
    del(&conf, "c1", &pod).ok();
    assert!(bed.leases().is_empty());
}

#[test]
fn of_what_the_reference_plugin_made() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"cniVersion": "1.0.0"}));
    warm_up(&conf);
    let (before, pod) = (Snapshot::take(), Container::new());
    theirs(&cni_harness::reference_dir(), "ADD", &conf, "c1", &pod).ok();
    assert_eq!(bed.leases().len(), 2);
    del(&conf, "c1", &pod).ok();
    assert_eq!(Snapshot::take(), before);
    assert!(bed.leases().is_empty());
}

#[test]
fn of_an_attachment_whose_veth_has_its_second_name() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"ipMasq": true}));
    warm_up(&conf);
    let attachment = cni_common::spec::Attachment {
        network: "net1".try_into().unwrap(),
        container_id: "c1".try_into().unwrap(),
        ifname: "eth0".try_into().unwrap(),
    };
    // Somebody else's link has the first.
    bed.host.ip(&format!("link add {} type bridge", attachment.host_veth(0)));
    let (before, pod) = (Snapshot::take(), Container::new());
    let result = add(&conf, "c1", &pod).ok();
    assert_eq!(result["interfaces"][1]["name"], attachment.host_veth(1).as_str());
    call("DEL", &conf, "c1", &pod).without("CNI_NETNS").run().ok();
    assert_eq!(Snapshot::take(), before);
}
