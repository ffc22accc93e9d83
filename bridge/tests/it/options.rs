//! Each option does what it says.

use crate::bed::{Bed, add, call, check, del, traced_add, warm_up};
use cni_harness::{Container, Snapshot};
use serde_json::{Value, json};

#[test]
fn a_default_route_of_ipam_goes_with_is_default_gateway() {
    let bed = Bed::new();
    let mut ipam = bed.ipam(&json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]));
    ipam["routes"] = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "192.168.0.0/16"}]);
    let conf = bed.conf(&json!({"isDefaultGateway": true, "ipam": ipam}));
    let pod = Container::new();
    let result = add(&conf, "c1", &pod).ok();
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "192.168.0.0/16"}]));
    let routes = pod.ip("route");
    assert!(routes.contains("default via 10.1.0.1 dev eth0"), "{routes}");
    assert!(routes.contains("192.168.0.0/16 via 10.1.0.1 dev eth0"), "{routes}");
    assert!(pod.ip("-6 route").contains("default via fd00:1::1 dev eth0"));
    check(&conf, &result, "c1", &pod).ok();
}

#[test]
fn routes_have_their_mtu_advmss_priority_table_and_scope() {
    let bed = Bed::new();
    let mut ipam = bed.ipam(&json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]));
    ipam["routes"] = json!([
        {"dst": "10.50.0.0/16", "mtu": 1300, "advmss": 1200, "priority": 77},
        {"dst": "10.51.0.0/16", "table": 1234, "gw": "10.1.0.9"},
        {"dst": "10.52.0.0/16", "table": 0},
        {"dst": "10.1.0.77/32", "scope": 253},
        {"dst": "fd50::/32", "mtu": 1400, "priority": 5, "table": 99}
    ]);
    let conf = bed.conf(&json!({"ipam": ipam}));
    let pod = Container::new();
    let result = add(&conf, "c1", &pod).ok();
    assert_eq!(
        result["routes"][0],
        json!({"dst": "10.50.0.0/16", "mtu": 1300, "advmss": 1200, "priority": 77})
    );
    let main = pod.ip("route");
    assert!(main.contains("10.50.0.0/16 via 10.1.0.1 dev eth0 metric 77 mtu 1300 advmss 1200"), "{main}");
    assert!(main.contains("10.52.0.0/16 via 10.1.0.1"), "{main}");
    assert!(main.contains("10.1.0.77 dev eth0 scope link"), "{main}");
    assert!(pod.ip("route show table 1234").contains("10.51.0.0/16 via 10.1.0.9"));
    assert!(pod.ip("-6 route show table 99").contains("fd50::/32 via fd00:1::1 dev eth0 metric 5 mtu 1400"));
    check(&conf, &result, "c1", &pod).ok();

    pod.ip("route change 10.50.0.0/16 via 10.1.0.1 dev eth0 metric 77 mtu 1301 advmss 1200");
    let why = check(&conf, &result, "c1", &pod).fails(100);
    assert!(why.contains("expected 10.50.0.0/16 mtu 1300") && why.contains("mtu 1301"), "{why}");
}

#[test]
fn mtu_is_set_on_a_new_bridge_and_both_ends() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"mtu": 1400}));
    let pod = Container::new();
    let result = add(&conf, "c1", &pod).ok();
    for i in 0..3 {
        assert_eq!(result["interfaces"][i]["mtu"], 1400, "{result}");
    }
    assert!(pod.ip("link show eth0").contains("mtu 1400"));
}

#[test]
fn hairpin_isolation_and_promiscuous_mode_are_set_and_checked() {
    for (key, on_port, unset) in [
        ("hairpinMode", "hairpin true", Some("hairpin off")),
        ("portIsolation", "isolated true", Some("isolated off")),
        ("promiscMode", "", None),
    ] {
        let bed = Bed::new();
        let conf = bed.conf(&json!({key: true}));
        let pod = Container::new();
        let result = add(&conf, "c1", &pod).ok();
        let veth = result["interfaces"][1]["name"].as_str().unwrap().to_owned();
        let links = Snapshot::take().links;
        assert!(links[&veth].contains(on_port), "{key}: {links:?}");
        assert_eq!(links["br1"].contains("promisc true"), key == "promiscMode", "{key}: {links:?}");
        check(&conf, &result, "c1", &pod).ok();
        match unset {
            Some(words) => bed.host.ip(&format!("link set {veth} type bridge_slave {words}")),
            None => bed.host.ip("link set br1 promisc off"),
        };
        check(&conf, &result, "c1", &pod).fails(100);
        del(&conf, "c1", &pod).ok();
    }
    let bed = Bed::new();
    let both = bed.conf(&json!({"hairpinMode": true, "promiscMode": true}));
    let why = add(&both, "c1", &Container::new()).fails(7);
    assert!(why.contains("cannot set hairpin mode and promiscuous mode at the same time"), "{why}");
}

