//! The gateway of a VLAN: a veth of its own beside the bridge.

use crate::bed::{Bed, add, call, check, del, theirs};
use crate::ports::vlans;
use cni_harness::{Answer, Call, Container, Snapshot, raise_file_limit, reference_dir};
use serde_json::{Value, json};

fn tagged(bed: &Bed, vlan: u16, subnet: &str) -> Value {
    bed.conf(&json!({"vlan": vlan, "name": format!("net{vlan}"), "isDefaultGateway": true,
                     "ipam": bed.ipam(&json!([[{"subnet": subnet}]]))}))
}

#[test]
fn it_stands_last_in_the_result_and_carries_the_address() {
    let bed = Bed::new();
    bed.host.ip("link add br1 mtu 1400 type bridge vlan_filtering 1");
    let (conf, pod) = (tagged(&bed, 100, "10.100.0.0/24"), Container::new());
    let result = add(&conf, "c1", &pod).ok();
    let interfaces = result["interfaces"].as_array().unwrap();
    assert_eq!(interfaces.len(), 4, "{result}");
    assert_eq!(interfaces[3]["name"], "br1.100");
    assert_eq!(interfaces[3]["mtu"], 1400);
    assert!(interfaces[3].get("sandbox").is_none());
    let shown = bed.host.ip("addr show br1.100");
    assert!(
        shown.contains(interfaces[3]["mac"].as_str().unwrap()) && shown.contains("10.100.0.1/24"),
        "{shown}"
    );
    assert!(!bed.host.ip("addr show br1").contains("10.100.0.1"));
    assert!(pod.pings("10.100.0.1"));
    let accept_ra = std::fs::read_to_string("/proc/sys/net/ipv6/conf/br1.100/accept_ra").unwrap();
    assert_eq!(accept_ra.trim(), "0");
}

#[test]
fn two_vlans_have_one_each_and_meet_there() {
    let bed = Bed::new();
    let confs = [tagged(&bed, 100, "10.100.0.0/24"), tagged(&bed, 200, "10.200.0.0/24")];
    let pods = [Container::new(), Container::new()];
    for (conf, pod) in confs.iter().zip(&pods) {
        add(conf, "c1", pod).ok();
    }
    assert!(pods[0].pings("10.100.0.1") && pods[1].pings("10.200.0.1"));
    assert!(pods[0].pings("10.200.0.2"), "routed by the host");
}

#[test]
fn one_that_is_not_whole_is_completed() {
    type Damage = fn(&Bed);
    let port = |bed: &Bed| {
        let shown = bed.host.ip("-o link show br1.100");
        shown.split('@').nth(1).unwrap().split(':').next().unwrap().to_owned()
    };
    let damages: &[(&str, Damage)] = &[
        ("an ADD was killed once the pair was made", |bed| {
            bed.host.ip("link add br1 up type bridge vlan_filtering 1");
            bed.host.ip("link add gw-port master br1 up type veth peer name br1.100");
        }),
        ("down", |bed| {
            bed.host.ip("link add br1 up type bridge vlan_filtering 1");
            bed.host.ip("link add gw-port master br1 type veth peer name br1.100");
            bed.host.ip("link set br1.100 alias cni");
        }),
        ("the bridge was deleted and the pair is left", |bed| {
            let (conf, pod) = (tagged(bed, 100, "10.100.0.0/24"), Container::new());
            add(&conf, "before", &pod).ok();
            del(&conf, "before", &pod).ok();
            bed.host.ip("link del br1");
        }),
        ("the reference made it", |bed| {
            let mut conf = tagged(bed, 100, "10.100.0.0/24");
            conf["cniVersion"] = json!("1.0.0");
            let pod = Container::new();
            theirs(&reference_dir(), "ADD", &conf, "before", &pod).ok();
            del(&conf, "before", &pod).ok();
        }),
    ];
    for (name, damage) in damages {
        let bed = Bed::new();
        damage(&bed);
        let (conf, pod) = (tagged(&bed, 100, "10.100.0.0/24"), Container::new());
        let result = add(&conf, "c1", &pod).ok();
        assert_eq!(vlans(&port(&bed)), "100 PVID Egress Untagged", "{name}");
        assert!(pod.pings("10.100.0.1"), "{name}");
        check(&conf, &result, "c1", &pod).ok();
    }
}

