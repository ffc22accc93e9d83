//! What both sides are put through.

use crate::suite::subject::Subject;
use serde_json::{Value, json};

/// One config: the built-in one of the plugin, with changes.
pub struct Trial {
    /// Its name.
    pub name: &'static str,
    /// JSON pointers and their new values; `null` takes a key away.
    pub changes: Vec<(&'static str, Value)>,
    /// `CNI_ARGS`
    pub args: Option<&'static str>,
    /// `ip` commands before it.
    pub before: &'static [&'static str],
    /// The version to speak; without it, the newest that both do.
    pub version: Option<&'static str>,
}

fn trial(name: &'static str, changes: Vec<(&'static str, Value)>) -> Trial {
    Trial { name, changes, args: None, before: &[], version: None }
}

/// The trials of a plugin: the config as it is, in every version that there is, and with its documented options.
pub fn of(subject: &Subject) -> Vec<Trial> {
    let mut trials = vec![trial("as-it-is", vec![])];
    for (name, version) in [
        ("in-0.1.0", "0.1.0"),
        ("in-0.2.0", "0.2.0"),
        ("in-0.3.0", "0.3.0"),
        ("in-0.3.1", "0.3.1"),
        ("in-0.4.0", "0.4.0"),
        ("in-1.0.0", "1.0.0"),
        ("in-9.9.9", "9.9.9"),
    ] {
        trials.push(Trial { version: Some(version), ..trial(name, vec![]) });
    }
    trials.push(trial("unknown-keys", vec![("/org.example", json!({"a": [1, null]}))]));
    trials.push(trial("bad-name", vec![("/name", json!("../x"))]));
    trials.push(Trial { args: Some("IgnoreUnknown=1;K8S_POD_NAME=web"), ..trial("kubernetes-args", vec![]) });
    trials.extend(match subject.kind.as_str() {
        "bridge" => bridge(),
        "host-local" => host_local(),
        "portmap" => portmap(),
        "bandwidth" => bandwidth(),
        _ => vec![],
    });
    trials
}

fn bridge() -> Vec<Trial> {
    let layer2 = || vec![("/ipam", Value::Null), ("/isGateway", json!(false)), ("/ipMasq", json!(false))];
    let with = |mut changes: Vec<(&'static str, Value)>, more: (&'static str, Value)| {
        changes.push(more);
        changes
    };
    vec![
        trial("no-masquerade", vec![("/ipMasq", json!(false))]),
        trial(
            "no-gateway",
            vec![("/isGateway", json!(false)), ("/ipMasq", json!(false)), ("/ipam/routes", json!([]))],
        ),
        trial("default-gateway", vec![("/isDefaultGateway", json!(true)), ("/ipam/routes", json!([]))]),
        trial(
            "default-gateway-twice",
            vec![("/isDefaultGateway", json!(true)), ("/ipam/routes", json!([{"dst": "0.0.0.0/0"}]))],
        ),
        trial("hairpin", vec![("/hairpinMode", json!(true))]),
        trial("promiscuous", vec![("/promiscMode", json!(true))]),
        trial("both-reflections", vec![("/hairpinMode", json!(true)), ("/promiscMode", json!(true))]),
        trial("mtu", vec![("/mtu", json!(1400))]),
        trial("mtu-too-big", vec![("/mtu", json!(10_000_000))]),
        trial("mtu-text", vec![("/mtu", json!("1400"))]),
        trial("mac", vec![("/runtimeConfig/mac", json!("c2:11:22:33:44:55"))]),
        trial("mac-bad", vec![("/runtimeConfig/mac", json!("zz"))]),
        Trial { args: Some("IgnoreUnknown=1;MAC=c2:11:22:33:44:66"), ..trial("mac-args", vec![]) },
        trial("spoof-check", vec![("/macspoofchk", json!(true))]),
        trial("layer-2", layer2()),
        trial("layer-2-mtu", with(layer2(), ("/mtu", json!(1300)))),
        Trial { version: Some("0.2.0"), ..trial("layer-2-in-0.2.0", layer2()) },
        trial("dns", vec![("/dns", json!({"nameservers": ["192.0.2.53"], "search": ["example.org"]}))]),
        trial(
            "dual-stack",
            vec![
                ("/ipam/ranges", json!([[{"subnet": "10.83.0.0/24"}], [{"subnet": "fd00:83::/64"}]])),
                (
                    "/ipam/routes",
                    json!([{"dst": "0.0.0.0/0", "gw": "10.83.0.1"}, {"dst": "::/0", "gw": "fd00:83::1"}]),
                ),
            ],
        ),
        trial("route-without-gateway", vec![("/ipam/routes", json!([{"dst": "192.0.2.0/24"}]))]),
        trial(
            "route-unreachable",
            vec![("/ipam/routes", json!([{"dst": "198.51.100.0/24", "gw": "203.0.113.1"}]))],
        ),
        trial("no-such-ipam", vec![("/ipam/type", json!("no-such-plugin"))]),
        trial("ipam-path", vec![("/ipam/type", json!("/bin/true"))]),
        Trial { before: &["link add br0 type veth peer name br9"], ..trial("bridge-is-none", vec![]) },
        Trial {
            before: &["link add br0 type bridge", "addr add 10.99.0.1/16 dev br0", "link set br0 up"],
            ..trial("address-in-the-way", vec![])
        },
        Trial {
            before: &["link add br0 type bridge", "addr add 10.99.0.1/16 dev br0", "link set br0 up"],
            ..trial("address-forced", vec![("/forceAddress", json!(true))])
        },
    ]
}