#[test]
fn isolated_ports_do_not_reach_each_other() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"portIsolation": true}));
    let pods = [Container::new(), Container::new()];
    add(&conf, "c1", &pods[0]).ok();
    let other = add(&conf, "c2", &pods[1]).ok();
    let address = other["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap();
    assert!(pods[0].pings("10.1.0.1"));
    assert!(!pods[0].pings(address));
}

#[test]
fn the_last_of_three_macs_wins() {
    let bed = Bed::new();
    let (by_args, in_args, by_runtime) = ("02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03");
    let all = json!({"args": {"cni": {"mac": in_args}}, "runtimeConfig": {"mac": by_runtime}});
    for (extra, want) in [
        (json!({}), by_args),
        (json!({"args": {"cni": {"mac": in_args}}}), in_args),
        (json!({"args": {"cni": {"mac": in_args}}, "runtimeConfig": {"mac": ""}}), in_args),
        (all, by_runtime),
    ] {
        let conf = bed.conf(&extra);
        let pod = Container::new();
        let args = format!("IgnoreUnknown=1;K8S_POD_NAME=x;MAC={by_args}");
        let result = call("ADD", &conf, "c1", &pod).env("CNI_ARGS", args).run().ok();
        assert_eq!(result["interfaces"][2]["mac"], want);
        assert!(pod.ip("link show eth0").contains(want));
        del(&conf, "c1", &pod).ok();
    }
    for (mac, code) in [("zz", 7), ("01:00:00:00:00:01", 7), ("00:00:00:00:00:00", 7)] {
        let conf = bed.conf(&json!({"runtimeConfig": {"mac": mac}}));
        let why = add(&conf, "c1", &Container::new()).fails(code);
        assert!(why.contains("runtimeConfig.mac") && why.contains(mac), "{why}");
    }
}

#[test]
fn a_disabled_interface_stays_down_and_has_no_ipam() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"disableContainerInterface": true, "ipam": null}));
    let pod = Container::new();
    let result = add(&conf, "c1", &pod).ok();
    assert!(pod.ip("link show eth0").contains("state DOWN"));
    check(&conf, &result, "c1", &pod).ok();
    del(&conf, "c1", &pod).ok();
    let why = add(&bed.conf(&json!({"disableContainerInterface": true})), "c1", &pod).fails(7);
    assert!(why.contains("cannot use IPAM when DisableContainerInterface flag is set"), "{why}");
}

#[test]
fn duplicate_address_detection_is_waited_for_and_heard() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"enabledad": true}));
    let pod = Container::new();
    add(&conf, "c1", &pod).ok();
    let addresses = pod.ip("-6 addr show eth0");
    assert!(!addresses.contains("tentative") && !addresses.contains("nodad"), "{addresses}");
    del(&conf, "c1", &pod).ok();

    // Somebody on the bridge already has the next address.
    bed.host.ip("link add squatter type veth peer name on-bridge");
    bed.host.ip("link set on-bridge master br1 up");
    bed.host.ip("link set squatter up");
    bed.host.ip("addr add fd00:1::3/64 dev squatter nodad");
    let (before, leases) = (Snapshot::take(), bed.leases());
    let why = add(&conf, "c2", &pod).fails(5);
    assert!(why.contains("duplicate address") && why.contains("fd00:1::3"), "{why}");
    assert_eq!((Snapshot::take(), bed.leases()), (before, leases));
}

