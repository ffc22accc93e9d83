//! The container's port: which VLANs it carries, and whose frames come through.

use crate::bed::{Bed, add, call, check, del, theirs, traced_add, warm_up};
use cni_harness::{Call, Container, Snapshot, reference_dir};
use serde_json::{Value, json};

/// The VLANs of a link, as `bridge vlan show` prints them.
pub fn vlans(link: &str) -> String {
    let found = Snapshot::take().vlans.into_iter().find_map(|line| {
        line.split_once(": ").filter(|(name, _)| *name == link).map(|(_, vlans)| vlans.to_owned())
    });
    found.unwrap_or_default()
}

fn port(result: &Value) -> &str {
    result["interfaces"][1]["name"].as_str().unwrap()
}

fn address(result: &Value) -> &str {
    result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap()
}

#[test]
fn each_combination_of_the_keys() {
    let native = "1 PVID Egress Untagged";
    for (extra, want) in [
        (json!({"vlan": 100}), "100 PVID Egress Untagged".to_owned()),
        (json!({"vlan": 1}), native.to_owned()),
        (json!({"vlan": 4094}), "4094 PVID Egress Untagged".to_owned()),
        (
            json!({"vlan": 100, "preserveDefaultVlan": true}),
            "1 Egress Untagged, 100 PVID Egress Untagged".to_owned(),
        ),
        (json!({"preserveDefaultVlan": true}), native.to_owned()),
        (json!({"vlanTrunk": []}), native.to_owned()),
        (json!({"vlanTrunk": [{"id": 20}, {"minID": 10, "maxID": 12}]}), format!("{native}, 10, 11, 12, 20")),
        (json!({"vlanTrunk": [{"id": 1}, {"id": 2}]}), format!("{native}, 2")),
        (
            json!({"vlan": 11, "vlanTrunk": [{"minID": 10, "maxID": 12}]}),
            "10, 11 PVID Egress Untagged, 12".to_owned(),
        ),
    ] {
        let bed = Bed::new();
        let (conf, pod) = (bed.conf(&extra), Container::new());
        let result = add(&conf, "c1", &pod).ok();
        let found = vlans(port(&result));
        let single = expand(&found);
        assert_eq!(single, want, "{extra}: {found}");
        check(&conf, &result, "c1", &pod).ok();
        del(&conf, "c1", &pod).ok();
    }
}

/// `10-12` → `10, 11, 12`
fn expand(vlans: &str) -> String {
    let one = |text: &str| match text.split_once('-') {
        Some((first, last)) => {
            let range = first.parse::<u16>().unwrap()..=last.parse().unwrap();
            range.map(|vid| vid.to_string()).collect::<Vec<_>>().join(", ")
        }
        None => text.to_owned(),
    };
    vlans.split(", ").map(one).collect::<Vec<_>>().join(", ")
}

#[test]
fn all_vlans_there_are_take_one_message() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"vlanTrunk": [{"minID": 1, "maxID": 4094}], "ipam": null}));
    warm_up(&conf);
    let pod = Container::new();
    let trace = traced_add(&conf, &pod, "sendto,sendmsg");
    assert_eq!(trace.matches("nlmsg_type=RTM_SETLINK").count(), 1, "{trace}");
    del(&conf, "c1", &pod).ok();

    // Every second one: 2,047 that make no range.
    let odd: Vec<Value> = (1..=4093).step_by(2).map(|vid| json!({"id": vid})).collect();
    let conf = bed.conf(&json!({"vlanTrunk": odd, "ipam": null}));
    let result = add(&conf, "c1", &pod).ok();
    check(&conf, &result, "c1", &pod).ok();
    assert_eq!(vlans(port(&result)).split(", ").count(), 2047);
}

#[test]
fn pods_reach_those_of_their_own_vlan_only() {
    let bed = Bed::new();
    let ranges = json!([[{"subnet": "10.1.0.0/24"}]]);
    let conf = |vlan: u16| bed.conf(&json!({"vlan": vlan, "isGateway": false, "ipam": bed.ipam(&ranges)}));
    let pods: Vec<Container> = (0..6).map(|_| Container::new()).collect();
    let add_to = |vlan: u16, i: usize| address(&add(&conf(vlan), &format!("c{i}"), &pods[i]).ok()).to_owned();
    let ips: Vec<String> =
        [100, 100, 200, 200, 0, 0].into_iter().enumerate().map(|(i, vlan)| add_to(vlan, i)).collect();
    for from in 0..6 {
        for to in (0..6).filter(|to| *to != from) {
            let same = from / 2 == to / 2;
            if same || from % 2 == 0 && to % 2 == 1 {
                assert_eq!(pods[from].pings(&ips[to]), same, "from {from} to {to}");
            }
        }
    }
}