fn host_local() -> Vec<Trial> {
    let ranges = |value: Value| vec![("/ipam/ranges", value)];
    vec![
        trial("two-sets", ranges(json!([[{"subnet": "10.83.0.0/24"}], [{"subnet": "fd00:83::/64"}]]))),
        trial(
            "range",
            ranges(
                json!([[{"subnet": "10.83.0.0/24", "rangeStart": "10.83.0.50", "rangeEnd": "10.83.0.60"}]]),
            ),
        ),
        trial("gateway", ranges(json!([[{"subnet": "10.83.0.0/24", "gateway": "10.83.0.2"}]]))),
        trial("too-small", ranges(json!([[{"subnet": "10.83.0.0/31"}]]))),
        trial("host-bits", ranges(json!([[{"subnet": "10.83.0.5/24"}]]))),
        trial("overlap", ranges(json!([[{"subnet": "10.83.0.0/24"}], [{"subnet": "10.83.0.0/25"}]]))),
        trial("no-ranges", ranges(json!([]))),
        trial("wanted", vec![("/args/cni/ips", json!(["10.83.0.77"]))]),
        trial("wanted-outside", vec![("/args/cni/ips", json!(["192.0.2.9"]))]),
        Trial { args: Some("IgnoreUnknown=1;IP=10.83.0.78"), ..trial("wanted-args", vec![]) },
    ]
}

fn portmap() -> Vec<Trial> {
    let mapping = |value: Value| vec![("/runtimeConfig/portMappings/0", value)];
    vec![
        trial("none", vec![("/runtimeConfig/portMappings", json!([]))]),
        trial("udp", mapping(json!({"hostPort": 8080, "containerPort": 80, "protocol": "udp"}))),
        trial(
            "host-ip",
            mapping(json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"})),
        ),
        trial("protocol-bad", mapping(json!({"hostPort": 8080, "containerPort": 80, "protocol": "icmp"}))),
        trial("port-big", mapping(json!({"hostPort": 70_000, "containerPort": 80, "protocol": "tcp"}))),
        trial("no-snat", vec![("/snat", json!(false))]),
    ]
}

fn bandwidth() -> Vec<Trial> {
    vec![
        trial("ingress", vec![("/egressRate", Value::Null), ("/egressBurst", Value::Null)]),
        trial("egress", vec![("/ingressRate", Value::Null), ("/ingressBurst", Value::Null)]),
        trial("no-burst", vec![("/ingressBurst", Value::Null)]),
        trial("burst-too-big", vec![("/ingressBurst", json!(8_u64 << 32))]),
        trial(
            "capability",
            vec![
                ("/ingressRate", Value::Null),
                ("/ingressBurst", Value::Null),
                ("/egressRate", Value::Null),
                ("/egressBurst", Value::Null),
                ("/runtimeConfig/bandwidth", json!({"ingressRate": 4_000_000, "ingressBurst": 400_000})),
            ],
        ),
    ]
}