#[test]
fn without_dad_addresses_work_at_once() {
    let bed = Bed::new();
    let pod = Container::new();
    add(&bed.conf(&json!({})), "c1", &pod).ok();
    let addresses = pod.ip("-6 addr show eth0 scope global");
    assert!(addresses.contains("fd00:1::2/64") && !addresses.contains("tentative"), "{addresses}");
    assert!(bed.host.ip("-6 addr show br1 scope global").contains("fd00:1::1/64"));
    // The kernel asks for neighbours of other machines' packets from the bridge's link-local address.
    let addresses = bed.host.ip("-6 addr show br1 scope link");
    assert!(addresses.contains("fe80::") && !addresses.contains("tentative"), "{addresses}");
}

#[test]
fn another_address_on_the_bridge_is_named_or_replaced() {
    let bed = Bed::new();
    bed.host.ip("link add br1 type bridge");
    bed.host.ip("addr add 10.9.0.1/24 dev br1");
    let before = Snapshot::take();
    let why = add(&bed.conf(&json!({"promiscMode": true})), "c1", &Container::new()).fails(7);
    assert!(why.contains("already has an IP address different from 10.1.0.1/24"), "{why}");
    assert!(why.contains("10.9.0.1/24") && why.contains("forceAddress"), "{why}");
    assert_eq!(Snapshot::take(), before, "down and not promiscuous, as it was");
    assert!(bed.leases().is_empty());

    let pod = Container::new();
    add(&bed.conf(&json!({"forceAddress": true})), "c1", &pod).ok();
    let addresses = bed.host.ip("addr show br1");
    assert!(addresses.contains("10.1.0.1/24") && !addresses.contains("10.9.0.1"), "{addresses}");
}

#[test]
fn a_wanted_address_behind_a_foreign_one_is_found() {
    let bed = Bed::new();
    bed.host.ip("link add br1 type bridge");
    bed.host.ip("addr add 10.9.0.1/24 dev br1");
    bed.host.ip("addr add 10.1.0.1/24 dev br1");
    add(&bed.conf(&json!({})), "c1", &Container::new()).ok();
}

#[test]
fn a_bridge_that_lost_its_last_port_works_at_the_first_try() {
    let bed = Bed::new();
    // Made by others, it has the address of its ports, and none when the last is gone.
    bed.host.ip("link add br1 type bridge");
    bed.host.ip("link add port type veth peer name other");
    bed.host.ip("link set port master br1");
    bed.host.ip("link del port");
    assert!(bed.host.ip("link show br1").contains("00:00:00:00:00:00"));
    let pod = Container::new();
    let result = add(&bed.conf(&json!({})), "c1", &pod).ok();
    let mac = result["interfaces"][0]["mac"].as_str().unwrap().to_owned();
    assert_ne!(mac, "00:00:00:00:00:00");
    add(&bed.conf(&json!({})), "c2", &Container::new()).ok();
    assert!(
        bed.host.ip("link show br1").contains(&mac),
        "a gateway's address does not change with its ports"
    );
    assert!(pod.pings("10.1.0.1"));
}

#[test]
fn dns_of_the_config_goes_before_ipams() {
    let bed = Bed::new();
    let resolv = tempfile::NamedTempFile::new().unwrap();
    cni_harness::write_file(resolv.path(), "nameserver 9.9.9.9\nsearch ipam.example\n", 0o600);
    let mut ipam = bed.ipam(&json!([[{"subnet": "10.1.0.0/24"}]]));
    ipam["resolvConf"] = json!(resolv.path());
    for (dns, want) in [
        (Value::Null, json!({"nameservers": ["9.9.9.9"], "search": ["ipam.example"]})),
        (json!({}), json!({"nameservers": ["9.9.9.9"], "search": ["ipam.example"]})),
        (json!({"nameservers": ["1.1.1.1"]}), json!({"nameservers": ["1.1.1.1"]})),
        (json!({"domain": "d"}), json!({"domain": "d"})),
        (json!({"search": []}), Value::Null),
    ] {
        let conf = bed.conf(&json!({"ipam": ipam, "dns": dns}));
        let pod = Container::new();
        assert_eq!(add(&conf, "c1", &pod).ok()["dns"], want, "{dns}");
        del(&conf, "c1", &pod).ok();
    }
}

