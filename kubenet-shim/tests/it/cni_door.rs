//! kubenet as a CNI plugin.

use crate::bed::{Bed, INSIDE, NODE, OUTSIDE, add, call, del, ip};
use cni_common::kernel::netns::Netns;
use cni_harness::traffic::{Transport, ask, serve};
use cni_harness::{Call, Container, Snapshot, reference_dir};
use serde_json::{Value, json};
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const BOTH: &str = "10.1.0.0/24,fd00:1::/64";

fn with_result(conf: &Value, result: &Value) -> Value {
    let mut conf = conf.clone();
    conf["prevResult"] = result.clone();
    conf
}

#[test]
fn a_pod_lives_and_dies() {
    let bed = Bed::new();
    // A link to elsewhere: veths lead to containers and do not count.
    bed.host.ip("link add mv0 link up0 mtu 1400 type macvlan mode bridge");
    bed.host.ip("link set mv0 up");
    let conf = bed.conf(&json!({"podCIDR": BOTH}));
    let pod = Container::new();
    let result = add(&conf, "c1", &pod).ok();
    assert_eq!((ip(&result, 0).as_str(), ip(&result, 1).as_str()), ("10.1.0.2", "fd00:1::2"));
    let names: Vec<&str> =
        result["interfaces"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!((names[0], names[2], names.len()), ("cbr0", "eth0", 3));
    assert!(pod.ip("link show lo").contains("UP"));
    // The smallest MTU of the node's own links, and the hairpin mode that is the default.
    assert!(pod.ip("link show eth0").contains("mtu 1400"));
    let port = bed.host.ip(&format!("-d link show {}", names[1]));
    assert!(port.contains("hairpin on") && port.contains("master cbr0"), "{port}");
    let addresses = bed.host.ip("addr show cbr0");
    assert!(addresses.contains("10.1.0.1/24") && addresses.contains("fd00:1::1/64"), "{addresses}");
    // What others send to a pod by IPv6 passes from the first moment.
    assert!(addresses.contains("fe80::") && !addresses.contains("tentative"), "{addresses}");
    let accept_ra = std::fs::read_to_string("/proc/sys/net/ipv6/conf/cbr0/accept_ra").unwrap();
    assert_eq!(accept_ra.trim(), "0", "no pod is the node's router");
    call("CHECK", &with_result(&conf, &result), "c1", &pod).run().ok();
    call("STATUS", &conf, "", &pod).run().ok();
    // Nothing of the config is needed to take it down.
    let bare = bed.conf(&json!({}));
    for _ in 0..2 {
        del(&bare, "c1", &pod).ok();
        let left = bed.remains();
        let stays = ["cbr0 ", "lo ", "up0 ", "mv0 "];
        assert!(left.iter().all(|line| stays.iter().any(|stays| line.starts_with(stays))), "{left:?}");
    }
}

#[test]
fn the_range_comes_from_the_config_the_runtime_or_the_node() {
    let bed = Bed::new();
    let pod = Container::new();
    let first = |conf: &Value, id: &str| {
        let result = add(conf, id, &pod).ok();
        del(conf, id, &pod).ok();
        ip(&result, 0)
    };
    let ranges = json!({"ipRanges": [[{"subnet": "10.2.0.0/24"}], [{"subnet": "fd00:2::/64"}]]});
    let why = add(&bed.conf(&json!({})), "c1", &pod).fails(11);
    assert!(why.contains("kubenet cannot SetUpPod: kubenet does not have netConfig. This is most likely due to lack of PodCIDR"), "{why}");
    assert!(why.contains("--allocate-node-cidrs"), "{why}");
    let why = call("STATUS", &bed.conf(&json!({})), "", &pod).run().fails(50);
    assert!(why.contains("kubenet does not have netConfig"), "{why}");
    std::fs::create_dir_all(bed.path("state")).unwrap();
    cni_harness::write_file(&bed.path("state/pod-cidr"), "10.3.0.0/24\n", 0o600);
    assert_eq!(first(&bed.conf(&json!({})), "c1"), "10.3.0.2");
    call("STATUS", &bed.conf(&json!({})), "", &pod).run().ok();
    let empty = json!({"runtimeConfig": {"ipRanges": [[{"subnet": ""}]]}});
    assert_eq!(first(&bed.conf(&empty), "c2"), "10.3.0.3");
    bed.host.ip("link del cbr0");
    assert_eq!(first(&bed.conf(&json!({"runtimeConfig": ranges})), "c3"), "10.2.0.2");
    bed.host.ip("link del cbr0");
    assert_eq!(
        first(&bed.conf(&json!({"podCIDR": ["10.1.0.0/24"], "runtimeConfig": ranges})), "c4"),
        "10.1.0.2"
    );
}

#[test]
fn pods_leave_with_the_nodes_address_but_for_the_networks_that_know_them() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"podCIDR": BOTH}));
    let pod = Container::new();
    let result = add(&conf, "c1", &pod).ok();
    serve(Some(&bed.outside), Transport::Tcp, 80, "outside");
    let seen_at = |to: &str| ask(Some(&pod), Transport::Tcp, to.parse().unwrap()).unwrap().0.to_string();
    assert_eq!(seen_at(&format!("{OUTSIDE}:80")), NODE);
    assert_eq!(seen_at("[2001:db8::9]:80"), "2001:db8::1");
    assert_eq!(seen_at(&format!("{INSIDE}:80")), ip(&result, 0));
    // A flush, a foreign rule, a change of mind: the next pod puts it right, and nothing multiplies.
    let rules = Snapshot::take().rules;
    bed.host.run("nft", &["flush", "ruleset"]);
    let other = Container::new();
    add(&conf, "c2", &other).ok();
    assert_eq!(Snapshot::take().rules, rules);
    let open = bed.conf(&json!({"podCIDR": BOTH, "nonMasqueradeCIDRs": ["0.0.0.0/0", "2001:db8::/32"]}));
    let third = Container::new();
    add(&open, "c3", &third).ok();
    let rules = Snapshot::take().rules;
    assert!(!rules.contains("ip saddr") && rules.contains("ip6 daddr != 2001:db8::/32"), "{rules}");
}