#[test]
fn a_trunk_carries_tagged_frames_of_its_vlans_only() {
    let bed = Bed::new();
    let (trunk, on_10, on_30) = (Container::new(), Container::new(), Container::new());
    let layer_2 = |extra: Value| {
        let mut extra = extra;
        extra["ipam"] = Value::Null;
        bed.conf(&extra)
    };
    add(&layer_2(json!({"vlanTrunk": [{"minID": 10, "maxID": 20}]})), "t", &trunk).ok();
    add(&layer_2(json!({"vlan": 10})), "a", &on_10).ok();
    add(&layer_2(json!({"vlan": 30})), "b", &on_30).ok();
    on_10.ip("addr add 10.10.0.2/24 dev eth0");
    on_30.ip("addr add 10.30.0.2/24 dev eth0");
    for vid in [10, 30] {
        trunk.ip(&format!("link add link eth0 name eth0.{vid} type vlan id {vid}"));
        trunk.ip(&format!("addr add 10.{vid}.0.1/24 dev eth0.{vid}"));
        trunk.ip(&format!("link set eth0.{vid} up"));
    }
    assert!(trunk.pings("10.10.0.2"));
    assert!(!trunk.pings("10.30.0.2"));
}

#[test]
fn a_bridge_without_filtering_is_switched_unless_it_has_an_uplink() {
    let bed = Bed::new();
    let plain = bed.conf(&json!({}));
    let tagged = bed.conf(&json!({"vlan": 100, "name": "net100",
                                  "ipam": bed.ipam(&json!([[{"subnet": "10.100.0.0/24"}]]))}));
    let (one, two, three) = (Container::new(), Container::new(), Container::new());
    add(&plain, "c1", &one).ok();
    let filtering = || Snapshot::take().links["br1"].contains("vlan_filtering 1");
    assert!(!filtering());

    // The failure of an ADD switches it back only when nobody needs it.
    let before = Snapshot::take();
    let failing = bed
        .conf(&json!({"vlan": 100, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/31"}]]}}));
    add(&failing, "c3", &three).fails(7);
    let mut after = Snapshot::take();
    let switched = before.links["br1"].replace("vlan_filtering 0", "vlan_filtering 1");
    assert_eq!(after.links.insert("br1".to_owned(), before.links["br1"].clone()), Some(switched));
    assert_eq!(after, before, "a port is there, which might be in use: nothing else is left");

    let result = add(&tagged, "c2", &two).ok();
    assert!(filtering());
    check(&tagged, &result, "c2", &two).ok();
    assert!(one.pings("10.1.0.1"), "the pod without a VLAN works on");
    assert!(two.pings("10.100.0.1"));

    let bed = Bed::new();
    bed.host.ip("link add br1 type bridge");
    bed.host.ip("link add uplink type dummy");
    bed.host.ip("link set uplink master br1");
    let before = Snapshot::take();
    let why = add(&bed.conf(&json!({"vlan": 100})), "c1", &one).fails(7);
    assert!(why.contains("VLAN filtering off") && why.contains("uplink"), "{why}");
    assert!(why.contains("ip link set br1 type bridge vlan_filtering 1"), "{why}");
    assert_eq!(Snapshot::take(), before);
    assert!(bed.leases().is_empty());
    let status = call("STATUS", &bed.conf(&json!({"vlan": 100})), "", &one).run().fails(50);
    assert!(status.contains("VLAN filtering off") && status.contains("uplink"), "{status}");
    bed.host.ip("link set br1 type bridge vlan_filtering 1");
    let pod = Container::new();
    add(&bed.conf(&json!({"vlan": 100})), "c1", &pod).ok();
    assert_eq!(vlans("uplink"), "1 PVID Egress Untagged", "the uplink is its owner's");
}

#[test]
fn an_empty_bridge_gets_its_filtering_back_when_an_add_fails() {
    let bed = Bed::new();
    bed.host.ip("link add br1 type bridge");
    let before = Snapshot::take();
    let failing = bed
        .conf(&json!({"vlan": 100, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/31"}]]}}));
    add(&failing, "c1", &Container::new()).fails(7);
    assert_eq!(Snapshot::take(), before);
}

#[test]
fn a_bridge_with_another_default_vlan_or_none() {
    for (default, preserved) in [(0, ""), (7, "7 Egress Untagged, ")] {
        let bed = Bed::new();
        bed.host.ip(&format!("link add br1 type bridge vlan_filtering 1 vlan_default_pvid {default}"));
        for (preserve, before) in [(false, ""), (true, preserved)] {
            let (conf, pod) =
                (bed.conf(&json!({"vlan": 100, "preserveDefaultVlan": preserve})), Container::new());
            let result = add(&conf, "c1", &pod).ok();
            assert_eq!(vlans(port(&result)), format!("{before}100 PVID Egress Untagged"));
            check(&conf, &result, "c1", &pod).ok();
            del(&conf, "c1", &pod).ok();
        }
    }
}

#[test]
fn check_names_the_vlan_that_is_wrong() {
    type Change = fn(&Bed, &str);
    let changes: &[(Change, &[&str])] = &[
        (
            |bed, veth| drop(bed.host.run("bridge", &["vlan", "del", "vid", "11", "dev", veth])),
            &["VLANs of veth", "10-12 tagged", "10 tagged, 12 tagged"],
        ),
        (
            |bed, veth| drop(bed.host.run("bridge", &["vlan", "add", "vid", "13", "dev", veth])),
            &["10-13 tagged"],
        ),
        (
            |bed, veth| drop(bed.host.run("bridge", &["vlan", "add", "vid", "1", "untagged", "dev", veth])),
            &["found 1 untagged"],
        ),
        (
            |bed, veth| drop(bed.host.run("bridge", &["vlan", "add", "vid", "100", "untagged", "dev", veth])),
            &["100 PVID untagged", "100 untagged"],
        ),
        (
            |bed, _| drop(bed.host.ip("link set br1 type bridge vlan_filtering 0")),
            &["VLAN filtering of bridge br1", "expected true, found false"],
        ),
        (|bed, _| drop(bed.host.ip("link del br1.100")), &["VLAN gateway br1.100", "nothing"]),
        (|bed, _| drop(bed.host.ip("link set br1.100 down")), &["state of br1.100", "expected up"]),
        (
            |bed, _| drop(bed.host.ip("addr del 10.1.0.1/24 dev br1.100")),
            &["addresses of VLAN gateway br1.100", "10.1.0.1"],
        ),
        (|bed, _| drop(bed.host.ip("link set br1.100 address 02:00:00:00:00:05")), &["address of br1.100"]),
        (
            |bed, _| drop(bed.host.ip(&format!("link set {} nomaster", gateway_port(bed)))),
            &["other end of VLAN gateway br1.100", "a port of br1"],
        ),
        (
            |bed, _| {
                drop(bed.host.run(
                    "bridge",
                    &["vlan", "add", "vid", "200", "pvid", "untagged", "dev", &gateway_port(bed)],
                ))
            },
            &["port of VLAN gateway br1.100", "expected 100 PVID untagged", "200 PVID untagged"],
        ),
    ];
    for (change, words) in changes {
        let bed = Bed::new();
        let conf = bed.conf(&json!({"vlan": 100, "vlanTrunk": [{"minID": 10, "maxID": 12}]}));
        let pod = Container::new();
        let result = add(&conf, "c1", &pod).ok();
        check(&conf, &result, "c1", &pod).ok();
        change(&bed, port(&result));
        let why = check(&conf, &result, "c1", &pod).fails(100);
        for word in *words {
            assert!(why.contains(word), "{word:?} in {why}");
        }
    }
}

fn gateway_port(bed: &Bed) -> String {
    let shown = bed.host.ip("-o link show br1.100");
    shown.split('@').nth(1).and_then(|rest| rest.split(':').next()).unwrap().to_owned()
}

/// Release 1.1 leaves its ports in the default VLAN, without a key to say otherwise; ours takes them out.
#[test]
fn as_the_reference_does_but_for_the_default_vlan_and_nodes_may_swap() {
    let reference =
        |command: &str, conf: &Value, pod: &Container| theirs(&reference_dir(), command, conf, "c1", pod);
    let state = |theirs: bool| {
        let bed = Bed::new();
        let conf = bed.conf(&json!({"vlan": 100, "cniVersion": "1.0.0", "preserveDefaultVlan": true}));
        let pod = Container::new();
        let result = if theirs { reference("ADD", &conf, &pod) } else { add(&conf, "c1", &pod) }.ok();
        let shape: Vec<Value> =
            result["interfaces"].as_array().unwrap().iter().map(|one| one["sandbox"].clone()).collect();
        let addresses = Snapshot::take().addresses;
        let found = (
            result["ips"].clone(),
            shape.len(),
            result["interfaces"][3]["name"].clone(),
            addresses,
            vlans(port(&result)),
            vlans("br1"),
        );
        // And each takes away what the other made.
        if theirs {
            check(&conf, &result, "c1", &pod).ok();
            del(&conf, "c1", &pod).ok();
        } else {
            reference("DEL", &conf, &pod).ok();
        }
        let left: Vec<String> =
            Snapshot::take().links.into_keys().filter(|name| !name.starts_with("veth")).collect();
        assert_eq!(left, ["br1", "br1.100", "lo"]);
        assert_eq!(Snapshot::take().links.len(), 4, "and the port of br1.100");
        assert!(bed.leases().is_empty());
        found
    };
    assert_eq!(state(true), state(false));
}

#[test]
fn status_and_gc_work_with_vlans() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"vlan": 100, "cniVersion": "1.1.0"}));
    warm_up(&conf);
    let before = Snapshot::take();
    let pods = [Container::new(), Container::new()];
    let kept = add(&conf, "c1", &pods[0]).ok();
    add(&conf, "c2", &pods[1]).ok();
    call("STATUS", &conf, "", &pods[0]).run().ok();
    let mut list = conf.clone();
    list["cni.dev/valid-attachments"] = json!([{"containerID": "c1", "ifname": "eth0"}]);
    call("GC", &list, "", &pods[0]).run().ok();
    check(&conf, &kept, "c1", &pods[0]).ok();
    assert!(!pods[1].ip("link").contains("eth0"));
    list["cni.dev/valid-attachments"] = json!([]);
    call("GC", &list, "", &pods[0]).run().ok();
    assert_eq!(Snapshot::take(), before);
}
