//! What an attacker tries, from inside a container, beside the plugins, or through what a runtime hands over. SECURITY.md has the list, and
//! where the rest of it is tested.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use cni_harness::traffic::{Transport, ask, serve};
use cni_harness::{Call, Container, Host, Snapshot, bin_dir, leases, write_file};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

fn bridge(data: &Path, extra: &Value) -> Value {
    let mut conf = json!({"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br1", "isGateway": true,
        "ipam": {"type": "host-local", "dataDir": data, "ranges": [[{"subnet": "10.1.0.0/24"}]],
                 "routes": [{"dst": "0.0.0.0/0"}]}});
    for (key, value) in extra.as_object().unwrap() {
        conf[key] = value.clone();
    }
    conf
}

fn add(conf: &Value, id: &str, pod: &Container) -> Value {
    Call::new("bridge").command("ADD", conf).attachment(id, "eth0").netns(pod).run().ok()
}

/// A router advertisement (RFC 4861, 4.2) of a router for the prefix `2001:db8:bad::/64`, from `pod` to all.
fn advertise(pod: &Container) {
    let mut message = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend([3, 4, 64, 0xc0]);
    message.extend([0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0]);
    message.extend(Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0).octets());
    let index: u32 = pod.ip("-o link show eth0").split(':').next().unwrap().trim().parse().unwrap();
    let to = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, index);
    let netns = cni_common::kernel::netns::Netns::open(Path::new(&pod.path())).unwrap();
    let socket =
        netns.run(|| Ok(Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap())).unwrap();
    socket.set_multicast_hops_v6(255).unwrap();
    socket.set_multicast_if_v6(index).unwrap();
    socket.send_to(&message, &to.into()).unwrap();
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// CVE-2020-10749: a container tells the host that it is an IPv6 router.
#[test]
fn a_rogue_router_in_a_container_is_not_believed() {
    let host = Host::enter();
    let data = tempfile::tempdir().unwrap();
    let pod = Container::new();
    add(&bridge(data.path(), &json!({})), "c1", &pod);
    // A bridge that is nobody's, for which the same is no attack: it shows that the message is one.
    let other = Container::new();
    host.ip(&format!("link add vh9 type veth peer name eth0 netns {}", other.path()));
    host.ip("link add br9 type bridge");
    host.ip("link set vh9 master br9 up");
    host.ip("link set br9 up");
    other.ip("link set eth0 up");
    let believed = |link: &str| host.ip(&format!("-6 route show dev {link}")).contains("2001:db8:bad::");
    for pod in [&pod, &other] {
        wait_until("a link-local address", || {
            let addresses = pod.ip("-6 -o addr show dev eth0");
            addresses.contains("fe80") && !addresses.contains("tentative")
        });
    }
    wait_until("the advertisement is believed by a link that believes any", || {
        advertise(&other);
        believed("br9")
    });
    for _ in 0..20 {
        advertise(&pod);
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(!believed("br1"), "{}", host.ip("-6 route"));
    assert!(!host.ip("-6 addr show").replace("br9", "").contains("bad:: scope global dynamic dev br1"));
    assert!(
        host.ip("-6 route show default").lines().all(|line| !line.contains("br1")),
        "{}",
        host.ip("-6 route")
    );
}

/// A host that forwards IPv6 takes no router's word any more: the first container must not cut it off.
#[test]
fn the_host_keeps_the_default_route_that_a_router_told() {
    let host = Host::enter();
    let data = tempfile::tempdir().unwrap();
    let router = Container::new();
    host.ip(&format!("link add up0 type veth peer name eth0 netns {}", router.path()));
    host.ip("link set up0 up");
    router.ip("link set eth0 up");
    wait_until("link-local addresses", || {
        let (here, there) = (host.ip("-6 -o addr show dev up0"), router.ip("-6 -o addr show dev eth0"));
        [here, there].iter().all(|addresses| addresses.contains("fe80") && !addresses.contains("tentative"))
    });
    let has_route = || host.ip("-6 route show default").contains("dev up0 proto ra");
    wait_until("the router is believed", || {
        advertise(&router);
        has_route()
    });
    let ranges =
        json!({"type": "host-local", "dataDir": data.path(), "ranges": [[{"subnet": "fd00:1::/64"}]]});
    let answer = Call::new("bridge")
        .command("ADD", &bridge(data.path(), &json!({"ipam": ranges})))
        .attachment("c1", "eth0")
        .netns(&Container::new())
        .run();
    answer.ok();
    assert!(has_route(), "{}", host.ip("-6 route"));
    let accept_ra = |link: &str| {
        std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{link}/accept_ra"))
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!((accept_ra("up0"), accept_ra("lo")), ("2".to_owned(), "1".to_owned()), "that link alone");
    assert!(answer.stderr.contains("up0 has its default route by router advertisement"), "{}", answer.stderr);
}

/// CVE-2019-9946: a hostPort takes what somebody else's rules, kube-proxy's say, lead elsewhere.
#[test]
fn rules_of_others_come_before_host_ports() {
    for backend in ["nftables", "iptables"] {
        for theirs_first in [true, false] {
            let host = Host::enter();
            let data = tempfile::tempdir().unwrap();
            let (outside, pod, service) = (Container::new(), Container::new(), Container::new());
            host.ip(&format!("link add up0 type veth peer name eth0 netns {}", outside.path()));
            host.ip("addr add 192.0.2.1/24 dev up0");
            host.ip("link set up0 up");
            outside.ip("addr add 192.0.2.9/24 dev eth0");
            outside.ip("link set eth0 up");
            let conf = bridge(data.path(), &json!({}));
            let (first, second) = (add(&conf, "pod", &pod), add(&conf, "service", &service));
            serve(Some(&pod), Transport::Tcp, 80, "pod");
            serve(Some(&service), Transport::Tcp, 80, "service");
            let mapped = json!({"cniVersion": "1.1.0", "name": "net", "type": "portmap", "prevResult": first, "backend": backend,
                "runtimeConfig": {"portMappings": [{"hostPort": 30080, "containerPort": 80, "protocol": "tcp"}]}});
            let address = second["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
            // A NodePort of the same number, as kube-proxy makes it.
            let node_port = || {
                let rule = ["-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "30080", "-j", "DNAT"];
                host.run("iptables", &[&rule[..], &["--to-destination", &format!("{address}:80")]].concat());
            };
            let map = || {
                Call::new("portmap").command("ADD", &mapped).attachment("pod", "eth0").netns(&pod).run().ok();
            };
            let to = SocketAddr::from(([192, 0, 2, 1], 30080));
            let reached = || ask(Some(&outside), Transport::Tcp, to).map(|(_, name)| name);
            if theirs_first {
                node_port();
                map();
            } else {
                map();
                assert_eq!(reached().as_deref(), Some("pod"));
                node_port();
            }
            // With iptables both are in one chain: who was there first comes first, and we put ours at its end.
            if backend == "nftables" || theirs_first {
                assert_eq!(reached().as_deref(), Some("service"), "{backend}, theirs first: {theirs_first}");
            }
        }
    }
}

/// An IPAM plugin that writes down what it was given: its open files, and its input.
const CURIOUS: &str = "#!/bin/sh
dir=${0%/*}
ls -l /proc/self/fd >\"$dir/files\"
cat >\"$dir/stdin\"
echo '{\"cniVersion\": \"1.0.0\", \"ips\": [{\"address\": \"10.1.0.7/24\"}]}'
";

#[test]
fn delegates_inherit_no_files() {
    let _host = Host::enter();
    let dir = tempfile::tempdir().unwrap();
    write_file(&dir.path().join("curious"), CURIOUS, 0o755);
    let conf = bridge(dir.path(), &json!({"ipam": {"type": "curious"}, "ipMasq": true}));
    let pod = Container::new();
    let call = Call::new("bridge").command("ADD", &conf).attachment("c1", "eth0").netns(&pod);
    call.env("CNI_PATH", dir.path()).run().ok();
    let files = std::fs::read_to_string(dir.path().join("files")).unwrap();
    // What this test was given by who started it, every child has.
    let mine = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap().stdout;
    let numbers = |text: &str| -> BTreeSet<u32> {
        let number = |line: &str| line.split(" -> ").next()?.rsplit(' ').next()?.parse().ok();
        text.lines().filter_map(number).collect()
    };
    let (had, has) = (numbers(&String::from_utf8_lossy(&mine)), numbers(&files));
    assert!(has.contains(&0) && has.is_subset(&had), "{files}");
    assert!(!files.contains("socket:") && !files.contains("net:["), "{files}");
}

#[test]
fn what_a_config_keeps_secret_is_not_told() {
    const SECRET: &str = "hunter2-do-not-tell";
    let _host = Host::enter();
    let data = tempfile::tempdir().unwrap();
    let pod = Container::new();
    let keys =
        json!({"password": SECRET, "org.example": {"token": SECRET}, "args": {"cni": {"token": SECRET}}});
    for (plugin, extra) in [
        ("bridge", json!({})),
        ("bridge", json!({"ipam": {"type": "no-such-plugin", "token": SECRET}})),
        ("bridge", json!({"mtu": 10_000_000})),
        (
            "host-local",
            json!({"ipam": {"type": "host-local", "dataDir": "/proc/nowhere", "ranges": [[{"subnet": "10.1.0.0/24"}]]}}),
        ),
        ("portmap", json!({"prevResult": "nonsense"})),
        ("bandwidth", json!({"ingressRate": 1})),
        ("loopback", json!({"prevResult": 7})),
        ("kubenet-shim", json!({"podCIDR": "nonsense", "stateDir": data.path().join("state")})),
    ] {
        let mut conf = bridge(data.path(), &keys);
        for (key, value) in extra.as_object().unwrap() {
            conf[key] = value.clone();
        }
        conf["type"] = json!(plugin);
        for verb in ["ADD", "CHECK", "DEL", "GC", "STATUS"] {
            let call = Call::new(plugin).command(verb, &conf).attachment("c1", "eth0").netns(&pod);
            let answer = call.env("CNI_ARGS", "IgnoreUnknown=1;TOKEN=hunter2").run();
            let told = format!("{}{}", answer.stdout, answer.stderr);
            assert!(!told.contains("hunter2"), "{plugin} {verb}\n{}", answer.dump());
        }
    }
}

/// Names become part of rules, comments and file names.
#[test]
fn names_inject_nothing() {
    let host = Host::enter();
    let data = tempfile::tempdir().unwrap();
    let pod = Container::new();
    let evil = [
        "a\"; flush ruleset; #",
        "a\nCOMMIT\n*filter",
        "a$(touch /tmp/owned)",
        "a' -j ACCEPT '",
        "../../x",
        "a/b",
        "a b",
        "a{b}",
    ];
    for backend in ["nftables", "iptables"] {
        for word in evil {
            let base = bridge(data.path(), &json!({"ipMasq": true, "ipMasqBackend": backend}));
            let call =
                |conf: &Value| Call::new("bridge").command("ADD", conf).attachment("c1", "eth0").netns(&pod);
            let mut named = base.clone();
            named["name"] = json!(word);
            call(&named).run().fails(7);
            call(&base).env("CNI_CONTAINERID", word).run().fails(4);
        }
    }
    // What is a name to the kernel goes no further than to it.
    for word in ["b;x", "b\"x", "b$x", "b'x", "b`x", "b|x", "b#x"] {
        let conf = bridge(
            data.path(),
            &json!({"ipMasq": true, "ipMasqBackend": "iptables", "bridge": word, "name": "odd"}),
        );
        let pod = Container::new();
        let call = |verb: &str| Call::new("bridge").command(verb, &conf).attachment("c2", "eth0").netns(&pod);
        call("ADD").run().ok();
        assert!(host.ip("-o link show type bridge").contains(word));
        call("DEL").run().ok();
        host.run("ip", &["link", "del", word]);
    }
    let rules = host.run("nft", &["list", "ruleset"]);
    assert!(!rules.contains("flush") && !Path::new("/tmp/owned").exists(), "{rules}");
    assert!(leases(data.path()).is_empty());
}

/// Somebody who may write to the folder of leases makes an address's file something else.
#[test]
fn planted_files_are_neither_followed_nor_waited_for() {
    let _host = Host::enter();
    let data = tempfile::tempdir().unwrap();
    let dir = data.path().join("net");
    std::fs::create_dir_all(&dir).unwrap();
    let target = data.path().join("target");
    write_file(&target, "precious", 0o644);
    std::os::unix::fs::symlink(&target, dir.join("10.1.0.2")).unwrap();
    nix::unistd::mkfifo(&dir.join("10.1.0.3"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::create_dir(dir.join("10.1.0.4")).unwrap();
    std::os::unix::fs::symlink(&target, dir.join("last_reserved_ip.0")).unwrap();
    std::os::unix::fs::symlink(&target, dir.join(".lease.new")).unwrap();
    let conf = bridge(data.path(), &json!({"type": "host-local", "cni.dev/valid-attachments": []}));
    let call = |verb: &str| {
        let call = Call::new("host-local").command(verb, &conf).attachment("c1", "eth0");
        call.env("CNI_NETNS", "/run/netns/x").limit(Duration::from_secs(10))
    };
    let result = call("ADD").run().ok();
    assert_eq!(result["ips"][0]["address"], "10.1.0.5/24");
    call("DEL").run().ok();
    // Links and pipes go; what it can't free, GC tells, after the rest.
    let refused = call("GC").run().fails(5);
    assert!(refused.contains("10.1.0.4"), "{refused}");
    assert!(
        dir.join("10.1.0.4").is_dir() && !dir.join("10.1.0.3").exists() && !dir.join("10.1.0.2").is_symlink()
    );
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
    std::fs::remove_file(dir.join("lock")).unwrap();
    std::os::unix::fs::symlink(&target, dir.join("lock")).unwrap();
    let refused = call("ADD").run().fails(5);
    assert!(refused.contains("lock"), "{refused}");
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
}

/// What is said on stderr by an ADD of `bridge` whose leases are in `data`, with the plugins in `bin`.
fn said_by_add(bin: &Path, data: &Path) -> String {
    let pod = Container::new();
    let conf = bridge(data, &json!({}));
    let call = Call::of(bin, "bridge").attachment("c1", "eth0").netns(&pod);
    let answer = call.clone().command("ADD", &conf).run();
    answer.ok();
    call.command("DEL", &conf).run().ok();
    answer.stderr
}

fn set_mode(dir: &Path, mode: u32) {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn folders_that_everybody_may_write_to_are_named() {
    let _host = Host::enter();
    let dir = tempfile::tempdir().unwrap();
    let (bin, data) = (dir.path().join("bin"), dir.path().join("leases"));
    std::fs::create_dir(&bin).unwrap();
    std::fs::create_dir(&data).unwrap();
    for plugin in ["bridge", "host-local"] {
        std::fs::copy(bin_dir().join(plugin), bin.join(plugin)).unwrap();
    }
    set_mode(&bin, 0o755);
    set_mode(&data, 0o755);
    assert_eq!(said_by_add(&bin, &data), "");
    for (folder, what) in
        [(&bin, "run anything as root from there"), (&data, "change or lose what is kept there")]
    {
        set_mode(folder, 0o777);
        let said = said_by_add(&bin, &data);
        assert!(
            said.contains(&format!("everybody may write to {}", folder.display())) && said.contains(what),
            "{said}"
        );
        set_mode(folder, 0o755);
    }
}

/// Needs a second user, which a user namespace of one does not have: `scripts/test-vm` runs it.
#[test]
#[ignore = "needs root and another user; scripts/test-vm runs it"]
fn links_that_others_planted_are_not_followed() {
    let _host = Host::enter();
    let dir = tempfile::tempdir().unwrap();
    let (data, elsewhere) = (dir.path().join("leases"), dir.path().join("elsewhere"));
    std::fs::create_dir(&data).unwrap();
    std::fs::create_dir(&elsewhere).unwrap();
    let pod = Container::new();
    let conf = bridge(&data, &json!({}));
    let network = data.join(conf["name"].as_str().unwrap());
    std::os::unix::fs::symlink(&elsewhere, &network).unwrap();
    let add = || Call::new("bridge").attachment("c1", "eth0").netns(&pod).command("ADD", &conf).run();
    std::os::unix::fs::lchown(&network, Some(1000), Some(1000)).unwrap();
    let why = add().fails(5);
    assert!(why.contains("is a symbolic link that user 1000 made"), "{why}");
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
    // An administrator's is as good as a folder.
    std::os::unix::fs::lchown(&network, Some(0), Some(0)).unwrap();
    add().ok();
    assert!(std::fs::read_dir(&elsewhere).unwrap().count() > 0);
    Call::new("bridge").attachment("c1", "eth0").netns(&pod).command("DEL", &conf).run().ok();
    // A folder of another user's is used, and named.
    std::os::unix::fs::lchown(&data, Some(1000), Some(1000)).unwrap();
    let added = add();
    added.ok();
    assert!(added.stderr.contains("belongs to user 1000"), "{}", added.stderr);
}

#[test]
fn what_the_caller_sets_for_the_dynamic_linker_reaches_nobody() {
    let _host = Host::enter();
    let dir = tempfile::tempdir().unwrap();
    let seen = dir.path().join("seen");
    let fake = format!(
        "#!/bin/sh\nenv >'{}'\ncat >/dev/null\necho '{{\"cniVersion\": \"1.1.0\", \"ips\": [{{\"address\": \"10.1.0.2/24\"}}]}}'\n",
        seen.display()
    );
    write_file(&dir.path().join("fake-ipam"), fake, 0o755);
    let pod = Container::new();
    let conf =
        bridge(dir.path(), &json!({"ipam": {"type": "fake-ipam"}, "isGateway": false, "ipMasq": false}));
    let call = Call::new("bridge").env("CNI_PATH", dir.path()).attachment("c1", "eth0").netns(&pod);
    let call =
        call.env("LD_PRELOAD", "/nowhere/evil.so").env("LD_LIBRARY_PATH", "/nowhere").env("KEPT", "yes");
    call.command("ADD", &conf).run().ok();
    let seen = std::fs::read_to_string(seen).unwrap();
    assert!(seen.contains("KEPT=yes") && !seen.contains("LD_"), "{seen}");
}

/// A program of the same name that comes first in `PATH` is not what runs.
#[test]
fn path_does_not_say_which_iptables_runs() {
    let _host = Host::enter();
    let dir = tempfile::tempdir().unwrap();
    let marker = dir.path().join("ran");
    for name in [
        "iptables",
        "iptables-save",
        "iptables-restore",
        "iptables-nft-save",
        "iptables-nft-restore",
        "sh",
        "modprobe",
    ] {
        write_file(&dir.path().join(name), format!("#!/bin/sh\n: >'{}'\nexit 1\n", marker.display()), 0o755);
    }
    let pod = Container::new();
    let conf = bridge(dir.path(), &json!({"ipMasq": true, "ipMasqBackend": "iptables"}));
    let call = Call::new("bridge").env("PATH", dir.path()).attachment("c1", "eth0").netns(&pod);
    call.clone().command("ADD", &conf).run().ok();
    assert!(Snapshot::take().rules.contains("masquerade"), "{}", Snapshot::take().rules);
    call.command("DEL", &conf).run().ok();
    assert!(!marker.exists());
}