#[test]
fn host_ports_and_limits_are_the_other_plugins_work() {
    let bed = Bed::new();
    let mut conf = bed.conf(&json!({"podCIDR": BOTH}));
    conf["runtimeConfig"] = json!({
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 8_000_000, "egressRate": 8_000_000, "egressBurst": 8_000_000}});
    let pod = Container::new();
    let result = add(&conf, "c1", &pod).ok();
    serve(Some(&pod), Transport::Tcp, 80, "pod");
    for (from, to) in [(Some(&bed.outside), NODE), (None, "127.0.0.1"), (Some(&pod), NODE)] {
        let found = ask(from, Transport::Tcp, format!("{to}:8080").parse().unwrap());
        assert_eq!(found.unwrap().1, "pod", "from {to}");
    }
    assert_eq!(cni_harness::snapshot::shaping().iter().filter(|line| line.contains("rate 8Mbit")).count(), 2);
    call("CHECK", &with_result(&conf, &result), "c1", &pod).run().ok();
    // No runtime tells them again.
    del(&bed.conf(&json!({})), "c1", &pod).ok();
    let left = bed.remains();
    assert!(left.iter().all(|line| !line.contains("bwp") && !line.contains("c1")), "{left:?}");
}

/// A failed ADD is undone; the undo of a repeated one would be the end of a living pod.
#[test]
fn a_repeated_add_is_refused_and_the_pod_lives_on() {
    for plugins in [json!([]), json!([reference_dir()])] {
        let bed = Bed::new();
        let conf = bed.conf(&json!({"podCIDR": "10.1.0.0/24", "cniVersion": "1.0.0", "pluginDirs": plugins}));
        let pod = Container::new();
        add(&conf, "c1", &pod).ok();
        let before = bed.remains();
        for kept in [true, false] {
            if !kept && plugins != json!([]) {
                // The reference's bridge does not know a pod of its own again.
                continue;
            }
            if !kept {
                std::fs::remove_dir_all(bed.path("state/results")).unwrap();
            }
            let why = add(&conf, "c1", &pod).fails(101);
            assert!(why.contains("already"), "{why}");
            let without_results = |lines: Vec<String>| {
                lines.into_iter().filter(|line| !line.starts_with("kubenet-")).collect::<Vec<_>>()
            };
            assert_eq!(without_results(bed.remains()), without_results(before.clone()));
            assert!(pod.pings("10.1.0.1"));
        }
    }
}

#[test]
fn every_version() {
    let bed = Bed::new();
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let pod = Container::new();
        let conf = bed.conf(&json!({"podCIDR": "10.1.0.0/24", "cniVersion": version}));
        let result = add(&conf, "c1", &pod).ok();
        assert_eq!(result["cniVersion"], version);
        if version >= "0.4.0" {
            call("CHECK", &with_result(&conf, &result), "c1", &pod).run().ok();
        }
        del(&conf, "c1", &pod).ok();
    }
}

