//! An attachment's life when all goes well.

use crate::bed::{Bed, add, call, check, del, inside, merge, warm_up};
use cni_harness::{Container, Snapshot};
use serde_json::{Value, json};

#[test]
fn a_dual_stack_pod_reaches_its_gateway_and_leaves_nothing() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"isDefaultGateway": true, "ipMasq": true}));
    warm_up(&conf);
    let (before, pod) = (Snapshot::take(), Container::new());
    let empty = inside(&pod);

    let result = add(&conf, "c1", &pod).ok();
    assert_eq!(result["cniVersion"], "1.1.0");
    let names: Vec<_> =
        (0..3).map(|i| result["interfaces"][i]["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!((names[0].as_str(), names[2].as_str()), ("br1", "eth0"));
    assert_eq!(result["interfaces"][2]["sandbox"], pod.path());
    assert_eq!(result["interfaces"][2]["mtu"], 1500);
    assert_eq!(
        result["ips"],
        json!([{"address": "10.1.0.3/24", "gateway": "10.1.0.1", "interface": 2},
               {"address": "fd00:1::3/64", "gateway": "fd00:1::1", "interface": 2}])
    );
    assert_eq!(
        result["routes"],
        json!([{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "::/0", "gw": "fd00:1::1"}])
    );
    let now = Snapshot::take();
    assert!(now.links[&names[1]].contains("cni/net1/c1/eth0"), "the host veth says whose it is: {now:?}");
    let macs = bed.host.ip("-br link");
    for (i, name) in names.iter().take(2).enumerate() {
        let mac = result["interfaces"][i]["mac"].as_str().unwrap();
        assert!(
            macs.lines().any(|line| line.starts_with(name.as_str()) && line.contains(mac)),
            "{name} {mac}\n{macs}"
        );
    }
    assert!(pod.ip("link show eth0").contains(result["interfaces"][2]["mac"].as_str().unwrap()));
    for gateway in ["10.1.0.1", "fd00:1::1"] {
        assert!(pod.pings(gateway), "{gateway}");
    }
    check(&conf, &result, "c1", &pod).ok();

    del(&conf, "c1", &pod).ok();
    assert_eq!(Snapshot::take(), before);
    assert_eq!(inside(&pod), empty);
    assert!(bed.leases().is_empty());
}

#[test]
fn two_pods_reach_each_other() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({}));
    let pods = [Container::new(), Container::new()];
    add(&conf, "c1", &pods[0]).ok();
    let other = add(&conf, "c2", &pods[1]).ok();
    let address =
        |i: usize| other["ips"][i]["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
    assert!(pods[0].pings(&address(0)) && pods[0].pings(&address(1)), "{other}");
}

#[test]
fn layer_2_needs_no_ipam_and_passes_check() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"ipam": null, "isGateway": null}));
    let pod = Container::new();
    let result = add(&conf, "c1", &pod).ok();
    assert_eq!(result["ips"], Value::Null);
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
    assert!(pod.ip("link show eth0").contains("state UP"));
    check(&conf, &result, "c1", &pod).ok();
    del(&conf, "c1", &pod).ok();
    assert!(!pod.ip("link").contains("eth0"));
}

#[test]
fn a_result_is_told_in_every_version() {
    let bed = Bed::new();
    for (n, version) in
        ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"].into_iter().enumerate()
    {
        let conf = bed.conf(&json!({"cniVersion": version}));
        let pod = Container::new();
        let result = add(&conf, "c1", &pod).ok();
        assert_eq!(result["cniVersion"], version);
        let v4 = format!("10.1.0.{}/24", n + 2);
        if version < "0.3.0" {
            assert_eq!(result["ip4"]["ip"], v4);
            assert_eq!(result["interfaces"], Value::Null);
        } else {
            assert_eq!(result["ips"][0]["address"], v4);
            let family = if version < "1.0.0" { json!("4") } else { Value::Null };
            assert_eq!(result["ips"][0]["version"], family);
        }
        let mtu = if version == "1.1.0" { json!(1500) } else { Value::Null };
        assert_eq!(result["interfaces"][0]["mtu"], mtu, "{version}");
        del(&conf, "c1", &pod).ok();
    }
}

#[test]
fn layer_2_has_no_result_before_0_3_0_and_is_refused_before_any_work() {
    let bed = Bed::new();
    let before = Snapshot::take();
    let conf = bed.conf(&json!({"cniVersion": "0.2.0", "ipam": null}));
    let why = add(&conf, "c1", &Container::new()).fails(7);
    assert!(why.contains("no valid IP addresses"), "{why}");
    assert_eq!(Snapshot::take(), before);
}

#[test]
fn a_living_attachment_is_not_added_again_and_keeps_its_lease() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"ipMasq": true}));
    let pod = Container::new();
    let result = add(&conf, "c1", &pod).ok();
    let (machine, container, leases) = (Snapshot::take(), inside(&pod), bed.leases());

    let why = add(&conf, "c1", &pod).fails(101);
    assert!(why.contains("eth0 already exists"), "{why}");
    // The same attachment in another namespace: found by its host veth.
    let why = add(&conf, "c1", &Container::new()).fails(101);
    assert!(why.contains("already has the host veth"), "{why}");

    assert_eq!((Snapshot::take(), inside(&pod), bed.leases()), (machine, container, leases));
    check(&conf, &result, "c1", &pod).ok();
}

#[test]
fn two_interfaces_of_one_container_live_and_die_independently() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"ipMasq": true}));
    warm_up(&conf);
    let (before, pod) = (Snapshot::take(), Container::new());
    let on = |ifname: &str, command: &str, conf: &Value| {
        call(command, conf, "c1", &pod).attachment("c1", ifname).run()
    };
    let first = on("eth0", "ADD", &conf).ok();
    let alone = Snapshot::take();
    on("eth1", "ADD", &conf).ok();
    on("eth1", "DEL", &conf).ok();
    assert_eq!(Snapshot::take(), alone, "eth0 keeps its veth and its masquerading");
    check(&conf, &first, "c1", &pod).ok();
    let mut again = conf.clone();
    merge(&mut again, &json!({"prevResult": first}));
    on("eth0", "DEL", &again).ok();
    assert_eq!(Snapshot::take(), before);
    assert!(bed.leases().is_empty());
}
