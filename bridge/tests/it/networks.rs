//! A container on several networks, each of which may have what the others have.

use crate::bed::{Bed, add, check, with_prev};
use cni_harness::{Answer, Call, Container, Snapshot};
use serde_json::{Value, json};

/// The second network; the first is [`Bed::conf`]'s.
fn second(bed: &Bed, extra: &Value) -> Value {
    let mut conf = bed.conf(&json!({"name": "net2", "bridge": "br2",
        "ipam": bed.ipam(&json!([[{"subnet": "10.2.0.0/24"}], [{"subnet": "fd00:2::/64"}]]))}));
    crate::bed::merge(&mut conf, extra);
    conf
}

fn second_call(command: &str, conf: &Value, pod: &Container) -> Answer {
    Call::new("bridge").command(command, conf).attachment("c1", "eth1").netns(pod).run()
}

#[test]
fn each_has_its_default_routes_and_takes_them_along() {
    for kind in crate::kinds() {
        for first_leaves in [true, false] {
            let bed = Bed::new();
            let mut extra = kind.clone();
            extra["isDefaultGateway"] = json!(true);
            let (one, two) = (bed.conf(&extra), second(&bed, &extra));
            let pod = Container::new();
            let first = add(&one, "c1", &pod).ok();
            let other = second_call("ADD", &two, &pod).ok();
            let v4 = pod.ip("-4 route show default");
            let gateways: Vec<&str> = v4.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
            assert_eq!(gateways, ["10.2.0.1", "10.1.0.1"], "the later is in use: {v4}");
            let v6 = pod.ip("-6 route show default");
            assert!(v6.contains("fd00:1::1") && v6.contains("fd00:2::1"), "{v6}");
            check(&one, &first, "c1", &pod).ok();
            second_call("CHECK", &with_prev(&two, &other), &pod).ok();

            // What the one that leaves had is missed by its CHECK, not by the other's.
            if first_leaves {
                Call::new("bridge").command("DEL", &one).attachment("c1", "eth0").netns(&pod).run().ok();
                second_call("CHECK", &with_prev(&two, &other), &pod).ok();
            } else {
                second_call("DEL", &two, &pod).ok();
                check(&one, &first, "c1", &pod).ok();
            }
            let (stays, gone) = if first_leaves { ("2", "1") } else { ("1", "2") };
            let left = pod.ip("-4 route show default") + &pod.ip("-6 route show default");
            assert!(left.contains(&format!("10.{stays}.0.1")) && left.contains(&format!("fd00:{stays}::1")));
            assert!(!left.contains(&format!("10.{gone}.0.1")) && !left.contains(&format!("fd00:{gone}::1")));
        }
    }
}

#[test]
fn two_interfaces_on_one_network_take_nothing_of_each_others() {
    for kind in crate::kinds() {
        for first_leaves in [true, false] {
            let bed = Bed::new();
            let conf = bed.conf(&kind);
            crate::bed::warm_up(&conf);
            let (before, pod) = (Snapshot::take(), Container::new());
            let first = add(&conf, "c1", &pod).ok();
            let other = second_call("ADD", &conf, &pod).ok();
            let (of_first, of_other) = (with_prev(&conf, &first), with_prev(&conf, &other));
            let one = |verb: &str, conf: &Value| {
                Call::new("bridge").command(verb, conf).attachment("c1", "eth0").netns(&pod).run().ok();
            };
            one("CHECK", &of_first);
            second_call("CHECK", &of_other, &pod).ok();
            if first_leaves {
                one("DEL", &of_first);
                second_call("CHECK", &of_other, &pod).ok();
                second_call("DEL", &conf, &pod).ok();
            } else {
                second_call("DEL", &of_other, &pod).ok();
                one("CHECK", &of_first);
                one("DEL", &conf);
            }
            assert_eq!(Snapshot::take(), before, "{kind}, the first leaves first: {first_leaves}");
            assert!(bed.leases().is_empty());
        }
    }
}

