//! An ADD that fails, wherever it fails, leaves the machine as it was.

use crate::bed::{Bed, add, call, del, inside, warm_up};
use cni_harness::faults::{Point, inject, points};
use cni_harness::{Answer, Call, Container, Snapshot, write_file};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;

/// Runs `fail` on a machine where the network has been used before, and on a fresh one: nothing may be left.
fn leaves_nothing(extra: &Value, fail: impl Fn(&Bed, &Value, &Container)) {
    for warm in [true, false] {
        let bed = Bed::new();
        if warm {
            warm_up(&bed.conf(&json!({"ipMasq": true})));
        }
        let (conf, pod) = (bed.conf(extra), Container::new());
        let before = (Snapshot::take(), inside(&pod), bed.leases());
        fail(&bed, &conf, &pod);
        let after = (Snapshot::take(), inside(&pod), bed.leases());
        assert_eq!(after.0.links, before.0.links, "warm: {warm}");
        assert_eq!(after, before, "warm: {warm}");
    }
}

#[test]
fn when_the_config_is_wrong() {
    for (extra, code, words) in [
        (json!({"bridge": ""}), 7, "it is empty"),
        (json!({"bridge": "a-name-of-17-chars"}), 7, "longer than 15 bytes"),
        (json!({"bridge": "a/b"}), 7, "'/'"),
        (json!({"bridge": "lo"}), 7, "already exists but is not a bridge"),
        (json!({"bridge": 7}), 6, "\"bridge\""),
        (json!({"mtu": -1}), 7, "mtu: -1 is out of range"),
        (json!({"mtu": 67}), 7, "68 to 65535"),
        (json!({"mtu": 65536}), 7, "65536"),
        (json!({"mtu": 1500.5}), 6, "\"mtu\""),
        (json!({"mtu": "1500"}), 6, "\"mtu\""),
        (json!({"isGateway": "true"}), 6, "\"isGateway\""),
        (json!({"ipMasqBackend": "pf"}), 7, "unknown ipmasq backend \"pf\""),
        (
            json!({"ipam": {"type": "no-such-plugin"}}),
            7,
            "failed to find plugin \"no-such-plugin\" in path [",
        ),
        (json!({"ipam": {"type": "../host-local"}}), 7, "invalid plugin name"),
        (json!({"ipam": {"type": "/bin/true"}}), 7, "invalid plugin name"),
        (json!({"ipam": {"type": ".."}}), 7, "invalid plugin name"),
        (json!({"ipam": {"type": 7}}), 6, "ipam.type"),
        (json!({"ipam": "host-local"}), 6, "\"ipam\""),
        (json!({"prevResult": null, "dns": {"nameservers": "1.1.1.1"}}), 6, "dns.nameservers"),
    ] {
        leaves_nothing(&extra, |_, conf, pod| {
            let why = add(conf, "c1", pod).fails(code);
            assert!(why.contains(words), "{extra} → {why}");
        });
    }
}

#[test]
fn when_the_namespace_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let (file, fifo) = (dir.path().join("file"), dir.path().join("fifo"));
    write_file(&file, "x", 0o600);
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [file, fifo, dir.path().to_owned(), dir.path().join("missing"), "/proc/self/ns/mnt".into()] {
        leaves_nothing(&json!({"ipMasq": true}), |_, conf, pod| {
            let why = call("ADD", conf, "c1", pod).env("CNI_NETNS", path.as_os_str()).run().fails(4);
            assert!(why.contains("CNI_NETNS"), "{why}");
        });
    }
}

#[test]
fn when_the_namespace_is_our_own() {
    leaves_nothing(&json!({}), |_, conf, pod| {
        // The child's own, by whatever path.
        let call = call("ADD", conf, "c1", pod).env("CNI_NETNS", "/proc/self/ns/net");
        let why = call.run().fails(8);
        assert!(why.contains("should not be the same"), "{why}");
    });
}

#[test]
fn when_the_interface_is_there() {
    leaves_nothing(&json!({}), |_, conf, pod| {
        pod.ip("link add eth0 type bridge");
        add(conf, "c1", pod).fails(101);
        pod.ip("link del eth0");
    });
    for reserved in ["lo", "all", "default"] {
        leaves_nothing(&json!({}), |_, conf, pod| {
            call("ADD", conf, "c1", pod).attachment("c1", reserved).run().fails(4);
        });
    }
}