#[test]
fn gc_frees_what_no_attachment_owns() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"podCIDR": "10.1.0.0/24"}));
    let pods = [Container::new(), Container::new()];
    add(&conf, "kept", &pods[0]).ok();
    let before = bed.remains();
    add(&conf, "gone", &pods[1]).ok();
    let mut gc = conf.clone();
    gc["cni.dev/valid-attachments"] = json!([{"containerID": "kept", "ifname": "eth0"}]);
    call("GC", &gc, "", &pods[0]).run().ok();
    assert_eq!(bed.remains(), before);
}

/// As Multus attaches a second network; each has default routes of both families.
#[test]
fn a_pod_may_join_another_network() {
    for kubenet_leaves in [true, false] {
        let bed = Bed::new();
        let conf = bed.conf(&json!({"podCIDR": BOTH}));
        let second = json!({"cniVersion": "1.1.0", "name": "net2", "type": "bridge", "bridge": "br2",
            "isDefaultGateway": true,
            "ipam": {"type": "host-local", "dataDir": bed.path("leases"),
                     "ranges": [[{"subnet": "10.2.0.0/24"}], [{"subnet": "fd00:2::/64"}]]}});
        let pod = Container::new();
        let bridge = |verb: &str, conf: &Value| {
            Call::new("bridge").command(verb, conf).attachment("c1", "eth1").netns(&pod).run()
        };
        let result = add(&conf, "c1", &pod).ok();
        let other = bridge("ADD", &second).ok();
        call("CHECK", &with_result(&conf, &result), "c1", &pod).run().ok();
        bridge("CHECK", &with_result(&second, &other)).ok();
        let routes = || pod.ip("-4 route show default") + &pod.ip("-6 route show default");
        if kubenet_leaves {
            del(&conf, "c1", &pod).ok();
            bridge("CHECK", &with_result(&second, &other)).ok();
            assert!(routes().contains("10.2.0.1") && !routes().contains("10.1.0.1"), "{}", routes());
        } else {
            bridge("DEL", &second).ok();
            call("CHECK", &with_result(&conf, &result), "c1", &pod).run().ok();
            assert!(routes().contains("10.1.0.1") && !routes().contains("10.2.0.1"), "{}", routes());
        }
    }
}

