//! What is wrong is named, and nothing is done; where there is nothing to do, nothing is asked.

use crate::bed::{Bed, add, call, check, conf, del, port, rules, with_prev};
use cni_harness::Container;
use serde_json::{Value, json};

#[test]
fn what_the_config_gets_wrong_is_named_with_key_and_value() {
    let bed = Bed::new();
    let pod = bed.pod("c1");
    let mapping = |change: Value| {
        let mut mapping = port(8080, 80, "tcp");
        for (key, value) in change.as_object().unwrap() {
            mapping[key] = value.clone();
        }
        json!([mapping])
    };
    let good = mapping(json!({}));
    let before = rules();
    for (mappings, extra, code, words) in [
        (mapping(json!({"hostPort": 0})), json!({}), 7, "Invalid host port number: 0"),
        (mapping(json!({"hostPort": 65536})), json!({}), 7, "Invalid host port number: 65536"),
        (mapping(json!({"containerPort": -1})), json!({}), 7, "Invalid container port number: -1"),
        (mapping(json!({"hostPort": "x"})), json!({}), 6, "hostPort"),
        (mapping(json!({"protocol": "icmp"})), json!({}), 7, "unknown protocol \"icmp\""),
        (mapping(json!({"protocol": ""})), json!({}), 7, "unknown protocol \"\""),
        (mapping(json!({"hostIP": "localhost"})), json!({}), 7, "hostIP \"localhost\" is no IP address"),
        (json!([port(8080, 80, "tcp"), port(8080, 81, "TCP")]), json!({}), 7, "8080/tcp is mapped twice"),
        (good.clone(), json!({"backend": "pf"}), 7, "unrecognized backend \"pf\""),
        (good.clone(), json!({"markMasqBit": 32}), 7, "MasqMarkBit must be between 0 and 31"),
        (
            good.clone(),
            json!({"markMasqBit": 5, "externalSetMarkChain": "KUBE-MARK-MASQ"}),
            7,
            "Cannot specify externalSetMarkChain and markMasqBit",
        ),
        (good.clone(), json!({"externalSetMarkChain": "A B"}), 7, "externalSetMarkChain"),
        (
            good.clone(),
            json!({"backend": "nftables", "externalSetMarkChain": "KUBE-MARK-MASQ"}),
            7,
            "nftables backend was requested but configuration contains iptables-specific options [externalSetMarkChain]",
        ),
        (
            good.clone(),
            json!({"backend": "iptables", "conditionsV4": ["ip", "saddr", "10.0.0.0/8"]}),
            7,
            "iptables backend was requested but configuration contains nftables-specific options [conditionsV4]",
        ),
        (good.clone(), json!({"conditionsV4": ["-s", "1.2.3.4\n-A INPUT -j ACCEPT"]}), 7, "conditionsV4"),
        (
            good.clone(),
            json!({"conditionsV6": ["ct", "state", "new"]}),
            7,
            "conditionsV6: \"ct\" is not understood",
        ),
    ] {
        let conf = conf(&mappings, &extra);
        let why = add(&conf, &pod).fails(code);
        assert!(why.contains(words), "{words}: {why}");
        assert_eq!(rules(), before);
        // A config that has been broken since does not keep a DEL from its work.
        del(&conf, &pod).ok();
        call("portmap", "STATUS", &conf, "", &pod.container).run().fails(50);
    }
    let why = call("portmap", "ADD", &conf(&good, &json!({})), "c1", &pod.container).run().fails(7);
    assert!(why.contains("must be called as chained plugin"), "{why}");
    let why = call("portmap", "CHECK", &conf(&good, &json!({})), "c1", &pod.container).run().fails(7);
    assert!(why.contains("Required prevResult missing"), "{why}");
}

#[test]
fn a_result_passes_through_as_it_came() {
    let bed = Bed::new();
    let pod = bed.pod("c1");
    let mut given = pod.result.clone();
    given["interfaces"][0]["socketPath"] = json!("/run/x");
    given["dns"] = json!({"nameservers": ["9.9.9.9"]});
    for mappings in [json!([]), json!([port(8080, 80, "tcp")])] {
        let mut conf = conf(&mappings, &json!({}));
        conf["prevResult"] = given.clone();
        assert_eq!(call("portmap", "ADD", &conf, "c1", &pod.container).run().ok(), given);
    }
}

