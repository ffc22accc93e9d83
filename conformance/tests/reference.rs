//! Our plugins and the reference plugins (their newest release, 1.10.0) side by side, each on a machine
//! of its own: the same result, lease files, addresses, routes, port flags, and the same answers to CHECK and DEL.
//!
//! Where ours differ on purpose, [`INTENDED`] says what and why. A difference that is not listed fails, and so does one
//! that is listed and no longer there.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "a test may fail at any line, and tables are long"
)]

use cni_harness::{Call, Container, Host, Snapshot, bin_dir, reference_dir, snapshot, write_file};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// (case, what differs, why)
const INTENDED: &[(&str, &str, &str)] = &[
    (
        "default route of IPAM and isDefaultGateway",
        "*",
        "the reference adds a second default route and fails: file exists",
    ),
    ("IPv6 default route of IPAM", "*", "the same for IPv6"),
    (
        "an address out of range",
        "files",
        "the reference makes folder, lock and hint before it looks at the request",
    ),
    (
        "a bridge that is none",
        "files",
        "our IPAM plugin works while the bridge is looked at; a hint remembers what it gave",
    ),
    ("a gateway outside", "*", "the reference refuses it since 1.10; nodes have configs that 1.9 took"),
    ("negative MTU", "*", "the reference ignores it silently; ours says what would be right"),
    ("loopback 0.2.0", "result", "the reference prints the shape of 1.0.0"),
    ("loopback 0.3.0", "result", "the same"),
    ("loopback 0.3.1", "result", "the same"),
    ("loopback 0.4.0", "result", "the same"),
];

struct Case {
    name: &'static str,
    plugin: &'static str,
    conf: Value,
    args: &'static str,
    /// Commands on the host before: `ip` with these words.
    before: &'static [&'static str],
    /// How many other containers are attached first.
    others: usize,
}

/// A case of the bridge plugin, dual-stack unless `extra` says otherwise; `null` takes a key away.
fn bridge(name: &'static str, extra: Value) -> Case {
    let mut conf = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "br1", "isGateway": true,
        "ipam": {"type": "host-local", "dataDir": "DATA", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]},
    });
    merge(&mut conf, extra);
    Case { name, plugin: "bridge", conf, args: "", before: &[], others: 0 }
}

/// A case in which only `ipam` differs.
fn ipam(name: &'static str, extra: Value) -> Case {
    let mut case = bridge(name, json!({}));
    merge(&mut case.conf["ipam"], extra);
    case
}

fn merge(conf: &mut Value, extra: Value) {
    let Value::Object(extra) = extra else { panic!("{extra}") };
    for (key, value) in extra {
        match value {
            Value::Null => drop(conf.as_object_mut().unwrap().remove(&key)),
            value => conf[key] = value,
        }
    }
}

