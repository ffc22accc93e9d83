//! DEL and GC leave nothing of an attachment, whatever is gone already and whoever made it.

use crate::bed::{Bed, IFB, both, conf, state};
use cni_harness::{Answer, Call, reference_dir};
use serde_json::{Value, json};

fn ifbs(bed: &Bed) -> Vec<String> {
    let found = bed.host.ip("-br link show type ifb");
    found.lines().filter_map(|line| line.split_whitespace().next()).map(ToOwned::to_owned).collect()
}

#[test]
fn del_leaves_nothing_whatever_is_gone() {
    type How = fn(Call) -> Call;
    let hows: [(&str, How); 3] = [
        ("all given", |call| call),
        ("no namespace", |call| call.without("CNI_NETNS")),
        ("a dead namespace", |call| call.env("CNI_NETNS", "/run/netns/gone")),
    ];
    for (how, change) in hows {
        for prev in [true, false] {
            for (veth_is_there, given) in
                [(true, both()), (false, both()), (true, conf(&json!({}))), (false, conf(&json!({})))]
            {
                let bed = Bed::new();
                let before = state();
                bed.add(&both()).ok();
                let given = if prev { bed.with_prev(&given) } else { given };
                if !veth_is_there {
                    bed.host.ip("link del vh0");
                }
                for _ in 0..2 {
                    change(bed.call("DEL", &given)).run().ok();
                    assert!(ifbs(&bed).is_empty(), "{how}, {prev}, {given}");
                }
                if veth_is_there {
                    // These go with the veth, which is the next plugin's to delete.
                    bed.host.run("tc", &["qdisc", "del", "dev", "vh0", "root"]);
                    bed.host.run("tc", &["qdisc", "del", "dev", "vh0", "ingress"]);
                    assert_eq!(state(), before, "{how}, {prev}");
                }
            }
        }
    }
}

#[test]
fn del_takes_no_link_of_anybody_elses() {
    let bed = Bed::new();
    bed.host.ip(&format!("link add {IFB} type bridge"));
    bed.del().ok();
    bed.host.ip(&format!("link show {IFB}"));
    bed.host.ip(&format!("link del {IFB}"));
    bed.host.ip(&format!("link add {IFB} type ifb"));
    bed.host.ip(&format!("link set {IFB} alias cni/net1/c1/net1"));
    bed.del().ok();
    assert_eq!(ifbs(&bed), [IFB]);
    // An ADD takes the other name then.
    bed.add(&both()).ok();
    bed.check(&both()).ok();
    assert_eq!(ifbs(&bed).len(), 2);
    bed.del().ok();
    assert_eq!(ifbs(&bed), [IFB]);
}

#[test]
fn a_config_that_has_been_broken_since_does_not_keep_a_del() {
    let bed = Bed::new();
    bed.add(&both()).ok();
    bed.call("DEL", &conf(&json!({"ingressRate": -1, "latency": "x"}))).run().ok();
    assert!(ifbs(&bed).is_empty());
}

#[test]
fn gc_frees_the_dead_only() {
    let bed = Bed::new();
    let of = |network: &str, id: &str, ifname: &str| {
        let mut conf = bed.with_prev(&both());
        conf["name"] = json!(network);
        let vh = format!("{network}{id}{ifname}");
        bed.veth(&vh, ifname);
        bed.call("ADD", &bed.with_prev_of(&conf, &vh, ifname)).attachment(id, ifname).run().ok();
    };
    of("net1", "kept", "a0");
    of("net1", "dead", "a1");
    of("net1", "kept", "a2");
    of("net2", "dead", "a3");
    bed.host.ip("link add bwp000000000000 type ifb");
    let gc = |list: Value| {
        let mut conf = conf(&json!({}));
        conf["cni.dev/valid-attachments"] = list;
        bed.call("GC", &conf).run().ok();
        let aliases = bed.host.ip("-d link show type ifb");
        let mut found: Vec<String> = aliases
            .lines()
            .filter_map(|line| line.trim().strip_prefix("alias cni/"))
            .map(ToOwned::to_owned)
            .collect();
        found.sort();
        (found, ifbs(&bed).contains(&"bwp000000000000".to_owned()))
    };
    let names = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let valid = json!([{"containerID": "kept", "ifname": "a0"}, {"containerID": "kept", "ifname": "a2"}]);
    assert_eq!(gc(valid), (names(&["net1/kept/a0", "net1/kept/a2", "net2/dead/a3"]), true));
    // A list, though an interface short.
    assert_eq!(
        gc(json!([{"containerID": "kept", "ifname": "a0"}])),
        (names(&["net1/kept/a0", "net2/dead/a3"]), true)
    );
    assert_eq!(gc(json!([])), (names(&["net2/dead/a3"]), true));
}

/// More of them than are deleted at once. Who puts links into groups has them as they were.
#[test]
fn many_dead_go_together_and_nobody_else() {
    let bed = Bed::new();
    let ifb = |name: &str, network: &str| {
        bed.host.ip(&format!("link add {name} type ifb"));
        bed.host.ip(&format!("link set {name} alias cni/{network}/{name}/eth0"));
    };
    for nth in 0..70 {
        ifb(&format!("dead{nth}"), "net1");
    }
    bed.host.ip("link set dead7 group 7");
    ifb("kept", "net1");
    ifb("other", "net2");
    bed.host.ip("link set other group 7");
    let mut conf = conf(&json!({}));
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "kept", "ifname": "eth0"}]);
    bed.call("GC", &conf).run().ok();
    assert_eq!(ifbs(&bed), ["kept", "other"]);
    assert!(bed.host.ip("link show group 7").contains("other:"));
    assert!(bed.host.ip("link show group default").contains("kept:"));
}

fn theirs(bed: &Bed, command: &str) -> Answer {
    let mut conf = bed.with_prev(&both());
    conf["cniVersion"] = json!("1.0.0");
    conf["prevResult"]["cniVersion"] = json!("1.0.0");
    Call::of(&reference_dir(), "bandwidth")
        .command(command, &conf)
        .attachment("c1", "eth0")
        .netns(&bed.pod)
        .run()
}

#[test]
fn a_node_may_swap_plugins_with_containers_on_it() {
    let bed = Bed::new();
    let before = state().0;
    theirs(&bed, "ADD").ok();
    bed.check(&both()).ok();
    // Theirs leaves a second action that no packet gets to.
    let made = cni_harness::snapshot::shaping();
    bed.add(&both()).ok();
    assert_eq!(cni_harness::snapshot::shaping(), made);
    bed.del().ok();
    assert_eq!(state().0, before);

    let bed = Bed::new();
    let before = state().0;
    bed.add(&both()).ok();
    theirs(&bed, "CHECK").ok();
    theirs(&bed, "DEL").ok();
    assert_eq!(state().0, before);
    bed.del().ok();
    bed.add(&both()).ok();
    bed.check(&both()).ok();
}