#[test]
fn ipv4_works_where_ipv6_is_switched_off() {
    let bed = Bed::new();
    cni_harness::write_file("/proc/sys/net/ipv6/conf/all/disable_ipv6".as_ref(), "1", 0o644);
    let pod = Container::new();
    let conf = bed.conf(&json!({"ipam": bed.ipam(&json!([[{"subnet": "10.1.0.0/24"}]])), "ipMasq": true}));
    let result = add(&conf, "c1", &pod).ok();
    check(&conf, &result, "c1", &pod).ok();
    assert!(pod.pings("10.1.0.1"));
}

#[test]
fn ipv6_is_switched_on_in_a_container_that_has_it_off() {
    let bed = Bed::new();
    let pod = Container::new();
    pod.try_run(
        "sysctl",
        &["-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"],
    );
    add(&bed.conf(&json!({})), "c1", &pod).ok();
    assert!(pod.pings("fd00:1::1"));
}

#[test]
fn vlans_are_refused_by_their_key_where_the_kernel_has_none() {
    let bed = Bed::new();
    bed.host.ip("link add probe type bridge");
    let kernel_has_them = bed.host.ip("-d link show probe").contains("vlan_default_pvid");
    let before = Snapshot::take();
    for (key, value) in [("vlan", json!(5)), ("vlanTrunk", json!([{"id": 5}]))] {
        let (conf, pod) = (bed.conf(&json!({key: value})), Container::new());
        if kernel_has_them {
            add(&conf, "c1", &pod).ok();
            del(&conf, "c1", &pod).ok();
        } else {
            let why = add(&conf, "c1", &pod).fails(2);
            assert!(why.contains(key) && why.contains('5') && why.contains("VLAN_FILTERING"), "{why}");
            assert_eq!(Snapshot::take(), before, "the new bridge is gone");
            assert!(bed.leases().is_empty());
        }
    }
    // What asks for none works anywhere.
    let nothing = json!({"vlan": 0, "vlanTrunk": [], "preserveDefaultVlan": true});
    let (conf, pod) = (bed.conf(&nothing), Container::new());
    let result = add(&conf, "c1", &pod).ok();
    check(&conf, &result, "c1", &pod).ok();
}

#[test]
fn an_existing_bridge_that_is_right_is_not_written_to() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({}));
    warm_up(&conf);
    let trace = traced_add(&conf, &Container::new(), "sendto,sendmsg,write,pwrite64");
    let writes = trace.lines().filter(|line| line.contains("nlmsg_type=RTM_NEWLINK"));
    // One send makes the veth pair and marks its port. (What goes on inside the container strace can't name.)
    assert_eq!(writes.clone().count(), 1, "{}", writes.collect::<Vec<_>>().join("\n"));
    assert!(!trace.contains("nlmsg_type=RTM_NEWADDR"), "{trace}");
}

#[test]
fn an_automatic_mtu_is_the_smallest_of_the_links_to_elsewhere() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"mtu": "auto"}));
    let mtu = |id: &str, conf: &serde_json::Value| {
        let pod = Container::new();
        let result = add(conf, id, &pod).ok();
        assert!(pod.ip("link show eth0").contains(&format!("mtu {}", result["interfaces"][2]["mtu"])));
        result["interfaces"][2]["mtu"].clone()
    };
    assert_eq!(mtu("c1", &conf), 1500, "no link to elsewhere: the kernel's default");
    // Veths and ifbs lead to containers; what is on top of one leads elsewhere.
    bed.host.ip("link add va mtu 1200 type veth peer name vb");
    bed.host.ip("link add ifb7 mtu 1250 type ifb");
    bed.host.ip("link add mv7 link vb mtu 1400 type macvlan mode bridge");
    bed.host.ip("link add mv8 link vb mtu 1300 type macvlan mode bridge");
    for up in ["va", "vb", "ifb7", "mv7"] {
        bed.host.ip(&format!("link set {up} up"));
    }
    let fresh = bed.conf(&json!({"mtu": "auto", "bridge": "br9", "name": "net9",
                                 "ipam": bed.ipam(&json!([[{"subnet": "10.9.0.0/24"}]]))}));
    assert_eq!(mtu("c2", &fresh), 1400, "mv8 is down");
    for wrong in [json!("big"), json!(1.5), json!([])] {
        let why = add(&bed.conf(&json!({"mtu": wrong})), "c3", &Container::new()).fails(6);
        assert!(why.contains("mtu") && why.contains("\"auto\""), "{why}");
    }
}
