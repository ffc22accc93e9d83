//! macspoofchk: a container sends by its own Ethernet address only.

use crate::bed::{Bed, add, call, check, del, theirs, warm_up};
use cni_harness::{Call, Container, Snapshot, reference_dir};
use serde_json::{Value, json};

fn guarded(bed: &Bed) -> Value {
    bed.conf(&json!({"macspoofchk": true, "cniVersion": "1.0.0"}))
}

#[test]
fn what_is_sent_by_another_address_is_lost() {
    let bed = Bed::new();
    let (free, held) = (Container::new(), Container::new());
    add(&bed.conf(&json!({})), "free", &free).ok();
    add(&guarded(&bed), "held", &held).ok();
    for pod in [&free, &held] {
        assert!(pod.pings("10.1.0.1") && pod.pings("fd00:1::1"), "by its own address");
        pod.ip("link set eth0 address 02:00:00:00:00:99");
    }
    assert!(free.pings("10.1.0.1"), "not guarded");
    assert!(!held.pings("10.1.0.1") && !held.pings("fd00:1::1"), "guarded");
}

#[test]
fn two_containers_may_have_one_address_each_by_its_port() {
    let bed = Bed::new();
    let mut conf = guarded(&bed);
    conf["runtimeConfig"] = json!({"mac": "02:00:00:00:00:42"});
    let pods = [Container::new(), Container::new()];
    for (n, pod) in pods.iter().enumerate() {
        add(&conf, &format!("c{n}"), pod).ok();
    }
    del(&conf, "c0", &pods[0]).ok();
    assert!(pods[1].pings("10.1.0.1"), "the DEL of one leaves the other");
}

#[test]
fn two_sets_and_one_rule_are_all_there_is() {
    let bed = Bed::new();
    let pods: Vec<Container> = (0..5).map(|_| Container::new()).collect();
    for (n, pod) in pods.iter().enumerate() {
        add(&guarded(&bed), &format!("c{n}"), pod).ok();
    }
    let rules = bed.host.run("nft", &["list", "table", "bridge", "cni_macspoofchk"]);
    assert_eq!(rules.matches(" drop").count(), 1, "{rules}");
    assert!(rules.contains("iifname @ports iifname . ether saddr != @addresses drop"), "{rules}");
    assert_eq!(rules.matches("comment \"cni/net1/c3/eth0\"").count(), 2, "{rules}");
}

#[test]
fn a_failed_add_leaves_no_table() {
    let bed = Bed::new();
    let before = Snapshot::take();
    let mut conf = guarded(&bed);
    conf["ipam"] = json!({"type": "host-local", "ranges": []});
    call("ADD", &conf, "c1", &Container::new()).run().fails(7);
    assert_eq!(Snapshot::take(), before);
}

#[test]
fn check_sees_it() {
    let bed = Bed::new();
    let conf = guarded(&bed);
    let changes: &[(&str, &[&str], &str)] = &[
        ("rules gone", &["flush", "ruleset"], "no rule"),
        ("rule gone", &["flush", "chain", "bridge", "cni_macspoofchk", "prerouting"], "no rule"),
        ("port gone", &["flush", "set", "bridge", "cni_macspoofchk", "ports"], "an unguarded port"),
        ("address gone", &["flush", "set", "bridge", "cni_macspoofchk", "addresses"], "may send nothing"),
    ];
    for (n, (name, nft, words)) in changes.iter().enumerate() {
        let (pod, id) = (Container::new(), format!("c{n}"));
        let result = add(&conf, &id, &pod).ok();
        check(&conf, &result, &id, &pod).ok();
        bed.host.run("nft", nft);
        let why = check(&conf, &result, &id, &pod).fails(100);
        assert!(why.contains("macspoofchk") && why.contains(words), "{name}: {why}");
        bed.host.run("nft", &["flush", "ruleset"]);
    }
}

#[test]
fn gc_ends_it_for_the_dead_only() {
    let bed = Bed::new();
    let mut conf = bed.conf(&json!({"macspoofchk": true}));
    let (alive, dead) = (Container::new(), Container::new());
    add(&conf, "alive", &alive).ok();
    let wanted = Snapshot::take();
    add(&conf, "dead", &dead).ok();
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "alive", "ifname": "eth0"}]);
    Call::new("bridge").command("GC", &conf).run().ok();
    assert_eq!(Snapshot::take(), wanted);
    conf["cni.dev/valid-attachments"] = json!([]);
    Call::new("bridge").command("GC", &conf).run().ok();
    assert_eq!(Snapshot::take().rules, "", "no empty table either");
}

#[test]
fn a_node_may_swap_plugins_with_containers_on_it() {
    let reference = reference_dir();
    let bed = Bed::new();
    let conf = guarded(&bed);
    let theirs =
        |command: &str, conf: &Value, id: &str, pod: &Container| theirs(&reference, command, conf, id, pod);
    // What the reference leaves after its own ADD and DEL stays: table and base chain.
    let warm = Container::new();
    theirs("ADD", &conf, "w", &warm).ok();
    theirs("DEL", &conf, "w", &warm).ok();
    warm_up(&conf);
    let before = Snapshot::take();
    let pod = Container::new();
    let result = theirs("ADD", &conf, "c1", &pod).ok();
    check(&conf, &result, "c1", &pod).ok();
    del(&conf, "c1", &pod).ok();
    assert_eq!(Snapshot::take(), before, "theirs, deleted by ours");
}