#[test]
fn a_link_of_its_name_that_is_something_else_is_refused() {
    type Squat = fn(&Bed);
    let squats: &[Squat] = &[
        |bed| drop(bed.host.ip("link add br1.100 type dummy")),
        |bed| {
            bed.host.ip("link add br2 type bridge");
            bed.host.ip("link add other master br2 type veth peer name br1.100");
        },
    ];
    for squat in squats {
        let bed = Bed::new();
        squat(&bed);
        let before = Snapshot::take();
        let why = add(&tagged(&bed, 100, "10.100.0.0/24"), "c1", &Container::new()).fails(7);
        assert!(why.contains("br1.100") && why.contains("not the gateway of VLAN 100"), "{why}");
        assert_eq!(Snapshot::take(), before);
        assert!(bed.leases().is_empty());
    }
}

#[test]
fn a_failed_add_leaves_none_unless_somebody_uses_it() {
    let bed = Bed::new();
    let before = Snapshot::take();
    let mut failing = tagged(&bed, 100, "10.100.0.0/24");
    // A route whose gateway nobody can reach: refused once all else is done.
    failing["ipam"]["routes"] = json!([{"dst": "10.9.0.0/16", "gw": "10.77.0.1"}]);
    add(&failing, "c1", &Container::new()).fails(5);
    assert_eq!(Snapshot::take(), before);

    // The gateway has an address in the way: refused after the gateway is there.
    let in_the_way = |bed: &Bed| {
        bed.host.ip("link add br1 up type bridge vlan_filtering 1");
        bed.host.ip("link add gw-port master br1 up type veth peer name br1.100");
        bed.host.ip("link set br1.100 up alias mine");
        bed.host.ip("addr add 10.9.0.1/24 dev br1.100");
    };
    in_the_way(&bed);
    let before = Snapshot::take();
    let why = add(&tagged(&bed, 100, "10.100.0.0/24"), "c1", &Container::new()).fails(7);
    assert!(why.contains("\"br1.100\" already has an IP address different from 10.100.0.1/24"), "{why}");
    let mut after = Snapshot::take();
    after.links.insert("br1.100".to_owned(), before.links["br1.100"].clone());
    after.vlans.clone_from(&before.vlans);
    assert_eq!(after, before, "the gateway of others was made whole, and no more");

    // With a pod on it, it stays.
    let bed = Bed::new();
    let (conf, pod) = (tagged(&bed, 100, "10.100.0.0/24"), Container::new());
    add(&conf, "c1", &pod).ok();
    let before = Snapshot::take();
    let mut failing = conf.clone();
    failing["ipMasq"] = json!(true);
    let other = Container::new();
    let answer = call("ADD", &failing, "c2", &other)
        .through("/usr/bin/strace", &["-qqf", "-o", "/dev/null", "-e", "inject=socket:error=ENOMEM:when=3"]);
    answer.run().fails(5);
    assert_eq!(Snapshot::take(), before);
    assert!(pod.pings("10.100.0.1"));
}

#[test]
fn forty_adds_at_once_on_a_fresh_machine_make_one_and_all_reach_it() {
    raise_file_limit();
    let bed = Bed::new();
    let conf = tagged(&bed, 100, "10.100.0.0/24");
    let pods: Vec<Container> = (0..40).map(|_| Container::new()).collect();
    let calls: Vec<Call> =
        pods.iter().enumerate().map(|(i, pod)| call("ADD", &conf, &format!("c{i}"), pod)).collect();
    // The threads inherit this test's namespace.
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let threads: Vec<_> = calls.iter().map(|call| scope.spawn(|| call.run())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (i, (answer, pod)) in answers.into_iter().zip(&pods).enumerate() {
        let result = answer.ok();
        check(&conf, &result, &format!("c{i}"), pod).ok();
    }
    assert!(pods.iter().all(|pod| pod.pings("10.100.0.1")));
    let links = Snapshot::take().links;
    assert_eq!(links.len(), 40 + 4, "{links:?}");
}