#[test]
fn when_ipam_has_no_address_left() {
    let bed = Bed::new();
    let one = json!({"ipam": bed.ipam(&json!([[{"subnet": "10.1.0.0/30"}]]))});
    let first = Container::new();
    add(&bed.conf(&one), "c1", &first).ok();
    let (machine, leases, pod) = (Snapshot::take(), bed.leases(), Container::new());
    let empty = inside(&pod);
    let why = add(&bed.conf(&one), "c2", &pod).fails(11);
    assert!(why.contains("no IP addresses available in range set: 10.1.0.1-10.1.0.2"), "{why}");
    assert!(why.contains("1 of 1 addresses are in use"), "{why}");
    assert_eq!((Snapshot::take(), bed.leases(), inside(&pod)), (machine, leases, empty));
}

#[test]
fn when_a_route_can_not_be_made() {
    let bed = Bed::new();
    let mut ipam = bed.ipam(&json!([[{"subnet": "10.1.0.0/24"}]]));
    ipam["routes"] = json!([{"dst": "10.7.0.0/16", "gw": "172.16.0.1"}]);
    let (before, pod) = (Snapshot::take(), Container::new());
    let empty = inside(&pod);
    let why = add(&bed.conf(&json!({"ipam": ipam})), "c1", &pod).fails(5);
    assert!(why.contains("add route 10.7.0.0/16 via 172.16.0.1"), "{why}");
    assert!(why.contains("Nexthop has invalid gateway"), "the kernel's own words: {why}");
    assert_eq!((Snapshot::take(), inside(&pod)), (before, empty));
    assert!(bed.leases().is_empty());
}

#[test]
fn when_masquerading_can_not_be_set_up() {
    leaves_nothing(&json!({"ipMasq": true, "name": "net2"}), |bed, conf, pod| {
        // A map of our name that is none of ours.
        let rules = Snapshot::take().rules;
        let foreign = "add table ip6 cni_masquerade; \
                       add map ip6 cni_masquerade sources { type inet_service : verdict; }";
        bed.host.run("nft", &[&format!("flush ruleset; {foreign}")]);
        let why = add(conf, "c1", pod).fails(5);
        assert!(why.contains("failed to set up ipMasq"), "{why}");
        bed.host.run("nft", &[&format!("flush ruleset; {rules}")]);
    });
}

#[test]
fn when_nobody_takes_the_result() {
    leaves_nothing(&json!({"ipMasq": true}), |bed, conf, pod| {
        let dir = cni_harness::bin_dir();
        let script = format!(
            "printf %s '{conf}' | CNI_PATH={} CNI_COMMAND=ADD CNI_CONTAINERID=c1 CNI_IFNAME=eth0 CNI_NETNS={} {} \
             > /dev/full; test $? = 1",
            dir.display(),
            pod.path(),
            dir.join("bridge").display()
        );
        bed.host.run("sh", &["-c", &script]);
    });
}

