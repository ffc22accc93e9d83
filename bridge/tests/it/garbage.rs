//! GC frees what no valid attachment owns, and nothing else. STATUS says whether an ADD could succeed.

use crate::bed::{Bed, add, check, warm_up};
use cni_harness::{Answer, Call, Container, OLD_REFERENCE, Snapshot};
use serde_json::{Value, json};

fn gc(conf: &Value, lists: &Value) -> Answer {
    let mut conf = conf.clone();
    for (key, list) in lists.as_object().unwrap() {
        conf[key] = list.clone();
    }
    Call::new("bridge").command("GC", &conf).run()
}

#[test]
fn the_dead_go_and_the_living_stay() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"ipMasq": true}));
    let neighbour = bed.conf(&json!({"name": "net1-b", "ipMasq": true, "bridge": "br2",
                                     "ipam": bed.ipam(&json!([[{"subnet": "10.2.0.0/24"}]]))}));
    warm_up(&conf);
    let other = Container::new();
    let others = add(&neighbour, "n1", &other).ok();
    let alive = Container::new();
    let result = add(&conf, "alive", &alive).ok();
    let wanted = (Snapshot::take(), bed.leases());

    let dead = [Container::new(), Container::new(), Container::new()];
    for (n, pod) in dead.iter().enumerate() {
        add(&conf, &format!("dead{n}"), pod).ok();
    }
    let list = json!([{"containerID": "alive", "ifname": "eth0"}]);
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let answer = gc(&conf, &json!({key: list}));
        answer.ok();
        assert_eq!((Snapshot::take(), bed.leases()), wanted, "{key}");
    }
    assert!(!dead[0].ip("link").contains("eth0"));
    check(&conf, &result, "alive", &alive).ok();
    check(&neighbour, &others, "n1", &other).ok();
}

#[test]
fn it_says_what_it_freed() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"ipMasq": true}));
    add(&conf, "dead", &Container::new()).ok();
    let pod = Container::new();
    add(&conf, "dead2", &pod).ok();
    let answer = gc(&conf, &json!({"cni.dev/valid-attachments": []}));
    answer.ok();
    for words in
        ["freed 10.1.0.2, held by eth0 of container dead", "cni/net1/dead2/eth0", "masquerading of 10.1.0.3"]
    {
        assert!(answer.stderr.contains(words), "{words} in {}", answer.stderr);
    }
}

#[test]
fn the_interface_counts_too() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({}));
    let pod = Container::new();
    add(&conf, "c1", &pod).ok();
    let list = json!({"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth1"}]});
    gc(&conf, &list).ok();
    assert!(bed.leases().is_empty() && !pod.ip("link").contains("eth0"));
}

#[test]
fn without_a_list_nothing_is_freed() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"ipMasq": true}));
    let pod = Container::new();
    add(&conf, "c1", &pod).ok();
    let before = (Snapshot::take(), bed.leases());
    for lists in [json!({}), json!({"cni.dev/valid-attachments": null})] {
        let why = gc(&conf, &lists).fails(7);
        assert!(why.contains("cni.dev/valid-attachments"), "{why}");
    }
    assert_eq!((Snapshot::take(), bed.leases()), before);
}

#[test]
fn an_empty_list_frees_all_of_the_network() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"ipMasq": true}));
    let pods = [Container::new(), Container::new()];
    for (n, pod) in pods.iter().enumerate() {
        add(&conf, &format!("c{n}"), pod).ok();
    }
    gc(&conf, &json!({"cni.dev/valid-attachments": []})).ok();
    assert!(bed.leases().is_empty());
    let now = Snapshot::take();
    assert_eq!(now.links.keys().collect::<Vec<_>>(), ["br1", "lo"]);
    assert_eq!(now.rules, "", "no empty table either");
    // And the network still works.
    add(&conf, "c9", &Container::new()).ok();
}

#[test]
fn gc_and_status_came_with_1_1_0() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"cniVersion": "1.0.0"}));
    let why = gc(&conf, &json!({"cni.dev/valid-attachments": []})).fails(1);
    assert!(why.contains("config version does not allow GC"), "{why}");
    let why = status(&conf).fails(1);
    assert!(why.contains("config version does not allow STATUS"), "{why}");
}

fn status(conf: &Value) -> Answer {
    Call::new("bridge").command("STATUS", conf).run()
}

#[test]
fn status_is_truthful_and_changes_nothing() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"ipMasq": true}));
    let before = Snapshot::take();
    status(&conf).ok();
    assert_eq!(Snapshot::take(), before);
    assert!(bed.leases().is_empty());

    let small = bed.conf(&json!({"ipam": bed.ipam(&json!([[{"subnet": "10.3.0.0/30"}]])), "name": "small"}));
    status(&small).ok();
    let pod = Container::new();
    add(&small, "c1", &pod).ok();
    // Every address is taken, and nothing is broken.
    let full = status(&small);
    full.ok();
    assert!(full.stderr.contains("no address left") && full.stderr.contains("1 of 1"), "{}", full.dump());

    let why = status(&bed.conf(&json!({"bridge": "lo"}))).fails(50);
    assert!(why.contains("not a bridge"), "{why}");
    let why = status(&bed.conf(&json!({"ipam": {"type": "missing"}}))).fails(50);
    assert!(why.contains("failed to find plugin"), "{why}");
    let why = status(&bed.conf(&json!({"mtu": -5}))).fails(50);
    assert!(why.contains("mtu"), "{why}");
}

#[test]
fn an_older_ipam_that_knows_neither_is_no_failure() {
    let bed = Bed::new();
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(cni_harness::bin_dir().join("bridge"), dir.path().join("bridge")).unwrap();
    std::fs::copy(format!("{OLD_REFERENCE}/host-local"), dir.path().join("host-local")).unwrap();
    let conf = bed.conf(&json!({}));
    let call = |command: &str, conf: &Value| Call::of(dir.path(), "bridge").command(command, conf).run();
    let mut with_list = conf.clone();
    with_list["cni.dev/valid-attachments"] = json!([]);
    call("STATUS", &conf).ok();
    call("GC", &with_list).ok();
}