#[test]
fn a_default_route_of_another_network_does_not_pass_for_ours() {
    for (family, gateway) in [("-4", "10.1.0.1"), ("-6", "fd00:1::1")] {
        let bed = Bed::new();
        let extra = json!({"isDefaultGateway": true});
        let (one, two) = (bed.conf(&extra), second(&bed, &extra));
        let pod = Container::new();
        let first = add(&one, "c1", &pod).ok();
        let other = second_call("ADD", &two, &pod).ok();
        pod.ip(&format!("{family} route del default via {gateway}"));
        let why = check(&one, &first, "c1", &pod).fails(100);
        assert!(why.contains("routes in the container"), "{why}");
        second_call("CHECK", &with_prev(&two, &other), &pod).ok();
    }
}

#[test]
fn gc_keeps_the_network_that_stays() {
    for kind in crate::kinds() {
        let bed = Bed::new();
        let (one, two) = (bed.conf(&kind), second(&bed, &kind));
        let pod = Container::new();
        let first = add(&one, "c1", &pod).ok();
        second_call("ADD", &two, &pod).ok();
        let gc = |conf: &Value, valid: Value| {
            let mut conf = conf.clone();
            conf["cni.dev/valid-attachments"] = valid;
            Call::new("bridge").command("GC", &conf).run().ok();
        };
        gc(&one, json!([{"containerID": "c1", "ifname": "eth0"}]));
        gc(&two, json!([]));
        check(&one, &first, "c1", &pod).ok();
        assert!(!pod.ip("link").contains("eth1"), "{kind}");
        assert_eq!(bed.leases().len(), 2, "{:?}", bed.leases());
    }
}

#[test]
fn routes_that_a_config_may_have_beside_each_other() {
    let bed = Bed::new();
    for (routes, wanted) in [
        // To the network's own subnet by a gateway, before the kernel's own.
        (
            json!([{"dst": "10.1.0.0/24", "gw": "10.1.0.9"}]),
            &["10.1.0.0/24 via 10.1.0.9", "10.1.0.0/24 dev eth0 proto kernel"][..],
        ),
        // Two gateways to one destination: the later is in use.
        (
            json!([{"dst": "10.5.0.0/16"}, {"dst": "10.5.0.0/16", "gw": "10.1.0.9"}]),
            &["10.5.0.0/16 via 10.1.0.9", "10.5.0.0/16 via 10.1.0.1"],
        ),
        (json!([{"dst": "fd05::/64"}, {"dst": "fd05::/64", "gw": "fd00:1::9"}]), &["fd00:1::1", "fd00:1::9"]),
        // The very same one, in the same words and in others.
        (
            json!([{"dst": "10.5.0.0/16"}, {"dst": "10.5.0.0/16"}, {"dst": "10.5.0.0/16", "gw": "10.1.0.1"}]),
            &["10.5.0.0/16 via 10.1.0.1"],
        ),
        (
            json!([{"dst": "fd05::/64"}, {"dst": "fd05::/64", "gw": "fd00:1::1"}]),
            &["fd05::/64 via fd00:1::1"],
        ),
    ] {
        let mut conf = bed.conf(&json!({}));
        conf["ipam"]["routes"] = routes.clone();
        let pod = Container::new();
        let before = Snapshot::inside(pod.path().as_ref());
        let result = add(&conf, "c1", &pod).ok();
        let there = pod.ip("-4 route") + &pod.ip("-6 route");
        let found: Vec<usize> = wanted.iter().filter_map(|line| there.find(line)).collect();
        assert!(
            found.len() == wanted.len() && found.is_sorted(),
            "{routes}: want {wanted:?}, found\n{there}"
        );
        let repeated = wanted[0];
        assert_eq!(there.matches(repeated).count(), 1, "{routes}: {there}");
        check(&conf, &result, "c1", &pod).ok();
        crate::bed::del(&conf, "c1", &pod).ok();
        assert_eq!(Snapshot::inside(pod.path().as_ref()), before);
    }
}