/// A folder with `bridge` and an IPAM plugin that runs `script`.
fn with_ipam(script: &str) -> (tempfile::TempDir, Value) {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("bridge");
    std::fs::copy(cni_harness::bin_dir().join("bridge"), &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    write_file(&dir.path().join("ipam"), format!("#!/bin/sh\n{script}\n"), 0o755);
    (dir, json!({"ipam": {"type": "ipam"}}))
}

fn add_in(dir: &tempfile::TempDir, conf: &Value, pod: &Container) -> Answer {
    Call::of(dir.path(), "bridge").command("ADD", conf).attachment("c1", "eth0").netns(pod).run()
}

#[test]
fn when_ipam_misbehaves() {
    for (script, code, words) in [
        ("exit 3", 5, "exit status 3"),
        ("echo oops >&2; exit 1", 5, "oops"),
        ("kill -9 $$", 5, "signal 9"),
        ("echo '{\"code\": 77, \"msg\": \"no\", \"details\": \"why\"}'; exit 1", 77, "no: why"),
        ("echo nonsense", 6, "not JSON"),
        ("true", 6, "not JSON"),
        ("echo '{}'", 7, "IPAM plugin returned missing IP config"),
        ("echo '{\"cniVersion\":\"1.1.0\",\"ips\":[{\"address\":\"x\"}]}'", 6, "invalid CIDR address: x"),
        ("echo '{\"cniVersion\":\"8.8.8\",\"ips\":[]}'", 1, "incompatible"),
    ] {
        let (dir, extra) = with_ipam(script);
        leaves_nothing(&extra, |_, conf, pod| {
            let why = add_in(&dir, conf, pod).fails(code);
            assert!(why.contains(words), "{script} → {why}");
        });
    }
}

#[test]
fn a_failed_ipam_add_is_not_followed_by_its_del_and_a_good_one_is() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let note = format!("echo $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME >> {}", log.path().display());
    let calls = |script: &str, hinder: bool| {
        write_file(log.path(), "", 0o600);
        let (dir, extra) = with_ipam(&format!("{note}\n{script}"));
        let bed = Bed::new();
        let (conf, pod) = (bed.conf(&extra), Container::new());
        if hinder {
            bed.host.ip("link add br1 type bridge");
            bed.host.ip("addr add 10.9.0.1/24 dev br1");
        }
        assert!(!add_in(&dir, &conf, &pod).is_ok());
        std::fs::read_to_string(log.path()).unwrap()
    };
    assert_eq!(calls("exit 1", false), "ADD c1 eth0\n");
    let good = "echo '{\"cniVersion\":\"1.1.0\",\"ips\":[{\"address\":\"10.1.0.5/24\"}]}'";
    assert_eq!(calls(good, true), "ADD c1 eth0\nDEL c1 eth0\n");
}

#[test]
fn ipam_gets_our_bytes_and_environment_and_its_stderr_is_kept() {
    let seen = tempfile::tempdir().unwrap();
    let script = format!(
        "cat > {0}/stdin; env > {0}/env; echo a note >&2\n\
         echo '{{\"cniVersion\":\"1.1.0\",\"ips\":[{{\"address\":\"10.1.0.5/24\"}}]}}'",
        seen.path().display()
    );
    let (dir, extra) = with_ipam(&script);
    let bed = Bed::new();
    let conf = bed.conf(&extra);
    // White space, order and numbers that no reader of ours would print again.
    let text = conf.to_string();
    let text = text.strip_suffix('}').unwrap();
    let text = format!("{text}  , \"zz\": 9007199254740993, \"a\": 1.0 }}\n");
    let answer = Call::of(dir.path(), "bridge")
        .command("ADD", &conf)
        .stdin(text.clone())
        .attachment("c1", "eth0")
        .netns(&Container::new())
        .env("CNI_ARGS", "IgnoreUnknown=1;FOO=bar")
        .run();
    answer.ok();
    assert_eq!(std::fs::read_to_string(seen.path().join("stdin")).unwrap(), text);
    let env = std::fs::read_to_string(seen.path().join("env")).unwrap();
    for line in
        ["CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_ARGS=IgnoreUnknown=1;FOO=bar"]
    {
        assert!(env.lines().any(|have| have == line), "{line} in {env}");
    }
    assert!(answer.stderr.contains("a note"), "{}", answer.stderr);
}

#[test]
fn bridge_as_its_own_ipam_ends_at_once() {
    leaves_nothing(&json!({"ipam": {"type": "bridge"}}), |_, conf, pod| {
        let why = add(conf, "c1", pod).fails(7);
        // The first one that is called refuses: the error has come through no other.
        assert_eq!(why.matches("bridge can't be an IPAM plugin").count(), 1, "{why}");
    });
}

/// An IPAM plugin that takes its time, then does what host-local does.
fn slow_ipam(dir: &std::path::Path) {
    let real = cni_harness::bin_dir();
    let script = format!("#!/bin/sh\nsleep 0.7\nexec {}\n", real.join("host-local").display());
    cni_harness::write_file(&dir.join("slow"), script, 0o755);
}

#[test]
fn a_signal_in_the_middle_undoes_all_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    slow_ipam(dir.path());
    for (signal, to) in [("TERM", "--foreground"), ("INT", "--foreground"), ("TERM", "--preserve-status")] {
        let bed = Bed::new();
        let before = Snapshot::take();
        let mut conf = bed.conf(&json!({"ipMasq": true, "macspoofchk": true}));
        conf["ipam"]["type"] = json!("slow");
        let pod = Container::new();
        // Without --foreground, the IPAM plugin gets the signal too, and dies of it.
        let words = [to, "--preserve-status", "-s", signal, "0.3"];
        let answer = call("ADD", &conf, "c1", &pod)
            .through("/usr/bin/timeout", &words)
            .env("CNI_PATH", dir.path().as_os_str())
            .run();
        let why = answer.fails(11);
        assert!(why.contains("stopped by a signal") && why.contains("undone"), "{why}");
        assert_eq!(Snapshot::take(), before, "{signal} {to}");
        assert!(bed.leases().is_empty() && !pod.ip("link").contains("eth0"));
    }
}