#[test]
fn a_pod_that_lacks_a_plugin_is_refused_and_can_end() {
    let bed = Bed::new();
    let few = tempfile::tempdir().unwrap();
    for plugin in ["bridge", "host-local", "loopback"] {
        std::os::unix::fs::symlink(cni_harness::bin_dir().join(plugin), few.path().join(plugin)).unwrap();
    }
    let conf = bed.conf(&json!({"podCIDR": "10.1.0.0/24", "pluginDirs": [few.path()],
        "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}}));
    let (pod, before) = (Container::new(), bed.remains());
    let why = add(&conf, "c1", &pod).fails(7);
    assert!(why.contains("the pod has portMappings, which the plugin portmap makes"), "{why}");
    del(&conf, "c1", &pod).ok();
    assert_eq!(bed.remains(), before);
}

/// A node may have the reference's plugins: every one of kubenet's works with them.
#[test]
fn the_references_plugins_do_as_well() {
    let bed = Bed::new();
    let theirs = json!({"podCIDR": "10.1.0.0/24", "cniVersion": "1.0.0", "pluginDirs": [reference_dir()]});
    let mut conf = bed.conf(&theirs);
    conf["runtimeConfig"] = json!({
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"egressRate": 8_000_000, "egressBurst": 8_000_000}});
    let before = bed.remains();
    let (pod, other) = (Container::new(), Container::new());
    let result = add(&conf, "c1", &pod).ok();
    serve(Some(&pod), Transport::Tcp, 80, "pod");
    assert!(ask(Some(&bed.outside), Transport::Tcp, format!("{NODE}:8080").parse().unwrap()).is_some());
    // Their portmap's CHECK fails for want of IPv6 rules that it does not make.
    conf["runtimeConfig"]["portMappings"] = json!([]);
    call("CHECK", &with_result(&conf, &result), "c1", &pod).run().ok();
    // What is told at the end is not what ADD was told; their portmap's DEL needs that.
    let bare = json!({"pluginDirs": [reference_dir()], "cniVersion": "1.0.0",
                      "runtimeConfig": {"ipRanges": [[{"subnet": "10.1.0.0/24"}]]}});
    del(&bed.conf(&bare), "c1", &pod).ok();
    let without_bridge =
        || bed.remains().into_iter().filter(|line| !line.starts_with("cbr0 ")).collect::<Vec<_>>();
    assert_eq!(without_bridge(), before);
    assert!(!Snapshot::take().rules.contains("8080"));
    // Their GC is no more than our knowledge of who was there.
    conf["runtimeConfig"] = json!({});
    add(&conf, "gone", &other).ok();
    let mut gc = bed.conf(&json!({"podCIDR": "10.1.0.0/24", "pluginDirs": [reference_dir()]}));
    gc["cni.dev/valid-attachments"] = json!([]);
    call("GC", &gc, "", &pod).run().ok();
    assert_eq!(without_bridge(), before);
}

#[test]
fn check_names_what_is_missing() {
    for (change, words) in [
        ("nft flush ruleset", "chain masquerade-cbr0 of table ip cni_kubenet"),
        ("ip addr del 10.1.0.1/24 dev cbr0", "10.1.0.1"),
        ("ip link del cbr0", "cbr0: expected a bridge, found none"),
    ] {
        let bed = Bed::new();
        let conf = bed.conf(&json!({"podCIDR": "10.1.0.0/24"}));
        let pod = Container::new();
        let result = add(&conf, "c1", &pod).ok();
        let command: Vec<&str> = change.split(' ').collect();
        bed.host.run(command[0], &command[1..]);
        let why = call("CHECK", &with_result(&conf, &result), "c1", &pod).run().fails(100);
        assert!(why.contains(words), "{change}: {why}");
    }
}

#[test]
fn what_is_wrong_is_named_and_nothing_is_left() {
    let bed = Bed::new();
    bed.host.ip("link add dummy9 type bridge");
    bed.host.ip(&format!("link add veth9 type veth peer name x netns {}", bed.outside.path()));
    let pod = Container::new();
    let before = bed.remains();
    let empty = tempfile::tempdir().unwrap();
    for (extra, code, words) in [
        (json!({"podCIDR": "10.1.0.0/33"}), 7, "pod CIDR \"10.1.0.0/33\" is no network"),
        (json!({"podCIDR": ["10.1.0.0/24", "10.1.0.128/25"]}), 7, "overlap"),
        (json!({"podCIDR": 7}), 6, "podCIDR"),
        (
            json!({"podCIDR": BOTH, "hairpinMode": "maybe"}),
            7,
            "\"maybe\" is not a valid hairpin-mode value, must be one of: [promiscuous-bridge, hairpin-veth, none]",
        ),
        (json!({"podCIDR": BOTH, "nonMasqueradeCIDRs": "x"}), 7, "nonMasqueradeCIDRs \"x\" is no network"),
        (json!({"podCIDR": BOTH, "bridge": "a/b"}), 6, "bridge"),
        (json!({"podCIDR": BOTH, "bridge": "veth9"}), 5, "veth9 already exists but is not a bridge"),
        (
            json!({"podCIDR": BOTH, "pluginDirs": [empty.path()]}),
            11,
            "could not locate kubenet required CNI plugins [bridge host-local loopback]",
        ),
        (
            json!({"podCIDR": "10.1.0.0/30", "runtimeConfig": {"portMappings": [{"hostPort": 0, "containerPort": 80, "protocol": "tcp"}]}}),
            7,
            "plugin type=\"portmap\" failed (add): Invalid host port number: 0",
        ),
    ] {
        let why = add(&bed.conf(&extra), "c1", &pod).fails(code);
        assert!(why.contains(words), "{words}: {why}");
        let left: Vec<String> = bed.remains().into_iter().filter(|line| !line.starts_with("cbr0 ")).collect();
        assert_eq!(left, before, "{words}");
        // Without its plugins it can't know whether something is left, and says so.
        if extra["pluginDirs"].is_null() {
            del(&bed.conf(&extra), "c1", &pod).ok();
        } else {
            del(&bed.conf(&extra), "c1", &pod).fails(7);
        }
    }
}

/// A port of the host and the pod itself are reached, and no packet comes twice. Only without a mode a pod does not reach itself
/// by a port of the host, where `br_netfilter` sees bridged packets.
#[test]
fn each_packet_comes_once_in_every_hairpin_mode() {
    for mode in ["hairpin-veth", "promiscuous-bridge", "none"] {
        let bed = Bed::new();
        let mut conf = bed.conf(&json!({"podCIDR": BOTH, "hairpinMode": mode}));
        let (pod, other) = (Container::new(), Container::new());
        add(&conf, "other", &other).ok();
        conf["runtimeConfig"] =
            json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]});
        let result = add(&conf, "c1", &pod).ok();
        let promisc = bed.host.ip("-d link show cbr0").contains("promiscuity 1");
        assert_eq!(promisc, mode == "promiscuous-bridge", "{mode}");
        let dedup = Snapshot::take().rules.contains("chain dedup-cbr0");
        assert_eq!(dedup, promisc, "{mode}");
        let count = counter(&pod, 80);
        let to = |ip: &str, port: u16| SocketAddr::new(ip.parse().unwrap(), port);
        let mut sent = 0;
        for (from, address) in [
            (&pod, to(NODE, 8080)),
            (&other, to(NODE, 8080)),
            (&bed.outside, to(NODE, 8080)),
            (&other, to(&ip(&result, 0), 80)),
            (&other, to(&ip(&result, 1), 80)),
        ] {
            send(from, address, 5);
            let found = count(sent + 5) - sent;
            if std::ptr::eq(from, &raw const pod) && mode == "none" {
                assert!(found <= 5, "{mode}: {found} of 5 to itself");
            } else {
                assert_eq!(found, 5, "{mode}: to {address}");
            }
            sent += found;
        }
        // The other mode takes this one's back.
        let none = bed.conf(&json!({"podCIDR": BOTH, "hairpinMode": "none"}));
        add(&none, "c3", &Container::new()).ok();
        assert!(!bed.host.ip("-d link show cbr0").contains("promiscuity 1"));
        assert!(!Snapshot::take().rules.contains("chain dedup-cbr0"));
    }
}