#[test]
fn without_mappings_netfilter_is_not_asked() {
    let bed = Bed::new();
    let pod = bed.pod("c1");
    for mappings in [json!([]), json!(null)] {
        let conf = conf(&mappings, &json!({"backend": "iptables"}));
        for command in ["ADD", "CHECK"] {
            let trace = tempfile::NamedTempFile::new().unwrap();
            let words = ["-f", "-o", trace.path().to_str().unwrap(), "-e", "trace=socket,execve"];
            let call = call("portmap", command, &with_prev(&conf, &pod), "c1", &pod.container);
            assert!(call.through("/usr/bin/strace", &words).run().is_ok());
            let calls = std::fs::read_to_string(trace.path()).unwrap();
            assert!(
                !calls.contains("socket(") && calls.matches("execve(").count() == 1,
                "{command}: {calls}"
            );
        }
    }
}

#[test]
fn an_address_that_the_pod_lacks_has_no_mappings() {
    let bed = Bed::new();
    let mut pod = bed.pod("c1");
    // IPv4 alone.
    pod.result["ips"].as_array_mut().unwrap().pop();
    let mut mapping = port(8080, 80, "tcp");
    mapping["hostIP"] = json!("::");
    let conf = conf(&json!([mapping]), &json!({}));
    let before = rules();
    add(&conf, &pod).ok();
    assert_eq!(rules(), before);
    check(&conf, &pod).ok();
}

#[test]
fn check_names_what_is_missing() {
    type Change = fn(&Bed);
    let changes: &[(&str, Change, &[&str])] = &[
        ("nftables", |bed| drop(bed.host.run("nft", &["flush", "ruleset"])), &["rules in chain", "found 0"]),
        (
            "nftables",
            |bed| {
                drop(
                    bed.host
                        .run("nft", &["delete", "element", "ip", "cni_portmap", "ports", "{ tcp . 8080 }"]),
                );
            },
            &["a mapping of host port 8080/tcp to 10.1.0.2 port 80", "found none"],
        ),
        (
            "nftables",
            |bed| drop(bed.host.run("nft", &["flush", "chain", "ip", "cni_portmap", "guard"])),
            &["3 rules in chain cni_portmap guard"],
        ),
        (
            "nftables",
            |bed| drop(bed.host.run("nft", &["flush", "chain", "ip6", "cni_portmap", "masquerade-13"])),
            &["masquerade-13"],
        ),
        (
            "iptables",
            |bed| drop(bed.host.run("iptables", &["-t", "nat", "-D", "OUTPUT", "1"])),
            &["-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT", "found none"],
        ),
        (
            "iptables",
            |bed| drop(bed.host.run("iptables", &["-t", "nat", "-F", "CNI-HOSTPORT-DNAT"])),
            &["--dports 8080"],
        ),
        (
            "iptables",
            |bed| drop(bed.host.run("ip6tables", &["-t", "nat", "-F", "CNI-HOSTPORT-SETMARK"])),
            &["--set-xmark"],
        ),
        (
            "nftables",
            |_| {
                cni_harness::write_file("/proc/sys/net/ipv4/conf/br1/route_localnet".as_ref(), "0", 0o644);
            },
            &["br1/route_localnet: expected 1, found 0"],
        ),
    ];
    for (backend, change, words) in changes {
        let bed = Bed::new();
        let pod = bed.pod("c1");
        let conf = conf(&json!([port(8080, 80, "tcp")]), &json!({"backend": backend}));
        add(&conf, &pod).ok();
        check(&conf, &pod).ok();
        change(&bed);
        let why = check(&conf, &pod).fails(100);
        assert!(words.iter().all(|word| why.contains(word)), "{words:?}: {why}");
    }
}

#[test]
fn status_tells_and_changes_nothing() {
    let bed = Bed::new();
    let before = rules();
    for backend in [json!(null), json!("nftables"), json!("iptables")] {
        let conf = conf(&json!(null), &json!({"backend": backend}));
        call("portmap", "STATUS", &conf, "", &Container::new()).run().ok();
    }
    assert_eq!(rules(), before);
    assert!(!bed.host.ip("link").contains("br1"));
}