#[test]
fn a_del_that_is_told_to_stop_ends_soon_and_may_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    slow_ipam(dir.path());
    let bed = Bed::new();
    let conf = bed.conf(&json!({}));
    let pod = Container::new();
    add(&conf, "c1", &pod).ok();
    let mut slow = conf.clone();
    slow["ipam"]["type"] = json!("slow");
    let script = "exec 3<&0; \"$0\" <&3 & sleep 0.2; kill -TERM $!; sleep 0.1; kill -TERM $!; wait $!";
    call("DEL", &slow, "c1", &pod)
        .through("/bin/sh", &["-c", script])
        .env("CNI_PATH", dir.path().as_os_str())
        .run()
        .fails(11);
    assert!(!pod.ip("link").contains("eth0"), "what needs no IPAM is done");
    del(&conf, "c1", &pod).ok();
    assert!(bed.leases().is_empty());
}

#[test]
fn a_full_bridge_is_named_and_so_is_what_to_do() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({}));
    warm_up(&conf);
    let script = "for i in $(seq 1023); do echo link add p$i type ifb; echo link set p$i master br1; done | ip -batch -";
    bed.host.run("sh", &["-c", script]);
    let (before, pod) = (Snapshot::take(), Container::new());
    let why = add(&conf, "c1", &pod).fails(5);
    assert!(why.contains("the bridge br1 is full") && why.contains("at most 1023 ports"), "{why}");
    assert_eq!(Snapshot::take(), before);
    assert!(bed.leases().is_empty() && !pod.ip("link").contains("eth0"));
}

#[test]
fn without_the_right_to_the_network_it_says_which() {
    let bed = Bed::new();
    let before = Snapshot::take();
    // The namespace is opened first: without the capability, /proc shows others' files no more.
    let script =
        "exec 9<\"$CNI_NETNS\"; CNI_NETNS=/proc/self/fd/9 exec setpriv --bounding-set -net_admin \"$0\"";
    let pod = Container::new();
    let call = call("ADD", &bed.conf(&json!({})), "c1", &pod);
    let why = call.through("/bin/sh", &["-c", script]).run().fails(5);
    assert!(why.contains("CAP_NET_ADMIN") && why.contains("root"), "{why}");
    assert_eq!(Snapshot::take(), before);
    assert!(bed.leases().is_empty());
}

/// The kernel has done it, and nobody knows: what the answer would have told is looked for and taken back.
#[test]
fn an_answer_that_got_lost_leaves_nothing() {
    for new in [false, true] {
        let bed = Bed::new();
        // Without IPAM all is done by one process, whose system calls are numbered the same each time.
        let conf = bed.conf(&json!({"ipam": null, "isGateway": null, "macspoofchk": true}));
        warm_up(&conf);
        // What a DEL leaves for the next ADD, and a failed ADD takes away where nobody uses it.
        let clear = || {
            bed.host.run("nft", &["flush", "ruleset"]);
            if new {
                bed.host.ip("link del br1");
            }
        };
        clear();
        let (before, pod) = (Snapshot::take(), Container::new());
        let add = call("ADD", &conf, "c1", &pod);
        let answers = points(&add).into_iter().filter(|point| point.name == "recvfrom" && point.can_fail());
        let answers: Vec<Point> = answers.collect();
        del(&conf, "c1", &pod).ok();
        clear();
        assert!(answers.len() > 5, "{}", answers.len());
        for point in answers {
            let answer = inject(&add, &point, "error=ENOBUFS");
            if answer.is_ok() {
                del(&conf, "c1", &pod).ok();
                clear();
            }
            let label =
                format!("the bridge is new: {new}, {} ({}): {}", point.text, point.nth, answer.stderr);
            assert_eq!(Snapshot::take(), before, "{label}");
            assert!(!pod.ip("link").contains("eth0"), "{label}");
        }
    }
}