/// Counts what comes to a port of the pod. Gives a look at the count: once there are `awaited`, or a while later.
fn counter(pod: &Container, port: u16) -> impl Fn(u32) -> u32 {
    let netns = Netns::open(pod.path().as_ref()).unwrap();
    let socket = netns.run(|| Ok(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap())).unwrap();
    let seen = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&seen);
    std::thread::spawn(move || {
        while socket.recv_from(&mut [0; 16]).is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    move |awaited| {
        let patience = Instant::now();
        while seen.load(Ordering::SeqCst) < awaited && patience.elapsed() < Duration::from_secs(3) {
            std::thread::sleep(Duration::from_millis(5));
        }
        // A second copy would be there by now.
        std::thread::sleep(Duration::from_millis(100));
        seen.load(Ordering::SeqCst)
    }
}

fn send(from: &Container, to: SocketAddr, count: u32) {
    let netns = Netns::open(from.path().as_ref()).unwrap();
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = netns.run(|| Ok(UdpSocket::bind(any).unwrap())).unwrap();
    for _ in 0..count {
        socket.send_to(b"x", to).unwrap();
    }
}

#[test]
fn a_full_range_is_told_and_a_freed_address_is_used_again() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({"podCIDR": "10.1.0.0/30"}));
    let pods = [Container::new(), Container::new()];
    add(&conf, "c1", &pods[0]).ok();
    let why = add(&conf, "c2", &pods[1]).fails(11);
    assert!(why.contains("plugin type=\"bridge\" failed (add)"), "{why}");
    del(&conf, "c1", &pods[0]).ok();
    add(&conf, "c2", &pods[1]).ok();
}

#[test]
fn a_new_range_replaces_the_old_ones_address_once_no_pod_uses_it() {
    let bed = Bed::new();
    let (old, new) =
        (bed.conf(&json!({"podCIDR": "10.1.0.0/24"})), bed.conf(&json!({"podCIDR": "10.1.1.0/24"})));
    let pods = [Container::new(), Container::new()];
    add(&old, "c1", &pods[0]).ok();
    let addresses = || bed.host.ip("addr show cbr0");
    add(&new, "c2", &pods[1]).ok();
    assert!(addresses().contains("10.1.0.1/24") && addresses().contains("10.1.1.1/24"), "{}", addresses());
    del(&new, "c1", &pods[0]).ok();
    del(&new, "c2", &pods[1]).ok();
    add(&new, "c3", &pods[0]).ok();
    assert!(!addresses().contains("10.1.0.1/24"), "{}", addresses());
}