fn cases() -> Vec<Case> {
    let v4 = json!([[{"subnet": "10.1.0.0/24"}]]);
    let one = |version: &str| json!({"cniVersion": version, "ipam": {"type": "host-local", "dataDir": "DATA", "ranges": v4}});
    let mut cases = vec![
        bridge("0.1.0", one("0.1.0")),
        bridge("0.2.0", one("0.2.0")),
        bridge("0.3.0", one("0.3.0")),
        bridge("0.3.1", one("0.3.1")),
        bridge("0.4.0", one("0.4.0")),
        bridge("1.0.0", one("1.0.0")),
        bridge("no version", json!({"cniVersion": null})),
        bridge("an empty version", json!({"cniVersion": ""})),
        bridge("a strange version", json!({"cniVersion": "9.9.9"})),
        bridge("dual-stack", json!({})),
        bridge("dual-stack 0.2.0", json!({"cniVersion": "0.2.0", "isDefaultGateway": true})),
        bridge("dual-stack 0.4.0", json!({"cniVersion": "0.4.0", "isDefaultGateway": true})),
        bridge("no gateway", json!({"isGateway": false})),
        bridge("isDefaultGateway", json!({"isDefaultGateway": true})),
        bridge("isDefaultGateway alone", json!({"isGateway": null, "isDefaultGateway": true})),
        bridge("ipMasq", json!({"ipMasq": true, "isDefaultGateway": true})),
        bridge("ipMasq by iptables", json!({"ipMasq": true, "ipMasqBackend": "iptables"})),
        bridge("hairpinMode", json!({"hairpinMode": true})),
        bridge("promiscMode", json!({"promiscMode": true})),
        bridge("hairpinMode and promiscMode", json!({"hairpinMode": true, "promiscMode": true})),
        bridge("MTU", json!({"mtu": 1400})),
        bridge("negative MTU", json!({"mtu": -7})),
        bridge("MTU out of range", json!({"mtu": 70000})),
        bridge("MTU as text", json!({"mtu": "1400"})),
        bridge("default bridge name", json!({"bridge": null})),
        bridge("a long bridge name", json!({"bridge": "a-very-long-bridge-name"})),
        bridge("a bridge that is none", json!({"bridge": "lo"})),
        bridge("vlan 0", json!({"vlan": 0, "macspoofchk": false})),
        bridge("macspoofchk", json!({"macspoofchk": true})),
        bridge("enabledad", json!({"enabledad": true})),
        bridge("unknown keys", json!({"zz": {"a": [1, null]}, "capabilities": {"mac": true}})),
        bridge("keys in capitals", json!({"isGateway": null, "ISGATEWAY": true, "HairpinMode": true})),
        bridge("null keys", json!({"hairpinMode": false})),
        bridge("L2", json!({"ipam": null, "isGateway": null})),
        bridge("L2 with MTU", json!({"ipam": {}, "isGateway": null, "mtu": 1300})),
        bridge("L2 in 0.3.1", json!({"ipam": null, "isGateway": null, "cniVersion": "0.3.1"})),
        bridge("L2 in 0.2.0", json!({"ipam": null, "isGateway": null, "cniVersion": "0.2.0"})),
        bridge("dns of the config", json!({"dns": {"nameservers": ["1.1.1.1"], "search": ["a", "b"]}})),
        bridge("dns of the config in 0.3.1", json!({"cniVersion": "0.3.1", "dns": {"domain": "d"}})),
        bridge("empty dns", json!({"dns": {"nameservers": []}})),
        bridge("no such IPAM plugin", json!({"ipam": {"type": "missing"}})),
        bridge("an IPAM plugin with a path", json!({"ipam": {"type": "/bin/true"}})),
        bridge("MAC by the runtime", json!({"runtimeConfig": {"mac": "02:00:00:00:00:07"}})),
        bridge("MAC by args", json!({"args": {"cni": {"mac": "02-00-00-00-00-08"}}})),
        bridge("a bad MAC", json!({"runtimeConfig": {"mac": "zz"}})),
        bridge("a multicast MAC", json!({"runtimeConfig": {"mac": "01:00:00:00:00:01"}})),
        bridge("addresses by the runtime", json!({"runtimeConfig": {"ips": ["10.1.0.77/24", "fd00:1::77"]}})),
        bridge("addresses by args", json!({"args": {"cni": {"ips": ["10.1.0.78"]}}})),
        bridge("an address that is the gateway", json!({"runtimeConfig": {"ips": ["10.1.0.1"]}})),
        bridge("an address out of range", json!({"runtimeConfig": {"ips": ["10.9.0.1"]}})),
        bridge(
            "ranges by the runtime",
            json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.7.0.0/24"}]]},
            "ipam": {"type": "host-local", "dataDir": "DATA", "ranges": [[{"subnet": "fd00:1::/64"}]]}}),
        ),
        ipam(
            "a legacy range",
            json!({"ranges": null, "subnet": "10.2.0.0/16", "rangeStart": "10.2.3.0",
            "rangeEnd": "10.2.3.9", "gateway": "10.2.0.99"}),
        ),
        ipam(
            "a legacy range beside others",
            json!({"ranges": [[{"subnet": "fd00:1::/64"}]], "subnet": "10.2.0.0/16"}),
        ),
        ipam(
            "routes",
            json!({"routes": [{"dst": "192.168.0.0/16"}, {"dst": "172.16.0.0/12", "gw": "10.1.0.9"},
            {"dst": "fd77::/32"}]}),
        ),
        ipam("a default route", json!({"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]})),
        ipam("unreachable gateway", json!({"routes": [{"dst": "10.7.0.0/16", "gw": "172.16.0.1"}]})),
        ipam(
            "a gateway of its own",
            json!({"ranges": [[{"subnet": "10.1.0.0/24", "gateway": "10.1.0.200"}]]}),
        ),
        ipam("a gateway outside", json!({"ranges": [[{"subnet": "10.1.0.0/24", "gateway": "10.5.0.1"}]]})),
        ipam(
            "gateway of the other family",
            json!({"ranges": [[{"subnet": "10.1.0.0/24", "gateway": "fd00::1"}]]}),
        ),
        ipam(
            "the subnet's own address",
            json!({"ranges": [[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.0", "gateway": "10.1.0.9"}]]}),
        ),
        ipam("two IPv6 sets", json!({"ranges": [[{"subnet": "fd00:1::/64"}], [{"subnet": "fd00:2::/64"}]]})),
        ipam(
            "two pools in a set",
            json!({"ranges": [[{"subnet": "10.1.0.0/30", "rangeEnd": "10.1.0.2"}, {"subnet": "10.1.1.0/24"}]]}),
        ),
        ipam("resolvConf", json!({"resolvConf": "RESOLV"})),
        ipam("no resolvConf", json!({"resolvConf": "/no/such/file"})),
        ipam("a subnet too small", json!({"ranges": [[{"subnet": "10.1.0.0/31"}]]})),
        ipam("host bits", json!({"ranges": [[{"subnet": "10.1.0.5/24"}]]})),
        ipam(
            "overlapping sets",
            json!({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.1.0.0/16"}]]}),
        ),
        ipam("no ranges", json!({"ranges": []})),
        Case {
            args: "IgnoreUnknown=1;MAC=02:00:00:00:00:09;K8S_POD_NAME=p",
            ..bridge("MAC by CNI_ARGS", json!({}))
        },
        Case { args: "IgnoreUnknown=1;IP=10.1.0.55", ..bridge("address by CNI_ARGS", json!({})) },
        Case { args: "FOO=bar", ..bridge("unknown CNI_ARGS", json!({})) },
        Case { others: 3, ..bridge("the fourth container", json!({"isDefaultGateway": true})) },
        Case { others: 1, ..ipam("exhausted", json!({"ranges": [[{"subnet": "10.1.0.0/30"}]]})) },
        Case {
            before: &["link add br1 mtu 1350 type bridge", "link set br1 up"],
            ..bridge("a bridge that is there", json!({}))
        },
        Case {
            before: &["link add br1 type bridge", "link set br1 up", "addr add 10.9.0.1/24 dev br1"],
            ..bridge("address conflict", json!({}))
        },
        Case {
            before: &["link add br1 type bridge", "link set br1 up", "addr add 10.9.0.1/24 dev br1"],
            ..bridge("forceAddress", json!({"forceAddress": true}))
        },
    ];
    let mut default_route = ipam(
        "default route of IPAM and isDefaultGateway",
        json!({"ranges": v4, "routes": [{"dst": "0.0.0.0/0"}]}),
    );
    default_route.conf["isDefaultGateway"] = json!(true);
    let mut default_v6 = ipam(
        "IPv6 default route of IPAM",
        json!({"ranges": [[{"subnet": "fd00:1::/64"}]], "routes": [{"dst": "::/0"}]}),
    );
    default_v6.conf["isDefaultGateway"] = json!(true);
    cases.extend([default_route, default_v6]);
    for (name, version) in [
        ("loopback 0.1.0", ""),
        ("loopback 0.2.0", "0.2.0"),
        ("loopback 0.3.0", "0.3.0"),
        ("loopback 0.3.1", "0.3.1"),
        ("loopback 0.4.0", "0.4.0"),
        ("loopback 1.0.0", "1.0.0"),
    ] {
        let conf = json!({"cniVersion": version, "name": "lo", "type": "loopback"});
        cases.push(Case { name, plugin: "loopback", conf, args: "", before: &[], others: 0 });
    }
    cases
}

/// What was seen of one case: a word for what → what it was.
type Seen = BTreeMap<&'static str, String>;

fn observe(dir: &Path, case: &Case) -> Seen {
    let host = Host::enter();
    let data = tempfile::tempdir().unwrap();
    let leases = data.path().join("leases");
    let resolv = data.path().join("resolv.conf");
    write_file(&resolv, "nameserver 9.9.9.9\nsearch a b\noptions ndots:3\n", 0o644);
    let conf = case
        .conf
        .to_string()
        .replace("DATA", leases.to_str().unwrap())
        .replace("RESOLV", resolv.to_str().unwrap());
    let mut conf: Value = serde_json::from_str(&conf).unwrap();
    let pod = Container::new();
    let call = |command: &str, conf: &Value, id: &str, pod: &Container| {
        let ifname = if case.plugin == "loopback" { "lo" } else { "eth0" };
        Call::of(dir, case.plugin)
            .command(command, conf)
            .attachment(id, ifname)
            .netns(pod)
            .env("CNI_ARGS", case.args)
            .run()
    };
    for words in case.before {
        host.ip(words);
    }
    let others: Vec<Container> = (0..case.others).map(|_| Container::new()).collect();
    for (n, other) in others.iter().enumerate() {
        call("ADD", &conf, &format!("other{n}"), other).ok();
    }
    let mut seen = Seen::new();
    let before = (host_state(None), inside(&pod));
    let added = call("ADD", &conf, "c1", &pod);
    if !added.is_ok() {
        seen.insert("result", "an error".to_owned());
        seen.insert("files", files(&leases));
        // The reference often leaves links and addresses; ours never does.
        if dir == bin_dir() {
            assert_eq!(
                (host_state(None), inside(&pod)),
                before,
                "{}: a failed ADD left something",
                case.name
            );
        }
        return seen;
    }
    let result = added.json();
    let veth = result["interfaces"][1]["name"].as_str().map(ToOwned::to_owned).or_else(only_veth);
    seen.insert("result", masked(&result, &pod));
    seen.insert("host", host_state(veth.as_deref()));
    seen.insert("inside", inside(&pod));
    seen.insert("files", files(&leases));
    seen.insert("modes", arp_and_dad(&pod));
    conf["prevResult"] = result;
    if conf["cniVersion"].as_str().unwrap_or_default() >= "0.4.0" {
        seen.insert("check", outcome(call("CHECK", &conf, "c1", &pod).is_ok()));
        pod.ip(if case.plugin == "loopback" { "link set lo down" } else { "addr flush dev eth0" });
        let noticed = case.conf["ipam"] == Value::Null || case.conf["ipam"] == json!({});
        if !noticed || case.plugin == "loopback" {
            seen.insert("check of a change", outcome(call("CHECK", &conf, "c1", &pod).is_ok()));
        }
    }
    for time in ["del", "second del"] {
        seen.insert(time, outcome(call("DEL", &conf, "c1", &pod).is_ok()));
    }
    seen.insert("files after", files(&leases));
    seen.insert("inside after", inside(&pod));
    seen.insert("host after", host_state(None));
    seen
}

fn outcome(ok: bool) -> String {
    if ok { "ok" } else { "an error" }.to_owned()
}

fn only_veth() -> Option<String> {
    let links = Snapshot::take().links;
    links.into_iter().find(|(_, link)| link.contains("\"veth\"")).map(|(name, _)| name)
}

/// MACs that were not asked for, and names of host veths, are chance.
fn masked(result: &Value, pod: &Container) -> String {
    let mut result = result.clone();
    for (i, interface) in result["interfaces"].as_array_mut().into_iter().flatten().enumerate() {
        let mac = interface["mac"].as_str().unwrap_or_default();
        assert!(mac.len() == 17, "{interface}");
        if !mac.starts_with("02:00:00:00") && mac != "00:00:00:00:00:00" {
            interface["mac"] = json!("MAC");
        }
        if i == 1 {
            interface["name"] = json!("VETH");
        }
    }
    // Of what is empty, 1.1.1 still printed `dns`; later releases do not.
    if result["cniVersion"] == "1.0.0" && result["dns"] == json!({}) {
        result.as_object_mut().unwrap().remove("dns");
    }
    result.to_string().replace(&pod.path(), "NETNS")
}

/// Rules are compared elsewhere: the reference has its own, by iptables.
fn host_state(veth: Option<&str>) -> String {
    let now = Snapshot::take();
    let mut links: Vec<String> = now
        .links
        .into_iter()
        .map(|(name, link)| {
            let link = link.split(" alias ").collect::<Vec<_>>();
            let rest = link
                .get(1)
                .and_then(|rest| rest.split_once(" promisc"))
                .map(|(_, rest)| rest)
                .unwrap_or_default();
            let name = if name.starts_with("veth") {
                if Some(name.as_str()) == veth { "VETH" } else { "other" }
            } else {
                &name
            };
            format!("{name}: {} promisc{rest}", link[0])
        })
        .collect();
    links.sort();
    let forward = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"]
        .map(|key| std::fs::read_to_string(format!("/proc/sys/net/{key}")).unwrap());
    format!("{links:#?}\n{:#?}\n{:#?}\nforwarding {forward:?}", now.addresses, now.routes)
}

fn inside(pod: &Container) -> String {
    let now = Snapshot::inside(pod.path().as_ref());
    let links: Vec<String> = now
        .links
        .into_iter()
        .map(|(name, link)| {
            // loopback marks the lo that it brought up.
            let (front, back) = link.split_once(" alias ").unwrap();
            format!("{name}: {front}{}", back.split_once(" promisc").unwrap().1)
        })
        .collect();
    format!("{links:#?}\n{:#?}\n{:#?}", now.addresses, now.routes)
}

fn arp_and_dad(pod: &Container) -> String {
    let keys = ["net.ipv4.conf.eth0.arp_notify", "net.ipv6.conf.eth0.accept_dad"];
    let output = pod.try_run("sysctl", &keys);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn files(dir: &Path) -> String {
    format!("{:#?}", snapshot::files(dir))
}

#[test]
fn ours_do_what_the_reference_does_but_where_intended() {
    let cases = cases();
    assert!(cases.len() >= 40, "{} cases", cases.len());
    let mut wrong = Vec::new();
    let mut met = Vec::new();
    for case in &cases {
        let (ours, theirs) = (observe(&bin_dir(), case), observe(&reference_dir(), case));
        let keys: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        for key in keys {
            let (one, other) = (ours.get(key), theirs.get(key));
            if one == other {
                continue;
            }
            let is_it =
                |(name, what, _): &&(&str, &str, &str)| *name == case.name && (*what == "*" || what == key);
            match INTENDED.iter().find(is_it) {
                Some(intended) => met.push(intended),
                None => wrong.push(format!(
                    "{} differs in {key:?}\n--- ours\n{}\n--- reference\n{}",
                    case.name,
                    one.map_or("nothing", String::as_str),
                    other.map_or("nothing", String::as_str)
                )),
            }
        }
    }
    let stale = INTENDED.iter().filter(|intended| !met.contains(intended));
    wrong.extend(stale.map(|(case, what, _)| format!("{case}: {what:?} is listed as different and is not")));
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n\n"));
    eprintln!("{} configs compared, {} intended differences seen", cases.len(), INTENDED.len());
}
